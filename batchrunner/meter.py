"""Events to counters and histograms.

Rules:

1. Each event is counted once, in about a microsecond; everything that can be derived is derived in `snapshot`.
2. Memory does not grow with the number of requests: counters, one histogram per endpoint, five minutes of seconds.
3. The clock is an argument. Rates and the time left come from the last minutes of this run; what an earlier run finished
   counts as done and never as speed.
"""

from collections.abc import Mapping
from math import inf

from msgspec import Struct

from batchrunner.core.cost import untold
from batchrunner.core.finish import AT_ITS_LIMIT
from batchrunner.core.histogram import MINUTE, MINUTES, Histogram, Lately
from batchrunner.core.model import Event, Kind
from batchrunner.core.treatment import DROPPED

TIMEOUTS = (Kind.TIMEOUT_CONNECT, Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_TOTAL)


TELLING = 100  # finished requests that make a rate good to a tenth


class Gauges(Struct, frozen=True, kw_only=True):
    """What is so at this moment; whoever runs the requests knows it."""

    in_flight: int = 0
    limit: int = 0  # how many may be in flight; 0: not said
    room: int = 0  # that open files leave room for, at each endpoint; 0: for as many as are wanted
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
    dropped: int = 0  # of those: under way when the run ended
    hedged: int = 0  # second attempts beside stragglers
    limited: int = 0  # good answers that end at the limit of their tokens
    untold: int = 0  # answers that do not say how many tokens they used
    unsent: int = 0  # requests of this run that came to their end without a sending
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
    def asked(self) -> int:
        """Requests of this run that were sent and need nothing more."""
        return self.done - self.resumed - self.unsent

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
        self.unpriced = False  # some of the tokens were used at a price that is not known
        self._started = now
        self._succeeded = 0
        self._resumed = 0
        self._resumed_good = 0
        self._retries = 0
        self._recovered = 0
        self._unsent = 0
        self._maybe_billed = 0
        self._dropped = 0
        self._hedged = 0
        self._limited = 0
        self._untold = 0
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

    def charge(self, tokens_in: int, tokens_out: int) -> None:
        """Count tokens that a batch of this run's has used; what a batch service takes for them is not known."""
        self._tokens_in += tokens_in
        self._tokens_out += tokens_out
        self.unpriced = self.unpriced or tokens_in + tokens_out > 0

    def __call__(self, event: Event) -> None:
        """Count one event."""
        result, tokens = event.result, 0
        if event.attempt is not None:
            tokens = self._count_attempt(event)
        if result is not None:
            self._unsent += not result.attempts
            if result.kind is Kind.OK:
                self._succeeded += 1
                self._recovered += result.attempts > 1
                self._limited += AT_ITS_LIMIT in result.flags
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
        if attempt.twin:
            self._hedged += 1
        elif attempt.number > 1:
            self._retries += 1
        if outcome.kind is Kind.OK:
            timing = outcome.timing
            track.histogram.add(timing.total)
            track.worked += timing.total
            track.waited += timing.first_byte - timing.connect
        elif outcome.billed:
            self._maybe_billed += 1
            self._dropped += outcome.message == DROPPED
        usage = outcome.usage
        if usage is None:
            self._untold += untold(event)
            return 0
        self._tokens_in += usage.input
        self._tokens_out += usage.output
        return usage.output

    @property
    def left(self) -> float:
        """Lines without a result yet; inf until the input has been counted."""
        return inf if self.total is None else self.total - self._succeeded - sum(self._failures.values())

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
            dropped=self._dropped,
            hedged=self._hedged,
            limited=self._limited,
            untold=self._untold,
            unsent=self._unsent,
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
