"""How long an idle connection is trusted: what an endpoint shows, what passes, what was an accident."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.keepalive import DOUBLES, GROWTH, LEAST, MANY, Keepalive

MOST = 4.0


def served(trust: Keepalive, uses: int) -> Keepalive:
    for _ in range(uses):
        trust.used()
    return trust


def test_a_connection_that_was_closed_had_been_idle_for_too_long() -> None:
    trust = Keepalive(MOST)
    trust.closed(idle=1.0, sent=10.0, now=10.1)
    assert trust.seconds == 0.5
    trust.closed(idle=0.4, sent=10.2, now=10.3)
    assert trust.seconds == 0.2


def test_where_nobody_knows_how_long_it_was_idle_half_the_time_is_left() -> None:
    trust = Keepalive(MOST)
    trust.closed(idle=float("inf"), sent=1.0, now=1.1)
    assert trust.seconds == MOST / 2


def test_a_closing_after_many_uses_is_chance_and_so_are_the_others_of_that_moment() -> None:
    trust = served(Keepalive(MOST), MANY)
    for idle, sent in ((0.001, 10.0), (2.0, 9.0), (0.0, 10.4)):
        trust.closed(idle, sent, now=10.5)
    assert trust.seconds == MOST
    trust.closed(1.0, sent=10.6, now=10.7)
    assert trust.seconds == 0.5, "and another at once is none"


@given(st.floats(0, 10), st.integers(0, 2000), st.floats(0.001, 10))
def test_what_was_learned_passes_but_never_beyond_what_the_user_allows(idle: float, connections: int, apart: float) -> None:
    trust = Keepalive(MOST)
    trust.closed(idle, sent=1.0, now=1.1)
    after = trust.seconds
    for number in range(1, connections + 1):
        trust.made(1.1 + number * apart)
    assert LEAST <= after <= MOST / 2
    step = min(GROWTH, 2 ** (apart / DOUBLES))
    assert trust.seconds == pytest.approx(min(MOST, after * step**connections))


@pytest.mark.parametrize(("limit", "most"), [(0.0, 0.02), (0.05, 0.05), (1.0, 0.05), (60.0, 0.0)])
def test_an_endpoint_with_a_limit_of_its_own_closes_hardly_any_request(limit: float, most: float) -> None:
    """One request after another, with pauses of any length. A server of no limit at all closes each connection used again."""
    chance, trust, now, closed = Random(1), Keepalive(MOST), 0.0, 0
    for _ in range(5000):
        idle = chance.choice((1e-5, 0.01, 0.1, 1.5)) * chance.uniform(0.5, 1.5)
        now += idle + 0.1
        if idle > trust.seconds:
            trust.made(now)
        elif idle > limit:
            closed += 1
            trust.closed(idle, now - 0.1, now)
            trust.made(now)
        else:
            trust.used()
    assert closed <= most * 5000
