"""Jobs that keep nothing: results go to stdout, or to those who listen.

Rules:

1. What was passed on is not known again: such a job cannot be continued, and none of its files outlives it.
2. A reader who has gone ends the run; nobody is asked for answers that go nowhere.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import structs

from batchrunner.core.model import Request, Result
from batchrunner.disk import DISK, why, write_all
from batchrunner.engine import Chore
from batchrunner.errors import FileError
from batchrunner.iterables import IterableSource
from batchrunner.job import Redact, watched, writer
from batchrunner.looking import Untouched, check_input, check_shape, evidence_of, refuse_duplicates, refuse_own, with_kept
from batchrunner.meter import Meter
from batchrunner.ordering import InOrder
from batchrunner.paths import Paths
from batchrunner.resume import survey
from batchrunner.settings import Settings
from batchrunner.source import Source
from batchrunner.spooling import Rows, as_lines, keep_input, lines_of, made_of, place
from batchrunner.summary import Summary
from batchrunner.terminal import printable, refuse_closed

STDOUT = "-"


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
        refuse_closed("name one: -o FILE")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="batchrunner-")))
        paths = with_kept(self._settings, Paths(Path(self.name), folder / "results", folder / "errors", folder))
        self._place = paths.input
        paths = structs.replace(paths, input=await keep_input(self._settings, None, paths))
        if paths.input != self._place:
            self._stack.callback(paths.input.unlink, missing_ok=True)
        await asyncio.to_thread(check_input, paths.input, self._settings.intake)
        await asyncio.to_thread(check_shape, self._settings, paths.input)
        self._path, self._settings = paths.input, as_lines(self._settings)
        standing = await asyncio.to_thread(survey, evidence_of(Untouched(paths, folder), self._settings))
        refuse_duplicates(standing, self.name)
        meter.total = standing.total

    async def begin(self) -> None:
        """The input takes its place."""
        place(self._path, self._place)
        self._path = self._place

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """Every line."""
        return watched(Source(self._path, self._settings.intake, origins=origins, model=model), self.order)

    async def put(self, results: Sequence[Result]) -> None:
        """One line each on stdout. FileError E404 when nobody reads it any more."""
        self._print(self.order.release(results) if self.order else results)

    def _print(self, results: Sequence[Result]) -> None:
        write = writer(self._settings, self.redact)
        try:
            write_all(DISK, sys.stdout.fileno(), printable(b"".join(map(write, results))))
        except OSError as error:
            raise FileError(
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
            refuse_own("report=FILE.html", self._settings.display.report, Paths.of(Path(self._requests)))
            if (made := made_of(self._settings)) is None:
                await asyncio.to_thread(check_input, Path(self._requests), self._settings.intake)
                await asyncio.to_thread(check_shape, self._settings, Path(self._requests))
            else:
                self._requests = made
        elif self._settings.rendering.prompt:
            self._requests = lines_of(self._requests, self._settings)
        self._settings = as_lines(self._settings)

    async def begin(self) -> None:
        """Nothing stands in the way."""

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
