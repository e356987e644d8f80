"""What the embedded endpoint has seen: counters, and how often each request came.

Rules:

1. `KEPT` requests are remembered at least, twice as many at most: two generations, the older one is dropped whole.
   A request forgotten counts as new.
2. A duplicate is a sending of a request that already had a complete answer: two lines with equal bodies make one too.
"""

from collections import Counter
from typing import Any

KEPT = 250_000


class Ledger:
    """Counters of one server."""

    def __init__(self) -> None:
        self._young: dict[bytes, int] = {}  # request → 2 × sendings + whether it was answered
        self._old: dict[bytes, int] = {}
        self._replies: Counter[tuple[str, int]] = Counter()
        self._faults: Counter[str] = Counter()
        self._distinct = self._duplicates = self._requests = self._answered = 0
        self._in_flight = self._most_in_flight = 0
        self.connections = 0

    def arrive(self, key: bytes) -> int:
        """One more sending of `key`; says the how many-th, from 1."""
        before = self._recall(key)
        self._remember(key, before + 2)
        self._requests += 1
        self._distinct += not before
        self._duplicates += before & 1
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        return (before >> 1) + 1

    def reply(self, route: str, status: int, fault: str) -> None:
        """A reply begins, or the silence that stands for one: status 0."""
        self._replies[route, status] += 1
        if fault:
            self._faults[fault] += 1

    def leave(self, key: bytes, good: bool) -> None:
        """The sending is over, `good` with a complete answer."""
        self._in_flight -= 1
        if good:
            self._answered += 1
            self._remember(key, self._recall(key) | 1)

    def stats(self) -> dict[str, Any]:
        """All counters, ready for JSON. Status "0": the client could read none."""
        routes: dict[str, dict[str, int]] = {}
        for (route, status), times in sorted(self._replies.items()):
            routes.setdefault(route, {})[str(status)] = times
        return {
            "requests": self._requests,
            "answered": self._answered,
            "distinct": self._distinct,
            "duplicates": self._duplicates,
            "connections": self.connections,
            "in_flight": self._in_flight,
            "max_in_flight": self._most_in_flight,
            "routes": routes,
            "faults": dict(sorted(self._faults.items())),
        }

    def _recall(self, key: bytes) -> int:
        return self._young.get(key) or self._old.get(key, 0)

    def _remember(self, key: bytes, value: int) -> None:
        if len(self._young) >= KEPT and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = value
