"""Many durations in little room, and the last minutes second by second.

Rules:

1. Memory is fixed: neither grows with what it has counted.
2. Pure arithmetic; the clock is an argument.
"""

from math import ceil, exp, log

MINUTE = 60
MINUTES = 5 * MINUTE


class Histogram:
    """Durations in buckets 2 % wide, from 0.1 ms to a day; any quantile within 1 %, in 8 KB."""

    LEAST = 1e-4
    _PER_E = 1 / log(1.02)
    _SHIFT = -log(LEAST) * _PER_E
    _SIZE = ceil(log(86400 / LEAST) * _PER_E) + 1

    __slots__ = ("buckets", "count")

    def __init__(self) -> None:
        self.buckets = [0] * self._SIZE
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one duration; beyond the ends it counts in the outermost bucket."""
        place = int(log(seconds) * self._PER_E + self._SHIFT) if seconds > self.LEAST else 0
        self.buckets[place if place < self._SIZE else -1] += 1
        self.count += 1

    def merge(self, other: "Histogram") -> None:
        """Take in another's counts."""
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.count += other.count

    def quantile(self, share: float) -> float:
        """The duration that `share` of the durations do not exceed (nearest rank); 0.0 when nothing was counted."""
        rank, seen = max(1, ceil(share * self.count)), 0
        for place, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                return exp((place + 0.5 - self._SHIFT) / self._PER_E)
        return 0.0


class Lately:
    """Sums per second of the last five minutes: finished requests and output tokens."""

    __slots__ = ("_finished", "_second", "_tokens")

    def __init__(self, now: float) -> None:
        self._second = int(now)
        self._finished = [0] * MINUTES
        self._tokens = [0] * MINUTES

    def add(self, at: float, finished: int, tokens: int) -> None:
        """Count at second `at`; what comes late counts as now."""
        if at >= self._second + 1:
            self._turn(int(at))
        place = self._second % MINUTES
        self._finished[place] += finished
        self._tokens[place] += tokens

    def sums(self, now: float, span: int = MINUTE) -> tuple[int, int]:
        """Finished requests and output tokens of the second of `now` and those before it, `span` in all."""
        self._turn(int(now))
        places = [second % MINUTES for second in range(self._second - span + 1, self._second + 1)]
        return sum(self._finished[place] for place in places), sum(self._tokens[place] for place in places)

    def _turn(self, second: int) -> None:
        """Move on to a second and forget those that are too long ago."""
        for passed in range(max(self._second + 1, second - MINUTES + 1), second + 1):
            self._finished[passed % MINUTES] = self._tokens[passed % MINUTES] = 0
        self._second = max(self._second, second)
