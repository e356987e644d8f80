"""A `Result` to one output line, and an output line back to what a resume needs to know.

Rules:

1. The shape is OpenAI's batch output (platform.openai.com/docs/guides/batch); our own facts stand under one key, `batchrunner`.
2. An answer's body goes in byte for byte. One line is one record: it ends in the only LF it has.
3. `error` is null for a success and for an HTTP error, which its status shows. What failed with a good status, or without
   an answer, says so in `error`: nobody who reads these lines without our key takes it for a success.
4. `read_record` builds no body, trusts no line to be one of ours, and raises nothing but ValueError. `read_successes` is its
   short cut for many lines: it agrees with it, or says nothing.
"""

import re
from array import array
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct, structs

from batchrunner.core.model import Kind, Request, Result, Slimmed, Usage


class Record(Struct, frozen=True, gc=False):
    """What an output line says of its input line. `line` is 0 and `digest` empty where the writer left our key out."""

    id: str
    line: int
    digest: str
    ok: bool
    kind: str


class Said(Protocol):
    """A record, or what stands for one."""

    @property
    def ok(self) -> bool:
        """Whether it is a success."""


S = TypeVar("S", bound=Said)


def prevailing(known: S | None, later: S) -> S:
    """Which of two records of one request counts: a success before a failure, else the later one."""
    return known if known and known.ok and not later.ok else later


class Successes(Struct, frozen=True, gc=False):
    """What a block of output lines says of its input lines, by column; digests as `numbers.number_of` has them."""

    ids: list[str]
    lines: list[int]
    digests: "array[int]"


class _Response(Struct, gc=False):
    status_code: int
    request_id: str
    body: Raw


class _Error(Struct, gc=False):
    code: str
    message: str


class Facts(Struct, omit_defaults=True, gc=False):
    """What we know of a result besides the answer."""

    v: int
    line: int
    attempts: int
    seconds: float
    endpoint: str
    digest: str
    kind: str = ""
    hint: str = ""
    model: str = ""
    flags: tuple[str, ...] = ()
    usage: Usage | None = None
    maybe_billed: int = 0
    partial: Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: Raw | msgspec.UnsetType = msgspec.UNSET
    custom_id: str = ""  # where the envelope has no place for it
    slimmed: Slimmed | None = None


class _Strict(Struct, gc=False):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


class _Full(_Strict, gc=False):
    batchrunner: Facts


_write = msgspec.json.Encoder().encode
_write_lines = msgspec.json.Encoder().encode_lines
_NULL = Raw(b"null")
MOST = 2**63 - 1  # what a whole number may be where it is packed


def record(result: Result, *, strict: bool = False, secrets: Callable[[bytes], bytes] | None = None) -> bytes:
    """One line of the results or the errors file, with its LF.

    `strict` leaves our own key out. `secrets` takes the bytes behind `custom_id` and gives them back without keys; the id
    itself stays, for it names the input line. The line's own id comes from digest and number: the same after every resume.
    """
    line = _strict(result) if strict else _full(result)
    try:
        written = _write_lines([line])  # a list: of a tuple msgspec 0.22 loses 48 bytes for good
    except UnicodeEncodeError:
        written = written_out(line) + b"\n"
    if secrets:
        head, mark, tail = written.partition(b',"response":')
        written = head + mark + secrets(tail)
    return written


def written_out(line: Any) -> bytes:
    """A struct or a list as JSON, whatever its strings hold."""
    try:
        return _write(line)
    except UnicodeEncodeError:  # a lone surrogate in a message, a path of other bytes than UTF-8
        return _write(encodable(line))


def _strict(result: Result) -> _Strict:
    return _Strict(_batch_id(result.request), result.request.id, _response(result), _error(result))


def _full(result: Result) -> _Full:
    return _Full(_batch_id(result.request), result.request.id, _response(result), _error(result), facts_of(result))


def facts_of(result: Result) -> Facts:
    """Those of this result."""
    request, error = result.request, result.error
    return Facts(
        1,
        request.line,
        result.attempts,
        round(result.seconds, 3),
        result.endpoint,
        request.digest,
        "" if result.kind is Kind.OK and 200 <= result.status < 300 else result.kind,
        error.hint if error else "",
        request.model,
        result.flags,
        result.usage,
        result.maybe_billed,
        Raw(result.partial) if result.partial else msgspec.UNSET,
        Raw(request.metadata) if request.metadata else msgspec.UNSET,
        slimmed=request.slimmed,
    )


def _batch_id(request: Request) -> str:
    digest = request.digest
    return f"batch_req_{digest if len(digest) == 16 else f'{digest:0<16.16}'}{request.line & 0xFFFFFFFF:08x}"


def _response(result: Result) -> _Response | None:
    if not result.status:
        return None
    return _Response(result.status, result.request_id, Raw(result.body) if result.body else _NULL)


def _error(result: Result) -> _Error | None:
    if result.kind is Kind.OK or result.status >= 300:
        return None
    error = result.error
    return _Error(error.code or result.kind, error.message) if error else _Error(result.kind, "")


def encodable(value: Any) -> Any:
    """The same value, with a question mark for every character that UTF-8 has no bytes for, and whole numbers of 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return min(max(value, -MOST), MOST)
    if isinstance(value, list | tuple):
        return type(value)(map(encodable, value))
    if isinstance(value, dict):
        return {name: encodable(each) for name, each in value.items()}
    if isinstance(value, Struct):
        return structs.replace(value, **{name: encodable(getattr(value, name)) for name in value.__struct_fields__})
    return value


class _ReadResponse(Struct, gc=False):
    status_code: int = 0


class _ReadFacts(Struct, frozen=True, gc=False):
    line: int = 0
    digest: str = ""
    kind: str = ""


class _Read(Struct, gc=False):
    """Any dialect's line: `error` may be null, an object or a text."""

    custom_id: str
    response: _ReadResponse | msgspec.UnsetType | None = msgspec.UNSET
    error: Raw = Raw(b"")
    batchrunner: _ReadFacts = _ReadFacts()


_read = msgspec.json.Decoder(_Read).decode
# Escape by escape, so that neither a whole pair nor a written-out backslash is taken for half a pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F]..)|.)", re.DOTALL)


def _read_any(raw: bytes) -> _Read:
    """Msgspec refuses half a surrogate pair, and an answer may hold one; none of what we read here does."""
    try:
        return _read(raw)
    except msgspec.DecodeError:
        return _read(paired(raw))


def paired(raw: bytes) -> bytes:
    """The same JSON without halves of surrogate pairs."""
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], raw)


class _PlainResponse(Struct, gc=False):
    status_code: Annotated[int, Meta(ge=200, lt=300)]


class _PlainFacts(Struct, gc=False):
    line: Annotated[int, Meta(ge=1)]
    digest: Annotated[str, Meta(min_length=16, max_length=16)]
    kind: Literal["", "ok"] = ""


class _Plain(Struct, gc=False):
    """A success that names its line and digest: what does not decode as one is no proof of anything."""

    custom_id: str
    response: _PlainResponse
    batchrunner: _PlainFacts
    error: None = None


_read_plain = msgspec.json.Decoder(_Plain).decode


def read_successes(lines: Iterable[bytes]) -> Successes | None:
    """What a block of output lines says when each is a success of ours; None when `read_record` must look at them one by one."""
    try:
        found = list(map(_read_plain, lines))
        facts = [each.batchrunner for each in found]
        digests = array("q", bytes.fromhex("".join([each.digest for each in facts])))
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
    if len(digests) != len(found):  # hex digits may have blanks between them
        return None
    return Successes([each.custom_id for each in found], [each.line for each in facts], digests)


def read_record(raw: bytes) -> Record:
    """What an output line says, with or without its LF and our key. ValueError: it is no record.

    Success is what our `kind` says; without one, a status from 200 to 299 and no error.
    """
    try:
        line = _read_any(raw)
    except RecursionError:
        raise ValueError("not a record: nested too deep") from None
    response, facts, failed = line.response, line.batchrunner, bytes(line.error) not in {b"", b"null"}
    if response is msgspec.UNSET and not failed:
        raise ValueError("not a record: neither response nor error")
    good = isinstance(response, _ReadResponse) and 200 <= response.status_code < 300 and not failed
    ok = facts.kind == Kind.OK if facts.kind else good
    return Record(line.custom_id, facts.line, facts.digest, ok, facts.kind or (Kind.OK.value if ok else ""))
