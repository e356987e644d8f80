"""How an endpoint is: a pause it asks for, and a rest that we impose.

Rules:

1. A gate is a pause the endpoint asked for; a breaker is one we impose after failures in a row. Neither ever shortens the other.
2. After an outage a few probes go first; how attempts from before it fail no longer counts.
3. An outage is when nothing is answered. One answer to what was sent since the first of the failures shows that the endpoint
   only fails often: then it goes on, unless there is another that serves, and may cost less.
   What hung while others were answered says nothing of how the endpoint is now (`core.experience`).
4. What an outage made fail is not the requests' fault: neither the failures that revealed it nor what it caught in flight.
"""

from math import inf
from typing import Protocol

from batchrunner.core.limit import Limit

LONGEST_WAIT = 900.0  # a batch is patient, but an endpoint that asks for more than 15 minutes is out of use


class Gate:
    """A pause of a whole endpoint, only ever at its own explicit request."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = -inf

    def throttled(self, wait: float | None, now: float) -> bool:
        """The endpoint asked for a pause of `wait` seconds. False: longer than we honour, so fail over or park."""
        if wait is None or wait <= 0.0:
            return True
        self.until = max(self.until, now + min(wait, LONGEST_WAIT))
        return wait <= LONGEST_WAIT


FAILURES_IN_A_ROW = 10  # or a quarter of the limit, if that is more
REST = 2.0  # seconds: a probe costs little, and every second of rest after the outage is lost
LONGEST_REST = 4.0  # each probe may be on the bill
PATIENCE = 0.02  # of an outage's length so far: a rest as long as that is no loss
GOOD_PROBES = 8


class Charge(Protocol):
    """What a failure has cost a request."""

    def pardon(self) -> None:
        """Take it back."""


class Breaker:
    """A circuit breaker, for an endpoint that only fails: closed → open (it rests) → half-open (it is probed) → closed."""

    __slots__ = ("_began", "_charges", "_good", "_limit", "_opened", "_probes", "_probing", "_row", "_until", "caught", "open")

    def __init__(self, limit: Limit) -> None:
        self.open = False  # resting or probing: failures speak of the endpoint, not of the requests
        self.caught = 0  # in flight since before the last outage began
        self._limit = limit
        self._probing = False
        self._row = 0
        self._began = inf  # when the first of those that failed in a row was sent
        self._charges: list[Charge] = []  # for failures of this row
        self._opened = -inf
        self._until = -inf
        self._probes = 0  # in flight
        self._good = 0

    def wait(self, now: float) -> float | None:
        """0.0: send; seconds: not before; None: enough probes are out, ask again when one has come back."""
        if not self.open:
            return 0.0
        if not self._probing:
            if now < self._until:
                return self._until - now
            self._probing, self._probes, self._good = True, 0, 0
        return 0.0 if self._probes < max(1, 2 * self._good) else None

    def sent(self) -> None:
        """An attempt has gone out, after `wait` has allowed it."""
        if self._probing:
            self._probes += 1

    def ok(self, started: float, spared: bool = False) -> None:
        """An attempt showed the endpoint alive, whatever became of the request. `spared`: others serve meanwhile."""
        if started <= self._opened:
            if self.open and started >= self._began and not spared:
                self.caught = 0
                self._close()
            return
        self._row = 0
        self._charges.clear()
        if self._probing:
            self._probes -= 1
            self._good += 1
            if self._good >= GOOD_PROBES:
                self._close()

    def fail(self, started: float, now: float, u: float, inflight: int = 0) -> None:
        """An attempt failed in a way that speaks against the endpoint; `u` in [0, 1) spreads the rest, others are in flight."""
        if started <= self._opened:
            return
        if not (self._row or self.open):
            self._began = started
        self._row += 1
        if self._probing or (not self.open and self._row >= max(FAILURES_IN_A_ROW, self._limit.size // 4)):
            rest = min(LONGEST_REST, max(REST, PATIENCE * (now - self._began)))
            self._opened, self._until = now, now + rest * (0.75 + u / 2.0)
            self.open, self._probing, self._row, self.caught = True, False, 0, inflight
            for charge in self._charges:
                charge.pardon()
            self._charges.clear()

    def charge(self, charge: Charge) -> None:
        """What the last failure has cost its request, in case it turns out to be the first of an outage."""
        if self._row:
            self._charges.append(charge)

    def void(self, started: float) -> None:
        """An attempt ended and says nothing about the endpoint: its place among the probes is free."""
        if self._probing and started > self._opened:
            self._probes -= 1

    def left(self, started: float) -> None:
        """One of those in flight, of which some are caught, has ended."""
        self.caught -= started <= self._opened

    def excuses(self, started: float) -> bool:
        """Whether a failure of what was sent then is an outage's fault."""
        return self.open or started <= self._opened

    def price(self, started: float) -> float:
        """Tokens that giving up what was sent then and is overdue costs (`core.kills`).

        None for a probe, which another follows. In an outage no number of them is enough for anything else: it is given up
        when answers come again, and those who are asked anew prove it right; or to be the next probe (`core.flight`).
        """
        return 1.0 if not self.open else 0.0 if started > self._opened else inf

    def _close(self) -> None:
        self.open, self._probing, self._row, self._began = False, False, 0, inf
