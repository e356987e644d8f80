"""Where the seconds of an endpoint's clock begin, and what one of them lets in.

Many limits are a number for each second of a clock, which counts anew with each of them.

Rules:

1. Whoever climbs slowly is refused just before such a second ends. So the pause of a second ends just before another one ends,
   of which nothing was used; and the next begins within as much of a second as the climb has gained in one.
2. What a second lets in until it refuses is the limit itself, however fast it went. It is counted when the pause is over: only
   then it is known who else was refused.
3. With the limit it is known how long the second was that refused the climb, and so when each of them begins.
4. If the count is none that the climb could have met, or the second after a pause refuses what one must let in, there is no
   such clock: a bucket leaks, or a window opens with a request, or slides. Then it is never looked for again.
"""

from math import inf

from batchrunner.core.window import Window

TICK = 0.25  # seconds between the notes that are taken; one is taken where a second begins
EDGE = 0.05  # seconds by which that may be missed
EARLY = 0.02  # and by which one may begin before it is known to: what a refusal takes to come
NEAR = 0.03  # below what must be let in, and
LATE = 1.1  # times as many as can be: what a count may be, with those who are not yet known to be refused
NEWS = 0.95  # of what is known: a count below says that the limit fell, one as far above that it rose


class Second:
    """All times are seconds on one clock."""

    __slots__ = (
        "_begin",
        "_climbed",
        "_denied",
        "_first",
        "_last",
        "_least",
        "_resumed",
        "_stopped",
        "_window",
        "known",
        "since",
    )

    def __init__(self, window: Window) -> None:
        self._window = window
        self._begin_anew()

    @property
    def counting(self) -> bool:
        """Whether one is being counted."""
        return self.since < inf

    @property
    def sought(self) -> bool:
        """Whether there may be seconds, and it is not known where they begin."""
        return not (self.known or self._denied)

    def _begin_anew(self) -> None:
        self._denied = self.known = self._stopped = False  # known: where seconds begin
        self._begin = -inf
        self.since = inf  # when the one began that is being counted; inf: none is
        self._first = 0.0  # how many had been let in when the one began that was refused
        self._resumed = 0.0  # of a climb: when its pause is over,
        self._climbed = 0.0  # how many had been let in a second before it was refused,
        self._least = self._last = 0.0  # how many must have been let in by one before that, and were in that second

    def deny(self) -> None:
        """There are none."""
        self._begin_anew()
        self._denied = True

    def phase(self, now: float) -> float:
        """How much of a second is over."""
        return (now - self._begin) % 1.0

    def tick(self, now: float) -> float:
        """When the next note is due."""
        begin = self._begin - EARLY
        return begin + TICK * ((now - begin) // TICK + 1.0) if self._begin > -inf else now + TICK

    def turns(self, now: float) -> bool:
        """Whether one begins with this note."""
        return self.known and self.phase(now + EARLY) < TICK / 2

    def align(self, before: float, now: float, resumed: float) -> float:
        """A climb was refused, and a pause begins: when one begins that is to be counted.

        At least as many as `before` were let in by the one before, and the pause ends at `resumed`.
        """
        self._least, self._last, self._resumed = before, self._window.last(1.0, now), resumed
        self._climbed = self._window.count - self._last
        self._begin = self.since = resumed + max(0.0, 1.0 - before / self._last)
        return self._begin

    def refused(self, now: float, resumed: float, value: float) -> float:
        """How many were let in by the one that refuses now, or will be refused with it; 0.0: there are no such seconds.

        The last pause ended at `resumed`, and `value` is what should be let in.
        """
        phase = self.phase(now) if self.known else now - self.since
        count = self._window.last(phase + (self.known and phase < EDGE), now)
        if self.known:
            begun = self._window.last(now - resumed, now)
            other = now - phase > resumed and now - resumed < 1.0 and _near(begun, value, value)
        else:
            other = not _near(count, self._least, self._last)
        if other:
            self.deny()
            return 0.0
        self._first, self._stopped, self.since = self._window.count - count, True, inf
        return count

    def settled(self) -> float:
        """A pause is over: how many the second let in that was refused; 0.0: none was, or it was the climb's."""
        if self.counting:
            self._last = self._window.count - self._climbed
        if not self._stopped:
            return 0.0
        count = self._window.count - self._first
        if not self.known:
            early = 2.0 * (self._last - count) / (self._last + self._least)
            self._begin, self.known = min(self._begin, self._resumed + max(0.0, early)), True
        self._stopped = False
        return count


def _near(count: float, least: float, most: float) -> bool:
    return (1.0 - NEAR) * least <= count <= LATE * most
