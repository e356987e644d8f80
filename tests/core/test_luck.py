"""Refusals by chance are told from a limit on the rate, and the other way round."""

from random import Random

import pytest

from batchrunner.core.luck import LOW, SENT, Luck
from batchrunner.core.window import Window


class Traffic:
    """Requests at a rate that goes up and down by some part of it, four notes a second."""

    def __init__(self, rate: float, swing: float = 0.2) -> None:
        self.window, self.luck = Window(), Luck()
        self.now = 100.0
        self._rate, self._swing = rate, swing

    def step(self) -> float:
        """A quarter of a second. What is being sent now, as a multiple of the mean."""
        self.now += 0.25
        level = 1.0 + self._swing * ((self.now / 4.0) % 1.0 - 0.5)
        self.window.count += int(self._rate * level / 4)
        self.window.note(self.now)
        return level

    def refuse(self, times: int = 1) -> None:
        for _ in range(times):
            self.window.count -= 1
            self.luck.unpaced(self.window, self.now)


@pytest.mark.parametrize("seed", range(3))
def test_what_strikes_at_any_number_is_chance(seed: int) -> None:
    traffic, chance = Traffic(200), Random(seed)
    for _ in range(400):
        traffic.step()
        if chance.random() < 0.5:
            traffic.refuse()
    assert traffic.luck.chance


def test_what_comes_only_when_most_is_sent_is_a_limit() -> None:
    traffic = Traffic(200)
    for _ in range(400):
        if traffic.step() > 1.07:
            traffic.refuse()
            assert not traffic.luck.chance


def test_a_second_speaks_once_however_many_are_refused_in_it() -> None:
    traffic = Traffic(2000, swing=-0.2)  # least of all in the end of each four seconds
    for _ in range(40):
        traffic.step()
    traffic.refuse(100)
    assert not traffic.luck.chance


def test_where_much_of_what_was_sent_is_refused_it_is_no_chance_however_it_looked_before() -> None:
    traffic, chance = Traffic(200), Random(1)
    for _ in range(400):
        traffic.step()
        traffic.refuse(chance.random() < 0.5)
    assert traffic.luck.chance
    for _ in range(8):
        traffic.step()
        traffic.refuse(SENT)
    assert not traffic.luck.chance


def heard(luck: Luck, counts: list[float]) -> list[bool]:
    return [luck.paced(count, left=1.0) for count in counts]


@pytest.mark.parametrize("seed", range(5))
def test_a_pace_that_is_refused_after_any_number_meets_chance(seed: int) -> None:
    chance = Random(seed)
    told = heard(Luck(), [chance.expovariate(1 / 30) for _ in range(30)])
    assert told.index(True) >= LOW


def test_a_pace_that_is_refused_about_where_it_was_before_meets_a_limit() -> None:
    chance = Random(1)
    assert not any(heard(Luck(), [400 * chance.uniform(0.85, 1.15) for _ in range(200)]))


@pytest.mark.parametrize("deep", [0.5, 0.25, 0.05])
def test_a_limit_that_falls_and_returns_is_no_chance(deep: float) -> None:
    steady, low = [400.0] * 10, [400.0 * deep] * 10
    assert not any(heard(Luck(), (steady + low) * 5))


def test_once_it_is_known_it_is_not_forgotten_with_the_next_refusal() -> None:
    traffic, chance = Traffic(200), Random(1)
    for _ in range(20):
        traffic.step()
    assert any(heard(traffic.luck, [chance.expovariate(1 / 30) for _ in range(30)]))
    assert traffic.luck.chance
    traffic.refuse()
    assert traffic.luck.chance


def test_a_pace_that_has_come_down_to_next_to_nothing_is_no_matter_of_a_rate() -> None:
    luck = Luck()
    assert not luck.paced(400.0, left=0.1)
    assert luck.paced(400.0, left=0.05)
