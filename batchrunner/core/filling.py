"""How fast an allowance fills, found from what an endpoint says of it: what remains, and in how many seconds it will be full.

Rules:

1. Of a bucket that fills all the time both lie on a line: each unit that is gone takes as long to come back. So the line tells
   the rate, whatever the length of the period that the provider has in mind, and how much the bucket holds.
2. Nothing is believed before several answers lie on one line whose ends are far enough apart to know its slope. A window, whose
   reset only counts down, a constant or nonsense does not lie on one.
3. What is said in whole seconds or thousands is that much less exact, and the rate is taken as low as it may be.
4. Several answers in a row off the line: it holds no longer.
"""

from math import inf

AGREED = 6  # answers on the line before it is believed
OFF = 6  # answers in a row beside it until it is not
EXACT = 0.15  # the relative error of its slope at which it is
FINE = 1e-3  # seconds: how exactly a reset is told that is not told in whole ones
NEAR = 0.03  # of the time until it is full, by which an answer may lie beside it
LONGEST = 150.0  # seconds in which a bucket must fill: one that takes longer is a day's or an hour's, and no matter of pace


class Filling:
    """One allowance. `rate` units a second surely come back, of `size` that it holds; 0.0: it is not known, or is no bucket."""

    __slots__ = ("_agreed", "_empty", "_full", "_grain", "_last", "_off", "_tick", "error", "rate", "size", "slope")

    def __init__(self) -> None:
        self._tick = self._grain = inf  # how exactly seconds and units are told
        self._begin((0.0, 0.0))

    def _begin(self, said: tuple[float, float]) -> None:
        self._full = self._empty = self._last = said  # the ends of the line: what remained, and when it would be full
        self._agreed = self._off = 0
        self.rate = self.slope = 0.0
        self.error, self.size = inf, said[0]

    @property
    def known(self) -> bool:
        """Whether it is such a bucket."""
        return self.rate > 0.0

    def hear(self, remaining: float, reset: float) -> None:
        """An answer says that so many remain, and that it will be full in so many seconds."""
        said = (remaining, reset)
        if said in (self._last, self._full, self._empty):
            return
        if self._tick > FINE and reset != int(reset):
            self._tick = FINE
        elif self._tick == inf:
            self._tick = 1.0
        if self._grain > 1.0:
            self._grain = 1.0 if remaining % 1000.0 else 1000.0
        if not self._fits(remaining, reset):
            self._off += 1
            if self._off >= OFF or self._agreed < AGREED:
                self._begin(said)
            return
        self._off = 0
        self._last = said
        if self._agreed < AGREED and self.error <= EXACT:
            self._agreed += 1
            self._judge()
        if remaining > self._full[0]:
            self._reach(said, self._empty)
        elif reset > self._empty[1]:
            self._reach(self._full, said)

    def _reach(self, full: tuple[float, float], empty: tuple[float, float]) -> None:
        """The line goes from here to there, as far as is known."""
        gone, seconds = full[0] - empty[0], empty[1] - full[1]
        if gone <= 0.0 or seconds <= 0.0:
            self._begin(full)
            return
        self._full, self._empty = full, empty
        self.slope, self.error = gone / seconds, self._grain / gone + self._tick / seconds
        self.size = full[0] + full[1] * self.slope
        self._judge()

    def _judge(self) -> None:
        surely = self._agreed >= AGREED and self.error <= EXACT and self.size <= LONGEST * self.slope
        self.rate = self.slope * (1.0 - self.error) if surely else 0.0

    def _fits(self, remaining: float, reset: float) -> bool:
        """Whether this lies on the line, or makes one with the only answer there is."""
        gone, seconds = self._full[0] - remaining, reset - self._full[1]
        if not self.slope:
            return gone * seconds > 0.0
        far = abs(gone) / (self._full[0] - self._empty[0])
        exact = (self._tick + self._grain / self.slope) * (1.0 + far)
        return abs(seconds - gone / self.slope) <= exact + NEAR * abs(seconds)
