"""The page: one offline HTML file, under 150 KB, that explains a run.

Rules:

1. A pure function from a `Story` to text. The same page is shown live: `body` is what changes in it.
2. Every word that comes from a story passes `shown`, which escapes it and spells out what would act or turn the text round.
3. It needs no script, no network and no fonts; it follows the reader's light or dark, and prints.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from batchrunner.core.wording import amount, clock, number, visible
from batchrunner.core.wording import seconds as lasting
from batchrunner.report import svg
from batchrunner.report.story import GROUPS, Moment, Slow, Story, Value

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
MARKS: Final = {"yes": "yes", "no": "no", "open": "cannot tell"}


def shown(text: object) -> str:
    """Text fit for any place in the page."""
    return escape(visible(str(text)))


@cache
def style() -> str:
    """The style sheet."""
    return files(__package__).joinpath("page.css").read_text("utf-8")


def page(story: Story) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="generator" content="{shown(story.program)}">'
        f"<title>{shown(story.job)} · {shown(story.verdict)}</title><style>{style()}</style></head>\n"
        f"<body><main>{body(story)}</main></body></html>\n"
    )


def body(story: Story) -> str:
    """What stands in the page, section by section; what has nothing to say is left out."""
    return "\n".join(part for part in (section(story) for section in SECTIONS) if part)


# ---- sections ----


def _head(story: Story) -> str:
    command = f'<p class="next"><code>{shown(story.next)}</code> {shown(story.why)}</p>' if story.next else ""
    share = "" if story.share is None else _share(story.share)
    made = " · ".join(part for part in (story.job, story.made, story.program) if part)
    return (
        f'<header class="{shown(story.state)}"><h1>{shown(story.verdict)}</h1>{command}'
        f'<p class="soft">{shown(made)}</p>{share}</header>'
    )


def _share(share: float) -> str:
    done = f'<rect class="area flight" width="{100 * share:.2f}" height="1"/>'
    drawing = f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">{done}</svg>'
    return f'<div class="share" role="progressbar" aria-valuenow="{100 * share:.0f}">{drawing}</div>'


def _tiles(story: Story) -> str:
    tiles = (
        f"<div><dt>{shown(tile.name)}</dt><dd>{shown(tile.value)}<small>{shown(tile.note)}</small></dd></div>"
        for tile in story.tiles
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if story.tiles else ""


def _findings(story: Story) -> str:
    rows = [
        (
            shown(each.question),
            f'<span class="sign {each.mark}">{MARKS[each.mark]}</span>',
            shown(each.number),
            shown(each.remedy),
        )
        for each in story.findings
    ]
    return (
        _section("Diagnosis", _table(("question", "answer", "evidence", "what to do"), rows, "wsww"), "diagnosis") if rows else ""
    )


def _troubles(story: Story) -> str:
    rows = [
        (shown(each.what), number(each.attempts), number(each.failed) if each.failed else "–", shown(each.remedy))
        for each in story.troubles
    ]
    heads = ("", "attempts", "failed for good", "what to do")
    return _section("What went wrong, and what to do", _table(heads, rows, "wnnw"), "troubles") if rows else ""


def _over_time(story: Story) -> str:
    if len(story.moments) < 2:
        return ""
    charts = [chart for chart in (_throughput(story), _latency(story), _flight(story)) if chart]
    return "".join(charts)


def _throughput(story: Story) -> str:
    times = [moment.at for moment in story.moments]
    lines = [
        svg.Line(GROUP_WORDS[group], group, [_rate(moment, place) for moment in story.moments])
        for place, group in enumerate(GROUPS)
    ]
    lines = [line for line in lines if any(line.values)]
    most = max((sum(parts) for parts in zip(*(line.values for line in lines), strict=True)), default=0.0)
    up = svg.axis(most)
    said = f"Attempts settled each second, by outcome; at most {most:.3g} a second."
    drawn = _plotted(story, lambda across: svg.stacked(times, lines, across, up), up, _plain(up), said)
    return _section("Throughput", _legend(lines) + drawn, "throughput", "attempts settled each second, by outcome")


def _rate(moment: Moment, place: int) -> float:
    return moment.counts[place] / moment.span if place < len(moment.counts) and moment.span > 0 else 0.0


def _latency(story: Story) -> str:
    moments, times = story.moments, [moment.at for moment in story.moments]
    lines = [
        svg.Line("p50", "p50", [moment.p50 or -1.0 for moment in moments]),
        svg.Line("p95", "p95", [moment.p95 or -1.0 for moment in moments]),
        svg.Line("timeout in force", "timeout", [moment.timeout or -1.0 for moment in moments]),
    ]
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
    return _section("Latency and timeout", _legend(lines) + drawn, "latency", "of good answers, on a logarithmic axis")


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
    return _section("Concurrency", _legend(lines) + drawn, "concurrency", "attempts in flight")


def _plotted(story: Story, shapes: Callable[[svg.Axis], str], up: svg.Axis, beside: Sequence[str], said: str) -> str:
    """A chart over running time, with a mark where a session began anew."""
    across = svg.time_axis(min(moment.at - moment.span for moment in story.moments), story.moments[-1].at)
    seams = svg.markers([across.place(session.at) for session in story.sessions[1:]], "seam")
    words = ([clock(tick) for tick in across.ticks], beside)
    return svg.plot(shapes(across) + seams, across, up, words, said)


def _plain(up: svg.Axis) -> list[str]:
    return [amount(tick) if tick >= 1000 else f"{tick:g}" for tick in up.ticks]


def _legend(lines: Iterable[svg.Line]) -> str:
    keys = (f'<span><svg viewBox="0 0 12 12" aria-hidden="true">{_key(line)}</svg>{shown(line.name)}</span>' for line in lines)
    return f'<div class="legend">{"".join(keys)}</div>'


def _key(line: svg.Line) -> str:
    drawn = line.role in {"p50", "p95", "flight", "ceiling"} or line.name.startswith("timeout ")
    return (
        f'<path class="line {line.role}" d="M0 6H12"/>' if drawn else f'<rect class="area {line.role}" width="12" height="12"/>'
    )


def _deaths(story: Story) -> str:
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
    said = f"Ages at which {sum(death.count for death in story.deaths)} attempts ended without an answer."
    words = ([f"{tick:g} s" for tick in across.ticks], _plain(up))
    drawn = svg.plot(svg.bars(columns, up) + marks, across, up, words, said)
    spikes = "".join(f"<p>{shown(spike.words)}</p>" for spike in story.spikes)
    return _section("When attempts died", _legend(lines) + drawn + spikes, "deaths", "age at their end, logarithmic")


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


def _endpoints(story: Story) -> str:
    rows = [
        (
            shown(each.name),
            number(each.attempts),
            f"{100 * each.good / each.attempts:.1f} %" if each.attempts else "–",
            *map(shown, (each.p50, each.p95, each.connect, each.timeout, each.in_flight, each.state)),
        )
        for each in story.endpoints
    ]
    heads = ("endpoint", "attempts", "good", "p50", "p95", "connect p95", "timeout", "in flight", "state")
    return _section("Endpoints", _table(heads, rows, "wnnnnnnnw"), "endpoints") if rows else ""


def _slowest(story: Story) -> str:
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
    legend = _legend([svg.Line(PHASE_WORDS[phase], phase, ()) for phase in phases])
    heads = ("request", "outcome", "seconds", "where the time went")
    return _section("Slowest attempts", legend + _table(heads, rows, "wwnf"), "slowest", "the mark is the deadline")


def _fall(slow: Slow, most: float) -> str:
    legs = (
        (leg.begin / most, leg.end / most, leg.phase, f"{PHASE_WORDS[leg.phase]} {lasting(leg.end - leg.begin)}")
        for leg in slow.legs
    )
    return svg.waterfall(legs, slow.deadline / most if 0 < slow.deadline <= most else None)


def _cost(story: Story) -> str:
    rows = [
        (shown(each.model), amount(each.tokens_in), amount(each.tokens_out), shown(each.cost), shown(each.source))
        for each in story.prices
    ]
    note = f"<p>{shown(story.cost)}</p>" if story.cost else ""
    table = _table(("model", "tokens in", "tokens out", "cost", "price from"), rows, "wnnnw") if rows else ""
    return _section("Cost", table + note, "cost") if rows or note else ""


def _sessions(story: Story) -> str:
    rows = [(shown(each.began), lasting(each.seconds), number(each.settled), shown(each.ended)) for each in story.sessions]
    heads = ("begun", "lasted", "lines settled", "ended")
    return _section("Sessions", _table(heads, rows, "wnnw"), "sessions") if rows else ""


def _settings(story: Story) -> str:
    given = [value for value in story.settings if value.given]
    rest = [value for value in story.settings if not value.given]
    if not story.settings:
        return ""
    first = _values(given) if given else "<p>Everything is at its default.</p>"
    more = f"<details><summary>{len(rest)} at their defaults</summary>{_values(rest)}</details>" if rest else ""
    return _section("Settings", first + more, "settings")


def _values(values: Sequence[Value]) -> str:
    rows = [(shown(each.name), f"<code>{shown(each.value)}</code>", shown(each.origin)) for each in values]
    return _table(("option", "value", "from"), rows, "www")


def _files(story: Story) -> str:
    rows = [(shown(what), f"<code>{shown(path)}</code>") for what, path in story.files]
    return _section("Files", _table(("", ""), rows, "sw"), "files") if rows else ""


SECTIONS: Final = (
    _head,
    _tiles,
    _findings,
    _troubles,
    _over_time,
    _deaths,
    _endpoints,
    _slowest,
    _cost,
    _sessions,
    _settings,
    _files,
)


# ---- parts ----


def _section(title: str, content: str, name: str, note: str = "") -> str:
    said = f' <span class="soft">{shown(note)}</span>' if note else ""
    return f'<section id="{name}"><h2>{shown(title)}{said}</h2>{content}</section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], kinds: str) -> str:
    """Cells are ready HTML. `kinds` has a letter for each column: a figure, words, a waterfall, or what is short."""
    classes = [_CELL[kind] for kind in kinds]
    top = "".join(
        f"<th{kind if kind == _CELL['n'] else ''}>{shown(head)}</th>" for kind, head in zip(classes, heads, strict=True)
    )
    marks = [f'{kind} data-h="{shown(head)}"' if head else kind for kind, head in zip(classes, heads, strict=True)]
    lines = ("".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks, row, strict=True)) for row in rows)
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr class="top">{top}</tr>{inner}</table></div>'


_CELL: Final = {"n": ' class="n"', "w": ' class="w"', "f": ' class="fall"', "s": ""}
