"""The engine on virtual time with scripted endpoints: order, limits, stopping, and that nothing is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from batchrunner.core.model import Attempt, Cause, Event, Fault, Kind, Outcome, Phase, Reply, Request, Result
from batchrunner.core.treatment import DROPPED
from batchrunner.engine import Chore, Engine
from batchrunner.errors import BatchError, FileError
from batchrunner.hooks import Hooks
from tests.virtual import GOOD, WHOEVER, MemorySink, chat, engine_for, good, run_virtual, transport_of

pytestmark = WHOEVER


@pytest.fixture(autouse=True)
def _helped(helped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that holds of the engine holds whoever makes its attempts."""
    monkeypatch.setitem(globals(), "engine_for", partial(engine_for, helped=helped))


async def prompt(_attempt: Attempt) -> Reply:
    await asyncio.sleep(1.0)
    return good()


def lines(results: Iterable[Result]) -> list[int]:
    return sorted(result.request.line for result in results)


def results_of(engine: Engine) -> list[Result]:
    sink = engine.outbox._sink
    assert isinstance(sink, MemorySink)
    return sink.results


def test_every_request_gets_its_result_within_the_limit() -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 101)], prompt, concurrency=10)
        began = asyncio.get_running_loop().time()
        await engine.run()
        assert lines(results_of(engine)) == list(range(1, 101))
        assert all(result.ok for result in results_of(engine))
        transport = transport_of(engine)
        assert transport.most == 10
        assert asyncio.get_running_loop().time() - began == pytest.approx(10.0), "ten rounds of ten, no gap between"

    run_virtual(main)


def test_who_is_cancelled_twice_keeps_what_was_answered() -> None:
    """A stream that is left cancels its run, and so does the program, which ends in the next moment."""

    async def nobody_reads(_result: Result) -> None:
        await asyncio.sleep(3600.0)

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 101)], prompt, deliver=nobody_reads)
        run = asyncio.ensure_future(engine.run())
        await asyncio.sleep(4.5)
        for _ in range(3):
            run.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await run
        assert len(results_of(engine)) == 4 * 8

    run_virtual(main)


@pytest.mark.parametrize("until", [0.0, 5.0])
def test_a_backlog_that_only_an_endpoint_out_of_use_would_serve_ends_the_run(until: float) -> None:
    """The last line that fits in is one of these, and what was asked of the other has all ended."""

    async def refusing(attempt: Attempt) -> Reply:
        served = asyncio.get_running_loop().time() - 1000.0 < until
        return await prompt(attempt) if served else Reply(401, {}, b'{"error":{"message":"bad key","code":"invalid_api_key"}}')

    async def main() -> None:
        rows = [chat(n, model="ab"[n % 2]) for n in range(1, 1001)]
        engine = engine_for(rows, prompt, refusing, mapped=True)
        async with asyncio.timeout(10_000):
            await engine.run()
        assert engine.stopping.startswith("b: bad key")
        assert engine.scheduler.open == 100
        assert all(result.ok for result in results_of(engine))

    run_virtual(main)


def test_a19_the_work_goes_to_the_endpoint_that_is_not_slow() -> None:
    async def slow(_attempt: Attempt) -> Reply:
        await asyncio.sleep(20.0)
        return good()

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 401)], slow, prompt, max_open=400)
        await engine.run()
        counts = Counter(result.endpoint for result in results_of(engine))
        assert counts.total() == 400
        assert counts["b"] > 0.9 * 400

    run_virtual(main)


def test_a_pause_sends_nothing_new_and_loses_nothing() -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 31)], prompt, concurrency=10)
        transport, loop = transport_of(engine), asyncio.get_running_loop()
        sent: list[int] = []

        async def look() -> None:
            sent.append(engine.scheduler.in_flight)

        loop.call_later(0.5, engine.pause, True)
        loop.call_later(5.5, engine.pause, False)
        began = loop.time()
        await engine.run([Chore(1.2, look)])
        assert sent[:4] == [0, 0, 0, 0], "what was in flight has ended, and nothing followed it"
        assert lines(results_of(engine)) == list(range(1, 31))
        assert loop.time() - began == pytest.approx(5.5 + 2.0)
        assert transport.most == 10

    run_virtual(main)


def test_the_user_may_set_the_concurrency_of_a_run_under_way() -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 71)], prompt, concurrency=10)
        transport, loop = transport_of(engine), asyncio.get_running_loop()
        loop.call_later(0.5, engine.refit, 20)
        began = loop.time()
        await engine.run()
        assert transport.most == 20
        assert loop.time() - began < 5.0, "7 rounds of ten would be 7 s"

    run_virtual(main)


def test_an_empty_source_ends_at_once() -> None:
    async def main() -> None:
        engine = engine_for([], prompt)
        await engine.run()
        assert results_of(engine) == []

    run_virtual(main)


def test_an_invalid_line_is_recorded_and_stops_nothing() -> None:
    async def main() -> None:
        bad = Result(request=chat(2), kind=Kind.INVALID)
        engine = engine_for([chat(1), bad, chat(3)], prompt)
        await engine.run()
        assert lines(results_of(engine)) == [1, 2, 3]
        assert [result.kind for result in results_of(engine) if not result.ok] == [Kind.INVALID]

    run_virtual(main)


def test_read_ahead_is_bounded() -> None:
    async def main() -> None:
        seen = 0

        def counted() -> Iterable[Request]:
            nonlocal seen
            for n in range(1000):
                seen += 1
                yield chat(n)

        async def hold(attempt: Attempt) -> Reply:
            await asyncio.sleep(5.0)
            assert seen <= attempt.request.line + 100 + 50, "max_open and one block"
            return good()

        engine = engine_for(counted(), hold, max_open=100)
        await engine.run()
        assert len(results_of(engine)) == 1000

    run_virtual(main)


def test_waiting_retries_hold_no_slot() -> None:
    async def main() -> None:
        async def first_fails(attempt: Attempt) -> Reply:
            await asyncio.sleep(1.0)
            return Reply(500, {}, b"{}") if attempt.number == 1 and attempt.request.line <= 4 else good()

        engine = engine_for([chat(n) for n in range(1, 41)], first_fails, concurrency=4)
        began = asyncio.get_running_loop().time()
        await engine.run()
        assert lines(results_of(engine)) == list(range(1, 41))
        assert asyncio.get_running_loop().time() - began <= 12.0, "44 attempts in rounds of 4"

    run_virtual(main)


def test_a_later_fault_that_is_worse_is_told_as_well() -> None:
    class Full(MemorySink):
        async def put(self, results: Sequence[Result]) -> None:
            self.results.extend(results)
            raise FileError("E404", "Answers are lost." if len(self.results) > 4 else "They go elsewhere.", "make room")

    async def main() -> None:
        async def slower(attempt: Attempt) -> Reply:
            await asyncio.sleep(float(attempt.request.line))
            return good()

        engine = engine_for([chat(n) for n in range(1, 9)], slower, sink=Full())
        with pytest.raises(FileError) as caught:
            await engine.run()
        assert caught.value.message == "They go elsewhere. Answers are lost."

    run_virtual(main)


def test_a_result_is_told_only_after_the_sink_took_it() -> None:
    async def main() -> None:
        sink = MemorySink()
        told: list[int] = []

        def listen(event: Event) -> None:
            if event.result:
                assert event.result in sink.results
                told.append(event.result.request.line)

        engine = engine_for([chat(n) for n in range(20)], prompt, sink=sink, listeners=[listen])
        await engine.run()
        assert sorted(told) == list(range(20))

    run_virtual(main)


def test_drain_lets_attempts_end_and_keeps_the_rest_pending() -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(100)], prompt, concurrency=4)
        asyncio.get_running_loop().call_later(2.5, engine.drain, "test")
        await engine.run()
        assert len(results_of(engine)) == 12, "three rounds: the one under way at the drain ended"
        assert engine.stopping == "test"

    run_virtual(main)


def test_the_grace_ends_what_does_not_end_by_itself() -> None:
    async def main() -> None:
        async def hang(_attempt: Attempt) -> Reply:
            await asyncio.sleep(1e6)
            return good()

        engine = engine_for([chat(n) for n in range(10)], hang, grace=20.0)
        began = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(1.0, engine.drain, "test")
        await engine.run()
        assert asyncio.get_running_loop().time() - began == pytest.approx(21.0)
        assert results_of(engine) == []
        assert engine.scheduler.in_flight == 0

    run_virtual(main)


def test_cancelling_the_run_settles_everything_and_propagates() -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(10)], prompt)
        task = asyncio.ensure_future(engine.run())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.scheduler.in_flight == 0
        assert engine.scheduler.open == 10

    run_virtual(main)


@pytest.mark.parametrize("dropping", [Engine.drop, partial(Engine.drain, reason="test")], ids=["dropped", "drained"])
def test_what_the_end_cuts_off_is_told_and_may_be_billed_if_it_was_sent(dropping: Callable[[Engine], None], helped: Any) -> None:
    """Once, by a second Ctrl-C as by the end of the grace; what was still connecting has cost nothing.

    How far an attempt of a worker was, nobody waits to hear.
    """
    seen: list[Event] = []

    async def hang(attempt: Attempt) -> Reply:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            if attempt.request.line == 2:
                raise asyncio.CancelledError(Phase.CONNECT) from None
            raise
        return good()

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(10)], hang, concurrency=3, grace=1.0, listeners=[seen.append])
        asyncio.get_running_loop().call_later(1.0, dropping, engine)
        await engine.run()
        assert (engine.scheduler.in_flight, engine.scheduler.open) == (0, 10)

    run_virtual(main)
    told = {event.attempt.request.line: event.outcome for event in seen if event.attempt and event.outcome}
    assert len(seen) == len(told) == 3
    assert {(outcome.kind, outcome.message) for outcome in told.values()} == {(Kind.CANCELLED, DROPPED)}
    assert {line: outcome.billed for line, outcome in told.items()} == {0: True, 1: True, 2: helped is not None}


def test_an_answer_in_the_moment_of_the_end_is_told_as_well() -> None:
    """A worker brings it, it is to be judged, and before a task has begun with it the run ends."""
    seen: list[Event] = []

    async def accept(_attempt: Attempt, outcome: Outcome) -> Outcome:
        return outcome

    async def main() -> None:
        engine = engine_for([chat(2)], prompt, hooks=Hooks(judge=accept), listeners=[seen.append])
        asyncio.get_running_loop().call_later(0.5, together, engine)
        await engine.run()
        assert (engine.scheduler.in_flight, engine.scheduler.open, results_of(engine)) == (0, 1, [])

    def together(engine: Engine) -> None:
        [attempt] = [entry.sent for entry in engine.scheduler._in_flight.values()]
        assert attempt
        engine.drop()
        if workers := engine._carriers._workers:
            workers.drop(2, 1)
            engine._carriers._returned(attempt, Outcome(Kind.OK, 200, body=GOOD))

    run_virtual(main)
    assert [(event.outcome.kind, event.outcome.billed) for event in seen if event.outcome] == [(Kind.CANCELLED, True)]


def test_a_full_disk_ends_the_run_and_lets_paid_answers_reach_the_sink() -> None:
    class Full(MemorySink):
        async def put(self, results: Sequence[Result]) -> None:
            await super().put(results)
            if len(self.results) == 8:
                raise FileError("E404", "disk full")

    async def main() -> None:
        sink = Full()
        engine = engine_for([chat(n) for n in range(100)], prompt, concurrency=4, sink=sink)
        with pytest.raises(FileError):
            await engine.run()
        assert len(sink.results) == 12, "the other four in flight were still delivered"

    run_virtual(main)


def test_a_bug_of_ours_ends_the_run_so_that_it_can_be_gone_on_with() -> None:
    async def broken() -> None:
        raise KeyError("secret")

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1000)], prompt)
        with pytest.raises(BatchError) as caught:
            await engine.run([Chore(1.0, broken)])
        assert (caught.value.code, caught.value.exit_code) == ("E901", 4)
        assert "secret" not in str(caught.value)
        assert len(results_of(engine)) < 1000

    run_virtual(main)


def test_a_stopped_endpoint_ends_the_run_with_its_words() -> None:
    async def main() -> None:
        async def denied(_attempt: Attempt) -> Reply:
            return Reply(401, {}, b'{"error":{"message":"Incorrect API key","code":"invalid_api_key"}}')

        engine = engine_for([chat(n) for n in range(100)], denied, concurrency=4)
        await engine.run()
        assert "Incorrect API key" in engine.stopping
        assert results_of(engine) == []
        assert len(transport_of(engine).attempts) <= 4 + 2, "those in flight, and two more"

    run_virtual(main)


def test_work_moves_to_the_second_endpoint() -> None:
    async def main() -> None:
        async def broke(_attempt: Attempt) -> Reply:
            return Reply(429, {}, b'{"error":{"message":"no money","code":"insufficient_quota"}}')

        engine = engine_for([chat(n) for n in range(30)], broke, prompt)
        await engine.run()
        assert {result.endpoint for result in results_of(engine)} == {"b"}
        assert len(results_of(engine)) == 30

    run_virtual(main)


def test_a_bug_in_a_transport_fails_the_line_not_the_pool() -> None:
    async def main() -> None:
        async def buggy(attempt: Attempt) -> Reply:
            if attempt.request.line == 3:
                raise ZeroDivisionError
            return await prompt(attempt)

        engine = engine_for([chat(n) for n in range(1, 11)], buggy, concurrency=2)
        await engine.run()
        assert lines(result for result in results_of(engine) if result.ok) == [1, 2, *range(4, 11)]
        assert lines(results_of(engine)) == list(range(1, 11))

    run_virtual(main)


def test_a_bug_in_what_follows_an_answer_ends_the_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 1001)], prompt)
        settle = engine.scheduler.settle

        def broken(attempt: Attempt, *rest: Any) -> Any:
            if attempt.request.line == 20:
                raise KeyError("secret")
            return settle(attempt, *rest)

        monkeypatch.setattr(engine.scheduler, "settle", broken)
        with pytest.raises(BatchError) as caught:
            await engine.run()
        assert (caught.value.code, "secret" in str(caught.value)) == ("E901", False)
        assert 16 < len(results_of(engine)) < 40, "what was under way"

    run_virtual(main)


def test_every_outcome_is_judged_in_its_time() -> None:
    judged: list[int] = []

    async def judge(attempt: Attempt, outcome: Outcome) -> Outcome:
        await asyncio.sleep(0.5)
        judged.append(attempt.request.line)
        return replace(outcome, kind=Kind.GARBLED) if attempt.request.line == 3 and attempt.number == 1 else outcome

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 21)], prompt, concurrency=4, hooks=Hooks(judge=judge))
        began = asyncio.get_running_loop().time()
        await engine.run()
        assert sorted(judged) == sorted([3, *range(1, 21)])
        assert {result.request.line: result.attempts for result in results_of(engine)} == {n: 1 + (n == 3) for n in range(1, 21)}
        assert asyncio.get_running_loop().time() - began >= 5 * 1.5, "an answer that is being judged holds its slot"

    run_virtual(main)


def test_what_waits_for_a_slow_sink_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(MemorySink):
        async def put(self, results: Sequence[Result]) -> None:
            most.append(len(results))
            await asyncio.sleep(100.0)
            await super().put(results)

    async def main() -> None:
        engine = engine_for([chat(n) for n in range(1, 101)], prompt, concurrency=4, sink=Slow())
        await engine.run()
        assert lines(results_of(engine)) == list(range(1, 101))

    most: list[int] = []
    monkeypatch.setattr("batchrunner.outbox.MOST", 10)
    run_virtual(main)
    assert 10 <= max(most) < 10 + 4, "those that were under way when it was full"


def test_prepare_changes_requests_and_its_faults_fail_one_line() -> None:
    async def main() -> None:
        async def prepare(request: Request) -> Request:
            if request.line == 2:
                raise ValueError("no")
            return chat(request.line, body=b'{"model":"other"}')

        engine = engine_for([chat(1), chat(2)], prompt, hooks=Hooks(prepare=prepare))
        await engine.run()
        first, second = sorted(results_of(engine), key=lambda result: result.request.line)
        assert first.request.body == b'{"model":"other"}'
        assert second.kind is Kind.HOOK

    run_virtual(main)


def test_chores_run_at_their_intervals_and_their_faults_end_the_run() -> None:
    async def main() -> None:
        turns = 0

        async def chore() -> None:
            nonlocal turns
            turns += 1
            if turns == 4:
                raise FileError("E404", "fsync failed")

        engine = engine_for([chat(n) for n in range(1000)], prompt)
        with pytest.raises(FileError):
            await engine.run([Chore(1.0, chore)])
        assert turns == 4

    run_virtual(main)


@pytest.mark.parametrize("seed", range(40))
def test_storms_lose_nothing(seed: int) -> None:
    """Random faults of every sort, many seeds: each line ends in exactly one result, and only honest successes are successes."""

    async def main() -> None:
        chance = random.Random(seed)

        async def storm(_attempt: Attempt) -> Reply | Fault:
            await asyncio.sleep(chance.lognormvariate(-1.0, 0.8))
            draw = chance.random()
            if draw < 0.05:
                return Fault(Cause.DISCONNECTED, Phase.FIRST_BYTE, "gone")
            if draw < 0.10:
                return Reply(429, {"retry-after": "1"}, b"{}")
            if draw < 0.15:
                return Reply(200, {}, GOOD[: chance.randrange(len(GOOD))])
            if draw < 0.20:
                return Reply(503, {}, b"busy")
            if draw < 0.22:
                return Fault(Cause.TIMEOUT, Phase.FIRST_BYTE, "late")
            return good()

        engine = engine_for([chat(n) for n in range(300)], storm, concurrency=16, chance=chance.random)
        await engine.run()
        assert lines(results_of(engine)) == list(range(300))
        assert all(result.body == GOOD for result in results_of(engine) if result.ok)
        assert sum(result.ok for result in results_of(engine)) >= 298

    run_virtual(main)
