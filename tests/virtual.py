"""Virtual time for the engine: a loop whose clock jumps to the next timer, a transport that obeys a script, a sink in memory."""

import asyncio
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import pytest

from batchrunner.core.classify import broken_off, classify
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.hedging import Hedging
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Fault, Kind, Outcome, Reply, Request, Result, Route
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from batchrunner.engine import Engine
from batchrunner.wire import Review


class _Jump(selectors.SelectSelector):
    """A selector that never waits: it moves the clock on instead."""

    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: nothing is due and nothing can happen")
        if not ready and timeout:
            self._loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a clock that costs nothing."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


def run_virtual(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def chat(line: int, **changes: Any) -> Request:
    """A small chat request."""
    fields: dict[str, Any] = {
        "line": line,
        "id": f"r-{line}",
        "digest": f"{line:016x}",
        "route": Route.CHAT,
        "path": "/v1/chat/completions",
        "body": b'{"model":"m"}',
        "model": "m",
    }
    return Request(**(fields | changes))


GOOD = (
    b'{"id":"x","choices":[{"index":0,"message":{"content":"yes"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)


def good() -> Reply:
    return Reply(200, {}, GOOD)


Script = Callable[[Attempt], Awaitable[Reply | Fault]]


class ScriptedTransport:
    """Answers by script; keeps count of what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.attempts: list[Attempt] = []
        self.in_flight = self.most = 0

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault:
        self.attempts.append(attempt)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            return await self.script(attempt)
        finally:
            self.in_flight -= 1


class ScriptedWorkers:
    """Make some of the attempts in the place of the engine's own tasks, as the same scripts say."""

    def __init__(self, transports: Mapping[str, ScriptedTransport], takes: Callable[[Attempt], bool]) -> None:
        self._transports = transports
        self._takes = takes
        self._making: dict[tuple[int, int], tuple[Attempt, asyncio.Task[None]]] = {}

    def serve(self, review: Review, ended: Callable[[Attempt, Outcome], None]) -> None:
        self._review, self._ended = review, ended

    def take(self, attempt: Attempt, in_flight: int) -> bool:
        assert in_flight > len(self._making)
        if taken := self._takes(attempt):
            task = asyncio.get_running_loop().create_task(self._make(attempt))
            self._making[attempt.request.line, attempt.number] = attempt, task
        return taken

    async def _make(self, attempt: Attempt) -> None:
        try:
            outcome = classify(attempt, await self._transports[attempt.endpoint].send(attempt, self._review))
        except Exception as bug:
            outcome = broken_off(bug)
        del self._making[attempt.request.line, attempt.number]
        self._ended(attempt, outcome)

    def drop(self, line: int, number: int) -> Attempt | None:
        attempt, task = self._making.pop((line, number), (None, None))
        if task:
            task.cancel()
        return attempt

    def drop_all(self) -> list[Attempt]:
        return [attempt for line, number in list(self._making) if (attempt := self.drop(line, number))]


def by_turns(attempt: Attempt) -> bool:
    """Workers make half of the attempts."""
    return bool((attempt.request.line + attempt.number) % 2)


def always(_attempt: Attempt) -> bool:
    """Workers make all attempts."""
    return True


WHOEVER = pytest.mark.parametrize("helped", [None, by_turns, always], ids=["own tasks", "both", "workers"])
"""Whoever makes the attempts of an engine."""


class MemorySink:
    def __init__(self) -> None:
        self.results: list[Result] = []

    async def put(self, results: Sequence[Result]) -> None:
        self.results.extend(results)


async def blocks(items: Iterable[Request | Result], size: int = 50) -> AsyncIterator[list[Request | Result]]:
    block: list[Request | Result] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    yield block


def endpoint(name: str = "a", concurrency: int = 8, models: Mapping[str, str] = {}) -> Endpoint:
    return Endpoint(name, f"http://{name}/v1", Limit(Concurrency(concurrency=concurrency)), models=models)


def engine_for(
    items: Iterable[Request | Result],
    *scripts: Script,
    concurrency: int = 8,
    max_open: int = 100,
    hedge: str = "",
    max_attempts: int = 8,
    mapped: bool = False,
    helped: Callable[[Attempt], bool] | None = None,
    **options: Any,
) -> Engine:
    """An engine over scripted endpoints a, b, …, each for the model of its name if they are `mapped`; call inside a loop.

    `helped` tells which attempts are made by workers.
    """
    names = "abcdefgh"[: len(scripts)]
    lanes = [endpoint(name, concurrency, {name: name} if mapped else {}) for name in names]
    hedging = Hedging(hedge=hedge)
    scheduler = Scheduler(lanes, Retries(max_attempts=max_attempts), Timeouts(), max_open, hedging=hedging)
    transports = {name: ScriptedTransport(script) for name, script in zip(names, scripts, strict=True)}
    return Engine(
        source=blocks(items),
        scheduler=scheduler,
        transports=transports,
        workers=ScriptedWorkers(transports, helped) if helped else options.pop("workers", None),
        sink=options.pop("sink", None) or MemorySink(),
        **options,
    )


def transport_of(engine: Engine, name: str = "a") -> ScriptedTransport:
    """What the engine sends to this endpoint with."""
    transport = engine._carriers._transports[name]
    assert isinstance(transport, ScriptedTransport)
    return transport


class Ran(NamedTuple):
    """What became of a run: its failures, how often each line was sent, and seconds; the words of one failure."""

    failed: dict[int, Kind]
    sent: Counter[int]
    took: float
    words: str


def ran(lines: int, script: Script, concurrency: int = 8, seed: int = 1) -> Ran:
    """What became of so many lines when nothing stopped them, as a script answers."""

    async def main() -> Ran:
        sink, sent, chance = MemorySink(), Counter[int](), Random(seed)

        async def counted(attempt: Attempt) -> Reply:
            sent[attempt.request.line] += 1
            answer = await script(attempt)
            assert isinstance(answer, Reply)
            return answer

        rows = [chat(n) for n in range(1, lines + 1)]
        engine = engine_for(rows, counted, concurrency=concurrency, max_open=1000, chance=chance.random, sink=sink)
        async with asyncio.timeout(100_000):
            await engine.run()
        assert (engine.stopping, len(sink.results)) == ("", lines)
        failed = {result.request.line: result for result in sink.results if not result.ok}
        words = next((result.error.message for result in failed.values() if result.error), "")
        kinds = {line: result.kind for line, result in failed.items()}
        return Ran(kinds, sent, asyncio.get_running_loop().time() - 1000.0, words)

    outcome: Ran = run_virtual(main)
    return outcome


def poison(lines: Collection[int], refusal: Reply, seconds: float = 0.05) -> Script:
    """These lines are always turned away."""

    async def script(attempt: Attempt) -> Reply:
        await asyncio.sleep(seconds)
        return refusal if attempt.request.line in lines else good()

    return script
