"""A rate that is learned from refusals: how it starts, seeks, settles, falls, returns, and when it is none at all."""

from heapq import heappop, heappush
from math import ceil, inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.rate import HOLD, Rate


class Clock:
    """Sends at a rate's own speed against a quota of so many in each second; no latency."""

    def __init__(self, rate: Rate, quota: float, begin: float = 0.0, *, lazy: bool = False) -> None:
        self.rate = rate
        self.quota = quota
        self.begin, self.lazy = begin, lazy  # of the seconds; or each begins with the first request after the last one
        self.now = 100.0
        self.refusals = 0
        self._second, self._used = -1.0, 0

    def run(self, seconds: float, speed: float = inf, wait: float = 1.0) -> "Clock":
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0 / min(self.rate.value, speed)
            self.rate.sent(self.now)
            if self.now >= self._second + 1.0:
                self._second = self.now if self.lazy else (self.now - self.begin) // 1.0 + self.begin
                self._used = 0
            self._used += 1
            if self._used > self.quota:
                self.refusals += 1
                self.rate.refused(self.now, 10, wait, self.now)
                self.now = max(self.now + wait * (not self.rate.disputed), self.rate.resume)
            else:
                self.rate.answered(10)
        return self

    def turn(self) -> "Clock":
        """To the begin of the next second."""
        return self.run(self._second + 1.0 - self.now)


def test_there_is_no_rate_before_a_refusal_that_says_when_to_come_back() -> None:
    rate = Rate()
    Clock(rate, quota=200).run(0.9, speed=1000, wait=0.0)
    assert rate.value == inf
    assert not rate.known


def test_a_handful_of_requests_starts_no_rate() -> None:
    rate = Rate()
    for now in (0.0, 1.0, 2.0):
        rate.sent(now)
        rate.refused(now, 0, 5.0, now + 0.1)
    assert not rate.known


@pytest.mark.parametrize("seconds", [2.0, 6.0, 20.0])
def test_a_crawl_is_found_too_and_kept_up(seconds: float) -> None:
    """One request in so many seconds, told in whole ones: no second says anything, but dozens of them do."""
    rate, now, free, let_in, refusals = Rate(), 0.0, 0.0, 0, 0
    while let_in < 300:
        rate.sent(now)
        if now >= free:
            free, let_in = now + seconds, let_in + 1
            rate.answered(0)
        else:
            refusals += let_in >= 100
            rate.refused(now, 0, ceil(free - now), now)
            now += ceil(free - now)
        now += 1.0 / rate.value if rate.known else 0.01
    assert 0.75 / seconds <= rate.value <= 1.1 / seconds
    assert now <= 1.2 * 300 * seconds
    assert refusals <= 6


@pytest.mark.parametrize("quota", [40, 100, 400, 3000])
def test_it_settles_just_below_the_limit_and_stays(quota: int) -> None:
    clock = Clock(Rate(), quota).run(20.0, speed=1.6 * quota)
    assert 0.93 * quota <= clock.rate.value <= 1.001 * quota
    before = clock.refusals
    clock.run(HOLD / 2)
    assert clock.refusals <= before + 1


@pytest.mark.parametrize("begin", [0.0, 0.2, 0.45, 0.7, 0.95])
def test_by_the_seconds_of_a_clock_the_limit_is_found_to_the_hundredth(begin: float) -> None:
    clock = Clock(Rate(), 400, begin).run(20.0, speed=640)
    assert 0.985 * 400 <= clock.rate.value <= 400
    assert clock.refusals <= 4
    assert clock.run(50.0).refusals <= 4, "and never met again"


def test_what_there_was_time_for_before_a_refusal_goes_at_once_after_the_pause() -> None:
    clock = Clock(Rate(), 400, 0.2).run(20.0, speed=640).turn()
    clock.quota = 200
    before = clock.refusals
    while clock.refusals == before:
        clock.run(0.01)
    assert 0.45 <= clock.rate.credit <= 0.55, "half of the second was over when half of what it had let in was used up"


def test_a_second_that_refuses_tells_how_far_the_limit_fell() -> None:
    clock = Clock(Rate(), 400, 0.2).run(20.0, speed=640).turn()
    clock.quota = 150
    before = clock.refusals
    clock.run(4.0)
    assert clock.refusals == before + 1
    assert 0.94 * 150 <= clock.rate.value <= 150


def test_a_single_refusal_while_it_holds_is_no_fall_and_a_second_one_at_once_is() -> None:
    rate, now = Rate(), 0.0
    rate.warm(400.0)
    for refused in (8.0, 1.0):
        for _ in range(int(400 * refused)):
            now += 1 / 400
            rate.sent(now)
        before = rate.value
        rate.refused(now, 5, 1.0, now)
        assert rate.value == pytest.approx((0.98 if refused > 1.0 else 0.5) * before)
        now = rate.resume


def test_a_crawl_that_is_refused_for_the_fifth_time_while_it_holds_goes_deep_down() -> None:
    rate, now, left = Rate(), 0.0, []
    rate.warm(4.0)
    for _ in range(5):
        before = rate.value
        for _ in range(20):
            now += 1 / rate.value
            rate.sent(now)
        rate.refused(now, 5, 1.0, now)
        left.append(rate.value / before)
        now = rate.resume
    assert left[:4] == [pytest.approx(0.92)] * 4
    assert left[4] == pytest.approx(0.5)


def test_a_window_that_opens_with_a_request_is_told_from_a_clock_and_held_as_well() -> None:
    clock = Clock(Rate(), 400, lazy=True).run(25.0, speed=640)
    assert 0.93 * 400 <= clock.rate.value <= 400
    before = clock.refusals
    assert clock.run(30.0).refusals == before


def test_the_next_run_begins_with_what_was_found_and_not_with_what_was_just_tried() -> None:
    clock = Clock(Rate(), 400, 0.2).run(20.0, speed=640)
    found = clock.rate.value
    clock.run(HOLD - 25.0)
    while clock.rate.value == found:
        clock.run(0.1)
    assert clock.rate.value > 1.3 * found
    assert clock.rate.found == found


def test_it_follows_a_limit_that_falls_and_comes_back() -> None:
    clock = Clock(Rate(), 400).run(25.0, speed=600)
    clock.quota = 200
    clock.run(15.0)
    assert 0.9 * 200 <= clock.rate.value <= 1.02 * 200
    clock.quota = 400
    clock.run(25.0)
    assert 0.9 * 400 <= clock.rate.value <= 1.05 * 400


@pytest.mark.parametrize("low", [100, 200, 215, 300, 360])
def test_wherever_it_falls_to_it_is_back_within_half_a_minute_of_the_limit(low: int) -> None:
    """A climb that goes a little beyond the lower limit looks like the return of the higher one, and is refused."""
    clock = Clock(Rate(), 400).run(25.0, speed=600)
    clock.quota = low
    clock.run(20.0)
    clock.quota = 400
    clock.run(30.0)
    assert 0.9 * 400 <= clock.rate.value <= 1.05 * 400


def test_a_climb_within_what_the_last_one_met_is_no_return() -> None:
    """Where no seconds can be counted: the limit may be as high as the climb was when it was refused."""
    rate, now = Rate(), 0.0
    rate.warm(400.0)

    def send(seconds: float) -> float:
        until = now + seconds
        at = now
        while at < until:
            at += 1.0 / rate.value
            rate.sent(at)
        return at

    rate._second.deny()
    for seconds in (8.0, 0.9, 2.0):
        now = send(seconds)
        rate.refused(now, 5, 1.0, now)
        now = rate.resume
    held, met = rate.value, rate._top
    assert 1.05 * held < met < 250.0, "it fell by half, climbed quickly, and was refused again"
    while rate.value < 1.04 * met:
        assert rate.value < 1.1 * met
        now = send(0.1)
    assert rate.value <= 1.1 * met
    now = send(1.0)
    assert rate.value >= 0.98 * 400.0


def test_once_back_it_is_held_as_long_as_one_that_never_fell() -> None:
    clock = Clock(Rate(), 400).run(25.0, speed=600)
    clock.quota = 200
    clock.run(20.0)
    clock.quota = 400
    clock.run(15.0)
    assert 0.9 * 400 <= clock.rate.value <= 400
    before = clock.refusals
    clock.run(HOLD / 2)
    assert clock.refusals == before


def test_a_rate_that_is_not_used_is_not_raised() -> None:
    clock = Clock(Rate(), 400).run(20.0, speed=600)
    before = clock.rate.value
    clock.run(2 * HOLD, speed=0.5 * before)
    assert clock.rate.value == before


def test_the_users_number_is_never_passed_and_comes_back_after_a_refusal() -> None:
    clock = Clock(Rate(100.0), 1000)
    clock.run(10.0)
    assert clock.rate.value == 100.0
    clock.rate.refused(clock.now, 5, 1.0, clock.now)
    assert 85.0 <= clock.rate.value < 100.0
    clock.run(30.0)
    assert clock.rate.value == 100.0


def test_a_number_that_is_too_high_is_corrected() -> None:
    clock = Clock(Rate(800.0), 400).run(40.0)
    assert 0.9 * 400 <= clock.rate.value <= 1.02 * 400


def test_rare_refusals_without_a_wait_are_noise_and_frequent_ones_are_not() -> None:
    for every, trimmed in ((60, False), (10, True)):
        rate, least = Rate(100.0), 100.0
        for n in range(600):
            rate.sent(n / 100)
            if n % every == every - 1:
                rate.refused(n / 100, 5, 0.0, n / 100)
            else:
                rate.answered(5)
            least = min(least, rate.value)
        assert (least < 99.0) is trimmed


@pytest.mark.parametrize("seed", range(5))
def test_refusals_that_come_only_where_most_is_in_flight_speak_of_no_rate(seed: int) -> None:
    rate = Clock(Rate(), 400).run(6.0, speed=600).rate
    chance, now, busy = Random(seed), 200.0, list[tuple[float, int]]()
    while now < 260.0 and rate.known:
        now += 1.0 / rate.value
        while busy and busy[0][0] <= now:
            rate.answered(heappop(busy)[1])
        rate.sent(now)
        if len(busy) < 100:
            heappush(busy, (now + chance.uniform(1.0, 3.0), len(busy)))
        else:
            rate.refused(now, len(busy), 1.0, now)
            now = max(now + 1.0, rate.resume)
    assert rate.disputed
    assert rate.value == inf


def struck(rate: Rate, seconds: float, share: float, speed: float = 200.0) -> list[float]:
    """A share of all requests is refused and told to come back in a second, however slowly they go. When that came to an end."""
    chance, now, free = Random(1), 200.0, list[float]()
    while now < 200.0 + seconds:
        now += 1.0 / min(speed, rate.value)
        rate.sent(now)
        paced = rate.known
        if chance.random() >= share:
            rate.answered(5)
            continue
        rate.refused(now, 5, 1.0, now)
        now = max(now + 1.0, rate.resume) if rate.known else now
        if paced and not rate.known:
            free.append(now)
    return free


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_refusals_that_no_slowness_prevents_are_not_met_with_ever_more_of_it(share: float) -> None:
    rate = Rate()
    free = struck(rate, 120.0, share)
    assert free
    assert free[0] < 250.0
    assert rate.disputed, "and the concurrency limit hears of them"
    assert not rate.capped


def test_refusals_by_chance_leave_a_number_of_the_users_as_it_is() -> None:
    """One in ten, however little is sent. The pauses take 300 seconds; to follow them down would take two days."""
    chance, rate, now, resume = Random(1), Rate(100.0), 0.0, 0.0
    for _ in range(3000):
        now = max(now, resume) + 1.0 / rate.value
        rate.sent(now)
        if chance.random() < 0.1:
            rate.refused(now, 3, 1.0, now)
            resume = now + 1.0
        else:
            rate.answered(3)
    assert now < 1200.0


def test_a_number_that_is_far_too_high_is_not_taken_for_chance_for_long() -> None:
    clock = Clock(Rate(800.0), 20).run(60.0)
    assert 0.8 * 20 <= clock.rate.found <= 1.1 * 20


def test_a_limit_that_is_met_after_chance_was_is_believed() -> None:
    rate = Rate()
    struck(rate, 120.0, 0.03)
    clock = Clock(rate, 40)
    clock.now = 400.0
    clock.run(30.0, speed=400)
    assert 0.9 * 40 <= rate.found <= 40
    assert not rate.disputed


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["sent", "refused", "answered"]), st.floats(0, 3), st.floats(0, 2)), max_size=200))
def test_it_stays_positive_and_within_the_users_number(events: list[tuple[str, float, float]]) -> None:
    rate, now = Rate(50.0), 0.0
    for event, gap, wait in events:
        now += gap
        if event == "sent":
            rate.sent(now)
        elif event == "answered":
            rate.answered(3)
        else:
            rate.refused(now, 3, wait, now)
        assert 0.0 < rate.value <= 50.0


def test_what_was_sent_before_a_cut_does_not_cut_again() -> None:
    rate = Rate(100.0)
    rate.sent(0.0)
    rate.refused(1.0, 5, 1.0, 2.0)
    once = rate.value
    rate.refused(1.5, 5, 1.0, 2.1)
    assert rate.value == once < 100.0


@pytest.mark.parametrize("most", [inf, 300.0])
def test_a_number_that_comes_during_a_pause_is_a_new_begin(most: float) -> None:
    clock = Clock(Rate(), 400, 0.2).run(20.0, speed=640).turn()
    clock.quota = 200
    before = clock.refusals
    while clock.refusals == before:
        clock.run(0.01)
    clock.rate.fix(most)
    assert clock.rate.value == most
    clock.run(20.0, speed=300)
    assert 150 <= clock.rate.value <= 220


@pytest.mark.parametrize(("most", "begins"), [(inf, 40.0), (10.0, 10.0)])
def test_the_next_run_begins_with_the_rate_that_was_found(most: float, begins: float) -> None:
    rate = Rate(most)
    rate.warm(40.0)
    assert rate.value == begins


def test_more_than_was_found_is_tried_soon() -> None:
    rate = Rate()
    rate.warm(40.0)
    for tick in range(40 * 30):
        rate.sent(tick / 40.0)
    assert rate.value > 40.0
