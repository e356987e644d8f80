"""Which API a line speaks, and where its answers keep their text.

Rules:

1. The text of a chat or completion is that of its first choice, of a response or message that of its output. Every other answer
   is its own text, and so is one that has another shape than its route says.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec
from msgspec import Struct


class Route(StrEnum):
    """Which API a line speaks; decides what a complete answer looks like (`core.complete`)."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    IMAGES = "images"
    HTTP = "http"


class _Part(Struct, gc=False):
    text: str | None = None


class _Said(Struct, gc=False):
    content: str | list[_Part] | None = None


class _Piece(Struct, gc=False):
    """A choice of a chat or completion, or an output item of a response."""

    text: str | None = None
    message: _Said | None = None
    content: str | list[_Part] | None = None


class _Answer(Struct, gc=False):
    """The places where the four text routes keep their text."""

    choices: list[_Piece] = []
    output: list[_Piece] = []
    content: list[_Part] = []


def _joined(content: str | list[_Part] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text or "" for part in content or ())


def _choices(answer: _Answer) -> list[str]:
    return [choice.text or (_joined(choice.message.content) if choice.message else "") for choice in answer.choices]


_TEXTS: Mapping[Route, Callable[[_Answer], list[str]]] = {
    Route.CHAT: _choices,
    Route.COMPLETIONS: _choices,
    Route.RESPONSES: lambda answer: ["".join(_joined(item.content) for item in answer.output)],
    Route.MESSAGES: lambda answer: [_joined(answer.content)],
}


def answer_text(route: Route, body: bytes) -> str:
    """The text of an answer body; the body itself where the route has no text or the body another shape."""
    return answer_texts(route, body)[0]


def answer_texts(route: Route, body: bytes) -> list[str]:
    """The same of each choice; there is always one, if only an empty one."""
    read = _TEXTS.get(route)
    try:
        return read(msgspec.json.decode(body, type=_Answer)) or [""] if read else [body.decode("utf-8", "replace")]
    except msgspec.MsgspecError:
        return [body.decode("utf-8", "replace")]
