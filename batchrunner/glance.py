"""Plain chat lines at a glance: nearly all lines of nearly all inputs, each read by one typed decode.

Rules:

1. A line is plain when every part of it decodes as one of the known types, and nothing else is there. Any other line is
   `formats.parse`'s to judge.
2. The request of a plain line is the one that `parse` makes of it. What `check` wants to know of millions of lines, of which
   none is sent, is said without making one.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from batchrunner.core.model import Request, Route
from batchrunner.dialects import LineError
from batchrunner.formats import placed
from batchrunner.lines import Line

GLANCED = frozenset({"openai", "azure", "vllm", "http"})  # the dialects whose plain lines look alike


class Plain(Struct, frozen=True, gc=False):
    """What a plain line asks for (`core.model.Request`)."""

    id: str
    model: str
    prompt_tokens: float
    max_tokens: int
    choices: int


_Count = Annotated[int, Meta(ge=1, lt=2**31)]


class _Turn(Struct, gc=False, forbid_unknown_fields=True):
    role: str
    content: str
    name: str = ""


class _Chat(Struct, gc=False, forbid_unknown_fields=True):
    messages: list[_Turn]
    model: str = ""
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    n: _Count | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    metadata: dict[str, str] | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None


class _Envelope(Struct, gc=False, forbid_unknown_fields=True):
    custom_id: Annotated[str, Meta(min_length=1)]
    url: Annotated[str, Meta(max_length=1000)]
    body: _Chat
    method: Literal["POST"] | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode
_ODD = (LineError, ValueError, RecursionError, TypeError)  # TypeError: an oversized line
_QUOTES = 10  # outside the body: those of `custom_id` and `url` with their values, and of `body`; `method` has four more


def request(raw: Line, line: int, origins: tuple[str, ...]) -> Request | None:
    """The request of a plain line in OpenAI's dialect; None for any other."""
    try:
        return _request(raw, line, origins)  # type: ignore[arg-type]
    except _ODD:
        return None


def _request(raw: bytes, line: int, origins: tuple[str, ...]) -> Request | None:
    """The same, as long as the line is JSON of the right types."""
    fields = _envelope(raw)
    start, (path, route, _) = _body_of(raw, fields), placed(fields.url, origins)
    if not start or route is not Route.CHAT:
        return None
    chat = fields.body
    return Request(
        line=line,
        id=fields.custom_id,
        digest=sha256(raw).hexdigest()[:16],
        route=route,
        path=path,
        body=raw[start:-1],
        model=chat.model,
        max_tokens=_most(chat),
        choices=chat.n or 1,
        stream=chat.stream is True,
    )


def glance(lines: Sequence[Line], origins: tuple[str, ...]) -> list[Plain | None]:
    """What each of these lines asks for, if it is a plain one in OpenAI's dialect."""
    try:
        return _glance(lines, origins)  # type: ignore[arg-type]
    except _ODD:
        return [plain for raw in lines for plain in _alone(raw, origins)]


def _alone(raw: Line, origins: tuple[str, ...]) -> list[Plain | None]:
    try:
        return _glance([raw], origins)  # type: ignore[list-item]
    except _ODD:
        return [None]


def _glance(lines: Sequence[bytes], origins: tuple[str, ...]) -> list[Plain | None]:
    """The same, as long as all are JSON of the right types."""
    read = list(map(_envelope, lines))
    routes = {url: placed(url, origins)[1] for url in {fields.url for fields in read}}
    found: list[Plain | None] = []
    for raw, fields in zip(lines, read, strict=True):
        start, chat = _body_of(raw, fields), fields.body
        if start and routes[fields.url] is Route.CHAT:
            found.append(Plain(fields.custom_id, chat.model, (len(raw) - 1 - start) / 4, _most(chat), chat.n or 1))
        else:
            found.append(None)
    return found


def _body_of(raw: bytes, fields: _Envelope) -> int:
    """Where the body of a plain line begins, which ends before the last byte; 0: the line is none.

    Before the body stand only the fields we hold, once each; it comes once, and nothing comes behind it.
    """
    start = raw.find(b"{", 1)
    quotes = _QUOTES if fields.method is None else _QUOTES + 4
    if raw.count(b'"', 0, start) != quotes or raw[-2:] != b"}}":
        return 0
    braces = 2 + len(fields.body.messages)  # with no more than these there is no second body, which need not be looked for
    return start if raw.count(b"{") == braces or raw.find(b'"body"', start) < 0 else 0


def _most(chat: _Chat) -> int:
    return chat.max_completion_tokens or chat.max_tokens or 0
