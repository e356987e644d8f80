"""The one seam to the file system: what the journal and the checkpoint do to files, and one append-only file.

Rules:

1. Every call that may fail on a full or broken disk goes through `Disk`, so that a test can make call number N fail.
2. No buffered or text layer: those report a full disk late or never.
3. What we create is 0600 (folders 0700), never through a symlink, and never a file that has a second name. Nothing of ours takes
   the place of a device, a pipe or a socket: whoever may write to /dev could do so, and the machine would be without it.
4. A record is one write, and is counted when it is whole. After a failed write the file is cut back to its whole records.
5. A failed fdatasync is final for its file: the kernel may have dropped the pages, and a second call would lie.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 16

WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EFBIG: "the file has reached the size limit of this process or file system",
    errno.EIO: "the device reports an I/O error",
    errno.EROFS: "the file system has become read-only",
    errno.ESTALE: "the network file system has lost the file",
    errno.ENOENT: "the folder does not exist",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "it is a symbolic link",
    errno.EISDIR: "it is a directory",
    errno.ENAMETOOLONG: "the name is too long",
}


NOT_REGULAR = "it is not a regular file"


class Unfit(OSError):  # noqa: N818  a fact about a path, named as one
    """What stands at the path is nothing we may write to. It brings its own words."""


class Gone(Unfit):
    """The path no longer names the file we write to."""


def why(error: OSError) -> str:
    """The reason of an I/O error in words."""
    known = "" if isinstance(error, Unfit) else WHY.get(error.errno or 0)
    return known or error.strerror or str(error)


Buffer = bytes | memoryview


class Disk:
    """The calls we make, one method each, with the safe flags built in."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of the file, created 0600 where `flags` has O_CREAT; a symlink is refused."""
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def mkdir(self, path: Path) -> None:
        """A new folder, 0700."""
        path.mkdir(0o700)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, record: Buffer) -> int:
        """How many bytes were taken: a nearly full disk takes fewer without an error."""
        return os.write(fd, record)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Wait until the bytes of the file are on stable storage. macOS has only the fuller call."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def sync_folder(self, path: Path) -> None:
        """Make names created, renamed or removed in this folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put `old` in the place of `new` in one step."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Remove the name; a symlink itself, not its target."""
        path.unlink()

    def lstat(self, path: Path) -> os.stat_result:
        """What stands at the path, symlinks not followed."""
        return path.lstat()

    def fstat(self, fd: int) -> os.stat_result:
        """What the descriptor names."""
        return os.fstat(fd)

    def free(self, path: Path) -> int:
        """Bytes we may still write on the file system of `path`."""
        room = os.statvfs(path)
        return room.f_bavail * room.f_frsize

    def lock(self, fd: int) -> None:
        """Take the file for this process, or BlockingIOError at once. flock: closing another descriptor keeps it."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)


DISK = Disk()


def write_all(disk: Disk, fd: int, record: Buffer) -> None:
    """Write every byte, however many calls it takes; one call as a rule."""
    rest = record
    while len(rest):
        try:
            taken = disk.write(fd, rest)
        except InterruptedError:
            continue
        if taken == len(rest):
            return
        rest = memoryview(rest)[taken:]


def special(path: Path) -> bool:
    """Whether a device, a pipe or a socket stands there, or behind a link: no file may take its place."""
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing, or nothing that leads anywhere
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_special(path: Path) -> None:
    """OSError for what is `special`."""
    if special(path):
        raise Unfit(errno.EINVAL, NOT_REGULAR, str(path))


def replace(path: Path, content: bytes, disk: Disk = DISK) -> None:
    """Write a small file in one step; what cannot be written leaves nothing behind."""
    refuse_special(path)
    partial = path.with_name(f"{path.name}.partial")
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(partial)
    fd = disk.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            write_all(disk, fd, content)
        finally:
            disk.close(fd)
        disk.rename(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(partial)
        raise


def blocks(disk: Disk, fd: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end` in pieces of bounded size."""
    while start < end:
        piece = disk.read(fd, min(BLOCK, end - start), start)
        if not piece:
            return
        yield piece
        start += len(piece)


def lines(disk: Disk, fd: int, start: int, end: int) -> Iterator[bytes]:
    """The whole lines from `start` to `end`, each with its LF; what follows the last LF is left out."""
    parts: list[bytes] = []
    for piece in blocks(disk, fd, start, end):
        *whole, rest = piece.split(b"\n")
        if whole:
            yield b"".join((*parts, whole[0], b"\n"))
            yield from (line + b"\n" for line in whole[1:])
            parts.clear()
        parts.append(rest)


def last_line_end(disk: Disk, fd: int, size: int) -> int:
    """The offset behind the last LF of a file of `size` bytes; 0 when it has none."""
    while size > 0:
        start = max(0, size - BLOCK)
        found = disk.read(fd, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def own(disk: Disk, fd: int, path: Path) -> os.stat_result:
    """The facts of an open file, if it is a plain one of a single name; else `Unfit`."""
    facts = disk.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise Unfit(errno.EINVAL, NOT_REGULAR, str(path))
    if facts.st_nlink > 1:
        raise Unfit(errno.EMLINK, "it has a second name (a hard link), which would be written to as well", str(path))
    return facts


class Log:
    """One append-only file of whole lines. `size` is their end, `synced` how much of it is known to be on stable storage."""

    __slots__ = ("disk", "fd", "inode", "lost", "path", "size", "start", "synced")

    def __init__(self, disk: Disk, path: Path, extra: int = 0) -> None:
        self.disk = disk
        self.path = path
        self.lost: OSError | None = None
        self.fd = disk.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | extra)
        try:
            facts = own(disk, self.fd, path)
        except OSError:
            disk.close(self.fd)
            raise
        self.inode = (facts.st_dev, facts.st_ino)
        self.size = self.start = facts.st_size
        self.synced = -1  # a run before us may have left bytes that no sync has seen

    def append(self, record: Buffer) -> None:
        """Add one record, or several whole ones. After an error the file ends where it ended before, if the disk allows."""
        try:
            write_all(self.disk, self.fd, record)
            self.size += len(record)
        except BaseException:
            with contextlib.suppress(OSError):
                self.disk.truncate(self.fd, self.size)
            raise

    def force(self, sync: bool) -> None:
        """Check that the path still names our file and bring it to stable storage. An OSError is kept in `lost` and is final."""
        size = self.size
        if self.synced == size:
            return
        if self.lost is not None:
            raise self.lost
        try:
            self._check(size)
            if sync:
                self.disk.sync(self.fd)
        except OSError as error:
            self.lost = error
            raise
        self.synced = size

    def _check(self, size: int) -> None:
        try:
            facts = self.disk.lstat(self.path)
        except FileNotFoundError as error:
            raise Gone(errno.ENOENT, "it was deleted or renamed while the run was writing to it", str(self.path)) from error
        if (facts.st_dev, facts.st_ino) != self.inode:
            raise Gone(errno.ESTALE, "another file was put in its place while the run was writing to it", str(self.path))
        if facts.st_size < size:
            raise Gone(errno.ESTALE, "it was cut short by somebody else while the run was writing to it", str(self.path))

    def close(self) -> None:
        """Give the descriptor back; what it may have to say was said by `force`."""
        with contextlib.suppress(OSError):
            self.disk.close(self.fd)


def records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The lines of an output file from offset `start` on, each as (offset, raw line with its LF)."""
    for at, block in record_blocks(path, start):
        for raw in block:
            yield at, raw
            at += len(raw)


def record_blocks(path: Path, start: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """The same some at a time: the offset of the first line, and the lines."""
    with path.open("rb", buffering=4 * BLOCK) as file:
        file.seek(start)
        while block := file.readlines(4 * BLOCK):
            yield start, block
            start += sum(map(len, block))
