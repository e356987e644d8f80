"""Work over several endpoints: who takes it, who goes first, and what failed at one goes to another."""

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.claims import GLANCE
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.hedging import LOOK
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Again, Attempt, Kind, Outcome, Result, Timing, Wait
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from tests.virtual import chat


def endpoint(name: str, concurrency: int = 2, **more: Any) -> Endpoint:
    return Endpoint(name, f"http://{name}/v1", Limit(Concurrency(concurrency=concurrency)), **more)


def room_of(*endpoints: Endpoint, lines: int = 10, max_open: int = 100, models: tuple[str, ...] = ("m",)) -> Scheduler:
    room = Scheduler(endpoints, Retries(), Timeouts(), max_open)
    for line in range(lines):
        assert room.offer(chat(line, model=models[line % len(models)]))
    return room


def sent(room: Scheduler, name: str, now: float = 0.0) -> Attempt:
    step = room.next(name, now)
    assert isinstance(step, Attempt), step
    return step


def all_sent(room: Scheduler, names: str, now: float = 0.0) -> list[Attempt]:
    """Every lane takes one after the other, round and round, until none takes any more."""
    flying: list[Attempt] = []
    while taken := [step for name in names if isinstance(step := room.next(name, now), Attempt)]:
        flying += taken
    return flying


def test_an_earlier_endpoint_goes_first_while_it_has_room() -> None:
    room = room_of(endpoint("a"), endpoint("b"))
    assert room.next("b", 0.0) == Wait(GLANCE)
    assert [sent(room, "a").request.line for _ in range(2)] == [0, 1]
    assert sent(room, "b").request.line == 2, "it is full: nothing waits for it"


def test_with_nothing_to_send_nobody_looks_again_at_once() -> None:
    room = room_of(endpoint("a"), endpoint("b"), lines=0)
    assert room.next("b", 0.0) == Wait()


@pytest.mark.parametrize("outcome", [Outcome(Kind.RATE_LIMITED, 429, wait=30.0), Outcome(Kind.QUOTA, 429)])
def test_a_later_endpoint_serves_while_the_earlier_is_paused_or_stopped(outcome: Outcome) -> None:
    room = room_of(endpoint("a"), endpoint("b"))
    room.settle(sent(room, "a"), outcome, 0.0, 0.5)
    assert sent(room, "b", 1.0).endpoint == "b"


def test_an_endpoint_on_probation_does_not_hold_the_others_up() -> None:
    first, second = endpoint("a", 20), endpoint("b")
    room = room_of(first, second, lines=40)
    for attempt in [sent(room, "a") for _ in range(10)]:
        room.settle(attempt, Outcome(Kind.CONNECT), 0.0, 0.5)
    assert first.breaker.open
    probe = sent(room, "a", 5.0)
    assert probe.number == 1, "a probe is a fresh request"
    assert sent(room, "b", 5.0).number == 2, "and the others take what is due"


def test_a_request_that_failed_goes_elsewhere_soon_and_back_if_it_must() -> None:
    first, second = endpoint("a", 1), endpoint("b", 1)
    room = room_of(first, second, lines=1)
    verdict = room.settle(sent(room, "a"), Outcome(Kind.SERVER_ERROR, 500), 0.0, 0.9)
    assert verdict == Again(0.9, Kind.SERVER_ERROR)
    assert room.next("a", 1.0) == Wait(1.0 + LOOK), "it is for the other"
    attempt = sent(room, "b", 1.0)
    room.settle(attempt, Outcome(Kind.SERVER_ERROR, 500), 1.0, 0.5)
    assert sent(room, "a", 3.0).number == 3
    second.stopped = "gone"
    room.settle(next(iter([Attempt(chat(0), "a", 3, 3.0, attempt.deadlines)])), Outcome(Kind.SERVER_ERROR, 500), 3.0, 0.5)
    assert sent(room, "a", 10.0).number == 4, "nobody else serves"


def test_who_is_only_throttled_is_not_avoided_but_not_waited_for_either() -> None:
    room = room_of(endpoint("a"), endpoint("b"), lines=1)
    verdict = room.settle(sent(room, "a"), Outcome(Kind.RATE_LIMITED, 429, wait=300.0), 0.0, 0.5)
    assert verdict == Again(0.5, Kind.RATE_LIMITED)
    assert sent(room, "b", 0.5).number == 2
    room = room_of(endpoint("a"), endpoint("b"), lines=1)
    room.settle(sent(room, "a"), Outcome(Kind.RATE_LIMITED, 429), 0.0, 0.5)
    assert sent(room, "a", 1.0).number == 2, "without a named wait it may be tried again"


def test_two_that_both_pause_are_not_asked_before_their_time() -> None:
    room = room_of(endpoint("a"), endpoint("b"), lines=2)
    room.settle(sent(room, "a"), Outcome(Kind.RATE_LIMITED, 429, wait=20.0), 0.0, 0.5)
    room.settle(sent(room, "b"), Outcome(Kind.RATE_LIMITED, 429, wait=10.0), 0.0, 0.5)
    for name, until in (("a", 20.0), ("b", 10.0)):
        step = room.next(name, 5.0)
        assert step == Wait(until)
    assert sent(room, "b", 13.0).endpoint == "b"


def test_weights_share_what_there_is_too_little_of() -> None:
    room = room_of(endpoint("a", 100, weight=1.0), endpoint("b", 100, weight=3.0), lines=40)
    flying = all_sent(room, "ab")
    assert sum(attempt.endpoint == "b" for attempt in flying) == 30
    assert len(flying) == 40


def test_weights_leave_no_room_idle() -> None:
    room = room_of(endpoint("a", 100, weight=1.0), endpoint("b", 5, weight=9.0), lines=40)
    flying = all_sent(room, "ab")
    assert [sum(attempt.endpoint == name for attempt in flying) for name in "ab"] == [35, 5]


def test_a_reserve_serves_only_while_nobody_before_it_does() -> None:
    first, second, third = endpoint("a", 1), endpoint("b", 1, weight=0.0), endpoint("c", 1)
    room = room_of(first, second, third)
    assert {attempt.endpoint for attempt in all_sent(room, "abc")} == {"a", "c"}
    first.stopped = "no money"
    assert room.next("b", 0.0) == Wait()
    third.stopped = "no money"
    assert sent(room, "b").endpoint == "b"


def test_reserves_stand_in_order() -> None:
    first, *spares = endpoint("a"), endpoint("b", weight=0.0), endpoint("c", weight=0.0)
    room = room_of(first, *spares)
    first.stopped = "no money"
    assert {attempt.endpoint for attempt in all_sent(room, "cb")} == {"b"}
    spares[0].stopped = "no money"
    assert sent(room, "c").endpoint == "c"


# Model maps


def test_a_model_is_called_what_it_is_called_there() -> None:
    lane = endpoint("a", models={"m": "theirs", "n": "*", "*": "rest"})
    assert [lane.asks(name) for name in ("m", "n", "x")] == ["theirs", "n", "rest"]
    assert endpoint("b").asks("m") == "m"
    assert endpoint("c", models={"m": "theirs"}).asks("x") is None


def test_a_request_goes_only_where_its_model_is_served() -> None:
    room = room_of(endpoint("a", 9, models={"m": "m1"}), endpoint("b", 9), lines=8, models=("m", "n"))
    flying = all_sent(room, "ba")
    assert {attempt.request.model for attempt in flying if attempt.endpoint == "a"} == {"m"}
    assert {attempt.request.model for attempt in flying if attempt.endpoint == "b"} == {"n"}
    assert len(flying) == 8, "who cannot go first is not waited for by what it does not serve"


def test_requests_for_different_endpoints_keep_their_order() -> None:
    room = room_of(endpoint("a", 1, models={"m": "m"}), endpoint("b", 9), lines=6, models=("n", "m"))
    assert sent(room, "a").request.line == 1
    assert [sent(room, "b").request.line for _ in range(5)] == [0, 2, 3, 4, 5]


def test_what_no_endpoint_in_use_serves_ends_the_run_and_stays_pending() -> None:
    first = endpoint("a", models={"m": "m"})
    room = room_of(first, endpoint("b", models={"n": "n"}), lines=4, models=("m", "n"))
    first.stopped = "a: no money [E302]"
    for _ in range(2):
        assert isinstance(room.settle(sent(room, "b"), Outcome(Kind.OK), 0.0, 0.5), Result)
    assert not room.stopped, "more may come"
    room.last = True
    assert room.stopped == "a: no money [E302]"
    assert sorted(request.line for request in room.pending()) == [0, 2]


def test_a_room_full_of_what_nobody_serves_ends_the_run_too() -> None:
    first = endpoint("a", models={"m": "m"})
    room = room_of(first, endpoint("b", models={"n": "n"}), lines=4, max_open=4)
    first.stopped = "a: no money [E302]"
    assert room.stopped


def test_those_are_awaited_that_what_is_left_may_go_to() -> None:
    lanes = endpoint("a", 9, models={"m": "m"}), endpoint("b", 9, models={"n": "n"}), endpoint("c", models={"o": "o"})
    room = room_of(*lanes, lines=6, models=("m", "n"))
    assert room.awaited == {"a", "b", "c"}, "more may come"
    room.last = True
    assert room.awaited == {"a", "b"}
    for attempt in all_sent(room, "a"):
        room.settle(attempt, Outcome(Kind.OK), 0.0, 0.5)
    assert room.awaited == {"b"}
    lanes[1].stopped = "b: no money [E302]"
    assert (room.awaited, room.lost) == ({"a", "c"}, ["b: no money [E302]"]), "nothing is left that may go anywhere"


def test_a_backlog_that_lets_nothing_else_in_awaits_its_own_endpoint() -> None:
    room = room_of(endpoint("a", models={"m": "m"}), endpoint("b", models={"n": "n"}), lines=6, max_open=8, models=("n",))
    assert room.awaited == {"b"}


# Any history


def taught(room: Scheduler, seconds: dict[str, float], left: int) -> float:
    """All answer, each in its own time, until so few are left; when that is over."""
    now = 0.0
    while room.open > left:
        for attempt in all_sent(room, "".join(seconds), now)[: room.open - left]:
            took = seconds[attempt.endpoint]
            room.settle(attempt, Outcome(Kind.OK, 200, timing=Timing(total=took)), now + took, 0.5)
        now += max(seconds.values())
    return now


def at_the_end(lines: int, seconds: dict[str, float], coming: float = inf) -> tuple[Scheduler, float]:
    room = Scheduler([endpoint(name, 4) for name in seconds], Retries(), Timeouts(), 4000, coming=coming)
    for line in range(40 + lines):
        room.offer(chat(line))
    now = taught(room, seconds, lines)
    room.last = coming == inf
    return room, now


def test_at_the_end_a_slow_endpoint_leaves_to_the_others_what_they_will_have_done_sooner() -> None:
    room, now = at_the_end(8, {"a": 30.0, "b": 0.5})
    assert room.next("a", now) == Wait(now + LOOK)
    assert len(all_sent(room, "ab", now)) == 4, "the quick one takes what it can, though the slow one goes first"
    assert {attempt.endpoint for attempt in all_sent(room, "b", now)} <= {"b"}


def test_a_slow_endpoint_takes_its_part_while_there_is_plenty() -> None:
    room, now = at_the_end(2000, {"a": 30.0, "b": 0.5})
    assert isinstance(room.next("a", now), Attempt)


def test_what_is_not_yet_read_counts_as_plenty_and_what_is_counted_does_not() -> None:
    unknown, now = at_the_end(8, {"a": 30.0, "b": 0.5})
    unknown.last = False
    assert isinstance(unknown.next("a", now), Attempt)
    counted, now = at_the_end(8, {"a": 30.0, "b": 0.5}, coming=48)
    assert counted.next("a", now) == Wait(now + LOOK)
    more, now = at_the_end(8, {"a": 30.0, "b": 0.5}, coming=2048)
    assert isinstance(more.next("a", now), Attempt)


def test_who_is_avoided_is_asked_all_the_same_when_the_other_leaves_the_work_to_it() -> None:
    room, now = at_the_end(1, {"a": 30.0, "b": 0.5})
    room.settle(sent(room, "b", now), Outcome(Kind.OVERLOADED, 503), now, 0.0)
    assert isinstance(room.next("a", now + 5.0), Wait)
    assert sent(room, "b", now + 5.0).endpoint == "b"


def test_who_is_avoided_looks_again_for_the_other_may_come_to_leave_the_work_to_it() -> None:
    """Nobody wakes it when that happens: a job once ended with its last line waiting for it for ever."""
    room = room_of(endpoint("a", 1), endpoint("b", 1), lines=2)
    sent(room, "a")
    room.settle(sent(room, "b"), Outcome(Kind.OVERLOADED, 503), 0.0, 0.0)
    assert room.next("b", 5.0) == Wait(5.0 + LOOK)


def test_who_lets_another_go_first_looks_when_the_request_is_due() -> None:
    room = room_of(*(endpoint(name, 1) for name in "abc"), lines=3)
    first, second, third = (sent(room, name) for name in "abc")
    verdict = room.settle(third, Outcome(Kind.SERVER_ERROR, 500), 0.0, 0.9)
    assert isinstance(verdict, Again)
    for attempt in (first, second):
        room.settle(attempt, Outcome(Kind.OK, 200, timing=Timing(total=0.5)), 0.0, 0.0)
    assert [room.next(name, 0.0) for name in "ab"] == [Wait(verdict.at)] * 2, "it is for the first, unless that leaves it"


@pytest.mark.parametrize(("slow", "goes_to"), [(1.0, "a"), (30.0, "b")])
def test_what_hung_at_a_quick_endpoint_is_not_sent_to_a_slow_one_instead(slow: float, goes_to: str) -> None:
    room, now = at_the_end(2000, {"a": slow, "b": 0.5})
    flying = all_sent(room, "ab", now)
    hung = next(attempt for attempt in flying if attempt.endpoint == "b")
    for attempt in flying:
        outcome = Outcome(Kind.TIMEOUT_TOTAL) if attempt is hung else Outcome(Kind.OK, 200, timing=Timing(total=0.5))
        room.settle(attempt, outcome, now, 0.0)
    places = {attempt.request.line: attempt.endpoint for attempt in all_sent(room, "ab", now + 5.0)}
    assert places[hung.request.line] == goes_to


@pytest.mark.parametrize("seconds", [{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 30.0}])
def test_the_quickest_never_leaves_anything(seconds: dict[str, float]) -> None:
    room, now = at_the_end(1, seconds)
    assert sent(room, "a", now).endpoint == "a"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_nobody_is_forgotten(data: st.DataObject) -> None:
    """Three endpoints of any kind; each history ends with every line having one result, at an endpoint that serves its model."""
    weights = st.sampled_from([None, 0.0, 1.0, 3.0])
    maps: list[dict[str, str]] = [{}, {"m": "x"}, {"*": "y"}]
    lanes = [
        endpoint(name, data.draw(st.integers(1, 4)), weight=data.draw(weights), models=data.draw(st.sampled_from(maps)))
        for name in "abc"
    ]
    lanes[0].models = {}  # somebody serves every model
    room = room_of(*lanes, lines=20, models=("m", "n"))
    results: dict[int, Result] = {}
    flying: list[Attempt] = []
    kinds = st.sampled_from([Kind.OK, Kind.SERVER_ERROR, Kind.CONNECT, Kind.RATE_LIMITED, Kind.TIMEOUT_TOTAL, Kind.STALE])
    now, turns = 0.0, 0
    while len(results) < 20:
        turns += 1
        now += data.draw(st.floats(0.01, 10.0))
        for name in data.draw(st.permutations("abc")):
            while isinstance(step := room.next(name, now), Attempt):
                flying.append(step)
        assert flying or turns < 400, "nothing is sent any more"
        if flying:
            attempt = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            kind = data.draw(kinds) if turns < 100 else Kind.OK
            verdict = room.settle(attempt, Outcome(kind), now, data.draw(st.floats(0.0, 0.99)))
            if isinstance(verdict, Result):
                lane = next(lane for lane in lanes if lane.name == verdict.endpoint)
                assert lane.asks(verdict.request.model) is not None
                assert results.setdefault(verdict.request.line, verdict) is verdict
    assert room.open == 0
