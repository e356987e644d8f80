"""Where the seconds of an endpoint's clock begin, and what one of them lets in."""

import pytest

from batchrunner.core.second import Second
from batchrunner.core.window import Window

LIMIT = 400


class Climb:
    """Sends ever faster to a clock whose seconds begin at `begin`, is refused, pauses for a second, and counts the next one."""

    def __init__(self, begin: float, gain: float = 0.1, late: int = 0) -> None:
        self.window = Window()
        self.second = Second(self.window)
        self.now, self.begin, self.late = 10.0, begin, late
        self._clock, self._used, self.limit = 0.0, 0, LIMIT
        rate = 0.8 * LIMIT
        while self.send(rate):
            rate *= 1.0 + gain / rate
        self.window.count += late  # sent, and refused as well, which is not known yet
        last, both = self.window.last(1.0, self.now), self.window.last(2.0, self.now)
        self.mark = self.now
        self.resumed = self.second.align(both - last, self.now, self.now + 1.0)
        self.now = self.resumed
        self.window.count -= late
        self.window.rest(self.mark, self.now)
        assert self.second.settled() == 0.0

    def send(self, rate: float) -> bool:
        """One more; False: it was refused."""
        self.now += 1.0 / rate
        if (clock := (self.now - self.begin) // 1.0) != self._clock:
            self._clock, self._used = clock, 0
        self._used += 1
        if self._used > self.limit:
            return False
        if self.window.count % 100 == 0:
            self.window.note(self.now)
        self.window.count += 1
        return True

    def count(self, limit: int = LIMIT, value: float = LIMIT) -> float:
        """Until it refuses: what is told at once."""
        self.limit = limit
        while self.send(1.5 * LIMIT):
            pass
        self.window.count += self.late
        return self.second.refused(self.now, self.resumed, value)

    def settle(self) -> float:
        """After the pause: what is known then."""
        self.window.count -= self.late
        mark, self.now = self.now, self.now + 1.0
        self.window.rest(mark, self.now)
        return self.second.settled()


@pytest.mark.parametrize("begin", [0.0, 0.13, 0.5, 0.98])
@pytest.mark.parametrize("gain", [0.03, 0.1])
def test_the_second_after_a_climb_tells_the_limit_and_where_seconds_begin(begin: float, gain: float) -> None:
    climb = Climb(begin, gain, late=12)
    assert climb.count() == pytest.approx(LIMIT + climb.late, abs=1)
    assert not climb.second.known, "not before the pause is over"
    assert climb.settle() == pytest.approx(LIMIT, abs=1)
    assert climb.second.known
    away = climb.second.phase(round(climb.now) + begin)
    assert min(away, 1.0 - away) < 0.012


def test_a_count_that_the_climb_could_not_have_met_is_none_for_seconds() -> None:
    climb = Climb(0.3)
    assert climb.count(limit=LIMIT // 2) == 0.0
    assert not climb.second.known
    assert not climb.second.sought, "and it is not tried again"


def test_where_seconds_are_known_any_of_them_that_refuses_tells_the_limit() -> None:
    climb = Climb(0.3)
    climb.count()
    climb.settle()
    climb.resumed, climb.now = climb.now, climb.now + 1.4
    climb.window.rest(climb.resumed, climb.now)
    climb.count(limit=250)
    assert climb.settle() == pytest.approx(250, abs=12)
    assert climb.second.known


def test_a_window_that_opens_with_a_request_is_no_second_of_a_clock() -> None:
    """What went out since the pause is just what is let in: it was counted from there, across what was taken for a begin."""
    climb = Climb(0.3)
    climb.count()
    climb.settle()
    climb.begin = climb.now
    climb.resumed = climb.now
    while climb.send(1.2 * LIMIT):
        pass
    assert climb.second.refused(climb.now, climb.resumed, 0.99 * LIMIT) == 0.0
    assert not climb.second.known
    assert not climb.second.sought


def test_a_note_is_due_just_before_a_second_begins() -> None:
    climb = Climb(0.3)
    climb.count()
    climb.settle()
    now, turned = climb.now, []
    while now < climb.now + 4.0:
        now = climb.second.tick(now)
        turned += [now] if climb.second.turns(now) else []
    assert len(turned) == 4
    assert all(0.26 < moment % 1.0 < 0.31 for moment in turned)
