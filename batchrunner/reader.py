"""The input as a survey wants it: ids and digests of its lines, block by block.

    python -m batchrunner.reader DESCRIPTOR PATH MAX_LINE SHARD      the inherited end of a pair, and a `Reading`

Rules:

1. `read` is the only way to read. A process that does it for another (`ahead`) says the same blocks in the same order.
2. It says `Ended` when it has read all. Whatever else ends it, it says nothing of it: the other reads on and finds out.
3. Digests are told as long as they are compared with anything. That they no longer are, the other says by closing its half
   of the pair; when nobody listens any more, the process ends.
"""

import os
import select
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from batchrunner.errors import BatchError
from batchrunner.identity import digests
from batchrunner.landmarks import Landmark, note
from batchrunner.lines import Line, read_blocks
from batchrunner.numbers import WIDTH
from batchrunner.selecting import names_of_shard

FRAME = 4  # bytes of the length before each message
BUFFER = 1 << 16

Names = Callable[[Sequence[Line], int], Sequence[str]]
Compared = Callable[[], bool]


class Reading(Struct, frozen=True):
    """What is to be read."""

    path: Path
    max_line: int
    shard: str

    def words(self) -> list[str]:
        """As a command line has it."""
        return [os.fspath(self.path), str(self.max_line), self.shard]

    @classmethod
    def told(cls, path: str, max_line: str, shard: str) -> Self:
        """The same, back from there."""
        return cls(Path(path), int(max_line), shard)


class Asked(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A block of lines from number `first` on: ids, "" for a line that is none of the job's, and digests (`numbers`), or none."""

    first: int
    names: Sequence[str]
    digests: bytes

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.names) - 1

    def behind(self, line: int) -> "Asked":
        """What of it comes after this line."""
        cut = max(0, line + 1 - self.first)
        return Asked(self.first + cut, self.names[cut:], self.digests[cut * WIDTH :])


class Ended(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """All was read; where lines begin."""

    marks: list[Landmark]


def read(reading: Reading, marks: list[Landmark], compared: Compared, names: Names | None = None) -> Generator[Asked, None, None]:
    """The blocks of the input; `marks` gets its landmarks. `names` gives the ids in place of those who know how to.

    `compared` is asked for each block whether anybody still wants digests. UsageError, FileError: as `lines.read_blocks` has.
    """
    named = names or names_of_shard(reading.shard)
    for first, lines in read_blocks(reading.path, reading.max_line, note=partial(note, marks)):
        yield Asked(first, named(lines, first), digests(lines).tobytes() if compared() else b"")


def tell(reading: Reading, end: socket.socket) -> None:
    """Say what is read to whoever is at the other end of the pair."""
    marks, pack = list[Landmark](), msgspec.msgpack.Encoder().encode
    with suppress(OSError, BatchError), end, end.makefile("wb", BUFFER) as out:

        def say(message: Asked | Ended) -> None:
            frame = pack(message)
            out.write(len(frame).to_bytes(FRAME, "big") + frame)

        for asked in read(reading, marks, lambda: not select.select([end], [], [], 0)[0]):
            say(asked)
        say(Ended(marks))


def main(descriptor: str, *words: str) -> None:
    """The whole life of a process that reads."""
    tell(Reading.told(*words), socket.socket(fileno=int(descriptor)))


if __name__ == "__main__":
    main(*sys.argv[1:])
