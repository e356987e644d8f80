"""Lines that fit a screen.

Rules:

1. Pure functions; the width is an argument, in columns of plain letters.
2. Prose is folded between words, never between a figure and its unit or an option and its value, and a list behind its dots. A
   command is never folded: it must survive being copied, so that it gets a line of its own where there is no room beside it.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator

from msgspec import Struct

WIDTH = 96
MARGIN = 12  # columns before what a fact says
UNIT = re.compile(r"(?<=[0-9≈≤→$×]) (?=\S)|(?<=\S) (?=[×)])")
"""The space between a figure and its unit."""
VALUE = re.compile(r"(?<![\w-])(--[a-z][a-z-]*) (?=[A-Z0-9]|on\b|off\b|auto\b|none\b)")
"""The space between an option and its value, or the word that stands for one."""
_TIED = "\x00"
ITEM = 24  # letters of what stands between two dots that are kept on one line


class Command(Struct, frozen=True):
    """Something to type, and what it does."""

    typed: str
    does: str = ""


Fact = tuple[str, str | Command]
"""A name and what is said of it; what is empty is left out."""


def fold(said: str, width: int, margin: int = 0) -> list[str]:
    """Prose in lines of at most `width` columns, each after a margin."""
    items = VALUE.sub(rf"\1{_TIED}", UNIT.sub(_TIED, said)).split(" · ")
    tied = f"{_TIED}· ".join(each.replace(" ", _TIED) if len(items) > 1 and len(each) <= ITEM else each for each in items)
    space = " " * margin
    lines = textwrap.wrap(
        tied,
        max(width, margin + 20),
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_TIED, " ") for line in lines]


def type_in(command: Command, width: int, margin: int = 0) -> list[str]:
    """A command, with what it does beside it or below."""
    typed = f"{'':{margin}}{command.typed}"
    beside = f"{typed}     {command.does}".rstrip()
    return [beside] if len(beside) <= width else [typed, *fold(command.does, width, margin)]


def block(facts: Iterable[Fact], width: int = WIDTH) -> list[str]:
    """`  name      what is said of it`, folded below itself."""
    return [line for name, said in facts for line in _fact(name, said, width)]


def _fact(name: str, said: str | Command, width: int) -> Iterator[str]:
    lines = fold(said, width, MARGIN) if isinstance(said, str) else type_in(said, width, MARGIN)
    for place, line in enumerate(lines):
        yield f"  {name:<{MARGIN - 3}} {line[MARGIN:]}" if place == 0 else line


def fit(parts: Iterable[str], width: float, gap: str = "  ") -> str:
    """As many parts on one line as there is room for. None is cut: a figure without its last digits is another figure."""
    said = ""
    for part in filter(None, parts):
        longer = f"{said}{gap}{part}" if said else part
        if len(longer) > width:
            break
        said = longer
    return said


def ends(left: str, right: str, width: int) -> list[str]:
    """One thing at each end of a line, or one below the other."""
    if len(left) + 2 + len(right) > width:
        return [*fold(left, width), f"  {right}"]
    return [f"{left}{right:>{width - len(left)}}"]
