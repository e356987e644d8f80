"""Events to counters and histograms.

Rules:

1. Each event is counted once, in about a microsecond; everything that can be derived is derived in `snapshot`.
2. Memory does not grow with the number of requests: counters, one histogram per endpoint, five minutes of seconds.
3. The clock is an argument. Rates and the time left come from the last minutes of this run; what an earlier run finished
   counts as done and never as speed.
4. `total = succeeded + failed + invalid + pending`, always, and checked where a summary is made.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from batchrunner.core.histogram import MINUTE, MINUTES, Histogram, Lately
from batchrunner.core.model import Event, Kind
from batchrunner.core.trail import Finding

TIMEOUTS = (Kind.TIMEOUT_CONNECT, Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_TOTAL)


TELLING = 100  # finished requests that make a rate good to a tenth


class Gauges(Struct, frozen=True, kw_only=True):
    """What is so at this moment; whoever runs the requests knows it."""

    in_flight: int = 0
    limit: int = 0  # how many may be in flight; 0: not said
    retrying: int = 0  # requests that wait to be sent again
    timeout: float = 0.0  # the longest deadline for a whole attempt now in force, seconds; 0: not said
    timeouts: Mapping[str, float] = {}  # the same for each endpoint
    oldest: float = 0.0  # since the request that has been under way for longest was first sent, seconds
    paused: bool = False  # by the user
    cost: float | None = None  # of this run so far; None: not known


class Lane(Struct, frozen=True, kw_only=True):
    """One endpoint's share of the run. Latencies are of good answers, in seconds."""

    name: str
    attempts: int
    succeeded: int
    p50: float
    p95: float


class Snapshot(Struct, frozen=True, kw_only=True):
    """All figures at one moment. Latencies are of good answers, in seconds; rates are per second over the last minute."""

    seconds: float = 0.0
    total: int | None = None  # None until the input has been counted
    succeeded: int = 0
    failed: int = 0
    invalid: int = 0
    resumed: int = 0
    attempts: int = 0
    retries: int = 0
    recovered: int = 0
    maybe_billed: int = 0
    duplicates: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    rate: float = 0.0
    token_rate: float = 0.0
    eta: float | None = None
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    first_byte_share: float = 0.0  # of the time of good answers, the part spent waiting for the first byte
    kinds: Mapping[Kind, int] = {}  # attempts by what they amounted to
    failures: Mapping[Kind, int] = {}  # requests that failed for good
    lanes: tuple[Lane, ...] = ()
    gauges: Gauges = Gauges()

    @property
    def cost_expected(self) -> float | None:
        """What this run will have cost at its end, if it goes on like this; None while that cannot be told."""
        fresh, cost = self.done - self.resumed, self.gauges.cost
        return cost * (fresh + self.pending) / fresh if cost is not None and fresh and self.total is not None else None

    @property
    def done(self) -> int:
        """Lines that need nothing more."""
        return self.succeeded + self.failed + self.invalid

    @property
    def pending(self) -> int:
        """Lines still to do, as far as the input has been counted."""
        return 0 if self.total is None else self.total - self.done

    @property
    def rate_limited(self) -> int:
        """Attempts answered with a rate limit."""
        return self.kinds.get(Kind.RATE_LIMITED, 0)

    @property
    def timeouts(self) -> int:
        """Attempts that one of our deadlines ended."""
        return sum(self.kinds.get(kind, 0) for kind in TIMEOUTS)

    @property
    def truncated(self) -> int:
        """Attempts whose answer was cut short."""
        return self.kinds.get(Kind.TRUNCATED, 0)


class Tokens(Struct, frozen=True):
    """Tokens as the providers counted them, in this run."""

    input: int = 0
    output: int = 0


class Summary(Struct, frozen=True, kw_only=True):
    """`summary.json`. Counts of lines are of the whole job, counts of attempts and tokens of this run."""

    v: int = 1
    input: str
    total: int
    succeeded: int
    failed: int
    invalid: int
    pending: int
    resumed: int = 0
    attempts: int = 0
    retries: int = 0
    rate_limited: int = 0
    timeouts: int = 0
    truncated: int = 0
    maybe_billed: int = 0
    duplicates: int = 0
    seconds: float = 0.0
    tokens: Tokens = Tokens()
    cost: float | None = None
    stopped: str | None = None
    exit_code: int = 0

    def __post_init__(self) -> None:
        if self.total != self.succeeded + self.failed + self.invalid + self.pending or self.pending < 0:
            counts = f"{self.succeeded} succeeded, {self.failed} failed, {self.invalid} invalid, {self.pending} pending"
            raise ValueError(f"{self.total} lines are not {counts}")

    def to_json(self) -> bytes:
        """One line of JSON, without its line ending."""
        return msgspec.json.encode(self)


class Report(Struct, frozen=True):
    """How a run stands when it is over, or when somebody asks: the summary, and the figures behind it."""

    summary: Summary
    snapshot: Snapshot = Snapshot()
    results: str = ""  # where the results are
    errors: str = ""
    findings: tuple[Finding, ...] = ()  # what the diagnosis says of this run

    @property
    def ok(self) -> bool:
        """Whether every line of the job has a good answer."""
        return self.summary.exit_code == 0

    @property
    def succeeded(self) -> int:
        """Lines with a good answer."""
        return self.summary.succeeded

    @property
    def failed(self) -> int:
        """Lines that failed for good, invalid ones included."""
        return self.summary.failed + self.summary.invalid

    @property
    def exit_code(self) -> int:
        """What the process returns."""
        return self.summary.exit_code

    def to_dict(self) -> dict[str, Any]:
        """`summary.json` as a dict."""
        return cast("dict[str, Any]", msgspec.to_builtins(self.summary))


class Problem(Struct, frozen=True):
    """What `check` found wrong with one line."""

    line: int
    message: str
    hint: str = ""
    count: int = 1  # lines with this problem
    lines: str = ""  # all of them: "3, 5, 7–9"


class ModelUse(Struct, frozen=True):
    """What the lines for one model ask for. Tokens are guessed."""

    model: str
    requests: int
    tokens_in: int
    tokens_out_most: int
    context: int = 0  # what the model can take at once; 0: not known


class CheckReport(Struct, frozen=True, kw_only=True):
    """What `check` found, without sending anything."""

    input: str
    requests: int
    problems: int = 0
    examples: tuple[Problem, ...] = ()  # one for each kind, with the numbers of all its lines
    tokens_in: int = 0  # guessed: bytes / 4, or as the last run has counted them; of what is to do
    tokens_out_most: int = 0  # by max_tokens; 0: no line says
    done: int = 0  # lines that an earlier run has finished
    to_go: int = 0
    uncertainty: float = 0.0  # of tokens_in: 0.3 is give or take 30 %
    tokens_out: int | None = None  # as many as answers had in the last run; None: there was none
    models: tuple[ModelUse, ...] = ()
    cost: float | None = None  # None: not known
    cost_most: float | None = None  # if every answer were as long as it may be; None: not known, or some may be of any length
    unpriced: tuple[str, ...] = ()  # models without a price
    rate: float | None = None  # lines a second in the last run
    seconds: float | None = None  # expected at that rate
    too_long: int = 0  # prompts that look longer than their model's context
    too_long_lines: str = ""

    @property
    def exit_code(self) -> int:
        """2 when a line cannot be sent as it is."""
        return 2 if self.problems else 0

    def to_json(self) -> bytes:
        """One line of JSON, without its line ending."""
        return msgspec.json.encode(self)


class _Figures:
    """Running figures of one endpoint."""

    __slots__ = ("attempts", "histogram", "waited", "worked")

    def __init__(self) -> None:
        self.attempts = 0
        self.histogram = Histogram()
        self.worked = 0.0
        self.waited = 0.0

    def lane(self, name: str) -> Lane:
        spread = self.histogram
        return Lane(
            name=name, attempts=self.attempts, succeeded=spread.count, p50=spread.quantile(0.5), p95=spread.quantile(0.95)
        )


class Meter:
    """Listens to a run. `total` is the number of input lines once it is known; `duplicates` is for the journal's survey."""

    def __init__(self, now: float = 0.0, total: int | None = None) -> None:
        self.total = total
        self.duplicates = 0
        self._started = now
        self._succeeded = 0
        self._resumed = 0
        self._resumed_good = 0
        self._retries = 0
        self._recovered = 0
        self._maybe_billed = 0
        self._tokens_in = 0
        self._tokens_out = 0
        self._kinds = dict.fromkeys(Kind, 0)
        self._failures = dict.fromkeys(Kind, 0)
        self._tracks: dict[str, _Figures] = {}
        self._lately = Lately(now)

    def __repr__(self) -> str:
        done = self._succeeded + sum(self._failures.values())
        return f"Meter({done}/{self.total} done, {sum(self._kinds.values())} attempts)"

    @property
    def succeeded(self) -> int:
        """Requests that this run brought to a good answer."""
        return self._succeeded - self._resumed_good

    @property
    def failed(self) -> int:
        """Requests of this run that failed for good."""
        return sum(self._failures.values()) - (self._resumed - self._resumed_good)

    def resume(self, succeeded: int, failures: Mapping[Kind, int] | None = None) -> None:
        """Count the lines that earlier runs have finished: good ones, and failed or invalid ones by kind."""
        self._succeeded += succeeded
        self._resumed_good += succeeded
        self._resumed += succeeded + sum((failures or {}).values())
        for kind, count in (failures or {}).items():
            self._failures[kind] += count

    def __call__(self, event: Event) -> None:
        """Count one event."""
        result, tokens = event.result, 0
        if event.attempt is not None:
            tokens = self._count_attempt(event)
        if result is not None:
            if result.kind is Kind.OK:
                self._succeeded += 1
                self._recovered += result.attempts > 1
            else:
                self._failures[result.kind] += 1
            self._lately.add(event.at, 1, tokens)

    def _count_attempt(self, event: Event) -> int:
        attempt, outcome = event.attempt, event.outcome
        assert attempt is not None
        assert outcome is not None
        track = self._tracks.get(attempt.endpoint) or self._tracks.setdefault(attempt.endpoint, _Figures())
        track.attempts += 1
        self._kinds[outcome.kind] += 1
        if attempt.number > 1:
            self._retries += 1
        if outcome.kind is Kind.OK:
            timing = outcome.timing
            track.histogram.add(timing.total)
            track.worked += timing.total
            track.waited += timing.first_byte - timing.connect
        elif outcome.billed:
            self._maybe_billed += 1
        usage = outcome.usage
        if usage is None:
            return 0
        self._tokens_in += usage.input
        self._tokens_out += usage.output
        return usage.output

    def snapshot(self, now: float, gauges: Gauges = Gauges()) -> Snapshot:
        """All figures at `now`."""
        spread, worked, waited = self._latency()
        finished, tokens = self._lately.sums(now)
        span = self._span(now, MINUTE)
        invalid = self._failures[Kind.INVALID]
        failed = sum(self._failures.values()) - invalid
        left = None if self.total is None else self.total - self._succeeded - failed - invalid
        return Snapshot(
            seconds=now - self._started,
            total=self.total,
            succeeded=self._succeeded,
            failed=failed,
            invalid=invalid,
            resumed=self._resumed,
            attempts=sum(self._kinds.values()),
            retries=self._retries,
            recovered=self._recovered,
            maybe_billed=self._maybe_billed,
            duplicates=self.duplicates,
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            rate=finished / span,
            token_rate=tokens / span,
            eta=None if left is None else self._eta(left, now),
            p50=spread.quantile(0.5),
            p95=spread.quantile(0.95),
            p99=spread.quantile(0.99),
            first_byte_share=waited / worked if worked else 0.0,
            kinds={kind: count for kind, count in self._kinds.items() if count},
            failures={kind: count for kind, count in self._failures.items() if count},
            lanes=tuple(track.lane(name) for name, track in self._tracks.items()),
            gauges=gauges,
        )

    def _span(self, now: float, most: int) -> float:
        """Seconds that the sums of the last `most` seconds are of."""
        return max(min(now - self._started, most - 1 + now % 1), 1.0)

    def _eta(self, left: int, now: float) -> float | None:
        """Seconds until all is done, by the last minute where it tells enough, else by the last five."""
        for window in (MINUTE, MINUTES):
            finished = self._lately.sums(now, window)[0]
            if finished >= TELLING or (finished and window == MINUTES):
                return left * self._span(now, window) / finished
        return None

    def _latency(self) -> tuple[Histogram, float, float]:
        """All endpoints' latencies together; seconds of good answers, and of those the wait for the first byte."""
        spread = Histogram()
        for track in self._tracks.values():
            spread.merge(track.histogram)
        tracks = self._tracks.values()
        return spread, sum(track.worked for track in tracks), sum(track.waited for track in tracks)


def summarise(snapshot: Snapshot, input: str, stopped: str = "", exit_code: int = 0) -> Summary:  # noqa: A002 - the field's name
    """The summary of a job whose input has been counted. Without an `exit_code`: 3 when stopped, else 0 or 1."""
    total = snapshot.done if snapshot.total is None else snapshot.total
    return Summary(
        input=input,
        total=total,
        succeeded=snapshot.succeeded,
        failed=snapshot.failed,
        invalid=snapshot.invalid,
        pending=total - snapshot.done,
        resumed=snapshot.resumed,
        attempts=snapshot.attempts,
        retries=snapshot.retries,
        rate_limited=snapshot.rate_limited,
        timeouts=snapshot.timeouts,
        truncated=snapshot.truncated,
        maybe_billed=snapshot.maybe_billed,
        duplicates=snapshot.duplicates,
        seconds=round(snapshot.seconds, 3),
        tokens=Tokens(snapshot.tokens_in, snapshot.tokens_out),
        cost=None if snapshot.gauges.cost is None else round(snapshot.gauges.cost, 6),
        stopped=stopped or None,
        exit_code=exit_code or (3 if stopped else int(snapshot.failed + snapshot.invalid > 0)),
    )
