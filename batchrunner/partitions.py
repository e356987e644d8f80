"""Rows dealt out by their keys, so that a join of any size holds one partition in memory at a time.

Rules:

1. Rows of one key come to one partition, in the order in which they were put. Keys from 0 to `PARTS` name theirs, in order.
2. Beyond `BUDGET` bytes the rows go to a file without a name, which vanishes with us, however we end.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

PARTS = 256
BUDGET = 32 * 1024 * 1024  # bytes held in memory
_LENGTH = 8  # bytes before each row that say how long it is


class Partitions:
    """Put rows, then walk the partitions, as often as you like. A context manager. OSError when the disk has no room."""

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self._folder = folder
        self._budget = budget
        self._held = 0
        self._buffers = [bytearray() for _ in range(PARTS)]
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        self._file: IO[bytes] | None = None

    def put(self, key: str | int, row: bytes) -> None:
        """Add a row."""
        buffer = self._buffers[hash(key) % PARTS]
        buffer += len(row).to_bytes(_LENGTH, "little")
        buffer += row
        self._held += _LENGTH + len(row)
        if self._held > self._budget:
            self._spill()

    def __iter__(self) -> Iterator[list[bytes]]:
        for buffer, places in zip(self._buffers, self._places, strict=True):
            yield list(_rows(b"".join([*(self._piece(*place) for place in places), buffer])))

    def _spill(self) -> None:
        self._file = self._file or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed by __exit__
        end = self._file.seek(0, os.SEEK_END)
        for buffer, places in zip(self._buffers, self._places, strict=True):
            places.append((end, len(buffer)))
            end += self._file.write(buffer)
            buffer.clear()
        self._held = 0

    def _piece(self, offset: int, length: int) -> bytes:
        assert self._file is not None
        self._file.seek(offset)
        return self._file.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _rows(packed: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(packed):
        length = int.from_bytes(packed[at : at + _LENGTH], "little")
        at += _LENGTH
        yield packed[at : at + length]
        at += length
