"""An endpoint: when it takes a request, and what stops it."""

from math import inf

import pytest

from batchrunner.core.endpoints import RECHECK, Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Deadlines, Kind, Outcome
from tests.virtual import chat


def endpoint(concurrency: int = 2) -> Endpoint:
    return Endpoint("a", "http://a/v1", Limit(Concurrency(concurrency=concurrency)))


def test_an_endpoint_is_ready_when_nothing_holds_it() -> None:
    lane = endpoint()
    assert lane.ready(0.0) == 0.0
    lane.inflight = 2
    assert lane.ready(0.0) is None
    assert lane.serves(0.0), "full is not down"
    lane.inflight = 1
    lane.gate.throttled(10.0, 0.0)
    assert lane.ready(4.0) == 6.0
    assert not lane.serves(4.0)
    assert lane.ready(10.0) == 0.0
    lane.stopped = "no money"
    assert lane.ready(99.0) is None
    assert not lane.serves(99.0)


def test_the_longer_of_gate_and_breaker_counts() -> None:
    lane = endpoint()
    for _ in range(10):
        lane.learn("down", 1.0, Outcome(Kind.CONNECT), 1.0, 0.5)
    assert lane.ready(1.0) == pytest.approx(2.0)
    assert not lane.serves(1.0)
    lane.gate.throttled(10.0, 1.0)
    assert lane.ready(1.0) == pytest.approx(10.0)
    assert lane.ready(11.0) == 0.0
    lane.breaker.sent()
    assert lane.ready(11.0) is None


def test_what_hangs_in_an_outage_makes_room_for_a_probe() -> None:
    lane = Endpoint("a", "http://a/v1", Limit(Concurrency(max_concurrency=20)))
    lane.inflight = 16
    assert lane.ready(0.0) is None, "auto begins with 16"
    for _ in range(10):
        lane.learn("down", 0.5, Outcome(Kind.TIMEOUT_TOTAL), 1.0, 0.5)
    assert lane.ready(3.0) == 0.0, "they do not count while they hang"
    assert lane.price(0.0) == inf
    lane.inflight = 20
    assert lane.ready(3.0) is None, "but there are never more than the user allows"
    assert lane.price(0.0) == 1.0
    for _ in range(4):
        lane.left(attempt(1, 0.0))
    assert (lane.inflight, lane.breaker.caught) == (16, 12)


def test_who_is_refused_by_chance_waits_alone() -> None:
    lane = endpoint()
    lane.learn("pause", 0.0, Outcome(Kind.RATE_LIMITED, wait=5.0), 1.0, 0.5, chance=True)
    assert lane.ready(1.0) == 0.0
    assert lane.by_chance == 1
    lane.learn("pause", 0.0, Outcome(Kind.RATE_LIMITED, wait=5.0), 1.0, 0.5)
    assert lane.ready(1.0) == 5.0


def test_a_wait_closes_the_gate_and_an_absurd_one_the_endpoint() -> None:
    lane = endpoint()
    lane.learn("pause", 0.0, Outcome(Kind.RATE_LIMITED, 429, wait=20.0), 1.0, 0.5)
    assert lane.ready(1.0) == 20.0
    assert not lane.stopped
    lane.learn("up", 0.0, Outcome(Kind.RATE_LIMITED, 429, wait=86400.0), 1.0, 0.5)
    assert lane.stopped == "a asks for a pause of 86400 s [E305]"


def test_an_endpoint_that_throttles_is_alive_and_one_that_loads_says_nothing() -> None:
    for kind, closes in ((Kind.RATE_LIMITED, True), (Kind.LOADING, False)):
        lane = endpoint()
        for _ in range(10):
            lane.learn("down", 1.0, Outcome(Kind.CONNECT), 1.0, 0.5)
        for n in range(8):
            assert lane.ready(10.0 + n) == 0.0
            lane.breaker.sent()
            lane.learn("pause", 10.0 + n, Outcome(kind), 10.5 + n, 0.5)
        assert lane.breaker.open is not closes


DENIED = Outcome(Kind.DENIED, 403, message="no")


def attempt(line: int, started: float) -> Attempt:
    return Attempt(chat(line), "a", 1, started, Deadlines(1.0, 1.0, 1.0, 1.0))


def test_what_was_refused_keeps_its_slot_until_somebody_sent_later_is_answered() -> None:
    lane = endpoint(concurrency=3)
    lane.inflight = 1
    lane.refuse(attempt(1, 0.0), DENIED, 1.0, True)
    assert lane.ready(1.0) == 0.0
    lane.refuse(attempt(2, 0.0), DENIED, 1.0, True)
    assert lane.ready(1.0) is None
    lane.doubt.answer(0.5, "m")
    assert lane.ready(1.0) is None, "sent before the refusal"
    lane.doubt.answer(1.5, "m")
    assert lane.ready(2.0) == 0.0


def test_without_a_slot_others_are_asked_one_by_one_and_after_two_refusals_it_is_certain() -> None:
    lane = endpoint(concurrency=1)
    assert not lane.refuse(attempt(1, 0.0), DENIED, 1.0, True)
    assert (lane.singles, lane.ready(1.0)) == (True, 0.0)
    lane.inflight = 1
    assert lane.ready(1.0) is None
    lane.inflight = 0
    assert not lane.refuse(attempt(2, 1.0), DENIED, 2.0, True)
    assert not lane.refuse(attempt(1, 2.0), DENIED, 3.0, False), "the same line says nothing new"
    assert lane.refuse(attempt(3, 3.0), DENIED, 4.0, True)


def test_every_line_that_was_to_blame_makes_it_take_one_more() -> None:
    lane = endpoint(concurrency=1)
    lane.doubt.proven = 3
    assert [lane.refuse(attempt(n, float(n)), DENIED, n + 0.5, True) for n in range(6)] == [False] * 5 + [True]


def test_only_one_that_has_answered_is_waited_for() -> None:
    for answered in (False, True):
        lane = endpoint(concurrency=1)
        if answered:
            lane.doubt.answer(0.0, "m")
        for line in (1, 2):
            lane.refuse(attempt(line, float(line)), DENIED, line + 0.5, True)
        assert lane.ready(3.0) == (RECHECK - 0.5 if answered else 0.0)


def test_another_model_that_was_answered_for() -> None:
    lane = endpoint()
    assert not lane.doubt.knows_others("m")
    lane.doubt.answer(0.0, "m")
    assert (lane.doubt.knows_others("m"), lane.doubt.knows_others("bad")) == (False, True)
