"""One endpoint: who it is, and how it is.

Rules:

1. It takes a request when nothing holds it: its limit, its gate, its breaker (`core.health`), its debut (`core.debut`),
   and the pace of the model asked for (`core.pace`).
2. Without money it is out of use for the rest of the run. Any other refusal is doubted (`core.doubt`); one that has served is
   given a pause before it is believed, for gateways err.
"""

from collections.abc import Callable, Mapping
from math import inf

from msgspec.structs import replace

from batchrunner.core.debut import Debut
from batchrunner.core.doubt import Doubt
from batchrunner.core.health import Breaker, Gate
from batchrunner.core.limit import Limit
from batchrunner.core.model import Attempt, Kind, Outcome
from batchrunner.core.pace import Pace, Pacing
from batchrunner.core.treatment import HINTS_OF_STATUS, TREATMENT, heard

CODES = {Kind.DENIED: "E301", Kind.QUOTA: "E302", Kind.QUOTA_WINDOW: "E302", Kind.CONFIG: "E304"}
"""What a refusal that stops an endpoint is called (`batchrunner explain`)."""
UNPACED = Pacing()
ANY = "*"  # every model that is not named; and of names, the one asked for
SHOWN = 80  # characters of a custom_id
RECHECK = 5.0  # seconds until an endpoint that has served is asked whether it really means its refusal


class _Paces(dict[str, Pace]):
    """The pace of each model, made when it is first asked for."""

    def __init__(self, pacing: Pacing) -> None:
        self.pacing = pacing

    def __missing__(self, model: str) -> Pace:
        made = self[model] = Pace(self.pacing)
        return made


class Endpoint:
    """One endpoint: who it is, and how it is. `stopped` says in words why it is out of use; empty while it is in use.

    `models` says what the models asked for are called here; with none all are called as they are. `weight` is its share of
    the work, 0 keeps it in reserve for when no other serves (`core.spread`).
    """

    __slots__ = (
        "_paces",
        "base_url",
        "breaker",
        "by_chance",
        "debut",
        "doubt",
        "gate",
        "heard",
        "inflight",
        "limit",
        "models",
        "name",
        "overdue",
        "pace",
        "reserve",
        "stopped",
        "weight",
    )

    def __init__(
        self,
        name: str,
        base_url: str,
        limit: Limit,
        alike: int = 0,
        *,
        models: Mapping[str, str] = {},
        weight: float | None = None,
        pacing: Pacing = UNPACED,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.limit = limit
        self.models = models
        self.weight = weight
        self.reserve = weight == 0
        self.gate = Gate()
        self.breaker = Breaker(limit)
        self.debut = Debut(alike)
        self.doubt = Doubt()
        self.heard = False  # somebody has answered here in this run, if only by an error
        self._paces = _Paces(pacing)
        self.pace: Callable[[str], Pace] = self._paces.__getitem__  # how fast requests for a model may go here
        self.inflight = 0
        self.overdue: set[tuple[int, int]] = set()  # of these, by line and number, who holds no slot (`core.flight`)
        self.by_chance = 0  # attempts that were refused here whatever was sent (`core.luck`, `core.objections`)
        self.stopped = ""

    def asks(self, model: str) -> str | None:
        """What a model is called here; None: it is not served."""
        if not self.models:
            return model
        theirs = self.models.get(model) or self.models.get(ANY)
        return model if theirs == ANY else theirs

    def renames(self, model: str) -> str:
        """What a model that is served is called here, if it is called something else; else empty."""
        theirs = self.asks(model) if self.models else None
        return theirs if theirs and theirs != model else ""

    def ready(self, now: float) -> float | None:
        """0.0: send; seconds: not before; None: when something in flight here has ended, or never, if it is stopped."""
        hanging = max(self.breaker.caught, len(self.overdue))  # since an outage, or alone: it keeps nobody from asking
        served = self.inflight - hanging
        if self.stopped or served >= self.limit.size or self.inflight >= self.limit.most or self.debut.full:
            return None
        if self.inflight and served + self.doubt.held >= self.limit.size:
            return None
        rest = self.breaker.wait(now)
        return None if rest is None else max(rest, self.gate.until - now, 0.0)

    @property
    def found(self) -> Mapping[str, float]:
        """Requests a second that refusals have taught, by model."""
        return {model: pace.found for model, pace in self._paces.items() if pace.found}

    @property
    def daily(self) -> bool:
        """Whether what goes out is counted by the day."""
        return self._paces.pacing.rpd > 0

    def days(self, now: float, last: bool) -> Mapping[str, tuple[tuple[float, int], ...]]:
        """What has gone out in the last day, by model, where that is counted (`Day.learned`)."""
        return {model: pace.day.learned(now, last) for model, pace in self._paces.items() if pace.day}

    @property
    def rate(self) -> float:
        """Requests a second that may go here in all, as far as there is a pace; inf: there is none."""
        rates = [pace.value for pace in self._paces.values() if pace.value < inf]
        return sum(rates) if rates else inf

    @property
    def told(self) -> bool:
        """Whether a pace here is what the headers of its own answers say."""
        return any(pace.value == pace.told < inf for pace in self._paces.values())

    def repace(self, rpm: int) -> None:
        """The user's word while the run goes on: so many requests a minute for each model; 0 takes it back."""
        self._paces.pacing = replace(self._paces.pacing, rpm=rpm)
        for pace in self._paces.values():
            pace.fix(rpm)

    def price(self, started: float) -> float:
        """Tokens that giving up what was sent then and is overdue costs: what leaves no room for a probe has its usual price."""
        return 1.0 if self.inflight >= self.limit.most else self.breaker.price(started)

    def left(self, attempt: Attempt) -> None:
        """An attempt has ended, whatever became of it."""
        self.inflight -= 1
        if self.breaker.caught:
            self.breaker.left(attempt.started)
        if self.overdue:
            self.overdue.discard((attempt.request.line, attempt.number))

    def serves(self, now: float) -> bool:
        """Whether requests should wait for this endpoint rather than go to the next: it is up, if perhaps full."""
        return not (self.stopped or self.breaker.open or self.gate.until > now)

    def learn(
        self, health: str, started: float, outcome: Outcome, now: float, u: float, spared: bool = False, chance: bool = False
    ) -> None:
        """Take in what an attempt says about the endpoint: `up`, `down`, `stop`; every other word says nothing of its health.

        `spared`: another endpoint serves meanwhile. `chance`: it was refused by chance, so that it alone waits as it was told.
        """
        self.heard = self.heard or heard(outcome)
        if health == "up" or outcome.kind is Kind.RATE_LIMITED:  # one that throttles is alive
            self.breaker.ok(started, spared)
        elif health == "down":
            self.breaker.fail(started, now, u, self.inflight)
        else:
            self.breaker.void(started)
        self.by_chance += chance
        if outcome.wait and not chance and not self.gate.throttled(outcome.wait, now):
            self.stopped = self.stopped or f"{self.name} asks for a pause of {outcome.wait:.0f} s [E305]"

    @property
    def singles(self) -> bool:
        """Whether requests are asked one by one, since what was refused holds every slot."""
        return self.doubt.held >= self.limit.size

    def refuse(self, attempt: Attempt, outcome: Outcome, now: float, another: bool) -> bool:
        """It has refused a request, `another`: for the first time. Whether it would refuse everybody."""
        self.doubt.refuse(attempt.started, now, another, self.limit.size)
        if self.doubt.growing and not self.inflight:
            self.gate.throttled(self.recheck, now)
        return TREATMENT[outcome.kind].health == "stop" or (self.doubt.certain and not self.inflight)

    @property
    def recheck(self) -> float:
        """Seconds until what was refused is asked again: one that has never answered is not waited for."""
        return RECHECK if self.doubt.answered else 0.0

    def give_up(self, attempt: Attempt, outcome: Outcome, others: int) -> None:
        """It is out of use, for it refuses everybody as it did this request and so many others."""
        request, said = attempt.request, outcome.message or outcome.kind
        met = f"line {request.line}, {request.id[:SHOWN]}" + (f", and {others} more" if others else "")
        more = outcome.advice or HINTS_OF_STATUS.get(outcome.status, "")
        hint = f". {more}" if more and more[1:] not in said else ""
        self.stopped = self.stopped or f"{self.name}: {said} ({met}){hint} [{CODES[outcome.kind]}]"
