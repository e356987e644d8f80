"""How long to wait for each phase of an attempt: learned from the answers, unless the user has said it.

Rules:

1. A learned deadline is a multiple of p99 of what the last answers took in proportion to their size (`span`, `shape`).
2. An attempt that was killed teaches nothing, since nobody knows how long it would have taken (Karn's rule). Its next deadline
   is twice as long. After two it is waited for like a last attempt, much longer (`span`), and twice as long each time.
3. Kills cost tokens from a small budget (`kills`). When it is empty the attempt goes on; if nothing answers any more, it is the
   endpoint that is slow, not the request, and the concurrency limit is told.
4. Whose end would be the end of its request is waited for much longer (`span`). No token is needed for it once it is outrun: what
   was sent much later has been answered, so that it is not the endpoint that is slow. No next attempt could bring the token back.
5. Nothing outlives `max_timeout`, or a fixed `timeout`.
6. Of more than `ENOUGH` answers a second every so-many-th teaches: a window of the last milliseconds would know less of the
   weather, not more.
"""

from math import inf
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

from batchrunner.core.kills import PER_ANSWER, Kills
from batchrunner.core.model import Attempt, Deadlines, Kind, Outcome, Phase, Request, Timing
from batchrunner.core.policy import Auto, option
from batchrunner.core.span import FIRST_BYTE, IDLE, LOOK, LOWEST, TOTAL, WINDOW, Samples, Span


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long an attempt may take, phase by phase."""

    timeout: Annotated[
        float | Auto,
        option("a whole attempt; auto learns it from the traffic", group="Patience", metavar="auto|T", unit="seconds"),
    ] = "auto"
    max_timeout: Annotated[
        float, option("the longest that auto may wait", group="Patience", metavar="T", unit="seconds", gt=0)
    ] = 600.0
    connect_timeout: Annotated[
        float, option("DNS, TCP, TLS and proxy together", group="Patience", metavar="T", unit="seconds", main=False, gt=0)
    ] = 10.0
    first_byte_timeout: Annotated[
        float | Auto,
        option(
            "from the request to the reply's head, or a stream's word",
            group="Patience",
            metavar="auto|T",
            unit="seconds",
            main=False,
        ),
    ] = "auto"
    idle_timeout: Annotated[
        float | Auto, option("silence inside an answer", group="Patience", metavar="auto|T", unit="seconds", main=False)
    ] = "auto"


ENOUGH = 500.0  # answers a second that are learned from; as many may come at once
HASTY = 30.0  # seconds below which a deadline may be the reason why nobody has ever answered
SLACK = 0.98  # timers fire late and clocks are coarse: so much of a deadline counts as all of it


class Imposed(Struct, frozen=True):
    """A short deadline that no answer has taught: an option and its seconds."""

    flag: str
    seconds: float

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.flag} {self.seconds:g}s"


def imposed(policy: Timeouts, outcome: Outcome) -> Imposed | None:
    """The option that was hasty to end an attempt, before anything came of an answer; None: something else ended it."""
    if outcome.kind is not Kind.TIMEOUT_FIRST_BYTE and outcome.kind is not Kind.TIMEOUT_TOTAL:
        return None
    for flag, allowed in (
        ("--first-byte-timeout", policy.first_byte_timeout),
        ("--timeout", policy.timeout),
        ("--max-timeout", policy.max_timeout),
    ):
        if allowed != "auto" and allowed < HASTY and outcome.timing.total >= SLACK * allowed:
            return Imposed(flag, allowed)
    return None


class Latencies(Struct, frozen=True, omit_defaults=True):
    """What is kept of how long answers took for the next run."""

    total: Samples = Samples()
    first: Samples = Samples()
    idle: Samples = Samples()


class Patience:
    """Deadlines of one endpoint, model and form of answer (route, streamed or not).

    Samples run from the moment a connection was there. A streamed answer has a deadline for its first byte and one
    for silence; an ordinary one, silent by nature until it is complete, has one for the whole.
    """

    def __init__(self, policy: Timeouts) -> None:
        end = policy.max_timeout if policy.timeout == "auto" else policy.timeout
        self._end = end
        self._total = Span(TOTAL, policy.timeout, end, "--timeout")
        self._first = Span(FIRST_BYTE, policy.first_byte_timeout, end, "--first-byte-timeout")
        self._idle = Span(IDLE, policy.idle_timeout, end, "--idle-timeout")
        self._whole = Deadlines(policy.connect_timeout, self._look(self._first), self._look(self._idle), self._total.first_look)
        self._streamed = Deadlines(policy.connect_timeout, self._first.first_look, self._idle.first_look, end)
        self._kills = Kills()
        self._answered = -inf  # when the last answer came
        self._latest = -inf  # when the latest of those that have been answered was sent
        self._next = -inf  # when the next answer teaches
        self._weigh(0)

    def __len__(self) -> int:
        """Answers that it has learned from, up to all that count."""
        return self._answers

    def deadlines(self, request: Request, kills: int, stream: bool) -> Deadlines:
        """When the next attempt at `request`, of which `kills` attempts were ended by us, is looked at for the first time.

        What the user has fixed is due then; the rest `review` stretches to what has been learned.
        """
        if stream:
            return self._streamed
        if self._idle.fixed and not self._total.fixed:  # no early look, which could not be told from a silence
            return replace(self._whole, total=self._total.allowed(request, kills))
        return self._whole

    def in_force(
        self, request: Request, stream: bool, kills: int = 0, final: bool = False, waited: float = 0.0
    ) -> tuple[float, float, str]:
        """Seconds that an attempt at `request` may wait for its first byte, and may take as a whole, and why.

        `final`: to give it up would end the request. What has `waited` for longer than until the next look at it is overdue, and
        no kill could be spent on it.
        """
        span = self._first if stream else self._total
        why, allowed = self._words(span.why(request, kills, final), request, stream), span.allowed(request, kills, final)
        if stream:
            return allowed, self._end, why
        if waited > allowed + max(LOOK, pause(allowed)):
            allowed, why = self._end, f"overdue ({why}), and no kill is left: --max-timeout"
        return min(self._first.first_look, allowed) if self._first.fixed else allowed, allowed, why

    def expects(self, request: Request) -> float:
        """Seconds that a whole answer to this request may well take; with none yet in proportion to others."""
        return self._total.expects(request)

    def late(self, request: Request) -> float:
        """Seconds after which an attempt is a straggler; inf while that is not known."""
        return self._total.late(request)

    def longest(self, request: Request) -> float:
        """Seconds for which an attempt may have to be waited for; inf while that is not known."""
        return self._total.longest(request)

    def outrun(self, attempt: Attempt) -> bool:
        """Whether it is this request that is not answered, not the endpoint: what was sent much later has been answered."""
        return self._latest > attempt.started + self._total.late(attempt.request, 0.99)

    def usual(self, attempt: Attempt, phase: Phase, age: float) -> float:
        """Seconds until an attempt of this age has taken as long as one that nobody had to give up before may; 0.0: it has."""
        allowed = self._passed(attempt, phase, age).allowed(attempt.request, 0)
        return allowed - age if age < SLACK * allowed else 0.0

    def review(
        self, attempt: Attempt, phase: Phase, age: float, now: float, price: float = 1.0, final: bool = False
    ) -> tuple[float, bool]:
        """Judge an attempt, one of whose deadlines has passed in `phase`, `age` seconds after that deadline's clock began.

        Returns how many more seconds to wait, 0.0 to give up, and whether this speaks of an overloaded endpoint. `price` is
        what giving up costs (`core.kills`); `final`: it would end the request.
        """
        if phase is Phase.CONNECT:
            return 0.0, False
        self._kills.fill(now)
        if age >= SLACK * self._end and not self._total.fixed:
            return 0.0, True
        span, request = self._passed(attempt, phase, age), attempt.request
        if span.fixed or age >= SLACK * self._end:
            return 0.0, not self._kills.spend()
        allowed = span.allowed(request, attempt.kills, final)
        if age < SLACK * allowed:
            return span.next_look(request, allowed, age), False
        outrun = self.outrun(attempt)
        if (final and outrun and price < inf) or self._kills.spend(price):
            return 0.0, False
        return min(self._end - age, pause(age)), now - self._answered > allowed and not outrun

    def success(self, attempt: Attempt, timing: Timing, now: float) -> None:
        """Learn from a complete answer."""
        spent = (timing.first_byte if attempt.stream else timing.total) - timing.connect
        self._answered = now
        if attempt.started > self._latest:
            self._latest = attempt.started
        self._kills.earned += PER_ANSWER
        if attempt.number > 1:
            self._kills.answered(attempt.request.line, max(spent, timing.gap))
        if now >= self._next:
            self._next = max(self._next, now - 1.0) + 1.0 / ENOUGH
            self._learn(attempt, timing, now)

    def _learn(self, attempt: Attempt, timing: Timing, now: float) -> None:
        self._kills.fill(now)
        if attempt.stream:
            self._first.add(attempt.request, timing.first_byte - timing.connect)
            self._idle.add(attempt.request, timing.gap)
        self._total.add(attempt.request, timing.total - timing.connect)  # of a stream: who goes first, who is late
        if self._answers < WINDOW:
            self._weigh(self._answers + 1)

    def killed(self, attempt: Attempt, age: float) -> None:
        """Remember what an attempt had waited when our own deadline ended it."""
        self._kills.note(attempt.request.line, age)

    def learned(self) -> Latencies:
        """What the next run may begin with."""
        return Latencies(self._total.learned(), self._first.learned(), self._idle.learned())

    def recall(self, latencies: Latencies) -> None:
        """Begin with what an earlier run learned. Kills have to be earned anew."""
        self._total.recall(latencies.total)
        self._first.recall(latencies.first)
        self._idle.recall(latencies.idle)
        self._weigh(max(len(self._total), len(self._first)))

    def forget(self, request: Request, seconds: float) -> None:
        """The request is finished for good, here or elsewhere: answered after so many seconds, or inf: it was not."""
        self._kills.forget(request.line, seconds)

    def _look(self, span: Span) -> float:
        """When an ordinary answer, silent until it is complete, is looked at: with the whole, unless the user has said it."""
        return span.first_look if span.fixed else self._total.first_look

    def _passed(self, attempt: Attempt, phase: Phase, age: float) -> Span:
        """The span whose deadline has passed."""
        deadlines = attempt.deadlines
        if phase is Phase.BODY:
            if attempt.stream or (self._idle.fixed and age < SLACK * deadlines.total):
                return self._idle
        elif attempt.stream or (self._first.fixed and age >= SLACK * deadlines.first_byte):
            return self._first
        return self._total

    def _weigh(self, answers: int) -> None:
        """Evidence has grown: grant more kills."""
        self._answers = answers
        self._kills.weigh(answers / WINDOW)

    def _words(self, why: str, request: Request, stream: bool) -> str:
        """Why the deadlines are what they are; `why` is said of the first byte of a stream, else of the whole."""
        if stream:
            whole = f"; whole: {self._total.set_by}" if self._total.fixed else ""
            return f"first byte: {why}; silence: {self._idle.why(request)}{whole}"
        if self._first.fixed:
            why = f"{why}; first byte {self._first.set_by}"
        return f"{why}; silence {self._idle.set_by}" if self._idle.fixed else why


def pause(age: float) -> float:
    """Seconds until the next look at an attempt that is overdue and could not be given up."""
    return max(LOWEST, age / 4.0)
