"""From the trail of a job to the story of its page: the one room of the report that knows the records of `core.trail`.

Rules:

1. Pure: records and counts in, a `Story` out. The lines of the job are counted by whoever has counted them best (its
   survey, or the run under way); the trail says how it went.
2. Sessions follow one another in running time. Counters begin anew with each, so that only their differences are added.
3. Nothing that a server said gets in: kinds, figures, ids, and settings that are masked already.
4. Bounded: at most `POINTS` moments, `SLOWEST` attempts, `MOST_ROWS` rows of anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest

from msgspec import Struct

from batchrunner.core.classify import TREATMENT
from batchrunner.core.evidence import Evidence
from batchrunner.core.model import Kind
from batchrunner.core.trail import AttemptLine, Buckets, End, Line, Moment, Spend, Start, joined, merged, middle, quantile
from batchrunner.core.trail import Finding as Found
from batchrunner.core.wording import WORDS, amount, money, number, percent, plural, rate, seconds, visible
from batchrunner.report import story as page
from batchrunner.report.svg import POINTS
from batchrunner.report.text import Job, hopes, reopened
from batchrunner.settings import OPTIONS
from batchrunner.summary import Summary

SLOWEST = 20
MOST_ROWS = 60
LONGEST = 120  # letters of a name or a value
KEPT = 4 * POINTS  # moments of a session that are held while a trail is read
SPIKE = 5  # deaths at one age, and
SPIKE_SHARE = 0.3  # of all of them, that are no accident
STATES = {"up": "", "paused": "paused at its request", "resting": "resting after failures", "stopped": "out of use"}

Priced = Callable[[Spend], tuple[float | None, str]]
"""What these tokens cost, None when that is not known, and who says so."""


class Chapter(Struct, frozen=True):
    """One session of a job as its trail tells it. `start` is missing where the file's beginning has been dropped."""

    start: Start | None
    moments: tuple[Moment, ...]
    end: End | None

    @property
    def session(self) -> int:
        """Its number, from 1."""
        return next((line.session for line in (self.start, self.end, *self.moments) if line), 0)

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end.at if self.end else self.moments[-1].at if self.moments else 0.0


class Count(Struct, frozen=True, kw_only=True):
    """How the job stands, beyond its trail."""

    summary: Summary
    failures: Mapping[Kind, int] = {}
    findings: Sequence[Found] = ()
    running: bool = False
    paused: bool = False
    expected: float | None = None  # what it will have cost


def chapters(lines: Iterable[Line]) -> list[Chapter]:
    """The sessions of a trail, in order. Of a long one several moments become one, so that memory has a bound."""
    starts: dict[int, Start] = {}
    ends: dict[int, End] = {}
    moments: dict[int, list[Moment]] = {}
    for line in lines:
        kept = moments.setdefault(line.session, [])
        if isinstance(line, Start):
            starts[line.session] = line
        elif isinstance(line, End):
            ends[line.session] = line
        else:
            kept.append(line)
            if len(kept) > KEPT:
                kept[:] = folded(kept, KEPT // 2)
    return [Chapter(starts.get(name), tuple(moments[name]), ends.get(name)) for name in sorted(moments)]


def tell(
    told: Sequence[Chapter],
    attempts: Iterable[AttemptLine],
    count: Count,
    job: Job,
    *,
    priced: Priced = lambda spend: (spend.told, "the provider"),
    made: str = "",
    files: Sequence[tuple[str, str]] = (),
) -> page.Story:
    """The story of a job."""
    command, why = _next(count, job)
    lasts = [chapter.moments[-1] for chapter in told if chapter.moments]
    everything = [moment for chapter in told for moment in chapter.moments]
    evidence = Evidence(everything) if everything else None
    start = next((chapter.start for chapter in reversed(told) if chapter.start), None)
    simulated = "the answers are simulated" if start and start.simulated else ""
    return page.Story(
        job=job.input,
        state=_state(count),
        verdict=_verdict(count),
        next=command,
        why=why,
        share=_done(count.summary) / max(1, count.summary.total) if count.running else None,
        made=" · ".join(part for part in (made, simulated) if part),
        program=f"batchrunner {start.version}" if start else "batchrunner",
        tiles=tuple(_tiles(count, told, lasts, evidence)),
        moments=tuple(_course(told[-MOST_ROWS:])),
        sessions=tuple(_sessions(told[-MOST_ROWS:], count.running)),
        endpoints=tuple(_endpoints(told)),
        troubles=tuple(_troubles(lasts, count.failures)),
        findings=tuple(_finding(each) for each in count.findings),
        deaths=tuple(_deaths(evidence)) if evidence else (),
        spikes=tuple(_spikes(evidence)) if evidence else (),
        slowest=tuple(_slowest(attempts)),
        prices=tuple(_prices(lasts, priced)),
        cost=_billed(lasts),
        settings=tuple(_settings(start)) if start else (),
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


def _next(count: Count, job: Job) -> tuple[str, str]:
    """What to type next, and what that does."""
    if count.running:
        return "", ""
    if count.summary.pending or count.summary.stopped:
        return job.command(), "continues where it was"
    hopeful, hopeless = reopened(count.failures)
    return (job.command("retry"), f"asks again {hopes(hopeful, hopeless)}") if hopeful else ("", "")


# ---- figures ----


def _tiles(count: Count, told: Sequence[Chapter], lasts: Sequence[Moment], evidence: Evidence | None) -> Iterable[page.Tile]:
    summary = count.summary
    yield page.Tile("succeeded", number(summary.succeeded), percent(summary.succeeded, summary.total))
    yield page.Tile(
        "failed", number(summary.failed + summary.invalid), f"{number(summary.pending)} to go" if summary.pending else ""
    )
    spent, settled = sum(chapter.seconds for chapter in told), sum(last.done - last.resumed for last in lasts)
    yield page.Tile("time", seconds(spent), rate(settled / spent) if settled and spent else "")
    used = sum(last.tokens_in for last in lasts), sum(last.tokens_out for last in lasts)
    yield page.Tile("tokens", f"{amount(used[0])} in", f"{amount(used[1])} out")
    if evidence and evidence.total:
        p50, p95, p99 = (seconds(quantile(evidence.total, share)) for share in (0.5, 0.95, 0.99))
        yield page.Tile("latency p50", p50, f"p95 {p95} · p99 {p99}")
    expected = f"≈ {money(count.expected)} at the end" if count.running and count.expected is not None else ""
    yield page.Tile("cost", _money(_sum(last.cost for last in lasts)), expected)
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


def _money(value: float | None) -> str:
    """Unknown is unknown, never 0."""
    return "unknown" if value is None else money(value)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return sum(each for each in known if each is not None) if known and None not in known else None


# ---- the course ----


def _course(told: Sequence[Chapter]) -> Iterable[page.Moment]:
    """All sessions on one axis, in at most `POINTS` steps."""
    whole = sum(len(chapter.moments) for chapter in told)
    offset = 0.0
    for chapter in told:
        room = max(2, POINTS * len(chapter.moments) // max(1, whole))
        before: Mapping[str, int] = {}
        for moment in folded(chapter.moments, room):
            yield _step(moment, before, offset)
            before = moment.kinds
        offset += chapter.seconds


def folded(moments: Sequence[Moment], most: int) -> list[Moment]:
    """At most so many moments, each of which may stand for several."""
    kept = list(moments)
    while len(kept) > most:
        pairs = zip(kept[::2], kept[1::2], strict=False)
        kept = [*(joined(first, second) for first, second in pairs), *kept[len(kept) // 2 * 2 :]]
    return kept


def _step(moment: Moment, before: Mapping[str, int], offset: float) -> page.Moment:
    total = merged(lane.phases.get("total", {}) for lane in moment.lanes)
    counts = dict.fromkeys(page.GROUPS, 0)
    for kind, n in moment.kinds.items():
        counts[_group(kind)] += n - before.get(kind, 0)
    return page.Moment(
        at=offset + moment.at,
        span=moment.span,
        counts=tuple(counts.values()),
        p50=quantile(total, 0.5),
        p95=quantile(total, 0.95),
        timeout=max((lane.deadline for lane in moment.lanes), default=0.0),
        in_flight=moment.in_flight,
        limit=moment.limit,
    )


def _group(kind: str) -> str:
    """The group of a kind by name; one that a newer program wrote counts as broken."""
    return page.GROUP_OF[Kind(kind)] if kind in KINDS else "broken"


KINDS = frozenset(kind.value for kind in Kind)


def _sessions(told: Sequence[Chapter], running: bool) -> Iterable[page.Session]:
    offset = 0.0
    for chapter in told:
        last = chapter.moments[-1] if chapter.moments else None
        now = running and chapter is told[-1]
        ended = (chapter.end.stopped or "finished") if chapter.end else "running" if now else "killed"
        yield page.Session(
            began=chapter.start.wall.replace("T", " ").partition(".")[0] if chapter.start else "",
            at=offset,
            seconds=chapter.seconds,
            settled=last.done - last.resumed if last else 0,
            ended=_short(ended),
        )
        offset += chapter.seconds


# ---- endpoints, troubles, deaths ----


def _endpoints(told: Sequence[Chapter]) -> Iterable[page.Endpoint]:
    names: dict[str, None] = {}
    for chapter in told:
        names.update(dict.fromkeys(lane.name for moment in chapter.moments[-1:] for lane in moment.lanes))
    return [_endpoint(name, told) for name in list(names)[:MOST_ROWS]]


def _endpoint(name: str, told: Sequence[Chapter]) -> page.Endpoint:
    lanes = [[lane for moment in chapter.moments for lane in moment.lanes if lane.name == name] for chapter in told]
    ends = [each[-1] for each in lanes if each]
    everything = [lane for each in lanes for lane in each]
    total, connect = (merged(lane.phases.get(phase, {}) for lane in everything) for phase in ("total", "connect"))
    last = ends[-1]
    return page.Endpoint(
        name=_short(name),
        attempts=sum(lane.attempts for lane in ends),
        good=sum(lane.succeeded for lane in ends),
        p50=_quantile(total, 0.5),
        p95=_quantile(total, 0.95),
        connect=_quantile(connect, 0.95),
        timeout=seconds(last.deadline) if last.deadline else "–",
        in_flight=f"{last.in_flight}/{last.limit}",
        state=STATES.get(last.state, last.state),
    )


def _quantile(table: Buckets, share: float) -> str:
    return seconds(quantile(table, share)) if table else "–"


def _troubles(lasts: Sequence[Moment], failures: Mapping[Kind, int]) -> Iterable[page.Trouble]:
    rows = [(kind, sum(last.kinds.get(kind, 0) for last in lasts), failures.get(kind, 0)) for kind in Kind if kind is not Kind.OK]
    worst = sorted((row for row in rows if row[1] or row[2]), key=lambda row: (-row[2], -row[1]))
    for kind, tries, failed in worst:
        remedy = TREATMENT[kind].hint if failed or not TREATMENT[kind].again else "Sent again; nothing to do."
        yield page.Trouble(WORDS[kind], tries, failed, remedy)


def _finding(found: Found) -> page.Finding:
    mark: page.Mark = "yes" if found.verdict == "yes" else "no" if found.verdict == "no" else "open"
    return page.Finding(found.question, mark, found.said, found.remedy)


def _deaths(evidence: Evidence) -> Iterable[page.Death]:
    yield from (page.Death(middle(place), "timeout", n) for place, n in evidence.kills.items())
    yield from (page.Death(middle(place), "cut", n) for place, n in evidence.deaths.items())


def _spikes(evidence: Evidence) -> Iterable[page.Spike]:
    found = evidence.spike
    if found and found.count >= SPIKE and found.count >= SPIKE_SHARE * found.of:
        said = f"{number(found.count)} of {number(found.of)} cut attempts ended {seconds(found.age)} after their start"
        yield page.Spike(found.age, found.count, f"{said}: something on the way has a limit of its own.")


# ---- slowest, cost, settings ----


def _slowest(attempts: Iterable[AttemptLine]) -> Iterable[page.Slow]:
    for each in nlargest(SLOWEST, attempts, key=lambda each: each.seconds):
        known = each.kind in KINDS
        what = WORDS[Kind(each.kind)] if known else each.kind
        queue = each.queue or 0.0
        yield page.Slow(
            id=_short(each.id),
            line=each.line,
            number=each.number,
            endpoint=_short(each.endpoint),
            what=f"{what} {each.status}" if each.status and each.kind != Kind.OK else what,
            group=_group(each.kind),
            legs=tuple(_legs(each)),
            deadline=queue + each.deadline if each.deadline else 0.0,
        )


def _legs(attempt: AttemptLine) -> Iterable[page.Leg]:
    """The phases one after the other; what none of them accounts for belongs to the one in which it ended."""
    at, whole = 0.0, (attempt.queue or 0.0) + attempt.seconds
    for phase in ("queue", "connect", "write", "first_byte", "body"):
        spent: float | None = getattr(attempt, phase)
        if spent:
            yield page.Leg(phase, at, at + spent)
            at += spent
    if whole - at > 0.01 * whole:
        yield page.Leg(attempt.phase or "body", at, whole)


def _prices(lasts: Sequence[Moment], priced: Priced) -> Iterable[page.Price]:
    sums: dict[tuple[str, str], Spend] = {}
    for spend in (spend for last in lasts for spend in last.spend):
        sums[spend.endpoint, spend.model] = _added(sums.get((spend.endpoint, spend.model)), spend)
    several = len({endpoint for endpoint, _ in sums}) > 1
    for spend in sorted(sums.values(), key=lambda each: -(each.input + each.output))[:MOST_ROWS]:
        cost, source = priced(spend)
        name = f"{spend.model or 'other models'} at {spend.endpoint}" if several else spend.model or "other models"
        yield page.Price(_short(name), spend.input, spend.output, _money(cost), source if cost is not None else "")


def _added(first: Spend | None, second: Spend) -> Spend:
    if first is None:
        return second
    told = None if first.told is None or second.told is None else first.told + second.told
    return Spend(
        endpoint=first.endpoint,
        model=first.model,
        requests=first.requests + second.requests,
        input=first.input + second.input,
        output=first.output + second.output,
        told=told,
    )


def _billed(lasts: Sequence[Moment]) -> str:
    doubtful = sum(last.maybe_billed for last in lasts)
    return f"{plural(doubtful, 'failed attempt')} may be on the bill without an answer." if doubtful else ""


def _settings(start: Start) -> Iterable[page.Value]:
    for name, value in start.settings.items():
        origin = start.origins.get(name, "")
        given = origin != "default" if origin else name in OPTIONS and _plain(OPTIONS[name].default) != _plain(value)
        yield page.Value(name, _short(_written(value)), origin or ("given" if given else "default"), given)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _written(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
