"""Charts as inline SVG, readable without a script.

Rules:

1. Pure functions from figures to text. Shapes stretch with the page, words do not: they are HTML around the shapes.
2. Colours are classes, so that one page serves light, dark and paper.
3. Every chart says in words what it shows, for those who cannot see it, and holds at most `POINTS` points a line.
"""

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10

from msgspec import Struct

POINTS = 240
TICKS, WIDE_TICKS = 4, 6
CLOCK = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0)
WIDE, HIGH = 1000, 200  # units of a drawing; it is stretched to the room it gets


class Line(Struct, frozen=True):
    """A line over time; less than 0 is a gap."""

    name: str
    role: str  # its class, and with it its colour
    values: Sequence[float]


class Axis(Struct, frozen=True):
    """From figures to places. `ends` are the least and the greatest figure shown, `ticks` the round ones between them."""

    ends: tuple[float, float]
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the least figure, 1 at the greatest."""
        low, high = self.ends
        if self.log:
            return (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low))
        return (value - low) / (high - low)


def axis(most: float) -> Axis:
    """From zero to a round figure not below `most`."""
    step = _step(max(most, 1e-9) / TICKS)
    count = max(1, ceil(most / step - 1e-9))
    return Axis((0.0, step * count), tuple(step * each for each in range(count + 1)))


def time_axis(least: float, most: float) -> Axis:
    """Running time in seconds, with ticks at round minutes or hours."""
    most = max(most, least + 1.0)
    rough = (most - least) / WIDE_TICKS
    step = next((step for step in CLOCK if step >= rough), 86400.0 * ceil(rough / 86400.0))
    return Axis((least, most), tuple(step * each for each in range(ceil(least / step), floor(most / step) + 1)))


def log_axis(least: float, most: float) -> Axis:
    """Whole powers of ten, logarithmic."""
    low = floor(log10(max(least, 1e-3)))
    high = max(low + 1, ceil(log10(max(most, 1e-3)) - 1e-9))
    return Axis((10.0**low, 10.0**high), tuple(10.0**power for power in range(low, high + 1)), log=True)


def _step(rough: float) -> float:
    """The next of 1, 2, 5 × a power of ten."""
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


# ---- shapes ----


def stacked(times: Sequence[float], lines: Sequence[Line], across: Axis, up: Axis) -> str:
    """Areas on top of one another, the first at the bottom."""
    below, shapes = [0.0] * len(times), []
    for line in lines:
        top = [low + value for low, value in zip(below, line.values, strict=True)]
        if any(value > 0 for value in line.values):
            there = _points(times, top, across, up)
            back = _points(times[::-1], below[::-1], across, up)
            shapes.append(f'<path class="area {line.role}" d="M{" ".join(there)}L{" ".join(back)}Z"/>')
        below = top
    return "".join(shapes)


def traced(times: Sequence[float], line: Line, across: Axis, up: Axis) -> str:
    """A line, broken where there is nothing to show. A point without neighbours is a short dash."""
    runs: list[list[str]] = [[]]
    for at, value in zip(times, line.values, strict=True):
        if value >= 0:
            runs[-1].append(_point(at, value, across, up))
        elif runs[-1]:
            runs.append([])
    drawn = "".join(f"M{' '.join(run)}{'h4' if len(run) == 1 else ''}" for run in runs if run)
    return f'<path class="line {line.role}" d="{drawn}"/>' if drawn else ""


def bars(columns: Iterable[tuple[float, float, float, str, str]], up: Axis) -> str:
    """Columns given as (left, right, value, class, title) with left and right in [0, 1], each on top of those before it there."""
    height: dict[float, float] = {}
    shapes = []
    for left, right, value, role, title in columns:
        low = height.get(left, 0.0)
        height[left] = low + value
        top, foot = HIGH * (1 - up.place(low + value)), HIGH * (1 - up.place(low))
        box = f'x="{left * WIDE:.1f}" y="{top:.1f}" width="{(right - left) * WIDE:.1f}" height="{foot - top:.1f}"'
        shapes.append(f'<rect class="area {role}" {box}><title>{escape(title)}</title></rect>')
    return "".join(shapes)


def markers(places: Iterable[float], role: str) -> str:
    """Upright lines at places in [0, 1]."""
    return "".join(f'<path class="mark {role}" d="M{place * WIDE:.1f} 0V{HIGH}"/>' for place in places)


def waterfall(legs: Iterable[tuple[float, float, str, str]], deadline: float | None) -> str:
    """One row of phases given as (begin, end, class, title) in [0, 1]; the deadline is a mark on it."""
    shapes = "".join(
        f'<rect class="area {role}" x="{begin * WIDE:.1f}" y="0" width="{max(end - begin, 0.002) * WIDE:.1f}" height="10">'
        f"<title>{escape(title)}</title></rect>"
        for begin, end, role, title in legs
    )
    mark = "" if deadline is None else f'<path class="mark deadline" d="M{min(deadline, 1.0) * WIDE:.1f} 0V10"/>'
    return f'<svg viewBox="0 0 {WIDE} 10" preserveAspectRatio="none" aria-hidden="true">{shapes}{mark}</svg>'


def plot(shapes: str, across: Axis, up: Axis, words: tuple[Sequence[str], Sequence[str]], said: str) -> str:
    """Shapes with a grid and the words of both axes; `said` tells what they show."""
    below, beside = words
    grid = "".join(f'<path class="grid" d="M0 {HIGH * (1 - up.place(tick)):.1f}H{WIDE}"/>' for tick in up.ticks)
    drawing = (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" aria-label="{escape(said)}">{grid}{shapes}</svg>'
    )
    left = "".join(_word("bottom", up.place(tick), word) for tick, word in zip(up.ticks, beside, strict=True))
    foot = "".join(_word("left", across.place(tick), word) for tick, word in zip(across.ticks, below, strict=True))
    return f'<div class="plot"><div class="up">{left}</div>{drawing}<div class="across">{foot}</div></div>'


def _word(side: str, place: float, word: str) -> str:
    return f'<span style="{side}:{100 * place:.2f}%">{escape(word)}</span>'


def _points(times: Sequence[float], values: Sequence[float], across: Axis, up: Axis) -> list[str]:
    return [_point(at, value, across, up) for at, value in zip(times, values, strict=True)]


def _point(at: float, value: float, across: Axis, up: Axis) -> str:
    place = min(max(up.place(value), 0.0), 1.0)
    return f"{across.place(at) * WIDE:.1f} {HIGH * (1 - place):.1f}"
