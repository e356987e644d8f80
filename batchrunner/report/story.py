"""The page's model: what a report shows, as values. `report.telling` makes one, `report.html` draws it.

Rules:

1. Values only, and already in words where words are shown; nothing here knows where they come from.
2. No prompt and no answer ever gets in: ids, figures, kinds, and words of our own.
3. Time is running time in seconds since the job first began: the nights between two sessions are cut out.
4. Lists are bounded by whoever makes them, so that a page has a size.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from batchrunner.core.model import Kind

State = Literal["good", "bad", "stopped", "running"]
Mark = Literal["yes", "no", "open"]

GROUPS: Mapping[str, tuple[Kind, ...]] = {
    "good": (Kind.OK,),
    "busy": (Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.LOADING, Kind.QUOTA_WINDOW),
    "timeout": (Kind.TIMEOUT_CONNECT, Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_TOTAL),
    "cut": (Kind.TRUNCATED, Kind.GARBLED, Kind.PROTOCOL, Kind.INVALID_OUTPUT),
    "broken": (Kind.SERVER_ERROR, Kind.GATEWAY, Kind.CONNECT, Kind.NETWORK, Kind.TLS, Kind.STALE, Kind.LOCAL, Kind.CRASHED),
    "refused": (
        Kind.REJECTED,
        Kind.CONTEXT,
        Kind.POLICY,
        Kind.TOO_LARGE,
        Kind.UNSUPPORTED,
        Kind.RESPONSE_TOO_LARGE,
        Kind.INVALID,
        Kind.DENIED,
        Kind.QUOTA,
        Kind.CONFIG,
        Kind.HOOK,
        Kind.CANCELLED,
    ),
}
"""Outcomes of attempts as a chart tells them apart: one colour each."""

GROUP_OF: Mapping[Kind, str] = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


class Tile(Struct, frozen=True):
    """One figure worth a glance."""

    name: str
    value: str
    note: str = ""


class Moment(Struct, frozen=True, gc=False):
    """One step of time that ends at `at`: what was settled in it, and what was in force."""

    at: float
    span: float
    counts: tuple[float, ...] = ()  # attempts by `GROUPS`, in its order
    p50: float = 0.0  # seconds of good answers in this step; 0: there were none
    p95: float = 0.0
    timeout: float = 0.0  # the longest deadline for a whole attempt; 0: not known
    in_flight: float = 0.0
    limit: float = 0.0  # 0: not known


class Session(Struct, frozen=True):
    """One start of the job and how it ended. `at` is its beginning in running time."""

    began: str
    at: float
    seconds: float
    settled: int
    ended: str


class Endpoint(Struct, frozen=True):
    """One endpoint's share of the work; the words are ready to be shown."""

    name: str
    attempts: int
    good: int
    p50: str
    p95: str
    connect: str
    timeout: str
    in_flight: str
    state: str = ""


class Trouble(Struct, frozen=True):
    """One kind of failure: attempts it ended, requests that failed for good by it, and what to do."""

    what: str
    attempts: int
    failed: int
    remedy: str


class Finding(Struct, frozen=True):
    """A question of the diagnosis, answered. `mark` is yes, no or open; `number` the figure behind it."""

    question: str
    mark: Mark
    number: str
    remedy: str = ""


class Death(Struct, frozen=True, gc=False):
    """Attempts that ended at about the same age: by our own deadline (timeout), or cut off by others (cut)."""

    age: float
    group: Literal["timeout", "cut"]
    count: int


class Spike(Struct, frozen=True):
    """So many deaths at one age that it can be no accident."""

    age: float
    count: int
    words: str


class Leg(Struct, frozen=True, gc=False):
    """One phase of an attempt, in seconds since it was ready to be sent."""

    phase: str
    begin: float
    end: float


class Slow(Struct, frozen=True):
    """One of the slowest attempts. `deadline` 0: not known."""

    id: str
    line: int
    number: int
    endpoint: str
    what: str
    group: str
    legs: tuple[Leg, ...]
    deadline: float = 0.0

    @property
    def seconds(self) -> float:
        """From its beginning to its end."""
        return self.legs[-1].end if self.legs else 0.0


class Price(Struct, frozen=True):
    """Tokens of one model and what they cost, in words; `cost` may say that it is unknown."""

    model: str
    tokens_in: int
    tokens_out: int
    cost: str
    source: str = ""


class Value(Struct, frozen=True):
    """One setting in force, masked where it may hide a secret, and where it comes from."""

    name: str
    value: str
    origin: str
    given: bool = False  # by somebody: it is not the default


class Story(Struct, frozen=True, kw_only=True):
    """Everything a page shows."""

    job: str
    state: State
    verdict: str
    next: str = ""  # the command to type; "" for none
    why: str = ""  # what that command does
    share: float | None = None  # of the lines that are done, while it runs
    made: str = ""
    program: str = ""
    tiles: tuple[Tile, ...] = ()
    moments: tuple[Moment, ...] = ()
    sessions: tuple[Session, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    findings: tuple[Finding, ...] = ()
    deaths: tuple[Death, ...] = ()
    spikes: tuple[Spike, ...] = ()
    slowest: tuple[Slow, ...] = ()
    prices: tuple[Price, ...] = ()
    cost: str = ""
    settings: tuple[Value, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
