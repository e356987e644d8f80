"""A pause an endpoint asks for, and a rest that we impose."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.health import Breaker, Gate
from batchrunner.core.limit import Concurrency, Limit


def slots(number: int) -> Limit:
    return Limit(Concurrency(concurrency=number))


def test_a_gate_never_shortens_and_never_closes_by_itself() -> None:
    gate = Gate()
    assert gate.throttled(None, 90.0)
    assert gate.throttled(0.0, 90.0)
    assert gate.until == -inf
    assert gate.throttled(30.0, 100.0)
    assert gate.throttled(1.0, 101.0)
    assert gate.until == 130.0


def test_a_pause_above_a_quarter_of_an_hour_is_refused() -> None:
    gate = Gate()
    assert gate.throttled(900.0, 0.0)
    assert not gate.throttled(900.1, 0.0)
    assert not gate.throttled(1e9, 5.0)
    assert gate.until == 905.0


# The breaker


def opened(at: float = 10.0, u: float = 0.5) -> Breaker:
    breaker = Breaker(slots(4))
    for _ in range(10):
        breaker.fail(at, at, u)
    return breaker


def test_ten_failures_in_a_row_open_and_nine_with_an_answer_do_not() -> None:
    breaker = Breaker(slots(4))
    for n in range(100):
        if n % 10 == 9:
            breaker.ok(float(n))
        else:
            breaker.fail(float(n), float(n), 0.5)
    assert not breaker.open
    assert breaker.wait(100.0) == 0.0
    assert opened().open


@pytest.mark.parametrize(("concurrency", "row"), [(1, 10), (40, 10), (256, 64)])
def test_a_wide_lane_needs_more_failures(concurrency: int, row: int) -> None:
    breaker = Breaker(slots(concurrency))
    for _ in range(row - 1):
        breaker.fail(1.0, 1.0, 0.5)
    assert not breaker.open
    breaker.fail(1.0, 1.0, 0.5)
    assert breaker.open


@pytest.mark.parametrize(("u", "rest"), [(0.0, 1.5), (0.5, 2.0), (0.999, 2.499)])
def test_the_first_rest_is_two_seconds_more_or_less(u: float, rest: float) -> None:
    assert opened(10.0, u).wait(10.0) == pytest.approx(rest)


def test_rests_grow_with_the_outage_and_stay_short() -> None:
    breaker, now, rests = opened(10.0), 10.0, []
    for _ in range(400):
        rest = breaker.wait(now)
        assert rest
        rests.append(round(rest, 6))
        now += rest
        assert breaker.wait(now) == 0.0
        breaker.sent()
        breaker.fail(now + 0.1, now + 0.1, 0.5)
        now += 0.1
    assert rests[:40] == [2.0] * 40
    assert rests == sorted(rests)
    assert rests[60] == pytest.approx(0.02 * (sum(rests[:60]) + 60 * 0.1), rel=0.01)
    assert rests[-1] == 4.0


def test_outcomes_from_before_the_outage_change_nothing() -> None:
    breaker = opened(10.0)
    breaker.ok(9.9)
    breaker.fail(5.0, 11.0, 0.5)
    assert breaker.wait(11.0) == pytest.approx(1.0)
    assert breaker.wait(20.0) == 0.0
    breaker.sent()
    breaker.fail(9.0, 20.5, 0.5)
    breaker.ok(9.0)
    assert breaker.wait(21.0) is None, "the probe is still out, and alone"


def test_probes_double_and_eight_good_ones_close() -> None:
    breaker, now, out, most = opened(10.0), 20.0, 0, 0
    for _ in range(8):
        while breaker.wait(now) == 0.0 and breaker.open:
            breaker.sent()
            out += 1
        assert breaker.wait(now) is None
        most = max(most, out)
        now += 1.0
        breaker.ok(now - 0.5)
        out -= 1
    assert not breaker.open
    assert 8 < most <= 14
    assert breaker.wait(now) == 0.0
    for _ in range(10):
        breaker.fail(now, now, 0.5)
    assert breaker.wait(now) == pytest.approx(2.0), "rests begin anew"


def test_one_answer_to_what_was_sent_since_the_first_failure_is_no_outage() -> None:
    breaker = opened(10.0)
    breaker.ok(10.0)
    assert (breaker.open, breaker.wait(11.0)) == (False, 0.0)
    for _ in range(10):
        assert not breaker.open
        breaker.fail(12.0, 12.0, 0.5)
    breaker.ok(11.9)
    assert breaker.open, "that one was sent before the failures began anew"


def test_an_endpoint_that_only_fails_often_rests_while_another_serves() -> None:
    breaker = opened(10.0)
    breaker.ok(10.0, spared=True)
    assert breaker.open
    assert breaker.wait(13.0) == 0.0
    breaker.sent()
    for _ in range(8):
        breaker.ok(13.0, spared=True)
    assert not breaker.open, "its probes are good"


class Counted:
    """What a failure has cost, and how often that was taken back."""

    pardons = 0

    def pardon(self) -> None:
        self.pardons += 1


def test_failures_that_turn_out_to_be_an_outage_are_taken_back_and_others_are_not() -> None:
    breaker, early, late = Breaker(slots(4)), Counted(), Counted()
    breaker.fail(1.0, 1.0, 0.5)
    breaker.charge(early)
    breaker.ok(1.0)
    for _ in range(10):
        breaker.fail(3.0, 3.0, 0.5)
        breaker.charge(late)  # the last one comes when the breaker is open
    assert (early.pardons, late.pardons) == (0, 9)
    assert breaker.excuses(2.0), "what it caught in flight"
    assert breaker.excuses(4.0)


def test_what_an_outage_caught_is_counted_until_it_has_left() -> None:
    breaker = Breaker(slots(4))
    for _ in range(10):
        breaker.fail(10.0, 10.0, 0.5, inflight=2)
    assert breaker.caught == 2
    breaker.left(11.0)
    assert breaker.caught == 2, "that one was sent later"
    breaker.left(9.0)
    assert breaker.caught == 1
    breaker.ok(10.0)
    assert breaker.caught == 0, "it was none"


def test_in_an_outage_a_probe_is_given_up_for_nothing_and_what_it_caught_for_nothing_on_earth() -> None:
    breaker = Breaker(slots(4))
    assert breaker.price(0.0) == 1.0
    breaker = opened(10.0)
    assert (breaker.price(10.0), breaker.price(10.1)) == (inf, 0.0)


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    breaker = opened(10.0)
    assert breaker.wait(20.0) == 0.0
    breaker.sent()
    assert breaker.wait(20.0) is None
    breaker.void(9.0)
    assert breaker.wait(20.0) is None, "that one was no probe"
    breaker.void(20.0)
    assert breaker.wait(20.0) == 0.0
    assert breaker.open


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["send", "ok", "fail", "void"]), st.floats(0, 8), st.floats(0, 0.99)), max_size=200))
def test_a_breaker_never_jams(story: list[tuple[str, float, float]]) -> None:
    """Whatever happened: when nothing is in flight, waiting long enough lets something through."""
    breaker, now = Breaker(slots(4)), 0.0
    flying: list[float] = []
    for verb, pause, u in story:
        now += pause
        if verb == "send":
            if breaker.wait(now) == 0.0:
                breaker.sent()
                flying.append(now)
        elif flying:
            started = flying.pop(0)
            if verb == "ok":
                breaker.ok(started)
            elif verb == "fail":
                breaker.fail(started, now, u)
            else:
                breaker.void(started)
    for started in flying:
        breaker.void(started)
    assert breaker.wait(now + 60.0) == 0.0
