"""Everybody who looks on while a run goes: the person at the terminal, the browser, the tracer, and who waits for the end.

Rules:

1. Nobody here has a say in the run, except by the controls of the live page. What fails here is said in one line.
2. What must be there before anything is sent (an extra that was asked for) is refused before anything is sent.
3. The order at the end: bar off the screen, page written, live page closed, the user's command. It is kept however a run ends.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgspec import structs

from batchrunner.crew import crowded
from batchrunner.engine import Chore
from batchrunner.errors import BatchError
from batchrunner.notify import check, notify
from batchrunner.outbox import Listener
from batchrunner.pages import Pages, refuse_place
from batchrunner.progress import PERIOD, Progress
from batchrunner.report import text
from batchrunner.report.invocation import Invocation
from batchrunner.settings import Settings
from batchrunner.summary import Report
from batchrunner.terminal import width
from batchrunner.view import Run

if TYPE_CHECKING:
    from batchrunner.dashboard import Dashboard


class Audience:
    """Those who look on at one run, as `settings.display` wants it. `said` is what a next command must say again.

    UsageError E206 when an extra is missing, E002 when the command to be told of the end is, E401 where no page can be written.
    """

    def __init__(self, settings: Settings, said: Invocation) -> None:
        self.progress = Progress(settings.display, settings.input)
        self.listeners: list[Listener] = [self.progress]
        self._settings = settings
        self._said = said
        self._pages: Pages | None = None
        self._dashboard: Dashboard | None = None
        self._ending: Report | None = None
        check(settings.display.notify)
        refuse_place(settings.display.report)
        if settings.display.otel:
            from batchrunner.otel import Spans

            self.listeners.append(Spans(settings.display.otel))

    async def __aenter__(self) -> Self:
        self._tell(crowded(self._settings.processes))
        if self._settings.display.dashboard:
            await self._open(self._settings.display.dashboard)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.close()
        failure = error if isinstance(error, BatchError) else None
        if failure and failure.report:
            failure.report = await self.leave(failure.report)
        if self._dashboard:
            with suppress(Exception):
                await self._dashboard.close(self._ending)
        ending = failure or self._ending
        if ending and self._settings.display.notify:
            self.insist(await notify(self._settings.display.notify, ending, self._settings.input))

    def watch(self, run: Run) -> Sequence[Chore]:
        """A run begins."""
        self._pages = Pages(run, self._settings, self._said)
        note = self.progress.note
        note(text.opening(run.job.name, run.job.results, run.snapshot(), run.endpoints, run.simulated, width()))
        self._tell(run.note)
        if self._dashboard:
            self._dashboard.watch(run, self._pages)
            self.insist(f"live: {self._dashboard.url}")

        async def draw() -> None:
            self.progress.show(run.snapshot())

        return [Chore(PERIOD, draw)]

    async def leave(self, ending: Report) -> Report:
        """The run has ended. Returns the ending, which names no page that could not be written."""
        self._ending = ending
        self.progress.close()
        if self._pages:
            tell = self.insist if self._settings.display.report else self._tell
            if wrong := await self._pages.keep(ending):
                tell(wrong)
                return structs.replace(ending, page="")
        return ending

    def insist(self, line: str) -> None:
        """What was asked for is said even where nothing else is."""
        if line and self.progress.mode == "none":
            with suppress(Exception):
                sys.stderr.write(f"{line}\n")
        else:
            self._tell(line)

    async def _open(self, port: int) -> None:
        from batchrunner.dashboard import Dashboard

        try:
            self._dashboard = await Dashboard.open(port)
        except OSError as error:
            self.insist(f"--dashboard: there is no port to listen on: {error.strerror}")
            return
        if self._dashboard.port != port:
            self.insist(f"--dashboard: port {port} is taken; another one is used")

    def _tell(self, line: str) -> None:
        if line:
            self.progress.note(line)
