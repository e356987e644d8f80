"""The Batch API of the embedded endpoint: files, batches, and what comes of them.

Rules:

1. A batch is worked off when it is looked at: validating, in progress with half of it done, completed.
2. What a line meets is drawn as for a call of its own: a good answer goes to the output, an error of the server's to the error
   file, and whatever would have hung or broken was not done in time (`batch_expired`).
3. What is kept is bounded: the oldest files go first.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw, Struct

from batchrunner.core.model import Route
from batchrunner.simulator.answers import answer
from batchrunner.simulator.asks import read_ask, route_of
from batchrunner.simulator.bodies import CREATED, error_body
from batchrunner.simulator.incoming import Call

KEPT = 256 * 1024 * 1024  # bytes of all files
STAGES = ("validating", "in_progress", "completed")
_REFUSALS: Mapping[str, tuple[int, str]] = {
    "throttle": (429, "rate_limit_exceeded"),
    "error": (500, "server_error"),
}
Draw = Callable[[bytes], str]  # the fault that the line of this key meets; "" for none


class Said(Struct, frozen=True):
    """A reply."""

    status: int
    body: bytes


class _Line(Struct):
    custom_id: str
    url: str
    body: Raw


class _Asked(Struct):
    input_file_id: str
    endpoint: str
    metadata: dict[str, Any] | None = None


class _Batch(Struct):
    id: str
    asked: _Asked
    looks: int = 0
    flaw: dict[str, Any] | None = None
    output: str | None = None
    errors: str | None = None
    total: int = 0
    failed: int = 0


_encode = msgspec.json.encode
_read_line = msgspec.json.Decoder(_Line).decode
_read_asked = msgspec.json.Decoder(_Asked).decode


class Batches:
    """All files and batches of one simulator."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}
        self._made = 0

    def reply(self, call: Call) -> Said | None:
        """The reply to a call of this API; None for any other call."""
        match call.method, call.path.removeprefix("/v1").split("/")[1:]:
            case "POST", ["files"]:
                return self._upload(call)
            case "GET", ["files", name, "content"]:
                return Said(200, self._files[name]) if name in self._files else _missing(name)
            case "POST", ["batches"]:
                return self._create(call)
            case "GET", ["batches"]:
                return self._list(dict(parse_qsl(call.target.partition("?")[2])))
            case "GET", ["batches", name]:
                return self._look(self._batches[name]) if name in self._batches else _missing(name)
        return None

    def _upload(self, call: Call) -> Said:
        seam = call.headers.get("content-type", "").partition("boundary=")[2].encode()
        content = _file_of(call.body, seam) if seam else None
        if content is None:
            return Said(400, error_body(Route.HTTP, "invalid_request_error", "no file in the form"))
        name = self._keep(content)
        return Said(
            200, _encode({"id": name, "object": "file", "bytes": len(content), "created_at": CREATED, "purpose": "batch"})
        )

    def _create(self, call: Call) -> Said:
        try:
            asked = _read_asked(call.body)
        except msgspec.MsgspecError as error:
            return Said(400, error_body(Route.HTTP, "invalid_request_error", str(error)))
        if asked.input_file_id not in self._files:
            return _missing(asked.input_file_id)
        self._made += 1
        batch = self._batches[f"batch_{self._made}"] = _Batch(f"batch_{self._made}", asked)
        return Said(200, _encode(_shown(batch)))

    def _list(self, asked: Mapping[str, str]) -> Said:
        """The newest first, so many of them, and what follows the one named `after`."""
        newest = list(reversed(self._batches.values()))
        after = next((at for at, batch in enumerate(newest, 1) if batch.id == asked.get("after")), 0)
        page = newest[after : after + int(asked.get("limit", "20"))]
        return Said(
            200, _encode({"object": "list", "data": [_shown(each) for each in page], "has_more": len(newest) > after + len(page)})
        )

    def _look(self, batch: _Batch) -> Said:
        batch.looks += 1
        if batch.looks == len(STAGES) - 1:
            self._work_off(batch)
        return Said(200, _encode(_shown(batch)))

    def _work_off(self, batch: _Batch) -> None:
        good: list[bytes] = []
        bad: list[bytes] = []
        for number, raw in enumerate(self._files.get(batch.asked.input_file_id, b"").splitlines(), 1):
            try:
                line = _read_line(raw)
            except msgspec.MsgspecError:
                batch.flaw = {"code": "invalid_json_line", "message": "This line is not parseable as valid JSON.", "line": number}
                return
            if line.url != batch.asked.endpoint:
                batch.flaw = {"code": "mismatched_url", "message": "The URL is not that of the batch.", "line": number}
                return
            ok, record = self._record(line, raw)
            (good if ok else bad).append(record)
        batch.total, batch.failed = len(good) + len(bad), len(bad)
        batch.output = self._keep(b"".join(good)) if good else None
        batch.errors = self._keep(b"".join(bad)) if bad else None

    def _record(self, line: _Line, raw: bytes) -> tuple[bool, bytes]:
        key = raw[-64:].rjust(8, b".")[:8]
        family = self._draw(raw).partition(".")[0]
        response, error = None, None
        if not family or family in {"slow", "drip"}:
            route = route_of("POST", line.url)
            response = (200, answer(route, read_ask(bytes(line.body)), key, len(line.body)).body)
        elif family in _REFUSALS:
            status, code = _REFUSALS[family]
            response = (status, error_body(Route.HTTP, code, "The simulated batch could not do this request.", code))
        else:
            error = {
                "code": "batch_expired",
                "message": "This request could not be executed before the completion window expired.",
            }
        told = response and {"status_code": response[0], "request_id": f"req_{line.custom_id}", "body": Raw(response[1])}
        record = {"id": f"batch_req_{line.custom_id}", "custom_id": line.custom_id, "response": told, "error": error}
        return bool(response) and response[0] == 200, _encode(record) + b"\n"  # type: ignore[index]

    def _keep(self, content: bytes) -> str:
        self._made += 1
        name = f"file-{self._made}"
        self._files[name] = content
        while sum(map(len, self._files.values())) > KEPT and len(self._files) > 1:
            del self._files[next(iter(self._files))]
        return name


def _shown(batch: _Batch) -> dict[str, Any]:
    status = "failed" if batch.flaw else STAGES[min(batch.looks, len(STAGES) - 1)]
    done = status == "completed"
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.asked.endpoint,
        "input_file_id": batch.asked.input_file_id,
        "completion_window": "24h",
        "created_at": CREATED,
        "status": status,
        "output_file_id": batch.output if done else None,
        "error_file_id": batch.errors if done else None,
        "errors": {"object": "list", "data": [batch.flaw]} if batch.flaw else None,
        "request_counts": {
            "total": batch.total,
            "completed": batch.total - batch.failed if done else batch.total // 2,
            "failed": batch.failed if done else 0,
        },
        "metadata": batch.asked.metadata,
    }


def _file_of(form: bytes, seam: bytes) -> bytes | None:
    """The file in a form (RFC 7578)."""
    return next((content for head, content in _parts(form, seam) if b'filename="' in head), None)


def _parts(form: bytes, seam: bytes) -> Iterator[tuple[bytes, bytes]]:
    for part in form.split(b"--" + seam)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        yield head, content.removesuffix(b"\r\n")


def _missing(name: str) -> Said:
    return Said(404, error_body(Route.HTTP, "not_found_error", f"No such object: {name}", "not_found"))
