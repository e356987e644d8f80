"""Whether an endpoint that speaks of a rate has a cap on what is in flight.

Rules:

1. A cap refuses only where more is in flight than beside anything that was let in. A limit on the rate does so beside any number.
2. It is judged by several refusals. One that agrees with a rate (`core.second`) clears what was suspected before.
"""

from collections import deque

LET_IN = 64  # attempts among which a refused one is ranked
ENOUGH = 32  # of them, to be ranked at all
WEIGHT = 0.3  # of a refusal in the mean
UNSUSPECTED = 0.5  # the mean to begin with: five refusals are the least that speak of a cap
CROWDED = 0.1  # share of attempts let in among at least as many, below which refusals speak of a cap


class Crowding:
    """How many were in flight beside what was let in, and beside what was refused."""

    __slots__ = ("_let_in", "_share")

    def __init__(self) -> None:
        self._let_in: deque[int] = deque(maxlen=LET_IN)
        self.clear()

    def clear(self) -> None:
        """Nothing is suspected."""
        self._share = UNSUSPECTED

    def let_in(self, beside: int) -> None:
        """A request was let in that went out with so many others in flight."""
        self._let_in.append(beside)

    def refused(self, beside: int) -> bool:
        """A request was refused that did. True: that is a cap."""
        if len(self._let_in) < ENOUGH:
            return False
        share = sum(other >= beside for other in self._let_in) / len(self._let_in)
        self._share += WEIGHT * (share - self._share)
        return self._share < CROWDED
