"""What attempts teach: how each endpoint is asked, how long it takes, how much it stands.

Rules:

1. Each signal of an outcome has one owner (`treatment.TREATMENT`): limit, pace, health, manner or patience. Here it is told.
2. How long answers take is learned apart for each endpoint, model, route and form of answer.
3. What hung while later ones were answered speaks of itself, not of the endpoint's health.
4. What one run has learned the next may begin with (`core.lessons`).
"""

from collections.abc import Mapping
from math import inf

from batchrunner.core.deadlines import Patience, Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.lessons import Answers, Lessons
from batchrunner.core.model import Attempt, Kind, Outcome, Request
from batchrunner.core.streaming import Form, Manner, Streaming
from batchrunner.core.treatment import KILLS, TREATMENT

MOST_LESSONS = 50  # models and forms of answer that are remembered of an endpoint: those with the most answers


class Experience:
    """What is known of some endpoints, by name."""

    def __init__(self, endpoints: Mapping[str, Endpoint], timeouts: Timeouts, streaming: Streaming) -> None:
        self._endpoints = endpoints
        self._timeouts = timeouts
        self._manners = {name: Manner(name, streaming) for name in endpoints}
        self._patience: dict[tuple[str, str, str, bool], Patience] = {}

    def form(self, endpoint: str, request: Request, whole: bool) -> Form:
        """How to ask an endpoint for this; `whole` for an answer that is not to be streamed."""
        manner = self._manners[endpoint]
        return manner.whole if whole else manner.form(request)

    def patience(self, endpoint: str, request: Request, stream: bool) -> Patience:
        """How long to wait there for an answer to this, in this form."""
        key = (endpoint, request.model, request.route, stream)
        patience = self._patience.get(key)
        if patience is None:
            patience = self._patience[key] = Patience(self._timeouts)
        return patience

    def usual(self, endpoint: str, request: Request) -> Patience:
        """The same, in the form in which this is asked there now."""
        return self.patience(endpoint, request, self._manners[endpoint].form(request).stream)

    def inform(self, attempt: Attempt, outcome: Outcome, now: float, u: float) -> str:
        """Tell each rule what it learns from; a refused rate is the pace's affair, if there is one. A line for people, or ""."""
        lane, treatment = self._endpoints[attempt.endpoint], TREATMENT[outcome.kind]
        pace = lane.pace(attempt.request.model)
        paced = pace.settle(attempt, outcome, now)
        chance = _limit(lane, attempt, outcome, now, paced, pace.rate.disputed)
        patience = self.patience(attempt.endpoint, attempt.request, attempt.stream)
        health = "" if outcome.kind in KILLS and patience.outrun(attempt) else treatment.health
        spared = lane.breaker.open and any(other.serves(now) for other in self._endpoints.values() if other is not lane)
        if outcome.kind is Kind.OK:
            lane.doubt.answer(attempt.started, attempt.request.model)
        lane.learn(health, attempt.started, outcome, now, u, spared, chance)
        if treatment.sample:
            patience.success(attempt, outcome.timing, now)
        elif outcome.kind in KILLS:
            patience.killed(attempt, now - attempt.started)
        said = self._manners[attempt.endpoint].learn(attempt, outcome)
        return said or (f"{attempt.endpoint}: {slow}" if attempt.booked and (slow := pace.exceeded(outcome.usage)) else "")

    def finished(self, attempt: Attempt, kind: Kind, now: float) -> None:
        """The request has ended for good: what we ended of its attempts is judged by how long the last one took."""
        for patience in self._patience.values() if attempt.number > 1 else ():
            patience.forget(attempt.request, now - attempt.started if kind is Kind.OK else inf)

    def learned(self, endpoint: str, now: float, last: bool) -> Lessons:
        """What this endpoint has taught so far; `last`: the run is over, and what it sends will not be more."""
        known = [(key, patience) for key, patience in self._patience.items() if key[0] == endpoint]
        known.sort(key=lambda each: -len(each[1]))
        answers = tuple(Answers(*key[1:], patience.learned()) for key, patience in known[:MOST_LESSONS])
        lane = self._endpoints[endpoint]
        rates = dict(list(lane.found.items())[:MOST_LESSONS])
        return Lessons(self._manners[endpoint].learned(), lane.limit.size, rates, lane.days(now, last), answers)

    def recall(self, endpoint: str, lessons: Lessons, now: float, ago: float) -> None:
        """Begin with what this endpoint taught an earlier run, so many seconds ago; before the first request."""
        self._manners[endpoint].recall(lessons.facts)
        lane = self._endpoints[endpoint]
        lane.doubt.known = bool(lessons.answers)
        lane.limit.warm(lessons.limit)
        for model, rate in lessons.rates.items():
            lane.pace(model).warm(rate)
        for model, slots in lessons.days.items():
            if day := lane.pace(model).day:
                day.recall([(age + ago, count) for age, count in slots], now)
        for known in lessons.answers:
            patience = self._patience[endpoint, known.model, known.route, known.stream] = Patience(self._timeouts)
            patience.recall(known.latencies)


def _limit(lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, paced: bool, disputed: bool) -> bool:
    """Tell the concurrency limit. True: the endpoint has objected by chance, of which the limit hears nothing."""
    signal = TREATMENT[outcome.kind].limit
    if signal == "success":
        lane.limit.success(attempt.started, lane.inflight, now, work=_work(outcome))
    elif signal == "crowded":
        lane.limit.crowded(attempt.started, lane.inflight, now)
    elif signal == "pushback" and not paced:
        judged = outcome.kind is not Kind.RATE_LIMITED or disputed
        if judged and lane.limit.chance(outcome.kind, attempt.beside, attempt.sending):
            return True
        lane.limit.pushback(attempt.started, lane.inflight, now, outcome.wait or 0.0)
    return False


def _work(outcome: Outcome) -> float:
    """How much work an answer was: one for itself, and one for every hundred tokens, if it says how many it has."""
    return 1.0 + outcome.usage.output / 100.0 if outcome.usage else 1.0
