"""One line that is told to come back later, again and again, and limits that tell everybody. On virtual time."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from batchrunner.core.model import Attempt, Kind, Reply
from batchrunner.core.turnstile import SOME
from tests.virtual import good, poison, ran

LATER = {"retry-after": "1"}
THROTTLE = Reply(429, LATER, b'{"error":{"message":"slow down","type":"rate_limit_error"}}')
PAYMENT = Reply(402, LATER, b'{"error":{"message":"pay"}}')
LOADING = Reply(503, {}, b'{"error":{"message":"Loading model","type":"unavailable_error"}}')
BUSY = Reply(503, LATER, b'{"error":{"message":"busy"}}')
MOST = 24  # sendings, as without the header


@pytest.mark.parametrize("concurrency", [1, 8, 200])
@pytest.mark.parametrize(
    ("refusal", "kind", "lines"),
    [
        *((THROTTLE, Kind.RATE_LIMITED, lines) for lines in ({1}, {60}, {100}, {49, 50}, {50, 100}, {98, 99, 100})),
        (PAYMENT, Kind.RATE_LIMITED, {60}),
        (BUSY, Kind.OVERLOADED, {60}),
        (BUSY, Kind.OVERLOADED, {100}),
    ],
)
def test_a_line_that_is_always_turned_away_is_given_up(refusal: Reply, kind: Kind, lines: set[int], concurrency: int) -> None:
    run = ran(100, poison(lines, refusal), concurrency)
    assert run.failed == dict.fromkeys(lines, kind)
    assert all(run.sent[line] <= MOST + SOME for line in lines)
    assert {count for line, count in run.sent.items() if line not in lines} == {1}


def test_it_says_why() -> None:
    assert (
        ran(2000, poison({3}, THROTTLE)).words
        == "slow down (gave up after 24 waits it was told to make, while 1,999 others were answered)"
    )


@pytest.mark.parametrize("concurrency", [4, 64])
def test_many_such_lines_among_more_that_are_answered(concurrency: int) -> None:
    bad = set(Random(7).sample(range(1, 1001), 30))
    run = ran(1000, poison(bad, THROTTLE), concurrency)
    assert set(run.failed) == bad


# ---- a model that is being loaded ----


@pytest.mark.parametrize("lines", [{1}, {1, 2, 50}])
def test_a_line_for_which_the_model_is_always_being_loaded_is_given_up_in_the_end(lines: set[int]) -> None:
    run = ran(1500, poison(lines, LOADING, 1.0), 2)
    assert run.failed == dict.fromkeys(lines, Kind.LOADING)
    assert all(run.sent[line] <= MOST + SOME for line in lines)


@pytest.mark.parametrize("lines", [1, 10, 52, 300])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_server_that_loads_its_model_again_costs_none(lines: int, concurrency: int) -> None:
    async def restarted(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.5)
        return LOADING if 3.0 < asyncio.get_running_loop().time() - 1000.0 < 1500.0 else good()

    assert ran(lines, restarted, concurrency).failed == {}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_one_server_of_several_that_loads_for_minutes_costs_none(share: float) -> None:
    """And each line has its own server."""
    theirs = set(Random(5).sample(range(1, 1001), int(1000 * share)))

    async def replica(attempt: Attempt) -> Reply:
        await asyncio.sleep(1.0)
        loads = asyncio.get_running_loop().time() - 1000.0 < 400.0
        return LOADING if loads and attempt.request.line in theirs else good()

    assert ran(1000, replica, 4).failed == {}


# ---- limits ----


class Window:
    """Lets in so many in each of its seconds; `honest`: it says when the next begins, else to come back in a second."""

    def __init__(self, most: int, seconds: float, honest: bool, closed: Callable[[float], bool] = lambda _now: False) -> None:
        self._most, self._seconds, self._honest, self._closed = most, seconds, honest, closed
        self._let_in: Counter[int] = Counter()

    async def __call__(self, attempt: Attempt) -> Reply:
        now = asyncio.get_running_loop().time() - 1000.0
        number = int(now // self._seconds)
        self._let_in[number] += not (full := self._closed(now) or self._let_in[number] >= self._most)
        await asyncio.sleep(0.01 if full else 0.5)
        after = (number + 1) * self._seconds - now if self._honest else 1.0
        return Reply(429, {"retry-after": f"{after:.2f}"}, THROTTLE.body) if full else good()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize(
    ("lines", "most", "seconds", "concurrency"),
    [(22, 20, 60, 32), (200, 30, 60, 8), (200, 30, 60, 64), (90, 1, 5, 8), (300, 10, 1, 32), (61, 30, 60, 1)],
)
def test_a_limit_costs_no_request_its_attempts(
    lines: int, most: int, seconds: float, concurrency: int, honest: bool, seed: int
) -> None:
    assert ran(lines, Window(most, seconds, honest), concurrency, seed).failed == {}


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_ten_minutes_without_any_for_everybody_cost_none_either(concurrency: int) -> None:
    run = ran(200, Window(10**9, 60, False, lambda now: 2.0 <= now < 600.0), concurrency)
    assert run.failed == {}
    assert run.took > 600.0


def test_a_single_line_waits_as_long_as_it_is_told_to() -> None:
    run = ran(1, Window(10**9, 60, False, lambda now: now < 600.0))
    assert run.failed == {}
    assert run.sent[1] > MOST


@pytest.mark.parametrize("lines", [9, 40])
def test_a_server_with_few_slots_and_slow_answers_costs_none(lines: int) -> None:
    serving = 0

    async def slow(_attempt: Attempt) -> Reply:
        nonlocal serving
        if serving >= 4:
            return THROTTLE
        serving += 1
        await asyncio.sleep(300.0)
        serving -= 1
        return good()

    assert ran(lines, slow, 12).failed == {}


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_refusals_by_chance_cost_none(share: float) -> None:
    chance = Random(3)

    async def moody(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.1)
        return THROTTLE if chance.random() < share else good()

    assert ran(1000, moody, 16).failed == {}
