"""An output line of any program, back to the answer it holds.

    openai, azure, mistral, vllm   {"custom_id", "response": {"status_code", "request_id", "body"}, "error"}
    anthropic                      {"custom_id", "result": {"type", "message" or "error"}}
    cookbook                       [request, answer or errors, metadata, our facts]

Rules:

1. What is an answer and what an error is not decided here: status and body go to `core.classify`, as if they had just come.
2. A line without a status tells of a request that nobody answered: expired, cancelled, or lost on the way.
3. Nothing but ValueError is raised, whatever the line holds.
"""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Raw, Struct

from batchrunner.foreign import ERROR_TYPES
from batchrunner.records import paired


class Told(Struct, frozen=True, gc=False):
    """What a line tells: `status` 0 and no body where nobody answered; then `code` says why, if the line does."""

    id: str
    status: int = 0
    request_id: str = ""
    body: bytes = b""
    code: str = ""


def read_answer(raw: bytes) -> Told:
    """The answer in an output line of any dialect. ValueError: it is no such line, or names no request."""
    try:
        return _read(raw)
    except msgspec.DecodeError:
        return _read(paired(raw))  # half a surrogate pair, which an answer may hold
    except RecursionError:
        raise ValueError("not a record: nested too deep") from None


def _read(raw: bytes) -> Told:
    if raw.startswith(b"["):
        return _row(raw)
    line = _read_line(raw)
    if line.result is not None:
        return _ended(line.custom_id, line.result)
    if line.response is None and bytes(line.error) in {b"", b"null"}:
        raise ValueError("not a record: neither response, result nor error")
    return _answered(line)


class _Response(Struct, gc=False):
    status_code: int = 0
    request_id: str | None = None
    body: Raw = Raw(b"null")


class _Result(Struct, gc=False):
    type: str
    message: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class _Line(Struct, gc=False):
    custom_id: str
    response: _Response | None = None
    error: Raw = Raw(b"null")
    result: _Result | None = None


class _Inner(Struct, gc=False):
    """An error object, with or without another one in it."""

    type: str | None = None
    code: str | int | None = None
    error: "_Inner | None" = None


class _Facts(Struct, gc=False):
    custom_id: str
    kind: str = ""


_read_line = msgspec.json.Decoder(_Line).decode
_read_row = msgspec.json.Decoder(list[Raw]).decode
_read_facts = msgspec.json.Decoder(_Facts).decode
_read_inner = msgspec.json.Decoder(_Inner).decode
_STATUS: Mapping[str, int] = {word: status for status, word in sorted(ERROR_TYPES.items(), reverse=True)}
_FAILED = 500  # of an error that names no status


def _answered(line: _Line) -> Told:
    """A line of OpenAI's shape. vLLM puts the server's error beside a response without a body."""
    response, error = line.response or _Response(), bytes(line.error)
    if not response.status_code:
        return Told(line.custom_id, code=_code(error))
    body = _present(response.body) or (error if error != b"null" else b"")
    return Told(line.custom_id, response.status_code, response.request_id or "", body, _code(error))


def _ended(name: str, result: _Result) -> Told:
    """A line of Anthropic's."""
    if result.type == "succeeded":
        return Told(name, 200, body=_present(result.message))
    if result.type == "errored":
        return Told(name, _STATUS.get(_code(bytes(result.error)), _FAILED), body=_present(result.error))
    return Told(name, code=result.type)


def _row(raw: bytes) -> Told:
    """A line of the cookbook's, with our facts: the script itself does not say which line it answers."""
    parts = _read_row(raw)
    if len(parts) != 4 or bytes(parts[3])[:1] != b"{":
        raise ValueError("not a record: a line of the cookbook's script says not which line it answers")
    facts, answer = _read_facts(parts[3]), bytes(parts[1])
    return Told(facts.custom_id, code=facts.kind) if answer[:1] == b"[" else Told(facts.custom_id, 200, body=answer)


def _present(body: Raw) -> bytes:
    return b"" if (found := bytes(body)) == b"null" else found


def _code(error: bytes) -> str:
    """The code or type of an error, of the innermost one that has any; "" for what is no object."""
    read: Callable[[bytes], _Inner] = _read_inner
    try:
        found = read(error)
    except ValueError:
        return ""
    while found.error is not None:
        found = found.error
    return str(found.code or found.type or "")
