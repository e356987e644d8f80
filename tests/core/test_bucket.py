"""Buckets: what may pass in any stretch of time, whatever the amounts and rates."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.bucket import SLACK, Bucket, Day


@given(st.floats(0.1, 1000), st.lists(st.floats(0.01, 500), min_size=2, max_size=60))
def test_no_stretch_of_time_lets_more_pass_than_the_rate_and_one_amount(rate: float, amounts: list[float]) -> None:
    bucket, now, passed = Bucket(rate), 100.0, []
    for amount in amounts:
        now += bucket.wait(now)
        assert bucket.wait(now) == pytest.approx(0.0, abs=1e-9)
        bucket.take(amount, now)
        passed.append((now, amount))
    for first in range(len(passed)):
        for last in range(first + 1, len(passed)):
            between = sum(amount for _, amount in passed[first:last])  # what the last had to wait for
            assert between <= rate * (passed[last][0] - passed[first][0] + SLACK) * 1.000001 + max(amounts)


def test_the_first_passes_at_once_and_the_next_at_the_rate() -> None:
    bucket = Bucket(10.0)
    moments, now = [], 5.0
    for _ in range(4):
        now += bucket.wait(now)
        bucket.take(1.0, now)
        moments.append(now)
    assert moments == pytest.approx([5.0, 5.1, 5.2, 5.3])


def test_what_was_not_used_lets_others_pass_sooner_and_what_was_used_besides_later() -> None:
    bucket = Bucket(10.0)
    bucket.take(20.0, 0.0)
    assert bucket.wait(0.0) == pytest.approx(2.0)
    bucket.pour_back(15.0)
    assert bucket.wait(0.0) == pytest.approx(0.5)
    bucket.pour_back(-10.0)
    assert bucket.wait(0.0) == pytest.approx(1.5)


def test_a_pause_leaves_its_credit_and_no_more() -> None:
    bucket = Bucket(10.0)
    bucket.take(1.0, 0.0)
    bucket.hold(2.0, credit=0.5)
    passed = 0
    while bucket.wait(2.0) == 0.0:
        bucket.take(1.0, 2.0)
        passed += 1
    assert passed == 5
    bucket.hold(4.0)
    assert bucket.wait(3.0) == pytest.approx(1.0)


def test_what_did_not_pass_before_a_turn_is_not_made_up_for_after_it() -> None:
    for turned, passed in ((False, 5), (True, 1)):
        bucket = Bucket(100.0)
        bucket.take(1.0, 0.0)
        bucket.hold(1.0, credit=0.5)
        if turned:
            bucket.turn(2.0)
        count = 0
        while bucket.wait(2.0) == 0.0:
            bucket.take(1.0, 2.0)
            count += 1
        assert count >= passed
        assert count == 1 or not turned


def test_a_rate_may_change_and_an_infinite_one_never_holds() -> None:
    bucket = Bucket(10.0)
    bucket.take(10.0, 0.0)
    bucket.rate = inf
    assert bucket.wait(0.0) == 0.0


def test_a_day_is_any_day() -> None:
    day = Day(3)
    for now in (0.0, 10.0, 7200.0):
        assert day.wait(now) == 0.0
        day.take(now)
    assert day.wait(7300.0) == pytest.approx(90000.0 - 7300.0)
    assert day.wait(90000.0) == 0.0
    day.take(90000.0)
    day.take(90000.0)
    assert day.wait(90001.0) > 3600.0, "the third is still within its day"
