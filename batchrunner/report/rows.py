"""What stands in the tables of the page: endpoints, troubles, deaths, the slowest, prices, settings.

Rules:

1. Nothing that a server said gets in: kinds, figures, ids, and settings that are masked already.
2. Bounded: at most `SLOWEST` attempts, `MOST_ROWS` rows of anything else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest

from batchrunner.core.buckets import Buckets, merged, middle, quantile
from batchrunner.core.evidence import Evidence
from batchrunner.core.model import Kind
from batchrunner.core.trail import AttemptLine, Finding, LaneMoment, Moment, Spend, Start
from batchrunner.core.treatment import REFUSED, TREATMENT
from batchrunner.core.wording import WORDS, money, number, outcome_in_words, plural, rate, seconds
from batchrunner.report import story as page
from batchrunner.report.course import KINDS, Chapter, group_of, shortened
from batchrunner.settings import OPTIONS

SLOWEST = 20
MOST_ROWS = 60
SPIKE = 5  # deaths at one age, and
SPIKE_SHARE = 0.3  # of all of them, that are no accident
STATES = {"up": "", "paused": "paused at its request", "resting": "resting after failures", "stopped": "out of use"}

Priced = Callable[[Spend], tuple[float | None, str]]
"""What these tokens cost, None when that is not known, and who says so."""


def endpoints(told: Sequence[Chapter]) -> Iterable[page.Endpoint]:
    """Each endpoint over all sessions."""
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
        name=shortened(name),
        attempts=sum(lane.attempts for lane in ends),
        good=sum(lane.succeeded for lane in ends),
        p50=_quantile(total, 0.5),
        p95=_quantile(total, 0.95),
        connect=_quantile(connect, 0.95),
        timeout=seconds(last.deadline) if last.deadline else "–",
        in_flight=f"{last.in_flight}/{last.limit}",
        state=STATES.get(last.state, last.state) or _pace(last),
    )


def _pace(lane: LaneMoment) -> str:
    """How fast requests may go there, and by whose word."""
    said = f"at most {rate(lane.rate)}" if lane.rate else ""
    return f"{said}, by its own headers" if lane.own else said


def _quantile(table: Buckets, share: float) -> str:
    return seconds(quantile(table, share)) if table else "–"


def troubles(lasts: Sequence[Moment], failures: Mapping[Kind, int], stopped: bool = False) -> Iterable[page.Trouble]:
    """Every kind of failure with what to do, the worst first. `stopped`: perhaps by what made an endpoint seem down."""
    rows = [(kind, sum(last.kinds.get(kind, 0) for last in lasts), failures.get(kind, 0)) for kind in Kind if kind is not Kind.OK]
    worst = sorted((row for row in rows if row[1] or row[2]), key=lambda row: (-row[2], -row[1]))
    lost = stopped or any(lane.state == "stopped" for last in lasts[-1:] for lane in last.lanes)
    for kind, tries, failed in worst:
        treatment = TREATMENT[kind]
        halted = treatment.health == "down" or kind is Kind.CANCELLED
        left = failed or not treatment.again or (lost and treatment.health in REFUSED) or (stopped and halted)
        yield page.Trouble(WORDS[kind], tries, failed, treatment.hint if left else "Sent again; nothing to do.")


def finding(found: Finding) -> page.Finding:
    """A finding of the diagnosis, in words."""
    mark: page.Mark = "yes" if found.verdict == "yes" else "no" if found.verdict == "no" else "open"
    return page.Finding(found.question, mark, found.said, found.remedy)


def deaths(evidence: Evidence) -> Iterable[page.Death]:
    """Ages at which attempts ended without an answer."""
    yield from (page.Death(middle(place), "timeout", n) for place, n in evidence.kills.items())
    yield from (page.Death(middle(place), "cut", n) for place, n in evidence.deaths.items())


def spikes(evidence: Evidence) -> Iterable[page.Spike]:
    """Ages at which so many ended that it can be no accident."""
    found = evidence.spike
    if found and found.count >= SPIKE and found.count >= SPIKE_SHARE * found.of:
        said = f"{number(found.count)} of {number(found.of)} cut attempts ended {seconds(found.age)} after their start"
        yield page.Spike(found.age, found.count, f"{said}: something on the way has a limit of its own.")


# ---- slowest, cost, settings ----


def slowest(attempts: Iterable[AttemptLine]) -> Iterable[page.Slow]:
    """The slowest attempts, phase by phase."""
    for each in nlargest(SLOWEST, attempts, key=lambda each: each.seconds):
        queue = each.queue or 0.0
        yield page.Slow(
            id=shortened(each.id),
            line=each.line,
            number=each.number,
            endpoint=shortened(each.endpoint),
            what=outcome_in_words(Kind(each.kind), each.status) if each.kind in KINDS else each.kind,
            group=group_of(each.kind),
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


def prices(lasts: Sequence[Moment], priced: Priced) -> Iterable[page.Price]:
    """Tokens of each model and what they cost, over all sessions."""
    sums: dict[tuple[str, str], Spend] = {}
    for spend in (spend for last in lasts for spend in last.spend):
        sums[spend.endpoint, spend.model] = _added(sums.get((spend.endpoint, spend.model)), spend)
    several = len({endpoint for endpoint, _ in sums}) > 1
    for spend in sorted(sums.values(), key=lambda each: -(each.input + each.output))[:MOST_ROWS]:
        cost, source = priced(spend)
        name = f"{spend.model or 'other models'} at {spend.endpoint}" if several else spend.model or "other models"
        yield page.Price(shortened(name), spend.input, spend.output, costs(cost), source if cost is not None else "")


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


def spent(lasts: Sequence[Moment], priced: Priced) -> float | None:
    """What all of it has cost: as the sessions knew it, or at the prices in force where one of them did not."""
    known = [last.cost for last in lasts]
    if None in known:
        known = [priced(spend)[0] for last in lasts for spend in last.spend if spend.requests]
    return sum(cost for cost in known if cost is not None) if known and None not in known else None


def uncounted(lasts: Sequence[Moment]) -> str:
    """What may be on the bill beside what is counted."""
    used = sum(last.tokens_in + last.tokens_out for last in lasts)
    untold, doubtful = (sum(getattr(last, name) for last in lasts) for name in ("untold", "maybe_billed"))
    silent = f"{plural(untold, 'answer')} without a count of tokens: this is the least." if untold and used else ""
    unanswered = f"{plural(doubtful, 'attempt')} may be on the bill without an answer." if doubtful else ""
    return f"{silent} {unanswered}".strip()


def settings(start: Start) -> Iterable[page.Value]:
    """Every setting in force, and who gave it."""
    for name, value in start.settings.items():
        origin = start.origins.get(name, "")
        given = origin != "default" if origin else name in OPTIONS and _plain(OPTIONS[name].default) != _plain(value)
        yield page.Value(name, shortened(_written(value)), origin or ("given" if given else "default"), given)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _written(value: object) -> str:
    """As it is given: true, not True."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def costs(value: float | None) -> str:
    """Unknown is unknown, never 0."""
    return "unknown" if value is None else money(value)
