"""Which proof points run on real sockets, and how long their jobs are there.

Real time is not free: jobs are shorter than in the simulation, and the outage lasts 30 seconds, not two minutes.
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
    "hangs": Point(6_000, scenarios.hangs, 90),
    "slowdown": Point(6_000, scenarios.slowdown, 90),
    "sizes": Point(1_500, scenarios.sizes, 75),
    "rate-window": Point(12_000, scenarios.rate_window, 60),
    "change-window": Point(20_000, scenarios.change_window, 90),
    "plateau": Point(1_500, scenarios.saturated, 90),
    "outage": Point(6_000, partial(scenarios.outage, out=4.0, back=34.0), 90),
    "two": Point(3_000, scenarios.two_slow, 60),
    "fixed": Point(20_000, scenarios.fixed, 30, alone=True),
}
