"""A job whose results are kept: in the journal, from which the same job again continues.

Rules:

1. All that can be refused is refused before a request is sent: paths, lock, duplicates, edited lines, mixed dialects.
2. `put` returns when the result is safe; the standing is marked in the same breath, so that a checkpoint never lies.
3. A run that is refused leaves everything as it was: the results, also those that --fresh would put away; the input that was kept
   for the job, and what is known of it. What it made and did not fill goes away again.
4. Only input and output count. The checkpoint is a cache, the summary a copy.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from batchrunner.adoption import Batch, adopt
from batchrunner.arrivals import vacated
from batchrunner.checkpoint import Checkpoint
from batchrunner.core.model import Kind, Request, Result
from batchrunner.core.wording import size
from batchrunner.disk import records, replace
from batchrunner.engine import Chore
from batchrunner.errors import FileError, UsageError
from batchrunner.expectation import misfits_of
from batchrunner.foreign import WRITERS, dialect_of_record, read_record
from batchrunner.identity import identify
from batchrunner.iterables import IterableSource
from batchrunner.job import Redact, watched, writer
from batchrunner.journal import Journal
from batchrunner.kept import kept_results
from batchrunner.lines import read_lines
from batchrunner.looking import (
    Untouched,
    asked_otherwise,
    check_input,
    check_shape,
    damage,
    evidence_of,
    failures,
    forgotten,
    paths_of,
    refuse_duplicates,
    refuse_edits,
    vanished,
)
from batchrunner.meter import Meter
from batchrunner.ordering import InOrder, places
from batchrunner.reopening import Reopen
from batchrunner.resume import Output, survey, tidy
from batchrunner.selecting import check_names, of_shard
from batchrunner.settings import Settings
from batchrunner.shelving import retire
from batchrunner.source import Source
from batchrunner.spooling import KEPT, STDIN, Rows, as_lines, keep_input, made_of, place
from batchrunner.standing import Standing
from batchrunner.summary import Summary

CHECKPOINT_EVERY = 10.0
ROOM_EVERY = 10.0


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
        self._began = False
        self._tidy_at_end = False
        self._answered = 0  # of the lines that are meant, by a batch of this run's own
        self.note = ""
        self.order: InOrder | None = None

    async def open(self, meter: Meter) -> None:
        """Lock, repair, compare input and output. UsageError E2xx, E401, E402, E403; FileError E404, E405."""
        settings = self._given
        await vacated(self.paths.folder)
        if self._rows is None and settings.input != STDIN:
            await asyncio.to_thread(self._check_input)
        self._journal = self._stack.enter_context(Journal.open(self.paths, settings.durability))
        self._stack.callback(self._withdraw)
        self._settle_dialect()
        await self._keep_input()
        await self._adopt(meter)
        read_as = (settings.intake.shard, settings.intake.max_line)
        self._checkpoint = Checkpoint(self._journal, settings.changed == "keep", read_as)
        self._evidence = evidence_of(self._looked_at(), settings)
        await self._survey()
        refuse_duplicates(self._standing, self.name)
        if not (self._standing.succeeded or self._rows):
            await asyncio.to_thread(check_shape, settings, self.paths.input)
        refuse_edits(self._standing, self.name, settings.changed)
        self._refuse_mixture()
        standing = self._standing
        if standing.pending:
            await self._watch_room()
        meter.total, meter.duplicates = standing.total, standing.repeated
        meter.resume(standing.succeeded, failures(standing))
        otherwise = await asyncio.to_thread(asked_otherwise, settings, self.paths, standing.succeeded)
        gone = "" if settings.fresh else vanished(self.paths)
        self.note = "\n".join(filter(None, (self.note, damage(standing, self.paths), gone, otherwise)))

    async def begin(self) -> None:
        """What was there before gives way: to a start over, and to another input."""
        if self._given.fresh:
            await retire(self._journal)
        self._settle_input()
        self._began = True

    def _withdraw(self) -> None:
        if not self._began:
            self._journal.withdraw()

    def _counting(self) -> tuple[Path, ...]:
        """The files whose records count: with --fresh none."""
        return () if self._given.fresh else (self.paths.results, self.paths.errors)

    def _looked_at(self) -> Output:
        """The output as it counts."""
        if not self._given.fresh:
            return self._journal
        return Untouched(forgotten(self.paths), self.paths.folder)

    def _check_input(self) -> None:
        """Refuse what cannot be read, of a table at its first row, before anything is written."""
        if (made := made_of(self._given, self.paths)) is None:
            check_input(self.paths.input, self._given.intake)
        else:
            next(made, None)

    async def _keep_input(self) -> None:
        """Read what becomes the input where it lies until `source` is asked for; refused, it goes away again."""
        self._place = self.paths.input
        self._read_from(await keep_input(self._given, self._rows, self.paths))
        if self.paths.input != self._place:
            self._stack.callback(self.paths.input.unlink, missing_ok=True)
            intake = self._given.intake
            await asyncio.to_thread(check_names, self.paths.input, intake.max_line, intake.where)

    def _read_from(self, path: Path) -> None:
        self.paths = self._journal.paths = msgspec.structs.replace(self.paths, input=path)

    def _settle_input(self) -> None:
        """The input takes its place."""
        if self.paths.input != self._place:
            place(self.paths.input, self._place)
            self._read_from(self._place)
            self._checkpoint.note_input()
        if (kept := self.paths.folder / KEPT) != self._place:
            kept.unlink(missing_ok=True)  # what was kept of another input would be looked at for this one

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """The lines that have no final record yet."""
        standing, intake = self._standing, self._settings.intake
        if intake.limit and self._answered:
            left = intake.limit - self._answered
            if left <= 0:
                return watched(IterableSource(()), self.order)
            intake = msgspec.structs.replace(intake, limit=left)
        self._origins, self._model = origins, model
        return watched(Source(self.paths.input, intake, standing.still_open, origins, model, standing.begin), self.order)

    async def earlier(self, besides: Collection[int]) -> list[Result]:
        """What the files hold for the lines that this run was about; `besides` are those whose results are at hand."""
        standing = self._standing
        if standing.total - standing.pending <= len(besides):
            return []

        def done(first: int, count: int) -> Iterable[int]:
            lines = range(first, min(first + count, standing.last + 1))
            return (line for line in lines if line not in besides and standing.is_done(line))

        intake = msgspec.structs.replace(self._settings.intake, limit=0)
        source = Source(self.paths.input, intake, done, self._origins, self._model)
        requests = [item if isinstance(item, Request) else item.request async for block in source for item in block]
        files = (self.paths.results, self.paths.errors)
        return await asyncio.to_thread(kept_results, requests, files, self._settings.changed == "keep")

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
            groups[result.kind is Kind.OK].append(write(result))
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
        """Group commit each second, checkpoint and a look at the disk each ten; the first was taken by `open`."""
        return [Chore(1.0, self._journal.sync), Chore(CHECKPOINT_EVERY, self._save), Chore(ROOM_EVERY, self._watch_room)]

    async def close(self, summary: Summary | None) -> None:
        """Sync, compact the error file after a retry, save checkpoint and summary, unlock."""
        with self._stack:
            if summary is None:
                return
            try:
                if self._journal.fault is None:
                    await self._complete(summary)
            except FileError as failure:
                summary = failure.ended(summary)
                raise
            finally:
                with suppress(OSError):  # a copy: the files themselves tell the same
                    replace(self.paths.summary, msgspec.json.format(summary.to_json()) + b"\n")

    async def _complete(self, summary: Summary) -> None:
        """Bring the files to the state in which they stay."""
        await self._journal.sync()
        if self._tidy_at_end:
            await asyncio.to_thread(tidy, self._evidence, self._settings.changed == "keep")
        if self._settings.records.ordered and not summary.stopped:
            await asyncio.to_thread(self._arrange)
        if not self._tidy_at_end:
            await self._save()

    async def _survey(self) -> None:
        anew = self._reopen or self._given.fresh or self.paths.input != self._place
        standing = None if anew else await asyncio.to_thread(self._checkpoint.load, read_record)
        if standing is None:
            look = partial(survey, self._evidence, self._reopen, self._settings.changed == "keep")
            standing = await asyncio.to_thread(look)
        self._standing = standing
        again = self._settings.changed == "rerun" and (standing.changed or standing.moved)
        self._tidy_at_end = bool(standing.reopened or standing.superseded or standing.older or again)

    async def _adopt(self, meter: Meter) -> None:
        """Take over the answers of another batch, before anything is compared."""
        if self._reopen and self._reopen.done:
            batch = Batch(
                self._reopen.done, self.paths, self._settings.intake, self._reopen, misfits_of(self._settings.expectation)
            )
            adopted = await asyncio.to_thread(adopt, batch, self._keep)
            self.note = str(adopted)
            if self._reopen.ours:
                self._answered = adopted.matched - adopted.left_out
                meter.charge(adopted.tokens_in, adopted.tokens_out)

    def _settle_dialect(self) -> None:
        """Records are written as they are already, else as the batch that is adopted has them, else as OpenAI's."""
        wanted = self._settings.records
        if wanted.output_format == "auto":
            done = self._reopen.done if self._reopen else ()
            firsts = (*map(_first_record, self._counting()), *map(_first_line, done))
            found = next((dialect_of_record(first) for first in firsts if first), "openai")
            settled = msgspec.structs.replace(wanted, output_format=found)
            self._settings = msgspec.structs.replace(self._settings, records=settled)

    def _refuse_mixture(self) -> None:
        wanted = self._settings.records.output_format
        for path in self._counting():
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
            least = size(self._settings.durability.min_free)
            raise FileError(
                "E404",
                f"less than {least} are left on the disk of {self.results}; stopped before paying for more",
                "make room, then run the same command again; or allow less: --min-free SIZE",
            )


def _first_record(path: Path) -> bytes:
    return next((raw for _, raw in records(path)), b"")


def _first_line(path: Path) -> bytes:
    return next((raw for _, raw in read_lines(path) if isinstance(raw, bytes)), b"")
