"""One exchange on the wire: its phase and its deadlines.

Rules:

1. One clock per exchange. A timer is set once and, when it rings early, set again: never one per chunk.
2. Our deadline cancels the task and takes the cancellation back, as `asyncio.timeout` does;
   a cancellation from outside always gets through.
3. A timer that rings late was rung by a loop that was held up, perhaps by a stop of the whole process: the answer may lie in its
   socket, and is read before anything is given up.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from math import inf
from typing import Protocol

from batchrunner.core.model import Attempt, Deadlines, Phase, Timing
from batchrunner.core.stream import Assembled

Review = Callable[[Attempt, Phase, float], float]

EARLY = 0.001  # uvloop rings on whole milliseconds, up to half of one too soon
LATE = 0.1  # seconds by which a busy loop does not ring late
CATCH_UP = 1.0  # seconds that reading takes at most after a longer hold-up: thousands of answers may have come

_LIMIT: dict[Phase, tuple[str, Callable[[Deadlines], float]]] = {
    Phase.CONNECT: ("connect", lambda deadlines: deadlines.connect),
    Phase.FIRST_BYTE: ("first byte", lambda deadlines: deadlines.first_byte),
    Phase.BODY: ("idle", lambda deadlines: deadlines.idle),
}


class Head(Protocol):
    """The head of a reply: aiohttp's response, or a `core.whole.Whole`."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its fields; a name may come twice among the items."""


class Streamed(Protocol):
    """An answer that comes event by event (`reception.Stream`)."""

    @property
    def over(self) -> bool:
        """Whether it is at its end."""

    def feed(self, chunk: bytes) -> bool:
        """Take some bytes; True when the model has got on."""

    def finish(self) -> Assembled:
        """What has come so far."""


class Exchange:
    """One attempt while it is on the wire: where it stands, how long it may stand there, what has come so far.

    It begins as if on a reused connection; `connecting` corrects that when a new one is made. A stream has begun with its
    first sign of progress, not with its head, which many servers send before the model is free.
    """

    __slots__ = (
        "_cancels",
        "_excused",
        "_granted",
        "_loop",
        "_review",
        "_rings",
        "_settled",
        "_task",
        "_timer",
        "_total",
        "attempt",
        "body",
        "connected",
        "gap",
        "head",
        "idle",
        "late",
        "phase",
        "response",
        "reused",
        "since",
        "started",
        "stream",
    )

    def __init__(self, attempt: Attempt, review: Review, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        deadlines = attempt.deadlines
        now = loop.time()
        self.attempt = attempt
        self.phase = Phase.FIRST_BYTE
        self.started = self.connected = self.since = now
        self.head = 0.0  # when the answer began
        self.gap = 0.0
        self.reused = True
        self.idle = inf  # seconds that the connection lay idle before, where that is known
        self.response: Head | None = None
        self.body: bytearray | None = None  # what has come of a body that did not come with its head
        self.stream: Streamed | None = None
        self.late = ""  # the clock that ran out
        self._loop = loop
        self._review = review
        self._task = task
        self._cancels = task.cancelling()
        self._settled = False
        self._granted = 0.0  # the reviewer's own end of this phase
        self._excused = False  # a hold-up of our own: once, for code that blocks again and again would keep it waiting for ever
        self._total = now + deadlines.total
        self._rings = now + min(deadlines.connect, deadlines.first_byte, deadlines.total)
        self._timer = loop.call_at(self._rings, self._ring)

    def connecting(self) -> None:
        """No pooled connection would do."""
        self.phase = Phase.CONNECT
        self.reused = False

    def made(self) -> None:
        """The new connection is there; the server's time begins."""
        self.phase = Phase.FIRST_BYTE
        self.connected = self.since = self._loop.time()
        self._total = self.since + self.attempt.deadlines.total
        self._granted = 0.0
        self._advance()

    def begun(self, response: Head, stream: Streamed | None = None) -> None:
        """The reply head has come, perhaps that of a stream; again when it turns out to be none."""
        self.response = response
        self.stream = stream
        if stream is None:
            self._answering()

    def _answering(self) -> None:
        self.phase = Phase.BODY
        self.head = self.since = self._loop.time()
        self._granted = 0.0

    def listen(self) -> bytearray:
        """The body is still to come: its clocks begin. It is to be gathered here."""
        self._advance()
        self.body = bytearray()
        return self.body

    def progress(self) -> None:
        """The answer has got on."""
        if self.phase is not Phase.BODY:  # the first word of a stream
            self._answering()
            self._advance()
            return
        now = self._loop.time()
        self.gap = max(self.gap, now - self.since)
        self.since = now
        if self._granted:  # that was for the silence just ended
            self._granted = 0.0
            self._advance()

    def timing(self) -> Timing:
        """What was spent where, up to now."""
        now, started = self._loop.time(), self.started
        connect = 0.0 if self.reused else (now if self.phase is Phase.CONNECT else self.connected) - started
        gap = max(self.gap, now - self.since) if self._inside else 0.0
        return Timing(connect, self.head - started if self.head else 0.0, now - started, gap, self.reused)

    @property
    def _inside(self) -> bool:
        """Whether the answer has begun and not come all at once."""
        return self.body is not None or (self.stream is not None and self.phase is Phase.BODY)

    def stop(self) -> bool:
        """End the clock. True: our own deadline cancelled the task, and nobody else did."""
        self._timer.cancel()
        if not self.late or self._settled:
            return False
        self._settled = True
        return self._task.uncancel() <= self._cancels

    def _advance(self) -> None:
        """See to it that the timer rings no later than patience now ends."""
        due, _, _ = self._due()
        if due < self._rings:
            self._timer.cancel()
            self._set(due)

    def _set(self, due: float) -> None:
        self._rings = due
        self._timer = self._loop.call_at(due, self._ring)

    def _due(self) -> tuple[float, str, float]:
        """When patience ends, by which clock, and since when that clock runs."""
        name, limit = _LIMIT[self.phase]
        due = max(self.since + limit(self.attempt.deadlines), self._granted)
        if self.phase is Phase.CONNECT or due <= self._total:
            return due, name, self.since
        return self._total, "total", self.connected

    def _ring(self) -> None:
        due, name, since = self._due()
        now = self._loop.time()
        held = now - self._rings
        if now + EARLY < due:
            self._set(due)
            return
        if held > LATE and not self._excused:
            self._excused = True
            self._set(now + min(held, CATCH_UP))
            return
        more = 0.0
        try:
            more = self._review(self.attempt, self.phase, max(now, due) - since)
        finally:  # a reviewer that fails must not leave the attempt without a clock
            self._decide(name, now, more)

    def _decide(self, name: str, now: float, more: float) -> None:
        if more <= 0:
            self.late = name
            self._task.cancel()
            return
        if name == "total":
            self._total = now + more
        else:
            self._granted = now + more
        self._set(self._due()[0])


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


def plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case; the values of a repeated one joined by a comma (RFC 9110 §5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
