"""Twins beside stragglers: only at the end, only so many, and never two results for one line."""

import asyncio
import random
from typing import Any

import pytest

from batchrunner.core.hedging import BEATEN
from batchrunner.core.model import Again, Attempt, Cause, Event, Fault, Kind, Outcome, Phase, Reply, Result, Timing, Wait
from batchrunner.core.scheduler import Scheduler
from batchrunner.engine import Engine
from tests.core.test_scheduler import endpoint, scheduler, send
from tests.virtual import WHOEVER, MemorySink, chat, engine_for, good, run_virtual, transport_of

OK = Outcome(Kind.OK, 200, body=b"{}", timing=Timing(0.0, 1.0, 1.0))
FAILED = Outcome(Kind.SERVER_ERROR, 500)
FINAL = Outcome(Kind.REJECTED, 400)
TIMEOUT = Outcome(Kind.TIMEOUT_TOTAL)


def ending(hedge: str = "10%", rows: int = 20, **lanes: int) -> tuple[Scheduler, Attempt]:
    """A job whose last request is under way at `a`, and has been answered but for that; answers take a second."""
    room = scheduler(*(endpoint(name, size) for name, size in (lanes or {"a": 4}).items()), max_open=100, hedge=hedge)
    for line in range(rows):
        room.offer(chat(line))
    last = send(room)
    for _ in range(rows - 1):
        room.settle(send(room), OK, 1.0, 0.5)
    room.last = True
    return room, last


def twin_of(room: Scheduler, now: float = 5.0, name: str = "a") -> Attempt:
    twin = send(room, now, name)
    assert twin.twin
    return twin


def test_a_straggler_gets_one_twin_when_it_is_late_and_the_lane_looks_again_before() -> None:
    room, last = ending()
    assert room.next("a", 1.5) == Wait(2.0)
    twin = twin_of(room)
    assert (twin.request, twin.number, room.in_flight, room.open) == (last.request, 2, 2, 1)
    assert isinstance(room.next("a", 99.0), Wait)


@pytest.mark.parametrize(("hedge", "twins"), [("", 0), ("1%", 1), ("5%", 1), ("10%", 2), ("3", 3), ("0", 0)])
def test_no_more_twins_than_the_user_allows(hedge: str, twins: int) -> None:
    room = scheduler(endpoint("a", 40), max_open=100, hedge=hedge)
    for line in range(20):
        room.offer(chat(line))
    flying = [send(room) for _ in range(20)]
    for attempt in flying[:12]:
        room.settle(attempt, OK, 1.0, 0.5)
    room.last = True
    count = 0
    while isinstance(room.next("a", 50.0), Attempt):
        count += 1
    assert count == twins


@pytest.mark.parametrize("spoil", ["more to come", "fresh", "thin", "open breaker", "full"])
def test_there_are_none(spoil: str) -> None:
    room, _ = ending(rows=5 if spoil == "thin" else 20)
    lane = room.endpoints[0]
    if spoil == "more to come":
        room.last = False
    elif spoil == "fresh":
        room.offer(chat(99))
        assert not send(room, 50.0).twin
    elif spoil == "open breaker":
        for _ in range(20):
            lane.breaker.fail(1.0, 49.0, 0.5)
    elif spoil == "full":
        lane.limit.fix(1)
    step = room.next("a", 50.0) if spoil != "fresh" else None
    assert step is None or isinstance(step, Wait)


def test_another_endpoint_goes_first_if_there_is_one() -> None:
    room, _ = ending(a=4, b=4)
    assert isinstance(room.next("a", 50.0), Wait)
    assert twin_of(room, 50.0, "b").endpoint == "b"


def test_an_answer_speaks_for_the_endpoint_that_gave_it() -> None:
    room, last = ending(a=4, b=4)
    twin_of(room, 50.0, "b")
    room.settle(last, OK, 51.0, 0.5)
    latest = room._chances._suspicion._latest
    assert latest["a", "m"] == last.started
    assert latest.get(("b", "m"), 0.0) < 50.0


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("end", [OK, FINAL], ids=["answered", "refused"])
@pytest.mark.parametrize("loss", [Outcome(Kind.CANCELLED), OK, FAILED, TIMEOUT], ids=["off", "answered", "failed", "late"])
def test_whoever_ends_first_is_the_result_and_the_other_is_nothing(winner: int, end: Outcome, loss: Outcome) -> None:
    room, last = ending()
    pair = (last, twin_of(room))
    first, loser = pair[winner], pair[1 - winner]
    result = room.settle(first, end, 6.0, 0.5)
    assert isinstance(result, Result)
    assert (result.kind, result.attempts, result.maybe_billed) == (end.kind, 2, 1)
    assert room.twins.loser(last.request.line) == loser.number
    before, room.notice = room.in_force(last), "said of the first"
    assert (room.in_flight, room.open) == (1, 0)
    assert room.review(loser, Phase.BODY, 999.0, 999.0) > 0.0, "its own clock may strike before it is called off"
    assert room.settle(loser, loss, 7.0, 0.5) == Again(7.0, BEATEN)
    assert room.notice == "", "what was said is not said again"
    assert (room.in_flight, room.open, room.endpoints[0].inflight) == (0, 0, 0)
    assert room.in_force(last) == before, "what was called off teaches nothing"
    with pytest.raises(KeyError):
        room.settle(loser, loss, 8.0, 0.5)


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("failure", [FAILED, TIMEOUT, Outcome(Kind.CANCELLED)], ids=lambda outcome: str(outcome.kind))
def test_while_one_goes_on_the_failure_of_the_other_is_none(winner: int, failure: Outcome) -> None:
    room, last = ending()
    pair = (last, twin_of(room))
    assert isinstance(room.settle(pair[1 - winner], failure, 6.0, 0.5), Again)
    assert (room.in_flight, room.open, room.retrying) == (1, 1, 0)
    result = room.settle(pair[winner], OK, 7.0, 0.5)
    assert isinstance(result, Result)
    assert result.ok
    assert (room.in_flight, room.open) == (0, 0)


@pytest.mark.parametrize("winner", [0, 1])
def test_whichever_goes_on_is_the_one_that_is_waited_for(winner: int) -> None:
    room, last = ending(a=4, b=4)
    pair = (last, twin_of(room, 5.0, "b"))
    room.settle(pair[1 - winner], FAILED, 6.0, 0.5)
    assert [room.eldest(name, 7.0) is not None for name in "ab"] == [winner == 0, winner == 1]


def test_a_twin_of_what_was_sent_again_has_not_waited_for_its_turn() -> None:
    room, last = ending()
    room.settle(last, FAILED, 6.0, 0.5)
    assert send(room, 10.0).queued > 0.0
    assert twin_of(room, 20.0).queued == 0.0


def test_a_probe_that_is_called_off_leaves_its_place_to_another() -> None:
    room, last = ending(rows=21, a=4, b=4)
    assert isinstance(room.settle(last, OK, 1.0, 0.5), Result)
    for _ in range(20):
        room.endpoints[0].breaker.fail(1.0, 2.0, 0.5)
    room.offer(chat(50))
    probe = send(room, 10.0)
    room.settle(twin_of(room, 30.0, "b"), OK, 31.0, 0.5)
    room.offer(chat(51))
    assert isinstance(room.next("a", 31.0), Wait)
    room.settle(probe, Outcome(Kind.CANCELLED), 31.0, 0.5)
    assert send(room, 31.0).request.line == 51


def test_a_request_has_one_twin_ever_and_what_was_killed_gets_longer() -> None:
    room, last = ending(hedge="100%")
    twin = twin_of(room)
    room.settle(last, TIMEOUT, 6.0, 0.5)
    assert isinstance(room.next("a", 99.0), Wait), "no twin for the twin"
    room.settle(twin, TIMEOUT, 99.0, 0.0)
    again = send(room, 99.0)
    assert (again.kills, again.number, again.twin) == (2, 3, False)
    assert isinstance(room.next("a", 999.0), Wait)


def test_when_both_fail_the_request_is_sent_again() -> None:
    room, last = ending()
    twin = twin_of(room)
    room.settle(last, FAILED, 6.0, 0.5)
    assert isinstance(room.settle(twin, FAILED, 6.0, 0.5), Again)
    assert (room.in_flight, room.open, room.retrying) == (0, 1, 1)


# With the engine


def hedged(script: Any, hedge: str = "10%", **options: Any) -> Engine:
    return engine_for([chat(n) for n in range(1, 61)], script, concurrency=8, hedge=hedge, **options)


def lines_of(engine: Engine) -> list[int]:
    sink = engine.outbox._sink
    assert isinstance(sink, MemorySink)
    return [result.request.line for result in sink.results]


@WHOEVER
def test_the_loser_is_called_off_at_once_and_every_line_has_one_result(helped: Any) -> None:
    seen: list[Event] = []

    async def slow_at_first(attempt: Attempt) -> Reply:
        await asyncio.sleep(500.0 if attempt.request.line == 60 and attempt.number == 1 else 1.0)
        return good()

    async def main() -> None:
        engine = hedged(slow_at_first, listeners=[seen.append], helped=helped)
        began = asyncio.get_running_loop().time()
        await engine.run()
        assert asyncio.get_running_loop().time() - began < 15.0
        assert sorted(lines_of(engine)) == list(range(1, 61))
        assert not engine._carriers._by_attempt
        assert transport_of(engine).in_flight == 0

    run_virtual(main)
    [(attempt, outcome)] = [(event.attempt, event.outcome) for event in seen if event.outcome and not event.result]
    assert attempt
    assert (attempt.number, attempt.twin, outcome.kind, outcome.billed) == (1, False, Kind.CANCELLED, True)


@WHOEVER
@pytest.mark.parametrize("seed", range(12))
def test_no_line_is_lost_or_twice_whatever_happens_to_pairs(seed: int, helped: Any) -> None:
    chance = random.Random(seed)

    async def unsteady(attempt: Attempt) -> Reply | Fault:
        await asyncio.sleep(chance.choice([1.0, 1.0, 1.0, 1.0, 4.0, 9.0, 60.0]))
        if chance.random() < 0.15:
            return Fault(Cause.RESET, Phase.BODY, "reset")
        return good()

    async def main() -> None:
        engine = hedged(unsteady, hedge="100%", helped=helped)
        if seed % 3 == 0:
            asyncio.get_running_loop().call_later(12.0 + seed, engine.drop)
        await engine.run()
        done, open_ = lines_of(engine), [request.line for request in engine.scheduler.pending()]
        assert sorted(done + open_) == list(range(1, 61))
        assert len(set(done)) == len(done)
        assert engine.scheduler.in_flight == 0

    run_virtual(main)
