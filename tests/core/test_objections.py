"""Objections: those of a limit are told from those of chance, and never the other way round where it would matter."""

from collections.abc import Callable
from random import Random

import pytest

from batchrunner.core.model import Kind
from batchrunner.core.objections import MUCH, ROW, Objections

BUSY, GONE = Kind.OVERLOADED, Kind.CONNECT


def heard(
    objections: Objections, inflight: Callable[[int], int], refused: Callable[[int, int], bool], sendings: int
) -> list[bool]:
    """Verdicts on what was refused of so many sendings, with so many in flight at each."""
    verdicts = []
    for n in range(sendings):
        beside = inflight(n)
        sending = objections.sent(beside)
        if refused(n, beside):
            verdicts.append(objections.chance(BUSY, beside, sending))
    return verdicts


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_what_strikes_anywhere_is_chance(share: float, seed: int) -> None:
    chance = Random(seed)
    verdicts = heard(Objections(), lambda n: 90 + n % 10, lambda n, beside: chance.random() < share, 6000)
    assert len(verdicts) >= 15
    assert sum(verdicts[5:]) >= 0.9 * len(verdicts[5:])


@pytest.mark.parametrize("limit", [5, 25, 100])
def test_what_comes_only_to_the_last_is_a_limit(limit: int) -> None:
    verdicts = heard(Objections(), lambda n: limit - 1 - n % 3 if n % 50 else limit, lambda n, beside: beside >= limit, 6000)
    assert len(verdicts) >= 20
    assert not any(verdicts)


def test_where_most_is_refused_it_is_no_chance_however_it_looked_before() -> None:
    objections, chance = Objections(), Random(1)
    assert heard(objections, lambda n: 90 + n % 10, lambda n, beside: chance.random() < 0.05, 2000)[-1]
    assert not any(heard(objections, lambda n: 95, lambda n, beside: True, ROW)[MUCH - 1 :])
    for n in range(ROW):
        last = objections.sent(90 + n % 10)
    assert not objections.chance(BUSY, 99, last), "and what was thought of it before is forgotten"


def test_each_kind_is_judged_by_itself() -> None:
    objections, chance = Objections(), Random(1)
    assert heard(objections, lambda n: 90 + n % 10, lambda n, beside: chance.random() < 0.05, 2000)[-1]
    assert not objections.chance(GONE, 99, objections.sent(99))


def at_once(objections: Objections, sendings: int, refused: Callable[[int], bool]) -> list[bool]:
    """Verdicts on what was refused of so many that all went out before any of that was heard of."""
    beside = {objections.sent(n): n for n in range(sendings)}
    return [objections.chance(BUSY, n, sending) for sending, n in beside.items() if refused(sending)]


@pytest.mark.parametrize("seed", range(3))
def test_what_was_sent_at_once_may_be_refused_at_once(seed: int) -> None:
    objections, chance = Objections(), Random(seed)
    heard(objections, lambda n: 90 + n % 10, lambda n, beside: chance.random() < 0.1, 400)
    verdicts = at_once(objections, 200, lambda sending: sending % 10 == 0)
    assert len(verdicts) > MUCH
    assert all(verdicts)


def test_much_of_a_row_was_refused_however_much_was_sent_until_that_is_heard() -> None:
    objections, chance = Objections(), Random(1)
    heard(objections, lambda n: 90 + n % 10, lambda n, beside: chance.random() < 0.1, 400)
    assert not any(at_once(objections, 400, lambda sending: 500 <= sending < 500 + ROW)[MUCH - 1 :])
