"""How long to wait for each phase of an attempt: learned from the answers, unless the user has said it.

Rules:

1. A learned deadline is a multiple of p99 of what the last answers took in proportion to their size. It never undercuts
   a floor that sinks as answers come in: thin evidence makes patient, plenty of it lets a fast service be held to its pace.
2. An attempt that was killed teaches nothing, since nobody knows how long it would have taken (Karn's rule).
   Its next deadline is twice as long.
3. Kills cost tokens from a small budget that answers fill. When it is empty the endpoint is slow, not the request:
   the attempt goes on, and the concurrency limit is told.
4. While evidence is thin, running attempts are looked at early and often, so that what has been learned meanwhile reaches them.
5. A fixed value rules outright: it is neither stretched nor learned. Nothing outlives `max_timeout`, or a fixed `timeout`.
"""

from math import sqrt
from typing import Annotated

from msgspec import Meta, Struct

from batchrunner.core.model import Attempt, Deadlines, Phase, Request, Timing
from batchrunner.core.policy import Auto, option
from batchrunner.core.quantile import Window


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long an attempt may take, phase by phase."""

    timeout: Annotated[
        float | Auto,
        option("a whole attempt; auto learns it from the traffic", group="Patience", metavar="auto|T", unit="seconds"),
    ] = "auto"
    max_timeout: Annotated[float, option("the longest that auto may wait", group="Patience", metavar="T", unit="seconds")] = 600.0
    connect_timeout: Annotated[
        float, option("DNS, TCP, TLS and proxy together", group="Patience", metavar="T", unit="seconds")
    ] = 10.0
    first_byte_timeout: Annotated[
        float | Auto,
        option("from the request to the reply's head, or a stream's word", group="Patience", metavar="auto|T", unit="seconds"),
    ] = "auto"
    idle_timeout: Annotated[
        float | Auto, option("silence inside an answer", group="Patience", metavar="auto|T", unit="seconds")
    ] = "auto"


WINDOW = 500  # answers that count; one window is also how long a change of weather takes to be forgotten
FULL_TAIL = 100  # below so many answers p99 is merely the slowest seen, and the multiple is wider
LOWEST = 1.0  # no floor sinks below: a lost packet or a pause of the collector is not a hang
LOOK = 15.0  # the longest time between two looks at an attempt while evidence is thin
SLACK = 0.98  # timers fire late and clocks are coarse: so much of a deadline counts as all of it
FIRST_TOKENS = 4.0  # before the first answer
MOST_TOKENS = 16.0  # at hand once the window is full: what a stall of the endpoint can cost
PER_ANSWER = 0.02  # tokens an answer brings: bounds wrong kills; a right one is refunded, so that any share may hang
PER_SECOND = 0.1  # tokens time brings, so that an endpoint gone silent is not waited for without end


Sample = Annotated[float, Meta(ge=0.0, le=1e6)]
RECALLED = WINDOW // 2  # answers of an earlier run that count in this one


class Latencies(Struct, frozen=True, omit_defaults=True):
    """What the last answers took in proportion to their size, in seconds, for the next run."""

    total: tuple[Sample, ...] = ()
    first: tuple[Sample, ...] = ()
    idle: tuple[Sample, ...] = ()


class Learning(Struct, frozen=True):
    """How one duration is learned: p99 × `times`; `floor` seconds at 20 answers, sinking with more; `prior` before the first."""

    times: float
    floor: float
    prior: float
    what: str


TOTAL = Learning(2.0, 10.0, 180.0, "answers of this size")
FIRST_BYTE = Learning(3.0, 30.0, 180.0, "first bytes")
IDLE = Learning(3.0, 30.0, 60.0, "longest silences")


class Span:
    """One duration, fixed or learned. Samples and `scale` are relative: a sample is seconds / scale."""

    __slots__ = ("_end", "_floor", "_level", "_rule", "_times", "_window", "fixed", "why", "young")

    def __init__(self, rule: Learning, setting: float | Auto, end: float, flag: str) -> None:
        self.fixed = setting != "auto"
        self.young = not self.fixed
        self.why = f"set by {flag}" if self.fixed else f"no answers yet: {rule.prior:g} s"
        self._rule = rule
        self._end = end
        self._window = Window(WINDOW)
        self._times = rule.times
        self._level = 0.0
        self._floor = min(end, rule.prior if setting == "auto" else setting)

    def add(self, sample: float) -> None:
        """Learn from one answer, unless the user knows better."""
        if self.fixed:
            return
        self._window.add(sample)
        if self.young:
            self._settle(len(self._window))
        self._level = self._times * self._window.quantile(0.99)

    def learned(self) -> tuple[float, ...]:
        """The samples that the next run may begin with."""
        return tuple(round(sample, 4) for sample in self._window.latest(RECALLED))

    def allowed(self, scale: float, kills: int) -> float:
        """Seconds that an attempt of this size may take after so many kills."""
        if self.fixed:
            return self._floor  # the setting itself
        return min(self._end, max(self._floor, self._level * scale) * 2.0**kills)

    def first_look(self, scale: float, kills: int) -> float:
        """When to look at the attempt for the first time. Later, evidence is firm, and this is its deadline."""
        return min(self._end, LOWEST) if self.young else self.allowed(scale, kills)

    def next_look(self, allowed: float, waited: float) -> float:
        """Seconds until the next look at an attempt that has waited less than it may: doubling steps while evidence is thin."""
        left = allowed - waited
        return min(left, max(LOWEST, waited), LOOK) if self.young else left

    def _settle(self, answers: int) -> None:
        """Let the floor sink and the multiple narrow, up to a full window."""
        rule = self._rule
        self._floor = min(self._end, max(LOWEST, min(rule.prior, 20.0 * rule.floor / answers)))
        self._times = rule.times * max(1.0, sqrt(FULL_TAIL / answers))
        self.why = f"p99 of {answers} {rule.what} × {self._times:.1f}, at least {self._floor:.1f} s"
        self.young = answers < WINDOW


def _size(request: Request) -> float:
    """How much longer a request takes for its size: fits chat, embeddings and images without being told which it is."""
    return sqrt(1.0 + request.prompt_tokens / 4000.0 + request.max_tokens / 100.0)


def _prompt_size(request: Request) -> float:
    return sqrt(1.0 + request.prompt_tokens / 4000.0)


class Patience:
    """Deadlines of one endpoint, model and form of answer (route, streamed or not).

    Samples run from the moment a connection was there. A streamed answer has a deadline for its first byte and one
    for silence; an ordinary one, silent by nature until it is complete, has one for the whole.
    """

    def __init__(self, policy: Timeouts) -> None:
        end = policy.max_timeout if policy.timeout == "auto" else policy.timeout
        self._connect = policy.connect_timeout
        self._end = end
        self._total = Span(TOTAL, policy.timeout, end, "--timeout")
        self._first = Span(FIRST_BYTE, policy.first_byte_timeout, end, "--first-byte-timeout")
        self._idle = Span(IDLE, policy.idle_timeout, end, "--idle-timeout")
        self._tokens = self._most_tokens = FIRST_TOKENS
        self._filled = 0.0
        self._killed: dict[int, float] = {}  # line → age of its last attempt that we ended; finished lines leave
        self._weigh(0)

    def deadlines(self, request: Request, kills: int, stream: bool) -> Deadlines:
        """Deadlines of the next attempt at `request`, of which `kills` attempts were ended by us.

        While evidence is thin, `first_byte` and `total` are the age of the first look: `review` stretches them to what is due.
        """
        if stream:
            first = self._first.first_look(_prompt_size(request), kills)
            return Deadlines(self._connect, first, self._idle.allowed(1.0, kills), self._end, self._why_stream)
        if self._idle.fixed:  # no early look, which could not be told from a silence
            idle, total = self._idle.allowed(1.0, kills), self._total.allowed(_size(request), kills)
        else:
            idle = total = self._total.first_look(_size(request), kills)
        first = self._first.allowed(1.0, kills) if self._first.fixed else total
        return Deadlines(self._connect, first, idle, total, self._why)

    def in_force(self, request: Request, stream: bool) -> tuple[float, float, str]:
        """Seconds that the first attempt at `request` may wait for its first byte, and may take as a whole, and why."""
        if stream:
            return self._first.allowed(_prompt_size(request), 0), self._end, self._why_stream
        total = self._total.allowed(_size(request), 0)
        return min(self._first.allowed(1.0, 0), total) if self._first.fixed else total, total, self._why

    def review(self, attempt: Attempt, phase: Phase, age: float, now: float) -> tuple[float, bool]:
        """Judge an attempt, one of whose deadlines has passed in `phase`, `age` seconds after that deadline's clock began.

        Returns how many more seconds to wait, 0.0 to give up, and whether this speaks of an overloaded endpoint.
        """
        if phase is Phase.CONNECT:
            return 0.0, False
        self._fill(now)
        if age >= SLACK * self._end and not self._total.fixed:
            return 0.0, True
        span, scale = self._passed(attempt, phase, age)
        if span.fixed or age >= SLACK * self._end:
            return 0.0, not self._spend()
        allowed = span.allowed(scale, attempt.kills)
        if age < SLACK * allowed:
            return span.next_look(allowed, age), False
        if self._spend():
            return 0.0, False
        return min(self._end - age, max(LOWEST, age / 4.0)), True

    def success(self, attempt: Attempt, timing: Timing, now: float) -> None:
        """Learn from a complete answer."""
        request = attempt.request
        self._fill(now, PER_ANSWER)
        if attempt.stream:
            spent = timing.first_byte - timing.connect
            self._first.add(spent / _prompt_size(request))
            self._idle.add(timing.gap)
        else:
            spent = timing.total - timing.connect
            self._total.add(spent / _size(request))
        if self._answers < WINDOW:
            self._weigh(self._answers + 1)
        if self._killed:
            self._refund(request.line, max(spent, timing.gap))

    def killed(self, attempt: Attempt, age: float) -> None:
        """Remember what an attempt had waited when our own deadline ended it."""
        self._killed[attempt.request.line] = age

    def learned(self) -> Latencies:
        """What the next run may begin with."""
        return Latencies(self._total.learned(), self._first.learned(), self._idle.learned())

    def recall(self, latencies: Latencies) -> None:
        """Begin with what an earlier run learned. Kills have to be earned anew."""
        spans = ((self._total, latencies.total), (self._first, latencies.first), (self._idle, latencies.idle))
        for span, samples in spans:
            for sample in samples[-RECALLED:]:
                span.add(sample)
        self._weigh(max(len(samples) for _, samples in spans))

    def forget(self, request: Request) -> None:
        """The request is finished for good, here or elsewhere."""
        self._killed.pop(request.line, None)

    def _passed(self, attempt: Attempt, phase: Phase, age: float) -> tuple[Span, float]:
        """The span whose deadline has passed, and the scale of the attempt in it."""
        request, deadlines = attempt.request, attempt.deadlines
        if phase is Phase.BODY:
            if attempt.stream or (self._idle.fixed and age < SLACK * deadlines.total):
                return self._idle, 1.0
        elif attempt.stream:
            return self._first, _prompt_size(request)
        elif self._first.fixed and age >= SLACK * deadlines.first_byte:
            return self._first, 1.0
        return self._total, _size(request)

    def _refund(self, line: int, slowest: float) -> None:
        """Give the token of a kill back when the answer after it was quicker than what was killed: the kill was right."""
        if slowest <= self._killed.pop(line, -1.0):
            self._tokens = min(self._most_tokens, self._tokens + 1.0)

    def _fill(self, now: float, brought: float = 0.0) -> None:
        self._tokens = min(self._most_tokens, self._tokens + (now - self._filled) * PER_SECOND + brought)
        self._filled = now

    def _spend(self) -> bool:
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _weigh(self, answers: int) -> None:
        """Evidence has grown: grant more kills, and write down why deadlines are what they are, here and not on the hot path."""
        self._answers = answers
        self._most_tokens = max(FIRST_TOKENS, MOST_TOKENS * answers / WINDOW)
        set_phases = [f"{name} {span.why}" for name, span in (("first byte", self._first), ("silence", self._idle)) if span.fixed]
        self._why = "; ".join([self._total.why, *set_phases])
        self._why_stream = f"first byte: {self._first.why}; silence: {self._idle.why}"
