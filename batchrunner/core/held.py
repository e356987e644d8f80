"""Requests that are held back after a failure: they stay open until it shows whose fault that was.

Rules:

1. What shows it, and when, is known to who holds them: `core.withheld` during a debut, `core.refusals` after a refusal.
2. What is open again goes ahead of all that came later.
"""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.model import Attempt, Outcome, Request, Result
from batchrunner.core.queue import Open, Queue

Decided = tuple[Attempt, Outcome, Result | None]
"""What became of an attempt that was held back; None: its request is open again."""


class Held(Struct, frozen=True, gc=False):
    """A request that is held back. `result`: how it fails, if it does; None: in any case it is asked again."""

    entry: Open
    attempt: Attempt
    outcome: Outcome
    result: Result | None


class HeldBack:
    """Those of some endpoints, by name. `decided` hears what became of those that might have failed."""

    __slots__ = ("_decided", "_endpoints", "_held", "_queue")

    def __init__(self, endpoints: Mapping[str, Endpoint], queue: Queue, decided: list[Decided]) -> None:
        self._endpoints = endpoints
        self._queue = queue
        self._decided = decided
        self._held: list[Held] = []

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Request]:
        return (held.entry.request for held in self._held)

    def reopen(self) -> None:
        """All of them are open again: the run ends, and nothing will tell any more."""
        self._release(self._held)
        self._held = []

    def _of(self, lane: Endpoint) -> list[Held]:
        """Take out what waits for this endpoint."""
        mine = [held for held in self._held if held.attempt.endpoint == lane.name]
        self._held = [held for held in self._held if held.attempt.endpoint != lane.name]
        return mine

    def _release(self, mine: Sequence[Held]) -> None:
        for held in reversed(mine):
            self._queue.give_back(held.entry)
        self._decided += [(held.attempt, held.outcome, None) for held in mine if held.result]
