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
   `core.claims`, who is given up in `core.chances`, who is asked twice in `core.stragglers`, what an attempt teaches in
   `core.experience`; this room only obeys them.
6. Every verb is O(log n) in the number of open requests.
7. What fails during an endpoint's debut is held back (`core.withheld`), and what an endpoint refuses (`core.refusals`): it stays
   open until it shows whose fault that was, and `decided` tells what became of it.
"""

from collections.abc import Collection, Iterable, Sequence
from math import inf

from msgspec.structs import replace

from batchrunner.core.chances import Chances
from batchrunner.core.claims import Claims
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.health import REST
from batchrunner.core.hedging import BEATEN, LOOK, Hedging, Twins
from batchrunner.core.model import Again, Attempt, Kind, Outcome, Phase, Request, Result, Wait
from batchrunner.core.queue import Decided, Open, Queue
from batchrunner.core.refusals import BLAMED, Refusals
from batchrunner.core.retry import Retries, backoff
from batchrunner.core.spread import Spread
from batchrunner.core.stragglers import Stragglers
from batchrunner.core.streaming import Streaming
from batchrunner.core.treatment import KILLS, REFUSED, TREATMENT
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
        self._in_flight: dict[int, Open] = {}
        self.twins = Twins(hedging)
        self._stragglers = Stragglers(self._in_flight, self._spread, self.experience)
        self._claims = Claims(self._endpoints, self._spread, self._queue, self.experience)
        self.decided: list[Decided] = []  # about what was held back, for whoever takes it from here
        self._withheld = Withheld(self._endpoints, self._queue, self.decided)
        self._refusals = Refusals(self._endpoints, self._spread, self._queue, self.decided)
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

    @property
    def roomy(self) -> bool:
        """Whether to read on: half of what may be open beside what waits to be earned has ended, or what is left is stuck."""
        half = (self._max_open + len(self._chances.unpaid)) // 2
        return self.open <= half or (self.open < self._max_open and self._idle())

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
    def stopped(self) -> str:
        """Why nothing that is open will be sent any more in this run; empty while something may be."""
        if self.unplaced.stopped:
            return self.unplaced.stopped
        over = self._stranded() or not self._spread.in_use()
        return "; ".join(filter(None, [*(self.lost if over else ()), self._unaffordable()]))

    @property
    def lost(self) -> Sequence[str]:
        """Why endpoints are out of use, in words."""
        return list(dict.fromkeys(endpoint.stopped for endpoint in self._endpoints.values() if endpoint.stopped))

    @property
    def awaited(self) -> Collection[str]:
        """The endpoints in use that may still be sent something: all of them, while there is room for anything else."""
        among = (self._waiting() if self.last or not self.roomy else 0) or self._spread.in_use()
        return {name for name in self._endpoints if self._spread.bit(name) & among}

    def oldest(self) -> float | None:
        """When the longest-running attempt's request was first sent; None when nothing is in flight."""
        return min((entry.began for entry in self._in_flight.values()), default=None)

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
            return self._send(entry, lane, now)
        due = min((row.due() for row in rows), default=inf)
        if self.twins.on and self.last and self._in_flight:
            if twin := self._send_twin(lane, now):
                return twin
            due = min(due, now + LOOK)
        until = min(due, again)
        return Wait(until) if until < inf else NOTHING

    def review(self, attempt: Attempt, phase: Phase, age: float, now: float) -> float:
        """A deadline of this attempt has passed: how many more seconds to give it; 0.0 gives it up."""
        lane = self._endpoints[attempt.endpoint]
        patience = self.experience.patience(attempt.endpoint, attempt.request, attempt.stream)
        final = self._chances.final(attempt, lane)
        more, silent = patience.review(attempt, phase, age, now, self._price(lane, attempt, final, now), final)
        if silent and not lane.breaker.open:
            lane.limit.overload(attempt.started, lane.inflight - 1, now)
            if more:
                lane.breaker.fail(attempt.started, now, 0.5, lane.inflight)
        return min(more, REST) if lane.breaker.excuses(attempt.started) else more

    def _price(self, lane: Endpoint, attempt: Attempt, final: bool, now: float) -> float:
        """What giving the attempt up costs: in an outage no more than usual, if another endpoint can be asked instead.

        And nothing where a probe is due and nobody waits to be it: then this request is, unless it would be its end.
        """
        price, where = lane.price(attempt.started), self._in_flight[attempt.request.line].where
        if where & self._spread.serving(now) & ~self._spread.bit(lane.name):
            return min(price, 1.0)
        wanted = price == inf and not len(self._queue) and lane.ready(now) == 0.0
        return float(final) if wanted else price

    def in_force(self, attempt: Attempt, waited: float = 0.0) -> tuple[float, float, str]:
        """Seconds that an attempt, this one, may now wait for its first byte, and may take as a whole, and why."""
        patience = self.experience.patience(attempt.endpoint, attempt.request, attempt.stream)
        final = self._chances.final(attempt, self._endpoints[attempt.endpoint])
        return patience.in_force(attempt.request, attempt.stream, attempt.kills, final, waited)

    def eldest(self, endpoint: str, now: float) -> tuple[float, float, str] | None:
        """The same of what has been in flight there for the longest; None when nothing is."""
        attempts = (entry.sent for entry in self._in_flight.values() if entry.sent)  # in the order in which they were sent
        first = next((attempt for attempt in attempts if attempt.endpoint == endpoint), None)
        return self.in_force(first, now - first.started) if first else None

    def settle(self, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | Result | None:
        """End an attempt: its request is sent again, or this is its result, or None: it is `decided` later.

        Once per attempt, else KeyError.
        """
        if self.twins.on and (apart := self._settle_apart(attempt, outcome, now, u)):
            return apart
        entry = self._in_flight.pop(attempt.request.line)
        lane = self._endpoints[attempt.endpoint]
        lane.left(attempt.started)
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
        good = outcome.kind is Kind.OK
        why = "" if good else self._chances.over(entry, lane, attempt, outcome, now, self._others(attempt))
        if good and (paid := self._chances.answered(entry)):
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
        first = next(iter(self._in_flight.values()), None)
        served = first and first.sent and first.sent.started < attempt.started
        return inf if served or not self.last else len(self._in_flight) + len(self._queue)

    def _refused(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | None:
        """It goes elsewhere, or waits for what the endpoint says to others."""
        self._chances.let_in(entry)
        before = self._refusals.hear(entry, lane, attempt, outcome, now)
        elsewhere = entry.where & self._spread.serving(now) & ~self._spread.bit(lane.name)
        if lane.stopped or (elsewhere and not before):
            return self._again(entry, lane, outcome, now, u)
        entry.due = now + lane.recheck
        entry.renew(outcome, self._keep_partial)
        result = entry.result(attempt, outcome, now, BLAMED, self._keep_partial) if before else None
        self._refusals.hold(entry, attempt, outcome, result)
        if not before:
            return Again(entry.due, outcome.kind)
        self.experience.finished(attempt, outcome.kind, now)
        return None

    def _kept(
        self, lane: Endpoint, entry: Open, attempt: Attempt, outcome: Outcome, verdict: Again | Result | None
    ) -> Again | Result | None:
        result = verdict if isinstance(verdict, Result) else None
        kept = self._withheld.take(lane, entry, attempt, outcome, result)
        self.open += kept and result is not None
        self.open -= self._withheld.decide(lane, self.open)
        return None if kept else verdict

    def reopen(self) -> None:
        """Whatever is held back is open again: the run ends, and nothing will tell any more whose fault it was."""
        self._withheld.reopen()
        self._refusals.reopen()

    def pending(self) -> Iterable[Request]:
        """The requests still open, in no order."""
        yield from (entry.request for entry in self._in_flight.values())
        yield from (entry.request for entry in self._queue)
        yield from self._withheld
        yield from self._refusals
        yield from (entry.request for entry in self._chances.unpaid)

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

    def _send(self, entry: Open, lane: Endpoint, now: float) -> Attempt:
        request, spent = entry.instead or entry.request, entry.spent
        spent.sendings += 1
        if entry.began < 0.0:
            entry.began = now
        self._in_flight[request.line] = entry
        self.sent += 1
        beside, lane.inflight = lane.inflight, lane.inflight + 1
        sending = lane.limit.sent(beside) if lane.limit.heeds else 0
        lane.breaker.sent(now)
        booked = lane.pace(request.model).take(request, now)
        form = self.experience.form(lane.name, request, entry.whole)
        deadlines = self.experience.patience(lane.name, request, form.stream).deadlines(request, spent.kills, form.stream)
        attempt = entry.sent = Attempt(
            request,
            lane.name,
            spent.sendings,
            now,
            deadlines,
            kills=spent.kills,
            fresh=entry.fresh,
            stream=form.stream,
            usage=form.usage,
            unmarked=form.unmarked,
            plain=entry.plain,
            queued=now - entry.due if entry.due else 0.0,
            model=lane.renames(request.model),
            beside=beside,
            sending=sending,
            booked=booked,
            last=self._chances.last(entry),
        )
        return attempt

    def _send_twin(self, lane: Endpoint, now: float) -> Attempt | None:
        """A second attempt beside the latest straggler; None while there is none, or anything else to send."""
        if lane.breaker.open or len(self._queue) > self._queue.retrying or not self.twins.affordable(self.offered):
            return None
        first = self._stragglers.latest(lane, self.twins, now)
        if first is None:
            return None
        entry = self._in_flight[first.request.line]
        twin = entry.sent = replace(self._send(entry, lane, now), queued=0.0, twin=True)
        self.twins.pair(first, twin)
        return twin

    def _settle_apart(self, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | None:
        """End an attempt that says nothing of its request: beaten by its twin, or failed while that goes on. None: it does."""
        if self.twins.beaten(attempt):
            return self._called_off(attempt, now)
        other = self.twins.part(attempt)
        if other is None:
            return None
        entry, treatment = self._in_flight[attempt.request.line], TREATMENT[outcome.kind]
        goes_on = treatment.again or treatment.health in REFUSED
        if outcome.kind is not Kind.CANCELLED and (outcome.final or not goes_on):
            self.twins.beat(other)
            entry.billed += 1
            return None
        entry.sent = other
        return self._outlived(entry, attempt, outcome, now, u)

    def _called_off(self, attempt: Attempt, now: float) -> Again:
        lane = self._endpoints[attempt.endpoint]
        self.twins.forget(attempt)
        lane.left(attempt.started)
        lane.breaker.void(attempt.started)
        return Again(now, BEATEN)

    def _outlived(self, entry: Open, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again:
        """It has failed while its twin goes on: that speaks of the endpoint, and only a kill of the request."""
        lane = self._endpoints[attempt.endpoint]
        entry.billed += outcome.billed
        entry.spent.sendings -= outcome.kind is Kind.CANCELLED
        entry.spent.kills += outcome.kind in KILLS
        lane.left(attempt.started)
        if outcome.kind is not Kind.CANCELLED:
            self.notice = self.experience.inform(attempt, outcome, now, u)
        if TREATMENT[outcome.kind].health in REFUSED:
            self._refusals.hear(entry, lane, attempt, outcome, now)
        return Again(now, "its twin goes on")

    def _again(self, entry: Open, lane: Endpoint, outcome: Outcome, now: float, u: float) -> Again:
        entry.renew(outcome, self._keep_partial)
        entry.avoid = self._claims.avoided(entry, lane, outcome)
        delay = (
            0.0
            if TREATMENT[outcome.kind].at_once
            else backoff(max(1, entry.spent.failures), u, self._chances.wait(entry, outcome))
        )
        if entry.where & ~self._spread.bit(lane.name) & self._spread.serving(now):
            delay = min(delay, u * LONGEST_DETOUR)
        entry.due = now + delay
        if self._chances.paid(entry, outcome):
            self._queue.put_off(entry)
        return Again(entry.due, outcome.kind)


NOTHING = Wait()
LONGEST_DETOUR = 1.0  # seconds before a request that failed at one endpoint goes to another
