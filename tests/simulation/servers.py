"""Servers as pure functions on virtual time: no loop, no clock, no dice of their own.

Rules:

1. `now` is seconds since the start of the run. What a server is like stands in its `Nature`; `Server` is its state.
2. Work is conserved. Every call in service moves on at `speed(n)` seconds of work per second, n calls being served; a call
   whose client has left stops counting at once, or, with `zombies`, works on to its end unseen.
3. A draw depends on the line and the sending alone, so that every rule under test meets the same weather.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import exp, inf
from random import Random
from typing import Literal, Protocol

from msgspec import Struct

Steps = Callable[[float], float]
Work = Callable[[int, int, int], float]  # (line, sending, answers given so far) → seconds alone; inf: never answers
SOON = 1.0  # seconds after which a crowded server would be asked again
HIT = 1e-9  # work this near its end is done: floats do not meet


def steps(first: float, *later: tuple[float, float]) -> Steps:
    """A quantity that changes at moments: `steps(400, (20, 200), (40, 400))` is 400, from second 20 on 200, from 40 on 400."""
    moments = [at for at, _ in later]
    values = [first, *(value for _, value in later)]
    return lambda now: values[bisect_right(moments, now)]


class Quota(Protocol):
    """A limit on calls per second."""

    def early(self, now: float) -> float:
        """0.0: admitted and counted; else refused, and how long until one would pass."""


class Window:
    """So many calls in each second of the clock, which is how 60,000 a minute is often enforced."""

    def __init__(self, rate: Steps) -> None:
        self._rate = rate
        self._second = -1
        self._used = 0

    def early(self, now: float) -> float:
        second = int(now)
        if second != self._second:
            self._second, self._used = second, 0
        if self._used >= self._rate(now):
            return second + 1 - now
        self._used += 1
        return 0.0


class Bucket:
    """A bucket of tokens that holds `seconds` of its rate."""

    def __init__(self, rate: Steps, seconds: float = 1.0) -> None:
        self._rate = rate
        self._seconds = seconds
        self._tokens = rate(0.0) * seconds
        self._at = 0.0

    def early(self, now: float) -> float:
        rate = self._rate(now)
        self._tokens = min(rate * self._seconds, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / rate
        self._tokens -= 1.0
        return 0.0

    def says(self, now: float) -> Mapping[str, str]:
        """The headers of what is let in now, as OpenAI writes them: what remains, and the time until all of it is there again."""
        rate = self._rate(now)
        full = (rate * self._seconds - self._tokens) / rate
        return {"x-ratelimit-remaining-requests": f"{self._tokens:.0f}", "x-ratelimit-reset-requests": f"{full * 1e3:.0f}ms"}


class Nature(Struct):
    """What a server is like."""

    work: Work
    slots: Steps = steps(inf)  # calls served at once; the others are refused
    refusal: int = 503  # the status of that; 429 for hosted services
    quota: Quota | None = None  # beyond it: 429
    says: Callable[[float], Mapping[str, str]] = lambda _: {}  # the headers of what is let in now
    told: Callable[[float], str] | None = None  # the retry-after of a refusal, from the seconds until one would pass
    way: Callable[[int], float] = lambda _: 0.0  # line → seconds until its sendings reach it
    fails: Callable[[int, int, float], int] = lambda *_: 0  # (line, sending, now) → the status of an error at once; 0: none
    speed: Callable[[int], float] = lambda _: 1.0
    stalls: Callable[[int, int], float] = lambda *_: inf  # (line, sending) → seconds of a stream until it falls silent for ever
    hole: tuple[float, float] = (inf, inf)  # from, to: what comes in is accepted and never answered
    outages: tuple[tuple[float, float], ...] = ()  # from, to, in order: nobody listens, and calls in service are cut off
    zombies: bool = False


class Call(Struct, eq=False):
    """One sending in service."""

    line: int
    began: float
    seconds: float  # of work alone
    due: float  # on the server's clock of work
    silent: float = inf  # seconds until a stream falls silent
    headers: Mapping[str, str] = {}  # of its answer
    gone: bool = False  # its client has left
    over: bool = False  # it has ended here


class Refusal(Struct, frozen=True):
    """An answer without work. Status 0: nobody listens."""

    status: int
    retry_after: str = ""


Ended = tuple[Call, Literal["answered", "cut"]]


class Server:
    """One server. `arrive`, `leave` and `advance` must be called with `now` that never goes back."""

    def __init__(self, nature: Nature) -> None:
        self.nature = nature
        self.serving = 0
        self.answered = 0
        self._queue: list[tuple[float, int, Call]] = []
        self._clock = 0.0  # work done for each call so far
        self._at = 0.0
        self._sequence = 0
        self._outages = iter((*nature.outages, (inf, inf)))
        self._outage = next(self._outages)  # the one under way, or the next

    def arrive(self, line: int, sending: int, now: float) -> Call | Refusal:
        """A call comes in: taken into service or refused. Call `advance` first."""
        nature = self.nature
        if self._outage[0] <= now:
            return Refusal(0)
        if nature.quota and (early := nature.quota.early(now)):
            return Refusal(429, nature.told(early) if nature.told else "")
        if status := nature.fails(line, sending, now):
            return Refusal(status, nature.told(SOON) if nature.told and status == 429 else "")
        if self.serving >= nature.slots(now):
            return Refusal(nature.refusal, nature.told(SOON) if nature.told else "")
        self._run(now)
        silent = nature.stalls(line, sending)
        never = silent < inf or nature.hole[0] <= now < nature.hole[1]
        seconds = inf if never else nature.work(line, sending, self.answered)
        call = Call(line, now, seconds, self._clock + seconds, silent, nature.says(now))
        self._sequence += 1
        heappush(self._queue, (call.due, self._sequence, call))
        self.serving += 1
        return call

    def leave(self, call: Call, now: float) -> None:
        """The client has closed the connection."""
        if call.over:
            return
        self._run(now)
        call.gone = True
        self.serving -= not (self.nature.zombies and call.seconds < inf)

    def due(self) -> float:
        """When something ends next, if nothing comes in between; inf: never."""
        while self._queue and self._queue[0][2].gone and not self.nature.zombies:
            heappop(self._queue)
        if not self._queue:
            return inf
        due = self._at + max(0.0, self._queue[0][0] - self._clock) / self.nature.speed(self.serving)
        return min(due, self._outage[0])

    def advance(self, now: float) -> list[Ended]:
        """Everything that has ended by now and whose client still listens."""
        ended: list[Ended] = self._cut(self._outage[0]) if self._at < self._outage[0] <= now else []
        while self._outage[1] <= now:
            self._outage = next(self._outages)
        self._run(now)
        while self._queue and self._queue[0][0] <= self._clock + HIT:
            call = heappop(self._queue)[2]
            call.over = True
            if not call.gone:
                ended.append((call, "answered"))
                self.answered += 1
            self.serving -= not call.gone or self.nature.zombies
        return ended

    def _cut(self, now: float) -> list[Ended]:
        self._run(now)
        ended: list[Ended] = [(call, "cut") for _, _, call in self._queue if not call.gone]
        for call, _ in ended:
            call.over = True
        self._queue.clear()
        self.serving = 0
        return ended

    def _run(self, now: float) -> None:
        if self.serving:
            self._clock += (now - self._at) * self.nature.speed(self.serving)
        self._at = now


# --- how long a call takes --------------------------------------------------------------------------------------------


class Weather:
    """Draws for every line and sending: lognormal seconds, and which lines hang on their first sending."""

    def __init__(self, rows: int, seed: int, *, median: float, sigma: float = 0.0, hangs: float = 0.0) -> None:
        chance = Random(seed)
        self.hung = [chance.random() < hangs for _ in range(rows)]
        self._seconds = [median * exp(sigma * chance.gauss(0.0, 1.0)) for _ in range(rows)]

    def seconds(self, line: int, sending: int = 1) -> float:
        """Of the answer, hung or not. Lines count from 0."""
        return self._seconds[(line + 7919 * (sending - 1)) % len(self._seconds)]

    def calm(self, line: int, _answered: int) -> float:
        """What the ideal takes for a line."""
        return self._seconds[line]

    def __call__(self, line: int, sending: int, _answered: int) -> float:
        return inf if sending == 1 and self.hung[line] else self.seconds(line, sending)


def plateau(knee: int) -> Callable[[int], float]:
    """Speed of each of n sequences when throughput grows up to the knee and not beyond (vLLM with a full batch)."""
    return lambda n: min(1.0, knee / max(n, 1))


def listed(rows: int, slots: int, seconds: Callable[[int, int], float]) -> float:
    """The ideal: time to serve the lines in order with so many slots always full and nothing ever lost.

    `seconds` of a line come from its number and from how many answers have been given when it starts.
    """
    free = [0.0] * slots
    heapify(free)
    last = 0.0
    for line in range(rows):
        end = free[0] + seconds(line, max(0, line - slots + 1))
        heapreplace(free, end)
        last = max(last, end)
    return last
