"""What the trail counts besides the meter: phases, ages of death, sizes, money, and whether our kills were right.

Rules:

1. A listener: each event is counted once. A plain success costs half a microsecond, for at high rates phases and sizes are
   taken of every n-th one only, which then stands for n.
2. Memory does not grow with the run: tables are sparse and bounded, models and killed lines are counted up to a cap.
3. Buckets are given away with each moment (`LaneTally.taken`); everything else is cumulative.
"""

from math import log

from msgspec import UNSET, Struct

from batchrunner.core.buckets import Buckets, bucket
from batchrunner.core.model import Attempt, Event, Kind, Outcome, Usage
from batchrunner.core.trail import Judged, Size, Spend
from batchrunner.core.treatment import KILLS

SAMPLES = 500.0  # good answers a second whose phases are looked at
MODELS = 200  # pairs of endpoint and model that are told apart; what comes later is counted as ""
KILLED = 10_000  # lines that we remember to have killed
PUSHBACK = frozenset({Kind.RATE_LIMITED, Kind.OVERLOADED})
LOST = frozenset({Kind.NETWORK, Kind.TRUNCATED})
LOST_STATUS = frozenset({408, 502, 504, 524})  # what a proxy says that lost patience
_PER_4 = 1 / log(4)

Tables = tuple[dict[str, Buckets], Buckets, Buckets]


class ModelTally(Struct, gc=False):
    """Tokens of one model at one endpoint; `told` is what the provider itself says they cost."""

    requests: int = 0
    input: int = 0
    output: int = 0
    told: float = 0.0
    tellings: int = 0


class LaneTally(Struct):
    """What is counted of one endpoint."""

    attempts: int = 0
    succeeded: int = 0
    pushed_back: int = 0
    connect: Buckets = {}
    first_byte: Buckets = {}
    body: Buckets = {}
    total: Buckets = {}
    deaths: Buckets = {}
    kills: Buckets = {}
    models: dict[str, ModelTally] = {}
    last: Attempt | None = None  # whose deadlines are the ones in force

    def tables(self) -> Tables:
        """What has been counted since the tables were last taken: phases, deaths, kills."""
        phases = {name: getattr(self, name) for name in ("connect", "first_byte", "body", "total") if getattr(self, name)}
        return phases, self.deaths, self.kills

    def taken(self) -> Tables:
        """The same, which begins anew."""
        taken = self.tables()
        self.connect, self.first_byte, self.body, self.total, self.deaths, self.kills = {}, {}, {}, {}, {}, {}
        return taken


class _Class(Struct):
    good: float = 0.0
    seconds: float = 0.0
    killed: int = 0


class Tally:
    """Listens to a run. `stride` successes stand behind each one that is looked at closely."""

    def __init__(self) -> None:
        self.lanes: dict[str, LaneTally] = {}
        self.causes: dict[str, int] = {}
        self.stride = 1
        self._skip = 1
        self._before = 0  # good answers until the last moment
        self._models = 0
        self._prompts: dict[int, _Class] = {}
        self._answers: dict[int, _Class] = {}
        self._killed: dict[int, float] = {}
        self._right = self._wrong = self._kills = 0
        self._held = self._worked = 0.0

    def __call__(self, event: Event) -> None:
        """Count one event."""
        attempt, outcome = event.attempt, event.outcome
        if attempt is None or outcome is None:
            return
        lane = self.lanes.get(attempt.endpoint) or self.lanes.setdefault(attempt.endpoint, LaneTally())
        lane.attempts += 1
        lane.last = attempt
        if outcome.usage is not None:
            self._pay(lane, attempt.request.model, outcome.usage)
        if outcome.kind is not Kind.OK:
            self._failed(lane, attempt, outcome)
            if event.result is not None and attempt.kills:
                self._killed.pop(attempt.request.line, None)
            return
        lane.succeeded += 1
        self._worked += outcome.timing.total
        if attempt.kills:
            self._judge(attempt, outcome)
        self._skip -= 1
        if not self._skip:
            self._skip = self.stride
            self._look(lane, attempt, outcome)

    def adapt(self, span: float) -> None:
        """A moment of `span` seconds is over: look at so many of the next answers that it stays cheap."""
        good = sum(lane.succeeded for lane in self.lanes.values())
        self.stride = max(1, round((good - self._before) / max(span, 0.1) / SAMPLES))
        self._skip = min(self._skip, self.stride)
        self._before = good

    def spend(self) -> list[Spend]:
        """What each model at each endpoint has used."""
        return [
            Spend(
                endpoint=name,
                model=model,
                requests=spent.requests,
                input=spent.input,
                output=spent.output,
                told=spent.told if spent.tellings == spent.requests else None,
            )
            for name, lane in self.lanes.items()
            for model, spent in lane.models.items()
        ]

    def prompts(self) -> list[Size]:
        """Attempts by the size of their prompt."""
        return _sizes(self._prompts)

    def answers(self) -> list[Size]:
        """Good attempts by the size of their answer."""
        return _sizes(self._answers)

    def judged(self) -> Judged:
        """Whether our kills were right."""
        held, worked = round(self._held, 3), round(self._worked, 3)
        return Judged(kills=self._kills, right=self._right, wrong=self._wrong, held=held, worked=worked)

    def _pay(self, lane: LaneTally, model: str, usage: Usage) -> None:
        spent = lane.models.get(model) or self._of_model(lane, model)
        spent.requests += 1
        spent.input += usage.input
        spent.output += usage.output
        if usage.cost is not UNSET:
            spent.told += usage.cost
            spent.tellings += 1

    def _of_model(self, lane: LaneTally, model: str) -> ModelTally:
        self._models += 1
        return lane.models.setdefault(model if self._models <= MODELS else "", ModelTally())

    def _failed(self, lane: LaneTally, attempt: Attempt, outcome: Outcome) -> None:
        kind, age = outcome.kind, outcome.timing.total
        lane.pushed_back += kind in PUSHBACK
        if not outcome.status and outcome.code:
            self.causes[outcome.code] = self.causes.get(outcome.code, 0) + 1
        if kind in LOST or (kind is Kind.GATEWAY and outcome.status in LOST_STATUS):
            _count(lane.deaths, age, 1)
        elif kind in KILLS:
            _count(lane.kills, age, 1)
            self._kill(attempt, age)

    def _kill(self, attempt: Attempt, age: float) -> None:
        self._kills += 1
        self._held += age
        _class(self._prompts, attempt.request.prompt_tokens).killed += 1
        if len(self._killed) < KILLED:
            self._killed[attempt.request.line] = age

    def _judge(self, attempt: Attempt, outcome: Outcome) -> None:
        """A request that we had killed has been answered after all: slower than we had waited, or quicker."""
        age = self._killed.pop(attempt.request.line, None)
        if age is not None:
            slow = outcome.timing.total - outcome.timing.connect >= age
            self._wrong += slow
            self._right += not slow

    def _look(self, lane: LaneTally, attempt: Attempt, outcome: Outcome) -> None:
        timing, weight = outcome.timing, self.stride
        if not timing.reused:
            _count(lane.connect, timing.connect, weight)
        _count(lane.first_byte, timing.first_byte - timing.connect, weight)
        _count(lane.body, timing.total - timing.first_byte, weight)
        _count(lane.total, timing.total, weight)
        _add(_class(self._prompts, attempt.request.prompt_tokens), timing.total, weight)
        if outcome.usage is not None:
            _add(_class(self._answers, outcome.usage.output), timing.total, weight)


def _count(table: Buckets, seconds: float, weight: int) -> None:
    number = bucket(seconds)
    table[number] = table.get(number, 0) + weight


def _class(table: dict[int, _Class], tokens: float) -> _Class:
    """The class of this size: tokens from 4^n to 4^(n+1)."""
    place = int(log(tokens) * _PER_4 + 1e-9) if tokens >= 1 else 0
    return table.get(place) or table.setdefault(place, _Class())


def _add(size: _Class, seconds: float, weight: int) -> None:
    size.good += weight
    size.seconds += seconds * weight


def _sizes(table: dict[int, _Class]) -> list[Size]:
    return [
        Size(tokens=4**place, good=int(each.good), seconds=round(each.seconds, 3), killed=each.killed)
        for place, each in sorted(table.items())
    ]
