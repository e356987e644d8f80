"""How many requests may be in flight at one endpoint: found by growing until the endpoint objects (slow start, AIMD).

Rules:

1. Each success while the limit is nearly used up adds a share of a slot: a whole one until the first objection and well beyond
   the last one, else little, and more again the longer it stays calm. Every answer counts: quick endpoints are found out quickly.
2. An objection cuts the limit below what was in flight when it came. Attempts that started before a cut cannot cut again.
   Where objections keep coming from as many in flight, the limit is known: then it is held closely, but a whole slot below.
   Objections that come by chance (`core.objections`) cut nothing.
3. Where more in flight brings no more answers, the limit goes back to where as much was delivered (`core.knee`). Slowness
   alone never cuts.
4. Lowering the limit never cancels anything. A limit set by the user is a constant, as long as this machine can hold it.
"""

from math import inf
from typing import Annotated

from msgspec import Struct

from batchrunner.core.knee import Knee
from batchrunner.core.model import Kind
from batchrunner.core.objections import Objections
from batchrunner.core.policy import Auto, option


class Concurrency(Struct, frozen=True, kw_only=True):
    """How many requests may be in flight at once."""

    concurrency: Annotated[
        int | Auto, option("requests in flight at each endpoint; auto finds what it sustains", group="Speed", metavar="auto|N")
    ] = "auto"
    max_concurrency: Annotated[int, option("where auto stops growing", group="Speed", metavar="N", ge=1)] = 256


START = 16
USED = 0.8  # below this share in flight the limit does not bind, and success says nothing about it
GROWTH = 0.05  # of the limit per round of answers after a cut
LEAST_GROWTH = 0.25  # slots per round: a share of a small limit is so little that chance objections would hold it down
CALM_ROUNDS = 4.0  # calm rounds after which growth has doubled
PUSHBACK = 0.9
NEAR = 0.08  # objections so near one another, with a calm round between them, have found the limit: little more need be tried
PUSHBACK_KNOWN, GROWTH_KNOWN = 0.97, 0.02
SMALL = 40.0  # slots; of fewer a single one is so large a share that it is tried more rarely
GROWTH_TOLD = 0.005  # and less where an objection brings a pause with it, so that each try is dear
BEYOND = 1.2  # times what was in flight at the last objection: it was chance, or the endpoint has grown
OVERLOAD = 0.7


class Limit:
    """The limit of one endpoint. `inflight` is always what remains in flight there without the attempt that has just ended."""

    __slots__ = (
        "_calm",
        "_float",
        "_growth",
        "_knee",
        "_least",
        "_mark",
        "_met",
        "_most",
        "_objections",
        "_steep",
        "heeds",
        "size",
    )

    def __init__(self, policy: Concurrency) -> None:
        fixed = policy.concurrency
        self._most = float(policy.max_concurrency if fixed == "auto" else max(1, fixed))
        self._float = min(float(START), self._most) if fixed == "auto" else self._most
        self.heeds = fixed == "auto"  # whether objections move it
        self._mark = -inf if self.heeds else inf  # what started up to here speaks of an older limit, or to a deaf one
        self._knee = Knee() if fixed == "auto" else None
        self._steep = True
        self._objections = Objections()
        self._growth, self._least = GROWTH, LEAST_GROWTH
        self._met = 0.0  # how many were in flight when the endpoint last objected
        self._calm = 0.0  # rounds of answers since the last cut
        self.size = int(self._float)

    @property
    def most(self) -> int:
        """What `size` never passes."""
        return int(self._most)

    def fix(self, size: int) -> None:
        """The user's word while the run goes on: a constant from now on."""
        self._float = self._most = float(size)
        self._mark, self._knee, self.heeds = inf, None, False
        self.size = size

    def warm(self, size: int) -> None:
        """Begin with half of what an earlier run sustained: one round of answers shows whether that still holds."""
        if self._mark < inf:
            self._float = min(self._most, max(self._float, size / 2))
            self.size = int(self._float)

    def sent(self, beside: int) -> int:
        """A request goes out, with so many others in flight: which one it is. Needed only where a limit `heeds` objections."""
        return self._objections.sent(beside)

    def success(self, started: float, inflight: int, now: float, work: float = 1.0) -> None:
        """A complete answer came, of so much work (`core.knee`)."""
        if self._knee and (self._beyond_the_knee(self._knee, work, now - started, inflight, now) or self._knee.holds):
            return
        if self._float >= self._most or inflight + 1 < USED * self.size:
            return
        growth = 1.0
        self._steep = self._steep or self._float > BEYOND * self._met > 0.0
        if not self._steep:
            self._calm += 1.0 / self.size
            growth = min(1.0, max(self._growth * 2.0 ** (self._calm / CALM_ROUNDS), self._least / self.size))
        self._float = min(self._most, self._float + growth)
        self.size = int(self._float)

    def chance(self, kind: Kind, beside: int, sending: int) -> bool:
        """Whether the refusal of a sending, with so many others in flight, says nothing of how many there may be."""
        chance = self._objections.chance(kind, beside, sending)
        self._calm += chance
        return chance

    def pushback(self, started: float, inflight: int, now: float, wait: float = 0.0) -> bool:
        """The endpoint refused work: 429 without a pace of ours, 503, 529, no connection. True: the limit was cut.

        `wait` are the seconds that it asked to be left alone for.
        """
        return self._objected(PUSHBACK, started, inflight, now, GROWTH_TOLD if wait else GROWTH_KNOWN)

    def overload(self, started: float, inflight: int, now: float) -> bool:
        """The endpoint no longer answers in any time we grant (`core.deadlines`). True: the limit was cut."""
        return self._objected(OVERLOAD, started, inflight, now)

    def crowded(self, started: float, inflight: int, now: float) -> bool:
        """Not one more connection could be opened on this machine: even the user's own number yields. True: the limit was cut."""
        if not self.heeds:
            self.heeds, self._mark = True, -inf
        return self._objected(PUSHBACK, started, inflight, now)

    def _objected(self, factor: float, started: float, inflight: int, now: float, growth: float = GROWTH_KNOWN) -> bool:
        if started <= self._mark:
            return False
        level = min(self._float, inflight + 1.0)
        known = factor == PUSHBACK and self._calm >= 1.0 and abs(level - self._met) <= NEAR * level
        self._met = level
        self._growth, self._least = (growth * min(1.0, level / SMALL), 0.0) if known else (GROWTH, LEAST_GROWTH)
        if self._knee:
            self._knee.forget()
        self._move(min(level * PUSHBACK_KNOWN, level - 1.0) if known else level * factor, now)
        return True

    def _beyond_the_knee(self, knee: Knee, work: float, latency: float, inflight: int, now: float) -> bool:
        """Go where as much is delivered with less in flight (`core.knee`). True: the limit was moved."""
        target = knee.hear(work, latency / work, inflight + 1, self.size, now)
        if target == inf:
            return False
        self._move(min(self._most, target), now)
        return True

    def _move(self, size: float, now: float) -> None:
        """Go on from there, gently."""
        self._steep, self._calm, self._mark = False, 0.0, now
        self._float = max(1.0, size)
        self.size = int(self._float)
