"""A request body → the question, and the words of its answer. The same question always gets the same words.

Rules:

1. The text begins with the first words of the last user message, so that an answer can be matched to its question.
2. A token is a word. `max_tokens` cuts the text there, and the finish reason says so.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.core.model import Route

ECHOED = 12  # words of the question that open the answer
PIECES = 8  # deltas of a streamed text, at most

_PROSE = """
the answer follows from what was asked and needs few words because a careful reader sees at once how each part of the
question bears on the next while the rest is only there to give this reply an ordinary length so that files and streams
look as they would with a real model which also likes to say more than it was asked for
"""
_LOREM = _PROSE.split()
_PATHS = {
    "/chat/completions": Route.CHAT,
    "/completions": Route.COMPLETIONS,
    "/responses": Route.RESPONSES,
    "/messages": Route.MESSAGES,
    "/embeddings": Route.EMBEDDINGS,
    "/moderations": Route.MODERATIONS,
    "/images/generations": Route.IMAGES,
}


@lru_cache(256)
def route_of(method: str, path: str) -> Route:
    """The API behind a path, whatever prefix a provider puts before it; HTTP for all others, which are echoed."""
    endings = (route for ending, route in _PATHS.items() if path.endswith(ending))
    return next(endings, Route.HTTP) if method == "POST" else Route.HTTP


class _Part(Struct, gc=False):
    text: str | None = None


class _Said(Struct, gc=False):
    role: str = "user"
    content: str | list[_Part] | None = None


class _Options(Struct, gc=False):
    include_usage: bool | None = None


class Ask(Struct, gc=False):
    """What the answers depend on in a request body."""

    model: str = "simulated"
    messages: list[_Said] = []
    prompt: str | list[Any] | None = None
    input: str | list[Any] | None = None
    stream: bool | None = None
    stream_options: _Options | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    dimensions: int | None = None
    encoding_format: str | None = None


class Text(Struct, gc=False):
    """The words of one choice."""

    words: list[str]
    cut: bool  # by max_tokens

    @property
    def whole(self) -> str:
        """The text itself."""
        return " ".join(self.words)

    @property
    def pieces(self) -> list[str]:
        """The text in a few deltas; joined they are the whole."""
        step = -(-len(self.words) // PIECES) or 1
        return [(" " if at else "") + " ".join(self.words[at : at + step]) for at in range(0, len(self.words), step)]


class Question(Struct, gc=False):
    """A question with all that its answer is made from."""

    route: Route
    ask: Ask
    id: str
    texts: list[Text]
    prompt: int  # tokens

    @property
    def output(self) -> int:
        """Tokens of all choices."""
        return sum(len(text.words) for text in self.texts)


_ANSWERS: Mapping[Route, Callable[[int, int], int]] = {
    Route.CHAT: lambda n, _: max(1, min(n, 128)),
    Route.COMPLETIONS: lambda n, prompts: max(1, min(n, 128)) * prompts,
    Route.RESPONSES: lambda _n, _prompts: 1,
    Route.MESSAGES: lambda _n, _prompts: 1,
}
_ask = msgspec.json.Decoder(Ask)


def read_ask(body: bytes) -> Ask:
    """The question. Raises msgspec.MsgspecError when the body is no JSON of the right shape."""
    return _ask.decode(body)


def question_of(route: Route, ask: Ask, key: bytes, size: int) -> Question:
    """The question of a request named `key` whose body has `size` bytes."""
    number = int.from_bytes(key, "little")
    return Question(route, ask, f"{number:016x}", _texts(route, ask, number), size // 4 + 1)


def _question(ask: Ask) -> str:
    """The last user message, the prompt, or the text of the input."""
    said = next((said for said in reversed(ask.messages) if said.role == "user"), None)
    return _spoken(said.content if said else ask.prompt if ask.prompt is not None else ask.input)


def _spoken(content: Any) -> str:
    """The first text of a content; of a list of messages, the last one's."""
    if isinstance(content, str):
        return content
    match content:
        case None:
            return ""
        case _Part():
            return content.text or ""
        case dict():
            return _spoken(content.get("content", content.get("text")))
        case [*_, {"role": _}]:
            return next(filter(None, map(_spoken, reversed(content))), "")
        case list():
            return next(filter(None, map(_spoken, content)), "")
        case _:
            return str(content)


def _texts(route: Route, ask: Ask, number: int) -> list[Text]:
    if route not in _ANSWERS:
        return []
    prompts = len(ask.prompt) if ask.prompt and isinstance(ask.prompt, list) and _many(ask.prompt) else 1
    return [_text(ask, number + 7 * choice) for choice in range(_ANSWERS[route](ask.n or 1, prompts))]


def _text(ask: Ask, number: int) -> Text:
    at, length = number % 40, 4 + (number >> 8) % (len(_LOREM) - 44)
    words = _question(ask)[:400].split(None, ECHOED)[:ECHOED] + _LOREM[at : at + length]
    cap = ask.max_completion_tokens or ask.max_tokens or ask.max_output_tokens or len(words)
    return Text(words[: max(cap, 1)], cap < len(words))


def _many(value: object) -> bool:
    """Whether an input is a list of several inputs, and not one list of tokens."""
    return isinstance(value, list) and not (value and isinstance(value[0], int))


def inputs(ask: Ask) -> list[Any]:
    """The inputs of an embedding or moderation, one by one."""
    return ask.input if isinstance(ask.input, list) and _many(ask.input) else [ask.input]
