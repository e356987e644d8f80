"""Which request is sent next, and what becomes of it: the life of every open request.

    offer ──► queue ──next──► in flight ──settle──► Result
                ▲                │
                └────────────────┘ Again(at)

Rules:

1. Three verbs move a request: `offer` opens it, `next` sends it, `settle` ends its attempt: exactly once per attempt.
2. Every offered request ends in exactly one `Result`, unless the run ends first; then it is still open and simply pending.
3. Waiting is never an attempt, and a waiting request holds no slot: it lies in the queue.
4. Fresh work goes in the order it came; once all of it is here, the long goes before the short (`core.queue`). A due retry goes
   before both, except at an endpoint on probation: a poison request must not decide its fate.
5. What a kind of outcome entails stands in `treatment.TREATMENT`, which endpoint goes first in `core.spread`, what it may take in
   `core.claims`, how it is sent and waited for in `core.flight`, who is asked twice in `core.stragglers`, what an attempt teaches
   in `core.experience`, who is given up in `core.chances`; this room only obeys them.
6. Every verb is O(log n) in the number of open requests.
7. What fails during an endpoint's debut is held back (`core.withheld`), and what an endpoint refuses (`core.refusals`): it stays
   open until it shows whose fault that was, and `decided` tells what became of it.
"""

from collections.abc import Collection, Iterable, Sequence
from math import inf

from batchrunner.core.chances import Chances
from batchrunner.core.claims import Claims
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.flight import InFlight
from batchrunner.core.hedging import LOOK, Hedging, Twins
from batchrunner.core.held import Decided
from batchrunner.core.model import Again, Attempt, Kind, Outcome, Phase, Request, Result, Wait
from batchrunner.core.queue import Open, Queue
from batchrunner.core.refusals import Refusals
from batchrunner.core.retry import Retries
from batchrunner.core.spread import Spread
from batchrunner.core.stragglers import Stragglers
from batchrunner.core.streaming import Streaming
from batchrunner.core.treatment import REFUSED, TREATMENT
from batchrunner.core.unplaced import Unplaced
from batchrunner.core.withheld import Withheld


class Scheduler:
    """Holds every open request. `max_open` bounds them, and with them the memory of a run.

    The endpoints stand in order of preference. `coming` is how many requests will be offered, as far as that is known.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        retries: Retries,
        timeouts: Timeouts,
        max_open: int,
        streaming: Streaming = Streaming(),
        hedging: Hedging = Hedging(),
        coming: float = inf,
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._spread = Spread(endpoints)
        self._max_open = max_open
        self._keep_partial = streaming.keep_partial
        self.experience = Experience(self._endpoints, timeouts, streaming)
        self._chances = Chances(retries)
        self._queue = Queue()
        self._in_flight = InFlight(self._endpoints, self._spread, self._queue, self.experience, self._chances)
        self._claims = Claims(self._endpoints, self._spread, self._queue, self.experience)
        self.decided: list[Decided] = []  # about what was held back, for whoever takes it from here
        self._withheld = Withheld(self._endpoints, self._queue, self.decided)
        self._refusals = Refusals(self._endpoints, self._spread, self._queue, self.decided, self._keep_partial)
        self.twins = Twins(hedging)
        self._stragglers = Stragglers(self.twins, self._spread, self._queue, self._in_flight, self.experience, self._refusals)
        self.unplaced = Unplaced(max((endpoint.debut.most for endpoint in endpoints), default=0))
        self.offered = 0  # requests so far
        self._coming = coming
        self.open = 0  # requests offered and not yet ended
        self._arrange = 0  # attempts until the order is looked at again, once the end is in sight
        self.sent = 0  # attempts so far
        self.last = False  # nothing more will be offered
        self.paused = False  # nothing new is sent; what is in flight ends as usual
        self.notice = ""  # what the last settling taught about an endpoint, for people

    def __repr__(self) -> str:
        return f"<Scheduler open={self.open} retrying={self.retrying} in_flight={self.in_flight} max_open={self._max_open}>"

    def placed(self, request: Request) -> bool:
        """Whether any endpoint serves the model that this request asks for."""
        return bool(self._spread.where(request.model))

    def offer(self, request: Request) -> bool:
        """Open a request; False, and nothing happens, when `max_open` are open already, or no endpoint serves its model."""
        where = self._spread.where(request.model)
        if self.open >= self._max_open or not where:
            return False
        self.offered += 1
        self.open += 1
        self._queue.append(Open(request, self.offered, where))
        return True

    def next(self, endpoint: str, now: float) -> Attempt | Wait:
        """The attempt this endpoint should send now, or how long there is none."""
        lane = self._endpoints[endpoint]
        pause = lane.ready(now)
        if pause is None or self.paused:
            return NOTHING
        if pause > 0.0:
            return Wait(now + pause)
        if self.last and self.sent >= self._arrange:
            self._arrange = 2 * self.sent + 1
            self._queue.arrange(self._claims.weight)
        rows, again = self._claims.rows(lane, 0.0 if self.last else max(0.0, self._coming - self.offered), now)
        entry = self._queue.farthest(rows) if lane.singles else None
        entry = entry or self._queue.take(rows, now, lane.breaker.open)
        if entry:
            self.sent += 1
            return self._in_flight.send(entry, lane, now)
        due = min((row.due() for row in rows), default=inf)
        if self.twins.on and self.last and self._in_flight:
            if twin := self._stragglers.twin(lane, self.offered, now):
                self.sent += 1
                return twin
            due = min(due, now + LOOK)
        until = min(due, again)
        return Wait(until) if until < inf else NOTHING

    def settle(self, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | Result | None:
        """End an attempt: its request is sent again, or this is its result, or None: it is `decided` later.

        Once per attempt, else KeyError.
        """
        lane = self._endpoints[attempt.endpoint]
        if self.twins.on and (apart := self._stragglers.settle(lane, attempt, outcome, now, u)):
            again, self.notice = apart
            return again
        entry = self._in_flight.pop(attempt.request.line)
        lane.left(attempt)
        entry.billed += outcome.billed
        if outcome.kind is Kind.CANCELLED:
            entry.spent.sendings -= 1
            self._queue.give_back(entry)
            return Again(now, "cancelled")
        self.notice = self.experience.inform(attempt, outcome, now, u)
        end = self._refused if TREATMENT[outcome.kind].health in REFUSED else self._judged
        verdict = end(entry, lane, attempt, outcome, now, u)
        if self._refusals:
            self.open -= self._refusals.decide(self._idle())
        return verdict if lane.debut.over and not self._withheld else self._kept(lane, entry, attempt, outcome, verdict)

    def _judged(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | Result:
        """It is answered, given up, or sent again."""
        good = outcome.kind is Kind.OK
        why = "" if good else self._chances.over(entry, lane, attempt, outcome, now, self._others(attempt))
        if good and (paid := self._chances.answered(entry, attempt)):
            self._queue.put_off(paid)
        if why is None:
            return self._again(entry, lane, outcome, now, u)
        self._chances.let_in(entry)
        self.experience.finished(attempt, outcome.kind, now)
        self.open -= 1
        return entry.result(attempt, outcome, now, why, self._keep_partial)

    def _others(self, attempt: Attempt) -> float:
        """Requests beside the one of this attempt that are to be sent, or were after it.

        inf while more may come, and while one that was sent before is being served.
        """
        more = not self.last or self._in_flight.older(attempt)
        return inf if more else len(self._in_flight) + len(self._queue)

    def _refused(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | None:
        """It goes elsewhere, or waits for what the endpoint says to others."""
        self._chances.let_in(entry)
        before = self._refusals.hear(entry, lane, attempt, outcome, now)
        if lane.stopped or (not before and self._spread.elsewhere(entry.where, lane, now)):
            return self._again(entry, lane, outcome, now, u)
        self._refusals.hold(entry, lane, attempt, outcome, now, before)
        if not before:
            return Again(entry.due, outcome.kind)
        self.experience.finished(attempt, outcome.kind, now)
        return None

    def _again(self, entry: Open, lane: Endpoint, outcome: Outcome, now: float, u: float) -> Again:
        """It waits for its next attempt, and is asked elsewhere sooner."""
        entry.renew(outcome, self._keep_partial)
        entry.avoid = self._claims.avoided(entry, lane, outcome)
        delay = self._chances.pause(entry, outcome, u)
        if self._spread.elsewhere(entry.where, lane, now):
            delay = min(delay, u * LONGEST_DETOUR)
        entry.due = now + delay
        if self._chances.paid(entry, outcome):
            self._queue.put_off(entry)
        return Again(entry.due, outcome.kind)

    def _kept(
        self, lane: Endpoint, entry: Open, attempt: Attempt, outcome: Outcome, verdict: Again | Result | None
    ) -> Again | Result | None:
        """The verdict, unless it is held back until the endpoint's debut has shown whose fault it was."""
        result = verdict if isinstance(verdict, Result) else None
        kept = self._withheld.take(lane, entry, attempt, outcome, result)
        self.open += kept and result is not None
        self.open -= self._withheld.decide(lane, self.open)
        return None if kept else verdict

    def reopen(self) -> None:
        """Whatever is held back is open again: the run ends, and nothing will tell any more whose fault it was."""
        self._withheld.reopen()
        self._refusals.reopen()

    def review(self, attempt: Attempt, phase: Phase, age: float, now: float) -> float:
        """A deadline of this attempt has passed: how many more seconds to give it; 0.0 gives it up."""
        return self._in_flight.review(attempt, phase, age, now)

    def in_force(self, attempt: Attempt) -> tuple[float, float, str]:
        """Seconds that an attempt, this one, may now wait for its first byte, and may take as a whole, and why."""
        return self._in_flight.in_force(attempt)

    def eldest(self, endpoint: str, now: float) -> tuple[float, float, str] | None:
        """The same of what has been in flight there for the longest; None when nothing is."""
        return self._in_flight.eldest(endpoint, now)

    def oldest(self) -> float | None:
        """When the longest-running attempt's request was first sent; None when nothing is in flight."""
        return self._in_flight.oldest()

    def pending(self) -> Iterable[Request]:
        """The requests still open, in no order."""
        yield from (entry.request for entry in self._in_flight.values())
        yield from (entry.request for entry in self._queue)
        yield from self._withheld
        yield from self._refusals
        yield from (entry.request for entry in self._chances.unpaid)

    @property
    def in_flight(self) -> int:
        """Attempts sent and not yet settled."""
        return len(self._in_flight) + len(self.twins)

    @property
    def retrying(self) -> int:
        """Requests that wait for their next attempt."""
        return self._queue.retrying + len(self._chances.unpaid)

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """In order of preference."""
        return tuple(self._endpoints.values())

    @property
    def lost(self) -> Sequence[str]:
        """Why endpoints are out of use, in words."""
        return list(dict.fromkeys(endpoint.stopped for endpoint in self._endpoints.values() if endpoint.stopped))

    @property
    def awaited(self) -> Collection[str]:
        """The endpoints in use that may still be sent something: all of them, while there is room for anything else."""
        among = (self._waiting() if self.last or not self.roomy else 0) or self._spread.in_use()
        return {name for name in self._endpoints if self._spread.bit(name) & among}

    @property
    def roomy(self) -> bool:
        """Whether to read on: half of what may be open beside what waits to be earned has ended, or what is left is stuck."""
        half = (self._max_open + len(self._chances.unpaid)) // 2
        return self.open < self._max_open and (self.open <= half or self._idle())

    @property
    def stopped(self) -> str:
        """Why nothing that is open will be sent any more in this run; empty while something may be."""
        if self.unplaced.stopped:
            return self.unplaced.stopped
        over = self._stranded() or not self._spread.in_use()
        return "; ".join(filter(None, [*(self.lost if over else ()), self._unaffordable()]))

    def _unaffordable(self) -> str:
        """Why what is left is not asked again: nothing else is open that could earn it. Empty: something may."""
        unpaid = len(self._chances.unpaid)
        if not unpaid or self.open > unpaid or not (self.last or self.open >= self._max_open):
            return ""
        return f"{unpaid} requests may have been billed without an answer: too many to ask again unasked [E309]"

    def _stranded(self) -> bool:
        """Whether all that is open waits for endpoints that are stopped, and nothing else can come."""
        return (self.last or self.open >= self._max_open) and self._idle()

    def _idle(self) -> bool:
        """Whether nothing is in flight, and nothing lies in the queue that an endpoint in use could be sent."""
        return not (self._in_flight or self._waiting())

    def _waiting(self) -> int:
        """The endpoints in use that something in the queue could be sent to."""
        return self._queue.where & self._spread.in_use()


NOTHING = Wait()
LONGEST_DETOUR = 1.0  # seconds before a request that failed at one endpoint goes to another
