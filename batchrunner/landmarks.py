"""Where in a file its lines are: one line in each stretch of it, so that what is finished need not be read to be passed over.

Rules:

1. A landmark is only a hint: whoever begins at one looks whether a line begins there (`lines.read_blocks`).
2. Packed files have none but their start.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from msgspec import Struct

STRETCH = 1 << 20  # bytes between two landmarks, at least


class Landmark(Struct, frozen=True, array_like=True, gc=False):
    """The line of this number begins at this byte."""

    line: int
    offset: int


START = Landmark(1, 0)


def note(marks: list[Landmark], line: int, offset: int) -> None:
    """Keep this place, if it is far enough behind the last one that is kept."""
    if offset - (marks[-1].offset if marks else 0) >= STRETCH:
        marks.append(Landmark(line, offset))


def stretches(marks: Sequence[Landmark], line: int, last: int) -> Iterator[tuple[Landmark, int]]:
    """The landmarks from the one before `line` on, each with the last line of its stretch; `last` is that of the file."""
    at = bisect_right(marks, line, key=lambda mark: mark.line)
    here = marks[at - 1] if at else START
    for following in marks[at:]:
        yield here, following.line - 1
        here = following
    yield here, last
