"""A few 64-bit numbers for each line, of which memory holds only some.

Rules:

1. A `Column` is read back by place, in windows; `Piles` are dealt by key and read back pile by pile.
2. What is beyond the `BUDGET` lies in an unnamed file in the run folder, which goes away with the process.
3. Numbers are signed and in the machine's own order: nothing here outlives a run.
"""

import os
import sys
import tempfile
from array import array
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

PILES = 256
BUDGET = 500_000  # numbers in memory, for each column and for all piles of one kind
WIDTH = 8  # bytes of a number


def number_of(digest: str) -> int:
    """The number of a digest of 16 hex digits: its 8 bytes; 0 for an empty one, and one of its own for any other text."""
    try:
        return int.from_bytes(bytes.fromhex(digest), sys.byteorder, signed=True) if len(digest) == 2 * WIDTH else hash(digest)
    except ValueError:
        return hash(digest)


class Spare:
    """An unnamed file in a folder, made when it is first needed."""

    def __init__(self, folder: Path, until: ExitStack) -> None:
        self._folder = folder
        self._until = until
        self._file: IO[bytes] | None = None
        self.size = 0

    def add(self, numbers: "array[int]") -> None:
        """Put these at the end, and forget them in memory."""
        if self._file is None:
            self._file = self._until.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115  closed with `until`
        self.size += self._file.write(numbers)
        del numbers[:]

    def read(self, start: int, size: int) -> "array[int]":
        """The numbers of `size` bytes from `start` on."""
        numbers = array("q")
        if size > 0 and self._file is not None:
            self._file.flush()
            numbers.frombytes(os.pread(self._file.fileno(), size, start))
        return numbers


class Column:
    """One number a line, from 0 on."""

    def __init__(self, folder: Path, until: ExitStack) -> None:
        self._held = array("q")
        self._spare = Spare(folder, until)

    def extend(self, numbers: "array[int]") -> None:
        """Those of the next lines."""
        self._held.extend(numbers)
        if len(self._held) > BUDGET:
            self._spare.add(self._held)

    def window(self, first: int, end: int) -> "array[int]":
        """The numbers from place `first` to before `end`, as far as there are any."""
        spilled = self._spare.size // WIDTH
        numbers = self._spare.read(first * WIDTH, (min(end, spilled) - first) * WIDTH)
        numbers.extend(self._held[max(0, first - spilled) : max(0, end - spilled)])
        return numbers


class Piles:
    """Rows of numbers, dealt by the first of each, which is its key."""

    def __init__(self, folder: Path, until: ExitStack) -> None:
        self._piles = [array("q") for _ in range(PILES)]
        self._places = [array("q") for _ in range(PILES)]  # offset and bytes of what was spilled, in turn
        self._spare = Spare(folder, until)
        self._held = 0

    @property
    def used(self) -> bool:
        """Whether there is a row."""
        return bool(self._held or self._spare.size)

    def deal(self, keys: Collection[int]) -> None:
        """Rows that are nothing but keys."""
        append = [pile.append for pile in self._piles]
        for key in keys:
            append[key % PILES](key)
        self._take(len(keys))

    def add(self, key: int, *others: int) -> None:
        """One row."""
        self._piles[key % PILES].extend((key, *others))
        self._take(1 + len(others))

    def _take(self, count: int) -> None:
        self._held += count
        if self._held > BUDGET:
            self._held = 0
            for pile, places in zip(self._piles, self._places, strict=True):
                places.extend((self._spare.size, len(pile) * WIDTH))
                self._spare.add(pile)

    def __iter__(self) -> Iterator["array[int]"]:
        """Each pile whole, its rows in the order they came."""
        for pile, places in zip(self._piles, self._places, strict=True):
            whole = array("q")
            for start, size in zip(places[0::2], places[1::2], strict=True):
                whole.extend(self._spare.read(start, size))
            whole.extend(pile)
            yield whole
