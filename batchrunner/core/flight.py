"""Requests in flight: how one is sent, and how long its attempt is waited for.

Rules:

1. What is sent and how, an attempt knows from the first moment on: its number, its form, its first deadlines, what was in flight
   beside it. Nothing of that changes while it is under way.
2. A deadline that has passed is a question: how much longer to wait is learned meanwhile (`core.deadlines`), and so is what
   giving the attempt up costs.
3. Where giving it up would end its request, it is waited for much longer.
4. What has taken longer than is usual and goes on, since it may be given up no more or not yet, holds no slot of the limit when
   later ones have been answered. Where nothing else is under way one may go beside it, and shows whether they are.
"""

from collections.abc import Mapping
from math import inf

from batchrunner.core.chances import Chances
from batchrunner.core.deadlines import Patience, pause
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.health import REST
from batchrunner.core.model import Attempt, Phase
from batchrunner.core.queue import Open, Queue
from batchrunner.core.spread import Spread


class InFlight(dict[int, Open]):
    """The requests in flight, by line, in the order in which they were sent; `sent` of each is its attempt, or its last one."""

    def __init__(
        self, endpoints: Mapping[str, Endpoint], spread: Spread, queue: Queue, experience: Experience, chances: Chances
    ) -> None:
        super().__init__()
        self._endpoints = endpoints
        self._spread = spread
        self._queue = queue
        self._experience = experience
        self._chances = chances

    def send(self, entry: Open, lane: Endpoint, now: float) -> Attempt:
        """The next attempt at this request."""
        request, spent = entry.instead or entry.request, entry.spent
        spent.sendings += 1
        if entry.began < 0.0:
            entry.began = now
        self[request.line] = entry
        beside, lane.inflight = lane.inflight, lane.inflight + 1
        sending = lane.limit.sent(beside) if lane.limit.heeds else 0
        lane.breaker.sent()
        booked = lane.pace(request.model).take(request, now)
        form = self._experience.form(lane.name, request, entry.whole)
        deadlines = self._experience.patience(lane.name, request, form.stream).deadlines(request, spent.kills, form.stream)
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

    def review(self, attempt: Attempt, phase: Phase, age: float, now: float) -> float:
        """A deadline of this attempt has passed: how many more seconds to give it; 0.0 gives it up."""
        if attempt.request.line not in self:
            return REST  # its twin has answered in this very moment, and it is about to be called off
        lane = self._endpoints[attempt.endpoint]
        patience = self._experience.patience(attempt.endpoint, attempt.request, attempt.stream)
        final = self._chances.final(attempt, lane)
        more, silent = patience.review(attempt, phase, age, now, self._price(lane, attempt, final, now), final)
        if silent and not lane.breaker.open:
            lane.limit.overload(attempt.started, lane.inflight - 1, now)
            if more:
                lane.breaker.fail(attempt.started, now, 0.5, lane.inflight)
        if more > 0.0:
            more = min(more, self._slot(lane, patience, attempt, phase, age))
        return min(more, REST) if lane.breaker.excuses(attempt.started) else more

    def _slot(self, lane: Endpoint, patience: Patience, attempt: Attempt, phase: Phase, age: float) -> float:
        """Let an attempt that goes on hold no slot any more, if it need not; seconds until that is asked again."""
        place = attempt.request.line, attempt.number
        if place in lane.overdue:
            return inf
        left = patience.usual(attempt, phase, age)
        if left > 0.0:
            return left
        if not (patience.outrun(attempt) or lane.inflight == len(lane.overdue) + 1):
            return pause(age)
        lane.overdue.add(place)
        return inf

    def _price(self, lane: Endpoint, attempt: Attempt, final: bool, now: float) -> float:
        """What giving the attempt up costs: in an outage no more than usual, if another endpoint can be asked instead.

        And nothing where a probe is due and nobody waits to be it: then this request is, unless it would be its end.
        """
        price = lane.price(attempt.started)
        if self._spread.elsewhere(self[attempt.request.line].where, lane, now):
            return min(price, 1.0)
        wanted = price == inf and not len(self._queue) and lane.ready(now) == 0.0
        return float(final) if wanted else price

    def in_force(self, attempt: Attempt, waited: float = 0.0) -> tuple[float, float, str]:
        """Seconds that an attempt, this one, may now wait for its first byte, and may take as a whole, and why."""
        patience = self._experience.patience(attempt.endpoint, attempt.request, attempt.stream)
        final = self._chances.final(attempt, self._endpoints[attempt.endpoint])
        return patience.in_force(attempt.request, attempt.stream, attempt.kills, final, waited)

    def eldest(self, endpoint: str, now: float) -> tuple[float, float, str] | None:
        """The same of what has been in flight there for the longest; None when nothing is."""
        attempts = (entry.sent for entry in self.values() if entry.sent)
        first = next((attempt for attempt in attempts if attempt.endpoint == endpoint), None)
        return self.in_force(first, now - first.started) if first else None

    def oldest(self) -> float | None:
        """When the longest-running attempt's request was first sent; None when nothing is in flight."""
        return min((entry.began for entry in self.values()), default=None)

    def older(self, attempt: Attempt) -> bool:
        """Whether something that was sent before this attempt is still under way."""
        first = next(iter(self.values()), None)
        return bool(first and first.sent and first.sent.started < attempt.started)
