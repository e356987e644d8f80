"""How many were let in of late, and between what a limit must lie."""

from math import inf

import pytest

from batchrunner.core.window import Window


def window(rate: float, seconds: float, begin: float = 10.0) -> Window:
    """After so many requests a second, a note each quarter of one."""
    window = Window()
    for quarter in range(int(4 * seconds) + 1):
        window.note(begin + quarter / 4)
        window.count += int(rate / 4)
    return window


def test_between_notes_it_went_evenly() -> None:
    filled = window(400, 3.0)
    assert filled.last(0.25, 13.25) == pytest.approx(100)
    assert filled.last(1.1, 13.25) == pytest.approx(440)
    assert filled.last(100.0, 13.25) == filled.count


def test_too_few_sendings_are_no_note() -> None:
    empty = Window()
    assert empty.opened == -inf
    assert empty.note(5.0) == (0.0, 4)
    empty.count += 3
    assert empty.note(6.0) is None
    empty.count += 1
    assert empty.note(7.0) == (2.0, 4)


def test_nothing_is_let_in_during_a_pause_and_who_is_refused_late_was_not_before_it() -> None:
    paused = window(400, 3.0)
    paused.count -= 10
    paused.rest(13.25, 14.25)
    assert paused.last(1.0, 14.25) == 0.0
    assert paused.last(1.25, 14.25) == pytest.approx(90)


def test_a_limit_lies_between_the_mean_with_its_pause_and_the_last_second() -> None:
    filled = window(400, 3.0)
    assert filled.limits(1.0, 10.0, 14.25, 13.25) == (pytest.approx(1300 / 4.25), pytest.approx(400))


@pytest.mark.parametrize(("level", "least"), [(380, 400), (450, 400)])
def test_a_steady_climb_is_let_in_as_a_whole_but_for_its_last_second(level: float, least: float) -> None:
    assert window(400, 3.0).climbed(1.0, level, 13.25) == (pytest.approx(least), pytest.approx(400))


def test_soon_after_a_pause_one_of_two_seconds_has_let_in_half_of_both() -> None:
    late = window(400, 3.0)
    late.rest(13.25, 14.25)
    late.count += 600
    assert late.climbed(1.0, 380, 15.75) == (pytest.approx(300), pytest.approx(400))
    assert late.climbed(1.0, 290, 15.75) == (pytest.approx(290), pytest.approx(400))


def test_a_second_is_ranked_among_those_before() -> None:
    climbing = Window()
    for quarter in range(17):
        climbing.note(10.0 + quarter / 4)
        climbing.count += 50 + 5 * quarter
    assert climbing.rank(1.0, 14.25) == 0.0
    falling = window(400, 3.0)
    falling.rest(13.25, 14.0)
    assert falling.rank(1.0, 14.0) == pytest.approx(1.0, abs=0.1)
    steady = window(400, 3.0)
    assert steady.rank(1.0, 13.25) == pytest.approx(0.5)


def test_without_seconds_before_it_a_second_is_the_fullest() -> None:
    assert Window().rank(1.0, 5.0) == 0.0
