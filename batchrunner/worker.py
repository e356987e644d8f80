"""A worker: a process that holds connections for a run and makes attempts on them.

    python -m batchrunner.worker DESCRIPTOR      the number of the inherited end of a socket pair

Rules:

1. It decides nothing. Which attempt is made, when, for how long, and what follows, the run says (`crew`); a worker speaks HTTP
   and says what each answer amounts to.
2. Signals are the run's affair. When the run has gone, a worker ends at once.
3. A task makes one attempt after the other: one for each attempt would cost more than the sending of it.
4. No key is on its command line, in a file or in a frame: it is in the environment that a worker inherits.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn, cast

from msgspec import Struct

from batchrunner.channel import TO_WORKER, Answered, Asked, Cancel, Channel, Granted, Opening, Pulse, Ready, Send
from batchrunner.core.classify import broken_off, classify
from batchrunner.core.model import Attempt, Phase
from batchrunner.loop import run_loop, tune
from batchrunner.transport import Transport
from batchrunner.vitals import Demand, Vitals
from batchrunner.ways import Ways

DEAF = ("SIGINT", "SIGTERM", "SIGHUP")
LOOK = 0.02  # seconds until an attempt asks again that has asked for more time
LEAST = 0.001
TICK = 0.25  # seconds between two pulses


class _Question(Struct, gc=False):
    """An attempt has asked for more time, in a wait that began at `began`."""

    phase: str
    began: float
    asked: float
    granted: float | None = None


class Worker:
    """One worker. `await run(end)` does not return."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Future[Opening] = self._loop.create_future()
        self._transports: dict[str, Transport] = {}
        self._attempts: dict[int, asyncio.Task[None]] = {}
        self._idle: list[tuple[asyncio.Task[None], asyncio.Future[Send]]] = []
        self._questions: dict[int, _Question] = {}
        self._answers: Mapping[type, Callable[[Any], object]] = {
            Opening: self._opening.set_result,
            Send: self._send,
            Cancel: self._cancel,
            Granted: self._granted,
        }

    async def run(self, end: socket.socket) -> None:
        """Serve the run at the other end of the pair until it has gone."""
        self._channel = await Channel.over(end, TO_WORKER, self._hear, _gone)
        opening = await self._opening
        async with AsyncExitStack() as stack:
            stack.callback(self._rest)
            ways = Ways(opening.service, opening.connection, os.environ)
            for name, transport in ways.transports(opening.urls).items():
                self._transports[name] = await stack.enter_async_context(transport)
            self._channel.say(Ready())
            vitals, demand = Vitals(self._loop.time, TICK), Demand(self._loop.time)
            while True:
                await asyncio.sleep(TICK)
                vitals.tick()
                self._channel.say(Pulse(vitals.taken(), demand.taken()))

    def _rest(self) -> None:
        """Nothing more will come."""
        for task, _ in self._idle:
            task.cancel()

    def _hear(self, message: Any) -> None:
        self._answers[type(message)](message)

    def _send(self, message: Send) -> None:
        if self._idle:
            task, following = self._idle.pop()
            following.set_result(message)
        else:
            task = self._loop.create_task(self._carry(message))
        self._attempts[message.number] = task

    def _cancel(self, message: Cancel) -> None:
        if task := self._attempts.pop(message.number, None):
            task.cancel()  # it makes no other attempt any more

    def _granted(self, message: Granted) -> None:
        if question := self._questions.get(message.number):
            question.granted = message.seconds

    async def _carry(self, message: Send) -> None:
        """Make this attempt, and then each that comes when there is nothing to do."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while True:
            await self._make(message.number, message.attempt)
            following: asyncio.Future[Send] = self._loop.create_future()
            self._idle.append((task, following))
            message = await following

    async def _make(self, number: int, attempt: Attempt) -> None:
        try:
            answer = await self._transports[attempt.endpoint].send(attempt, partial(self._review, number))
            outcome = classify(attempt, answer)
        except Exception as bug:  # noqa: BLE001 - a bug in one attempt must not cost the others theirs
            outcome = broken_off(bug)
        finally:
            self._attempts.pop(number, None)
            self._questions.pop(number, None)
        self._channel.say(Answered(number, outcome))

    def _review(self, number: int, _attempt: Attempt, phase: Phase, age: float) -> float:
        """How much longer to wait, as the run says; until it has said so, a moment."""
        now = self._loop.time()
        question = self._questions.get(number)
        if question is None or question.phase != phase or question.began < now - age - LEAST:
            self._questions[number] = _Question(phase, now - age, now)
            self._channel.say(Asked(number, phase, age))
            return LOOK
        if question.granted is None:
            return LOOK
        del self._questions[number]
        return max(LEAST, question.asked + question.granted - now) if question.granted else 0.0


def _gone() -> NoReturn:
    """The run has gone: whatever is under way is nobody's any more."""
    os._exit(0)


def main(descriptor: str) -> None:
    """The whole life of a worker."""
    for name in DEAF:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    tune()

    async def serve() -> None:
        await Worker().run(socket.socket(fileno=int(descriptor)))

    run_loop(serve())


if __name__ == "__main__":
    main(sys.argv[1])
