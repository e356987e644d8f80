"""Limits of which the endpoint tells in its answers' headers what remains: the truth, for others too, in tokens, or nonsense.

Rules: those of `scenarios`. What is told is as of when a request is let in; a refusal tells in whole seconds when to come again.
"""

from collections.abc import Callable, Mapping
from math import ceil, exp
from random import Random

from tests.simulation.servers import Bucket, Nature, Quota, Steps, Weather, listed, steps
from tests.simulation.world import Run, Stage
from tests.virtual import chat

RATE = 400.0
REMAINING, RESET = "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"
Says = Callable[[float], Mapping[str, str]]


class Shared(Bucket):
    """Somebody else takes 150 a second of it between the seconds 5 and 15."""

    def __init__(self, rate: Steps, seconds: float = 1.0) -> None:
        super().__init__(rate, seconds)
        self._other = 5.0

    def early(self, now: float) -> float:
        while self._other < min(now, 15.0):
            self._other += 1.0 / 150.0
            super().early(self._other)
        return super().early(now)


class Tokens:
    """20 seconds' worth of tokens for 40 calls a second, which take 500 each on the mean and are not alike."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._rate = 40.0 * 500.0 * exp(0.125)
        self._left = self._size = 20.0 * self._rate
        self._at = 0.0

    def early(self, now: float) -> float:
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        tokens = 500.0 * exp(self._chance.gauss(0.0, 0.5))
        if tokens > self._left:
            return (tokens - self._left) / self._rate
        self._left -= tokens
        return 0.0

    def says(self, _now: float) -> Mapping[str, str]:
        full = (self._size - self._left) / self._rate
        return {"x-ratelimit-remaining-tokens": f"{self._left:.0f}", "x-ratelimit-reset-tokens": f"{full:.3f}s"}


def _stage(rows: int, seed: int, rate: float, quota: Quota, says: Says) -> Stage:
    """The ideal lets lines in at the rate, the burst that a full bucket allows not counted."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)
    ideal = max(line / rate + weather.seconds(line) for line in range(rows))
    nature = Nature(weather, quota=quota, says=says, told=lambda early: str(ceil(early)))
    return Stage([chat(line) for line in range(rows)], {"a": nature}, ideal, {"max_concurrency": 256})


def bucket(rows: int, seed: int, seconds: float = 1.0) -> Stage:
    quota = Bucket(steps(RATE), seconds)
    return _stage(rows, seed, RATE, quota, quota.says)


def shared(rows: int, seed: int) -> Stage:
    """The ideal has what the other leaves."""
    quota = Shared(steps(RATE))
    return _stage(rows, seed, RATE * rows / (rows + 1500), quota, quota.says)


def overtaken(rows: int, seed: int) -> Stage:
    """Every other request is on its way for as long as a new connection takes, or a worker that has just begun."""
    quota = Bucket(steps(150.0))
    stage = _stage(rows, seed, 150.0, quota, quota.says)
    stage.servers["a"].way = lambda line: 0.15 * (line % 2)
    return stage


def tokens(rows: int, seed: int) -> Stage:
    quota = Tokens(seed)
    return _stage(rows, seed, 40.0, quota, quota.says)


def lying(rows: int, seed: int, says: Says) -> Stage:
    return _stage(rows, seed, RATE, Bucket(steps(RATE)), says)


def capped(rows: int, seed: int, says: Says) -> Stage:
    """A service that serves 100 at once and answers 429 to the others, whatever it says."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    nature = Nature(weather, slots=steps(100), refusal=429, says=says)
    return Stage([chat(line) for line in range(rows)], {"a": nature}, listed(rows, 100, weather.calm), {"max_concurrency": 256})


def _drawn(now: float) -> Mapping[str, str]:
    chance = Random(now)
    return {REMAINING: str(chance.randrange(100)), RESET: f"{chance.randrange(60_000)}ms"}


def silence(_now: float) -> Mapping[str, str]:
    return {}


LIES: Mapping[str, Says] = {
    "nothing is left": lambda _: {REMAINING: "0", RESET: "1s"},
    "nothing until tomorrow": lambda _: {REMAINING: "0", RESET: "24h0m0s"},
    "any number": lambda _: {REMAINING: "99999999", RESET: "1ms"},
    "a minute's window that nobody keeps": lambda now: {REMAINING: "0", RESET: f"{60.0 - now % 60.0:.3f}s"},
    "unknown": lambda _: {REMAINING: "-1", RESET: "-1"},
    "chance": _drawn,
}


def refused(run: Run) -> float:
    """429s as a share of all sendings, from the first one on."""
    return run.throttled(0.0)
