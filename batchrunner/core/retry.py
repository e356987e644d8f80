"""When to send a request again, and when to give up.

Rules:

1. The pause before the next sending is drawn from the whole of its range (full jitter), so that failures which came together
   do not return together. What a server asks for is the least, never the most.
2. What a request has spent is counted in three ways, each with its own end: failures that speak against it, attempts that
   our own deadline ended, and sendings that came to nothing. A named wait or an outage, however long,
   spends nothing.
3. There is no retry budget over all requests: a retry takes the slot of a fresh request and adds no load.
"""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import option


class Retries(Struct, frozen=True, kw_only=True):
    """How often one request may be sent."""

    max_attempts: Annotated[
        int,
        option("sendings per request that may fail; waits for a rate limit do not count", group="Patience", metavar="N", ge=1),
    ] = 8
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
TURNS = 3  # times max_attempts: the end even for what is never counted as a failure


def backoff(failures: int, u: float, wait: float | None = None) -> float:
    """Seconds until the next sending, after so many failures (1 or more); `u` in [0, 1); `wait` is what the server asked for."""
    if wait is not None and wait > 0.0:
        return wait + u * max(1.0, wait) / 4.0
    return u * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(failures, 1) - 1, 30))


class Spent(Struct, gc=False):
    """What one request has used up so far. Whoever settles its attempts counts here."""

    failures: int = 0  # failures that count: no wait for a rate limit, and none while the endpoint's breaker is open
    kills: int = 0
    turns: int = 0  # sendings that came to nothing, for whatever reason but those that are the endpoint's own affair
    sendings: int = 0

    def over(self, policy: Retries) -> str:
        """After what the request is given up, in words; empty: it may be sent again."""
        if self.failures >= policy.max_attempts:
            return f"{self.failures} failed attempts"
        if self.kills >= MOST_KILLS:
            return f"{self.kills} attempts without an answer in time, each given longer than the one before"
        if self.turns >= TURNS * policy.max_attempts:
            return f"{self.turns} sendings"
        return ""
