"""A cap on what is in flight is told from a limit on the rate by who is refused."""

from batchrunner.core.crowding import LET_IN, Crowding


def crowd() -> Crowding:
    """With 80 to 89 others in flight everything was let in."""
    crowding = Crowding()
    for n in range(LET_IN):
        crowding.let_in(80 + n % 10)
    return crowding


def test_who_is_refused_only_beside_more_than_anybody_meets_a_cap() -> None:
    crowding = crowd()
    told = [crowding.refused(90) for _ in range(10)]
    assert told.index(True) == 4


def test_who_is_refused_beside_as_many_as_others_meets_none() -> None:
    crowding = crowd()
    assert not any(crowding.refused(80 + n % 10) for n in range(50))


def test_a_few_that_were_let_in_tell_nothing() -> None:
    crowding = Crowding()
    for _ in range(10):
        crowding.let_in(5)
    assert not any(crowding.refused(90) for _ in range(50))


def test_what_was_suspected_is_forgotten_when_a_rate_is_agreed_on() -> None:
    crowding = crowd()
    for _ in range(40):
        assert not crowding.refused(90)
        assert not crowding.refused(90)
        crowding.clear()
