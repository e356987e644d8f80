"""How fast a budget fills, by what remains and when it will be full."""

from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchrunner.core.filling import LONGEST, Filling


def heard(said: list[tuple[float, float]]) -> Filling:
    filling = Filling()
    for remaining, reset in said:
        filling.hear(remaining, reset)
    return filling


def bucket(rate: float, size: float, gone: list[float], tick: float = 1e-3) -> list[tuple[float, float]]:
    """What a bucket says when so many units are gone of it; seconds are told as exactly as `tick`."""
    return [(float(int(size - each)), round(each / rate / tick) * tick) for each in gone if each <= size]


@given(
    rate=st.floats(0.5, 2000.0),
    seconds=st.floats(1.0, 100.0),
    gone=st.lists(st.floats(0.0, 1.0), min_size=40, max_size=80, unique=True),
    seed=st.integers(0, 1000),
)
def test_a_bucket_is_found_in_whatever_order_its_answers_come(rate: float, seconds: float, gone: list[float], seed: int) -> None:
    size = rate * seconds
    assume(size > 20 and size * (max(gone) - min(gone)) > 30 and (max(gone) - min(gone)) * seconds > 0.1)
    said = bucket(rate, size, [size * each for each in gone])
    Random(seed).shuffle(said)
    filling = heard(said)
    if filling.known:
        assert filling.rate <= 1.01 * rate
        assert filling.slope == pytest.approx(rate, rel=filling.error + 0.01)
        assert filling.size == pytest.approx(size, rel=filling.error + 0.01, abs=2.0)


def test_the_answers_of_a_beginning_are_enough() -> None:
    filling = heard(bucket(400.0, 400.0, [1.0 + each for each in range(32)]))
    assert filling.known
    assert 0.85 * 400 < filling.rate <= 400.0
    assert filling.slope == pytest.approx(400.0, rel=0.05)


@pytest.mark.parametrize("tick", [1e-3, 1.0])
def test_a_rate_is_as_exact_as_what_is_told(tick: float) -> None:
    filling = heard(bucket(10.0, 600.0, [float(each) for each in range(0, 600, 7)], tick))
    assert filling.known
    assert filling.error == pytest.approx(tick / 59.0, abs=0.003)
    assert 10.0 * (1.0 - 2.0 * filling.error) <= filling.rate <= 10.0


def test_thousands_of_tokens_are_less_exact_than_tokens() -> None:
    rough = heard([(round(each, -3), round((40_000 - each) / 1000)) for each in (1000.0 * n for n in range(40, 0, -1))])
    assert rough.known
    assert 850.0 < rough.rate < 1000.0


@pytest.mark.parametrize(
    "said",
    [
        [(0.0, 1.0)] * 100,
        [(0.0, 86400.0)] * 100,
        [(0.0, 60.0 - n / 10.0) for n in range(100)],
        [(99_999_999.0, 0.001)] * 100,
        [(float(400 - n), 1.0 - n / 400.0) for n in range(400)] * 3,  # a window: its reset only counts down
        [(float(400 - n), 1.0) for n in range(400)],
        [(float(n % 2), 1.0 + n % 2) for n in range(100)],
        [(100.0 * (n % 2), 2.0 - n % 2) for n in range(100)],
    ],
)
def test_what_is_no_bucket_teaches_nothing(said: list[tuple[float, float]]) -> None:
    filling = Filling()
    for remaining, reset in said:
        filling.hear(remaining, reset)
        assert filling.rate == 0.0


@given(st.integers(0, 10**6), st.integers(2, 1000), st.integers(2, 100_000))
def test_chance_is_no_bucket(seed: int, most: int, longest: int) -> None:
    chance = Random(seed)
    said = [(float(chance.randrange(most)), chance.randrange(longest) / 1000) for _ in range(300)]
    known = sum(heard(said[:end]).known for end in range(0, 300, 50))
    assert known == 0


@given(st.lists(st.tuples(st.floats(0.0, 1e18), st.floats(0.0, 2.8e6)), max_size=50))
def test_nothing_that_can_be_said_breaks_it(said: list[tuple[float, float]]) -> None:
    filling = heard(said)
    assert 0.0 <= filling.rate < float("inf")


def test_a_days_budget_is_no_pace() -> None:
    filling = heard(bucket(1.0 / 6.0, 14_400.0, [float(each) for each in range(100)]))
    assert filling.slope == pytest.approx(1.0 / 6.0, rel=0.02)
    assert not filling.known
    assert LONGEST < 14_400 * 6


def test_another_limit_is_found_after_a_few_answers() -> None:
    filling = heard(bucket(400.0, 400.0, [float(each) for each in range(100)]))
    assert filling.known
    later = bucket(200.0, 200.0, [float(each) for each in range(60)])
    for remaining, reset in later[:12]:
        filling.hear(remaining, reset)
    assert not filling.known
    for remaining, reset in later[12:]:
        filling.hear(remaining, reset)
    assert filling.known
    assert filling.rate == pytest.approx(200.0, rel=0.1)
