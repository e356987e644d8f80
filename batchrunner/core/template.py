"""A text with places for the values of a row: `Summarise: {bio}`.

Rules:

1. What stands between braces is the name of a column, taken as it is: no attributes, no indices, no formats.
   `{{` and `}}` are the braces themselves.
2. What is put in is never read again: a value may hold braces.
"""

import re
from collections.abc import Mapping
from typing import Self

from msgspec import Struct

_MARK = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


class Template(Struct, frozen=True):
    """`pieces` are texts and names of columns in turn; the first and the last are texts."""

    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """The template as it is written. ValueError, with the end of a sentence: a brace stands alone."""
        pieces, start = [""], 0
        for mark in _MARK.finditer(text):
            pieces[-1] += text[start : mark.start()]
            start = mark.end()
            if mark[1] is not None:
                pieces += [mark[1], ""]
            elif mark[0] in ("{{", "}}"):
                pieces[-1] += mark[0][0]
            else:
                raise ValueError(f"has a {mark[0]} on its own at character {mark.start() + 1}; a brace itself is {mark[0] * 2}")
        pieces[-1] += text[start:]
        return cls(tuple(pieces))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in it, in order."""
        return self.pieces[1::2]

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with these values in their places. KeyError: one is missing."""
        pieces = list(self.pieces)
        pieces[1::2] = [values[name] for name in pieces[1::2]]
        return "".join(pieces)
