"""Pauses stay in their range, and every request comes to an end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.model import Kind, Outcome
from batchrunner.core.retry import FLOOR, PECULIAR, Neighbours, Purse, Retries, Spent, Streak, backoff

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
        (Spent(kills=4), 8, "4 attempts without an answer in time, each given longer than the one before"),
        (Spent(turns=24), 8, "24 sendings"),
        (Spent(turns=3), 1, "3 sendings"),
    ],
)
def test_a_request_ends_by_failures_by_kills_or_by_sendings(spent: Spent, most: int, words: str) -> None:
    assert spent.over(Retries(max_attempts=most)) == words


# ---- failures of one request among the others ----


FAILED = Outcome(Kind.SERVER_ERROR, 500, "server_error")


def streak(share: float, others: int, outcome: Outcome = FAILED, most: int = 8) -> int:
    """After how many failures alike it is the request's own fault, when this share of the others fails between each; 0: never."""
    row, neighbours = Streak(), Neighbours()
    for times in range(1, most + 1):
        if row.add(outcome, neighbours):
            return times
        neighbours.bad += round(share * others)
        neighbours.good += round((1 - share) * others)
    return 0


def test_a_request_that_fails_alone_is_to_blame_itself() -> None:
    assert streak(0.0, 1000) == 3
    assert streak(0.01, 1000) == 4
    assert streak(0.05, 1000) == 5


def test_the_more_fail_the_less_it_is_to_blame() -> None:
    assert streak(0.3, 1000) == 0
    assert streak(0.5, 1000) == 0
    assert streak(1.0, 1000) == 0


def test_without_neighbours_nobody_is_to_blame() -> None:
    assert streak(0.0, 0) == 0


@pytest.mark.parametrize("kind", sorted(set(Kind) - PECULIAR))
def test_what_speaks_of_the_endpoint_is_nobodys_fault(kind: Kind) -> None:
    assert streak(0.0, 1000, Outcome(kind, 503)) == 0


def test_failures_that_differ_are_no_streak() -> None:
    row, neighbours = Streak(), Neighbours()
    for number in range(8):
        neighbours.good += 1000
        assert row.add(Outcome(Kind.SERVER_ERROR, 500 + number % 2), neighbours) == ""


@settings(max_examples=200, deadline=None)
@given(st.floats(0.02, 0.9), st.integers(10, 2000))
def test_chance_alone_accuses_next_to_nobody(share: float, others: int) -> None:
    """It takes so many failures that at this share of them one request in ten thousand, at most, meets them by chance."""
    times = streak(share, others)
    assert times == 0 or share**times < 1e-4


# ---- money ----


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), max_size=3000))
def test_what_may_be_billed_twice_is_bounded_by_the_answers(answers: list[bool]) -> None:
    purse, good, spent = Purse(Retries()), 0, 0
    for answered in answers:
        if answered:
            purse.earn()
            good += 1
        else:
            spent += purse.spend()
        assert spent <= FLOOR + good / 4


def test_without_a_budget_there_is_no_end() -> None:
    purse = Purse(Retries(retry_ambiguous="always"))
    assert all(purse.spend() for _ in range(5000))


def test_age_is_the_time_of_failed_attempts() -> None:
    assert Spent(seconds=61.0).over(Retries(max_age=60.0)) == "61 s of failed attempts"
    assert not Spent(seconds=61.0).over(Retries())
