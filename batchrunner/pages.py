"""report.html: written when a run ends, shown while it goes on, and made again from its files whenever somebody asks.

Rules:

1. A page is never worth a run: what fails here falls silent, with one line of why, and nothing is raised into a run.
2. At the end of a run only the tail of attempts.jsonl is read, so that a page costs milliseconds; asked for by itself, all of it.
3. A page is written in one step, 0600, never through a symlink. It takes the place of an earlier page, and of no other file.
"""

import asyncio
import errno
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from batchrunner import replay
from batchrunner.core.cost import Prices, price_table
from batchrunner.core.diagnosis import diagnose
from batchrunner.core.trail import AttemptLine, End, Moment
from batchrunner.disk import NOT_REGULAR, WHY, replace, special
from batchrunner.errors import UsageError
from batchrunner.listed import price_of
from batchrunner.looking import paths_of
from batchrunner.paths import Paths
from batchrunner.report import html
from batchrunner.report.course import Chapter, chapters
from batchrunner.report.invocation import Invocation
from batchrunner.report.rows import Priced
from batchrunner.report.story import Story
from batchrunner.report.telling import Count, tell
from batchrunner.settings import Settings
from batchrunner.summary import Report, Summary, summarise
from batchrunner.view import Run

TAIL = 4 * 2**20  # bytes of attempts.jsonl in which the slowest are looked for at the end of a run


class Pages:
    """The pages of one run under way. `said` is what the user typed, as far as a next command repeats it."""

    def __init__(self, run: Run, settings: Settings, said: Invocation) -> None:
        self._run = run
        self._said = said
        self._wanted = settings.display.report
        self._paths = paths_of(settings) if run.job.folder else None
        self._priced = run.prices.priced
        self._earlier: list[Chapter] | None = None

    async def story(self, ending: Report | None = None) -> Story:
        """The story so far, or to the end. What is read from files is read in a thread."""
        run, trail = self._run, self._run.trail
        snapshot = ending.snapshot if ending else run.snapshot()
        summary = ending.summary if ending else summarise(snapshot, run.job.name)
        end = _end(trail.start.session, trail.recent, summary) if ending else None
        count = Count(
            summary=summary,
            failures=snapshot.failures,
            findings=ending.findings if ending else run.diagnose(),
            running=ending is None,
            paused=run.engine.scheduler.paused,
            kept=bool(run.job.results),
            expected=snapshot.cost_expected,
        )
        chapter = Chapter(trail.start, tuple(run.moments()), end)
        return await asyncio.to_thread(self._told, chapter, count)

    async def keep(self, ending: Report) -> str:
        """Write the page of a run that has ended to where it belongs. Returns what went wrong, "" for nothing."""
        places = [*([self._paths.report] if self._paths else []), *([Path(self._wanted)] if self._wanted else [])]
        if not places:
            return ""
        try:
            _write(html.page(await self.story(ending)), places)
        except Exception as error:  # noqa: BLE001 - rule 1
            return f"the report could not be written: {why(error)}; the results are not affected"
        return ""

    def _told(self, chapter: Chapter, count: Count) -> Story:
        paths, run = self._paths, self._run
        if self._earlier is None:
            found = chapters(replay.events(paths)) if paths and chapter.session > 1 else []
            self._earlier = [each for each in found if each.session < chapter.session]
        attempts = replay.attempts(paths, TAIL) if paths else ()
        files = _files(paths, run.job.results, run.job.errors)
        return _told([*self._earlier, chapter], attempts, count, self._said, self._priced, files)


def refuse_place(file: str) -> None:
    """UsageError E401 where a page cannot be written, as far as one can see; "": none was asked for."""
    place = Path(file)
    folder = place.absolute().parent
    if special(place):
        raise unwritten(place, NOT_REGULAR)
    if file and (place.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        unfit = errno.EISDIR if place.is_dir() else errno.EACCES if folder.is_dir() else errno.ENOENT
        raise unwritten(place, WHY[unfit])
    if file and not _is_page(place):
        raise unwritten(place, "it holds something other than a page of ours")


def _is_page(place: Path) -> bool:
    """Whether nothing else is there, as far as it can be read."""
    try:
        with place.open("rb") as file:
            head = file.read(html.HEAD)
    except OSError:
        return True
    return not head or html.GENERATOR.encode() in head


def unwritten(place: Path, reason: str) -> UsageError:
    """E401 for a page."""
    return UsageError("E401", f"{place}: the page cannot be written: {reason}", "Choose another place: --report FILE.html")


def why(error: Exception) -> str:
    """What went wrong with a page, in words that quote nothing."""
    return error.strerror or "no such place" if isinstance(error, OSError) else type(error).__name__


def _end(session: int, moments: Sequence[Moment], summary: Summary) -> End:
    at = moments[-1].at if moments else summary.seconds
    return End(session=session, at=at, wall="", stopped=summary.stopped, exit_code=summary.exit_code, summary={})


def rebuilt(settings: Settings, standing: Report, said: Invocation) -> Path:
    """Make the page of a job anew from its files, and return where it is. UsageError E201, E401 when it cannot."""
    paths = paths_of(settings)
    refuse_place(settings.display.report)
    told = chapters(replay.events(paths))
    if not told:
        raise UsageError("E201", f"{paths.events}: no run of this job has left a trail.", "Run the job first.")
    moments = next((chapter.moments for chapter in reversed(told) if chapter.moments), ())
    count = Count(summary=standing.summary, failures=standing.snapshot.failures, findings=diagnose(moments) if moments else ())
    prices = Prices(price_table(settings.spending.price), lambda endpoint, model: price_of(f"https://{endpoint}/", model))
    files = _files(paths, standing.results, standing.errors)
    story = _told(told, replay.attempts(paths), count, said, prices.priced, files)
    place = Path(settings.display.report) if settings.display.report else paths.report
    try:
        _write(html.page(story), [place])
    except OSError as error:
        raise unwritten(place, why(error)) from None
    return place


def _told(
    told: Sequence[Chapter],
    attempts: Iterable[AttemptLine],
    count: Count,
    said: Invocation,
    prices: Priced,
    files: Sequence[tuple[str, str]],
) -> Story:
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return tell(told, attempts, count, said, priced=prices, made=made, files=files)


def _files(paths: Paths | None, results: str, errors: str) -> list[tuple[str, str]]:
    named = [("results", results), ("failures", errors), ("everything else", str(paths.folder) if paths else "")]
    return [(what, path) for what, path in named if path]


def _write(page: str, places: Sequence[Path]) -> None:
    for place in places:
        replace(place, page.encode())
