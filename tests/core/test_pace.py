"""The pace of a model at an endpoint: the user's numbers, bookings, pauses; and what the scheduler makes of it."""

from math import inf

import pytest

from batchrunner.core.deadlines import Deadlines, Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Kind, Left, Outcome, Usage, Wait
from batchrunner.core.pace import FIRST_ANSWER, Pace, Pacing, least
from batchrunner.core.rate import Rate
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from tests.virtual import chat

OK = Outcome(Kind.OK, 200)


def attempt(line: int = 1, booked: float = 0.0, started: float = 0.0, **changes: object) -> Attempt:
    return Attempt(chat(line, **changes), "a", 1, started, Deadlines(1, 1, 1, 1), booked=booked)


def room(*names: str, slots: int = 100, **numbers: int) -> Scheduler:
    lanes = [
        Endpoint(name, f"http://{name}", Limit(Concurrency(concurrency=slots)), pacing=Pacing(**numbers)) for name in names or "a"
    ]
    return Scheduler(lanes, Retries(), Timeouts(), 1000)


def drained(scheduler: Scheduler, now: float, name: str = "a") -> tuple[list[Attempt], Wait]:
    sent = []
    while isinstance(step := scheduler.next(name, now), Attempt):
        sent.append(step)
    return sent, step


def test_without_numbers_nothing_waits() -> None:
    pace = Pace(Pacing())
    for _ in range(1000):
        assert pace.wait(5.0) == 0.0
        assert pace.take(chat(1), 5.0) == 0.0
    assert pace.value == inf


def test_requests_go_out_at_the_rate_and_hold_no_slot_while_they_wait() -> None:
    scheduler = room(rpm=600)
    for line in range(50):
        scheduler.offer(chat(line))
    now, count = 10.0, 0
    while now < 12.0:
        sent, wait = drained(scheduler, now)
        count += len(sent)
        assert wait.until is not None
        assert now < wait.until <= now + 0.11
        now = wait.until
    assert count == pytest.approx(20, abs=1)
    assert scheduler.in_flight == count


def test_models_are_paced_apart_and_none_waits_for_another() -> None:
    scheduler = room(rpm=60)
    for line in range(10):
        scheduler.offer(chat(line, model="x" if line < 9 else "y"))
    sent, _ = drained(scheduler, 1.0)
    assert [each.request.model for each in sent] == ["x", "y"]


def test_who_has_room_takes_what_another_endpoint_is_too_slow_for() -> None:
    scheduler = room("a", "b", rpm=60)
    for line in range(10):
        scheduler.offer(chat(line))
    assert len(drained(scheduler, 1.0, "a")[0]) == 1
    assert len(drained(scheduler, 1.0, "b")[0]) == 1


def test_tokens_are_booked_by_guess_and_settled_by_use() -> None:
    pace = Pace(Pacing(tpm=6000))  # 100 a second
    booked = pace.take(chat(1, body=b"x" * 400, max_tokens=50), 0.0)
    assert booked == 150.0
    assert pace.wait(0.0) == pytest.approx(1.5)
    assert not pace.settle(attempt(body=b"x" * 400, booked=booked), Outcome(Kind.OK, 200, usage=Usage(90, 10)), 0.0)
    assert pace.wait(0.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("numbers", "requests", "tokens", "seconds"),
    [
        ([{}], 1000, 1e6, 0.0),
        ([{"rpm": 60}], 61, 1e6, 60.0),
        ([{"tpm": 5}], 21, 2100.0, 24_000.0),
        ([{"tpm": 5}], 1, 2100.0, 0.0),
        ([{"rpm": 60, "tpm": 6000}], 61, 61_000.0, 600.0),
        ([{"rpm": 60}, {"rpm": 30}], 91, 0.0, 60.0),
        ([{"rpm": 60}, {}], 91, 0.0, 0.0),
        ([{"rpd": 100}], 201, 0.0, 2 * 86400.0),
        ([{"rpm": 60}], 0, 0.0, 0.0),
    ],
)
def test_how_long_numbers_make_it_take_at_least(
    numbers: list[dict[str, int]], requests: int, tokens: float, seconds: float
) -> None:
    assert least([Pacing(**each) for each in numbers], requests, tokens) == pytest.approx(seconds)


def test_a_number_that_one_request_exceeds_is_told_once() -> None:
    scheduler = room(tpm=5)
    for line in range(3):
        scheduler.offer(chat(line))
    (first,), wait = drained(scheduler, 0.0)
    assert wait.until is not None
    scheduler.settle(first, Outcome(Kind.OK, 200, usage=Usage(13, 12)), 1.0, 0.5)
    assert scheduler.notice == "a: --tpm 5 is less than the 25 tokens of one answered request: the next goes out in 5 m"
    (second,), _ = drained(scheduler, 400.0)
    scheduler.settle(second, Outcome(Kind.OK, 200, usage=Usage(13, 12)), 401.0, 0.5)
    assert scheduler.notice == ""


@pytest.mark.parametrize(("tpm", "usage"), [(25, Usage(13, 12)), (5, None), (0, Usage(13, 12))])
def test_a_number_that_lets_a_request_pass_in_a_minute_is_not_remarked_on(tpm: int, usage: Usage | None) -> None:
    assert Pace(Pacing(tpm=tpm)).exceeded(usage) == ""


def test_guesses_learn_from_what_was_used() -> None:
    pace = Pace(Pacing(tpm=6000))
    assert pace.take(chat(1, body=b"x" * 400), 0.0) == 100 + FIRST_ANSWER
    for line in range(200):
        pace.settle(attempt(line, body=b"x" * 400, booked=1.0), Outcome(Kind.OK, 200, usage=Usage(200, 40)), 0.0)
    assert pace.take(chat(1, body=b"x" * 400), 0.0) == pytest.approx(240, rel=0.01)


def test_what_was_refused_or_lost_used_no_tokens() -> None:
    for kind in (Kind.RATE_LIMITED, Kind.SERVER_ERROR):
        pace = Pace(Pacing(tpm=6000))
        booked = pace.take(chat(1, max_tokens=200), 0.0)
        owned = pace.settle(attempt(booked=booked), Outcome(kind, 500), 0.1)
        assert owned is (kind is Kind.RATE_LIMITED), "the user's number makes refusals the pace's business"
        assert pace.wait(0.1) == 0.0


def test_a_day_holds_the_rest_back_for_as_long_as_it_takes() -> None:
    scheduler = room(rpd=3)
    for line in range(5):
        scheduler.offer(chat(line))
    sent, wait = drained(scheduler, 0.0)
    assert len(sent) == 3
    assert wait.until is not None
    assert wait.until > 86400.0


def refusals(scheduler: Scheduler, wait: float | None, rounds: int = 12) -> Endpoint:
    """Answers, and every fourth a refusal, one every tenth of a second."""
    lane, now = scheduler.endpoints[0], 100.0
    for line in range(20 * rounds):
        scheduler.offer(chat(line))
        now += 0.1 + max(0.0, lane.gate.until - now)
        step = scheduler.next("a", now)
        if isinstance(step, Attempt):
            refused = line % 4 == 3 and line > 40
            scheduler.settle(step, Outcome(Kind.RATE_LIMITED, 429, wait=wait) if refused else OK, now + 0.05, 0.5)
    return lane


def test_refusals_that_name_a_wait_start_a_pace_and_leave_the_limit_alone() -> None:
    scheduler = room(slots=16)
    scheduler.endpoints[0].limit = Limit(Concurrency())
    lane = refusals(scheduler, wait=0.5)
    assert lane.rate < inf
    assert lane.limit.size == 16


def test_refusals_without_one_are_the_limits() -> None:
    scheduler = room()
    scheduler.endpoints[0].limit = Limit(Concurrency())
    lane = refusals(scheduler, wait=None)
    assert lane.rate == inf
    assert lane.limit.size < 16


def heard(pace: Pace, allowance: str = "requests", lines: int = 100) -> None:
    """Answers of a bucket of 400 that fills with 400 a second; half of it is gone."""
    for line in range(lines):
        gone = 200.0 + line % 32
        pace.take(chat(line), line / 400)
        outcome = Outcome(Kind.OK, 200, left=(Left(allowance, 400.0 - gone, gone / 400.0),))
        assert not pace.settle(attempt(line), outcome, line / 400)


def test_what_the_headers_tell_holds_requests_back_as_soon_as_little_remains() -> None:
    pace = Pace(Pacing())
    heard(pace)
    assert pace.value == inf
    sent = 0
    while not pace.wait(0.25):
        pace.take(chat(1000 + sent), 0.25)
        sent += 1
    assert 140 < sent <= 169, "of what was left by the least of the answers, but for a margin"
    assert pace.value == pace.told == pytest.approx(400.0, rel=0.1)
    assert 0.0 < pace.wait(0.25) < 1 / 300
    assert pace.found == 0.0, "nothing for the next run, which will be told as well"


@pytest.mark.parametrize(("allowance", "numbers"), [("requests", {"rpm": 600_000}), ("tokens", {"tpm": 600_000_000})])
def test_a_number_of_the_users_goes_before_what_headers_tell(allowance: str, numbers: dict[str, int]) -> None:
    pace = Pace(Pacing(**numbers))
    heard(pace, allowance)
    for line in range(1000):
        pace.take(chat(1000 + line), 0.25 + line / 1000)
    assert pace.told == inf
    assert pace.wait(1.3) == 0.0


def test_the_users_number_on_the_way_ends_what_headers_tell() -> None:
    pace = Pace(Pacing())
    heard(pace)
    pace.fix(60)
    heard(pace)
    assert (pace.value, pace.told) == (1.0, inf)


def test_a_refusal_has_the_last_word_over_what_headers_tell() -> None:
    pace = Pace(Pacing())
    heard(pace)
    assert pace.wait(1.0) == 0.0
    pace.settle(attempt(7, started=0.9), Outcome(Kind.RATE_LIMITED, 429, wait=2.0), 1.0)
    assert pace.rate.known
    assert pace.wait(1.0) > 0.9, "a part of the pause is made up for"


def test_the_users_word_on_the_way_counts_until_it_is_taken_back() -> None:
    lane = room(rpm=60).endpoints[0]
    assert lane.pace("m").value == 1.0
    lane.repace(600)
    assert (lane.pace("m").value, lane.pace("new").value) == (10.0, 10.0)
    assert lane.rate == 20.0
    lane.repace(0)
    assert lane.rate == inf


class Turning(Rate):
    """A second of the endpoint's begins when a test says so."""

    turns = False

    def sent(self, now: float) -> bool:
        return self.turns


def test_what_a_second_of_the_endpoints_left_is_not_made_up_for_in_the_next() -> None:
    """The slack of a timer is owed where no second turns; nothing at all where one does."""
    for turns, at_once in ((False, 6), (True, 1)):
        pace, rate = Pace(Pacing(rpm=6000)), Turning(100.0)
        pace.rate = rate
        pace.take(chat(1), 0.0)
        rate.turns = turns
        pace.take(chat(2), 3.0)
        rate.turns, count = False, 1
        while pace.wait(3.0) == 0.0:
            pace.take(chat(3), 3.0)
            count += 1
        assert count == at_once


def test_the_next_run_is_told_what_held_and_not_what_was_just_tried() -> None:
    pace, now = Pace(Pacing()), 0.0
    pace.warm(100.0)
    second = pace.rate._second
    for _ in range(50):
        now += 0.01
        pace.take(chat(1), now)
    second.since, pace.rate.value = now, 200.0
    assert pace.found == 100.0
    assert pace.value == 200.0
