"""Growth stops where more in flight brings no more, and nowhere else: against modelled services, with noise."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import exp, inf
from random import Random

import pytest

from batchrunner.core.knee import Knee
from batchrunner.core.limit import Concurrency, Limit


def served(limit: Limit, speed: Callable[[int], float], answers: int, sigma: float, seed: int, tokens: bool = True) -> float:
    """Let a service work at `speed(n)` for each of n requests, always as many as the limit allows; the mean limit of the
    second half, weighted by answers."""
    chance, clock, now = Random(seed), 0.0, 0.0  # `clock` is the work done for each
    due: list[tuple[float, float, float]] = []
    sizes = 0
    for n in range(answers):
        while len(due) < limit.size:
            work = exp(sigma * chance.gauss(0.0, 1.0))
            heappush(due, (clock + work, now, work))
        end, started, work = heappop(due)
        now += (end - clock) / speed(len(due) + 1)
        clock = end
        limit.success(started, len(due), now, work=work if tokens else 1.0)
        sizes += limit.size if n >= answers // 2 else 0
    return sizes / (answers - answers // 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tokens", [True, False])
def test_it_stays_near_the_knee(seed: int, tokens: bool) -> None:
    size = served(Limit(Concurrency(max_concurrency=256)), lambda n: min(1.0, 64 / n), 12_000, 0.5, seed, tokens)
    assert 54 <= size <= (110 if tokens else 160)


@pytest.mark.parametrize("seed", range(4))
def test_a_service_that_keeps_up_is_used_to_the_full(seed: int) -> None:
    assert served(Limit(Concurrency(max_concurrency=256)), lambda n: 1.0, 12_000, 0.8, seed) >= 225


@pytest.mark.parametrize("seed", range(4))
def test_gains_that_dwindle_slowly_are_no_plateau(seed: int) -> None:
    """A vLLM-like service: each is slowed by the others, and together they still deliver more."""
    assert served(Limit(Concurrency(max_concurrency=200)), lambda n: 1.0 / (1.0 + n / 300), 12_000, 0.5, seed) >= 150


def test_a_user_who_says_how_many_is_obeyed() -> None:
    assert served(Limit(Concurrency(concurrency=100)), lambda n: min(1.0, 10 / n), 3000, 0.5, 1) == 100


def test_an_objection_ends_the_hold() -> None:
    limit = Limit(Concurrency(max_concurrency=256))
    served(limit, lambda n: min(1.0, 20 / n), 4000, 0.3, 1)
    limit.pushback(1e9, limit.size, 1e9)
    assert limit._knee
    assert not limit._knee.holds


def test_between_objections_less_is_not_tried() -> None:
    """Where refusals tell how much is too much, that limit is held, and it is left at once when they end."""
    limit, now, lowest = Limit(Concurrency(max_concurrency=256)), 0.0, 256
    for n in range(4000):
        now += 1.0 / min(limit.size, 50)
        limit.success(now - 1.0, limit.size - 1, now)
        if limit.size > 50:
            limit.pushback(now, 50, now)
        lowest = min(lowest, limit.size) if n > 400 else lowest
    assert lowest >= 45
    for _ in range(2000):
        now += 1.0 / limit.size
        limit.success(now - 1.0, limit.size - 1, now)
    assert limit.size >= 150


def test_rounds_in_which_the_limit_does_not_bind_say_nothing() -> None:
    knee = Knee()
    assert all(knee.hear(1.0, 1.0, 10, 100, float(n)) == inf for n in range(5000))
    assert knee._reference is None
