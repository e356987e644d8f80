"""One duration of an attempt, fixed by the user or learned: how long it may take for requests of any size.

Rules:

1. A learned value is a multiple of p99 of what the last answers took, each in proportion to what its size is worth (`shape`).
2. It never undercuts a floor that sinks as answers come in: thin evidence makes patient, plenty of it lets a fast service be
   held to its pace. Before the first answers the weight of a request alone decides.
3. Where a kill would lose an answer for good, and after two, the floor does not sink below what the weight says, and the multiple
   is wider. Each further kill doubles.
4. Nothing that is learned is shorter than the first look at an attempt: only then it is reckoned what this one may take, so
   that a quick answer costs no reckoning.
5. Evidence is thin where few answers have come, or few of this size: then attempts are looked at often, so that what is learned
   meanwhile reaches them.
6. A fixed value rules outright: it is neither stretched nor learned.
"""

from collections.abc import Callable
from math import inf, sqrt
from typing import Annotated

from msgspec import Meta, Struct

from batchrunner.core.model import Request, Route
from batchrunner.core.policy import Auto
from batchrunner.core.quantile import Reservoir
from batchrunner.core.shape import KNOWN, Kin, Measure, Shape, Sized, alike, opening, whole

WINDOW = 500  # answers that count; one window is also how long a change of weather takes to be forgotten
FULL_TAIL = 100  # below so many answers p99 is merely the slowest seen, and the multiple is wider
LOWEST = 1.0  # the first look; no floor sinks below: a lost packet or a pause of the collector is not a hang
FEW = 5  # below so many answers the weight of a request alone says how long it may take
ENOUGH_KILLS = 2  # after so many it may be this request that needs long: it is waited for as if none followed
FINAL = 4.0  # times as long as others an attempt may take that none follows: to give it up in vain loses an answer
LOOK = 15.0  # the longest time between two looks at an attempt while evidence is thin
RECALLED = WINDOW // 2  # answers of an earlier run that count in this one


class Samples(Struct, frozen=True, omit_defaults=True):
    """What is kept of one duration for the next run: the last samples, in the unit of the level, and the shape."""

    latest: tuple[Annotated[float, Meta(ge=0.0, le=1e6)], ...] = ()
    level: Annotated[float, Meta(ge=-50.0, le=50.0)] = 0.0
    sizes: tuple[Sized, ...] = ()


class Learning(Struct, frozen=True):
    """How one duration is learned: p99 × `times`; `floor` seconds at 20 answers, sinking with more."""

    times: float
    floor: float
    what: str
    measure: Measure
    prior: Callable[[Request], float]  # seconds, before the first answer


SHORT, LONG, IMAGE = 60.0, 120.0, 180.0  # seconds to the first answer of all, which may have to wait for a model to load
LONG_TEXT = 4000  # tokens
MANY_TOKENS = 1000
SILENCE = 60.0


def _prompt_prior(request: Request) -> float:
    if request.images:
        return IMAGE
    return LONG if request.prompt_tokens >= LONG_TEXT else SHORT


def _prior(request: Request) -> float:
    if request.route is Route.IMAGES:
        return IMAGE
    return max(_prompt_prior(request), LONG if request.max_tokens >= MANY_TOKENS else SHORT)


TOTAL = Learning(2.0, 10.0, "answers", whole, _prior)
FIRST_BYTE = Learning(3.0, 30.0, "first bytes", opening, _prompt_prior)
IDLE = Learning(3.0, 30.0, "longest silences", alike, lambda _: SILENCE)


class Span:
    """One duration, fixed or learned, of requests of any size."""

    __slots__ = ("_end", "_floor", "_level", "_rule", "_shape", "_times", "_window", "first_look", "fixed", "set_by", "young")

    def __init__(self, rule: Learning, setting: float | Auto, end: float, flag: str) -> None:
        self.fixed = setting != "auto"
        self.young = not self.fixed
        self.set_by = f"set by {flag}"
        self._rule = rule
        self._end = end
        self._window = Reservoir(WINDOW)
        self._shape = Shape(rule.measure)
        self._times = rule.times
        self._level = 0.0
        self._floor = end
        self.first_look = min(end, LOWEST if setting == "auto" else setting)  # at an attempt; where it is fixed, its deadline

    def __len__(self) -> int:
        return len(self._window)

    def add(self, request: Request, seconds: float) -> None:
        """Learn from one answer, unless the user knows better."""
        if self.fixed:
            return
        self._window.add(self._shape.learn(request, seconds))
        self._settle()

    def allowed(self, request: Request, kills: int, final: bool = False) -> float:
        """Seconds that an attempt may take after so many kills. `final`: none follows."""
        if self.fixed:
            return self.first_look
        return self._granted(request, self._shape.of(request)[1], kills, final)

    def next_look(self, request: Request, allowed: float, waited: float) -> float:
        """Seconds until the next look at an attempt that has waited less than it may: doubling steps while evidence is thin."""
        left = allowed - waited
        thin = self.young or self._shape.of(request)[0].answers < KNOWN
        return min(left, max(LOWEST, waited), LOOK) if thin else left

    def expects(self, request: Request) -> float:
        """Seconds that this request may well take; before the first answer merely in proportion to others."""
        return self._shape.expects(request)

    def late(self, request: Request, share: float = 0.95) -> float:
        """Seconds within which that share of the answers to requests of this size has come; inf while little is known."""
        kin, scale = self._shape.of(request)
        return self._window.quantile(share) * scale if min(kin.answers, len(self._window)) >= KNOWN else inf

    def longest(self, request: Request) -> float:
        """Seconds that any answer to this request may well take, whatever the floor; inf while little is known."""
        kin, scale = self._shape.of(request)
        return self._level * scale if min(kin.answers, len(self._window)) >= KNOWN else inf

    def why(self, request: Request, kills: int = 0, final: bool = False) -> str:
        """Where the deadline of this request's attempts comes from, in words."""
        return self.set_by if self.fixed else self._say(self._shape.of(request)[0], request, final or kills >= ENOUGH_KILLS)

    def learned(self) -> Samples:
        """What the next run may begin with."""
        latest = tuple(round(sample, 4) for sample in self._window.latest(RECALLED))
        level, sizes = self._shape.learned()
        return Samples(latest, level, sizes)

    def recall(self, samples: Samples) -> None:
        """Begin with what an earlier run learned."""
        if self.fixed or not samples.latest:
            return
        for sample in samples.latest[-RECALLED:]:
            self._window.add(sample)
        self._shape.recall(samples.level, samples.sizes)
        self._settle()

    def _granted(self, request: Request, scale: float, kills: int, final: bool) -> float:
        usual = max(self._least(request, False), self._level * scale) * 2.0**kills
        if not final and kills < ENOUGH_KILLS:
            return min(self._end, usual)
        last = max(self._least(request, True), FINAL * self._level * scale) * 2.0 ** (kills if final else kills - ENOUGH_KILLS)
        return min(self._end, max(usual, last))

    def _least(self, request: Request, final: bool) -> float:
        """The floor. It does not sink below the prior for what is final."""
        few = len(self._window) < FEW
        if not (few or final):
            return self._floor
        prior = self._rule.prior(request)
        return min(self._floor, prior) if few else max(self._floor, prior)

    def _say(self, kin: Kin, request: Request, patient: bool) -> str:
        """Put into words what the kin may take, before it is doubled for kills."""
        rule, answers = self._rule, len(self._window)
        if not answers:
            return f"no answers yet: {rule.prior(request):g} s"
        seen = min(kin.answers, answers)
        size = "" if rule.measure is alike else " of this size" if seen == answers else f" scaled to this size, {seen} of it,"
        times, last = (FINAL * self._times, ", as for a last attempt") if patient else (self._times, "")
        floor = self._least(request, True) if patient else self._floor
        return f"p99 of {answers} {rule.what}{size} × {times:.1f}, at least {floor:.1f} s{last}"

    def _settle(self) -> None:
        """Take the level anew; let the floor sink and the multiple narrow, up to a full window."""
        if self.young:
            rule, answers = self._rule, len(self._window)
            self._floor = min(self._end, max(LOWEST, 20.0 * rule.floor / answers))
            self._times = rule.times * max(1.0, sqrt(FULL_TAIL / answers))
            self.young = answers < WINDOW
        self._level = self._times * self._window.quantile(0.99)
