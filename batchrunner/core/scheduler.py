"""Which request is sent next, and what becomes of it: the life of every open request.

    offer ──► ready ──next──► in flight ──settle──► Result
                ▲                │
                └── retry heap ◄─┘ Again(at)

Rules:

1. Three verbs move a request: `offer` opens it, `next` sends it, `settle` ends its attempt: exactly once per attempt.
2. Every offered request ends in exactly one `Result`, unless the run ends first; then it is still open and simply pending.
3. Waiting is never an attempt, and a waiting request holds no slot: it lies in the retry heap.
4. A due retry goes before fresh work, except at an endpoint on probation: a poison request must not decide its fate.
5. What a kind of outcome entails stands in `classify.TREATMENT`; this room only obeys it.
6. Every verb is O(log n) in the number of open requests.
7. What fails during an endpoint's debut is held back (`core.debut`): it stays open until `decided` tells what became of it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from batchrunner.core.classify import TREATMENT, Treatment
from batchrunner.core.deadlines import Patience, Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.lessons import Answers, Lessons
from batchrunner.core.model import Again, Attempt, Error, Kind, Outcome, Phase, Request, Result, Wait
from batchrunner.core.retry import Retries, Spent, backoff
from batchrunner.core.streaming import Manner, Streaming


class _Open:
    """A request between its offer and its result."""

    __slots__ = ("began", "billed", "due", "fresh", "partial", "plain", "repeats", "request", "spent", "whole")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.spent = Spent()
        self.began = -1.0
        self.due = 0.0  # of a retry
        self.billed = 0
        self.fresh = False
        self.plain = False
        self.whole = False  # it cannot be streamed, though others at its endpoint can
        self.partial = b""
        self.repeats: dict[Kind, int] | None = None

    def repeated(self, kind: Kind) -> int:
        """How often this kind has now happened to this request."""
        if self.repeats is None:
            self.repeats = {}
        count = self.repeats[kind] = self.repeats.get(kind, 0) + 1
        return count

    def repeats_of(self, kind: Kind) -> int:
        """How often this kind has happened to this request so far."""
        return self.repeats.get(kind, 0) if self.repeats else 0


class Scheduler:
    """Holds every open request. `max_open` bounds them, and with them the memory of a run.

    The endpoints stand in order of preference: a later one is used while no earlier one can be.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        retries: Retries,
        timeouts: Timeouts,
        max_open: int,
        streaming: Streaming = Streaming(),
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._preference = tuple(endpoints)
        self._retries_policy = retries
        self._timeouts = timeouts
        self._max_open = max_open
        self._keep_partial = streaming.keep_partial
        self._manners = {endpoint.name: Manner(endpoint.name, streaming) for endpoint in endpoints}
        self._ready: deque[_Open] = deque()
        self._waiting: list[tuple[float, int, _Open]] = []
        self._in_flight: dict[int, _Open] = {}
        self._held: list[tuple[_Open, Attempt, Outcome, Result]] = []
        self._patience: dict[tuple[str, str, str, bool], Patience] = {}
        self._sequence = 0
        self.sent = 0  # attempts so far
        self.paused = False  # nothing new is sent; what is in flight ends as usual
        self.notice = ""  # what the last settling taught about an endpoint, for people
        self.decided: list[tuple[Attempt, Outcome, Result | None]] = []  # of what was held back; None: open again

    def __repr__(self) -> str:
        return (
            f"<Scheduler ready={len(self._ready)} retrying={self.retrying} in_flight={self.in_flight} max_open={self._max_open}>"
        )

    @property
    def open(self) -> int:
        """Requests offered and not yet ended."""
        return len(self._ready) + len(self._waiting) + len(self._in_flight) + len(self._held)

    @property
    def roomy(self) -> bool:
        """Whether so much has ended that it is worth reading on: half of what may be open."""
        return self.open <= self._max_open // 2

    @property
    def in_flight(self) -> int:
        """Attempts sent and not yet settled."""
        return len(self._in_flight)

    @property
    def retrying(self) -> int:
        """Requests that wait for their next attempt."""
        return len(self._waiting)

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """In order of preference."""
        return self._preference

    @property
    def stopped(self) -> str:
        """Why no endpoint will ever serve again in this run; empty while one may."""
        reasons = [endpoint.stopped for endpoint in self._preference]
        return reasons[-1] if all(reasons) else ""

    def oldest(self) -> float | None:
        """When the longest-running attempt's request was first sent; None when nothing is in flight."""
        return min((entry.began for entry in self._in_flight.values()), default=None)

    def offer(self, request: Request) -> bool:
        """Open a request; False, and nothing happens, when `max_open` are open already."""
        if self.open >= self._max_open:
            return False
        self._ready.append(_Open(request))
        return True

    def next(self, endpoint: str, now: float) -> Attempt | Wait:
        """The attempt this endpoint should send now, or how long there is none."""
        lane = self._endpoints[endpoint]
        pause = lane.ready(now)
        if pause is None or self.paused:
            return Wait()
        if pause > 0.0:
            return Wait(now + pause)
        if lane is not self._preference[0] and self._earlier_serves(lane, now):
            return Wait()
        entry = self._take(lane, now)
        if entry is None:
            return Wait(self._waiting[0][0] if self._waiting else None)
        return self._send(entry, lane, now)

    def review(self, attempt: Attempt, phase: Phase, age: float, now: float) -> float:
        """A deadline of this attempt has passed: how many more seconds to give it; 0.0 gives it up."""
        more, overload = self._patience_for(attempt.endpoint, attempt.request, attempt.stream).review(attempt, phase, age, now)
        if overload:
            lane = self._endpoints[attempt.endpoint]
            lane.limit.overload(attempt.started, lane.inflight - 1, now)
        return more

    def in_force(self, attempt: Attempt) -> tuple[float, float, str]:
        """Seconds that a first attempt like this one may now wait for its first byte, and may take as a whole, and why."""
        return self._patience_for(attempt.endpoint, attempt.request, attempt.stream).in_force(attempt.request, attempt.stream)

    def settle(self, attempt: Attempt, outcome: Outcome, now: float, u: float) -> Again | Result | None:
        """End an attempt: its request is sent again, or this is its result, or None: that is decided later, and `decided` tells.

        Once per attempt, else KeyError.
        """
        entry = self._in_flight.pop(attempt.request.line)
        lane = self._endpoints[attempt.endpoint]
        lane.inflight -= 1
        treatment = TREATMENT[outcome.kind]
        entry.billed += outcome.billed
        if outcome.kind is Kind.CANCELLED:
            entry.spent.sendings -= 1
            self._ready.appendleft(entry)
            return Again(now, "cancelled")
        # What had begun to be answered is no outage, though it spoke against the endpoint: it worked, and may charge for it.
        # A page of somebody else's is no beginning.
        outage = lane.breaker.open and (not 200 <= outcome.status < 300 or outcome.kind is Kind.GARBLED)
        self._inform(lane, attempt, outcome, treatment, now, u)
        why = "" if outcome.kind is Kind.OK else self._exhausted(entry, outcome, treatment, outage)
        verdict: Again | Result
        if why is None:
            verdict = self._again(entry, outcome, treatment, now, u)
        else:
            verdict = self._finish(entry, attempt, outcome, treatment, now, why)
        return verdict if lane.debut.over and not self._held else self._on_debut(lane, entry, attempt, outcome, verdict)

    def reopen(self) -> None:
        """Whatever is held back is open again: the run ends, and nothing will tell any more whose fault it was."""
        for lane in self._preference:
            self._decide(lane, fails=False)

    def pending(self) -> Iterable[Request]:
        """The requests still open, in no order."""
        yield from (entry.request for entry in self._in_flight.values())
        yield from (entry.request for entry in self._ready)
        yield from (entry.request for _, _, entry in self._waiting)
        yield from (entry.request for entry, *_ in self._held)

    def learned(self, endpoint: str) -> Lessons:
        """What this endpoint has taught so far."""
        answers = tuple(
            Answers(model, route, stream, patience.learned())
            for (name, model, route, stream), patience in self._patience.items()
            if name == endpoint
        )
        return Lessons(self._manners[endpoint].learned(), answers)

    def recall(self, endpoint: str, lessons: Lessons) -> None:
        """Begin with what this endpoint taught an earlier run; before the first request."""
        self._manners[endpoint].recall(lessons.facts)
        for known in lessons.answers:
            patience = self._patience[endpoint, known.model, known.route, known.stream] = Patience(self._timeouts)
            patience.recall(known.latencies)

    def _earlier_serves(self, lane: Endpoint, now: float) -> bool:
        for endpoint in self._preference:
            if endpoint is lane:
                return False
            if endpoint.serves(now):
                return True
        return False

    def _take(self, lane: Endpoint, now: float) -> _Open | None:
        due = bool(self._waiting) and self._waiting[0][0] <= now
        if self._ready and (not due or lane.breaker.open):
            return self._ready.popleft()
        return heappop(self._waiting)[2] if due else None

    def _send(self, entry: _Open, lane: Endpoint, now: float) -> Attempt:
        request, spent = entry.request, entry.spent
        spent.sendings += 1
        if entry.began < 0.0:
            entry.began = now
        self._in_flight[request.line] = entry
        self.sent += 1
        lane.inflight += 1
        lane.breaker.sent(now)
        manner = self._manners[lane.name]
        form = manner.whole if entry.whole else manner.form(request)
        deadlines = self._patience_for(lane.name, request, form.stream).deadlines(request, spent.kills, form.stream)
        return Attempt(
            request,
            lane.name,
            spent.sendings,
            now,
            deadlines,
            spent.kills,
            entry.fresh,
            form.stream,
            form.usage,
            form.unmarked,
            entry.plain,
            now - entry.due if entry.due else 0.0,
        )

    def _patience_for(self, endpoint: str, request: Request, stream: bool) -> Patience:
        key = (endpoint, request.model, request.route, stream)
        patience = self._patience.get(key)
        if patience is None:
            patience = self._patience[key] = Patience(self._timeouts)
        return patience

    def _inform(self, lane: Endpoint, attempt: Attempt, outcome: Outcome, treatment: Treatment, now: float, u: float) -> None:
        """Tell each rule what it learns from; each signal has one owner (`TREATMENT`)."""
        if treatment.limit == "success":
            lane.limit.success(attempt.started, lane.inflight, now)
        elif treatment.limit == "pushback":
            lane.limit.pushback(attempt.started, lane.inflight, now)
        elif treatment.limit == "crowded":
            lane.limit.crowded(attempt.started, lane.inflight, now)
        lane.learn(treatment.health, attempt.started, outcome, now, u)
        self.notice = self._manners[lane.name].learn(attempt, outcome)
        patience = self._patience_for(attempt.endpoint, attempt.request, attempt.stream)
        if treatment.sample:
            patience.success(attempt, outcome.timing, now)
        elif outcome.kind in KILLS:
            patience.killed(attempt, now - attempt.started)

    def _exhausted(self, entry: _Open, outcome: Outcome, treatment: Treatment, outage: bool) -> str | None:
        """Why the request is not sent again, in words; None when it is."""
        if treatment.health == "stop":
            return None  # the endpoint is to blame: the request stays pending, for another endpoint or another run
        if outcome.final or not treatment.again:
            return ""
        free = treatment.cap and (outage or entry.repeated(outcome.kind) <= treatment.cap)
        if treatment.cap and not free:
            return f"{treatment.cap + 1} times"
        spent, counted = entry.spent, treatment.spends and not outage
        spent.kills += counted and outcome.kind in KILLS
        spent.failures += counted
        # A pause of a length that the endpoint names, and an outage, are not the request's affair, however long they take.
        named = treatment.health == "pause" and bool(outcome.wait)
        spent.turns += not (named or outage)
        return spent.over(self._retries_policy) or None

    def _again(self, entry: _Open, outcome: Outcome, treatment: Treatment, now: float, u: float) -> Again:
        entry.fresh = treatment.fresh
        entry.plain = entry.plain or outcome.kind is Kind.PROTOCOL
        entry.whole = entry.whole or (outcome.kind is Kind.UNSUPPORTED and entry.repeats_of(Kind.UNSUPPORTED) > 1)
        if self._keep_partial:
            entry.partial = outcome.partial or entry.partial
        delay = 0.0 if treatment.at_once else backoff(max(1, entry.spent.failures), u, outcome.wait)
        self._sequence += 1
        entry.due = now + delay
        heappush(self._waiting, (entry.due, self._sequence, entry))
        return Again(now + delay, outcome.kind)

    def _on_debut(
        self, lane: Endpoint, entry: _Open, attempt: Attempt, outcome: Outcome, verdict: Again | Result
    ) -> Again | Result | None:
        """The verdict, or None when the debut has it held back. What is held is decided as soon as it can be."""
        debut, result = lane.debut, verdict if isinstance(verdict, Result) else None
        held = debut.take(attempt.request.line, outcome, result is not None)
        if held and result:
            self._held.append((entry, attempt, outcome, result))
        if debut.full and not lane.inflight:
            lane.stopped = lane.stopped or debut.verdict(lane.name)
        if lane.stopped:
            self._decide(lane, fails=False)
        elif debut.over:
            self._decide(lane, fails=True)
        for other in self._preference if self.open == len(self._held) else ():
            self._decide(other, fails=True)  # nothing is left that could tell
        return None if held else verdict

    def _decide(self, lane: Endpoint, *, fails: bool) -> None:
        """What is held back of this endpoint's requests has failed, or is open again."""
        mine = [each for each in self._held if each[1].endpoint == lane.name]
        self._held = [each for each in self._held if each[1].endpoint != lane.name]
        self._ready.extendleft(entry for entry, *_ in reversed(mine if not fails else ()))
        self.decided += [(attempt, outcome, result if fails else None) for _, attempt, outcome, result in mine]

    def _finish(
        self, entry: _Open, attempt: Attempt, outcome: Outcome, treatment: Treatment, now: float, why: str = ""
    ) -> Result:
        request = entry.request
        for patience in self._patience.values() if entry.spent.kills else ():
            patience.forget(request)
        error = None
        if outcome.kind is not Kind.OK:
            message = f"{outcome.message} (gave up after {why})" if why else outcome.message
            error = Error(outcome.kind, outcome.code, message, treatment.hint)
        return Result(
            request=request,
            kind=outcome.kind,
            status=outcome.status,
            body=outcome.body,
            request_id=outcome.request_id,
            error=error,
            attempts=entry.spent.sendings,
            seconds=now - entry.began,
            endpoint=attempt.endpoint,
            usage=outcome.usage,
            flags=outcome.flags,
            maybe_billed=entry.billed,
            partial=(outcome.partial or entry.partial) if error and self._keep_partial else b"",
        )


KILLS = frozenset({Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_TOTAL})
