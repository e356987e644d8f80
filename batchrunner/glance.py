"""Plain chat lines at a glance: what `check` wants to know of millions of lines of which none is sent.

Rules:

1. A line is plain when every part of it decodes as one of the known types, and nothing else is there. Any other line is
   `formats.parse`'s to judge.
2. What is said of a plain line is what the request would say that `parse` makes of it.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from batchrunner.core.model import Route
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
        start, end = raw.find(b"{", 1), len(raw) - 1
        quotes = _QUOTES if fields.method is None else _QUOTES + 4
        # before the body stand only the fields we hold, once each; it comes once, and nothing comes behind it
        if (
            raw.count(b'"', 0, start) == quotes
            and raw[end - 1 :] == b"}}"
            and raw.find(b'"body"', start) < 0
            and routes[fields.url] is Route.CHAT
        ):
            chat = fields.body
            most = chat.max_completion_tokens or chat.max_tokens or 0
            found.append(Plain(fields.custom_id, chat.model, (end - start) / 4, most, chat.n or 1))
        else:
            found.append(None)
    return found
