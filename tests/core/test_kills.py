"""The budget of kills: what is proven right may go on, what is not stays rare."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.kills import FIRST, MOST, PER_ANSWER, PROVEN, Kills


def spent(kills: Kills) -> int:
    count = 0
    while kills.spend():
        count += 1
    return count


def right(kills: Kills, line: int) -> None:
    kills.note(line, 4.0)
    kills.answered(line, 1.0)


def test_there_are_a_few_before_anything_is_known_and_more_with_evidence() -> None:
    kills = Kills()
    assert spent(kills) == FIRST
    kills.weigh(1.0)
    kills.fill(1e6)
    assert spent(kills) == MOST


def test_right_kills_let_the_budget_grow_with_the_need() -> None:
    kills, done, line = Kills(), 0, 0
    for _ in range(12):  # rounds: all that may be killed is, and all of it rightly
        round_ = spent(kills)
        for _ in range(round_):
            line += 1
            right(kills, line)
        done += round_
    assert done > 100


def test_the_budget_has_an_end_however_right_it_was() -> None:
    kills = Kills()
    for line in range(1000):
        right(kills, line)
    assert spent(kills) == PROVEN


def test_a_wrong_kill_ends_the_credit() -> None:
    kills = Kills()
    for line in range(1000):
        right(kills, line)
    kills.note(1000, 4.0)
    kills.answered(1000, 9.0)
    kills.fill(0.0)
    assert spent(kills) == FIRST


@pytest.mark.parametrize("ending", ["answered", "forget"])
def test_finished_lines_are_not_remembered(ending: str) -> None:
    kills = Kills()
    kills.note(7, 4.0)
    assert len(kills._ages) == 1
    kills.answered(7, 1.0) if ending == "answered" else kills.forget(7)
    assert len(kills._ages) == 0


def test_an_answer_from_elsewhere_proves_a_kill_as_well() -> None:
    kills, others = Kills(), Kills()
    assert spent(kills) == spent(others) == FIRST
    for line in range(2):
        for each in (kills, others):
            each.note(line, 4.0)
        kills.forget(line, 1.0)
        others.forget(line, 9.0)
    assert (spent(kills), spent(others), len(kills._ages)) == (3, 0, 0)


def test_nobody_buys_what_has_no_price_and_what_is_free_is_given_to_all() -> None:
    kills = Kills()
    assert not kills.spend(inf)
    assert spent(kills) == FIRST
    assert kills.spend(0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 50))
def test_wrong_kills_stay_a_small_share_of_the_answers(answers: int, at_once: int) -> None:
    kills, wrong = Kills(), 0
    kills.weigh(1.0)
    for line in range(answers):
        kills.earned += PER_ANSWER
        kills.fill(0.0)
        for _ in range(at_once):
            if kills.spend():
                wrong += 1
                kills.note(-line, 4.0)
                kills.answered(-line, 9.0)
    assert wrong <= FIRST + PER_ANSWER * answers + 1e-6
