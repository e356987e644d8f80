"""Leaky buckets: so much a second, and so much a day.

Rules:

1. A bucket is reckoned in time: when what was poured in will have drained. Its rate may change at any moment; the debt, in
   seconds, stays.
2. An amount passes as soon as there is no debt, and is paid for by those that come after: nothing waits for its own size, large
   amounts neither starve nor are undercharged, and whoever asks first goes first.
3. It begins full: the first passes at once, the next at the rate. Only a pause leaves room for more at once, and little.
"""

from collections import deque
from collections.abc import Iterable
from math import inf

SLACK = 0.05  # seconds' worth that may go at once, so that a timer that is late costs nothing
SLOT = 3600.0  # a day is counted in slots of this many seconds
DAY = 86400.0


class Bucket:
    """Lets `rate` a second pass; inf lets everything pass."""

    __slots__ = ("_credit", "_drained", "rate")

    def __init__(self, rate: float = inf) -> None:
        self.rate = rate
        self._drained = -inf  # when it will be empty
        self._credit = 0.0  # seconds' worth that a pause has left room for

    def wait(self, now: float) -> float:
        """Seconds until something may pass."""
        return max(0.0, self._drained - SLACK - now) if self.rate < inf else 0.0

    def take(self, amount: float, now: float) -> None:
        """So much passes."""
        start = now + SLACK if self._drained == -inf else max(self._drained, now - self._credit)
        self._credit = self._credit if start < now else 0.0
        self._drained = start + amount / self.rate

    def pour_back(self, amount: float) -> None:
        """So much of what has passed was not used after all; a negative amount, that more was."""
        self._drained -= amount / self.rate

    def turn(self, now: float) -> None:
        """A second begins for which it is counted anew: what did not pass in the last one is not made up for."""
        self._drained, self._credit = max(self._drained, now + SLACK), 0.0

    def hold(self, until: float, credit: float = 0.0) -> None:
        """Nothing passes before, though it is for the endpoint's gate to see to that; then `credit` seconds' worth at once."""
        self._drained = max(self._drained, until + SLACK) - credit
        self._credit = credit


class Day:
    """At most so many in any 24 hours, to the slot; all of them at once, if they come at once."""

    __slots__ = ("_most", "_passed", "_slots", "_told", "_used")

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._passed = self._told = 0  # since the start, and when that was last told
        self._slots: deque[tuple[float, int]] = deque()  # begin, count

    def wait(self, now: float) -> float:
        """Seconds until another may pass."""
        while self._slots and self._slots[0][0] + SLOT + DAY <= now:
            self._used -= self._slots.popleft()[1]
        return self._slots[0][0] + SLOT + DAY - now if self._used >= self._most and self._slots else 0.0

    def take(self, now: float) -> None:
        """One passes."""
        self._used += 1
        self._passed += 1
        begin, count = self._slots[-1] if self._slots else (-inf, 0)
        if now < begin + SLOT:
            self._slots[-1] = (begin, count + 1)
        else:
            self._slots.append((now, 1))

    def learned(self, now: float, last: bool) -> tuple[tuple[float, int], ...]:
        """How many seconds ago its slots began, and how many passed in each.

        Unless it is told for the last time as many are added as have passed since it was told before: so many more may pass
        until it is told again, and nobody may live to tell.
        """
        more, self._told = 0 if last else self._passed - self._told, self._passed
        return tuple((now - begin, count + more * (begin == self._slots[-1][0])) for begin, count in self._slots)

    def recall(self, slots: Iterable[tuple[float, int]], now: float) -> None:
        """Go on with what passed in an earlier run; before the first passes."""
        self._slots.extend((now - age, count) for age, count in slots)
        self._used = sum(count for _, count in self._slots)
