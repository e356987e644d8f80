"""Whether refusals that speak of a rate come by chance.

Many services refuse some percent of all requests at any hour, and call it a rate (429). Who slows down for each of them is
soon next to still.

Rules:

1. A limit on the rate refuses whoever comes when as much has been let in as it lets in. Chance strikes after any number.
2. Where nothing is paced the last second is ranked among those before it. Of a limit the mean is low: it refuses in the
   fullest seconds. One refusal a second is enough, for those of one second are of one cause.
3. Where the pace goes down with each refusal there are no seconds to compare. Then it is chance if most of the last refusals
   came after clearly fewer requests than one of the few before; a limit that falls has such refusals too, but only as many as
   those few. It is no matter of a rate either if they go on though the pace has come down to a small part of what it was.
4. Where much of what was sent has been refused it is never chance. What was thought is forgotten.
"""

from collections import deque

from batchrunner.core.window import Window

WEIGHT = 0.2  # of a refusal in the mean of ranks
MIDST, STILL = 0.4, 0.2  # mean rank above which it is chance, and above which it remains so; a limit's is 0.2, chance's 0.5
MUCH = 0.3  # share refused
SENT = 20  # sendings that are taken for the least of which it is a share
BEFORE = 4  # refusals with which one is compared
FEWER = 0.7  # of the most of them: clearly fewer
PART = 1.0 / 16.0  # of the highest pace
LOW, OF = 5, 8  # so many refusals after clearly fewer speak of chance, and among how many; more than one fall of a limit brings


class Luck:
    """All times are seconds on one clock. `chance`: refusals come by it."""

    __slots__ = ("_counts", "_low", "_mean", "_refused", "_sent", "_since", "chance")

    def __init__(self) -> None:
        self._since = 0.0  # when the last refusal was ranked,
        self._refused = self._sent = 0  # how many have been refused since then, and how many had been let in by then
        self._counts: deque[float] = deque(maxlen=BEFORE)  # how many a second had been let in when it was refused
        self._low: deque[bool] = deque(maxlen=OF)
        self._believe()

    def _believe(self) -> None:
        self._mean, self.chance = 0.0, False

    def unpaced(self, window: Window, now: float) -> None:
        """A refusal where nothing is paced."""
        self._refused += 1
        if now < self._since + 1.0:
            return
        self._mean += WEIGHT * (window.rank(1.0, now) - self._mean)
        self.chance = self._mean > (STILL if self.chance else MIDST)
        if self._refused > MUCH * max(SENT, window.count + self._refused - self._sent):
            self._believe()
        self._since, self._refused, self._sent = now, 0, window.count

    def paced(self, count: float, left: float) -> bool:
        """A refusal in spite of a pace. True: by chance, so nothing is to be paced.

        `count` are let in a second just before; `left` is what this refusal leaves of the highest pace.
        """
        self._low.append(bool(self._counts) and count < FEWER * max(self._counts))
        self._counts.append(count)
        if sum(self._low) < LOW and left > PART:
            return False
        self._low.clear()
        self._counts.clear()
        self._mean, self.chance = 0.5, True
        return True
