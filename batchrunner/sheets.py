"""Rows of values to a file: CSV, TSV, Markdown, plain text, Parquet.

Rules:

1. Row by row: memory does not grow.
2. A cell never starts anything: a text that a spreadsheet would take for a formula gets an apostrophe in front, Markdown and
   terminals get no markup and no control characters. Plain numbers stay numbers.
3. What is neither text nor number nor truth value is written as JSON.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from batchrunner.tables import arrow

Write = Callable[[bytes], object]
Rows = Callable[[], Iterable[Sequence[Any]]]
Form = Callable[[Sequence[str], Rows, Write], None]
BATCH = 1024  # rows of a Parquet file that are written together
_FORMULA = re.compile(r"[ \t\n]*[=+\-@＝＋－＠\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"[\\`*_\[\]<>|#~]")


def text(value: Any) -> str:
    """A value as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return "" if value is None else msgspec.json.encode(value).decode()


def lines(value: Any) -> str:
    """The same with LF for every line break: a CR alone would end a row for some readers."""
    return text(value).replace("\r\n", "\n").replace("\r", "\n")


def harmless(value: Any) -> str:
    """The same for a spreadsheet, which computes what looks like a formula."""
    said = lines(value)
    return f"'{said}" if _FORMULA.match(said) and not _NUMBER.fullmatch(said) else said


class _Encoded(io.TextIOBase):
    """A text file for `csv`, over a writer of bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def write(self, piece: str, /) -> int:
        self._write(piece.encode())
        return len(piece)


def _separated(names: Sequence[str], rows: Rows, write: Write, dialect: str) -> None:
    writer = csv.writer(_Encoded(write), dialect, lineterminator="\n")
    writer.writerow(map(harmless, names))
    for row in rows():
        writer.writerow(map(harmless, row))


def comma(names: Sequence[str], rows: Rows, write: Write) -> None:
    """RFC 4180, in UTF-8, with LF."""
    _separated(names, rows, write, "excel")


def tab(names: Sequence[str], rows: Rows, write: Write) -> None:
    """The same between tabs."""
    _separated(names, rows, write, "excel-tab")


def markdown(names: Sequence[str], rows: Rows, write: Write) -> None:
    """A table of GitHub's, cells on one line each."""
    for row in (names, ["---"] * len(names)):
        write(f"| {' | '.join(map(_cell, row) if row is names else row)} |\n".encode())
    for row in rows():
        write(f"| {' | '.join(map(_cell, row))} |\n".encode())


def _cell(value: Any) -> str:
    said = _MARKUP.sub(lambda mark: {"<": "&lt;", ">": "&gt;"}.get(mark[0], f"\\{mark[0]}"), _printable(value))
    return "<br>".join(said.splitlines())


def _printable(value: Any) -> str:
    return _CONTROL.sub(" ", lines(value))


def plain(names: Sequence[str], rows: Rows, write: Write) -> None:
    """For reading: a line for each name and value, an empty one between records; of a single column the values alone."""
    for row in rows():
        lines = row if len(names) == 1 else (f"{name}: {_printable(value)}" for name, value in zip(names, row, strict=True))
        write(("\n".join(map(_printable, lines)) + "\n\n").encode())


def parquet(names: Sequence[str], rows: Rows, write: Write) -> None:
    """Columns of whole numbers, numbers, truth values or texts, by all that is in them: the rows are read twice for it."""
    lib, files = arrow()
    types = [_TYPES.get(frozenset(found), "string") for found in _found(rows(), len(names))]
    schema = lib.schema([(name, getattr(lib, type_)()) for name, type_ in zip(names, types, strict=True)])
    with files.ParquetWriter(lib.PythonFile(_Sink(write), "w"), schema) as file:
        each = iter(rows())
        while batch := list(islice(each, BATCH)):
            columns = [
                [value if type_ != "string" or value is None else text(value) for value in column]
                for type_, column in zip(types, zip(*batch, strict=True), strict=True)
            ]
            arrays = [lib.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            file.write_batch(lib.RecordBatch.from_arrays(arrays, schema=schema))


_TYPES: Mapping[frozenset[type], str] = {
    frozenset({int}): "int64",
    frozenset({float}): "float64",
    frozenset({int, float}): "float64",
    frozenset({bool}): "bool_",
}


def _found(rows: Iterable[Sequence[Any]], width: int) -> list[set[type]]:
    """The types in each column."""
    found: list[set[type]] = [set() for _ in range(width)]
    for row in rows:
        for types, value in zip(found, row, strict=True):
            if value is not None:
                types.add(int if type(value) is int and abs(value) < 1 << 63 else type(value) if type(value) is not int else str)
    return found


class _Sink(io.RawIOBase):
    """A file for `pyarrow`, over a writer of bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, piece: Any, /) -> int:
        self._write(bytes(piece))
        self._size += len(piece)
        return len(piece)


def columns_of(path: Path) -> list[str]:
    """The columns of a Parquet file; none of what is no such file."""
    lib, files = arrow()
    try:
        return list(files.read_schema(path).names)
    except lib.ArrowInvalid:
        return []


SHEETS: Mapping[str, Form] = {
    "csv": comma,
    "tsv": tab,
    "md": markdown,
    "txt": plain,
    "parquet": parquet,
}
