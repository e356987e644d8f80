"""The output files are the journal: append, group commit, repair, spill, lock.

Rules:

1. One writer per output, by `flock` on the run folder's lock file, which the kernel drops when the process dies.
2. Opening repairs: bytes behind the last LF are copied to `torn/`, then cut. Good lines are never rewritten in place.
3. `append` returns when the kernel has the whole record; `sync` returns when stable storage has every record appended before.
4. The first fault of a file ends writing to both. Every later answer goes to the spill, a file elsewhere, and the next
   `open` puts it back, once. Those answers were paid for.
5. An answer is marked as done right after `append`, with no await between: a checkpoint relies on it.
6. A run that is refused takes back what it made and has not filled (`withdraw`).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from msgspec import Struct

from batchrunner import repair
from batchrunner.core.policy import option
from batchrunner.disk import DISK, Disk, Log, blocks, lines, why
from batchrunner.errors import FileError
from batchrunner.paths import Paths as Paths
from batchrunner.spill import Spill

T = TypeVar("T")


class Durability(Struct, frozen=True, kw_only=True):
    """What must survive what."""

    sync: Annotated[
        Literal["none", "interval", "always"],
        option(
            "force results to disk: never, every second, or before each is acknowledged",
            group="Input and output",
            metavar="none|interval|always",
            main=False,
        ),
    ] = "interval"
    min_free: Annotated[
        int,
        option(
            "stop before paying for more when the disk has less room than this",
            group="Input and output",
            metavar="SIZE",
            unit="bytes",
            main=False,
        ),
    ] = 64 * 1024 * 1024
    spill_dir: Annotated[
        str, option("where answers go that the output can no longer take", group="Input and output", metavar="DIR", main=False)
    ] = ""


class Journal:
    """The open output of one run. Make it with `Journal.open`; it is a context manager. All methods belong to one event loop."""

    def __init__(self, paths: Paths, durability: Durability, disk: Disk) -> None:
        self.paths = paths
        self.durability = durability
        self.fault: FileError | None = None  # why the output is no longer written
        self.appended = 0  # records given to us, the spilled ones included
        self._disk = disk
        self._lock = -1
        self._logs: dict[bool, Log] = {}
        self._made: list[Path] = []  # by us, for nothing stood there before
        self.spill = Spill(disk, paths.results, durability.spill_dir)
        self._forced = -1  # of `appended`, those a sync has covered; the first covers what a run before us left
        self._round: asyncio.Future[OSError | None] | None = None
        self._pool = ThreadPoolExecutor(1, "journal")

    @classmethod
    def open(cls, paths: Paths, durability: Durability, disk: Disk = DISK) -> Self:
        """Lock, repair and open the output of `paths`.

        UsageError E401: the output cannot stand there. E403: another run holds it. FileError E404: full or broken disk.
        """
        journal = cls(paths, durability, disk)
        try:
            journal._prepare()
        except BaseException as error:
            journal.withdraw()
            if isinstance(error, OSError):
                raise repair.refusal(error, paths.results) from error
            raise
        return journal

    def _prepare(self) -> None:
        paths, disk = self.paths, self._disk
        for path in (paths.results, paths.errors):
            repair.inspect(disk, path, paths.input)
        folders = (*self.spill.wanted, paths.folder)
        self._made = repair.missing(disk, folders)
        self.spill.prepare()
        repair.folder(disk, paths.folder)
        new = repair.missing(disk, (paths.lock, paths.results, paths.errors))
        self._lock = repair.lock(disk, paths.lock, paths.results)
        self._made += new  # nobody else fills them from here on
        repair.sign(disk, self._lock)
        for ok, path in ((True, paths.results), (False, paths.errors)):
            self._logs[ok] = Log(disk, path)
        self._fence()
        disk.sync_folder(paths.results.parent)
        for ok, log in self._logs.items():
            repair.mend(disk, log, paths.torn)
            self.spill.take_back(log, ok)

    def _fence(self) -> None:
        """Lock the results as well: the run folder may be deleted at any time, and its lock with it."""
        try:
            self._disk.lock(self._logs[True].fd)
        except BlockingIOError as error:
            raise repair.held(self.paths.results, "a process whose run folder was deleted") from error

    def withdraw(self) -> None:
        """The run is refused: remove what `open` has made, as far as nothing is in it, and give up the lock."""
        if self.appended:
            return
        if self.paths.lock in self._made:
            with contextlib.suppress(OSError):
                self._disk.truncate(self._lock, 0)
        repair.unmake(self._disk, reversed(self._made))
        self._release()

    def put_away(self, ok: bool, shelf: Path) -> None:
        """Move the results (`ok`) or errors file into a folder, and go on with a new one. For a time when all of it is synced."""
        old, place = self._logs[ok], shelf / self._logs[ok].path.name
        self._disk.rename(old.path, place)
        try:
            self._logs[ok] = Log(self._disk, old.path, os.O_EXCL)
            self._fence()
        except BaseException:
            self._logs[ok] = old
            self._disk.rename(place, old.path)
            raise
        old.close()

    def set_aside(self, path: Path, offset: int, raw: bytes) -> None:
        """Keep a damaged line of `path` in `torn/NAME.OFFSET`. FileError E404 when that fails."""
        try:
            repair.set_aside(self._disk, self.paths.torn, f"{path.name}.{offset}", [raw])
        except OSError as error:
            raise repair.refusal(error, self.paths.torn) from error

    # -- writing

    def append(self, record: bytes, ok: bool, count: int = 1) -> None:
        """Put `count` finished lines at the end of the results (`ok`) or errors file. They survive the death of this process.

        FileError E404 at the first fault, after the record was saved to the spill; later records go there in silence.
        """
        assert record.endswith(b"\n"), "a record ends its line"
        assert record.count(b"\n") == count, "a record is one line"
        if self.fault is not None:
            self.spill.put(record, ok)
        else:
            try:
                self._logs[ok].append(record)
            except OSError as error:
                raise self._fail(self._logs[ok], error, record, ok) from error
        self.appended += count

    async def commit(self) -> None:
        """What acknowledging a result must wait for: stable storage with `sync = always`, otherwise nothing."""
        if self.durability.sync == "always":
            await self.sync()

    async def sync(self) -> None:
        """Everything appended before this call is on stable storage when it returns; all who wait share one fdatasync.

        With `sync = none` only the files' identity is checked. FileError E404: a file failed or is no longer ours.
        """
        goal = self.appended
        while self._forced < goal:
            if self._round is None or self._round.done():
                self._round = asyncio.get_running_loop().run_in_executor(self._pool, self._force)
            error = await asyncio.shield(self._round)
            self._notice()
            if error is not None and self.fault is not None:
                raise FileError(*self.fault.args)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run `work` in the journal's own thread, after the sync that is under way."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def room(self) -> bool:
        """Whether the disk has `min_free` bytes left. A file system that does not say has room."""
        try:
            return self._disk.free(self.paths.results.parent) >= self.durability.min_free
        except OSError:
            return True

    def log(self, ok: bool) -> Log:
        """The log of the results (`ok`) or errors, to read its `path`, `inode`, `size`."""
        return self._logs[ok]

    def _force(self) -> OSError | None:
        """In the thread: bring every file to stable storage; the first error, if any."""
        goal, failed = self.appended, None
        broken = [log for log in self._logs.values() if log.lost is not None and self.fault is not None]
        for log in (*self._logs.values(), *self.spill.logs):
            try:
                if log not in broken:
                    log.force(self.durability.sync != "none")
            except OSError as error:
                failed = failed or error
        self._forced = max(self._forced, goal)
        return failed

    # -- faults

    def _notice(self) -> None:
        """Turn a file lost in a sync into the journal's fault, and save what no sync has covered."""
        for log in self._logs.values():
            if log.lost is not None and (self.fault is None or log.start < log.size):
                self._fail(log, log.lost)

    def _fail(self, log: Log, error: OSError, record: bytes = b"", ok: bool = True) -> FileError:
        """Write no more to the output, save what is at hand; the fault to raise."""
        try:
            for kind, other in self._logs.items():
                if other.lost is not None:
                    self.spill.rescue(other, kind)
            if record:
                self.spill.put(record, ok)
            kept = f"Answers still under way go to {self.spill.folder}."
        except FileError as lost:
            kept = lost.message
        message = f"Cannot write {log.path}: {why(error)}. {self.appended} results of this run were written before. {kept}"
        hint = "Mend that and run the same command again: it continues, and takes back the kept answers."
        self.fault = self.fault or FileError("E404", message, hint)
        return self.fault

    # -- the end

    def compact(self, ok: bool, keep: Callable[[int], bool]) -> int:
        """Leave only those lines in the results (`ok`) or errors file whose number, from 0, `keep` accepts; how many there are.

        It is one step. What falls out of the results was paid for, and is kept in `earlier/`.

        For a time when nothing is appended. FileError E404: the file was left as it was.
        """
        if ok:
            self._set_aside_earlier(self._numbered(ok, lambda number: not keep(number)))
        return self._rewritten(ok, self._numbered(ok, keep))

    def _numbered(self, ok: bool, keep: Callable[[int], bool]) -> Iterator[bytes]:
        log = self._logs[ok]
        return (raw for number, raw in enumerate(lines(self._disk, log.fd, 0, log.size)) if keep(number))

    def _set_aside_earlier(self, records: Iterator[bytes]) -> None:
        path = self._logs[True].path
        try:
            repair.set_aside(self._disk, self.paths.earlier, path.name, records)
        except OSError as error:
            raise _left_as_it_was(path, error) from error

    def arrange(self, ok: bool, places: Iterable[tuple[int, int]]) -> None:
        """Put the lines of the results (`ok`) or errors file in this order of offset and length, in one step.

        For a time when nothing is appended. FileError E404: the file was left as it was.
        """
        old = self._logs[ok]
        pieces = (blocks(self._disk, old.fd, offset, offset + length) for offset, length in places)
        self._rewritten(ok, map(b"".join, pieces))

    def _rewritten(self, ok: bool, records: Iterable[bytes]) -> int:
        if self.fault is not None:
            raise FileError(*self.fault.args)
        return self._pool.submit(self._rewrite, ok, records).result()

    def _rewrite(self, ok: bool, records: Iterable[bytes]) -> int:
        old = self._logs[ok]
        try:
            self._logs[ok], count = repair.rewrite(old, records)
        except OSError as error:
            raise _left_as_it_was(old.path, error) from error
        old.close()
        return count

    def close(self) -> None:
        """Sync what is left, give up the lock. Safe to repeat. FileError E404 if this last sync fails."""
        if self._lock < 0:
            return
        known = self.fault
        try:
            self._pool.shutdown(wait=True)
            self._force()
            self._notice()
        finally:
            self._release()
        if self.fault is not known and self.fault is not None:
            raise self.fault

    def _release(self) -> None:
        self._pool.shutdown(wait=False)
        for log in self._logs.values():
            log.close()
        self.spill.close()
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self._disk.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _left_as_it_was(path: Path, error: OSError) -> FileError:
    hint = "Mend that, then run the same command again."
    return FileError("E404", f"Cannot rewrite {path}: {why(error)}. It was left as it was.", hint)
