"""How this process itself is doing, and its workers, if it has any: loop, CPU, memory, descriptors, disk.

Rules:

1. A look costs microseconds and is taken a few times a second; what the system does not tell is 0.
2. Lateness is measured by a clock that should have rung and did not, so it sees whatever held the loop.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from batchrunner.core.model import Result
from batchrunner.core.trail import Ourselves, together
from batchrunner.outbox import Sink

_OPEN = Path("/proc/self/fd")
_PAGES = Path("/proc/self/statm")
_TURNS = Path("/proc/thread-self/schedstat")  # nanoseconds this thread has run, and waited for its turn to


class Vitals:
    """Call `tick` every `every` seconds; `taken` tells what was since it was last called.

    `others` is asked for what the workers of a run say of themselves.
    """

    def __init__(self, clock: Callable[[], float], every: float) -> None:
        self._clock = clock
        self._every = every
        self._last = self._since = clock()
        self._lag = 0.0
        self._cpu = time.process_time()
        self._disk = 0.0
        self.others: Callable[[], Sequence[Ourselves]] = tuple

    def tick(self) -> None:
        """The clock has rung."""
        now = self._clock()
        self._lag = max(self._lag, now - self._last - self._every)
        self._last = now

    def taken(self) -> Ourselves:
        """Everything since the last time, which begins anew."""
        now, cpu = self._clock(), time.process_time()
        span = max(now - self._since, 1e-3)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        found = Ourselves(
            lag=round(self._lag, 4),
            cpu=round((cpu - self._cpu) / span, 3),
            rss=_resident(),
            fds=_descriptors(),
            most_fds=0 if soft == resource.RLIM_INFINITY else soft,
            disk=round(min(1.0, self._disk / span), 3),
        )
        self._since, self._cpu, self._lag, self._disk = now, cpu, 0.0, 0.0
        return together(found, self.others())

    def clocked(self, sink: Sink) -> Sink:
        """The same sink, with the time it takes counted."""
        return _Clocked(sink, self._clock, self._waited)

    def _waited(self, seconds: float) -> None:
        self._disk += seconds


class Demand:
    """How busy the thread that asks has been, whoever else was on its core.

    `taken` is the share of the time since it was last called that the thread ran or waited to; where the system does not
    tell of the waiting, that the process ran.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since, self._wanted = clock(), _wanted()

    def taken(self) -> float:
        """Everything since the last time, which begins anew."""
        since, before = self._since, self._wanted
        self._since, self._wanted = self._clock(), _wanted()
        return (self._wanted - before) / max(self._since - since, 1e-3)


class _Clocked:
    def __init__(self, sink: Sink, clock: Callable[[], float], waited: Callable[[float], None]) -> None:
        self._sink = sink
        self._clock = clock
        self._waited = waited

    async def put(self, results: Sequence[Result]) -> None:
        began = self._clock()
        try:
            await self._sink.put(results)
        finally:
            self._waited(self._clock() - began)


def _wanted() -> float:
    try:
        ran, waited, _ = map(int, _TURNS.read_text().split())
    except (OSError, ValueError):
        return time.process_time()
    return (ran + waited) / 1e9


def _resident() -> int:
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _descriptors() -> int:
    try:
        return sum(1 for _ in _OPEN.iterdir())
    except OSError:
        return 0
