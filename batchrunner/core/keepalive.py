"""How long a connection may lie idle and be used again: what an endpoint shows of its own limit.

Rules:

1. A server may close an idle connection at any moment (RFC 9112 section 9.5), and a request that meets the closing may be on the
   bill. One that was closed under its request has been idle for too long: from then on half of that is enough.
2. A closing after many uses is chance or a restart, and teaches nothing. Nor does what left before the last closing was seen:
   that is one event.
3. What was learned may pass. With each connection that has to be made the time grows a little, and where many are made, no faster
   than it doubles in ten seconds: all that are in flight may find out at once that it has grown too far.
"""

from math import inf

MANY = 8  # uses between two closings
GROWTH = 1.01  # with a connection; where a server keeps nothing, hardly more than one request in a hundred finds it out
DOUBLES = 10.0  # seconds
LEAST = 1e-6  # seconds: where growth begins again


class Keepalive:
    """One endpoint's: `seconds` is the longest that a connection may have been idle."""

    def __init__(self, most: float) -> None:
        self.seconds = self._most = most
        self._uses = 0
        self._seen = self._grown = -inf

    def used(self) -> None:
        """A reply has come on a connection that was used again."""
        self._uses += 1

    def made(self, now: float) -> None:
        """A new connection was needed."""
        if self.seconds < self._most:
            self.seconds = min(self._most, self.seconds * min(GROWTH, 2 ** ((now - self._grown) / DOUBLES)))
            self._grown = now

    def closed(self, idle: float, sent: float, now: float) -> None:
        """A connection that had been idle for so long was closed under a request that was sent at `sent`."""
        if sent < self._seen:
            return
        if self._uses < MANY:
            self.seconds = min(self.seconds, max(LEAST, min(self.seconds, idle) / 2))
        self._uses, self._seen, self._grown = 0, now, now
