"""The lines of a file that a run is about (`core.selection`), before anything else is done with them.

Rules:

1. A shard is a job of its own: lines of other pieces do not count, in no way.
2. A condition only passes over lines: they stay pending, for a run without it.
3. A line that cannot be read fits no condition, and belongs to a piece like any other.
4. A condition that names a field which no line has is refused. To know that takes the whole input, but only then.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import orjson

from batchrunner.core.selection import LINE, Fields, belongs, condition, names_of, piece
from batchrunner.errors import UsageError, nearest
from batchrunner.identity import identify, names
from batchrunner.lines import Line, Oversized, read_lines

Numbered = tuple[int, Line]


def of_shard(lines: Iterable[Numbered], shard: str) -> Iterable[Numbered]:
    """Those of this piece; all of them when there is none."""
    mine = piece(shard)
    return ((line, raw) for line, raw in lines if belongs(identify(raw, line)[0], mine)) if mine else lines


def names_of_shard(shard: str) -> Callable[[Sequence[Line], int], list[str]]:
    """What gives the ids of a block of lines (`identity.names`), empty ones to the lines of other pieces."""
    mine = piece(shard)
    if not mine:
        return names
    return lambda lines, first: [name if name and belongs(name, mine) else "" for name in names(lines, first)]


def where(lines: Iterable[Numbered], text: str) -> Iterable[Numbered]:
    """Those that fit the condition; all of them when there is none."""
    wanted = condition(text)
    return ((line, raw) for line, raw in lines if wanted(_fields(raw, line))) if wanted else lines


def fits(raw: bytes, line: int, shard: str, text: str) -> bool:
    """Whether a line is of this piece and fits the condition."""
    return any(where(of_shard([(line, raw)], shard), text))


def check_names(path: Path, max_line: int, text: str) -> None:
    """UsageError E002 when the condition names a field that no line of this file has. A file without such lines is passed."""
    first: Fields = {}
    strange = names_of(text)
    for line, raw in read_lines(path, max_line) if strange else ():
        fields = _fields(raw, line)
        first, strange = first or fields, strange - fields.keys()
        if not strange:
            return
    if strange and first:
        name = min(strange)
        meant = nearest(name, first) or f'A text stands in quotation marks: "{name}"'
        raise UsageError("E002", f"--where: no line has a field {name!r}.", f"{meant}\nThe first line has: {', '.join(first)}")


def _fields(raw: bytes | Oversized, line: int) -> Fields:
    try:
        fields = orjson.loads(raw) if isinstance(raw, bytes) else None
    except orjson.JSONDecodeError:
        fields = None
    return {**fields, LINE: line} if isinstance(fields, dict) else {}
