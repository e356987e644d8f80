"""The attempts under way that are waited for the longest beyond what is usual: each may get a twin (`core.hedging`).

Rules:

1. A straggler has taken longer than 95 of 100 of its size would. The latest goes first.
2. Its twin goes to another endpoint, if another serves it, and never before anything that has not been sent yet.
3. The first of the two that is answered, or has failed for good, ends the request. What the other was doing says nothing.
4. One that fails while its twin goes on speaks of the endpoint; of the request it only says, if we gave it up, how long it takes.
"""

from math import inf

from msgspec.structs import replace

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.flight import InFlight
from batchrunner.core.hedging import BEATEN, Twins
from batchrunner.core.model import Again, Attempt, Kind, Outcome
from batchrunner.core.queue import Open, Queue
from batchrunner.core.refusals import Refusals
from batchrunner.core.spread import Spread
from batchrunner.core.treatment import KILLS, REFUSED, TREATMENT

LEAST = 2.0  # seconds that nobody is called a straggler for


class Stragglers:
    """Those in flight, and the `twins` beside them."""

    def __init__(
        self,
        twins: Twins,
        spread: Spread,
        queue: Queue,
        in_flight: InFlight,
        experience: Experience,
        refusals: Refusals,
    ) -> None:
        self._twins = twins
        self._spread = spread
        self._queue = queue
        self._in_flight = in_flight
        self._experience = experience
        self._refusals = refusals

    def twin(self, lane: Endpoint, requests: int, now: float) -> Attempt | None:
        """A second attempt beside the latest straggler, of so many requests; None: there is none, or anything else to send."""
        if lane.breaker.open or len(self._queue) > self._queue.retrying or not self._twins.affordable(requests):
            return None
        first = self._latest(lane, now)
        if first is None:
            return None
        entry = self._in_flight[first.request.line]
        twin = entry.sent = replace(self._in_flight.send(entry, lane, now), queued=0.0, twin=True)
        self._twins.pair(first, twin)
        return twin

    def _latest(self, lane: Endpoint, now: float) -> Attempt | None:
        """The attempt that a twin from this endpoint should go beside."""
        serving, here = self._spread.serving(now), self._spread.bit(lane.name)
        worst, late = None, 1.0
        for line, entry in self._in_flight.items():
            first = entry.sent
            if first is None or self._twins.had(line) or lane.pace(first.request.model).wait(now):
                continue
            others = entry.where & serving & ~self._spread.bit(first.endpoint)
            usual = self._experience.patience(first.endpoint, first.request, first.stream).late(first.request)
            if (others or entry.where) & here and (found := _lateness(first, usual, now)) > late:
                worst, late = first, found
        return worst

    def settle(self, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, u: float) -> tuple[Again, str] | None:
        """End an attempt that says nothing of its request: beaten by its twin, or failed while that goes on. None: it does.

        With what it taught about the endpoint, for people.
        """
        if self._twins.beaten(attempt):
            self._twins.forget(attempt)
            lane.left(attempt)
            lane.breaker.void(attempt.started)
            return Again(now, BEATEN), ""
        other = self._twins.part(attempt)
        if other is None:
            return None
        entry = self._in_flight[attempt.request.line]
        if _ends(outcome):
            self._twins.beat(other)
            entry.billed += 1
            return None
        entry.sent = other
        return Again(now, "its twin goes on"), self._outlived(entry, lane, attempt, outcome, now, u)

    def _outlived(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, u: float) -> str:
        """It has failed while its twin goes on. What that taught about the endpoint, for people."""
        cancelled = outcome.kind is Kind.CANCELLED
        entry.billed += outcome.billed
        entry.spent.sendings -= cancelled
        entry.spent.kills += outcome.kind in KILLS
        lane.left(attempt)
        notice = "" if cancelled else self._experience.inform(attempt, outcome, now, u)
        if TREATMENT[outcome.kind].health in REFUSED:
            self._refusals.hear(entry, lane, attempt, outcome, now)
        return notice


def _ends(outcome: Outcome) -> bool:
    """Whether this is the end of its request, though a twin is under way."""
    treatment = TREATMENT[outcome.kind]
    goes_on = treatment.again or treatment.health in REFUSED
    return outcome.kind is not Kind.CANCELLED and (outcome.final or not goes_on)


def _lateness(attempt: Attempt, usual: float, now: float) -> float:
    """How many times what is usual an attempt has waited; at most 1 is no straggler."""
    return (now - attempt.started) / max(LEAST, usual) if usual < inf else 0.0
