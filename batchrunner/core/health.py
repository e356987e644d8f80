"""How an endpoint is: a pause it asks for, and a rest that we impose.

Rules:

1. A gate is a pause the endpoint asked for; a breaker is one we impose after failures in a row. Neither ever shortens the other.
2. After an outage a few probes go first; what happened to attempts from before the outage no longer counts.
"""

from math import inf

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
FIRST_REST = 2.0  # seconds; doubles with every opening
LONGEST_REST = 4.0  # a probe costs next to nothing, and every second of rest after the outage is lost
GOOD_PROBES = 8


class Breaker:
    """Keeps an endpoint that only fails from being tried by everybody: closed → resting → probing → closed."""

    __slots__ = ("_good", "_limit", "_opened", "_openings", "_probes", "_probing", "_row", "_until", "open")

    def __init__(self, limit: Limit) -> None:
        self.open = False  # resting or probing: failures speak of the endpoint, not of the requests
        self._limit = limit
        self._probing = False
        self._row = 0
        self._openings = 0  # since it was last closed
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

    def sent(self, now: float) -> None:
        """An attempt has gone out, after `wait` has allowed it."""
        if self._probing:
            self._probes += 1

    def ok(self, started: float, now: float) -> None:
        """An attempt showed the endpoint alive, whatever became of the request."""
        if started <= self._opened:
            return
        self._row = 0
        if self._probing:
            self._probes -= 1
            self._good += 1
            if self._good >= GOOD_PROBES:
                self.open, self._probing, self._openings = False, False, 0

    def fail(self, started: float, now: float, u: float) -> None:
        """An attempt failed in a way that speaks against the endpoint; `u` in [0, 1) spreads the rest."""
        if started <= self._opened:
            return
        self._row += 1
        if self._probing or (not self.open and self._row >= max(FAILURES_IN_A_ROW, self._limit.size // 4)):
            rest = min(LONGEST_REST, FIRST_REST * 2.0**self._openings)
            self._opened, self._until = now, now + rest * (0.75 + u / 2.0)
            self._openings = min(self._openings + 1, 16)
            self.open, self._probing, self._row = True, False, 0

    def void(self, started: float) -> None:
        """An attempt ended and says nothing about the endpoint: its place among the probes is free."""
        if self._probing and started > self._opened:
            self._probes -= 1
