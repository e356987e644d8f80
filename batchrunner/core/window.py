"""How many requests an endpoint has let in of late.

Rules:

1. Counted is what was sent and is not known to be refused.
2. Notes are taken a few times a second; between two of them it went evenly.
3. A limit lies between what was let in on the mean, in which the pause after the refusal counts, and in the last second, which
   may be a burst. After a climb, that was steady, it is not below what the second before must have let in.
"""

from collections import deque
from math import inf

NOTED = 4  # sendings between notes, at least: else there is nothing to reckon by


class Window:
    """All times are seconds on one clock."""

    __slots__ = ("_notes", "count")

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque(maxlen=32)  # moments, and how many had been let in by then
        self.count = 0

    @property
    def opened(self) -> float:
        """When the notes begin; -inf: there are none."""
        return self._notes[0][0] if self._notes else -inf

    def note(self, now: float) -> tuple[float, int] | None:
        """How long it is since the last note, and how many were let in; None: too few to tell."""
        moment, count = self._notes[-1] if self._notes else (now, -NOTED)
        if self.count - count < NOTED:
            return None
        self._notes.append((now, self.count))
        return now - moment, self.count - count

    def rest(self, since: float, now: float) -> None:
        """Nothing was sent since then. Only now is it known who of those before was let in."""
        self._notes += ((since, self.count), (now, self.count))

    def last(self, seconds: float, now: float) -> float:
        """How many were let in during the last seconds."""
        return self.count - self._by(now - seconds, (now, self.count))

    def rank(self, seconds: float, now: float) -> float:
        """How the last seconds stand to those before: 0.0 if in none as many were let in, 1.0 if in all of them more were."""
        last, notes = self.last(seconds, now), self._notes
        others = [note[1] - self._by(note[0] - seconds, note) for note in notes if note[0] - seconds >= notes[0][0]]
        return sum((other > last) + (other >= last) for other in others) / max(1, 2 * len(others))

    def _by(self, moment: float, later: tuple[float, int]) -> float:
        """How many had been let in by a moment; `later` is any note after it."""
        for earlier in reversed(self._notes):
            if earlier[0] <= moment:
                share = (moment - earlier[0]) / max(1e-9, later[0] - earlier[0])
                return earlier[1] + share * (later[1] - earlier[1])
            later = earlier
        return 0.0

    def limits(self, second: float, since: float, until: float, now: float) -> tuple[float, float]:
        """The least and the most requests a second that a limit may be which refuses now, and asks for a pause `until` then."""
        second = min(second, max(0.1, now - self.opened))
        return self.count / max(0.1, until - since), self.last(second, now) / second

    def climbed(self, second: float, level: float, now: float) -> tuple[float, float]:
        """The same after a climb from `level`: of two seconds one let in half of what both did."""
        last, both = (self.last(seconds, now) / second for seconds in (second, 2.0 * second))
        return max(both - last, min(level, both / 2.0)), last
