"""Answers by what was asked, in a file that several runs may share.

Rules:

1. It only saves time and money: whatever is wrong with it, a request is simply sent. A broken file is set aside and begun anew.
2. It is bounded: the oldest answers leave first.
3. It holds answers as results hold them, without keys, and is readable by its owner alone.

The file is an SQLite database in WAL mode (sqlite.org/wal.html): no reader waits for a writer, and a killed run leaves it whole.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from batchrunner.disk import DISK, why
from batchrunner.errors import UsageError

T = TypeVar("T")
NAME = "answers.sqlite"
GROUP = 64  # answers that are written at once
PATIENCE = 0.5  # seconds to wait for another run that is writing; then the answers are not kept
_TABLES = """
create table if not exists answers (
    number integer primary key, key blob unique not null, status integer not null, request_id text not null, body blob not null
);
create table if not exists size (bytes integer not null);
insert into size select 0 where not exists (select 1 from size);
"""
_KEEP = "insert or ignore into answers (key, status, request_id, body) values (?, ?, ?, ?)"


Answer = tuple[int, str, bytes]  # status, request id, body


class Cache:
    """One open file. `folder` None: a file without a name, which vanishes with us. All methods belong to one thread.

    UsageError E409: there is no such folder to be had.
    """

    def __init__(self, folder: Path | None, most: int) -> None:
        self._most = most
        self._fresh: dict[bytes, Answer] = {}  # not written yet
        self._path = folder / NAME if folder else None
        self._base = self._opened()

    def find(self, key: bytes) -> Answer | None:
        """The answer kept under this key."""
        if fresh := self._fresh.get(key):
            return fresh
        ask = "select status, request_id, body from answers where key = ?"
        row: Answer | None = self._tried(lambda: self._base.execute(ask, (key,)).fetchone())
        return row

    def keep(self, key: bytes, answer: Answer) -> None:
        """Remember an answer."""
        self._fresh[key] = answer
        if len(self._fresh) >= GROUP:
            self.flush()

    def flush(self) -> None:
        """Write down what is fresh, and let go of what is too much."""
        fresh, self._fresh = self._fresh, {}
        if fresh:
            self._tried(lambda: self._write(fresh.items()))

    def close(self) -> None:
        """Write down what is left."""
        self.flush()
        with suppress(sqlite3.Error):
            self._base.close()

    def _opened(self) -> sqlite3.Connection:
        try:
            if self._path:
                _prepare(self._path)
            return _connected(self._path)
        except OSError as error:
            raise _unusable(self._path, why(error)) from None
        except sqlite3.DatabaseError as error:
            if self._path is None:
                raise _unusable(self._path, str(error)) from None
            return self._anew(error)

    def _anew(self, error: sqlite3.Error) -> sqlite3.Connection:
        """Set the broken file aside."""
        assert self._path
        try:
            for ending in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    Path(f"{self._path}{ending}").rename(f"{self._path}.broken{ending}")
            _prepare(self._path)
            return _connected(self._path)
        except (OSError, sqlite3.Error):
            raise _unusable(self._path, str(error)) from None

    def _tried(self, work: Callable[[], T]) -> T | None:
        """What fails is as if it had not been kept."""
        try:
            return work()
        except sqlite3.OperationalError:  # another run is writing, or the disk is full
            return None
        except sqlite3.DatabaseError as error:
            self._base.close()
            self._base = self._anew(error) if self._path else _connected(None)
            return None

    def _write(self, fresh: Iterable[tuple[bytes, Answer]]) -> None:
        base = self._base
        with base:
            base.execute("begin immediate")
            added = 0
            for key, answer in fresh:
                done = base.execute(_KEEP, (key, *answer))
                added += len(answer[2]) * done.rowcount
            (size,) = base.execute("update size set bytes = bytes + ? returning bytes", (added,)).fetchone()
            if size > self._most:
                self._shrink(size - self._most * 9 // 10)

    def _shrink(self, much: int) -> None:
        """Let the oldest go, so many bytes of them."""
        gone = 0
        for number, length in self._base.execute("select number, length(body) from answers order by number").fetchall():
            self._base.execute("delete from answers where number = ?", (number,))
            gone += length
            if gone >= much:
                break
        self._base.execute("update size set bytes = bytes - ?", (gone,))


def _prepare(path: Path) -> None:
    """A file that only we may read, in a folder that only we may read if it is new. OSError, also for a symbolic link."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    DISK.close(DISK.open(path, os.O_RDWR | os.O_CREAT))


def _connected(path: Path | None) -> sqlite3.Connection:
    base = sqlite3.connect(path or "", timeout=PATIENCE, isolation_level=None)
    try:
        base.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + _TABLES)
    except sqlite3.Error:
        base.close()
        raise
    return base


def _unusable(path: Path | None, reason: str) -> UsageError:
    return UsageError("E409", f"the cache {path or 'in memory'} cannot be used: {reason}", "name another folder: --cache DIR")
