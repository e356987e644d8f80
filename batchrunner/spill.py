"""Where answers go that the output can no longer take: two files elsewhere, one for results and one for errors.

Rules:

1. The folder belongs to us and nobody else can write to it; so do the files. What we take back is therefore ours.
2. The files are named by a hash of the output's path: the next run of the same output finds them.
3. Taking back is repeatable: lines that the output's end holds already are not added again.
"""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from batchrunner import repair
from batchrunner.disk import Disk, Log, Unfit, lines, own, why
from batchrunner.errors import FileError


class Spill:
    """The spill of one output. A folder that the user names is made at once, everything else by the first `put`."""

    def __init__(self, disk: Disk, results: Path, folder: str) -> None:
        self._named = bool(folder)
        self.folder = Path(folder or Path(tempfile.gettempdir()) / f"batchrunner-{os.geteuid()}")
        place = results.parent.resolve() / results.name
        self._name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        self._disk = disk
        self._logs: dict[bool, Log] = {}

    @property
    def wanted(self) -> tuple[Path, ...]:
        """The folder, where the user names one."""
        return (self.folder,) if self._named else ()

    @property
    def logs(self) -> tuple[Log, ...]:
        """The files in use."""
        return tuple(self._logs.values())

    def path(self, ok: bool) -> Path:
        """The file for results (`ok`) or errors."""
        return self.folder / f"{self._name}.{'results' if ok else 'errors'}.jsonl"

    def prepare(self) -> None:
        """Find out whether a folder that the user names will do, before answers are paid for. UsageError E401, FileError E404."""
        try:
            for folder in self.wanted:
                repair.folder(self._disk, folder, private=True)
        except OSError as error:
            raise repair.refusal(error, self.folder, "Name another --spill-dir, or leave it out.") from error

    def put(self, record: bytes, ok: bool) -> None:
        """Save one record. FileError E404 when it cannot be saved here either."""
        path = self.path(ok)
        try:
            if ok not in self._logs:
                repair.folder(self._disk, self.folder, private=True)
                self._logs[ok] = Log(self._disk, path)
            self._logs[ok].append(record)
        except OSError as error:
            raise FileError("E404", f"Answers are lost: {path} cannot be written either: {why(error)}.") from error

    def rescue(self, log: Log, ok: bool) -> None:
        """Save what `log` was given since its last sync: after a failed one the file may turn out not to have it."""
        try:
            for line in lines(self._disk, log.fd, max(log.start, log.synced), log.size):
                self.put(line, ok)
        except OSError as error:
            raise FileError("E404", f"The last answers in {log.path} may be lost: {why(error)}.") from error
        log.start = log.size

    def take_back(self, log: Log, ok: bool) -> None:
        """Append to `log` what an earlier run left here, and remove it. OSError leaves both usable for another try."""
        path = self.path(ok)
        try:
            fd = self._disk.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            facts = own(self._disk, fd, path)
            if facts.st_uid != os.geteuid():
                raise Unfit(errno.EACCES, "it belongs to another user", str(path))
            self._add(fd, facts.st_size, log)
        finally:
            self._disk.close(fd)
        self._disk.sync(log.fd)
        self._disk.unlink(path)

    def _add(self, fd: int, size: int, log: Log) -> None:
        there = {hashlib.sha256(line).digest() for line in lines(self._disk, log.fd, max(0, log.size - size), log.size)}
        for line in lines(self._disk, fd, 0, size):
            if hashlib.sha256(line).digest() not in there:
                log.append(line)

    def close(self) -> None:
        """Give the descriptors back."""
        for log in self.logs:
            log.close()
