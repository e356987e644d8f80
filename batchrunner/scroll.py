"""An append-only file of lines that nobody waits for and that never grows beyond its size.

Rules:

1. Lines gather in memory and are written when there are enough of them, or when somebody says `flush`.
2. When half of the allowed size is full the file becomes `NAME.1.jsonl`, in place of an older one, and a new one begins.
3. Losing it loses no work: after the first fault of the disk it is silent, and says so once.
"""

import os
from collections.abc import Callable
from pathlib import Path

from batchrunner.disk import DISK, Disk, Log, last_line_end, why

FULL = 64 * 1024


class Scroll:
    """`add` lines to the file at `path`, at most `most` bytes of which are kept. `note` hears why it has fallen silent."""

    def __init__(self, path: Path, most: int, note: Callable[[str], None], disk: Disk = DISK) -> None:
        self.path = path
        self.silent = False
        self._half = most // 2
        self._note = note
        self._disk = disk
        self._buffer = bytearray()
        self._log: Log | None = None
        self._safely(self._open)

    def last(self) -> bytes:
        """The last whole line of the file as it was found; empty when there is none."""
        log = self._log
        if log is None or not log.size:
            return b""
        piece = self._disk.read(log.fd, FULL, max(0, log.size - FULL))
        return piece.rstrip(b"\n").rpartition(b"\n")[2]

    def add(self, line: bytes) -> None:
        """Add one line, given without its LF."""
        if self.silent:
            return
        self._buffer += line
        self._buffer += b"\n"
        if len(self._buffer) >= FULL:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        if self._buffer and not self.silent:
            self._safely(self._write)

    def close(self) -> None:
        """Write what has gathered, and let the file go."""
        self.flush()
        if self._log:
            self._log.close()
            self._log = None

    def _open(self) -> None:
        self._log = Log(self._disk, self.path)
        whole = last_line_end(self._disk, self._log.fd, self._log.size)
        if whole < self._log.size:  # a killed run left half a line
            self._disk.truncate(self._log.fd, whole)
            self._log.size = whole

    def _write(self) -> None:
        assert self._log is not None
        if self._log.size and self._log.size + len(self._buffer) > self._half:
            self._turn()
        self._log.append(bytes(self._buffer))
        self._buffer.clear()

    def _turn(self) -> None:
        assert self._log is not None
        self._log.close()
        self._disk.rename(self.path, older(self.path))
        self._log = Log(self._disk, self.path, os.O_EXCL)

    def _safely(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self.silent = True
            self._buffer.clear()
            self._note(f"{self.path.name} is not written any more: {why(error)}; the results are not affected")


def older(path: Path) -> Path:
    """Where the older half of a scroll is."""
    return path.with_name(f"{path.stem}.1{path.suffix}")
