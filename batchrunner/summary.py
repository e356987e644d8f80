"""How a run stands when it is over: `summary.json`, and the report that the library hands back.

Rules:

1. `total = succeeded + failed + invalid + pending`, always, and checked where a summary is made.
2. Counts of lines are of the whole job; counts of attempts, tokens and cost are of this run, or of the last one where only
   the files are looked at. Where that has left no trail they are not known, and left out.
"""

from typing import Any, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from batchrunner.core.trail import Finding
from batchrunner.meter import Snapshot
from batchrunner.records import written_out

OF_A_RUN = frozenset(
    {"attempts", "retries", "rate_limited", "timeouts", "truncated", "maybe_billed", "seconds", "tokens", "cost"}
)
"""What a summary says of one run, not of the job."""


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
    hedged: int | UnsetType = UNSET  # second attempts beside stragglers; left out where there were none
    hit_token_limit: int | UnsetType = UNSET  # good answers that end at the limit of their tokens; left out as well
    without_usage: int | UnsetType = UNSET  # answers that count no tokens: tokens and cost are the least; likewise
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
        return written_out(self)


class Report(Struct, frozen=True):
    """How a run stands when it is over, or when somebody asks: the summary, and the figures behind it."""

    summary: Summary
    snapshot: Snapshot = Snapshot()
    results: str = ""  # where the results are
    errors: str = ""
    findings: tuple[Finding, ...] = ()  # what the diagnosis says of this run
    page: str = ""  # where the report to look at is; "" for nowhere
    counted: bool = True  # whether anything is known of attempts, tokens and time
    undecided: tuple[int, int] = (0, 0)  # as `Standing.undecided` has it: what the same command would refuse

    def __repr__(self) -> str:
        counts = f"{self.succeeded} of {self.summary.total} succeeded, {self.failed} failed, {self.pending} pending"
        return f"Report({counts}, cost={self.cost})"

    @property
    def ok(self) -> bool:
        """Whether every line that was to be asked has a good answer; those beyond a `limit` or a `where` are `pending`."""
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
    def pending(self) -> int:
        """Lines that are still to be asked."""
        return self.summary.pending

    @property
    def cost(self) -> float | None:
        """What this run has cost, in US dollars; None when that is not known. The least, where answers count no tokens."""
        return self.summary.cost

    @property
    def exit_code(self) -> int:
        """What the process returns."""
        return self.summary.exit_code

    def to_dict(self) -> dict[str, Any]:
        """`summary.json` as a dict, without what is not known."""
        told = cast("dict[str, Any]", msgspec.to_builtins(self.summary))
        return {name: value for name, value in told.items() if self.counted or name not in OF_A_RUN}


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
        hedged=snapshot.hedged or UNSET,
        hit_token_limit=snapshot.limited or UNSET,
        without_usage=snapshot.untold or UNSET,
        duplicates=snapshot.duplicates,
        seconds=round(snapshot.seconds, 3),
        tokens=Tokens(snapshot.tokens_in, snapshot.tokens_out),
        cost=None if snapshot.gauges.cost is None else round(snapshot.gauges.cost, 6),
        stopped=stopped or None,
        exit_code=exit_code or (3 if stopped else int(snapshot.failed + snapshot.invalid > 0)),
    )
