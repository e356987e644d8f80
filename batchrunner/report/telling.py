"""From the trail of a job to the story of its page.

Rules:

1. Pure: records and counts in, a `Story` out. The lines of the job are counted by whoever has counted them best (its
   survey, or the run under way); the trail says how it went.
2. How it went over time is told by `course`, what stands in tables by `rows`; here they become one story.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from batchrunner.core.buckets import quantile
from batchrunner.core.evidence import Evidence
from batchrunner.core.model import Kind
from batchrunner.core.trail import AttemptLine, Finding, Moment
from batchrunner.core.wording import WORDS, amount, money, number, percent, plural, rate, seconds, visible
from batchrunner.report import rows
from batchrunner.report import story as page
from batchrunner.report.course import Chapter, course, sessions
from batchrunner.report.invocation import Invocation
from batchrunner.report.layout import Command
from batchrunner.report.text import ANEW, hopes, mended, reopened
from batchrunner.summary import Summary


class Count(Struct, frozen=True, kw_only=True):
    """How the job stands, beyond its trail."""

    summary: Summary
    failures: Mapping[Kind, int] = {}
    findings: Sequence[Finding] = ()
    running: bool = False
    paused: bool = False
    kept: bool = True  # results are, so that one can go on from them
    expected: float | None = None  # what it will have cost


def tell(
    told: Sequence[Chapter],
    attempts: Iterable[AttemptLine],
    count: Count,
    typed: Invocation,
    *,
    priced: rows.Priced = lambda spend: (spend.told, "the provider"),
    made: str = "",
    files: Sequence[tuple[str, str]] = (),
) -> page.Story:
    """The story of a job."""
    step = _next(count, typed)
    lasts = [chapter.moments[-1] for chapter in told if chapter.moments]
    everything = [moment for chapter in told for moment in chapter.moments]
    evidence = Evidence(everything) if everything else None
    start = next((chapter.start for chapter in reversed(told) if chapter.start), None)
    simulated = "the answers are simulated" if start and start.simulated else ""
    return page.Story(
        job=typed.input,
        state=_state(count),
        verdict=_verdict(count),
        next=step.typed,
        why=step.does,
        share=_done(count.summary) / max(1, count.summary.total) if count.running else None,
        made=" · ".join(part for part in (made, simulated) if part),
        program=f"batchrunner {start.version}" if start else "batchrunner",
        tiles=tuple(_tiles(count, told, lasts, evidence, priced)),
        moments=tuple(course(told[-rows.MOST_ROWS :])),
        sessions=tuple(sessions(told[-rows.MOST_ROWS :], count.running)),
        endpoints=tuple(rows.endpoints(told)),
        troubles=tuple(rows.troubles(lasts, count.failures, count.summary.stopped is not None)),
        findings=tuple(rows.finding(each) for each in count.findings),
        deaths=tuple(rows.deaths(evidence)) if evidence else (),
        spikes=tuple(rows.spikes(evidence)) if evidence else (),
        slowest=tuple(rows.slowest(attempts)),
        prices=tuple(rows.prices(lasts, priced)),
        cost=rows.uncounted(lasts),
        settings=tuple(rows.settings(start)) if start else (),
        files=tuple(files),
    )


# ---- the verdict ----


def _done(summary: Summary) -> int:
    return summary.total - summary.pending


def _state(count: Count) -> page.State:
    summary = count.summary
    if count.running:
        return "running"
    if summary.stopped or summary.pending:
        return "stopped"
    return "bad" if summary.failed + summary.invalid else "good"


def _verdict(count: Count) -> str:
    summary = count.summary
    bad = [f"{number(n)} {word}" for word, n in (("failed", summary.failed), ("invalid", summary.invalid)) if n]
    if count.running or summary.pending or summary.stopped:
        state = "Paused at " if count.paused else "" if count.running else "Stopped at "
        why = f" ({visible(summary.stopped)})" if summary.stopped and not count.running else ""
        counts = ", ".join([f"{number(summary.succeeded)} succeeded", *bad, f"{number(summary.pending)} to go"])
        return f"{state}{percent(_done(summary), summary.total)} done: {counts}{why}"
    if not bad:
        return f"All {plural(summary.total, 'request')} succeeded" if summary.total else "There was nothing to do"
    return ", ".join([f"{number(summary.succeeded)} of {number(summary.total)} succeeded", *bad])


def _next(count: Count, typed: Invocation) -> Command:
    """What to type next, and what that does."""
    if count.running:
        return Command("")
    if count.summary.pending or count.summary.stopped:
        return typed.step(f"continues where it was{mended(count.summary)}" if count.kept else ANEW)
    hopeful, hopeless = reopened(count.failures)
    return typed.step(f"asks again {hopes(hopeful, hopeless)}", "retry") if hopeful and count.kept else Command("")


# ---- figures ----


def _tiles(
    count: Count, told: Sequence[Chapter], lasts: Sequence[Moment], evidence: Evidence | None, priced: rows.Priced
) -> Iterable[page.Tile]:
    summary = count.summary
    yield page.Tile("succeeded", number(summary.succeeded), percent(summary.succeeded, summary.total))
    yield page.Tile(
        "failed", number(summary.failed + summary.invalid), f"{number(summary.pending)} to go" if summary.pending else ""
    )
    spent, asked = sum(chapter.seconds for chapter in told), sum(last.asked for last in lasts)
    yield page.Tile("time", seconds(spent), rate(asked / spent) if asked and spent else "")
    used = sum(last.tokens_in for last in lasts), sum(last.tokens_out for last in lasts)
    yield page.Tile("tokens", f"{amount(used[0])} in", f"{amount(used[1])} out")
    if evidence and evidence.total:
        p50, p95, p99 = (seconds(quantile(evidence.total, share)) for share in (0.5, 0.95, 0.99))
        yield page.Tile("latency p50", p50, f"p95 {p95} · p99 {p99}")
    expected = f"≈ {money(count.expected)} at the end" if count.running and count.expected is not None else ""
    yield page.Tile("cost", rows.costs(rows.spent(lasts, priced)), expected)
    recovered = sum(last.recovered for last in lasts)
    yield page.Tile("retries", number(sum(last.retries for last in lasts)), f"{number(recovered)} recovered" if recovered else "")
    for name in ("busy", "timeout", "cut"):
        yield _counted(name, lasts)


def _counted(group: str, lasts: Sequence[Moment]) -> page.Tile:
    counts = [(WORDS[kind], sum(last.kinds.get(kind, 0) for last in lasts)) for kind in page.GROUPS[group]]
    worst = sorted((each for each in counts if each[1]), key=lambda each: -each[1])
    names = {"busy": "429, overloaded", "timeout": "timeouts", "cut": "cut, garbled"}
    note = worst[0][0] if len(worst) == 1 else ", ".join(f"{number(n)} {word}" for word, n in worst[:2])
    return page.Tile(names[group], number(sum(n for _, n in counts)), note)
