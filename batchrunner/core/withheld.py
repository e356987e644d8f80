"""What failed during an endpoint's debut, until it shows whose fault that was (`core.debut`).

Rules:

1. It stays open meanwhile. It is decided as soon as the debut is over, the endpoint is out of use, or nothing else is open that
   could tell.
2. Where the endpoint turns out to serve, it has failed. Where it goes out of use, it is open again, ahead of what came later.
"""

from collections.abc import Iterator, Mapping

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.model import Attempt, Outcome, Request, Result
from batchrunner.core.queue import Decided, Open, Queue


class Withheld:
    """Of some endpoints, by name. `decided` hears what became of which attempt; None: its request is open again."""

    __slots__ = ("_decided", "_endpoints", "_failures", "_queue")

    def __init__(self, endpoints: Mapping[str, Endpoint], queue: Queue, decided: list[Decided]) -> None:
        self._endpoints = endpoints
        self._queue = queue
        self._failures: list[tuple[Open, Attempt, Outcome, Result]] = []
        self._decided = decided

    def __len__(self) -> int:
        return len(self._failures)

    def __iter__(self) -> Iterator[Request]:
        return (entry.request for entry, *_ in self._failures)

    def take(self, lane: Endpoint, entry: Open, attempt: Attempt, outcome: Outcome, result: Result | None) -> bool:
        """An attempt ended, and perhaps its request. True: for now that is kept back."""
        kept = lane.debut.take(attempt.request.line, outcome, result is not None)
        if kept and result:
            self._failures.append((entry, attempt, outcome, result))
        return kept

    def decide(self, lane: Endpoint, still_open: int) -> int:
        """After an attempt at this endpoint: decide what can be, with so many requests open. How many have failed for good."""
        debut, failed = lane.debut, 0
        if debut.full and not lane.inflight:
            lane.stopped = lane.stopped or debut.verdict(lane.name)
        if lane.stopped:
            self._release(lane)
        elif debut.over:
            failed = self._fail(lane)
        if still_open - failed == len(self):
            failed += sum(map(self._fail, self._endpoints.values()))
        return failed

    def reopen(self) -> None:
        """All of it is open again: the run ends, and nothing will tell any more."""
        for lane in self._endpoints.values():
            self._release(lane)

    def _fail(self, lane: Endpoint) -> int:
        mine = self._of(lane)
        self._decided += [(attempt, outcome, result) for _, attempt, outcome, result in mine]
        return len(mine)

    def _release(self, lane: Endpoint) -> None:
        mine = self._of(lane)
        for entry, *_ in reversed(mine):
            self._queue.give_back(entry)
        self._decided += [(attempt, outcome, None) for _, attempt, outcome, _ in mine]

    def _of(self, lane: Endpoint) -> list[tuple[Open, Attempt, Outcome, Result]]:
        """Take out what is kept back of this endpoint's requests."""
        mine = [each for each in self._failures if each[1].endpoint == lane.name]
        self._failures = [each for each in self._failures if each[1].endpoint != lane.name]
        return mine
