"""The cache that makes resume fast: a `Standing`, and what input and output looked like when it was true.

Rules:

1. It is never believed over the files: other input, or another piece or length of its lines (`read_as`), other output, another
   version, a wrong byte, and it is removed and rebuilt.
2. It speaks only of records that are on stable storage; with `sync = none` there is none.
3. With it, only what was appended since is read. A record there that does not simply settle an open line voids it.
4. No fsync of its own: what a power cut leaves of it fails its checksum.
"""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from batchrunner.disk import DISK, Disk, records, replace
from batchrunner.journal import Journal
from batchrunner.lines import MAX_LINE
from batchrunner.resume import Known
from batchrunner.standing import Standing

VERSION = 4
_ENDS = 1 << 16
ReadAs = tuple[str, int]  # which shard of the input is read, and up to which length a line


class _Mark(Struct, frozen=True, array_like=True):
    """What a file looked like: identity, size, and a digest of some of its bytes."""

    inode: int
    size: int
    modified: int  # ns; 0 for the output, which grows
    changed: int
    digest: bytes


class _Saved(Struct, frozen=True, array_like=True):
    version: int
    input: _Mark
    results: _Mark
    errors: _Mark
    keep_changed: bool
    read_as: ReadAs
    standing: Standing


def _piece(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(max(0, start))
    return file.read(end - max(0, start))


def _input_mark(path: Path) -> _Mark | None:
    """Size, times, inode, and the digest of both ends; None when there is no plain file to come back to."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            size = facts.st_size
            digest = hashlib.sha256(_piece(file, 0, min(size, _ENDS)) + _piece(file, size - _ENDS, size)).digest()
    except OSError:
        return None
    return _Mark(facts.st_ino, size, facts.st_mtime_ns, facts.st_ctime_ns, digest)


def _output_mark(path: Path, size: int) -> _Mark | None:
    """Inode, and the digest of the end of the first `size` bytes; None when there are not so many whole lines."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            end = _piece(file, size - _ENDS, size)
    except OSError:
        return None
    if facts.st_size < size or end[-1:] not in {b"", b"\n"}:
        return None
    return _Mark(facts.st_ino, size, 0, 0, hashlib.sha256(end).digest())


class Checkpoint:
    """The checkpoint of one open journal. Make it before the input is read: it notes what the input looks like."""

    def __init__(self, journal: Journal, keep_changed: bool = False, read_as: ReadAs = ("", MAX_LINE), disk: Disk = DISK) -> None:
        self._journal = journal
        self._keep_changed = keep_changed
        self._read_as = read_as
        self._disk = disk
        self.note_input()

    def note_input(self) -> None:
        """Look at the input anew: it has taken its place."""
        self._input = _input_mark(self._journal.paths.input)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._journal.paths.checkpoint

    def load(self, read_record: Callable[[bytes], Known]) -> Standing | None:
        """The standing of now, or None, after removing what does not fit. Not for `retry`: it keeps no kinds by line."""
        try:
            standing = self._restored(self.path.read_bytes(), read_record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, zlib.error):  # msgspec's errors are ValueErrors
            standing = None
        if standing is None:
            self.drop()
        return standing

    def drop(self) -> None:
        """Remove it, durably: a later input may look like the one it was made for."""
        with contextlib.suppress(OSError):
            self._disk.unlink(self.path)
            self._disk.sync_folder(self.path.parent)

    async def save(self, standing: Standing) -> bool:
        """Write it in the journal's thread, after a sync of the records it speaks of; whether it was written.

        Refused while it would not be the whole truth for the next run: re-opened or changed lines, spilled answers, no
        syncs. FileError E404 from the sync.
        """
        journal = self._journal
        odd = standing.reopened or standing.changed or standing.duplicates
        if self._input is None or odd or journal.fault is not None or journal.durability.sync == "none":
            return False
        frozen = self._frozen(self._input, standing)
        if frozen is None:
            return False
        await journal.sync()
        return await journal.aside(lambda: self._write(frozen))

    def _frozen(self, source: _Mark, standing: Standing) -> bytes | None:
        results, errors = (_output_mark(log.path, log.size) for log in map(self._journal.log, (True, False)))
        if results is None or errors is None:
            return None
        bare = msgspec.structs.replace(standing, current=bytearray())
        return msgspec.msgpack.encode(_Saved(VERSION, source, results, errors, self._keep_changed, self._read_as, bare))

    def _write(self, frozen: bytes) -> bool:
        packed = zlib.compress(frozen, 1)
        try:
            replace(self.path, zlib.crc32(packed).to_bytes(4, "big") + packed, self._disk)
        except OSError:
            return False
        return True

    def _restored(self, raw: bytes, read_record: Callable[[bytes], Known]) -> Standing | None:
        if zlib.crc32(raw[4:]).to_bytes(4, "big") != raw[:4]:
            return None
        saved = msgspec.msgpack.decode(zlib.decompress(raw[4:]), type=_Saved)
        ours = (VERSION, self._input, self._keep_changed, self._read_as)
        if (saved.version, saved.input, saved.keep_changed, saved.read_as) != ours:
            return None
        paths, standing = self._journal.paths, saved.standing
        for path, mark in ((paths.results, saved.results), (paths.errors, saved.errors)):
            if mark != _output_mark(path, mark.size):
                return None
            for _offset, line in records(path, mark.size):
                record = read_record(line)
                if not record.digest or not 0 < record.line <= standing.last or standing.is_done(record.line):
                    return None
                standing.mark(record.line, record.ok, record.kind)
        return standing
