"""Whether more in flight brings more answers: found by comparing what was delivered at one limit and at a larger one.

Rules:

1. Delivered work decides, never one latency: tokens a second where answers tell them, else answers, over a round of answers
   at least as large as the limit. By Little's law the mean latency follows; answers of any size may be mixed.
2. Two rounds are compared only when one had clearly more in flight. There is a plateau when the gain, with twice its standard
   error added, is still far from that of a service that keeps up: noise alone must not stop the growth.
3. A plateau is left for where the smaller limit's latency gives the same throughput, and from there by steps for less still,
   as long as nothing is lost. Where less is delivered the last step is taken back.
4. From time to time more is tried again; the more often in vain, the more rarely.
5. A round in which the limit did not bind, or in which more was in flight than the limit, says nothing.
"""

from functools import reduce
from math import inf, log, sqrt

from msgspec import Struct

LEAST = 64  # answers in a round; fewer at the start
APART = 1.35  # times as many in flight that make a comparison
NEAR = 1.08  # rounds within this speak of one limit
KEPT_UP = 0.3  # of the gain of a service that keeps up; less is a plateau
ERRORS = 2.0
STEP = 0.82  # down a plateau
BACK = 1.35  # and up again from where less is delivered
TRIALS, TRIALS_MOST = 3, 6  # rounds at each step; more while it is not clear
RATCHET = 1.05  # times the plateau that show that it was taken while still growing
LOST, SAME = 0.90, 0.95  # of what the plateau delivered: something is lost, nothing is lost
OBJECTED = 12  # rounds more after an objection: until then it is that which says how much is too much
FIRST, HOLD, HOLD_MOST = 2, 12, 48  # rounds before less or more is tried: at first, then, at last
MEMORY = 512  # answers that a reference stands for, at most


class Level(Struct, frozen=True, gc=False):
    """What was delivered with so many in flight: work a second, from how many answers, of what relative variance."""

    inflight: float
    delivered: float
    answers: int
    variance: float

    def error(self, other: "Level") -> float:
        """Standard error of the logarithm of the ratio of two levels."""
        return sqrt(max(self.variance, other.variance) * (1.0 / self.answers + 1.0 / other.answers))


class Knee:
    """`hear` every answer; `holds` says that the limit must not grow now."""

    __slots__ = (
        "_begun",
        "_count",
        "_hold",
        "_inflight",
        "_left",
        "_need",
        "_peak",
        "_reference",
        "_squares",
        "_steady",
        "_sum",
        "_trials",
        "_work",
    )

    def __init__(self) -> None:
        self._reference: Level | None = None
        self._peak: Level | None = None  # the plateau that was left, until it is known whether it was one
        self._trials: list[Level] = []  # what is delivered a step below it
        self._steady = 0  # rounds near the reference
        self._hold = FIRST
        self._left = 0  # rounds to hold
        self._restart(0, -inf)

    @property
    def holds(self) -> bool:
        """Whether growth waits."""
        return self._left > 0

    def forget(self) -> None:
        """The endpoint objected: what it delivers is another question now."""
        self._reference = self._peak = None
        self._left, self._steady = 0, -OBJECTED

    def hear(self, work: float, latency: float, inflight: int, size: int, now: float) -> float:
        """An answer of so much work came, `latency` for each unit of it; `inflight` were in flight with it.

        The limit to go to; inf: it stays as it is.
        """
        if self._begun == -inf or not 0.8 * size <= inflight <= 1.05 * size + 1.0:
            self._restart(size, now)
            return inf
        self._count += 1
        self._work += work
        self._inflight += inflight
        self._sum += latency
        self._squares += latency * latency
        if self._count < self._need or now <= self._begun:
            return inf
        level = self._level(now)
        self._restart(size, now)
        self._left = max(0, self._left - 1)
        return self._compare(level)

    def _restart(self, size: int, now: float) -> None:
        self._need = max(LEAST, size)
        self._begun = now
        self._count, self._inflight, self._work, self._sum, self._squares = 0, 0, 0.0, 0.0, 0.0

    def _level(self, now: float) -> Level:
        count = self._count
        mean = max(1e-9, self._sum / count)
        variance = max(0.0, self._squares / count / (mean * mean) - 1.0)
        return Level(self._inflight / count, self._work / (now - self._begun), count, variance)

    def _compare(self, level: Level) -> float:
        if self._peak:
            return self._descend(self._peak, level)
        reference = self._reference
        if reference is None or level.inflight * APART < reference.inflight:
            self._reference = level
        elif level.inflight > APART * reference.inflight:
            return self._judge(reference, level)
        elif level.inflight < NEAR * reference.inflight:
            self._reference = _merged(reference, level)
            self._steady += 1
            if self._steady > self._hold:
                return self._leave(self._reference, STEP * reference.inflight)
        return inf

    def _judge(self, reference: Level, level: Level) -> float:
        gain = log(level.delivered / reference.delivered)
        most = log(level.inflight / reference.inflight)
        if gain > KEPT_UP * most:
            self._reference, self._hold = level, FIRST
        elif gain + ERRORS * level.error(reference) < KEPT_UP * most:
            return self._leave(level, reference.inflight * max(1.0, level.delivered / reference.delivered))
        return inf

    def _leave(self, peak: Level, target: float) -> float:
        self._peak, self._trials, self._steady = peak, [], 0
        self._left = self._hold
        return target

    def _descend(self, peak: Level, level: Level) -> float:
        """Down by steps as long as nothing is lost; then hold. What was sent before a step is not answered in its first round."""
        self._left = self._hold
        self._trials.append(level)
        if len(self._trials) < TRIALS:
            return inf
        trial = reduce(_merged, self._trials[1:])
        kept = trial.delivered / peak.delivered
        if LOST < kept < SAME and len(self._trials) < TRIALS_MOST:
            return inf
        self._trials = []
        if kept > (LOST + SAME) / 2.0:
            self._peak = trial if kept > RATCHET else _merged(peak, trial)
            return STEP * trial.inflight
        self._peak = self._reference = None
        self._left = self._hold = min(HOLD_MOST, max(HOLD, 2 * self._hold))
        return BACK * trial.inflight


def _merged(one: Level, other: Level) -> Level:
    """Both as one; the older counts for less and less."""
    older = min(one.answers, MEMORY - other.answers) if other.answers < MEMORY else 0
    whole = older + other.answers
    share = older / whole
    return Level(
        share * one.inflight + (1.0 - share) * other.inflight,
        share * one.delivered + (1.0 - share) * other.delivered,
        whole,
        share * one.variance + (1.0 - share) * other.variance,
    )
