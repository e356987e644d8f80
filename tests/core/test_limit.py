"""The concurrency limit: its bounds under any history, its cuts, its growth."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Kind


def grown(size: int, most: int = 1000) -> Limit:
    """A limit that has grown to `size` without an objection."""
    limit = Limit(Concurrency(max_concurrency=most))
    while limit.size < size:
        limit.success(0.0, limit.size - 1, 0.0)
    return limit


def round_of(limit: Limit, at: float) -> None:
    """One success for each slot, with all slots in use."""
    for _ in range(limit.size):
        limit.success(at, limit.size - 1, at + 1.0)


SIGNALS = st.lists(
    st.tuples(
        st.sampled_from(["success", "success", "success", "pushback", "overload", "crowded"]),
        st.floats(0, 5),
        st.integers(0, 300),
        st.floats(1.0, 1000.0),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), SIGNALS)
def test_the_limit_keeps_its_bounds_whatever_happens(most: int, signals: list[tuple[str, float, int, float]]) -> None:
    limit = Limit(Concurrency(max_concurrency=most))
    now = 0.0
    for signal, age, inflight, work in signals:
        now += 0.5
        if signal == "success":
            limit.success(now - age, inflight, now, work)
        else:
            getattr(limit, signal)(now - age, inflight, now)
        assert 1 <= limit.size <= most


def test_it_starts_at_sixteen_or_at_the_most() -> None:
    assert Limit(Concurrency()).size == 16
    assert Limit(Concurrency(max_concurrency=5)).size == 5


def test_it_doubles_per_round_until_the_first_objection() -> None:
    limit = Limit(Concurrency())
    for _ in range(16):
        limit.success(0.0, limit.size - 1, 1.0)
    assert limit.size == 32


def test_it_does_not_grow_while_it_does_not_bind() -> None:
    limit = Limit(Concurrency())
    for _ in range(1000):
        limit.success(0.0, 11, 1.0)
    assert limit.size == 16
    limit.success(0.0, 12, 1.0)
    assert limit.size == 17


def test_one_cut_per_generation() -> None:
    limit = grown(100)
    assert limit.pushback(5.0, 99, 10.0)
    assert limit.size == 90
    assert not any(limit.pushback(started, 99, 11.0) for started in (1.0, 5.0, 10.0))
    assert not limit.overload(9.0, 99, 11.0)
    assert limit.size == 90
    assert limit.pushback(10.5, 59, 11.0), "what runs when it objects is what it accepts"
    assert limit.size == 54


def test_overload_cuts_deeper_than_pushback() -> None:
    limit = grown(100)
    assert limit.overload(1.0, 99, 2.0)
    assert limit.size == 70


def test_growth_after_a_cut_is_gentle_and_then_accelerates() -> None:
    limit = grown(100, most=10_000)
    limit.pushback(1.0, 99, 2.0)
    before = limit.size
    round_of(limit, 3.0)
    assert before * 1.03 <= limit.size <= before * 1.08
    rounds = 0
    while limit.size < 5000:
        round_of(limit, 3.0)
        rounds += 1
    assert rounds <= 25


def test_a_limit_that_is_met_again_at_the_same_place_is_held_closely() -> None:
    limit = grown(100)
    limit.pushback(1.0, 99, 2.0)
    round_of(limit, 3.0)
    round_of(limit, 3.0)
    assert limit.pushback(4.0, limit.size, 5.0)
    assert limit.size >= 0.96 * 98, "it is known: little is given back"
    before = limit.size
    round_of(limit, 6.0)
    assert limit.size <= 1.04 * before, "and little more is tried"


def test_a_small_limit_that_is_known_is_met_by_one_in_fifty() -> None:
    """Three at once: a slot more is a third more, and is refused."""
    limit, now, answers, met = Limit(Concurrency()), 0.0, 0, 0
    while answers < 1000:
        now += 1.0
        if limit.size > 3:
            limit.pushback(now, 3, now)
            met += answers > 100
        else:
            limit.success(now - 0.5, limit.size - 1, now)
            answers += 1
    assert limit.size == 3
    assert 900 / 70 <= met <= 900 / 45


def test_only_a_limit_that_objections_move_is_told_what_is_sent() -> None:
    limit = Limit(Concurrency(concurrency=5))
    assert not limit.heeds
    limit.crowded(1.0, 4, 2.0)
    assert limit.heeds
    limit.fix(7)
    assert not limit.heeds
    assert Limit(Concurrency()).heeds


def test_where_trying_more_costs_a_pause_it_is_tried_more_rarely() -> None:
    sizes = []
    for wait in (0.0, 1.0):
        limit = grown(100)
        for at in (1.0, 4.0, 7.0):
            limit.pushback(at, 99, at + 1.0, wait)
            round_of(limit, at + 2.0)
            round_of(limit, at + 2.0)
        sizes.append(limit.size)
    assert sizes[1] < sizes[0]


def test_an_objection_from_elsewhere_cuts_as_deep_as_ever() -> None:
    limit = grown(100)
    limit.pushback(1.0, 99, 2.0)
    round_of(limit, 3.0)
    assert limit.pushback(5.0, 50, 6.0)
    assert limit.size == int(0.9 * 51)


def test_an_objection_that_follows_at_once_shows_that_the_limit_has_fallen() -> None:
    limit = grown(100)
    for at in (1.0, 4.0):
        limit.pushback(at, 99, at + 1.0)
        round_of(limit, at + 2.0)
    limit.pushback(8.0, limit.size - 1, 9.0)
    known = limit.size
    assert limit.pushback(10.0, known - 1, 11.0)
    assert limit.size == int(0.9 * known)


def test_well_beyond_the_last_objection_it_grows_as_if_there_had_been_none() -> None:
    limit = grown(100, most=10_000)
    limit.pushback(1.0, 99, 2.0)
    while limit.size <= 121:
        round_of(limit, 3.0)
    before = limit.size
    round_of(limit, 3.0)
    assert limit.size == 2 * before


def test_chance_objections_cut_nothing_and_let_it_grow() -> None:
    limit = grown(100, most=200)
    limit.pushback(1.0, 99, 2.0)
    now = 3.0
    for n in range(3000):
        now += 1.0 / limit.size
        sending = limit.sent(limit.size - 1)
        limit.success(now - 1.0, limit.size - 1, now)
        if n % 50 == 49 and not limit.chance(Kind.OVERLOADED, limit.size - 1 - n % 7, sending):
            limit.pushback(now, limit.size - 1, now)
    assert limit.size >= 190


def test_slowness_alone_never_cuts() -> None:
    limit = grown(50, most=50)
    for n in range(500):
        limit.success(float(n), 49, n + 100.0)
    assert limit.size == 50


@pytest.mark.parametrize("slots", [1, 7, 400])
def test_a_fixed_limit_is_a_constant(slots: int) -> None:
    limit = Limit(Concurrency(concurrency=slots, max_concurrency=256))
    for n in range(100):
        limit.success(float(n), slots - 1, n + (1.0 if n < 50 else 50.0))
        assert not limit.pushback(float(n), slots - 1, n + 1.0)
        assert not limit.overload(float(n), 0, n + 1.0)
        assert limit.size == slots


@pytest.mark.parametrize("slots", [1, 7, 400])
def test_f8_what_this_machine_cannot_hold_yields_even_if_it_is_fixed(slots: int) -> None:
    limit = Limit(Concurrency(concurrency=slots))
    assert limit.crowded(1.0, slots // 2, 2.0)
    assert limit.size <= slots // 2 + 1
    assert not limit.crowded(1.5, 0, 2.5), "one cut for what started before it"
    for at in range(3, 3000):
        limit.success(float(at), limit.size - 1, at + 0.5)
    assert limit.size == slots, "it grows back to what the user said, and no further"


def test_a_limit_that_the_user_sets_on_the_way_is_a_constant() -> None:
    limit = Limit(Concurrency())
    limit.fix(3)
    assert (limit.size, limit.most) == (3, 3)
    limit.pushback(1.0, 3, 2.0)
    limit.success(3.0, 3, 4.0)
    assert limit.size == 3


@pytest.mark.parametrize(("sustained", "begins"), [(0, 16), (20, 16), (100, 50), (10_000, 256)])
def test_the_next_run_begins_with_half_of_what_was_sustained(sustained: int, begins: int) -> None:
    limit = Limit(Concurrency())
    limit.warm(sustained)
    assert limit.size == begins
    limit.success(1.0, begins - 1, 2.0)
    assert limit.size == min(256, begins + 1), "and grows as fast as any new one"


def test_the_users_number_goes_before_what_was_sustained() -> None:
    limit = Limit(Concurrency(concurrency=8))
    limit.warm(100)
    assert limit.size == 8
