"""Whether a request is sent again, and when: what it has spent, how its neighbours fare, what its sendings may cost.

Rules:

1. What is the endpoint's affair, a request does not pay for: an outage, an address at which nobody has answered yet, a pause
   whose length is named, as long as it is no affair of this request alone (`core.turnstile`, `core.suspicion`).
2. What may have been billed without an answer waits until answers have paid for asking again (`core.retry.Purse`).
"""

from collections import defaultdict, deque

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.model import Attempt, Kind, Outcome
from batchrunner.core.queue import Open
from batchrunner.core.retry import MOST_KILLS, TURNS, Neighbours, Purse, Retries, Streak, backoff
from batchrunner.core.suspicion import MINUTES, Suspicion
from batchrunner.core.treatment import KILLS, TREATMENT, UNANSWERED
from batchrunner.core.turnstile import LOAD, MINUTE, Turnstile, turned_away


class Chances:
    """What the requests of a run may still ask for. `unpaid` are those that wait until it is paid for."""

    def __init__(self, policy: Retries) -> None:
        self.unpaid: deque[Open] = deque()
        self._policy = policy
        self._most = TURNS * policy.max_attempts
        self._neighbours = Neighbours()
        self._purse = Purse(policy)
        self._suspicion = Suspicion()
        self._stiles: defaultdict[str, Turnstile] = defaultdict(Turnstile)  # by model

    def answered(self, entry: Open, attempt: Attempt) -> Open | None:
        """An answer has come, which may pay for asking again what waits for that."""
        stile = self._stiles[entry.request.model]
        stile.passed += 1
        stile.freed += entry.spent.turned is not None
        self.let_in(entry)
        self._neighbours.good += 1
        self._suspicion.answered(attempt)
        self._purse.earn()
        return self.unpaid.popleft() if self.unpaid and self._purse.spend() else None

    def last(self, entry: Open) -> bool:
        """Whether the request ends if its next attempt is given up for want of an answer, outages aside."""
        spent, policy = entry.spent, self._policy
        return spent.failures + 1 >= policy.max_attempts or spent.kills + 1 >= MOST_KILLS or policy.retry_ambiguous == "never"

    def final(self, attempt: Attempt, lane: Endpoint) -> bool:
        """Whether giving up an attempt under way would end its request: an outage pardons all but what may not be paid twice."""
        pardoned = self._policy.retry_ambiguous != "never" and lane.breaker.excuses(attempt.started)
        return attempt.last and not pardoned

    def paid(self, entry: Open, outcome: Outcome) -> bool:
        """Whether it may be asked again as far as money goes; if not, it waits here."""
        paid = not outcome.billed or outcome.kind is Kind.INVALID_OUTPUT or self._purse.spend()
        if not paid:
            self.unpaid.append(entry)
        return paid

    def let_in(self, entry: Open) -> None:
        """It is turned away no more, whatever has become of it."""
        if entry.spent.turned:
            entry.spent.turned.stile.waiting -= 1
            entry.spent.turned = None

    def pause(self, entry: Open, outcome: Outcome, u: float) -> float:
        """Seconds until it is sent again: at least as long as the endpoint has asked."""
        if TREATMENT[outcome.kind].at_once:
            return 0.0
        turned, wait = entry.spent.turned, outcome.wait
        if turned and turned.times >= self._policy.max_attempts:
            lasts = LOAD if outcome.kind is Kind.LOADING else MINUTE
            wait = max(wait or 0.0, lasts / (self._most - self._policy.max_attempts))
        elif entry.spent.suspect and entry.spent.turns >= self._policy.max_attempts:
            wait = max(wait or 0.0, MINUTES / (self._most - self._policy.max_attempts))
        return backoff(max(1, entry.spent.failures), u, wait)

    def over(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, others: float) -> str | None:
        """Why the request is not sent again after a failure, in words; None when it is. So many `others` are to be sent."""
        treatment = TREATMENT[outcome.kind]
        if outcome.kind is Kind.INVALID_OUTPUT:
            asked, most = entry.repeated(outcome.kind), self._policy.reask
            return None if asked <= most else f"{asked} answers" if most else ""
        if outcome.instead and entry.repeated(outcome.kind) == 1:
            return None  # once more, in another form
        if outcome.final or not treatment.again:
            return ""
        absent = outcome.kind in UNANSWERED and not lane.heard
        outage = absent or (lane.breaker.excuses(attempt.started) and not _begun(outcome))
        free = treatment.cap and (outage or entry.repeated(outcome.kind) <= treatment.cap)
        if treatment.cap and not free:
            return f"{treatment.cap + 1} times"
        # A pause of a length that the endpoint names, and an outage, are not the request's affair, however long they take.
        named = treatment.health == "pause" and bool(outcome.wait)
        suspect = self._suspicion.failed(entry.spent, attempt, outcome.kind)
        entry.spent.turns += not (named or (outage and not suspect))
        if named and not outage and (why := self._turned(entry, outcome.kind, others)):
            return why
        if outcome.billed and self._policy.retry_ambiguous == "never":
            return "an attempt that may have been billed"
        alike = self._charged(entry, lane, outcome, now - attempt.started) if treatment.spends and not outage else ""
        return alike or entry.spent.over(self._policy) or None

    def _turned(self, entry: Open, kind: Kind, others: float) -> str:
        """Count a pause of a named length. Why it is an affair of this request, in words; empty: it is none."""
        stile = self._stiles[entry.request.model]
        turned = entry.spent.turned = entry.spent.turned or turned_away(stile)
        turned.again(kind is not Kind.LOADING and others < sum(stile.waiting for stile in self._stiles.values()))
        return turned.words() if turned.times >= self._most else ""

    def _charged(self, entry: Open, lane: Endpoint, outcome: Outcome, seconds: float) -> str:
        """Count a failure that speaks against the request. Why it is the request's own fault, in words; empty: it may not be."""
        charge = entry.spent.pay(outcome.kind in KILLS, seconds)
        if TREATMENT[outcome.kind].health == "down":
            lane.breaker.charge(charge)
        entry.spent.streak = entry.spent.streak or Streak()
        return entry.spent.streak.add(outcome, self._neighbours)


def _begun(outcome: Outcome) -> bool:
    """Whether an answer had begun: that is no outage, though it speaks against the endpoint, which worked, and may charge for it.

    A page of somebody else's is no beginning.
    """
    return 200 <= outcome.status < 300 and outcome.kind is not Kind.GARBLED
