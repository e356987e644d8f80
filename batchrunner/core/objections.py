"""Whether an endpoint's objections come from how much is in flight, or by chance.

Rules:

1. Who has had enough objects to the last that came: with more in flight than beside anything that was let in. Chance strikes
   beside any number. So it is chance where objections of a kind, on the mean of late, stand in the midst of what was let in.
2. Where much of what was sent in a row was refused it is never chance: then less must be sent, whatever the reason. What was
   sent at once is refused before anything of it is answered: so it counts when they were sent, not when they were heard of.
3. Objections of a kind are judged together, and apart from those of another. A 429 comes here only where it is known not to
   speak of a rate (`core.luck`), for a limit on the rate refuses beside any number, just as chance does.

Services shed a percent of their load at any hour (503, 529). Taken for a limit that would hold hundreds of slots down to a dozen.
"""

from collections import deque

from batchrunner.core.model import Kind

LET_IN = 64  # sendings among which an objection is ranked
WEIGHT = 0.2  # of an objection in the mean of ranks
MIDST = 0.08  # mean rank above which it is chance; 0.5 where nothing grows, less while the limit does, next to 0.0 for a limit
ROW = 16  # sendings
MUCH = 7  # of them refused


class Objections:
    """What was sent of late, and where the objections stood in it."""

    __slots__ = ("_beside", "_ranks", "_refused", "_sent")

    def __init__(self) -> None:
        self._beside: deque[int] = deque(maxlen=LET_IN)  # how many were in flight with each that is not known to be refused
        self._refused: deque[int] = deque(maxlen=MUCH)  # which sendings were refused of late
        self._ranks: dict[Kind, float] = {}  # by kind: 0.0 above all that was let in, 1.0 below
        self._sent = 0

    def sent(self, beside: int) -> int:
        """A request goes out, with so many others in flight: which one it is."""
        self._sent += 1
        self._beside.append(beside)
        return self._sent

    def chance(self, kind: Kind, beside: int, sending: int) -> bool:
        """A sending was refused, with so many others in flight: whether refusals of this kind are chance."""
        let_in = self._beside
        if beside in let_in:
            let_in.remove(beside)
        self._refused.append(sending)
        if len(self._refused) == MUCH and max(self._refused) - min(self._refused) < ROW:
            self._ranks.clear()
            return False
        above = sum((other > beside) + (other >= beside) for other in let_in) / max(1, 2 * len(let_in))
        rank = self._ranks[kind] = (1.0 - WEIGHT) * self._ranks.get(kind, 0.0) + WEIGHT * above
        return rank > MIDST
