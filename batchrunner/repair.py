"""What is done to the output besides appending: refuse, lock, mend, rewrite.

Rules:

1. Nothing is opened or made before what stands at its path was looked at; nothing is written to before it is locked.
2. Only a tail behind the last LF is ever cut, and only after its copy in `torn/` is on stable storage.
3. A file is replaced only in one step, by a complete one.
4. A file that holds something other than records is somebody else's: it is refused untouched.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from batchrunner.disk import BLOCK, NOT_REGULAR, Disk, Log, Unfit, blocks, last_line_end, own, why, write_all
from batchrunner.errors import BatchError, FileError, UsageError

_DEVICE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)
_OURS = (b"{", b"[", b"\0")  # how a record begins, or the zeros a power cut leaves
_MARKS = frozenset({"response", "error", "result"})  # of which a record in an object has one
_KINDS = {stat.S_IFREG: "", stat.S_IFLNK: "it is a symbolic link", stat.S_IFDIR: "it is a directory"}


ELSEWHERE = "Choose another place with -o FILE."


def unusable(path: Path, reason: str, hint: str = ELSEWHERE) -> UsageError:
    """E401 for this path."""
    return UsageError("E401", f"The output cannot be written to {path}: {reason}.", hint)


def refusal(error: OSError, path: Path, hint: str = ELSEWHERE) -> BatchError:
    """What an OSError before the first request means: a path to change, or a disk to mend."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | os.PathLike) else path
    if error.errno in _DEVICE:
        return FileError(
            "E404", f"Cannot write {path}: {why(error)}. Nothing was sent.", "Mend that, then run the same command again."
        )
    return unusable(path, why(error), hint)


def inspect(disk: Disk, path: Path, source: Path) -> None:
    """Refuse what stands at an output's path if we may not append to it, the input above all."""
    try:
        facts = disk.lstat(path)
    except FileNotFoundError:
        return
    if reason := _KINDS.get(stat.S_IFMT(facts.st_mode), NOT_REGULAR):
        raise unusable(path, reason)
    with contextlib.suppress(OSError):
        if os.path.samestat(facts, source.stat()):
            raise unusable(path, "it is the input itself")


def folder(disk: Disk, path: Path, private: bool = False) -> None:
    """Make the folder, or accept the one that stands there if nobody else can put files into it."""
    with contextlib.suppress(FileExistsError):
        disk.mkdir(path)
    facts = disk.lstat(path)
    if not stat.S_ISDIR(facts.st_mode):
        raise Unfit(errno.ENOTDIR, "it is not a folder", str(path))
    if facts.st_mode & 0o022 or (private and facts.st_uid != os.geteuid()):
        raise Unfit(errno.EACCES, f"other users can write to it; `chmod go-w '{path}'` if it is yours", str(path))


def missing(disk: Disk, paths: Iterable[Path]) -> list[Path]:
    """Those of these paths where nothing stands."""
    return [path for path in paths if not _stands(disk, path)]


def _stands(disk: Disk, path: Path) -> bool:
    try:
        disk.lstat(path)
    except FileNotFoundError:
        return False
    return True


def unmake(disk: Disk, made: Iterable[Path]) -> None:
    """Remove what is empty of these files and folders."""
    for path in made:
        with contextlib.suppress(OSError):
            facts = disk.lstat(path)
            if stat.S_ISDIR(facts.st_mode):
                disk.rmdir(path)
            elif not facts.st_size:
                disk.unlink(path)


def lock(disk: Disk, path: Path, results: Path) -> int:
    """The descriptor that holds the lock file for as long as it is open. E403 when another run has it."""
    fd = disk.open(path, os.O_RDWR | os.O_CREAT)
    try:
        own(disk, fd, path)
        try:
            disk.lock(fd)
        except BlockingIOError as error:
            raise held(results, _holder(disk, fd)) from error
        if not disk.fstat(fd).st_nlink:  # whoever held it has withdrawn, and the file with it
            raise held(results, "a process that has just ended")
    except BaseException:
        disk.close(fd)
        raise
    return fd


def sign(disk: Disk, fd: int) -> None:
    """Say in the lock file who holds it."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    disk.truncate(fd, 0)
    write_all(disk, fd, json.dumps(holder).encode())


def _holder(disk: Disk, fd: int) -> str:
    try:
        holder = json.loads(disk.read(fd, 4096, 0))
        return f"{_process(holder['pid'], holder['host'])}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has just begun"


def held(results: Path, holder: str) -> UsageError:
    """E403: somebody else writes there."""
    hint = "Wait for it or stop it, then run the same command again. A run that was killed holds no lock."
    if holder.startswith(f"{_process(os.getpid(), socket.gethostname())},"):
        holder = f"{holder}, which is this program"
        hint = "Read its other stream to the end, or close it: `await stream.aclose()`. Other runs of it: wait for them."
    return UsageError("E403", f"Another run is writing to {results}: {holder}.", hint)


def _process(pid: int, host: str) -> str:
    return f"process {pid} on {host}"


def mend(disk: Disk, log: Log, torn: Path) -> None:
    """Cut what follows the last LF, after a copy of it is safe in `torn`."""
    if log.size and not _ours(disk.read(log.fd, BLOCK, 0)):
        raise unusable(log.path, "it holds something other than results")
    end = last_line_end(disk, log.fd, log.size)
    if end < log.size:
        set_aside(disk, torn, f"{log.path.name}.{end}", blocks(disk, log.fd, end, log.size))
        disk.truncate(log.fd, end)
        disk.sync(log.fd)
        log.size = log.start = end


def _ours(block: bytes) -> bool:
    """Whether one of these lines may be a record, however spoiled; of half a line only where there is no whole one."""
    lines = (block[: block.rfind(b"\n") + 1] or block).split(b"\n")
    return any(map(_may_be_record, lines))


def _may_be_record(raw: bytes) -> bool:
    if not raw.startswith(_OURS):
        return False
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return True
    return not isinstance(fields, dict) or not _MARKS.isdisjoint(fields)


def set_aside(disk: Disk, torn: Path, name: str, pieces: Iterable[bytes]) -> None:
    """Keep damaged bytes as `torn/NAME`, durably. The same bytes under the same name are kept once."""
    folder(disk, torn)
    partial = torn / "partial"
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(partial)
    digest = _copied(disk, partial, pieces)
    place = torn / name
    if place.exists():
        with place.open("rb") as there:
            same = hashlib.file_digest(there, "sha256").hexdigest() == digest
        place = place if same else torn / f"{name}.{digest[:8]}"
    disk.rename(partial, place)
    disk.sync_folder(torn)


def _copied(disk: Disk, path: Path, pieces: Iterable[bytes]) -> str:
    """Write the pieces to a new file; their sha256."""
    digest = hashlib.sha256()
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for piece in pieces:
            digest.update(piece)
            write_all(disk, fd, piece)
        disk.sync(fd)
    finally:
        disk.close(fd)
    return digest.hexdigest()


def rewrite(old: Log, records: Iterable[bytes]) -> tuple[Log, int]:
    """Put a file of these lines in the place of `old`, from which they may be read; its log, and how many lines there are."""
    partial = old.path.with_name(f"{old.path.name}.partial")
    disk = old.disk
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(partial)
    new = Log(disk, partial, os.O_EXCL)
    try:
        kept = _fill(new, records)
        disk.sync(new.fd)
        disk.lock(new.fd)  # as `old` may be: the name never leads to a file that others may write to
        disk.rename(partial, old.path)
    except BaseException:
        new.close()
        with contextlib.suppress(OSError):
            disk.unlink(partial)
        raise
    new.path, new.synced = old.path, new.size
    with contextlib.suppress(OSError):  # should the new name be lost with the power, the old file is complete as well
        disk.sync_folder(old.path.parent)
    return new, kept


def _fill(new: Log, records: Iterable[bytes]) -> int:
    """Append lines to a file, some at a time; how many."""
    count, batch, size = 0, list[bytes](), 0
    for line in records:
        count, size = count + 1, size + len(line)
        batch.append(line)
        if size > BLOCK:
            new.append(b"".join(batch))
            batch, size = [], 0
    new.append(b"".join(batch))
    return count
