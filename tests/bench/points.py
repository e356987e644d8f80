"""Which proof points run on real sockets, and how long their jobs are there.

Real time is not free: where a job is merely the same all over it is shorter than in the simulation, and a contender that is
hopelessly behind is stopped. What the issue gives a length keeps it: a minute against the limit, two minutes of outage.
"""

from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from tests.simulation import scenarios
from tests.simulation.world import Stage


class Point(Struct):
    """One proof point in real time: lines, the stage, and after how many seconds a contender is stopped."""

    rows: int
    stage: Callable[[int, int], Stage]
    most: int
    alone: bool = False  # contenders would take the processor from one another


POINTS: Mapping[str, Point] = {
    "hangs": Point(10_000, scenarios.hangs, 120),
    "slowdown": Point(6_000, scenarios.slowdown, 120),
    "sizes": Point(2_000, scenarios.sizes, 120),
    "rate-window": Point(24_000, scenarios.rate_window, 120),
    "change-window": Point(20_000, scenarios.change_window, 120),
    "plateau": Point(6_000, partial(scenarios.saturated, median=0.5), 120),
    "outage": Point(20_000, scenarios.outage, 240),
    "two": Point(10_000, scenarios.two_slow, 180),
    "fixed": Point(20_000, scenarios.fixed, 30, alone=True),
}
