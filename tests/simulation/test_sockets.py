"""The modelled servers on real sockets say what happened, and the benchmark reads it."""

from functools import partial

import pytest

from tests.bench import learning
from tests.bench.points import POINTS, Point
from tests.simulation import scenarios
from tests.simulation.world import Sent


def test_a_contender_runs_through_the_public_command() -> None:
    point = Point(60, scenarios.fixed, 30)
    ran = learning._run("fixed", point, point.stage(60, learning.SEED), {"timeout": 60})
    assert (ran.rows, ran.lost, ran.stopped, ran.wronged, ran.throttled(0.0), ran.extra) == (60, 0, False, 0.0, 0.0, 0.0)
    assert ran.slower == pytest.approx(ran.makespan / 0.2)
    assert ran.latency(0.5) >= 0.19
    assert learning._cell(ran) == f"{ran.slower:.2f}"


def test_what_a_stopped_client_drops_is_not_its_judgement() -> None:
    stage = scenarios.fixed(4, 1)
    log = [
        Sent(0, "a", 0.0, 1.0, "answered"),
        Sent(1, "a", 0.0, 2.0, "wronged", 0),
        Sent(2, "a", 0.0, 9.9, "wronged", 0),
        Sent(3, "a", 1.0, 1.0, "refused", 429),
        Sent(3, "a", 9.0, 10.0, "answered"),
    ]
    summary = {"seconds": 10.0, "succeeded": 2, "stopped": None}
    ended, stopped = (learning.ran(stage, summary | {"stopped": why}, log) for why in (None, "max_time"))
    assert (ended.wronged, ended.lost) == (0.5, 2)
    assert (stopped.wronged, stopped.lost, len(stopped.sent), stopped.throttled(0.0)) == (0.25, 0, 4, 0.25)
    assert learning._cell(ended) == "50.00, 50 % lost, 50 % killed in vain, 20 % 429s"
    assert learning._cell(stopped) == "> 50.00, 25 % killed in vain, 25 % 429s"


def test_a_bound_that_is_missed_is_said() -> None:
    slower = scenarios.at_most(scenarios.SLOWER, scenarios.slower, 1.5)
    assert learning._figure(slower, 1.4) == "makespan / ideal 1.4 (≤ 1.5)"
    assert learning._figure(slower, 1.6) == "makespan / ideal 1.6 (≤ 1.5, MISSED)"


def test_the_bound_of_a_point_is_that_of_its_time() -> None:
    told = {name: learning._most(scenarios.SCENARIOS[name]) for name in ("hangs", "rate-window", "outage")}
    assert told == {"hangs": "1.50", "rate-window": "1.05", "outage": ""}


@pytest.mark.parametrize("name", POINTS)
def test_every_point_is_one_of_the_simulation(name: str) -> None:
    stage = POINTS[name].stage if not isinstance(POINTS[name].stage, partial) else POINTS[name].stage.func
    assert stage is scenarios.SCENARIOS[name].stage
