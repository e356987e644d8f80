"""Tables to rows: CSV, TSV, Parquet, lines of JSON, plain texts; one file, the files of a folder or of a pattern.

Rules:

1. Row by row: memory does not grow with a file. What a row holds is not judged here.
2. What a file is, its name says, and where the name says nothing, its first line.
3. A file that is broken as a whole is refused (E208) before anything is sent; a row that is broken by itself is a `Flaw`.
4. The order is always the same: files by name, rows as they stand. What runs have written is not taken for input.
"""

import csv
import glob
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from batchrunner.errors import UsageError
from batchrunner.lines import Oversized, read_lines
from batchrunner.paths import PACKED, without_ending

BATCH = 1024  # rows of a Parquet file that are read together
FIRST = 20  # rows of JSON that are looked at for the columns


class Flaw(Struct, frozen=True):
    """A row that cannot be read, and why: the end of a sentence."""

    why: str


Cells = Mapping[str, Any]
Row = Cells | bytes | Flaw
Numbered = Iterator[tuple[int, Row]]
Columns = Collection[str] | None
"""The columns that are wanted; None: all of them, and lines of JSON as their bytes."""


def is_table(name: str) -> bool:
    """Whether an input of this name is a table, a folder or a pattern, and no file of requests."""
    return _kind(Path(name)) in _TABULAR or is_pattern(name) or Path(name).is_dir()


def is_pattern(name: str) -> bool:
    """Whether this is a pattern such as `texts/*.md`, and not the name of something."""
    return glob.has_magic(name) and not os.path.lexists(name)


def files_of(name: str, ours: Collection[Path] = ()) -> Sequence[Path]:
    """The files of an input, by name; `ours` are left out, and so are hidden files and the output of runs. UsageError E202."""
    path = Path(name)
    if is_pattern(name):
        found = [Path(each) for each in glob.glob(name, recursive=True)]  # noqa: PTH207  Path's takes no absolute one
    elif path.is_dir():
        found = [each for each in path.iterdir() if _kind(each) in _READERS and each.name[:1] != "."]
    else:
        return [path]
    left_out = {each.absolute() for each in ours}
    files = [each for each in found if each.is_file() and not each.name.endswith(_OUTPUT) and each.absolute() not in left_out]
    if not files:
        what = "the pattern fits no file" if is_pattern(name) else "it is a directory, and no file in it can be read"
        raise UsageError("E202", f"{name}: {what}.", f"Files that are read: {' '.join(_KINDS)}")
    return sorted(files)


_OUTPUT = (".results.jsonl", ".errors.jsonl")


def rows_of(source: Path | BinaryIO, columns: Columns, max_line: int) -> Numbered:
    """The rows of one file with their numbers from 1; of lines of JSON these are the numbers of the lines.

    UsageError E2xx: it cannot be read, is no such table, or lacks a column that is wanted. FileError E406.
    """
    if not isinstance(source, Path):
        return _unnamed(source, columns, max_line)
    read = _READERS.get(_kind(source), _unnamed)
    return read(source, columns, max_line)


def _unnamed(source: Path | BinaryIO, columns: Columns, max_line: int) -> Numbered:
    """What the name does not tell, the first bytes do."""
    if isinstance(source, Path) and source.is_file():
        with source.open("rb") as file:
            if file.read(4) == b"PAR1":
                yield from _parquet(source, columns, max_line)
                return
    lines = read_lines(source, max_line)
    first = next(lines, (1, b""))
    read = _json if isinstance(first[1], bytes) and first[1].lstrip()[:1] in {b"{", b"["} else _comma
    yield from read(chain([first] if first[1] else [], lines), columns, str(source))


# ---- texts with a row to a line ----

Lines = Iterable[tuple[int, bytes | Oversized]]


def _json(lines: Lines, columns: Columns, name: str) -> Numbered:
    rows = _json_rows(lines, columns)
    first = list(islice(rows, FIRST))
    found = [row for _, row in first if isinstance(row, dict)]
    if found:
        _refuse_unheard_of(columns, found, name)
    yield from chain(first, rows)


def _json_rows(lines: Lines, columns: Columns) -> Numbered:
    for number, raw in lines:
        if isinstance(raw, Oversized):
            yield number, Flaw(f"has {raw.size:,} bytes; at most {raw.limit:,} are accepted (--max-line)")
        elif columns is None:
            yield number, raw
        else:
            yield number, cells_of(raw)


def _refuse_unheard_of(columns: Columns, rows: Sequence[Cells], name: str) -> None:
    """Rows have no header: a column that none of the first has is taken for a mistake, one that some lack is not."""
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    _refuse_missing(columns, names, f"{name}, in its first {len(rows)} rows,")


def cells_of(raw: bytes) -> Cells | Flaw:
    """The row that a JSON object is."""
    try:
        row = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return Flaw("is not JSON")
    return row if isinstance(row, dict) else Flaw("is no JSON object")


def _comma(lines: Lines, columns: Columns, name: str) -> Numbered:
    """Cells between commas, or between what the header has most of: spreadsheets of many countries write semicolons."""
    texts = _texts(lines, name)
    header = next(texts, "")
    return _cells(chain([header], texts), max(",;\t|", key=header.count), columns, name)


def _tab(lines: Lines, columns: Columns, name: str) -> Numbered:
    return _cells(_texts(lines, name), "\t", columns, name)


def _cells(texts: Iterator[str], delimiter: str, columns: Columns, name: str) -> Numbered:
    _refuse_unasked(columns, name)
    csv.field_size_limit(2**31 - 1)  # lines are bounded already, and a cell that never ends is an error of its own
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _refuse_missing(columns, names, name)
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            yield number, _row(names, cells)
    except csv.Error as error:
        hint = "Is a quotation mark not closed, or not doubled inside a cell?"
        raise UsageError("E208", f"{name} breaks off at line {reader.line_num}: {error}.", hint) from None


def _row(names: Sequence[str], cells: Sequence[str]) -> Cells | Flaw:
    """A short row lacks its last cells; a long one has been cut in the wrong places."""
    if len(cells) > len(names):
        return Flaw(f"has {len(cells)} cells, the header {len(names)}: a delimiter inside a cell needs quotation marks")
    return dict(zip(names, cells, strict=False))


def _texts(lines: Lines, name: str) -> Iterator[str]:
    """Lines as text, blank ones too: they may stand inside a cell."""
    awaited = 1
    for number, raw in lines:
        yield from repeat("\n", number - awaited)
        awaited = number + 1
        if isinstance(raw, Oversized):
            raise UsageError("E208", f"{name}: line {number} has {raw.size:,} bytes.", "Accept it: --max-line SIZE")
        try:
            yield raw.decode() + "\n"
        except UnicodeDecodeError:
            hint = "Save it as UTF-8: iconv -f latin1 -t utf-8 FILE > table.csv"
            raise UsageError("E204", f"{name}: line {number} is not UTF-8.", hint) from None


def _refuse_missing(columns: Columns, names: Sequence[str], name: str) -> None:
    for column in columns or ():
        if names.count(column) != 1:
            told = "no column" if column not in names else "more than one column"
            raise UsageError("E208", f"{name} has {told} {column!r}.", f"It has: {', '.join(names[:40]) or 'none at all'}")


def _refuse_unasked(columns: Columns, name: str) -> None:
    if columns is None:
        hint = "Say what to ask of each row: --prompt 'Summarise: {column}' --model NAME"
        raise UsageError("E208", f"{name} is a table, and nothing says how its rows become requests.", hint)


def _of_lines(read: Callable[[Lines, Columns, str], Numbered]) -> Callable[[Path, Columns, int], Numbered]:
    return lambda path, columns, max_line: read(read_lines(path, max_line), columns, str(path))


# ---- others ----


def _parquet(path: Path, columns: Columns, _max_line: int) -> Numbered:
    lib, parquet = arrow()
    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_missing(columns, names, str(path))
            for batch in file.iter_batches(BATCH, columns=names if columns is None else list(columns)):
                yield from enumerate(batch.to_pylist(), first)
                first += batch.num_rows
    except (lib.ArrowException, OSError) as error:
        message = f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}."
        raise UsageError("E208", message, "Is the file whole?") from None


def arrow() -> tuple[Any, Any]:
    """pyarrow, and its Parquet. UsageError E206: it is not installed."""
    try:
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UsageError("E206", "Parquet needs an extra", "pip install 'batchrunner[parquet]'") from None
    return pa, parquet


def _text(path: Path, columns: Columns, max_line: int) -> Numbered:
    """A text is one row: its file, its name and itself."""
    _refuse_unasked(columns, str(path))
    _refuse_missing(columns, ("file", "name", "text"), str(path))
    try:
        size = path.stat().st_size
        text = path.read_text("utf-8-sig") if size <= max_line else ""
    except UnicodeDecodeError:
        yield 1, Flaw("is not UTF-8")
        return
    except OSError as error:
        raise UsageError("E201", f"the input {path} cannot be read: {error.strerror or error}") from None
    if size > max_line:
        yield 1, Flaw(f"has {size:,} bytes; at most {max_line:,} are accepted (--max-line)")
    else:
        yield 1, {"file": str(path), "name": path.name, "text": text}


_READERS: Mapping[str, Callable[[Path, Columns, int], Numbered]] = {
    "csv": _of_lines(_comma),
    "tsv": _of_lines(_tab),
    "json": _of_lines(_json),
    "parquet": _parquet,
    "text": _text,
}
_KINDS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".md": "text",
}
_TABULAR = frozenset({"csv", "tsv", "parquet"})


def _kind(path: Path) -> str:
    return _KINDS.get(Path(without_ending(path.name, PACKED)).suffix.lower(), "")
