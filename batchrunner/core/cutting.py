"""Prompts that are too long: what of their texts is cut away.

Rules:

1. Tokens are guessed as everywhere: bytes / 4, an image as 765. What is cut is cut by bytes, never inside a character.
2. The longest texts are cut first, and no further than to the length of the next longest: all end equally long.
   Turns, parts and their order stay, and so does every system prompt.
3. Where a text was cut stands a mark, so that the model does not take the rest for the whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from batchrunner.core.model import Route

Overflow = Literal["fail", "truncate-head", "truncate-middle"]
MARK = " […] "
_MARK_SIZE = len(MARK.encode())
IMAGE = 765  # tokens
KEPT = frozenset({"system", "developer"})
"""Roles whose texts are not cut."""


class Place(Struct, frozen=True):
    """Where a text stands: `holder[key]`."""

    holder: Any
    key: Any

    @property
    def text(self) -> str:
        """The text there."""
        return str(self.holder[self.key])

    def put(self, text: str) -> None:
        """Another text in its place."""
        self.holder[self.key] = text


FIELDS: Mapping[Route, str] = {
    Route.CHAT: "messages",
    Route.MESSAGES: "messages",
    Route.RESPONSES: "input",
    Route.COMPLETIONS: "prompt",
    Route.EMBEDDINGS: "input",
}
"""Where each route keeps its prompt."""
APART = frozenset({Route.COMPLETIONS, Route.EMBEDDINGS})
"""Routes whose texts are prompts of their own, each with the whole context to itself."""


def places(holder: dict[str, Any], field: str) -> Iterator[Place]:
    """The texts of a prompt that may be cut."""
    given = holder[field]
    if isinstance(given, str):
        yield Place(holder, field)
    for at, turn in enumerate(given if isinstance(given, list) else ()):
        if isinstance(turn, str):
            yield Place(given, at)
        elif isinstance(turn, dict) and turn.get("role") not in KEPT:
            yield from _of_turn(turn)


def _of_turn(turn: dict[str, Any]) -> Iterator[Place]:
    content = turn.get("content")
    if isinstance(content, str):
        yield Place(turn, "content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield Place(part, "text")


def cut(texts: Sequence[Place], excess: int, overflow: Overflow) -> bool:
    """Take at least `excess` bytes out of these texts; False, and nothing is cut, when they have not so many to give."""
    sizes = [len(place.text.encode()) for place in texts]
    most = level(sizes, sum(sizes) - excess)
    if most < _MARK_SIZE:
        return False
    for place, size in zip(texts, sizes, strict=True):
        if size > most:
            place.put(_CUTS[overflow](place.text.encode(), most - _MARK_SIZE))
    return True


def level(sizes: Sequence[int], room: int) -> int:
    """The length to which each may be cut so that all together have room; -1 when there is none."""
    rest = room
    for number, size in enumerate(sorted(sizes)):
        left = len(sizes) - number
        if size * left > rest:
            return max(-1, rest // left)
        rest -= size
    return max(sizes, default=-1)


def _head(raw: bytes, size: int) -> str:
    return MARK + raw[len(raw) - size :].decode(errors="ignore")


def _middle(raw: bytes, size: int) -> str:
    before = size // 2
    return raw[:before].decode(errors="ignore") + MARK + raw[len(raw) - (size - before) :].decode(errors="ignore")


_CUTS: Mapping[str, Callable[[bytes, int], str]] = {"truncate-head": _head, "truncate-middle": _middle}
