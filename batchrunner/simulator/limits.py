"""The embedded endpoint's rate of requests, and what its headers say of it.

Rules:

1. A bucket that holds one second's worth (at least one call) and fills at the rate: GCRA, with one number of state.
2. The headers are true: of `limit` calls that the bucket holds `remaining` would pass now, and at `reset` it is full again.
"""

from datetime import UTC, datetime

from batchrunner.core.model import Route

_UNLIMITED = 6_000_000  # requests per minute that a server without a rate says it allows


class Limits:
    """The state of one server's rate, in requests per second; 0: any number."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._step = 1 / rate if rate else 0.0
        self._window = max(1.0, self._step)
        self._full = 0.0  # when the bucket would be full again

    def early(self, now: float) -> float:
        """Seconds by which a call comes too early; one that is in time is counted."""
        full = max(self._full, now) + self._step
        early = round(full - now - self._window, 6)
        if early <= 0:
            self._full = full
        return early

    def headers(self, now: float, wall: float, route: Route) -> str:
        """Header lines in the style of the route's provider. `now` is the loop's clock, `wall` the world's."""
        if not self._rate and route is not Route.MESSAGES:
            return _FREE
        until = max(0.0, self._full - now)
        limit = round(self._window * self._rate) or _UNLIMITED
        remaining = int(round((self._window - until) * self._rate, 3)) if self._rate else limit - 1
        if route is Route.MESSAGES:
            reset = datetime.fromtimestamp(wall + until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return _lines("anthropic-ratelimit-requests-{}", limit, remaining, reset)
        return _lines("x-ratelimit-{}-requests", limit, remaining, f"{until * 1e3:.0f}ms")


def _lines(name: str, limit: int, remaining: int, reset: str) -> str:
    said = {"limit": limit, "remaining": remaining, "reset": reset}
    return "".join(f"{name.format(word)}: {value}\r\n" for word, value in said.items())


_FREE = _lines("x-ratelimit-{}-requests", _UNLIMITED, _UNLIMITED - 1, "1ms")
