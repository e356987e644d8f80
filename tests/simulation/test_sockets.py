"""The modelled servers on real sockets say what happened, and the benchmark reads it."""

from functools import partial

import pytest

from tests.bench import learning
from tests.bench.modelled import figures
from tests.bench.points import POINTS, Point
from tests.simulation import scenarios
from tests.simulation.world import Sent


def test_a_contender_runs_through_the_public_command() -> None:
    point = Point(60, scenarios.fixed, 30)
    stage = point.stage(60, learning.SEED)
    ran = learning._run("fixed", point, stage, {"timeout": 60})
    seconds, ideal, ratio, unanswered, wronged, throttled, extra, p50 = learning._figures(stage, ran)
    assert (ideal, unanswered, wronged, throttled, extra) == (0.2, 0, 0.0, 0.0, 0.0)
    assert ratio == pytest.approx(float(seconds) / 0.2)
    assert float(p50) >= 0.19


def test_what_a_stopped_client_drops_is_not_its_judgement() -> None:
    stage = scenarios.fixed(4, 1)
    log = [
        Sent(0, "a", 0.0, 1.0, "answered"),
        Sent(1, "a", 0.0, 2.0, "wronged", 0),
        Sent(2, "a", 0.0, 9.9, "wronged", 0),
        Sent(3, "a", 1.0, 1.0, "refused", 429),
        Sent(3, "a", 9.0, 10.0, "answered"),
    ]
    assert figures(stage, log, stopped=False)["wronged"] == 0.5
    stopped = figures(stage, log, stopped=True)
    assert (stopped["wronged"], stopped["sent"], stopped["throttled"]) == (0.25, 4, 0.25)


@pytest.mark.parametrize("name", POINTS)
def test_every_point_is_one_of_the_simulation(name: str) -> None:
    stage = POINTS[name].stage if not isinstance(POINTS[name].stage, partial) else POINTS[name].stage.func
    assert stage is scenarios.SCENARIOS[name].stage
