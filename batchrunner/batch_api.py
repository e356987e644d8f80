"""An OpenAI-compatible Batch API: files in, a batch, files out (platform.openai.com/docs/api-reference/batch).

Rules:

1. It speaks by the run's own transport: the key goes to its endpoint and nowhere else, and comes back in nothing.
2. What may be asked twice is asked again when it fails on the way. Creating a batch may not, for it costs money:
   each carries a mark, by which one that was created unheard is found (`find`).
3. What the service refuses for good is a StopError.
4. It is asked at the user's `--rpm`, else at most eight times a second: a large job has thousands of batches to look after.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiolimiter import AsyncLimiter
from msgspec import Struct

from batchrunner.core.classify import classify
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.model import Attempt, Deadlines, Kind, Outcome, Reply, Request, Route
from batchrunner.core.retry import Retries, backoff
from batchrunner.core.treatment import REFUSED, TREATMENT
from batchrunner.errors import StopError
from batchrunner.transport import Transport

ENDED = frozenset({"completed", "failed", "expired", "cancelled", "gone"})
MARK = "batchrunner"
"""The key of a batch's metadata that says which submission of ours it is."""
_PAGES = 50  # of a hundred batches, that are searched for a mark
_A_SECOND = 8  # requests, where the user gives no pace
_CODES = {Kind.DENIED: "E301", Kind.QUOTA: "E302", Kind.QUOTA_WINDOW: "E302"}
T = TypeVar("T")
Pause = Callable[[float], Awaitable[object]]


class Counts(Struct, frozen=True):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Flaw(Struct, frozen=True):
    """Why a file was refused."""

    code: str | None = None
    message: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return f"{f'line {self.line}: ' if self.line else ''}{self.message or self.code or 'no reason given'}"


class Flaws(Struct, frozen=True):
    """All of them."""

    data: list[Flaw] | None = None


class Batch(Struct, frozen=True):
    """A batch, as far as we look at it. `status` "gone": the service does not know it any more."""

    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts | None = None
    errors: Flaws | None = None
    metadata: dict[str, Any] | None = None


class _File(Struct):
    id: str


class _Page(Struct):
    data: list[Batch]
    has_more: bool = False


class BatchApi:
    """The service behind a transport. `rpm` is the user's number, or 0; `pause` waits so many seconds."""

    def __init__(self, transport: Transport, timeouts: Timeouts, retries: Retries, rpm: int, pause: Pause) -> None:
        self._transport = transport
        self._turns = AsyncLimiter(1, 60.0 / rpm) if rpm else AsyncLimiter(_A_SECOND, 1.0)
        self._deadlines = Deadlines(timeouts.connect_timeout, timeouts.max_timeout, timeouts.max_timeout, timeouts.max_timeout)
        self._most = retries.max_attempts
        self._pause = pause

    async def upload(self, name: str, content: bytes, mark: str) -> str:
        """Put a file there; its id."""
        seam = f"batchrunner-{mark}"
        body = multipart(seam, {"purpose": "batch"}, name, content)
        sent = _request("POST", "/v1/files", body, (("content-type", f"multipart/form-data; boundary={seam}"),))
        return _decoded(await self._asked(sent), _File).id

    async def create(self, file_id: str, url: str, mark: str) -> Batch:
        """Begin a batch over a file. One that carries the mark already is that batch."""
        asked = {"input_file_id": file_id, "endpoint": url, "completion_window": "24h", "metadata": {MARK: mark}}
        sent = _request("POST", "/v1/batches", msgspec.json.encode(asked))
        for failures in range(1, self._most + 1):
            reply, outcome = await self._once(sent)
            if outcome.kind is Kind.OK:
                return _decoded(reply, Batch)
            await self._rest(outcome, failures)
            if found := await self.find(mark):
                return found
        raise _refused(outcome)

    async def find(self, mark: str) -> Batch | None:
        """The batch that carries this mark."""
        after = ""
        for _ in range(_PAGES):
            page = _decoded(await self._asked(_request("GET", f"/v1/batches?limit=100{after}")), _Page)
            for batch in page.data:
                if batch.metadata and batch.metadata.get(MARK) == mark:
                    return batch
            if not page.has_more or not page.data:
                return None
            after = f"&after={page.data[-1].id}"
        return None

    async def look(self, batch_id: str) -> Batch:
        """How a batch stands."""
        try:
            return _decoded(await self._asked(_request("GET", f"/v1/batches/{batch_id}")), Batch)
        except _MissingError:
            return Batch(batch_id, "gone")

    async def content(self, file_id: str) -> bytes:
        """What a file holds."""
        return (await self._asked(_request("GET", f"/v1/files/{file_id}/content"))).body

    async def _asked(self, request: Request) -> Reply:
        """The answer to what may be asked again."""
        for failures in range(1, self._most + 1):
            reply, outcome = await self._once(request)
            if outcome.kind is Kind.OK:
                return reply
            await self._rest(outcome, failures)
        raise _refused(outcome)

    async def _once(self, request: Request) -> tuple[Reply, Outcome]:
        await self._turns.acquire()
        attempt = Attempt(request, self._transport.name, 1, 0.0, self._deadlines)
        answer = await self._transport.send(attempt, lambda attempt, phase, age: 0.0)
        return answer if isinstance(answer, Reply) else Reply(0, {}, b""), classify(attempt, answer)

    async def _rest(self, outcome: Outcome, failures: int) -> None:
        """Wait before another try, where there is any sense in one."""
        if outcome.status == 404:
            raise _MissingError(*_refused(outcome).args)
        treatment = TREATMENT[outcome.kind]
        if not treatment.again or treatment.health in REFUSED or failures == self._most:
            raise _refused(outcome)
        await self._pause(backoff(failures, random.random(), outcome.wait))


class _MissingError(StopError):
    """404."""


def _request(method: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()) -> Request:
    return Request(line=0, id=path, digest="", route=Route.HTTP, method=method, path=path, body=body, headers=headers)


def _refused(outcome: Outcome) -> StopError:
    code = _CODES.get(outcome.kind, "E308")
    hint = "send the requests one by one instead: --via calls; or run the same command again later, it goes on where it was"
    return StopError(code, f"the batch service does not do it: {outcome.message or outcome.kind} (status {outcome.status})", hint)


def _decoded(reply: Reply, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.MsgspecError:
        hint = "check --base-url; where there is no Batch API: --via calls"
        raise StopError("E308", "what answered is no OpenAI-compatible batch service", hint) from None


def multipart(seam: str, fields: dict[str, str], name: str, content: bytes) -> bytes:
    """A form with one file (RFC 7578). `seam` must not occur in what it holds."""
    parts = [f'--{seam}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    file = (
        f'--{seam}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/jsonl\r\n\r\n'
    )
    return b"".join([*(part.encode() for part in parts), file.encode(), content, f"\r\n--{seam}--\r\n".encode()])
