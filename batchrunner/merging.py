"""Join result files, of shards or of attempts at one batch, into one record for each request.

Rules:

1. A success goes before a failure; of several alike the last counts: a job adds to its results, so an earlier answer is one to an
   older text of the line.
2. Records are copied byte for byte, so that all files must be in one dialect. Failures go to the errors file.
3. Nothing is overwritten. Each file gets its name when it is whole, and what was merged is still there.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from batchrunner.core.wording import plural
from batchrunner.disk import DISK, why, write_all
from batchrunner.errors import FileError, UsageError
from batchrunner.foreign import WRITERS, dialect_of_record, read_record
from batchrunner.identity import identify
from batchrunner.lines import read_lines
from batchrunner.looking import refuse_unfit
from batchrunner.partitions import Partitions
from batchrunner.paths import Paths
from batchrunner.records import Record, prevailing


class Merged(Struct):
    """What came of it: `files` with `lines` became `succeeded + failed` records. `missing` is counted when the input is named."""

    output: str
    errors: str
    files: int = 0
    lines: int = 0
    succeeded: int = 0
    failed: int = 0
    repeated: int = 0
    unreadable: int = 0
    strangers: int = 0  # records of requests that the input does not have
    missing: int | None = None

    @property
    def exit_code(self) -> int:
        """0: every request has an answer; 1: some failed; 3: some of the input are missing."""
        return 3 if self.missing else int(self.failed > 0)

    def __str__(self) -> str:
        told = {
            "succeeded": self.succeeded,
            "failed": self.failed,
            "missing": self.missing or 0,
            "repeated": self.repeated,
            "answers to other requests left out": self.strangers,
            "lines that are no records": self.unreadable,
        }
        counts = " · ".join(f"{what} {count:,}" for what, count in told.items() if count)
        read = f"{plural(self.files, 'file')} with {plural(self.lines, 'line')}"
        return f"{read}: {counts or 'nothing in them'}\n{self.output} · {self.errors}"


class _Row(Struct, array_like=True, gc=False):
    """A record, or with `raw` empty a line of the input."""

    id: str
    ok: bool
    raw: bytes


_packed = msgspec.msgpack.encode
_row = msgspec.msgpack.Decoder(_Row).decode


def merge(files: Sequence[Path], output: Path, asked: str = "") -> Merged:
    """Merge `files` into `output` and the errors file beside it; `asked` is the input that they answer, if it is to be counted.

    UsageError E201 E202 E204: a file cannot be read, or none holds a record. E003: in several dialects, or into a folder.
    E401: the output exists. FileError E404: it cannot be written.
    """
    refuse_unfit("-o FILE", str(output))
    paths = Paths.of(Path(asked), output)
    merged = Merged(str(paths.results), str(paths.errors), missing=0 if asked else None)
    _refuse_existing((paths.results, paths.errors))
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=output.parent, prefix=".merge-")))
            rows = stack.enter_context(Partitions(folder))
            _deal(files, rows, merged)
            _refuse_nothing(merged)
            if asked:
                _deal_input(Path(asked), rows)
            _write(rows, paths, folder, merged)
    except OSError as error:
        raise FileError("E404", f"{output} cannot be written: {why(error)}", "make room, then merge again") from error
    return merged


def _refuse_existing(targets: Iterable[Path]) -> None:
    for path in targets:
        if path.exists():
            raise UsageError("E401", f"{path} exists already", "name another output, or move that one away")


def _refuse_nothing(merged: Merged) -> None:
    if merged.lines and merged.lines == merged.unreadable:
        where = plural(merged.files, "file")
        raise UsageError("E201", f"{where} with {plural(merged.lines, 'line')}: not one is a record", "name files of results")


def _deal(files: Sequence[Path], rows: Partitions, merged: Merged) -> None:
    written = ""
    for path, line, record in _records(files, merged):
        found = dialect_of_record(line)
        if written and WRITERS[found] is not WRITERS[written]:
            message = f"{path} is in the dialect of {found}, another file in that of {written}"
            raise UsageError("E003", message, "merge alike ones")
        written = found
        rows.put(record.id, _packed(_Row(record.id, record.ok, line)))


def _records(files: Sequence[Path], merged: Merged) -> Iterator[tuple[Path, bytes, Record]]:
    """Every line that is a record, and what it says."""
    for path in files:
        merged.files += 1
        for _, raw in read_lines(path):
            merged.lines += 1
            line = raw if isinstance(raw, bytes) else b""
            try:
                record = read_record(line)
            except ValueError:
                merged.unreadable += 1
            else:
                yield path, line, record


def _deal_input(path: Path, rows: Partitions) -> None:
    for line, raw in read_lines(path):
        name = identify(raw, line)[0]
        rows.put(name, _packed(_Row(name, False, b"")))


def _write(rows: Partitions, paths: Paths, folder: Path, merged: Merged) -> None:
    parts = {ok: folder / str(ok) for ok in (True, False)}
    opened = {ok: DISK.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) for ok, part in parts.items()}
    try:
        for partition in rows:
            kept = list(_chosen(map(_row, partition), merged))
            for ok, target in opened.items():
                write_all(DISK, target, b"".join(row.raw + b"\n" for row in kept if row.ok is ok))
        for target in opened.values():
            DISK.sync(target)
    finally:
        for target in opened.values():
            with suppress(OSError):
                DISK.close(target)
    for ok, path in ((True, paths.results), (False, paths.errors)):
        DISK.rename(parts[ok], path)


def _chosen(rows: Iterable[_Row], merged: Merged) -> Iterator[_Row]:
    """One record for each id of a partition; of the input's own ids only, where it is known."""
    asked: set[str] = set()
    best: dict[str, _Row] = {}
    for row in rows:
        if not row.raw:
            asked.add(row.id)
            continue
        known = best.get(row.id)
        merged.repeated += known is not None
        best[row.id] = prevailing(known, row)
    if merged.missing is not None:
        merged.missing += len(asked - best.keys())
        merged.strangers += len(best.keys() - asked)
    for name, row in best.items():
        if merged.missing is None or name in asked:
            merged.succeeded += row.ok
            merged.failed += not row.ok
            yield row
