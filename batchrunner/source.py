"""Lines to blocks of requests: read ahead, bounded, cancellable.

Rules:

1. Files are read in a thread of the source's own, one block ahead of whoever asks. Nothing more is held. A block is parsed
   where it is asked for: threads of Python only take turns, and one that waits for a core may hold the other's turn.
2. What is done already is passed over unparsed. `limit` counts what is given out, invalid lines included.
3. An input that shrinks or goes away while it is read ends the run (E406); it does not end the input.
4. A cancelled wait loses no block. `close` ends the reading and gives the file back.
"""

import asyncio
import os
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Annotated, Self

from msgspec import Struct

from batchrunner.core.model import Request, Result
from batchrunner.core.policy import option
from batchrunner.dialects import Dialect, Format, LineError, detected, keys_of, opened
from batchrunner.errors import BatchError, FileError, UsageError
from batchrunner.formats import parse
from batchrunner.glance import GLANCED, request
from batchrunner.landmarks import START, Landmark
from batchrunner.lines import MAX_LINE, PUT_BACK, Begin, Line, blank, open_blocks, read_lines
from batchrunner.selecting import of_shard, where

Block = list[Request | Result]
Row = Mapping[str, object] | Request | bytes
Read = Callable[[Line, int], Request | Result]
Unparsed = Callable[[], Block]

BLOCK_LINES = 512
BLOCK_BYTES = 256 * 1024


class Intake(Struct, frozen=True, kw_only=True):
    """What is read."""

    limit: Annotated[
        int, option("only the first N requests that are not done yet; 0 is all", group="Input and output", metavar="N", ge=0)
    ] = 0
    where: Annotated[
        str,
        option(
            "only lines that fit, such as 'body.model == \"x\" and line <= 100'; the others stay pending",
            group="Input and output",
            metavar="CONDITION",
            main=False,
        ),
    ] = ""
    shard: Annotated[
        str,
        option(
            "only this piece of the input, as a job of its own; auto takes I, and where it can N, from Slurm or Kubernetes",
            group="Input and output",
            metavar="I/N|auto[/N]",
            main=False,
        ),
    ] = ""
    format: Annotated[
        Format,
        option(
            "shape of the input's lines; auto looks at the first: openai, azure, vllm, http, anthropic, mistral, cookbook",
            group="Input and output",
            metavar="auto|NAME",
            main=False,
        ),
    ] = "auto"
    route: Annotated[
        str,
        option("url of lines that give none, such as /v1/embeddings", group="Input and output", metavar="PATH", main=False),
    ] = ""
    max_line: Annotated[
        int, option("longest input line to accept", group="Input and output", metavar="SIZE", unit="bytes", main=False, ge=1024)
    ] = MAX_LINE

    @property
    def every(self) -> bool:
        """Whether all lines are meant, whatever they hold."""
        return not (self.shard or self.where)


_ALL = Intake()
PEEK = 20  # lines that are looked at for the dialect, until one tells


def dialect_of(path: str | os.PathLike[str], intake: Intake) -> Dialect:
    """How the lines of a file are read: as the user says, or else as the first readable one shows."""
    if intake.format != "auto":
        return Dialect(intake.format, intake.route)
    lines = (raw for _, raw in islice(read_lines(path, intake.max_line), PEEK) if isinstance(raw, bytes))
    return detected(next(filter(None, map(keys_of, lines)), ()), intake.route)


def refuse_shape(path: str | os.PathLike[str], intake: Intake) -> None:
    """UsageError E203 when none of the first lines is a request, each for the same reason: rather a setting than so many lines.

    What is no JSON no setting explains, and where lines differ, each is to blame itself.
    """
    dialect, why = dialect_of(path, intake), list[LineError]()
    for _, raw in islice(read_lines(path, intake.max_line), PEEK):
        try:
            opened(raw if isinstance(raw, bytes) else b"", dialect)
        except LineError as error:
            why.append(error)
        except ValueError:
            return
        else:
            return
    if len({str(error) for error in why}) == 1:
        said = f"the first {len(why)} lines of {path} are no requests" if len(why) > 1 else f"{path} holds no request"
        raise UsageError("E203", f"{said}: {why[0]}", why[0].hint)


ToDo = Callable[[int, int], Iterable[int]]


def _all(first: int, count: int) -> Iterable[int]:
    """Nothing is done yet."""
    return range(first, first + count)


def _on(_line: int) -> Landmark | None:
    """Every line is to be read."""
    return START


class Source:
    """The requests of a file, in blocks, once: `async for block in source`.

    `to_do` says which of so many lines, from this one on, have no result yet, `begin` where to read for those from a line on;
    both are asked in another thread. `origins` and `model` are those of `formats.parse`. UsageError: the file is no input
    (`lines.read_lines`). FileError E406: it broke while it was read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        intake: Intake = _ALL,
        to_do: ToDo = _all,
        origins: Collection[str] = (),
        model: str = "",
        begin: Begin = _on,
    ) -> None:
        self._closed = Event()
        asked = partial(_asked, Path(path), intake.max_line, to_do, begin, self._closed)
        self._blocks = _read(Path(path), intake, asked, partial(_reading, origins=tuple(origins), model=model))
        self._thread = ThreadPoolExecutor(1, "batchrunner-source")
        self._ahead: asyncio.Future[Unparsed | BatchError | None] | None = None
        weakref.finalize(self, self._closed.set)  # whoever drops us unclosed does not leave the thread reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        if self._closed.is_set():
            raise StopAsyncIteration
        ahead = self._ahead or self._next()
        await asyncio.wait([ahead])  # unlike awaiting it, this leaves the block in place when we are cancelled
        found = ahead.result()
        if callable(found):
            self._next()
            return found()
        await self.close()
        raise found or StopAsyncIteration

    async def close(self) -> None:
        """Stop reading and close the file; a block that nobody took is dropped. Closing again does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._blocks.close)
        self._thread.shutdown(wait=False)
        await closing

    def _next(self) -> "asyncio.Future[Unparsed | BatchError | None]":
        self._ahead = asyncio.get_running_loop().run_in_executor(self._thread, _step, self._blocks)
        return self._ahead


def _step(blocks: Iterator[Unparsed]) -> Unparsed | BatchError | None:
    """The next block; a fault is handed over like one, so that it makes no noise when nobody asks any more."""
    try:
        return next(blocks, None)
    except BatchError as fault:
        return fault


def _read(
    path: Path, intake: Intake, lines: Callable[[], Iterable[tuple[int, Line]]], reading: Callable[[Dialect], Read]
) -> Generator[Unparsed, None, None]:
    """The blocks of a file. A block counts only when the file was seen, after it was read, to stand as at the start."""
    start, block, size = _standing(path), list[tuple[int, Line]](), 0
    read = reading(dialect_of(path, intake))
    asked = where(of_shard(lines(), intake.shard), intake.where)
    for line, raw in islice(asked, intake.limit or None):
        block.append((line, raw))
        size += len(raw) if isinstance(raw, bytes) else 0
        if size >= BLOCK_BYTES or len(block) == BLOCK_LINES:
            _check(path, start)
            yield partial(_parsed, read, block)
            block, size = [], 0
    _check(path, start)
    if block:
        yield partial(_parsed, read, block)


def _parsed(read: Read, lines: Sequence[tuple[int, Line]]) -> Block:
    return [read(raw, line) for line, raw in lines]


def _reading(dialect: Dialect, origins: tuple[str, ...], model: str) -> Read:
    """How lines are read: at a glance where that is enough."""
    whole = partial(parse, origins=origins, model=model, dialect=dialect)
    if model or dialect.format not in GLANCED:
        return whole

    def read(raw: Line, line: int) -> Request | Result:
        return request(raw, line, origins) or whole(raw, line)

    return read


def _asked(path: Path, max_line: int, to_do: ToDo, begin: Begin, closed: Event) -> Iterator[tuple[int, Line]]:
    """The lines to be asked. Passing over a hundred million finished ones ends too, once closed."""
    for first, lines in open_blocks(path, max_line, begin):
        if closed.is_set():
            return
        yield from ((line, lines[line - first]) for line in to_do(first, len(lines)) if not blank(lines[line - first]))


def _standing(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _check(path: Path, start: os.stat_result | None) -> None:
    """That the path still leads to the file we read, and that none of it was cut off. More may have been added."""
    now = _standing(path)
    if start is None or now is None or (now.st_dev, now.st_ino) != (start.st_dev, start.st_ino):
        raise FileError("E406", f"the input {path} was removed or replaced while it was read", PUT_BACK)
    if now.st_size < start.st_size:
        raise FileError("E406", f"the input {path} became shorter while it was read", PUT_BACK)
