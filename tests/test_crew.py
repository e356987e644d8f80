"""Workers: the channel between them and the run, one worker and the crew without processes, and the whole with them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import chain, pairwise
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import batchrunner
from batchrunner import crew as crew_room
from batchrunner import worker as worker_room
from batchrunner.channel import (
    FROM_WORKER,
    MOST,
    TO_WORKER,
    Answered,
    Cancel,
    Channel,
    Granted,
    Opening,
    Ready,
    Send,
    packed,
)
from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Fault, Kind, Left, Outcome, Phase, Reply, Request, Usage
from batchrunner.core.service import Connection, Service
from batchrunner.core.trail import Ourselves, together
from batchrunner.crew import DEATHS, SHARE, SHARES, SILENT, TEND_EVERY, Crew, Processes, crowded, shared, starting
from batchrunner.engine import Chore
from batchrunner.errors import FileError
from batchrunner.worker import Worker
from tests.crash import COMMAND, environment, served
from tests.processes import children_of
from tests.server import FaultServer, Peer, json_reply
from tests.server import chat as answer
from tests.virtual import MemorySink, chat, engine_for, good, run_virtual

OPENING = Opening(Service(base_url=("http://a/v1",)), Connection(), {"a": "http://a/v1"})
PATIENT = Deadlines(10.0, 20.0, 20.0, 60.0)
FRAME = 8


def attempt(line: int = 1, **changes: Any) -> Attempt:
    return Attempt(chat(line, **changes), "a", 1, 0.0, PATIENT)


def framed(*messages: Any) -> bytes:
    frame = packed(list(messages))
    return len(frame).to_bytes(FRAME, "big") + frame


async def come(true: Callable[[], object]) -> None:
    """Let the loop turn until it is so."""
    for _ in range(100_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


# ---- the channel ----


class Ear:
    """A channel without a pair, and what it hears."""

    def __init__(self, decoder: Any) -> None:
        self.heard: list[Any] = []
        self.channel = Channel(decoder, self.heard.append, lambda: None)


said_to_worker = st.lists(
    st.one_of(
        st.builds(Cancel, st.integers(0, 2**40)),
        st.builds(Granted, st.integers(0, 9), st.floats(0, 1e6)),
        st.builds(lambda line, body: Send(line, attempt(line, body=body)), st.integers(1, 9), st.binary(max_size=3000)),
    ),
    max_size=6,
)


@given(st.lists(said_to_worker, max_size=5), st.data())
@settings(max_examples=60)
def test_what_is_said_is_heard_however_it_is_cut(turns: list[list[Any]], data: st.DataObject) -> None:
    raw = b"".join(framed(*turn) for turn in turns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))

    async def main() -> list[Any]:
        ear = Ear(TO_WORKER)
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            ear.channel.data_received(raw[start:end])
        return ear.heard

    assert asyncio.run(main()) == [message for turn in turns for message in turn]


async def test_half_a_frame_is_never_heard() -> None:
    ear = Ear(FROM_WORKER)
    ear.channel.data_received(framed(Ready()) + framed(Answered(1, Outcome(Kind.OK)), Answered(2, Outcome(Kind.OK)))[:-1])
    assert ear.heard == [Ready()]


@pytest.mark.parametrize(
    ("odd", "even"),
    [
        ({"message": "no \udcff", "body": b'{"a":"\\ud800"}'}, {"message": "no ?", "body": b'{"a":"\\ud800"}'}),
        ({"usage": Usage(10**30, 5, 0.5)}, {"usage": Usage(2**63 - 1, 5, 0.5)}),
        ({"left": (Left("requests", 5.0, 0.1),)}, {"left": (Left("requests", 5.0, 0.1),)}),
        ({"flags": ("a", "\udc80"), "wait": float("inf")}, {"flags": ("a", "?"), "wait": float("inf")}),
    ],
)
async def test_nothing_that_a_server_says_breaks_a_frame(odd: dict[str, Any], even: dict[str, Any]) -> None:
    ear, plain = Ear(FROM_WORKER), Outcome(Kind.REJECTED, 400)
    ear.channel.data_received(framed(Answered(1, replace(plain, **odd)), Answered(2, plain)))
    assert ear.heard == [Answered(1, replace(plain, **even)), Answered(2, plain)]


async def test_nor_does_anything_in_a_line() -> None:
    ear, sent = Ear(TO_WORKER), attempt(1, id="\ud800", max_tokens=10**30, choices=-(10**30))
    ear.channel.data_received(framed(Send(1, sent)))
    assert ear.heard == [Send(1, attempt(1, id="?", max_tokens=2**63 - 1, choices=1 - 2**63))]


async def test_much_that_is_said_in_one_turn_leaves_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    near = await Channel.over(ours, FROM_WORKER, lambda _: None, lambda: None)
    said = [Cancel(number) for number in range(MOST + 4)]
    for each in said[:MOST]:
        near.say(each)
    assert theirs.recv(10_000) == framed(*said[:MOST]), "it does not wait for the end of the turn"
    for each in said[MOST:]:
        near.say(each)
    await asyncio.sleep(0)
    assert theirs.recv(10_000) == framed(*said[MOST:])
    near.close()
    theirs.close()


async def test_what_is_said_in_one_turn_is_one_frame_and_the_end_is_heard_once() -> None:
    ours, theirs = socket.socketpair()
    heard: list[Any] = []
    lost: list[bool] = []
    near = await Channel.over(ours, FROM_WORKER, heard.append, lambda: lost.append(True))
    near.say(Cancel(1))
    near.say(Cancel(2))
    await asyncio.sleep(0)
    theirs.setblocking(True)
    raw = await asyncio.to_thread(theirs.recv, 1000)
    assert raw == framed(Cancel(1), Cancel(2))
    theirs.close()
    await come(lambda: lost)
    near.say(Cancel(3))  # to nobody: no error
    await asyncio.sleep(0)
    assert (heard, lost) == ([], [True])


# ---- one worker and its place, over a pair, without a process ----


class Spoken:
    """In the place of all transports: answers by script, and keeps what it was asked."""

    script: Any = None

    def __init__(self, *_: object) -> None:
        pass

    def transports(self, urls: dict[str, str]) -> dict[str, "Spoken"]:
        return dict.fromkeys(urls, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, attempt: Attempt, review: Any) -> Reply | Fault:
        return await type(self).script(attempt, review)


class NoProcess:
    """Stands for the process of a worker that is a task of ours."""

    def kill(self) -> None:
        pass

    def wait(self) -> int:
        return 0


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list["asyncio.Task[None]"]:
    """Workers as tasks of this loop, over real pairs."""
    made: list[asyncio.Task[None]] = []

    def started(*_: object, **__: object) -> tuple[socket.socket, Any]:
        ours, theirs = socket.socketpair()
        made.append(asyncio.get_running_loop().create_task(Worker().run(theirs)))
        return ours, NoProcess()

    monkeypatch.setattr(crew_room, "started", started)
    monkeypatch.setattr(worker_room, "Ways", Spoken)
    monkeypatch.setattr(worker_room, "_gone", lambda: [task.cancel() for task in made])
    return made


class Asker:
    """In the place of an engine: hands attempts over, and waits for what becomes of them. `own` are those that were not taken."""

    def __init__(self, crew: Crew, review: Callable[[Attempt, Phase, float], float]) -> None:
        self.own: list[int] = []
        self.answers: dict[int, asyncio.Future[Outcome]] = {}
        self._crew = crew
        crew.serve(review, lambda attempt, outcome: self.answers[attempt.request.line].set_result(outcome))

    def ask(self, attempt: Attempt) -> "asyncio.Future[Outcome]":
        in_flight = 1 + len(self.own) + sum(len(place.errands) for place in self._crew._places)
        self.answers[attempt.request.line] = asyncio.get_running_loop().create_future()
        if not self._crew.take(attempt, in_flight):
            self.own.append(attempt.request.line)
        return self.answers[attempt.request.line]


@asynccontextmanager
async def complete(count: int) -> AsyncIterator[Crew]:
    """A crew whose workers are all ready."""
    async with Crew(count, OPENING, {}) as crew:
        await come(lambda: len(crew._up) == count)
        yield crew


@asynccontextmanager
async def asking(count: int, review: Callable[[Attempt, Phase, float], float] | None = None) -> AsyncIterator[Asker]:
    """Somebody who asks a complete crew, which takes whatever it is asked."""
    async with complete(count) as crew:
        crew._share = inf
        yield Asker(crew, review or never)


def never(*_: object) -> float:
    raise AssertionError("nobody asked for more time")


@pytest.mark.usefixtures("tasks")
async def test_an_attempt_goes_out_whole_and_its_outcome_comes_back_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def script(attempt: Attempt, _review: Any) -> Reply:
        seen.append(attempt)
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    sent = attempt(7, body=b"\x00\xff" * 500, headers=(("x-a", "1"),))
    async with asking(2) as asker:
        assert await asker.ask(sent) == classify(sent, good())
    assert seen == [sent]


@pytest.mark.usefixtures("tasks")
async def test_a_deadline_that_passes_is_put_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run grants counts from the question; 0.0 gives up; a wait that began anew is a question of its own."""
    told: list[tuple[Phase, float]] = []
    grants = iter([5.0, 0.0, 7.0])

    def review(_attempt: Attempt, phase: Phase, age: float) -> float:
        told.append((phase, age))
        return next(grants)

    async def script(attempt: Attempt, ask: Any) -> Reply:
        assert 4.5 < await decided(ask, attempt, Phase.FIRST_BYTE, 1.0) <= 5.0
        assert await decided(ask, attempt, Phase.FIRST_BYTE, 6.0) == 0.0
        ask(attempt, Phase.BODY, 2.0)  # this silence ends before the run has said anything
        assert 6.5 < await decided(ask, attempt, Phase.BODY, 0.1) <= 7.0
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    grants = iter([5.0, 0.0, 7.0, 7.0])
    async with asking(1, review) as asker:
        assert (await asker.ask(attempt())).kind is Kind.OK
    assert [(phase, round(age)) for phase, age in told] == [
        (Phase.FIRST_BYTE, 1),
        (Phase.FIRST_BYTE, 6),
        (Phase.BODY, 2),
        (Phase.BODY, 0),
    ]


async def decided(ask: Any, attempt: Attempt, phase: Phase, age: float) -> float:
    """What the reviewer says once it knows."""
    clock = asyncio.get_running_loop().time
    began = clock() - age
    said: list[float] = []

    def known() -> bool:
        said.append(ask(attempt, phase, clock() - began))
        return said[-1] != worker_room.LOOK

    await come(known)
    return said[-1]


@pytest.mark.usefixtures("tasks")
async def test_what_is_dropped_is_dropped_in_the_worker_too(monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def script(_attempt: Attempt, _review: Any) -> Reply:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    async with asking(1) as asker:
        asker.ask(attempt())
        await began.wait()
        assert asker._crew.drop(1, 2) is asker._crew.drop(2, 1) is None
        assert asker._crew.drop(1, 1) == attempt()
        assert asker._crew.drop(1, 1) is None
        await ended.wait()


@pytest.mark.usefixtures("tasks")
async def test_one_task_makes_one_attempt_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after one that was called off before it had begun."""
    makers: dict[int, asyncio.Task[Any] | None] = {}

    async def script(attempt: Attempt, _review: Any) -> Reply:
        makers[attempt.request.line] = asyncio.current_task()
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    async with asking(1) as asker:
        for line in (1, 2, 3):
            await asker.ask(attempt(line))
        asker.ask(attempt(4))
        assert asker._crew.drop_all() == [attempt(4)]
        assert (await asker.ask(attempt(5))).kind is Kind.OK
    assert makers.keys() == {1, 2, 3, 5}
    assert makers[1] is makers[2] is makers[3] is not makers[5]


@pytest.mark.usefixtures("tasks")
async def test_a_bug_in_one_attempt_costs_only_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(attempt: Attempt, _review: Any) -> Reply:
        if attempt.request.line == 1:
            raise RuntimeError("oops")
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    async with asking(1) as asker:
        outcomes = await asyncio.gather(*(asker.ask(attempt(line)) for line in (1, 2)))
    assert [(each.kind, each.message) for each in outcomes] == [(Kind.LOCAL, "internal error: RuntimeError"), (Kind.OK, "")]


async def test_the_work_goes_to_whoever_has_the_least(tasks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []
    go = asyncio.Event()

    async def script(_attempt: Attempt, _review: Any) -> Reply:
        where.append(str(asyncio.current_task()))
        await go.wait()
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    async with asking(3) as asker:
        sent = [asker.ask(attempt(line)) for line in range(9)]
        await come(lambda: len(where) == 9)
        assert [len(place.errands) for place in asker._crew._places] == [3, 3, 3]
        go.set()
        await asyncio.gather(*sent)
    assert len(tasks) == 3


@pytest.mark.usefixtures("tasks")
async def test_the_run_takes_its_share_and_all_before_a_worker_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def script(_attempt: Attempt, _review: Any) -> Reply:
        await go.wait()
        return good()

    monkeypatch.setattr(Spoken, "script", script)
    async with Crew(2, OPENING, {}) as crew:
        asker = Asker(crew, never)
        for line in (1, 2):
            asker.ask(attempt(line))
        assert asker.own == [1, 2], "nobody waits for a worker"
        await come(lambda: len(crew._up) == 2)
        for line in range(3, 53):
            asker.ask(attempt(line))
        assert [len(place.errands) for place in crew._places] == [25, 24]
        assert len(asker.own) == 3, "three for each of the 2 that are in hand"
        go.set()
        await asyncio.gather(*(answer for line, answer in asker.answers.items() if line not in asker.own))


async def test_a_few_workers_start_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def slow(*_: object, **__: object) -> tuple[socket.socket, Any]:
        pairs.append(socket.socketpair())
        return pairs[-1][0], NoProcess()

    monkeypatch.setattr(crew_room, "started", slow)
    monkeypatch.setattr(crew_room, "cores", lambda: 2)
    async with Crew(9, OPENING, {}) as crew:
        for ready, begun in ((0, 4), (0, 4), (1, 5), (3, 8), (4, 9)):
            for place in [place for place in crew._places if not (place.empty or place.ready)][:ready]:
                place._hear(Ready())
            await crew.tend()
            assert len(pairs) == begun
    for _, theirs in pairs:
        theirs.close()
    assert (starting(2), starting(900)) == (2, 4)
    monkeypatch.setattr(crew_room, "cores", lambda: 64)
    assert (starting(9), starting(900)) == (9, 64)


def test_more_workers_than_cores_are_said_to_be_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_room, "cores", lambda: 2)
    assert crowded(Processes(workers=2)) == ""
    assert crowded(Processes(workers=3)) == "--workers 3: more than the 2 cores that there are for them make a run no faster"


@pytest.mark.usefixtures("tasks")
async def test_whoever_is_more_busy_gets_less_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with complete(2) as crew:
        shares = [crew._share]
        for theirs in ((0.5, 0.3), (1.0, 0.8), (0.0, 0.0)):
            for place, busy in zip(crew._places, theirs, strict=True):
                place.busy = busy
            monkeypatch.setattr(crew._demand, "taken", lambda: 0.6)
            await crew.balance()
            shares.append(crew._share)
    assert [round(after / before, 3) for before, after in pairwise(shares)] == [1.225, 0.816, 1.0]


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(("usable", "moved"), [(1, 0), (2, 0), (3, 2), (8, 2)])
async def test_workers_leave_the_run_its_core_where_each_can_have_one(
    monkeypatch: pytest.MonkeyPatch, usable: int, moved: int
) -> None:
    apart = []
    monkeypatch.setattr(crew_room, "cores", lambda: usable)
    monkeypatch.setattr(crew_room, "apart", apart.append)
    async with complete(2) as crew:
        await crew.balance()
        assert len({id(process) for process in apart}) == len(apart) == moved


def test_the_share_settles_where_both_are_busy_alike() -> None:
    """Also where the others are heard a step late: of long streams the run makes half, of small answers next to none."""
    for costs in ((60.0, 830.0), (33.0, 36.0)):
        decide, send = costs
        share, late = SHARE, 1.0
        for _ in range(40):
            own = 1 / (1 + share)
            ours, theirs = decide + send * own, send * (1 - own)
            share, late = shared(share, ours, late), theirs
        assert share in SHARES or abs(ours - theirs) < 0.05 * theirs


def test_a_share_stays_within_reason() -> None:
    assert [shared(8, 1.0, 0.01), shared(60, 1.0, 0.5), shared(8, 0.01, 1.0), shared(1.5, 0.1, 1.0)] == [16, 64, 4, 1]


@pytest.mark.usefixtures("tasks")
async def test_the_workers_say_how_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_room, "TICK", 0.0)
    async with complete(2) as crew:
        await come(lambda: [us.rss > 0 for us in crew.vitals()] == [True, True])
        both = crew.vitals()
        assert all(place.busy > 0 for place in crew._places)
    run = Ourselves(lag=0.1, cpu=0.5, rss=1000, fds=5, most_fds=64, disk=0.25)
    assert together(run, []) == run
    seen = together(run, [Ourselves(lag=0.2, rss=20, fds=7), Ourselves(cpu=0.9, rss=3)])
    assert seen == Ourselves(lag=0.2, cpu=0.9, rss=1023, fds=7, most_fds=64, disk=0.25)
    assert together(run, both).rss == 1000 + sum(us.rss for us in both)


# ---- the crew over workers that die by plan, in virtual time ----


class Mortal:
    """In the place of a channel: a worker that answers, or dies with whatever it has in hand, as the plan says."""

    chance: Random
    mortality: float
    asked: list[int]

    def __init__(self, hear: Callable[[Any], object], lost: Callable[[], object]) -> None:
        self._hear = hear
        self._lost = lost
        self._dead = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def over(cls, _end: object, _decoder: object, hear: Any, lost: Any) -> "Mortal":
        return cls(hear, lost)

    def say(self, message: Any) -> None:
        if isinstance(message, Opening):
            self._later(self._hear, Ready())
        elif isinstance(message, Send):
            type(self).asked.append(message.attempt.request.line)
            if self.chance.random() < self.mortality:
                self._loop.call_later(self.chance.random(), self._die)
            else:
                self._later(self._hear, Answered(message.number, classify(message.attempt, good())))

    def close(self) -> None:
        self._dead = True

    def _later(self, act: Callable[..., object], message: object) -> None:
        self._loop.call_later(self.chance.random(), lambda: None if self._dead else act(message))

    def _die(self) -> None:
        if not self._dead:
            self._dead = True
            self._lost()


@contextmanager
def mortal(seed: int, mortality: float) -> Iterator[type[Mortal]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew_room, "Channel", Mortal)
        patch.setattr(crew_room, "started", lambda *_, **__: (None, None))
        Mortal.chance, Mortal.mortality, Mortal.asked = Random(seed), mortality, []
        yield Mortal


async def our_own(_attempt: Attempt) -> Reply:
    """The run's own connections."""
    await asyncio.sleep(0.5)
    return good()


async def run_over(count: int, lines: int, ready: bool = False) -> tuple[MemorySink, FileError | None]:
    """A run of so many lines over a crew; the sink, and what ended the run early. `ready`: it begins when the workers are up."""
    sink = MemorySink()
    async with Crew(count, OPENING, {}) as crew:
        while ready and len(crew._up) < count:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
        requests = [chat(line) for line in range(1, lines + 1)]
        engine = engine_for(requests, our_own, workers=crew, sink=sink, chance=lambda: 0.5)
        try:
            await engine.run([Chore(TEND_EVERY, crew.tend)])
        except FileError as error:
            assert asyncio.get_running_loop().time() < 1000.0 + engine._grace, "nobody waits for a worker that will not come"
            return sink, error
    return sink, None


@given(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from([0.0, 0.02, 0.1]))
@settings(max_examples=40, deadline=None)
@example(6591, 2, 0.1)  # it ended with some that waited for a worker
def test_every_line_has_one_result_whoever_dies_when(seed: int, count: int, mortality: float) -> None:
    with mortal(seed, mortality):
        sink, failure = run_virtual(lambda: run_over(count, 60))
    lines = [result.request.line for result in sink.results]
    assert len(lines) == len(set(lines))
    assert failure or sorted(lines) == list(range(1, 61))
    assert set(lines) <= set(range(1, 61))
    for result in sink.results:
        assert result.kind is Kind.OK or (result.kind is Kind.CRASHED and result.attempts > 4)
        assert result.maybe_billed == result.attempts - (result.kind is Kind.OK)


def test_where_worker_after_worker_dies_the_run_ends_in_order() -> None:
    with mortal(1, 1.0):
        sink, failure = run_virtual(lambda: run_over(2, 4000))
    assert failure
    assert (failure.code, failure.exit_code, f"{DEATHS} worker processes" in failure.message) == ("E407", 4, True)
    assert {result.kind for result in sink.results} == {Kind.OK}, "what the run itself has sent meanwhile"
    assert len(sink.results) < 4000


def test_a_worker_that_is_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        """A process that hears nothing; when it is killed its end of the pair closes."""

        def kill(self) -> None:
            seen.append(asyncio.get_running_loop().time())
            channels[0]._die()

    class Mute(Mortal):
        def __init__(self, *ends: Any) -> None:
            super().__init__(*ends)
            channels.append(self)
            self.mute = len(channels) == 1

        def say(self, message: Any) -> None:
            if not self.mute or isinstance(message, Opening):
                super().say(message)

    seen: list[float] = []
    channels: list[Mute] = []
    Mortal.chance, Mortal.mortality, Mortal.asked = Random(1), 0.0, []
    monkeypatch.setattr(crew_room, "Channel", Mute)
    monkeypatch.setattr(crew_room, "started", lambda *_, **__: (None, Stopped()))
    monkeypatch.setattr(crew_room, "_farewell", lambda _process: asyncio.sleep(0))
    sink, failure = run_virtual(lambda: run_over(1, 8, ready=True))
    assert failure is None
    assert [(result.kind, result.attempts, result.maybe_billed) for result in sink.results] == [(Kind.OK, 2, 1)] * 8
    assert [round(at - 1000.0) for at in seen] == [round(SILENT * TEND_EVERY)]


@pytest.mark.parametrize("room", [0, 1])
async def test_no_room_for_a_process(tasks: list[Any], monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """None at all, or not for all that were asked for: those that were started are let go."""
    start = crew_room.started

    def full(*words: str, **more: Any) -> Any:
        if len(tasks) == room:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(*words, **more)

    monkeypatch.setattr(crew_room, "started", full)
    with pytest.raises(FileError, match=r"temporarily unavailable.*E407") as refused:
        async with Crew(2, OPENING, {}):
            pass
    assert "--workers" in refused.value.hint
    await come(lambda: all(task.done() for task in tasks))


def test_no_room_for_the_next_one_ends_the_run_in_order() -> None:
    with mortal(1, 1.0), pytest.MonkeyPatch.context() as patch:
        started: list[int] = []

        def start(*_: object, **__: object) -> tuple[None, None]:
            started.append(1)
            if len(started) > 1:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return None, None

        patch.setattr(crew_room, "started", start)
        sink, failure = run_virtual(lambda: run_over(1, 2000))
    assert failure
    assert (failure.code, len(sink.results) < 2000) == ("E407", True)


# ---- the whole, with processes ----


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


LINES = 2000
FLIGHT = 8


class Gate:
    """A server that holds every answer but the first until it is opened."""

    def __init__(self) -> None:
        self.asked = 0
        self.held: dict[int, asyncio.Event] = {}  # by the port that asked
        self._opened = False

    async def __call__(self, peer: Peer) -> None:
        while True:
            seen = await peer.request()
            self.asked += 1
            self._loop = asyncio.get_running_loop()
            if self.asked > 1 and not self._opened:
                self.held[peer.port] = held = asyncio.Event()
                await held.wait()
            await peer.send(json_reply(200, answer(text=seen.json()["messages"][0]["content"])))

    def shared(self, run: int) -> bool:
        """Whether all that is in flight is in the workers of this run by now; until then it gets an answer itself."""
        theirs = set(chain.from_iterable(map(ports_of, children_of(run))))
        ours = [port for port in list(self.held) if port not in theirs]
        if ours:
            self._loop.call_soon_threadsafe(self.held.pop(ours[0]).set)
        return not ours and len(self.held) == FLIGHT

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._opened = True
        for held in self.held.values():
            held.set()


def write(count: int = LINES) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    made = [{"custom_id": f"r-{n}", "url": "/v1/chat/completions", "body": body} for n in range(count)]
    Path("a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in made))


def start(server: FaultServer, *options: str, **env: str) -> "subprocess.Popen[str]":
    words = [*COMMAND, "a.jsonl", "--base-url", server.url, "-c", str(FLIGHT), "--workers", "3", "--json", *options]
    return subprocess.Popen(
        words, env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Its summary."""
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return json.loads(out) | {"exit_code": process.returncode}


def until(true: Callable[[], object]) -> None:
    """Wait for what must come."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def ids() -> list[str]:
    return sorted(json.loads(raw)["custom_id"] for raw in Path("a.results.jsonl").read_text().splitlines())


EVERY = sorted(f"r-{n}" for n in range(LINES))


def alive(pid: int) -> bool:
    """Whether it runs: one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to; one may be closed while we look, or the process be gone."""
    found = []
    with suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(str(entry.readlink()))
    return found


def ports_of(pid: int) -> list[int]:
    """Those that the process's connections come from."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    held = open_files(pid)
    return [int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in held]


def test_workers_share_the_work_and_are_gone_at_the_end() -> None:
    write()
    gate = Gate()
    with served(FaultServer(gate)) as server:
        process = start(server, OPENAI_API_KEY="sk-canary-0123456789")
        until(partial(gate.shared, process.pid))
        pids = children_of(process.pid)
        assert len(pids) == 2
        for pid in pids:  # P7
            assert b"canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            held = open_files(pid)
            assert not [name for name in held if "/a." in name], "no file of the job, and no lock"
        gate.open()
        out, err = process.communicate(timeout=60)
        assert {seen.headers["Authorization"] for seen in server.requests} == {"Bearer sk-canary-0123456789"}
    summary = json.loads(out)
    assert (process.returncode, summary["succeeded"], summary["attempts"], err.count("Traceback")) == (0, LINES, LINES, 0)
    assert ids() == EVERY
    assert not any(map(alive, pids))
    produced = [path.read_bytes() for path in Path().rglob("*") if path.is_file()]
    assert produced
    assert not any(b"canary" in raw for raw in produced)


def test_workers_are_killed_and_what_they_had_is_sent_again() -> None:
    write()
    gate = Gate()
    with served(FaultServer(gate)) as server:
        process = start(server)
        until(partial(gate.shared, process.pid))
        asked = gate.asked
        for pid in children_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        until(lambda: gate.asked >= asked + FLIGHT)
        gate.open()
        out, _ = process.communicate(timeout=60)
    summary = json.loads(out)
    lost = summary["attempts"] - LINES
    assert (process.returncode, summary["succeeded"], summary["maybe_billed"]) == (0, LINES, lost)
    assert FLIGHT <= lost <= 2 * FLIGHT, "what the second one was given after the death of the first is lost as well"
    assert ids() == EVERY


def test_the_run_is_killed_and_its_workers_end_and_it_continues() -> None:
    write()
    gate = Gate()
    with served(FaultServer(gate)) as server:
        process = start(server)
        until(partial(gate.shared, process.pid))
        pids = children_of(process.pid)
        process.kill()
        process.communicate()
        until(lambda: not any(map(alive, pids)))
        kept = len(ids())
        gate.open()
        assert ended(start(server))["resumed"] == kept > 0
    assert ids() == EVERY


def test_ctrl_c_is_for_the_run_and_in_flight_may_finish() -> None:
    write()
    gate = Gate()
    with served(FaultServer(gate)) as server:
        process = start(server)
        until(partial(gate.shared, process.pid))
        for pid in children_of(process.pid):  # a job scheduler tells every process
            os.kill(pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr
        while "stopping" not in process.stderr.readline():
            pass
        gate.open()
        out, _ = process.communicate(timeout=60)
        summary = json.loads(out)
        assert (process.returncode, summary["succeeded"], summary["pending"]) == (130, gate.asked, LINES - gate.asked)
        assert ended(start(server))["exit_code"] == 0
    assert ids() == EVERY


def test_a_refused_key_stops_all_of_them_at_once() -> None:
    write()
    with served(FaultServer(json_reply(401, {"error": {"message": "no"}}))) as server:
        process = start(server)
        out, _ = process.communicate(timeout=60)
    summary = json.loads(out)
    assert (process.returncode, summary["pending"], "E301" in summary["stopped"]) == (3, LINES, True)


async def echo(peer: Peer) -> None:
    while True:
        await peer.send(json_reply(200, answer(text=(await peer.request()).json()["messages"][0]["content"])))


async def test_the_library_with_rows_and_hooks() -> None:
    """Whatever one process can do, a crew can: hooks and rows stay with the run."""
    with served(FaultServer(echo)) as server:
        rows = [batchrunner.chat(f"q{n}", model="m") for n in range(20)]
        async with batchrunner.Runner(
            base_url=server.url,
            workers=2,
            max_attempts=1,
            prepare=lambda request: request,
            validate=lambda result: "q13" not in result.text,
        ) as runner:
            results = await runner.gather(rows)
    assert [result.text for result in results if result.ok] == [f"q{n}" for n in range(20) if n != 13]
    assert results[13].kind is Kind.INVALID_OUTPUT


@pytest.mark.parametrize("number", ["0", "257", "two"])
def test_how_many_there_may_be(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    from batchrunner.cli import main

    assert main(["a.jsonl", "--workers", number]) == 2
    assert "--workers" in capsys.readouterr().err


def test_a_request_is_an_attempt_again() -> None:
    """What travels is what was sent: no field is forgotten on the way."""
    sent = Send(3, attempt(5, metadata=b'{"a":1}', stream=True, images=2))
    heard = TO_WORKER.decode(packed([sent]))
    assert heard == [sent]
    assert isinstance(heard[0].attempt.request, Request)
