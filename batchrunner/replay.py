"""A trail read back: the lines of events.jsonl and attempts.jsonl, the older halves first.

Rules:

1. Reading never fails for what is in a file: a line that is torn, foreign or of a later version is left out.
2. Line by line: memory does not grow with the files.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from os import SEEK_END
from pathlib import Path
from typing import TypeVar

import msgspec

from batchrunner.core.trail import AttemptLine, Moment, SessionLine, Start, TrailLine
from batchrunner.paths import Paths
from batchrunner.scroll import older

LATELY = 2**20  # bytes at the end of events.jsonl in which the last moment stands

T = TypeVar("T")
_EVENT: msgspec.json.Decoder[TrailLine] = msgspec.json.Decoder(TrailLine)
_START: msgspec.json.Decoder[Start] = msgspec.json.Decoder(Start)
_MOMENT: msgspec.json.Decoder[Moment] = msgspec.json.Decoder(Moment)
_ATTEMPT: msgspec.json.Decoder[SessionLine | AttemptLine] = msgspec.json.Decoder(SessionLine | AttemptLine)


def events(paths: Paths) -> Iterator[TrailLine]:
    """What every run of this job has said of itself, in order."""
    return _read(paths.events, _EVENT)


def attempts(paths: Paths, last: int = 0) -> Iterator[AttemptLine]:
    """The attempts that were written down, in order; with `last` only those in the last so many bytes."""
    return (line for line in _read(paths.attempts, _ATTEMPT, last) if isinstance(line, AttemptLine))


def last_moments(paths: Paths) -> Sequence[Moment]:
    """The moments of the last session that sent something; empty when there is none."""
    found: dict[int, list[Moment]] = {}
    for line in events(paths):
        if isinstance(line, Moment):
            found.setdefault(line.session, []).append(line)
    busy = [moments for _, moments in sorted(found.items()) if moments[-1].attempts]
    return busy[-1] if busy else []


def last_moment(paths: Paths) -> Moment | None:
    """What the last run last said of itself; None when there is none that said anything."""
    return _last(_read(paths.events, _MOMENT, LATELY, b'{"event":"moment"'))


def last_start(paths: Paths) -> Start | None:
    """How the last session began; None when there is none."""
    return _last(_read(paths.events, _START, begins=b'{"event":"start"'))


def _last(lines: Iterator[T]) -> T | None:
    return next(iter(deque(lines, 1)), None)


def _read(path: Path, decoder: "msgspec.json.Decoder[T]", last: int = 0, begins: bytes = b"") -> Iterator[T]:
    for raw in _lines(path, last):
        if raw.startswith(begins):
            try:
                yield decoder.decode(raw)
            except (msgspec.MsgspecError, RecursionError):
                continue


def _lines(path: Path, last: int) -> Iterator[bytes]:
    for part in [path] if last else [older(path), path]:
        with suppress(OSError), part.open("rb") as file:
            file.seek(max(0, file.seek(0, SEEK_END) - last) if last else 0)
            yield from file
