"""Pauses stay in their range, and every request comes to an end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.retry import Retries, Spent, backoff

CHANCE = st.floats(0.0, 1.0, exclude_max=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), CHANCE)
def test_a_pause_lies_between_nothing_and_its_range(failures: int, u: float) -> None:
    assert 0.0 <= backoff(failures, u) <= min(60.0, 2.0 ** min(max(failures, 1) - 1, 30))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 80), CHANCE, st.floats(0.001, 1e6))
def test_what_the_server_asks_for_is_never_undercut(failures: int, u: float, wait: float) -> None:
    assert wait <= backoff(failures, u, wait) <= wait + max(1.0, wait) / 4.0


@pytest.mark.parametrize(("failures", "longest"), [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (400, 60.0)])
def test_the_range_doubles_up_to_a_minute(failures: int, longest: float) -> None:
    assert backoff(failures, 0.0) == 0.0
    assert backoff(failures, 0.5) == longest / 2


@pytest.mark.parametrize("wait", [None, 0.0, -3.0])
def test_no_wait_asked_for_means_our_own_pause(wait: float | None) -> None:
    assert backoff(3, 0.5, wait) == 2.0


@pytest.mark.parametrize(
    ("spent", "most", "words"),
    [
        (Spent(), 1, ""),
        (Spent(failures=7, kills=3, turns=23, sendings=99), 8, ""),
        (Spent(failures=8), 8, "8 failed attempts"),
        (Spent(failures=1), 1, "1 failed attempt"),
        (Spent(kills=4), 8, "4 attempts without an answer in time"),
        (Spent(turns=24), 8, "24 sendings"),
        (Spent(turns=3), 1, "3 sendings"),
    ],
)
def test_a_request_ends_by_failures_by_kills_or_by_sendings(spent: Spent, most: int, words: str) -> None:
    over = spent.over(Retries(max_attempts=most))
    assert over.startswith(words)
    assert bool(over) == bool(words)
