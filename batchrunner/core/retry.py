"""When to send a request again, and when to give up.

Rules:

1. The pause before the next sending is drawn from the whole of its range (full jitter), so that failures which came together
   do not return together. What a server asks for is the least, never the most.
2. What a request has spent is counted in three ways, each with its own end: failures that speak against it, attempts that
   our own deadline ended, and sendings that came to nothing. A named wait or an outage, however long,
   spends nothing; but see `core.turnstile` and `core.suspicion`.
3. No budget bounds retries for the sake of load: a retry takes the slot of a fresh request. One bounds them for the sake of
   money: what may have been billed without an answer is asked again only as far as answers have earned it (`Purse`).
4. A request that fails alike again and again, while failures are rare around it, is to blame itself, and ends early. How often
   is enough follows from how rare they are: its streak must be next to impossible by chance.
"""

from typing import Annotated, Literal

from msgspec import Struct

from batchrunner.core.model import Attempt, Kind, Outcome
from batchrunner.core.policy import option
from batchrunner.core.turnstile import Turned
from batchrunner.core.wording import plural


class Retries(Struct, frozen=True, kw_only=True):
    """How often one request may be sent."""

    max_attempts: Annotated[
        int,
        option("sendings per request that may fail; waits for a rate limit do not count", group="Patience", metavar="N", ge=1),
    ] = 8
    max_age: Annotated[
        float,
        option(
            "give a request up when its failed attempts have taken so long together; 0 is never",
            group="Patience",
            metavar="T",
            unit="seconds",
            main=False,
            ge=0,
        ),
    ] = 0.0
    retry_ambiguous: Annotated[
        Literal["always", "budget", "never"],
        option(
            "ask again what may have been billed without an answer; budget: as far as one in four of the answers pays for it",
            group="Patience",
            metavar="always|budget|never",
            main=False,
        ),
    ] = "budget"
    reask: Annotated[
        int,
        option(
            "times to ask again for an answer that does not fit (expect, schema, validate); costs no attempt",
            group="Patience",
            metavar="N",
            main=False,
            ge=0,
        ),
    ] = 2


FIRST_PAUSE = 1.0  # seconds; the range doubles with every failure
LONGEST_PAUSE = 60.0
MOST_KILLS = 4  # the deadline has doubled each time: what then still does not answer will not
ALIKE = 3  # failures of one kind in a row that may be a request's own fault
IMPROBABLE = 1e-6  # a chance that no request of a large job will meet
PECULIAR = frozenset({Kind.SERVER_ERROR, Kind.GATEWAY, Kind.NETWORK, Kind.TRUNCATED})
"""Failures that a request may cause by what it holds; all others speak of the endpoint, or end early anyway."""
FLOOR = 256.0  # requests that may be asked again before anything has been earned: what is under way when an outage begins
SHARE = 0.25  # of a request earned by every answer
TURNS = 3  # times max_attempts: the end even for what is never counted as a failure


def backoff(failures: int, u: float, wait: float | None = None) -> float:
    """Seconds until the next sending, after so many failures (1 or more); `u` in [0, 1); `wait` is what the server asked for."""
    if wait is not None and wait > 0.0:
        return wait + u * max(1.0, wait) / 4.0
    return u * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(failures, 1) - 1, 30))


class Neighbours(Struct):
    """How all requests have fared so far: answers, and failures that counted."""

    good: int = 0
    bad: int = 0


class Streak(Struct, gc=False):
    """Failures of one request that are alike, and how its neighbours fared meanwhile."""

    mark: tuple[Kind, int, str] | None = None
    times: int = 0
    good: int = 0  # of the neighbours, when it began
    bad: int = 0

    def add(self, outcome: Outcome, neighbours: Neighbours) -> str:
        """Count a failure. What makes it the request's own fault, in words; empty: it may be chance."""
        mark = (outcome.kind, outcome.status, outcome.code)
        if mark != self.mark:
            self.mark, self.times, self.good, self.bad = mark, 0, neighbours.good, neighbours.bad
        self.times += 1
        good, bad = neighbours.good - self.good, neighbours.bad - self.bad - (self.times - 1)
        neighbours.bad += 1
        likely = (bad + 1) / (good + bad + 2)  # that the next one fails, by Laplace's rule of succession
        if self.times < ALIKE or outcome.kind not in PECULIAR or likely**self.times > IMPROBABLE:
            return ""
        return f"{self.times} failures alike, while {good} others succeeded"


class Purse:
    """A retry budget: what may be spent on asking again for what may have been billed already."""

    def __init__(self, policy: Retries) -> None:
        self._bounded = policy.retry_ambiguous == "budget"
        self._left = FLOOR

    def earn(self) -> None:
        """An answer has come."""
        self._left += SHARE

    def spend(self) -> bool:
        """Pay for one. False: there is too little left."""
        if self._bounded and self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Spent(Struct, gc=False):
    """What one request has used up so far. Whoever settles its attempts counts here."""

    failures: int = 0  # failures that count: no wait for a rate limit, and none while the endpoint's breaker is open
    kills: int = 0
    turns: int = 0  # sendings that came to nothing, for whatever reason but those that are the endpoint's own affair
    sendings: int = 0
    seconds: float = 0.0  # of attempts whose failure counted
    streak: Streak | None = None
    turned: Turned | None = None
    failed: Attempt | None = None  # the last attempt that may have failed by what the request holds (`core.suspicion`)
    suspect: bool = False

    def pay(self, killed: bool, seconds: float) -> "Charge":
        """For a failure that counts."""
        self.failures += 1
        self.kills += killed
        self.seconds += seconds
        return Charge(self, killed, seconds)

    def over(self, policy: Retries) -> str:
        """After what the request is given up, in words; empty: it may be sent again."""
        if self.failures >= policy.max_attempts:
            return plural(self.failures, "failed attempt")
        if self.kills >= MOST_KILLS:
            return f"{self.kills} attempts without an answer in time, each given longer than the one before"
        if policy.max_age and self.seconds >= policy.max_age:
            return f"{self.seconds:.0f} s of failed attempts"
        if self.turns >= TURNS * policy.max_attempts:
            return f"{self.turns} sendings"
        return ""


class Charge(Struct, frozen=True, gc=False):
    """What one failure has cost a request."""

    spent: Spent
    killed: bool
    seconds: float

    def pardon(self) -> None:
        """Take it back, and the sending: it was an outage."""
        self.spent.failures -= 1
        self.spent.turns -= 1
        self.spent.kills -= self.killed
        self.spent.seconds -= self.seconds
