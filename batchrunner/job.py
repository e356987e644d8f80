"""What a run works on, and where its results go.

    FileJob     a file of lines, results in the journal          batchrunner INPUT [-o FILE]
    PipeJob     a file of lines, results on stdout               batchrunner INPUT -o -
    MemoryJob   requests from anywhere, results kept by nobody   Runner.stream, gather

Rules:

1. `open` refuses everything that can be refused before a request is sent: paths, lock, duplicates, edited lines.
2. `put` returns when the result is safe; the standing is marked in the same breath, so that a checkpoint never lies.
3. Only input and output count. The checkpoint is a cache, the summary a copy.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from batchrunner.adoption import Batch, adopt
from batchrunner.checkpoint import Checkpoint
from batchrunner.core.model import Kind, Request, Result
from batchrunner.core.selection import piece
from batchrunner.disk import DISK, records, why, write_all
from batchrunner.engine import Chore
from batchrunner.errors import FileError, StopError, UsageError
from batchrunner.expectation import misfits_of
from batchrunner.foreign import WRITERS, dialect_of_record, read_record
from batchrunner.formats import digests, identify
from batchrunner.journal import Journal
from batchrunner.lines import Line, read_blocks, read_lines
from batchrunner.meter import Meter
from batchrunner.ordering import InOrder, places
from batchrunner.paths import Paths
from batchrunner.records import read_successes
from batchrunner.resume import Evidence, Output, survey, tidy
from batchrunner.selecting import names_of_shard, of_shard
from batchrunner.settings import Settings
from batchrunner.source import IterableSource, Source
from batchrunner.spooling import KEPT, STDIN, Rows, as_lines, is_kept, is_named, keep, keep_input, lines_of, made_of
from batchrunner.standing import Standing
from batchrunner.summary import Summary

STDOUT = "-"
Redact = Callable[[bytes], bytes]
CHECKPOINT_EVERY = 10.0
ROOM_EVERY = 10.0


class Reopen(Struct, frozen=True):
    """What a retry adds to a run: `kinds` says which failures are asked again, `done` are output files of another batch."""

    kinds: Callable[[str], bool]
    done: Sequence[Path] = ()

    def __call__(self, kind: str) -> bool:
        """Whether a failure of this kind is asked again."""
        return self.kinds(kind)


class Job(Protocol):
    """One job, as `batch` sees it."""

    name: str
    note: str  # what opening it found that people should know; "" for nothing
    results: str  # where they go, for people; "" for nowhere
    errors: str
    redact: Redact | None  # takes keys out of what is written
    order: InOrder | None  # lets results flow on in the order of the input; None: as they come
    folder: Path | None  # where a run keeps what it writes about itself; None for nowhere

    async def open(self, meter: Meter) -> None:
        """Get ready, and tell the meter what there is and what is done."""

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """The requests still to be sent, in blocks."""

    async def put(self, results: Sequence[Result]) -> None:
        """Keep these results."""

    def chores(self) -> list[Chore]:
        """What must be done at intervals."""

    async def close(self, summary: Summary | None) -> None:
        """Everything is kept; `summary` is None when the run did not get to have one."""


class FileJob:
    """Results and errors go to the journal; the same job again continues. `reopen` says which failures are asked again.

    `rows` take the place of the input file; like stdin they are kept in the run folder, so that they can be compared.
    """

    def __init__(self, settings: Settings, reopen: Reopen | None = None, rows: Rows | None = None) -> None:
        self.redact: Redact | None = None
        self._given = settings
        self._settings = as_lines(settings)
        self._reopen = reopen
        self._rows = rows
        self.paths = paths_of(settings)
        self.name = settings.input if rows is None else "requests"
        self.results, self.errors = str(self.paths.results), str(self.paths.errors)
        self.folder: Path | None = self.paths.folder
        self._stack = ExitStack()
        self._standing: Standing
        self._tidy_at_end = False
        self.note = ""
        self.order: InOrder | None = None

    async def open(self, meter: Meter) -> None:
        """Lock, repair, compare input and output. UsageError E2xx, E401, E402, E403; FileError E404, E405."""
        settings = self._given
        if self._rows is None and settings.input != STDIN:
            self._check_input()
        if settings.fresh:
            await retire(self.paths, settings)
        self._journal = self._stack.enter_context(Journal.open(self.paths, settings.durability))
        self._settle_dialect()
        await keep_input(self._given, self._rows, self.paths)
        await self._adopt()
        self._checkpoint = Checkpoint(self._journal, settings.changed == "keep")
        self._evidence = evidence_of(self._journal, settings)
        await self._survey()
        refuse_duplicates(self._standing, self.name)
        self._refuse_edits()
        self._refuse_mixture()
        standing = self._standing
        meter.total, meter.duplicates = standing.total, standing.repeated
        meter.resume(standing.succeeded, failures(standing))

    def _check_input(self) -> None:
        """Refuse what cannot be read, of a table at its first row, before anything is written."""
        if (made := made_of(self._given, self.paths)) is None:
            check_input(self.paths.input)
        else:
            next(made, None)

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """The lines that have no final record yet."""
        return watched(Source(self.paths.input, self._settings.intake, self._standing.still_open, origins, model), self.order)

    async def put(self, results: Sequence[Result]) -> None:
        """Append to results and errors, one write for each; with `sync = always` also wait for stable storage."""
        mark = self._standing.mark
        self._keep(results)
        for result in results:
            mark(result.request.line, result.ok, result.kind)
        await self._journal.commit()

    def _keep(self, results: Sequence[Result]) -> None:
        write = writer(self._settings, self.redact)
        groups: dict[bool, list[bytes]] = {True: [], False: []}
        for result in results:
            groups[result.ok].append(write(result))
        faults = [fault for ok, lines in groups.items() if lines and (fault := self._append(lines, ok))]
        if faults:
            raise faults[0]

    def _append(self, lines: list[bytes], ok: bool) -> FileError | None:
        """One write. A fault is kept until everything in hand has been saved."""
        try:
            self._journal.append(b"".join(lines), ok, len(lines))
        except FileError as fault:
            return fault
        return None

    def chores(self) -> list[Chore]:
        """Group commit each second, checkpoint and a look at the disk each ten."""
        return [Chore(1.0, self._journal.sync), Chore(CHECKPOINT_EVERY, self._save), Chore(ROOM_EVERY, self._watch_room)]

    async def close(self, summary: Summary | None) -> None:
        """Sync, compact the error file after a retry, save checkpoint and summary, unlock."""
        with self._stack:
            if summary is None or self._journal.fault is not None:
                return
            await self._journal.sync()
            if self._tidy_at_end:
                await asyncio.to_thread(tidy, self._evidence, self._settings.changed == "keep")
            if self._settings.records.ordered and not summary.stopped:
                await asyncio.to_thread(self._arrange)
            if not self._tidy_at_end:
                await self._save()
            with suppress(OSError):  # a copy: the files themselves tell the same
                replace(self.paths.summary, msgspec.json.format(summary.to_json()) + b"\n")

    async def _survey(self) -> None:
        standing = None if self._reopen else await asyncio.to_thread(self._checkpoint.load, read_record)
        if standing is None:
            look = partial(survey, self._evidence, self._reopen, self._settings.changed == "keep")
            standing = await asyncio.to_thread(look)
        self._standing = standing
        self._tidy_at_end = bool(standing.reopened or standing.superseded)

    def _refuse_edits(self) -> None:
        standing = self._standing
        if not standing.changed or self._settings.changed != "refuse":
            return
        shown = ", ".join(f"{name!r} on line {line}" for name, line in standing.edits[:3])
        raise UsageError(
            "E402",
            f"{self.name} changed since the last run: {_lines(standing.changed)} a result for another text ({shown})",
            "ask them again:     --changed rerun\nkeep their results: --changed keep\nstart over:         --fresh",
        )

    async def _adopt(self) -> None:
        """Take over the answers of another batch, before anything is compared."""
        if self._reopen and self._reopen.done:
            batch = Batch(
                self._reopen.done, self.paths, self._settings.intake, self._reopen, misfits_of(self._settings.expectation)
            )
            self.note = str(await asyncio.to_thread(adopt, batch, self._keep))

    def _settle_dialect(self) -> None:
        """Records are written as they are already, else as the batch that is adopted has them, else as OpenAI's."""
        wanted = self._settings.records
        if wanted.output_format == "auto":
            done = self._reopen.done if self._reopen else ()
            firsts = (*map(_first_record, (self.paths.results, self.paths.errors)), *map(_first_line, done))
            found = next((dialect_of_record(first) for first in firsts if first), "openai")
            settled = msgspec.structs.replace(wanted, output_format=found)
            self._settings = msgspec.structs.replace(self._settings, records=settled)

    def _refuse_mixture(self) -> None:
        wanted = self._settings.records.output_format
        for path in (self.paths.results, self.paths.errors):
            first = _first_record(path)
            found = dialect_of_record(first) if first else wanted
            if WRITERS[found] is not WRITERS[wanted]:
                hint = f"continue in it: --output-format {found}\nstart over:     --fresh"
                raise UsageError("E003", f"{path} is in the dialect of {found}; this run would write {wanted}", hint)

    def _arrange(self) -> None:
        """Put the lines of both files in the order of the input."""
        intake = self._settings.intake
        for ok, path in ((True, self.paths.results), (False, self.paths.errors)):
            mine = of_shard(read_lines(self.paths.input, intake.max_line), intake.shard)
            names = ((line, identify(raw, line)[0]) for line, raw in mine)
            in_order = places(path, names, lambda raw: read_record(raw).id, self.paths.folder)
            if in_order:
                self._journal.arrange(ok, in_order)

    async def _save(self) -> None:
        await self._checkpoint.save(self._standing)

    async def _watch_room(self) -> None:
        if not self._journal.room():
            least = self._settings.durability.min_free // 2**20
            raise FileError(
                "E404",
                f"less than {least} MiB are left on the disk of {self.results}; stopped before paying for more",
                "make room, then run the same command again; or allow less: --min-free SIZE",
            )


class PipeJob:
    """Every record goes to stdout, good or bad, and nothing is kept: it cannot be continued."""

    def __init__(self, settings: Settings) -> None:
        self.redact: Redact | None = None
        self.folder: Path | None = None
        self.name = settings.input
        self.results, self.errors, self.note = "", "", ""
        self._settings = settings
        self._stack = ExitStack()
        self.order = InOrder() if settings.records.ordered else None

    async def open(self, meter: Meter) -> None:
        """Count the lines and refuse duplicates. UsageError E2xx, E401."""
        if sys.stdout is None:
            raise UsageError("E401", "stdout is closed: there is no place for the results", "name one: -o FILE")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="batchrunner-")))
        given = Path(self._settings.rendering.render or folder / KEPT) if is_kept(self._settings) else Path(self.name)
        paths = Paths(given, folder / "results", folder / "errors", folder)
        await keep_input(self._settings, None, paths)
        check_input(paths.input)
        self._path, self._settings = paths.input, as_lines(self._settings)
        standing = await asyncio.to_thread(survey, evidence_of(_Look(paths, folder), self._settings))
        refuse_duplicates(standing, self.name)
        meter.total = standing.total

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """Every line."""
        return watched(Source(self._path, self._settings.intake, origins=origins, model=model), self.order)

    async def put(self, results: Sequence[Result]) -> None:
        """One line each on stdout. StopError when nobody reads it any more."""
        self._print(self.order.release(results) if self.order else results)

    def _print(self, results: Sequence[Result]) -> None:
        write = writer(self._settings, self.redact)
        try:
            write_all(DISK, sys.stdout.fileno(), b"".join(map(write, results)))
        except OSError as error:
            raise StopError(
                "E404", f"stdout cannot be written: {why(error)}", "-o FILE keeps results, and can be continued"
            ) from None

    def chores(self) -> list[Chore]:
        """None."""
        return []

    async def close(self, summary: Summary | None) -> None:
        """Say what still waits for its turn, and remove what was spooled."""
        with self._stack:
            if self.order and summary is not None:
                self._print(self.order.rest())


class MemoryJob:
    """Requests of a library user, results only for those who listen."""

    def __init__(self, requests: str | os.PathLike[str] | Rows, settings: Settings) -> None:
        self.redact: Redact | None = None
        self.folder: Path | None = None
        self.name = str(requests) if isinstance(requests, str | os.PathLike) else "requests"
        self.results, self.errors, self.note = "", "", ""
        self.order: InOrder | None = None
        self._requests = requests
        self._settings = settings

    async def open(self, meter: Meter) -> None:
        """Nothing to prepare: how many there are shows when they have been read."""
        if isinstance(self._requests, str | os.PathLike):
            if (made := made_of(self._settings)) is None:
                check_input(Path(self._requests))
            else:
                self._requests = made
        elif self._settings.rendering.prompt:
            self._requests = lines_of(self._requests, self._settings)
        self._settings = as_lines(self._settings)

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """Every request."""
        if isinstance(self._requests, str | os.PathLike):
            return watched(Source(Path(self._requests), self._settings.intake, origins=origins, model=model), self.order)
        return watched(IterableSource(self._requests, self._settings.intake, origins, model), self.order)

    async def put(self, results: Sequence[Result]) -> None:
        """Nothing to keep."""

    def chores(self) -> list[Chore]:
        """None."""
        return []

    async def close(self, summary: Summary | None) -> None:
        """Nothing to close."""


def _first_record(path: Path) -> bytes:
    return next((raw for _, raw in records(path)), b"")


def _first_line(path: Path) -> bytes:
    return next((raw for _, raw in read_lines(path) if isinstance(raw, bytes)), b"")


def watched(source: Source | IterableSource, order: InOrder | None) -> AsyncIterator[list[Request | Result]]:
    """The blocks of a source, as far ahead as the order of results allows."""
    return order.watch(aiter(source)) if order else aiter(source)


def writer(settings: Settings, redact: Redact | None) -> Callable[[Result], bytes]:
    """What makes a line of a result, in the dialect that the user wants."""
    wanted = settings.records
    return partial(WRITERS[wanted.output_format], strict=wanted.strict_openai, secrets=redact)


def failures(standing: Standing) -> dict[Kind, int]:
    """Failed and invalid lines by kind. A kind that a foreign or newer program wrote counts as rejected."""
    counts: dict[Kind, int] = {}
    for name, count in standing.kinds.items():
        kind = Kind(name) if name in KINDS else Kind.REJECTED
        counts[kind] = counts.get(kind, 0) + count
    return counts


KINDS = frozenset(Kind)


def job_for(settings: Settings, reopen: Reopen | None = None) -> Job:
    """The job that the settings describe."""
    return PipeJob(settings) if settings.output == STDOUT else FileJob(settings, reopen)


def paths_of(settings: Settings) -> Paths:
    """Where a job's files lie. What is no file of lines is kept as one in the run folder, so that it can be continued.

    UsageError E003: there is no name to call the results after, or the requests would be written over something else.
    """
    if not settings.output and not is_named(settings):
        what = "stdin" if settings.input == STDIN else f"{settings.input!r}"
        raise UsageError("E003", f"{what} has no name to call the results after", "name them: -o FILE, or -o - for stdout")
    paths = Paths.of(Path(settings.input), Path(settings.output) if settings.output else None, _ending(settings.intake.shard))
    if not is_kept(settings):
        return paths
    render = Path(settings.rendering.render)
    taken = {each.absolute() for each in (paths.input, paths.results, paths.errors)}
    if settings.rendering.render and render.absolute() in taken:
        raise UsageError("E003", f"--render {render} would write over the job's own files", "name another file")
    return msgspec.structs.replace(paths, input=render if settings.rendering.render else paths.folder / KEPT)


def _ending(shard: str) -> str:
    """What a shard's files have behind the name of the input: `.shard-3-of-8`."""
    mine = piece(shard)
    return f".shard-{mine[0]}-of-{mine[1]}" if mine else ""


@contextmanager
def at_hand(settings: Settings, render: bool = False) -> Iterator[Paths]:
    """The paths of a job that is only looked at. Rows are made into requests aside, or with `render` where they are wanted.

    What a run has kept stands for the input, where the options do not say how it came about. UsageError E2xx, FileError.
    """
    paths = paths_of(settings)
    kept = paths.folder / KEPT
    if not settings.rendering.prompt and kept.exists():
        yield msgspec.structs.replace(paths, input=kept)
    elif settings.input == STDIN or (made := made_of(settings, paths)) is None:
        yield paths
    else:
        with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
            path = paths.input if render and settings.rendering.render else Path(folder) / KEPT
            keep(made, path)
            yield msgspec.structs.replace(paths, input=path)


def standing_of(settings: Settings, paths: Paths) -> Standing:
    """How a job stands on disk, without locking or changing anything; `paths` are those `at_hand`. UsageError E2xx, FileError."""
    check_input(paths.input)
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        return survey(evidence_of(_Look(paths, Path(folder)), settings), None, settings.changed == "keep")


class _Look:
    """An output that is only looked at. What is not there reads as empty."""

    def __init__(self, paths: Paths, folder: Path) -> None:
        there = {
            name: path if path.exists() else Path(os.devnull)
            for name, path in (("results", paths.results), ("errors", paths.errors))
        }
        self.paths = msgspec.structs.replace(paths, folder=folder, **there)

    def set_aside(self, path: Path, offset: int, raw: bytes) -> None:
        """Leave the line where it is."""

    def compact(self, keep: Callable[[bytes], bool]) -> int:
        """Never asked for."""
        raise NotImplementedError


def evidence_of(output: Output, settings: Settings) -> Evidence[Line]:
    """What a survey of this output reads."""
    intake = settings.intake
    blocks = partial(read_blocks, output.paths.input, intake.max_line)
    return Evidence(blocks, names_of_shard(intake.shard), digests, read_successes, read_record, output)


def check_input(path: Path) -> None:
    """Refuse what cannot be read as lines: E201, E202, E204, E206."""
    next(read_lines(path, 1 << 20), None)


def _lines(count: int) -> str:
    return f"{count} lines have" if count > 1 else "1 line has"


def refuse_duplicates(standing: Standing, name: str) -> None:
    """E205 when two lines have one id."""
    if not standing.duplicates:
        return
    shown = "\n".join(f"line {twin.line}: {twin.id!r} is already on line {twin.first}" for twin in standing.twins[:5])
    raise UsageError(
        "E205", f"{name}: {_lines(standing.duplicates)} a custom_id that an earlier line has", f"{shown}\nnothing was sent"
    )


async def retire(paths: Paths, settings: Settings) -> None:
    """Move the output of earlier runs into the run folder, under the time of day: nothing that was paid for is deleted."""
    with Journal.open(paths, settings.durability) as journal:
        await journal.sync()  # after this, closing has no reason to look for the files under their old names
        shelf: Path | None = None
        for path in (paths.results, paths.errors, paths.events, paths.attempts):
            if path.exists() and path.stat().st_size:
                shelf = shelf or new_shelf(paths.folder / "earlier")
                path.rename(shelf / path.name)
        for cache in (paths.checkpoint, *(paths.answers.with_name(paths.answers.name + end) for end in ("", "-wal", "-shm"))):
            cache.unlink(missing_ok=True)


def new_shelf(folder: Path) -> Path:
    """A new folder in this one, named by the time of day; those of one second are told apart."""
    folder.mkdir(0o700, exist_ok=True)
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while (shelf := folder / f"{stamp}-{number}").exists():
        number += 1
    shelf.mkdir(0o700)
    return shelf


def replace(path: Path, content: bytes) -> None:
    """Write a small file in one step."""
    partial_path = path.with_name(f"{path.name}.partial")
    partial_path.unlink(missing_ok=True)
    fd = DISK.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(DISK, fd, content)
    finally:
        DISK.close(fd)
    DISK.rename(partial_path, path)
