"""Deadlines: what the user fixes holds, what is learned fits, and simulated days prove that few are killed in vain."""

import heapq
import random
from collections.abc import Callable
from math import exp, inf
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from batchrunner.core.deadlines import Patience, Timeouts
from batchrunner.core.model import Attempt, Phase, Request, Route, Timing

TOTAL = Phase.FIRST_BYTE  # an ordinary answer is silent until it is complete


def request(line: int = 1, max_tokens: int = 0, size: int = 0) -> Request:
    return Request(
        line=line, id=f"r-{line}", digest="0" * 16, route=Route.CHAT, path="/v1", body=b"x" * size, max_tokens=max_tokens
    )


def attempt(patience: Patience, line: int = 1, kills: int = 0, stream: bool = False, max_tokens: int = 0) -> Attempt:
    asked = request(line, max_tokens)
    return Attempt(asked, "a", kills + 1, 0.0, patience.deadlines(asked, kills, stream), kills=kills, stream=stream)


def answered(patience: Patience, seconds: float, times: int = 1, now: float = 0.0, line: int = 0, kills: int = 0) -> None:
    for _ in range(times):
        patience.success(attempt(patience, line, kills), Timing(total=seconds, first_byte=seconds), now)


def streamed(patience: Patience, first: float, gap: float, times: int = 1, now: float = 0.0) -> None:
    for _ in range(times):
        timing = Timing(first_byte=first, total=first + 50 * gap, gap=gap)
        patience.success(attempt(patience, stream=True), timing, now)


def learned(seconds: float = 6.0, answers: int = 500, **policy: float) -> Patience:
    patience = Patience(Timeouts(**policy))
    answered(patience, seconds, answers)
    return patience


def total(patience: Patience, kills: int = 0, max_tokens: int = 0, size: int = 0) -> float:
    return patience.in_force(request(max_tokens=max_tokens, size=size), False, kills)[1]


def whole(patience: Patience, max_tokens: int = 0, size: int = 0) -> float:
    return patience.in_force(request(max_tokens=max_tokens, size=size), False)[1]


def first_byte(patience: Patience, kills: int = 0, max_tokens: int = 0, size: int = 0) -> float:
    return patience.in_force(request(max_tokens=max_tokens, size=size), True, kills)[0]


def of_size(patience: Patience, seconds: float, times: int, max_tokens: int = 0, size: int = 0, now: float = 0.0) -> None:
    asked = request(max_tokens=max_tokens, size=size)
    sent = Attempt(asked, "a", 1, 0.0, patience.deadlines(asked, 0, False))
    for _ in range(times):
        patience.success(sent, Timing(total=seconds, first_byte=seconds), now)


def ends(patience: Patience, sent: Attempt, now: float = 0.0, phase: Phase = TOTAL) -> float:
    """The age at which an attempt that never answers is given up, looked at whenever it asks to be."""
    age = sent.deadlines.idle if phase is Phase.BODY else sent.deadlines.first_byte
    for _ in range(200):
        more, _ = patience.review(sent, phase, age, now + age)
        if more == 0.0:
            return age
        assert more > 0.0
        age += more
    pytest.fail("never given up")


# What is learned


def test_after_a_window_of_equal_answers_the_deadline_is_twice_their_time_whatever_came_before() -> None:
    patience = learned(1.0)
    answered(patience, 100.0, 500, now=10.0)
    assert total(patience) == 200.0
    answered(patience, 6.0, 500, now=20.0)
    assert total(patience) == 12.0


def test_of_very_many_answers_a_second_some_teach() -> None:
    patience = learned(1.0)
    answered(patience, 100.0, 5000, now=0.004)
    assert total(patience) == 2.0, "four milliseconds are no weather"
    for at in range(5000):
        answered(patience, 6.0, now=1.0 + at / 5000.0)
    assert total(patience) == 12.0, "and a second teaches a window"


def test_a_size_never_seen_gets_in_proportion_to_a_smaller_one() -> None:
    patience = Patience(Timeouts())
    of_size(patience, 1.0, 500, max_tokens=64, size=2048)
    assert whole(patience, max_tokens=64, size=2048) == pytest.approx(2.0)
    assert whole(patience, max_tokens=1024, size=2048) == pytest.approx(32.0, rel=0.01)
    assert whole(patience, max_tokens=64, size=16 * 2048) == pytest.approx(32.0, rel=0.4), "and what lies within a power of two"
    assert whole(patience, max_tokens=10**6, size=2048) == 600.0
    assert whole(patience, max_tokens=32, size=100) == pytest.approx(2.0, rel=0.2), "a smaller one no more than a larger one"
    assert whole(patience, size=2048) == 600.0, "an answer without a bound may be of any length"


def test_what_a_size_takes_is_learned_and_the_others_keep_theirs() -> None:
    patience = Patience(Timeouts())
    for _ in range(100):
        of_size(patience, 1.0, 9, max_tokens=64)
        of_size(patience, 20.0, 1, max_tokens=1024)
    assert whole(patience, max_tokens=64) == pytest.approx(2.0, rel=0.05)
    assert whole(patience, max_tokens=1024) == pytest.approx(40.0, rel=0.15)


def test_where_size_tells_nothing_all_get_the_same() -> None:
    patience = Patience(Timeouts())
    for _ in range(50):
        for max_tokens in (64, 256, 1024, 4096):
            of_size(patience, 1.0, 1, max_tokens=max_tokens)
    assert [whole(patience, max_tokens=n) for n in (64, 256, 1024, 4096)] == pytest.approx([2.0] * 4, rel=0.2)


def test_a_slow_down_moves_the_level_for_every_size_and_keeps_the_shape() -> None:
    patience = Patience(Timeouts())
    for _ in range(100):
        of_size(patience, 1.0, 9, max_tokens=64)
        of_size(patience, 20.0, 1, max_tokens=1024)
    of_size(patience, 5.0, 50, max_tokens=64, now=1.0)  # not one large row has answered since
    assert whole(patience, max_tokens=64) == pytest.approx(10.0, rel=0.05)
    assert whole(patience, max_tokens=1024) == pytest.approx(200.0, rel=0.2)


def test_connecting_is_no_part_of_a_sample() -> None:
    patience = Patience(Timeouts())
    for _ in range(500):
        patience.success(attempt(patience), Timing(connect=5.0, first_byte=8.0, total=8.0), 0.0)
    assert total(patience) == 6.0
    for _ in range(500):
        patience.success(attempt(patience, stream=True), Timing(connect=5.0, first_byte=8.0, total=9.0), 1.0)
    assert first_byte(patience) == 9.0


def test_a_kill_doubles_the_deadline_and_after_another_it_is_as_long_as_for_a_last_attempt() -> None:
    patience = learned(6.0)
    assert [total(patience, kills) for kills in (0, 1, 2, 3, 4, 9)] == [12.0, 24.0, 60.0, 120.0, 240.0, 600.0]
    assert total(patience, 2) == final(patience)[0]
    assert patience.in_force(request(), False, 2)[2] == final(patience)[1], "the words say so"
    assert total(learned(20.0), 2) == 4 * total(learned(20.0)) == final(learned(20.0))[0]
    assert total(learned(6.0, max_timeout=20.0), 1) == 20.0


def test_a19_kills_teach_nothing() -> None:
    patience = learned(6.0)
    for line in range(1000):
        patience.killed(attempt(patience, line), 60.0)
    assert total(patience) == 12.0


@pytest.mark.parametrize(
    ("answers", "floor"), [(0, 60.0), (1, 60.0), (4, 50.0), (5, 40.0), (20, 10.0), (100, 2.0), (200, 1.0), (500, 1.0)]
)
def test_the_floor_sinks_as_answers_come_in(answers: int, floor: float) -> None:
    """Five milliseconds an answer: only the floor decides."""
    patience = Patience(Timeouts())
    answered(patience, 0.005, answers)
    assert ends(patience, attempt(patience)) == pytest.approx(floor)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 900), max_size=40), st.integers(1, 14), st.floats(1.0, 900.0))
def test_deadlines_keep_their_bounds_and_never_fall_with_size_or_kills(times: list[float], repeat: int, cap: float) -> None:
    patience = Patience(Timeouts(max_timeout=cap))
    for seconds in times:
        answered(patience, seconds, repeat)
    last = 0.0
    for max_tokens in (1, 100, 1000, 100_000):
        now = total(patience, 0, max_tokens)
        assert 1.0 <= now <= cap
        assert last <= now * (1.0 + 1e-12)
        assert now <= total(patience, 1, max_tokens) <= total(patience, 9, max_tokens) <= cap
        last = now


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 300), max_size=30),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["auto", 7.0]),
    st.floats(0, 1e6),
)
def test_every_attempt_ends_at_the_cap_at_the_latest(
    times: list[float], kills: int, stream: bool, fixed: float, start: float
) -> None:
    patience = Patience(Timeouts(first_byte_timeout=fixed))  # type: ignore[arg-type]
    for seconds in times:
        if stream:
            streamed(patience, seconds, seconds / 50, 20)
        else:
            answered(patience, seconds, 20)
    for line in range(10):
        assert ends(patience, attempt(patience, line, kills, stream), start) <= 600.0 + 1e-6


# Looking at running attempts


def test_what_is_learned_meanwhile_reaches_running_attempts() -> None:
    patience = Patience(Timeouts())
    sent = attempt(patience)
    assert sent.deadlines.total == 1.0
    assert patience.review(sent, TOTAL, 1.0, 1.0) == (1.0, False)
    assert patience.review(sent, TOTAL, 2.0, 2.0) == (2.0, False)
    assert patience.review(sent, TOTAL, 30.0, 30.0) == (15.0, False)
    answered(patience, 0.2, 500, now=61.0)
    assert patience.review(sent, TOTAL, 62.0, 62.0) == (0.0, False)


def test_an_attempt_sent_in_better_times_is_given_what_is_due_now() -> None:
    patience = learned(6.0)
    sent = attempt(patience)
    answered(patience, 60.0, 500, now=10.0)
    assert patience.review(sent, TOTAL, 12.0, 100.0) == (108.0, False)


def test_a_timer_that_rings_a_little_early_still_counts() -> None:
    patience = learned(6.0)
    assert patience.review(attempt(patience), TOTAL, 11.99, 0.0) == (0.0, False)


def test_a_connection_that_is_not_made_is_given_up_at_once() -> None:
    patience = Patience(Timeouts(connect_timeout=3.0))
    sent = attempt(patience)
    assert sent.deadlines.connect == 3.0
    assert patience.review(sent, Phase.CONNECT, 3.0, 0.0) == (0.0, False)


# Tokens


def test_an_endpoint_gone_silent_costs_few_kills() -> None:
    patience = learned(6.0)
    patience.success(attempt(patience), Timing(total=6.0), 1000.0)
    judged = [patience.review(attempt(patience, line), TOTAL, 100.0, 1100.0) for line in range(100)]
    assert judged.count((0.0, False)) <= 16
    assert judged[-1] == (25.0, True)


def test_an_endpoint_that_answers_others_is_not_overloaded() -> None:
    patience = learned(6.0)
    spent(patience)
    patience.success(attempt(patience), Timing(total=6.0), 1.0)
    assert patience.review(attempt(patience), TOTAL, 100.0, 2.0) == (25.0, False)


def test_before_any_answer_there_are_four_kills() -> None:
    patience = Patience(Timeouts())
    judged = [patience.review(attempt(patience, line), TOTAL, 200.0, 0.0) for line in range(20)]
    assert judged.count((0.0, False)) == 4
    assert all(more > 0.0 and overload for more, overload in judged[4:])
    assert patience.review(attempt(patience, 99), TOTAL, 200.0, 10.0) == (0.0, False), "time brings tokens too"


def test_the_cap_kills_without_a_token_and_tells_the_limit() -> None:
    patience = learned(6.0)
    assert patience.review(attempt(patience), TOTAL, 600.0, 0.0) == (0.0, True)


def spent(patience: Patience) -> int:
    """How many kills it grants now."""
    return sum(patience.review(attempt(patience, 500 + n), TOTAL, 300.0, 0.0)[0] == 0.0 for n in range(50))


@pytest.mark.parametrize(("after", "granted"), [(39.0, 1), (40.0, 1), (41.0, 0)])
def test_a_token_comes_back_only_if_the_next_attempt_was_quicker(after: float, granted: int) -> None:
    patience = learned(6.0)
    spent(patience)
    patience.killed(attempt(patience, 7), 40.0)
    answered(patience, after, line=7, kills=1)
    assert spent(patience) == granted
    answered(patience, 1.0, line=7, kills=1)
    assert spent(patience) == 0, "once"


def test_a_stream_that_was_silent_for_longer_brings_no_token_back() -> None:
    for gap, granted in ((12.0, 0), (8.0, 1)):
        patience = learned(6.0)
        spent(patience)
        patience.killed(attempt(patience, 7, stream=True), 10.0)
        patience.success(attempt(patience, 7, 1, stream=True), Timing(first_byte=2.0, total=40.0, gap=gap), 0.0)
        assert spent(patience) == granted


def test_a_forgotten_request_brings_no_token_back() -> None:
    patience = learned(6.0)
    spent(patience)
    patience.killed(attempt(patience, 7), 40.0)
    patience.forget(request(7), inf)
    answered(patience, 1.0, line=7, kills=1)
    assert spent(patience) == 0


def test_only_unfinished_requests_are_remembered() -> None:
    patience = learned(6.0)
    for line in range(100):
        patience.killed(attempt(patience, line), 40.0)
        if line % 2:
            answered(patience, 1.0, line=line, kills=1)
        else:
            patience.forget(request(line), inf)
    assert not patience._kills._ages


# The last attempt of a request


DEAR = 100.0  # tokens: more than there ever are


def final(patience: Patience, kills: int = 0) -> tuple[float, str]:
    return patience.in_force(request(), False, kills, final=True)[1:]


@pytest.mark.parametrize(("seconds", "allowed"), [(0.05, 60.0), (6.0, 60.0), (20.0, 160.0), (100.0, 600.0)])
def test_what_cannot_be_asked_again_is_waited_for_much_longer(seconds: float, allowed: float) -> None:
    assert final(learned(seconds))[0] == allowed


def test_a_last_attempt_after_a_kill_is_given_twice_as_long_and_before_any_answer_what_everybody_is() -> None:
    assert final(learned(6.0), kills=1)[0] == 120.0
    assert final(Patience(Timeouts()))[0] == total(Patience(Timeouts())) == 60.0
    assert final(Patience(Timeouts(timeout=5.0)))[0] == 5.0, "what the user fixes holds"


def test_a_last_attempt_says_where_its_deadline_comes_from() -> None:
    assert final(learned(6.0))[1] == "p99 of 500 answers of this size × 8.0, at least 60.0 s, as for a last attempt"


def test_one_that_is_outrun_needs_no_token_for_its_end_if_that_is_final_and_speaks_of_no_overload() -> None:
    patience = learned(6.0)
    sent = attempt(patience)
    patience.success(structs.replace(attempt(patience), started=5.0), Timing(total=6.0, first_byte=6.0), 11.0)
    assert patience.review(sent, TOTAL, 100.0, 100.0, DEAR, final=True) == (25.0, True), "that one was sent within p99 of it"
    patience.success(structs.replace(attempt(patience), started=6.5), Timing(total=6.0, first_byte=6.0), 12.5)
    assert patience.review(sent, TOTAL, 100.0, 100.0, DEAR) == (25.0, False), "it may be asked again, which costs tokens"
    assert patience.review(sent, TOTAL, 40.0, 100.0, DEAR, final=True) == (20.0, False)
    assert patience.review(sent, TOTAL, 60.0, 100.0, DEAR, final=True) == (0.0, False)
    assert patience.review(sent, TOTAL, 60.0, 100.0, inf, final=True)[0] > 0.0, "in an outage nothing is given up"


def test_what_is_overdue_because_no_kill_is_left_may_take_all_there_is() -> None:
    patience = learned(6.0)
    assert patience.in_force(request(), False, waited=26.0)[1] == 12.0
    whole, why = patience.in_force(request(), False, waited=28.0)[1:]
    assert whole == 600.0
    assert why == "overdue (p99 of 500 answers of this size × 2.0, at least 1.0 s), and no kill is left: --max-timeout"


# What the user fixes


def test_a_fixed_timeout_means_itself_for_every_attempt() -> None:
    patience = Patience(Timeouts(timeout=60.0))
    for kills in range(4):
        assert total(patience, kills) == 60.0
    assert patience.deadlines(request(), 0, False).first_byte == 60.0
    answered(patience, 300.0, 600)
    assert total(patience, max_tokens=100_000) == 60.0
    assert patience.review(attempt(patience), TOTAL, 60.0, 0.0) == (0.0, False)


def test_a_fixed_timeout_may_pass_the_cap_of_auto() -> None:
    assert total(Patience(Timeouts(timeout=3600.0))) == 3600.0


def test_a_fixed_timeout_that_kills_nearly_all_is_reported_as_overload() -> None:
    patience = Patience(Timeouts(timeout=60.0))
    judged = [patience.review(attempt(patience, line), TOTAL, 60.0, 0.0) for line in range(20)]
    assert judged == [(0.0, False)] * 4 + [(0.0, True)] * 16


def test_a_fixed_first_byte_rules_beside_a_learned_whole() -> None:
    patience = Patience(Timeouts(first_byte_timeout=20.0))
    sent = attempt(patience)
    assert (sent.deadlines.first_byte, sent.deadlines.total) == (20.0, 1.0)
    more, _ = patience.review(sent, Phase.FIRST_BYTE, 1.0, 0.0)
    assert more > 0.0, "an early look is no deadline"
    assert patience.review(sent, Phase.FIRST_BYTE, 20.0, 0.0) == (0.0, False)
    more, _ = patience.review(sent, Phase.BODY, 30.0, 0.0)
    assert more > 0.0


def test_a_fixed_silence_rules_in_every_body() -> None:
    patience = Patience(Timeouts(idle_timeout=4.0))
    plain = attempt(patience)
    assert (plain.deadlines.idle, plain.deadlines.total) == (4.0, 60.0)
    assert patience.review(plain, Phase.BODY, 4.0, 0.0) == (0.0, False)
    answered(patience, 300.0, 500)
    more, _ = patience.review(plain, Phase.BODY, 180.0, 0.0)
    assert more > 0.0, "that was the whole, and it may take longer by now"
    stream = attempt(patience, stream=True)
    assert stream.deadlines.idle == 4.0
    assert patience.review(stream, Phase.BODY, 4.0, 0.0) == (0.0, False)


# Streams


def test_a_stream_has_a_first_byte_and_a_silence_but_no_whole() -> None:
    patience = Patience(Timeouts())
    sent = attempt(patience, stream=True)
    assert (sent.deadlines.first_byte, sent.deadlines.idle, sent.deadlines.total) == (1.0, 1.0, 600.0)
    assert ends(patience, sent, phase=Phase.BODY) == 60.0
    streamed(patience, 2.0, 0.5, 20)
    assert ends(patience, sent, 100.0, Phase.BODY) == 30.0
    streamed(patience, 2.0, 0.5, 480)
    assert (first_byte(patience), ends(patience, sent, 200.0, Phase.BODY)) == (6.0, 1.5)
    assert first_byte(patience, kills=1) == 12.0


def test_how_long_streams_take_is_known_for_those_who_are_late() -> None:
    patience = Patience(Timeouts())
    sent = attempt(patience, stream=True)
    assert patience.late(sent.request) == inf
    for second in range(100):
        patience.success(sent, Timing(0.0, 0.5, 8.0, 0.1), float(second))
    assert patience.late(sent.request) == pytest.approx(8.0, rel=0.1)
    assert patience.expects(sent.request) == pytest.approx(8.0, rel=0.1)
    assert patience.in_force(sent.request, stream=True)[:2] == (pytest.approx(6.0), 600.0), "no deadline follows from it"


def test_only_the_prompt_makes_a_first_byte_later() -> None:
    patience = Patience(Timeouts())
    streamed(patience, 2.0, 0.5, 500)
    assert first_byte(patience, max_tokens=5000) == 6.0
    assert first_byte(patience, size=48_000) > 12.0
    long, short = request(size=48_000), request(size=12_000)
    for _ in range(100):
        for asked, first in ((short, 2.0), (long, 4.0)):
            sent = Attempt(asked, "a", 1, 0.0, patience.deadlines(asked, 0, True), stream=True)
            patience.success(sent, Timing(first_byte=first, total=50.0, gap=0.5), 1.0)
    assert first_byte(patience, size=48_000) == pytest.approx(12.0, rel=0.1)
    assert first_byte(patience, size=12_000) == pytest.approx(6.0, rel=0.1)


def test_silence_is_judged_by_its_own_clock() -> None:
    patience = Patience(Timeouts())
    streamed(patience, 2.0, 0.5, 500)
    sent = attempt(patience, stream=True)
    assert patience.review(sent, Phase.BODY, 1.5, 0.0) == (0.0, False)
    streamed(patience, 2.0, 2.0, 10, now=1.0)
    assert patience.review(sent, Phase.BODY, 1.5, 0.0) == (4.5, False)
    assert patience.review(sent, Phase.BODY, 600.0, 0.0) == (0.0, True), "the cap of the whole"


# Words


@pytest.mark.parametrize(
    ("policy", "answers", "stream", "why"),
    [
        ({}, 0, False, "no answers yet: 60 s"),
        ({}, 50, False, "p99 of 50 answers of this size × 2.8, at least 4.0 s"),
        ({}, 412, False, "p99 of 412 answers of this size × 2.0, at least 1.0 s"),
        ({}, 900, False, "p99 of 500 answers of this size × 2.0, at least 1.0 s"),
        ({"timeout": 60.0}, 50, False, "set by --timeout"),
        ({"timeout": 60.0, "idle_timeout": 5.0}, 0, False, "set by --timeout; silence set by --idle-timeout"),
        ({}, 0, True, "first byte: no answers yet: 60 s; silence: no answers yet: 60 s"),
        ({"timeout": 5.0}, 0, True, "first byte: no answers yet: 60 s; silence: no answers yet: 60 s; whole: set by --timeout"),
        (
            {"idle_timeout": 5.0},
            100,
            True,
            "first byte: p99 of 100 first bytes of this size × 3.0, at least 6.0 s; silence: set by --idle-timeout",
        ),
        (
            {"first_byte_timeout": 9.0},
            100,
            True,
            "first byte: set by --first-byte-timeout; silence: p99 of 100 longest silences × 3.0, at least 6.0 s",
        ),
    ],
)
def test_a_deadline_says_where_it_comes_from(policy: dict[str, float], answers: int, stream: bool, why: str) -> None:
    patience = Patience(Timeouts(**policy))
    for at in range(answers):
        streamed(patience, 1.0, 0.1, now=float(at)) if stream else answered(patience, 1.0, now=float(at))
    assert patience.in_force(request(), stream)[2] == why


@pytest.mark.parametrize(
    ("changes", "stream", "seconds"),
    [
        ({}, False, 60.0),
        ({"body": b"x" * 16_000}, False, 120.0),
        ({"max_tokens": 1000}, False, 120.0),
        ({"images": 1}, False, 180.0),
        ({"route": Route.IMAGES}, False, 180.0),
        ({"max_tokens": 1000}, True, 60.0),
        ({"body": b"x" * 16_000}, True, 120.0),
        ({"images": 1}, True, 180.0),
    ],
)
def test_before_the_first_answer_the_weight_of_a_request_decides(changes: dict[str, Any], stream: bool, seconds: float) -> None:
    asked = structs.replace(request(), **changes)
    first, _, why = Patience(Timeouts()).in_force(asked, stream)
    assert first == seconds
    assert f"no answers yet: {seconds:g} s" in why


def test_a_deadline_says_how_much_is_known_of_the_size() -> None:
    patience = Patience(Timeouts())
    of_size(patience, 1.0, 400, max_tokens=64)
    of_size(patience, 2.0, 30, max_tokens=1024)
    _, _, why = patience.in_force(request(max_tokens=1024), False)
    assert why == "p99 of 430 answers scaled to this size, 30 of it, × 2.0, at least 1.0 s"


def test_the_next_run_knows_level_and_shape() -> None:
    patience = Patience(Timeouts())
    for _ in range(100):
        of_size(patience, 1.0, 9, max_tokens=64)
        of_size(patience, 20.0, 1, max_tokens=1024)
    later = Patience(Timeouts())
    later.recall(patience.learned())
    for max_tokens in (64, 1024):
        assert whole(later, max_tokens) == pytest.approx(whole(patience, max_tokens), rel=0.25)
    of_size(later, 5.0, 50, max_tokens=64)
    assert whole(later, 1024) == pytest.approx(200.0, rel=0.25), "and learns on from there"


# A day in virtual time


class Day(NamedTuple):
    """What became of a run. `held` are the ages at which hung attempts were ended."""

    done: int
    false_kills: int
    lost: int
    held: list[float]
    remembered: int


Weather = Callable[[float], float]  # share of the rows done → how much slower than usual


def live(
    rows: int, slots: int, median: float, sigma: float, hangs: float, weather: Weather = lambda _: 1.0, seed: int = 1
) -> Day:
    """Send all rows through `slots` lanes. A row has a length of its own; each sending may hang; a kill leads to another."""
    chance, patience = random.Random(seed), Patience(Timeouts())
    length = [median * exp(chance.gauss(0.0, sigma)) for _ in range(rows)]
    todo = [(line, 0) for line in reversed(range(rows))]
    flying: list[tuple[float, int, Attempt, float]] = []
    now, done, false_kills, lost, sequence = 0.0, 0, 0, 0, 0
    held: list[float] = []
    while todo or flying:
        while todo and len(flying) < slots:
            line, kills = todo.pop()
            asked = request(line)
            sent = Attempt(asked, "a", kills + 1, now, patience.deadlines(asked, kills, False), kills=kills)
            takes = inf if chance.random() < hangs else length[line] * weather(done / rows)
            sequence += 1
            heapq.heappush(flying, (now + min(takes, sent.deadlines.total), sequence, sent, takes))
        now, number, sent, takes = heapq.heappop(flying)
        age = now - sent.started
        if age >= takes - 1e-9:
            done += 1
            patience.success(sent, Timing(total=takes, first_byte=takes), now)
            continue
        more, _ = patience.review(sent, TOTAL, age, now)
        if more:
            heapq.heappush(flying, (sent.started + min(takes, age + more), number, sent, takes))
            continue
        patience.killed(sent, age)
        false_kills += takes < inf
        held += [age] if takes == inf else []
        if sent.kills == 3:
            lost += 1
            patience.forget(sent.request, inf)
        else:
            todo.append((sent.request.line, sent.kills + 1))
    return Day(done, false_kills, lost, sorted(held), len(patience._kills._ages))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_on_a_fast_service_hangs_die_quickly_and_hardly_anyone_else(seed: int) -> None:
    day = live(10_000, 128, 0.3, 0.8, hangs=0.01, seed=seed)
    assert (day.done, day.lost, day.remembered) == (10_000, 0, 0)
    assert day.false_kills < 0.005 * 10_000
    assert day.held[len(day.held) // 2] < 6.0
    assert day.held[-1] < 30.0


def test_where_answers_take_the_same_short_time_a_hang_dies_in_seconds() -> None:
    day = live(4000, 128, 0.05, 0.1, hangs=0.01)
    assert (day.done, day.lost, day.false_kills) == (4000, 0, 0)
    assert day.held[-1] <= 2.0 + 1e-6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a20_a_service_five_times_slower_for_a_while_is_forgiven(seed: int) -> None:
    day = live(10_000, 128, 0.3, 0.8, hangs=0.01, weather=lambda share: 5.0 if 1 / 3 < share < 2 / 3 else 1.0, seed=seed)
    assert (day.done, day.lost, day.remembered) == (10_000, 0, 0)
    assert day.false_kills < 0.02 * 10_000


def test_a_slow_service_is_not_hurried() -> None:
    day = live(3000, 64, 6.0, 0.8, hangs=0.01)
    assert (day.done, day.lost) == (3000, 0)
    assert day.false_kills < 0.005 * 3000


def test_a_handful_of_rows_does_not_wait_three_minutes_for_its_hang() -> None:
    day = live(40, 16, 0.3, 0.5, hangs=0.1)
    assert (day.done, day.lost, day.false_kills) == (40, 0, 0)
    assert day.held
    assert day.held[-1] < 30.0


def test_many_hangs_are_all_ended_since_right_kills_are_refunded() -> None:
    day = live(3000, 64, 0.3, 0.5, hangs=0.2)
    assert day.done + day.lost == 3000
    assert day.lost < 3000 * 0.005
    assert day.held[len(day.held) // 2] < 10.0
