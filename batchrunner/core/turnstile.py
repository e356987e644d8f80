"""Requests that are told to come back later, again and again: whether that is a limit, or one of them.

Rules:

1. A limit turns many away, and lets them in in the end. A pause whose length it names costs a request nothing, however often.
2. What is turned away each time, while others are let in or nobody else is left, is to blame itself; but not while many are
   turned away, nor if one of them has been let in meanwhile.
3. Who was turned away some times in a row lets a fresh one go first, once each time: that shows which of the two it is, and
   else a few such requests could keep all others from being sent.
4. So many times are the end of it, and the later ones are put so far apart that they last longer than a minute, by which most
   limits are counted: where nobody else is left, only time can tell.
5. That a model is being loaded is no limit: one server of several may say so for minutes (`LOAD`). Where nobody else is left, it
   is nobody's fault, and an outage in the end (`core.stopping`).
"""

from msgspec import Struct

FEW = 20  # requests that wait at once may each be to blame themselves,
PART = 0.25  # or so many of each that was let in meanwhile
SOME = 3
MINUTE = 60.0
LOAD = 600.0  # seconds


class Turnstile:
    """Of the requests for one model: how many were let in, how many of these had been turned away before, how many still are."""

    __slots__ = ("freed", "passed", "waiting")

    def __init__(self) -> None:
        self.passed = self.freed = self.waiting = 0


class Turned(Struct, gc=False):
    """A request that was turned away. `times`: so often in a row that this is to blame on itself."""

    stile: Turnstile
    first: int  # how many had been let in when it was turned away first,
    seen: int  # and the last time
    freed: int
    times: int = 0
    row: int = 0  # times in all
    yielded: int = 0  # after how many of these it has let another go

    def again(self, alone: bool) -> None:
        """It is turned away. `alone`: nobody else is left but those who are turned away as well."""
        stile = self.stile
        self.row += 1
        few = stile.waiting <= max(FEW, PART * (stile.passed - self.first))
        if self.freed != stile.freed or not few:
            self.times = 0
        elif stile.passed > (0 if alone else self.seen):
            self.times += 1
        self.seen, self.freed = stile.passed, stile.freed

    def yields(self) -> bool:
        """Whether a fresh request goes before it now."""
        if self.row < SOME or self.yielded == self.row:
            return False
        self.yielded = self.row
        return True

    def words(self) -> str:
        """Why it is given up."""
        return f"{self.times} waits it was told to make, while {self.stile.passed:,} others were answered"


def turned_away(stile: Turnstile) -> Turned:
    """A request that is turned away for the first time."""
    stile.waiting += 1
    return Turned(stile, stile.passed, stile.passed, stile.freed)
