"""JSON that arrives in pieces: reading a piece, adding it to what is there, writing the whole.

Rules:

1. Strings go on, lists get longer, objects are entered, anything else replaces. Null never replaces.
2. Strings stay lists of parts until the end and are joined once, so the work is linear in the bytes.
3. Half a surrogate pair may end a piece: Python's own json reads it, the pieces are joined, then the pairs are restored.
4. A value of the wrong kind raises `Nonsense`; what was added before it stays.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Json = dict[str, Any]

_MAX_DEPTH = 12  # deltas are flat; an object that lies deeper replaces what was there
_SAID_ONCE = {"id", "type", "role", "format", "status"}  # strings that a server may repeat and never continues
_FLOWING = ("text", "thinking")  # types of content parts that continue the part before them


class Nonsense(ValueError):  # noqa: N818 - it names the fact
    """A value is not of the kind its place demands."""


def an_object(value: object) -> Json:
    """`value`, which has to be an object. Raises Nonsense."""
    if isinstance(value, dict):
        return value
    raise Nonsense


def without(value: Json, *keys: str) -> Json:
    """`value` less some keys."""
    return {key: part for key, part in value.items() if key not in keys}


class Text:
    """A string that comes in parts."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str) -> None:
        self.parts = list(parts)


class Tree(Json):
    """An object that comes in parts."""


class Items:
    """A list whose items come in parts: tool calls, reasoning details, parts of a content.

    A piece finds its item by `index`; without one it belongs to the last. Some servers give every tool call the same index:
    a piece with another id and a name of its own begins another call. An id alone does not: others make one up for every piece.
    """

    __slots__ = ("_at", "_last", "_order")

    def __init__(self) -> None:
        self._order: list[tuple[int, Tree]] = []
        self._at: dict[int, Tree] = {}
        self._last = 0

    def add(self, piece: Json, depth: int) -> bool:
        """Adds one piece. True: it said something."""
        index = piece.get("index")
        self._last = index if type(index) is int else self._last
        item = self._at.get(self._last)
        if item is None or _is_another(item, piece):
            item = self._at[self._last] = Tree()
            self._order.append((self._last, item))
        return grow(item, piece, depth)

    def folded(self) -> list[Json]:
        """The items by index; those of one index as they came."""
        return [fold(item) for _, item in sorted(self._order, key=lambda numbered: numbered[0])]


def _is_another(item: Json, piece: Json) -> bool:
    kind, call, function = piece.get("type"), piece.get("id"), piece.get("function")
    if kind and item.get("type", kind) != kind:
        return True
    return bool(call and item.get("id", call) != call and isinstance(function, dict) and function.get("name"))


def say(into: Json, key: str, text: str) -> bool:
    """`grow(into, {key: text})` by the shortest way."""
    old = into.get(key)
    if type(old) is Text:
        old.parts.append(text)
        return True
    return grow(into, {key: text})


def _grow_text(into: Json, key: str, text: str, depth: int) -> bool:
    old = into.get(key)
    if key in _SAID_ONCE:
        into[key] = old or text
        return False
    if isinstance(old, Items):
        return old.add({"type": "text", "text": text}, depth)
    if not isinstance(old, Text):
        into[key] = Text(old, text) if isinstance(old, str) else Text(text)
    elif key != "name" or old.parts != [text]:  # some servers repeat the name with every piece of the arguments
        old.parts.append(text)
    return text != ""


def _grow_list(into: Json, key: str, items: list[Any], depth: int) -> bool:
    old = into.get(key)
    if not isinstance(old, Items) and items and (key == "tool_calls" or _is_piece(items[0])):
        before = fold(old) if isinstance(old, Text | list) else None
        old = into[key] = Items()
        if before:
            grow(into, {key: before}, depth)
    if isinstance(old, Items):
        return sum(old.add(an_object(item), depth - 1) for item in items) > 0
    if isinstance(old, list):
        old.extend(items)
    else:
        into[key] = items
    return items != []


def _is_piece(item: object) -> bool:
    return isinstance(item, dict) and ("index" in item or item.get("type") in _FLOWING)


def _grow_object(into: Json, key: str, value: Json, depth: int) -> bool:
    if not isinstance(into.get(key), Tree):
        into[key] = Tree()
    return grow(into[key], value, depth - 1)


_GROW: Final[Mapping[type, Callable[[Json, str, Any, int], bool]]] = {str: _grow_text, list: _grow_list, dict: _grow_object}


def grow(into: Json, delta: Json, depth: int = _MAX_DEPTH) -> bool:
    """Adds a delta to `into`. True: it said something. Raises Nonsense."""
    said = False
    for key, value in delta.items():
        growth = _GROW.get(type(value))
        if value is None:
            into.setdefault(key, None)
        elif growth is None or depth <= 0:
            into[key] = value
        else:
            said |= growth(into, key, value, depth)
    return said


def fold(grown: Any) -> Any:
    """Plain JSON of what has grown; what has grown stays as it is."""
    if isinstance(grown, Text):
        return "".join(grown.parts)
    if isinstance(grown, Items):
        return grown.folded()
    if isinstance(grown, Tree):
        return {key: fold(value) for key, value in grown.items()}
    return grown


def read(text: bytes) -> tuple[Any, bool]:
    """One JSON value, and whether its UTF-8 was whole (what was not is replaced). Raises ValueError, RecursionError."""
    try:
        return msgspec.json.decode(text), True
    except (ValueError, RecursionError):
        words = text.decode("utf-8", "replace")
        return json.loads(words), words.encode() == text


def write(value: object) -> bytes:
    """JSON on one line, valid UTF-8 whatever the pieces were. Raises RecursionError."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(mended(value))


def mended(value: Any) -> Any:
    """`value` with halves of a surrogate pair joined where they meet, and replaced where they are alone."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value
