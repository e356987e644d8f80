"""What becomes the input file of a job that has none: stdin, the rows of an iterable, tables made into requests.

Rules:

1. All of it is kept as lines in a file that can be read again, so that a resume compares it like any other input.
2. The file gets its name when it is whole. One that holds the same bytes already is left as it is, and what was noted of
   it stays true.
3. Another input lies beside the one that was kept before until nothing can refuse the run any more (`place`). With `render` it
   takes the place of no file but one that this job has written.
4. Memory does not grow: what comes is written piece by piece.
"""

import asyncio
import hashlib
import os
import shlex
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from batchrunner.containment import taking_rows
from batchrunner.core.model import Request
from batchrunner.disk import DISK, refuse_special, why, write_all
from batchrunner.errors import FileError, UsageError
from batchrunner.iterables import fields_of
from batchrunner.paths import Paths
from batchrunner.rendering import Recipe, lines_made
from batchrunner.replay import last_start
from batchrunner.settings import Settings
from batchrunner.source import Row
from batchrunner.tables import cells_of, files_of, is_pattern, is_table

STDIN = "-"
KEPT = "input.jsonl"  # in the run folder
Rows = Iterable[Row] | AsyncIterable[Row]
Lines = Iterable[bytes] | AsyncIterable[bytes]
PIECE = 1024 * 1024


# ---- the file ----


class Spool:
    """A file (0600) under construction. Left without an error it takes its name. FileError E404 when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._held = bytearray()

    def __enter__(self) -> Self:
        with _told(self._path):
            refuse_special(self._path)
            self._part.unlink(missing_ok=True)
            self._fd = DISK.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        return self

    def write(self, piece: bytes) -> None:
        """Add to it."""
        self._held += piece
        self.size += len(piece)
        if len(self._held) >= PIECE:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            DISK.close(self._fd)
            with suppress(OSError):
                self._part.unlink()

    def _finish(self) -> None:
        self._flush()
        with _told(self._path):
            if not _same(self._part, self._path):
                DISK.sync(self._fd)
                DISK.rename(self._part, self._path)

    def _flush(self) -> None:
        with _told(self._path):
            write_all(DISK, self._fd, memoryview(self._held))
        self._held = bytearray()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise FileError("E404", f"{path} cannot be written: {why(fault)}", "Make room, then start again.") from None


def _same(part: Path, path: Path) -> bool:
    """Whether both hold the same bytes."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size != part.stat().st_size:
        return False
    return _digest(part) == _digest(path)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# ---- what goes into it ----


def spool(stream: BinaryIO, path: Path) -> int:
    """Keep a stream, such as stdin; its size in bytes. FileError E404: it cannot be written. E406: the stream cannot be read."""
    with Spool(path) as file:
        for piece in _pieces(stream):
            file.write(piece)
    return file.size


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # what is there now; `read` would wait for a whole piece
    try:
        while piece := read(PIECE):
            yield piece
    except OSError as fault:
        raise FileError("E406", f"the input stream broke off: {why(fault)}", "Start again.") from None


async def keep_input(settings: Settings, rows: Rows | None, paths: Paths) -> Path:
    """Keep what becomes the input, if it is no file of lines already; where it lies, which may not be its `place` yet.

    The caller's own rows are taken on the event loop, where his code belongs. UsageError E2xx, FileError E404, E406.
    """
    new = _beside(paths.input)
    if rows is not None:
        await taking_rows(_keep_rows(rows, settings, new))
    elif (made := made_of(settings, paths)) is not None:
        await asyncio.to_thread(keep, made, new)
    elif settings.input == STDIN:
        await asyncio.to_thread(spool, stdin(), new)
    else:
        return paths.input
    return await asyncio.to_thread(_settled, settings, paths, new)


def render(settings: Settings, made: Iterator[bytes], paths: Paths) -> None:
    """Write the requests where they are wanted. UsageError E401, FileError E404."""
    new = _beside(paths.input)
    keep(made, new)
    place(_settled(settings, paths, new), paths.input)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _settled(settings: Settings, paths: Paths, new: Path) -> Path:
    """Where the input lies: at its place, if that holds the same bytes, else beside it. E401: the place is somebody else's."""
    with _told(paths.input):
        if _same(new, paths.input):
            new.unlink()
            return paths.input
        if _foreign(settings, paths):
            new.unlink()
            hint = f"name another file: --render FILE\nif nobody needs that one:  rm {shlex.quote(str(paths.input))}"
            raise UsageError("E401", f"{paths.input} holds something other than the requests of this job", hint)
    return new


def _foreign(settings: Settings, paths: Paths) -> bool:
    """Whether the file that the requests are to be written to is none that this job has written before."""
    file, start = settings.rendering.render, last_start(paths)
    known = start and start.settings.get("render") == file
    return bool(file) and not known and paths.input.exists() and paths.input.stat().st_size > 0


def place(new: Path, path: Path) -> None:
    """Let the input that lies at `new` take its place. FileError E404."""
    if new != path:
        with _told(path):
            refuse_special(path)
            DISK.rename(new, path)


async def _keep_rows(rows: Rows, settings: Settings, path: Path) -> None:
    lines = lines_of(rows, settings)
    if not isinstance(lines, AsyncIterable):
        keep(lines, path)
        return
    with Spool(path) as file:
        async for line in lines:
            file.write(line)


def keep(lines: Iterable[bytes], path: Path) -> None:
    """Keep lines."""
    with Spool(path) as file:
        for line in lines:
            file.write(line)


def lines_of(rows: Rows, settings: Settings) -> Lines:
    """The input lines that rows become: by the prompt, or as they are."""
    recipe = recipe_of(settings)
    line = _filling(recipe) if recipe else as_it_is
    if isinstance(rows, AsyncIterable):
        return _lines_as_they_come(rows, line)
    return (line(row, number) for number, row in enumerate(rows, 1))


async def _lines_as_they_come(rows: AsyncIterable[Row], line: Callable[[Row, int], bytes]) -> AsyncIterator[bytes]:
    number = 0
    async for row in rows:
        number += 1
        yield line(row, number)


def as_it_is(row: Row, number: int) -> bytes:
    """A row as a line of an input file. UsageError E203 when it cannot be written as JSON."""
    if isinstance(row, bytes):
        return row.rstrip(b"\r\n") + b"\n"
    try:
        return msgspec.json.encode(fields_of(row) if isinstance(row, Request) else row) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError("E203", f"request {number} cannot be written as JSON: {error}", "use plain JSON values only") from None


def made_of(settings: Settings, paths: Paths | None = None) -> Iterator[bytes] | None:
    """The lines that the input becomes where it is a table, a folder, a pattern, or rows; None: it holds requests.

    What is written at `paths` is not taken for input. UsageError E201, E208.
    """
    recipe = recipe_of(settings)
    if not is_made(settings):
        return None
    ours = (paths.input, paths.results, paths.errors) if paths else ()
    sources = [stdin()] if settings.input == STDIN else files_of(settings.input, ours)
    return lines_made(recipe, sources, settings.intake.max_line)


def recipe_of(settings: Settings) -> Recipe | None:
    """How rows become requests; None: they are requests. UsageError E208."""
    return Recipe.of(settings.rendering, settings.service.model, settings.intake.route)


def is_made(settings: Settings) -> bool:
    """Whether the input holds rows to make requests of, or several files of requests."""
    return bool(settings.rendering.prompt) or (settings.input != STDIN and is_table(settings.input))


def is_kept(settings: Settings) -> bool:
    """Whether the input is kept in the run folder, being no file of requests by itself."""
    return settings.input == STDIN or is_made(settings)


def is_named(settings: Settings) -> bool:
    """Whether the input's name is one to call the results after."""
    return settings.input != STDIN and not is_pattern(settings.input) and Path(settings.input).name not in {"", ".."}


def as_lines(settings: Settings) -> Settings:
    """The same settings for reading what was made of rows: there is nothing left to guess or to add."""
    if not settings.rendering.prompt:
        return settings
    intake = msgspec.structs.replace(settings.intake, format="openai", route="")
    return msgspec.structs.replace(settings, intake=intake)


def _filling(recipe: Recipe) -> Callable[[Row, int], bytes]:
    def line(row: Row, number: int) -> bytes:
        if isinstance(row, Request):
            return as_it_is(row, number)
        return recipe.line(cells_of(row) if isinstance(row, bytes) else row, f"row {number}")

    return line


def stdin() -> BinaryIO:
    """The bytes of stdin. UsageError E201 when it is closed."""
    if sys.stdin is None:
        raise UsageError("E201", "stdin is closed: there is no input", "name a file, or pipe one in")
    return sys.stdin.buffer
