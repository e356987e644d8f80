"""Results as they arrive, on virtual time: what is sent once nobody reads any more, and when the run has ended."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from batchrunner.arrivals import READ_AHEAD, Arrivals, Task, vacated
from batchrunner.core.model import Attempt, Reply, Result
from batchrunner.engine import Engine
from batchrunner.errors import BatchError, StopError
from batchrunner.outbox import Deliver
from tests.virtual import ScriptedTransport, chat, engine_for, good, run_virtual, transport_of

AT_ONCE = 8


class Sending:
    """A run of so many requests, one second each, and what it sends."""

    def __init__(self, count: int, wrong: BatchError | None = None) -> None:
        self.count = count
        self.wrong = wrong
        self.ended = False
        self.runs: set[Task] = set()
        self.engine: Engine

    async def __call__(self, deliver: Deliver) -> None:
        async def prompt(_attempt: Attempt) -> Reply:
            await asyncio.sleep(1.0)
            return good()

        self.engine = engine_for((chat(n + 1) for n in range(self.count)), prompt, concurrency=AT_ONCE, deliver=deliver)
        try:
            await self.engine.run()
            if self.wrong:
                raise self.wrong
        finally:
            await asyncio.sleep(5.0)  # it takes its time to put its files in order
            self.ended = True

    def stream(self) -> Arrivals:
        return Arrivals(self, self.runs, Path("out.run"))

    @property
    def transport(self) -> ScriptedTransport:
        return transport_of(self.engine)

    @property
    def sent(self) -> int:
        return len(self.transport.attempts)


async def read(stream: Arrivals, most: int) -> list[Result]:
    results: list[Result] = []
    async for result in stream:
        results.append(result)
        if len(results) == most:
            break
    return results


async def by_break(sending: Sending) -> None:
    await read(sending.stream(), 5)


async def by_an_exception(sending: Sending) -> None:
    async def work() -> None:
        async for result in sending.stream():
            raise KeyError(result.id)

    with pytest.raises(KeyError):
        await work()


async def by_closing(sending: Sending) -> None:
    stream = sending.stream()
    await anext(stream)
    await stream.aclose()
    assert sending.ended
    assert await read(stream, 1) == []


async def by_cancelling_while_it_waits(sending: Sending) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(sending.stream(), sending.count), 1.5)
    assert sending.ended


async def by_cancelling_while_it_works(sending: Sending) -> None:
    async def work() -> None:
        async for _result in sending.stream():
            await asyncio.sleep(10.0)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 1.5)


async def by_a_collector_in_another_thread(sending: Sending) -> None:
    asyncio.get_running_loop().set_debug(True)  # then a loop minds what comes from another thread unannounced
    stream = sending.stream()
    await anext(stream)
    ring: list[object] = [stream]
    ring.append(ring)
    del stream, ring
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("leave", WAYS)
def test_whoever_leaves_a_stream_ends_its_run(leave: Callable[[Sending], Awaitable[None]]) -> None:
    async def main() -> None:
        sending = Sending(1000)
        await leave(sending)
        sent = sending.sent
        await vacated(Path("out.run").resolve())
        assert sending.ended
        assert sending.sent == sent <= 2 * AT_ONCE, "nothing more is sent"
        assert not sending.transport.in_flight
        assert not sending.runs
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


def test_who_waits_for_a_stream_that_another_closes_has_read_all() -> None:
    async def main() -> None:
        stream = Sending(1000).stream()
        reading = asyncio.ensure_future(read(stream, 1000))
        await asyncio.sleep(1.5)
        await stream.aclose()
        assert len(await reading) == AT_ONCE

    run_virtual(main)


def test_only_a_run_that_was_left_is_waited_for() -> None:
    async def main() -> None:
        held, elsewhere = Sending(1000), Sending(1000)
        stream = held.stream()
        await anext(stream)
        await read(elsewhere.stream(), 5)
        now = asyncio.get_running_loop().time()
        await vacated(Path("other.run"))
        assert (held.ended, elsewhere.ended, asyncio.get_running_loop().time()) == (False, False, now)
        assert len(await read(stream, 500)) == 500, "a loop that is broken off may go on with a stream that it holds"
        await stream.aclose()

    run_virtual(main)


def test_the_next_run_in_another_thread_does_not_wait() -> None:
    async def main() -> None:
        sending = Sending(1000)
        await by_break(sending)
        thread = threading.Thread(target=run_virtual, args=[lambda: vacated(Path("out.run"))])
        thread.start()
        thread.join()
        assert not sending.ended
        await vacated(Path("out.run"))

    run_virtual(main)


def test_a_stream_that_nobody_begins_sends_nothing() -> None:
    async def main() -> None:
        sending = Sending(10)
        stream = sending.stream()
        await asyncio.sleep(60.0)
        await stream.aclose()
        assert await read(stream, 1) == []
        assert not hasattr(sending, "engine")

    run_virtual(main)


def test_a_slow_reader_slows_the_run_and_misses_nothing() -> None:
    async def main() -> None:
        sending = Sending(3000)
        stream = sending.stream()
        first = await anext(stream)
        await asyncio.sleep(3600.0)
        assert READ_AHEAD < sending.sent < 2000
        rest = await read(stream, 3000)
        assert sorted(result.request.line for result in [first, *rest]) == list(range(1, 3001))

    run_virtual(main)


def test_several_may_read_and_what_ends_the_run_is_raised_once() -> None:
    async def main() -> None:
        stream = Sending(100, BatchError("E404", "the disk is full")).stream()
        read_by = await asyncio.gather(*(read(stream, 1000) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in read_by].count(BatchError) == 1
        assert await read(stream, 1) == []

    run_virtual(main)


def test_who_reads_on_after_a_cancelled_wait_gets_what_had_come_and_is_told_that_it_is_not_all() -> None:
    async def main() -> None:
        sending = Sending(100)
        stream = sending.stream()
        assert len(await read(stream, AT_ONCE - 1)) == AT_ONCE - 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(stream, 2), 0.5)
        assert sending.ended
        with pytest.raises(StopError, match=r"a wait for a result was cancelled, .* \[E303\]"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run_virtual(main)
