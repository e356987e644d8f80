"""What failed during an endpoint's debut, until it shows whose fault that was (`core.debut`).

Rules:

1. It stays open meanwhile. It is decided as soon as the debut is over, the endpoint is out of use, or nothing else is open that
   could tell.
2. Where the endpoint turns out to serve, it has failed. Where it goes out of use, it is open again (`core.held`).
"""

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.held import Held, HeldBack
from batchrunner.core.model import Attempt, Outcome, Result
from batchrunner.core.queue import Open


class Withheld(HeldBack):
    """What failed during debuts."""

    __slots__ = ()

    def take(self, lane: Endpoint, entry: Open, attempt: Attempt, outcome: Outcome, result: Result | None) -> bool:
        """An attempt ended, and perhaps its request. True: for now that is kept back."""
        kept = lane.debut.take(attempt.request.line, outcome, result is not None)
        if kept and result:
            self._held.append(Held(entry, attempt, outcome, result))
        return kept

    def decide(self, lane: Endpoint, still_open: int) -> int:
        """After an attempt at this endpoint: decide what can be, with so many requests open. How many have failed for good."""
        debut, failed = lane.debut, 0
        if debut.full and not lane.inflight:
            lane.stopped = lane.stopped or debut.verdict(lane.name)
        if lane.stopped:
            self._release(self._of(lane))
        elif debut.over:
            failed = self._fail(lane)
        if still_open - failed == len(self):
            failed += sum(map(self._fail, self._endpoints.values()))
        return failed

    def _fail(self, lane: Endpoint) -> int:
        mine = self._of(lane)
        self._decided += [(held.attempt, held.outcome, held.result) for held in mine]
        return len(mine)
