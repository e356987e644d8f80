"""How many requests a second an endpoint takes: what its refusals teach.

Rules:

1. Without a number of the user's there is no rate until the endpoint refuses and says when to come back: so speaks a limit on
   the rate. Then the rate starts below what was last let in, and seeks the limit: it climbs until it is refused again.
2. A refusal after a climb tells the limit within the climb's last second. The rate settles just below and holds.
3. A refusal while it holds means that the limit fell: deep down, and up again. Any other refusal trims it a little.
4. After the hold it is tried whether more is let in; soon, where the limit has been seen to fall, and back where it came from
   as soon as it is. The longer nothing changes, the more rarely: a refusal costs the pause that comes with it.
5. Refusals that come exactly where more is in flight than of late was let in speak of a cap on what is in flight, whatever the
   endpoint says: then there is no rate any more, and the concurrency limit (`core.limit`) hears of them.
6. Refusals that go on though the rate has come down to a small part of what was let in are chance, or speak of something else:
   then, too, there is no rate.
7. A second is as long as it takes to count: where few requests go out it is as long as ten of them take.
8. A rate that is not used up is not raised, and one attempt's refusal counts once: not if it was sent before the last cut.
"""

from collections import deque
from math import exp, inf, sqrt

STARTED = 0.95  # of the middle between the least and the most that the limit may be
SEEK = 0.04  # a second: how fast it climbs towards a limit that is not known
RETURN = 0.12  # and back to where it was before it fell
RETURNED = 0.99  # of that
PROBE = 0.03  # and beyond a limit that is known; doubles each second
FASTEST = 0.25
FALL = 0.5  # what is left of a rate that was refused while it held
FALL_TOLD = 0.9  # and if it is the user's number
TRIMS = (0.9, 0.8, 0.65, 0.5)  # for refusals that come too soon after one another to teach more
AGAIN = 0.96  # for one just after the rate had settled
SETTLED = 6.0  # seconds after which a refusal is news
HOLD, HOLD_LEAST, HOLD_MOST = 60.0, 10.0, 60.0  # seconds until more is tried: where it never fell, and where it did
CLEAN = 1.9  # seconds of climbing that a refusal must end to tell the limit
TICK = 0.25
SURE = 20  # sendings without which no second counts as one
REFUSED, OF = 3, 100  # refusals without a wait that count, and of how many outcomes
COUNTED = 10.0  # sendings of which the last second has at least so many: at a crawl it is longer
CREDIT = 0.6  # of the first pause, to be sent at once after it: nothing was sent meanwhile
CHANCE = 1.0 / 16.0  # of the highest rate found, below which refusals are not of its making
JUDGED = 5  # refusals by which a cap is told from a rate
CROWDED = 0.1  # share of attempts let in among at least as many, below which refusals speak of a cap


class Rate:
    """`value` requests a second, never above `most`; inf: as fast as it goes. All times are seconds on one clock."""

    __slots__ = (
        "_beside",
        "_calm",
        "_climb",
        "_count",
        "_cuts",
        "_fell",
        "_hold",
        "_level",
        "_mark",
        "_once",
        "_past",
        "_peak",
        "_recent",
        "_refusals",
        "_share",
        "_since",
        "_tick",
        "capped",
        "credit",
        "most",
        "value",
    )

    def __init__(self, most: float = inf) -> None:
        self.capped = False  # refusals here speak of a cap on what is in flight, or of nothing that a rate could mend
        self.credit = 0.0  # seconds' worth that may go at once after the pause that the last refusal began
        self._beside: deque[int] = deque(maxlen=64)  # how many were in flight when those now answered were sent
        self._recent: deque[bool] = deque(maxlen=OF)
        self._past: deque[tuple[float, int]] = deque(maxlen=14)  # moments, and how many had been let in by then
        self._count = 0
        self._tick = 0.0
        self._fell, self._once = -inf, 0.0  # when the limit last fell, and from where
        self._cuts = 0  # in quick succession
        self._refusals, self._share = 0, 0.5
        self.fix(most)

    @property
    def known(self) -> bool:
        """Whether refusals are the business of this rate."""
        return self.value < inf

    def fix(self, most: float) -> None:
        """The user's number from now on; inf: none."""
        self.most = self.value = self._level = self._peak = most
        self._mark = self._since = -inf
        self._calm, self._hold, self._climb = 0.0, HOLD if most < inf else 0.0, PROBE

    def warm(self, value: float) -> None:
        """Begin with what an earlier run found, unless the user has said a number. Whether there is more is soon tried."""
        if self.most == inf:
            self.value = self._level = self._peak = max(value, 1.0 / 60.0)
            self._hold = HOLD_LEAST

    def sent(self, now: float) -> None:
        """A request goes out."""
        if not self._past:
            self._past.append((now, 0))
            self._tick, self._since = now, max(self._since, now)
        self._count += 1
        if now - self._tick >= TICK:
            self._ticked(now)

    def answered(self, beside: int) -> None:
        """A request was let in, with so many others in flight."""
        if self.value < inf:
            self._recent.append(False)
            self._beside.append(beside)

    def refused(self, started: float, beside: int, wait: float, now: float) -> None:
        """A request was refused; `wait` is the pause asked for, 0.0 if none."""
        self._count -= 1
        if started <= self._mark:
            return
        self._recent.append(True)
        if not self.known:
            if wait and not self.capped and (self._count >= SURE or len(self._recent) >= SURE <= 5 * self._count):
                self._start(wait, now)
            return
        if self._judge(beside):
            self.fix(inf)
        elif wait or sum(self._recent) >= REFUSED:
            self._cut(wait, now)
            if self.most == inf and self.value < CHANCE * self._peak:
                self.capped = True
                self.fix(inf)

    # ── up ──────────────────────────────────────────────────────────────────────────────────────────────

    def _ticked(self, now: float) -> None:
        moment, count = self._past[-1]
        if self._count - count < 4:
            return
        self._past.append((now, self._count))
        full = self._count - count >= 0.8 * self.value * (now - max(moment, self._tick))
        passed = min(now - self._tick, (self._count - count) / SURE)
        self._tick = now
        if full:
            self._calm += passed
        if full and self._calm > self._hold and self.value < self.most:
            self._rise(passed)

    def _rise(self, passed: float) -> None:
        self.value = min(self.most, self.value * exp(self._climb * passed))
        self._peak = max(self._peak, self.value)
        doubling = 1.0 if self._hold else 8.0  # seconds
        self._climb = min(FASTEST, self._climb * 2.0 ** (passed / doubling))
        if self._hold and 1.05 * self._level < self.value < self._once:
            self.value, self._level = max(self.value, RETURNED * self._once), self._once
            self._calm, self._hold, self._climb = 0.0, HOLD, PROBE

    # ── down ────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, wait: float, now: float) -> None:
        """Between what the last second let in, which may be a burst, and the mean, in which the pause counts."""
        age = max(0.1, now - (self._past[0][0] if self._past else now))
        second = _second(self._count / age)
        most = self._last(second, now) / min(second, age)
        least = self._count / max(0.1, now - self._since + wait)
        self.value = self._level = self._peak = max(STARTED * sqrt(max(0.0, most * least)), 1.0 / 60.0)
        self._settle(now, wait, hold=0.0, climb=SEEK)
        self.credit = CREDIT * wait

    def _cut(self, wait: float, now: float) -> None:
        second, holding = _second(self.value), bool(self._hold) and self._calm < self._hold
        fell, told = holding and self._calm > SETTLED, now - self._since >= CLEAN * second
        self._cuts = 0 if fell or told else self._cuts + 1
        if fell:
            self._fell, self._once = now, self.value
            self.value *= FALL if self.most == inf else FALL_TOLD
            self._settle(now, wait, hold=0.0, climb=RETURN)
        elif told:
            last = self._last(second, now) / second
            before = self._last(2.0 * second, now) / second - last
            self.value = min(0.98 * self.value, 0.995 * (last - 0.8 * max(0.0, last - before)))
            age = (now - self._fell) / 5.0
            hold = HOLD if self._fell == -inf else min(HOLD_MOST, max(HOLD_LEAST, age))
            self._settle(now, wait, hold=hold, climb=PROBE)
        else:
            self.value *= AGAIN if self._hold else TRIMS[min(self._cuts, len(TRIMS)) - 1]
            self._settle(now, wait, hold=self._hold if self._cuts < 3 else 0.0, climb=SEEK)

    def _settle(self, now: float, wait: float, hold: float, climb: float) -> None:
        self.value = max(self.value, 1.0 / 60.0)
        self._level, self._hold, self._climb, self._calm = self.value, hold, climb, 0.0
        self._mark, self._since, self._tick = now, now + wait, now + wait
        self._recent.clear()
        self.credit = 0.0

    def _last(self, seconds: float, now: float) -> float:
        """How many were let in during the last seconds."""
        moment, later = now - seconds, (now, self._count)
        for earlier in reversed(self._past):
            if earlier[0] <= moment:
                share = (moment - earlier[0]) / max(1e-9, later[0] - earlier[0])
                return self._count - earlier[1] - share * (later[1] - earlier[1])
            later = earlier
        return float(self._count)

    def _judge(self, beside: int) -> bool:
        """Whether refusals come only where more is in flight than was let in."""
        if self.most < inf or len(self._beside) < self._beside.maxlen // 2:  # type: ignore[operator]
            return False
        share = sum(other >= beside for other in self._beside) / len(self._beside)
        self._refusals += 1
        self._share += 0.3 * (share - self._share)
        self.capped = self._refusals >= JUDGED and self._share < CROWDED
        return self.capped


def _second(rate: float) -> float:
    """Seconds in which so many go out that they can be counted: one, where the rate is no crawl."""
    return max(1.0, COUNTED / rate) if rate else 1.0
