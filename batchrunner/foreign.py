"""Output lines in the dialects of others, and back: vLLM's run_batch, Anthropic's Message Batches, the OpenAI cookbook's script.

    openai     {"id", "custom_id", "response", "error", "batchrunner"}     also what Azure and Mistral write (`records`)
    vllm       the same, with error as an object round the server's own error, and response never null
    anthropic  {"custom_id", "result": {"type": "succeeded", "message"} | {"type": "errored", "error"}, "batchrunner"}
    cookbook   [request, answer or list of errors, metadata or null, our facts with the custom_id]

Rules:

1. Only the envelope changes: the answer's body stays what the endpoint sent.
2. Every line can be read back, so that every dialect can be resumed. Our facts stand where readers of the dialect do not look.
3. Files of the programs themselves are read too, as far as they name the line that they answer.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from batchrunner import records
from batchrunner.core.model import Kind, Result
from batchrunner.records import Facts, Record, facts_of, paired, written_out

OutputFormat = Literal["auto", "openai", "azure", "mistral", "vllm", "anthropic", "cookbook"]
Secrets = Callable[[bytes], bytes] | None
T = TypeVar("T")
_NULL = Raw(b"null")


class Write(Protocol):
    """Writes one result in some dialect."""

    def __call__(self, result: Result, *, strict: bool = False, secrets: Secrets = None) -> bytes:
        """One line with its LF. `strict` leaves our facts out, `secrets` takes keys out of what came from outside."""


class _Response(Struct, gc=False):
    status_code: int
    request_id: str
    body: Raw


class _Vllm(Struct, gc=False):
    id: str
    custom_id: str
    response: _Response
    error: Raw
    batchrunner: Facts | UnsetType


class _Anthropic(Struct, gc=False):
    custom_id: str
    result: dict[str, Any]
    batchrunner: Facts | UnsetType


def vllm(result: Result, *, strict: bool = False, secrets: Secrets = None) -> bytes:
    """One line as vLLM's run_batch writes it (vllm/entrypoints/openai/run_batch.py)."""
    request = result.request
    status = result.status or (400 if result.kind is Kind.INVALID else 500)
    response = _Response(status, result.request_id, _body(result) if result.ok else _NULL)
    name = f"vllm-{request.digest:0<16.16}{request.line & 0xFFFFFFFF:08x}"
    line = _Vllm(name, request.id, response, _NULL if result.ok else _vllm_error(result), UNSET if strict else facts_of(result))
    return _sealed(written_out(line), b',"response":', secrets)


def _vllm_error(result: Result) -> Raw:
    """The server's own error object, or one like it; without an answer only the words."""
    if not result.status:
        return Raw(written_out(_message(result)))
    if b'"error"' in result.body and isinstance(_peeked(result.body).error, dict):
        return Raw(result.body)
    told = {"message": _message(result), "type": _code(result), "param": None, "code": result.status}
    return Raw(written_out({"error": told}))


def anthropic(result: Result, *, strict: bool = False, secrets: Secrets = None) -> bytes:
    """One line as the results of a Message Batch have it (docs.anthropic.com, Retrieve Message Batch Results)."""
    outcome = (
        {"type": "succeeded", "message": _body(result)} if result.ok else {"type": "errored", "error": _anthropic_error(result)}
    )
    line = _Anthropic(result.request.id, outcome, UNSET if strict else facts_of(result))
    return _sealed(written_out(line), b',"result":', secrets)


def _anthropic_error(result: Result) -> Any:
    """The error as the API words it: an error inside an error."""
    if result.body and _peeked(result.body).type == "error":
        return Raw(result.body)
    kind = "invalid_request_error" if result.kind is Kind.INVALID else ERROR_TYPES.get(result.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": _message(result)}, "request_id": result.request_id or None}


ERROR_TYPES: Mapping[int, str] = {  # docs.anthropic.com, Errors
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def cookbook(result: Result, *, strict: bool = False, secrets: Secrets = None) -> bytes:
    """One line as api_request_parallel_processor.py of the OpenAI cookbook appends it, with our facts behind.

    A line without them could not be found again, so `strict` leaves out nothing here.
    """
    request = result.request
    named = structs.replace(facts_of(result), custom_id=request.id, metadata=UNSET)
    error = _body(result) if result.status >= 300 and result.body else _message(result)
    line = (
        Raw(request.body) if request.body else None,
        _body(result) if result.ok else (error,),
        Raw(request.metadata) if request.metadata else None,
        named,
    )
    written = written_out(line)
    return (secrets(written) if secrets else written) + b"\n"


WRITERS: Mapping[str, Write] = {
    **dict.fromkeys(("auto", "openai", "azure", "mistral"), records.record),
    "vllm": vllm,
    "anthropic": anthropic,
    "cookbook": cookbook,
}


def _sealed(written: bytes, mark: bytes, secrets: Secrets) -> bytes:
    """The line with its LF, cleared behind the id: that names the input line and stays."""
    if secrets:
        head, mark, tail = written.partition(mark)
        written = head + mark + secrets(tail)
    return written + b"\n"


def _body(result: Result) -> Raw:
    return Raw(result.body) if result.body else _NULL


def _message(result: Result) -> str:
    return result.error.message if result.error else str(result.kind)


def _code(result: Result) -> str:
    return (result.error.code if result.error else "") or str(result.kind)


# ---- back ----


class _Facts(Struct, frozen=True, gc=False):
    custom_id: str = ""
    line: int = 0
    digest: str = ""
    kind: str = ""


class _Noted(Struct, gc=False):
    batchrunner: Facts | None = None


class _Ending(Struct, gc=False):
    type: str


class _Ended(Struct, gc=False):
    custom_id: str
    result: _Ending
    batchrunner: _Facts = _Facts()


class _Peek(Struct, gc=False):
    type: Any = None
    error: Any = None


_read_ended = msgspec.json.Decoder(_Ended).decode
_read_row = msgspec.json.Decoder(list[Raw]).decode
_read_facts = msgspec.json.Decoder(_Facts).decode
_read_whole_facts = msgspec.json.Decoder(Facts).decode
_read_noted = msgspec.json.Decoder(_Noted).decode
_UNTOLD = Facts(1, 0, 0, 0.0, "", "")
_peek = msgspec.json.Decoder(_Peek).decode
_ENDINGS = frozenset({"succeeded", "errored", "canceled", "expired"})


def _peeked(body: bytes) -> _Peek:
    try:
        return _peek(body)
    except (ValueError, RecursionError):
        return _Peek()


def read_record(raw: bytes) -> Record:
    """What an output line of any dialect says. ValueError: it is no record, or names no line."""
    if raw.startswith(b"["):
        return _told(_row, raw)
    try:
        return records.read_record(raw)
    except ValueError:
        return _told(_ended, raw)


def read_facts(raw: bytes) -> Facts:
    """What we noted beside an answer, in a line that is a record; empty where we did not."""
    try:
        return _told(_noted, raw) or _UNTOLD
    except ValueError:  # a program newer than this one has
        return _UNTOLD


def _noted(raw: bytes) -> Facts | None:
    return _read_whole_facts(_read_row(raw)[3]) if raw.startswith(b"[") else _read_noted(raw).batchrunner


def _told(read: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return read(raw)
    except msgspec.DecodeError:
        return read(paired(raw))
    except RecursionError:
        raise ValueError("not a record: nested too deep") from None


def _ended(raw: bytes) -> Record:
    """A line of Anthropic's."""
    line = _read_ended(raw)
    if line.result.type not in _ENDINGS:
        raise ValueError("not a record: the result has no known type")
    return _record(line.custom_id, line.batchrunner, line.result.type == "succeeded")


def _row(raw: bytes) -> Record:
    """A line of the cookbook's. Those of the script itself name no line of any input.

    An answer may be a list as errors are; with all our facts these say which it is.
    """
    parts = _read_row(raw)
    if len(parts) != 4 or bytes(parts[3])[:1] != b"{":
        raise ValueError("not a record: a line of the cookbook's script says not which line it answers")
    facts = _read_facts(parts[3])
    if not facts.custom_id:
        raise ValueError("not a record: it names no line")
    return _record(facts.custom_id, facts, facts.line > 0 or bytes(parts[1])[:1] != b"[")


def _record(name: str, facts: _Facts, good: bool) -> Record:
    ok = facts.kind == Kind.OK if facts.kind else good
    return Record(name, facts.line, facts.digest, ok, facts.kind or (Kind.OK.value if ok else ""))


_VLLM = re.compile(rb'\{\s*"id"\s*:\s*"vllm-')


def dialect_of_record(raw: bytes) -> OutputFormat:
    """Which dialect an output line is in."""
    if raw.startswith(b"["):
        return "cookbook"
    try:
        _read_ended(paired(raw))
    except (ValueError, RecursionError):
        return "vllm" if _VLLM.match(raw) else "openai"
    return "anthropic"
