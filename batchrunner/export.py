"""The results of a job as a table: `batchrunner export INPUT FILE`.

Rules:

1. One row a request, failures too: first the answers, then what failed, each in the order of its file (`--ordered` of the run
   puts these into the order of the input).
2. A record that no longer counts is left out: a success goes before a failure, and what was written later before the earlier.
   An answer to a line that was edited since (`--changed rerun`) stays in its file, which is only ever added to.
3. The file takes its name when it is whole. It takes the place of an earlier export, never of a file that begins otherwise.
4. Nothing of the job is changed.
"""

import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.columns import DEFAULT, Seen, column, spread
from batchrunner.core.wording import plural
from batchrunner.disk import records, why
from batchrunner.errors import FileError, UsageError
from batchrunner.foreign import read_record
from batchrunner.looking import refuse_own, refuse_unfit
from batchrunner.partitions import Partitions
from batchrunner.paths import Paths
from batchrunner.records import prevailing
from batchrunner.sheets import SHEETS, Form, Rows, columns_of
from batchrunner.spooling import Spool
from batchrunner.standing import BIT
from batchrunner.terminal import carry, hush, refuse_closed

STDOUT = "-"


class Exported(Struct):
    """What was written: `records` rows; `empty` are columns that no record has anything for."""

    file: str
    records: int
    columns: list[str]
    empty: list[str]

    def __str__(self) -> str:
        odd = f"\nnothing is in: {', '.join(self.empty)}" if self.empty and self.records else ""
        return f"{plural(self.records, 'record')} → {self.file}{odd}"


def export(paths: Paths, target: str, columns: str = "", sheet: str = "") -> Exported:
    """Write the records of a job as a table; `paths.input` may be the results file itself. `sheet` names the form of the table.

    UsageError E201: there are no results. E002: no such form. E003: the file is one of the job's own. E401: not ours.
    E206: an extra is missing. FileError E404: it cannot be written.
    """
    if target == STDOUT:
        refuse_closed("name one: batchrunner export INPUT FILE")
    files = _files(paths)
    form = _form(target, sheet, paths)
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        counting = _counting(files, Path(folder))
    names = spread((name.strip() for name in (columns or DEFAULT).split(",") if name.strip()), _Counted(files, counting))
    table = _Table(names, _Counted(files, counting))
    try:
        if target != STDOUT:
            _refuse_foreign(Path(target), form, names, table)
        with nullcontext() if target == STDOUT else Spool(Path(target)) as spool:
            form(names, table, spool.write if spool else carry)
        sys.stdout.flush()
    except BrokenPipeError:
        hush(sys.stdout)  # whoever read has enough
    except OSError as error:
        raise FileError("E404", f"{target} cannot be written: {why(error)}", "make room, then export again") from None
    return Exported(target, table.count, names, [name for name in names if name not in table.filled])


def _files(paths: Paths) -> list[Path]:
    answers = paths.input if _holds_records(paths.input) else paths.results
    found = [path for path in (answers, paths.errors) if path.exists()]
    if not found:
        raise UsageError("E201", f"{paths.results}: there are no results yet.", f"Run the job first: batchrunner {paths.input}")
    return found


def _holds_records(path: Path) -> bool:
    """Whether the first line of a file is a record."""
    try:
        return path.is_file() and bool(read_record(next((raw for _, raw in records(path)), b"")).id)
    except ValueError:
        return False


def _refuse_foreign(path: Path, form: Form, names: Sequence[str], rows: Rows) -> None:
    """E401: what stands there does not begin as this table does."""
    if not path.exists() or not path.stat().st_size:
        return
    if not (columns_of(path) == names if form is SHEETS["parquet"] else _begins(path, form, names, rows)):
        hint = f"name another file: batchrunner export INPUT FILE\nif nobody needs that one:  rm {shlex.quote(str(path))}"
        raise UsageError("E401", f"{path} holds something other than a table of these columns", hint)


def _begins(path: Path, form: Form, names: Sequence[str], rows: Rows) -> bool:
    start: list[bytes] = []
    form(names, lambda: islice(rows(), 1), start.append)
    line = b"".join(start).partition(b"\n")[0]
    with path.open("rb") as file:
        return bool(line) and file.read(len(line) + 1) == line + b"\n"


def _form(target: str, sheet: str, paths: Paths) -> Form:
    name = sheet or Path(target).suffix.removeprefix(".").lower() or "csv"
    if name not in SHEETS or (target == STDOUT and name == "parquet"):
        raise UsageError(
            "E002", f"{target}: no such table can be written there.", f"Name it by its ending, or --as {' · '.join(SHEETS)}"
        )
    if target != STDOUT:
        refuse_unfit("batchrunner export INPUT FILE", target)
        refuse_own("batchrunner export INPUT FILE", target, paths)
    return SHEETS[name]


class _Row(Struct, array_like=True, gc=False):
    id: str
    ok: bool
    file: int
    number: int


_packed = msgspec.msgpack.encode
_row = msgspec.msgpack.Decoder(_Row).decode


def _counting(files: Sequence[Path], folder: Path) -> list[bytearray]:
    """One bit for each line of each file: it is the last word on its request."""
    with Partitions(folder) as rows:
        counting = [bytearray((_deal(number, path, rows) >> 3) + 1) for number, path in enumerate(files)]
        for partition in rows:
            best: dict[str, _Row] = {}
            for row in map(_row, partition):
                best[row.id] = prevailing(best.get(row.id), row)
            for row in best.values():
                counting[row.file][row.number >> 3] |= BIT[row.number & 7]
    return counting


def _deal(file: int, path: Path, rows: Partitions) -> int:
    number = -1
    for number, (_, raw) in enumerate(records(path)):
        try:
            record = read_record(raw)
        except ValueError:
            continue
        rows.put(record.id, _packed(_Row(record.id, record.ok, file, number)))
    return number + 1


class _Counted(Struct):
    """The records that count, as often as they are asked for."""

    files: Sequence[Path]
    counting: Sequence[bytearray]

    def __iter__(self) -> Iterator[bytes]:
        for path, bits in zip(self.files, self.counting, strict=True):
            for number, (_, raw) in enumerate(records(path)):
                if number >> 3 < len(bits) and bits[number >> 3] & BIT[number & 7]:
                    yield raw


class _Table:
    """The rows of the table, as often as they are asked for."""

    def __init__(self, names: Sequence[str], counted: _Counted) -> None:
        self.count = 0
        self.filled: set[str] = set()
        self._counted = counted
        self._columns = {name: column(name) for name in names}
        self._names = names

    def __call__(self) -> Iterator[Sequence[Any]]:
        self.count = 0
        for raw in self._counted:
            seen = Seen(raw)
            shown = {name: show(seen) for name, show in self._columns.items()}
            self.filled.update(name for name, value in shown.items() if value is not None)
            self.count += 1
            yield [shown[name] for name in self._names]
