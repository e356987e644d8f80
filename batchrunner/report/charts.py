"""The drawings of the page: its course over time, the ages of death, the waterfall of the slowest.

Rules:

1. A pure function from a `Story` to text for each; "" where there is nothing to draw.
2. Charts over time share one axis of running time, with a mark where a session began anew.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from batchrunner.core.wording import amount, clock, plural
from batchrunner.core.wording import seconds as lasting
from batchrunner.report import svg
from batchrunner.report.parts import legend, section, shown, table
from batchrunner.report.story import GROUPS, Moment, Slow, Story

GROUP_WORDS: Final = {
    "good": "good",
    "busy": "429 or overloaded",
    "timeout": "timeout",
    "cut": "cut or garbled",
    "broken": "server or network error",
    "refused": "refused",
}
PHASE_WORDS: Final = {
    "queue": "waiting here",
    "connect": "connecting",
    "write": "sending",
    "first_byte": "waiting for the first byte",
    "body": "answer",
}
DEATH_WORDS: Final = {"timeout": "our own deadline", "cut": "cut off by others"}


def over_time(story: Story) -> str:
    """Three charts on one axis of running time; nothing where there was only a moment."""
    if len(story.moments) < 2:
        return ""
    charts = [chart for chart in (_throughput(story), _latency(story), _flight(story)) if chart]
    return "".join(charts)


def _throughput(story: Story) -> str:
    first, *_ = story.moments
    moments = [replace(first, at=first.at - first.span), *story.moments]  # a rate holds from the beginning of its step
    times = [moment.at for moment in moments]
    lines = [
        svg.Line(GROUP_WORDS[group], group, [_rate(moment, place) for moment in moments]) for place, group in enumerate(GROUPS)
    ]
    lines = [line for line in lines if any(line.values)]
    most = max((sum(parts) for parts in zip(*(line.values for line in lines), strict=True)), default=0.0)
    up = svg.axis(most)
    said = f"Attempts settled each second, by outcome; at most {most:.3g} a second."
    drawn = _plotted(story, lambda across: svg.stacked(times, lines, across, up), up, _plain(up), said)
    seam = "; a dotted line is where a session begins" if len(story.sessions) > 1 else ""
    return section("Throughput", legend(lines) + drawn, "throughput", f"attempts settled each second, by outcome{seam}")


def _rate(moment: Moment, place: int) -> float:
    return moment.counts[place] / moment.span if place < len(moment.counts) and moment.span > 0 else 0.0


def _latency(story: Story) -> str:
    moments, times = story.moments, [moment.at for moment in story.moments]
    lines = [
        svg.Line("p50: half took less", "p50", [moment.p50 or -1.0 for moment in moments]),
        svg.Line("p95: 19 of 20 took less", "p95", [moment.p95 or -1.0 for moment in moments]),
        svg.Line("timeout in force", "timeout", [moment.timeout or -1.0 for moment in moments]),
    ]
    lines = [line for line in lines if any(value > 0 for value in line.values)]
    there = [value for line in lines for value in line.values if value > 0]
    if not there:
        return ""
    up = svg.log_axis(min(there), max(there))
    said = f"Seconds of good answers over time with the timeout in force, between {min(there):.2g} and {max(there):.3g} s."
    drawn = _plotted(
        story,
        lambda across: "".join(svg.traced(times, line, across, up) for line in lines),
        up,
        [f"{tick:g} s" for tick in up.ticks],
        said,
    )
    return section("Latency and timeout", legend(lines) + drawn, "latency", "of good answers, on a logarithmic axis")


def _flight(story: Story) -> str:
    moments, times = story.moments, [moment.at for moment in story.moments]
    lines = [
        svg.Line("in flight", "flight", [moment.in_flight for moment in moments]),
        svg.Line("limit in force", "ceiling", [moment.limit for moment in moments]),
    ]
    most = max(value for line in lines for value in line.values)
    if most <= 0:
        return ""
    up = svg.axis(most)
    said = f"Attempts in flight and their limit over time; at most {most:.0f}."
    drawn = _plotted(story, lambda across: "".join(svg.traced(times, line, across, up) for line in lines), up, _plain(up), said)
    return section("Concurrency", legend(lines) + drawn, "concurrency", "attempts in flight")


def _plotted(story: Story, shapes: Callable[[svg.Axis], str], up: svg.Axis, beside: Sequence[str], said: str) -> str:
    """A chart over running time, with a mark where a session began anew."""
    across = svg.time_axis(min(moment.at - moment.span for moment in story.moments), story.moments[-1].at)
    seams = svg.markers([across.place(session.at) for session in story.sessions[1:]], "seam")
    words = ([clock(tick) for tick in across.ticks], beside)
    return svg.plot(shapes(across) + seams, across, up, words, said)


def _plain(up: svg.Axis) -> list[str]:
    return [amount(tick) if tick >= 1000 else f"{tick:g}" for tick in up.ticks]


def deaths(story: Story) -> str:
    """At what age attempts ended without an answer, with the spikes that are no accident."""
    if not story.deaths:
        return ""
    across = svg.log_axis(min(death.age for death in story.deaths), max(death.age for death in story.deaths))
    columns = _columns(story, across)
    heights: dict[float, float] = {}
    for left, _, count, _, _ in columns:
        heights[left] = heights.get(left, 0.0) + count
    up = svg.axis(max(heights.values()))
    there = {death.group for death in story.deaths}
    lines = [svg.Line(said, group, ()) for group, said in DEATH_WORDS.items() if group in there]
    marks = svg.markers([across.place(spike.age) for spike in story.spikes], "spike")
    said = f"Ages at which {plural(sum(death.count for death in story.deaths), 'attempt')} ended without an answer."
    words = ([f"{tick:g} s" for tick in across.ticks], _plain(up))
    drawn = svg.plot(svg.bars(columns, up) + marks, across, up, words, said)
    spikes = "".join(f"<p>{shown(spike.words)}</p>" for spike in story.spikes)
    return section("When attempts died", legend(lines) + drawn + spikes, "deaths", "age at their end, logarithmic")


BINS = 60


def _columns(story: Story, across: svg.Axis) -> list[tuple[float, float, float, str, str]]:
    """Deaths by age in columns of equal width, and by group within them."""
    sums: dict[tuple[int, str], int] = {}
    for death in story.deaths:
        place = min(int(across.place(death.age) * BINS), BINS - 1)
        sums[place, death.group] = sums.get((place, death.group), 0) + death.count
    order = list(DEATH_WORDS)
    low, high = across.ends
    found = []
    for (place, group), count in sorted(sums.items(), key=lambda each: (each[0][0], order.index(each[0][1]))):
        begin, end = (low * (high / low) ** (each / BINS) for each in (place, place + 1))
        title = f"{count} × {DEATH_WORDS[group]} at {lasting(begin)} to {lasting(end)}"
        found.append((place / BINS, (place + 0.9) / BINS, float(count), group, title))
    return found


def slowest(story: Story) -> str:
    """The slowest attempts as a waterfall."""
    if not story.slowest:
        return ""
    most = max([1e-3, *(slow.seconds for slow in story.slowest)])
    rows = [
        (
            f'{shown(slow.id)}<br><span class="soft">line {slow.line}, attempt {slow.number} at {shown(slow.endpoint)}</span>',
            shown(slow.what),
            lasting(slow.seconds),
            _fall(slow, most),
        )
        for slow in story.slowest
    ]
    phases = [phase for phase in PHASE_WORDS if any(leg.phase == phase for slow in story.slowest for leg in slow.legs)]
    key = legend([svg.Line(PHASE_WORDS[phase], phase, ()) for phase in phases])
    heads = ("request", "outcome", "took", "where the time went")
    return section("Slowest attempts", key + table(heads, rows, "wwnf"), "slowest", "the mark is the deadline")


def _fall(slow: Slow, most: float) -> str:
    legs = (
        (leg.begin / most, leg.end / most, leg.phase, f"{PHASE_WORDS[leg.phase]} {lasting(leg.end - leg.begin)}")
        for leg in slow.legs
    )
    return svg.waterfall(legs, slow.deadline / most if 0 < slow.deadline <= most else None)
