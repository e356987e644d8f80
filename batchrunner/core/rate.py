"""How many requests a second an endpoint takes: what its refusals teach.

Rules:

1. Without a number of the user's there is no rate until the endpoint refuses and says when to come back: so speaks a limit on
   the rate. Then the rate starts below what was last let in, and seeks the limit: it climbs until it is refused again.
2. A refusal after a climb tells the limit within the climb's last second. The rate settles just below and holds.
3. It also tells when a second of the endpoint's clock begins, if it has one (`core.second`). Such a second is sent so fast that
   it must refuse: what it has let in is the limit. Then the rate holds closely below that. The pause ends within a second of
   which nothing was used; what there was time for before the refusal goes at once. Into the next one nothing is carried over.
4. A refusal while it holds trims it a little; another at once means that the limit fell, and so, at a crawl, where nothing
   comes at once, does the fifth: deep down, and up again. Where seconds are known a single one tells how far it fell.
5. After the hold it is tried whether more is let in, by such a second or by a climb; soon, where the limit has been seen to
   fall, and back where it came from as soon as it is. The longer nothing changes, the more rarely: a refusal costs a pause.
6. Refusals may speak of a cap on what is in flight, whatever the endpoint says (`core.crowding`): then there is no rate any
   more, and the concurrency limit (`core.limit`) hears of them.
7. Refusals may come by chance (`core.luck`): then, too, there is no rate but the user's, until they no longer do. Where that
   number turns out to be far too high the limit is sought from what was let in.
8. A second is as long as it takes to count: where few requests go out it is as long as ten of them take.
9. A rate that is not used up is not raised, and one attempt's refusal counts once: not if it was sent before the last cut.
"""

from collections import deque
from math import exp, inf, sqrt

from batchrunner.core.crowding import Crowding
from batchrunner.core.luck import Luck
from batchrunner.core.second import EARLY, EDGE, NEWS, Second
from batchrunner.core.window import Window

STARTED = 0.95  # of the middle between the least and the most that the limit may be
SEEK = 0.08  # a second: how fast it climbs towards a limit that is not known
RETURN = 0.12  # and back to where it was before it fell
BEYOND = 1.05  # times as much as was surely refused, from where it goes back there at once
RETURNED = 0.99  # of that
PROBE = 0.03  # and beyond a limit that is known; doubles each second
FASTEST = 0.25
FALL = 0.5  # what is left of a rate that was refused while it held
FALL_TOLD = 0.9  # and if it is the user's number
TRIMS = (0.9, 0.8, 0.65, 0.5)  # for refusals that come too soon after one another to teach more
AGAIN = 0.98  # for one that may be due to a request too many, or comes just after the rate had settled
AGAIN_CRAWLING = 0.92  # and where so few go out that one of them is much
SETTLED = 6.0  # seconds after which a refusal is news
HOLD, HOLD_LEAST, HOLD_MOST = 60.0, 10.0, 60.0  # seconds until more is tried: where it never fell, and where it did
HOLD_COUNTED = 5.0  # the least where seconds can be counted: that costs next to nothing
CLEAN = 1.9  # seconds of climbing that a refusal must end to tell the limit
SHORT = 1.2  # seconds of it that are enough where seconds can be counted
COUNT = 2.0  # times as many as a second may let in: so fast is one sent that is to be counted
COUNTED = 0.99  # of what such a second has let in
SURE = 20  # sendings without which no second counts as one
REFUSED, OF = 3, 100  # refusals without a wait that count, and of how many outcomes
ENOUGH = 10.0  # sendings of which the last second has at least so many: at a crawl it is longer
CREDIT = 0.5  # of the first pause, to be sent at once after it: nothing was sent meanwhile


class Rate:
    """`value` requests a second, never above `most`; inf: as fast as it goes. All times are seconds on one clock."""

    __slots__ = (
        "_calm",
        "_climb",
        "_crowding",
        "_cuts",
        "_doubted",
        "_due",
        "_fell",
        "_hold",
        "_level",
        "_luck",
        "_mark",
        "_once",
        "_paused",
        "_peak",
        "_recent",
        "_second",
        "_since",
        "_tick",
        "_top",
        "_was",
        "_window",
        "capped",
        "credit",
        "most",
        "resume",
        "value",
    )

    def __init__(self, most: float = inf) -> None:
        self.capped = False  # refusals here speak of a cap on what is in flight
        self.resume = 0.0  # when the pause is over that the last refusal began
        self.credit = 0.0  # seconds' worth that may go at once then
        self._crowding, self._luck = Crowding(), Luck()
        self._recent: deque[bool] = deque(maxlen=OF)
        self._was = 0.0  # what is held if a count brings no news
        self._doubted = False  # it was refused while it held, for the first time
        self._fell, self._once = -inf, 0.0  # when the limit last fell, and from where
        self._cuts = 0  # since a climb told the limit
        self.fix(most)

    @property
    def known(self) -> bool:
        """Whether refusals are the business of this rate."""
        return self.value < inf

    @property
    def disputed(self) -> bool:
        """Whether refusals here are known not to speak of a rate, though they say so."""
        return self.capped or self._luck.chance

    @property
    def found(self) -> float:
        """The same as `value`, but for the second in which more is tried."""
        return self._level if self._second.counting else self.value

    def fix(self, most: float) -> None:
        """The user's number from now on; inf: none."""
        self.most = self.value = self._level = self._top = self._peak = most
        self._mark = self._since = -inf
        self._paused = False  # nothing has gone out since the last refusal
        self._window = Window()
        self._second = Second(self._window)
        self._due, self._tick = -inf, 0.0
        self._calm, self._hold, self._climb = 0.0, HOLD if most < inf else 0.0, PROBE

    def warm(self, value: float) -> None:
        """Begin with what an earlier run found, unless the user has said a number. Whether there is more is soon tried."""
        if self.most == inf:
            self.value = self._level = self._top = self._peak = max(value, 1.0 / 60.0)
            self._hold = HOLD_LEAST

    def sent(self, now: float) -> bool:
        """A request goes out. True: a second of the endpoint's has just begun."""
        turns = now >= self._due and self._ticked(now)
        self._window.count += 1
        return turns

    def answered(self, beside: int) -> None:
        """A request was let in, with so many others in flight."""
        if self.value < inf:
            self._recent.append(False)
            self._crowding.let_in(beside)

    def refused(self, started: float, beside: int, wait: float, now: float) -> None:
        """A request was refused; `wait` is the pause asked for, 0.0 if none."""
        self._window.count -= 1
        if started <= self._mark:
            return
        self._recent.append(True)
        if not self.known or self._luck.chance:
            self._luck.unpaced(self._window, now)
            count = self._window.count
            if (wait or self.known) and not self.disputed and (count >= SURE or len(self._recent) >= SURE <= 5 * count):
                self._start(wait, now)
        elif self.most == inf and self._crowding.refused(beside):
            self.capped = True
            self.fix(inf)
        elif wait or sum(self._recent) >= REFUSED:
            second = _second(self.value)
            let_in = self._window.last(second, now) / second
            self._cut(wait, now)
            if self._luck.paced(let_in, self.value / self._peak):
                self.fix(self.most)

    # ── up ──────────────────────────────────────────────────────────────────────────────────────────────

    def _ticked(self, now: float) -> bool:
        if self._due == -inf:
            self._since = max(self._since, now)
            self._tick = now
        elif self._paused:
            return self._resumed(now)
        noted, second = self._window.note(now), self._second
        if noted is None:
            return False
        seconds, count = noted
        full = count >= 0.8 * self.value * min(seconds, now - self._tick)
        passed = min(now - self._tick, count / SURE)
        self._tick, self._due = now, second.tick(now)
        self._calm += passed if full else 0.0
        if second.counting:
            self.value = COUNT * self._top
            if now >= second.since + 1.0:
                self._let_in(self._window.last(1.0, now))
        elif full and self._calm > self._hold and self.value < self.most:
            if not (self._hold and second.known):
                self._rise(passed)
            elif second.turns(now):
                second.since = self._due = now + 2.0 * EARLY
        return second.turns(now)

    def _resumed(self, now: float) -> bool:
        """The pause is over, and all who were refused with the first are known."""
        self._paused = False
        self._window.rest(self._mark, now)
        if count := self._second.settled():
            news = not NEWS * self._was < count < self._was / NEWS
            self.value = self._level = self._top = COUNTED * count if news else self._was
        self._tick, self._due = now, self._second.tick(now)
        return self._second.turns(now)

    def _rise(self, passed: float) -> None:
        self.value = min(self.most, self.value * exp(self._climb * passed))
        self._peak = max(self._peak, self.value)
        doubling = 1.0 if self._hold else 8.0  # seconds
        self._climb = min(FASTEST, self._climb * 2.0 ** (passed / doubling))
        if self._hold and BEYOND * self._top < self.value < self._once:
            self._return()

    def _return(self) -> None:
        self.value, self._level = RETURNED * self._once, self._once
        self._calm, self._hold, self._climb = 0.0, HOLD, PROBE

    def _let_in(self, count: float) -> None:
        """So many were let in by a second that was counted, without a refusal: the limit has risen, or it is none for seconds."""
        if self._second.sought:
            self._second.deny()
        self._second.since = inf
        self.value, self._calm = self._level, 0.0
        if count < BEYOND * self._level:
            return
        if self._second.known and count < BEYOND * self._once:
            self._return()
        elif self._second.known:
            self.value, self._hold, self._climb = count, 0.0, FASTEST

    # ── down ────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, wait: float, now: float) -> None:
        """In the middle between the least and the most that the limit may be."""
        window = self._window
        second = _second(window.count / max(0.1, now - window.opened))
        least, most = window.limits(second, self._since, now + wait, now)
        self.value = min(self.most, STARTED * sqrt(max(0.0, least * most)))
        self._settle(now, wait, hold=0.0, climb=SEEK)
        self._peak, self.credit = self.value, CREDIT * wait

    def _cut(self, wait: float, now: float) -> None:
        if self._second.known or self._second.counting:
            self._told_by_count(wait, now)
            return
        second, holding = _second(self.value), bool(self._hold) and self._calm < self._hold
        news, told = holding and self._calm > SETTLED, not holding and now - self._since >= CLEAN * second
        fell = self._doubted and self._calm < CLEAN
        self._cuts = 0 if told else self._cuts + 1
        if fell or (news and self.most < inf):
            self._fall(self._was if fell else self.value, wait, now)
        elif not news and (told or (self._countable(second, wait) and now - self._since >= SHORT)):
            self._told_by_climb(second, wait, now, hold=self._holds(now) if told else 0.0)
        elif self._hold and self.most == inf and (second == 1.0 or self._cuts <= len(TRIMS)):
            self._doubt(second == 1.0, wait, now)
        else:
            self.value *= TRIMS[min(self._cuts, len(TRIMS)) - 1]
            self._settle(now, wait, hold=0.0, climb=SEEK)

    def _fall(self, once: float, wait: float, now: float) -> None:
        """The limit is not what it was `once`."""
        self._fell, self._once = now, once
        self.value *= FALL if self.most == inf else FALL_TOLD
        self._settle(now, wait, hold=0.0, climb=RETURN)

    def _doubt(self, brisk: bool, wait: float, now: float) -> None:
        """Perhaps only one request too many: it goes on a little lower. Where it is `brisk`, another at once tells more."""
        self._was = self.value
        self.value *= AGAIN if brisk else AGAIN_CRAWLING
        self._settle(now, wait, hold=self._hold, climb=PROBE)
        self._doubted = brisk

    def _countable(self, second: float, wait: float) -> bool:
        """Whether a pause begins at whose end a second of the endpoint's may begin, and of which something can be counted."""
        return wait > 0.0 and self._second.sought and second == 1.0 and self.value >= SURE and self.most == inf

    def _told_by_climb(self, second: float, wait: float, now: float, hold: float) -> None:
        """Within the last second of the climb. Where the next one can be counted, that will tell more."""
        before, last = self._window.climbed(second, self._level, now)
        self.value = min(0.98 * self.value, 0.995 * (last - 0.8 * max(0.0, last - before)))
        self._settle(now, wait, hold, climb=PROBE if hold else SEEK)
        self._top = last
        if self._countable(second, wait):
            self._due = self.resume = self._second.align(before, now, self.resume)
            self.value = COUNT * self._top
            self._was = 0.0

    def _told_by_count(self, wait: float, now: float) -> None:
        second, was = self._second, self._level if self._second.counting else self.value
        sought, tried = second.sought, second.counting
        count = second.refused(now, self._since, was)
        if not count:
            self.value = AGAIN * was
            self._settle(now, wait, hold=self._hold, climb=PROBE)
            return
        self._crowding.clear()
        if not sought:
            self._was = was if tried else COUNTED * was
            if self._hold and count < NEWS * was:
                self._once = was if now - self._fell > SETTLED else self._once
                self._fell = now
        self.value = min(was, COUNTED * count)
        self._settle(now, wait, hold=self._holds(now), climb=PROBE)
        phase = second.phase(self.resume)
        self.credit = phase if phase < 1.0 - EDGE else 0.0

    def _holds(self, now: float) -> float:
        least = HOLD_COUNTED if self._second.known else HOLD_LEAST
        return HOLD if self._fell == -inf else min(HOLD_MOST, max(least, (now - self._fell) / 5.0))

    def _settle(self, now: float, wait: float, hold: float, climb: float) -> None:
        self.value = max(self.value, 1.0 / 60.0)
        self._level = self._top = self.value
        self._hold, self._climb, self._calm = hold, climb, 0.0
        self._mark, self._since, self._tick = now, now + wait, now + wait
        self._due = self.resume = now + wait
        self._paused, self._doubted = True, False
        self._recent.clear()
        self.credit = 0.0


def _second(rate: float) -> float:
    """Seconds in which so many go out that they can be counted: one, where the rate is no crawl."""
    return max(1.0, ENOUGH / rate) if rate else 1.0
