"""The proof points of the adaptive rules on virtual time: each figure of each scenario, over several seeds, within its bound.

Rules:

1. A figure is the worst of its seeds.
2. What the engine reaches may never be lost again.
"""

from functools import cache
from math import inf

import pytest

from tests.simulation.illness import Fate, Present, examined
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import run

SEEDS = (1, 2, 3)


@cache
def figures(name: str) -> dict[str, float]:
    """The worst figure of each check."""
    scenario = SCENARIOS[name]
    runs = [run(scenario.stage(scenario.rows, seed), seed) for seed in SEEDS]
    return {check.name: (min if check.least else max)(map(check.measure, runs)) for check in scenario.checks}


POINTS = [
    pytest.param(name, number, id=f"{name}: {check.name}")
    for name, scenario in SCENARIOS.items()
    for number, check in enumerate(scenario.checks)
]


@pytest.mark.parametrize(("name", "number"), POINTS)
def test_proof(name: str, number: int) -> None:
    check = SCENARIOS[name].checks[number]
    value = figures(name)[check.name]
    assert check.holds(value), f"{check.name}: {value:.4g}, bound {check.bound:g}"


@pytest.mark.parametrize("stream", ["off", "on"])
def test_twins_shorten_the_end_for_what_the_user_allows(stream: str) -> None:
    stages = [(SCENARIOS["hangs"].stage(3000, seed), seed) for seed in range(1, 7)]
    alone = [run(stage, seed, {"stream": stream}) for stage, seed in stages]
    hedged = [run(stage, seed, {"stream": stream, "hedge": "1%"}) for stage, seed in stages]
    assert not any(each.lost for each in hedged)
    assert sum(each.makespan for each in hedged) < 0.95 * sum(each.makespan for each in alone)
    assert all(twice.extra <= once.extra + 0.01 for once, twice in zip(alone, hedged, strict=True))


def test_the_timeout_that_is_shown_is_the_one_that_ends_what_is_under_way() -> None:
    def course(present: Present) -> Fate:
        return Fate(inf if present.chance.random() < 0.01 else present.usual)

    seen = examined(course, 1, median=0.1, max_attempts=1)
    shown = {moment.lanes[0].deadline for moment in seen.moments[:-1] if moment.lanes[0].in_flight}
    assert shown == {60.0}
