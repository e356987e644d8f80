"""Attempts as lines of attempts.jsonl: all that failed or were repeated, and of the others as many as the user wants.

Rules:

1. A success that is not written costs a subtraction and a few comparisons.
2. What is known is written, in the phases' order; what is not known, empty or 0 is left out (`core.trail.AttemptLine`).
3. A server's own words are cut short. They have been cleared of our keys before; prompts and answers are never here.
"""

from math import inf
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from batchrunner.core.buckets import Buckets, merged, quantile
from batchrunner.core.model import Attempt, Cause, Event, Kind, Outcome, Phase
from batchrunner.core.policy import option
from batchrunner.core.trail import VERSION, AttemptLine, Moment, SessionLine
from batchrunner.core.treatment import KILLS
from batchrunner.scroll import Scroll

SAMPLED = 100  # successes: the first so many are written, then each so-many-th, and the slowest hundredth
MESSAGE = 300
NEVER = 1 << 62


class Keeping(Struct, frozen=True, kw_only=True):
    """What a run writes about itself."""

    log_attempts: Annotated[
        Literal["failed", "sample", "all"],
        option(
            "attempts to write to attempts.jsonl; sample adds 1 % of the successes, and the slowest",
            group="Show",
            metavar="failed|sample|all",
            main=False,
        ),
    ] = "sample"
    log_size: Annotated[
        int,
        option(
            "largest attempts.jsonl; when it is full its older half is dropped",
            group="Show",
            metavar="SIZE",
            unit="bytes",
            main=False,
            ge=4096,
        ),
    ] = 256 * 2**20


class Attempts:
    """Listens to the events of a session that began at `began`."""

    def __init__(self, scroll: Scroll, keeping: Keeping, session: int, began: float, wall: str) -> None:
        self.scroll = scroll
        self._session = session
        self._began = began
        self._sampled = keeping.log_attempts == "sample"
        self._first = SAMPLED  # of the successes: they are all written
        self._every = {"failed": NEVER, "sample": SAMPLED, "all": 1}[keeping.log_attempts]
        self._skip = 1 if self._every == 1 else self._every + SAMPLED * self._sampled
        self._slow = -1.0 if self._sampled else inf  # seconds from which on a success is written whatever its turn
        self._totals: Buckets = {}
        self._encoder = msgspec.json.Encoder()
        self.scroll.add(self._encoder.encode(SessionLine(session=session, wall=wall, log_attempts=keeping.log_attempts)))

    def know(self, moment: Moment) -> None:
        """Learn from a moment what is slow: what takes longer than 99 of 100 good answers."""
        if self._sampled and not self._first:
            self._totals = merged([self._totals, *(lane.phases.get("total", {}) for lane in moment.lanes)])
            self._slow = quantile(self._totals, 0.99) * 1.03 if sum(self._totals.values()) >= SAMPLED else inf

    def __call__(self, event: Event) -> None:
        """Write the attempt, if it is to be written."""
        attempt, outcome = event.attempt, event.outcome
        if attempt is None or outcome is None:
            return
        stands_for = 1
        if outcome.kind is Kind.OK and attempt.number == 1:
            self._skip -= 1
            if self._skip > 0 and outcome.timing.total <= self._slow:
                return
            stands_for = self._turn()
        self.scroll.add(self._encoder.encode(self._line(event, attempt, outcome, stands_for)))

    def _turn(self) -> int:
        """How many successes the one that is written now stands for."""
        if self._skip <= 0:
            self._skip = self._every
            return self._every
        if self._first:
            self._first -= 1
            self._slow = inf if not self._first else self._slow
        return 1

    def _line(self, event: Event, attempt: Attempt, outcome: Outcome, stands_for: int) -> AttemptLine:
        request, timing, usage = attempt.request, outcome.timing, outcome.usage
        ended = _phase(outcome)
        connected, began = timing.connect, timing.first_byte
        return AttemptLine(
            v=VERSION,
            session=self._session,
            at=round(event.at - self._began, 3),
            line=request.line,
            id=request.id,
            endpoint=attempt.endpoint,
            model=request.model,
            number=attempt.number,
            kind=outcome.kind,
            status=outcome.status,
            code=outcome.code,
            message="" if outcome.kind is Kind.OK else outcome.message[:MESSAGE],
            phase=ended,
            queue=round(attempt.queued, 4) or None,
            connect=round(connected, 4) or None,
            write=round(timing.total - connected, 4) if ended == Phase.WRITE else None,
            first_byte=_waited(ended, began - connected if began else timing.total - connected),
            body=round(timing.total - began, 4) if began else None,
            seconds=round(timing.total, 4),
            stream=attempt.stream,
            reused=timing.reused,
            deadline=round(timing.total, 3) if outcome.kind in KILLS else None,
            why=event.why,
            wait=outcome.wait,
            again=event.result is None and outcome.kind is not Kind.CANCELLED,
            request_id=outcome.request_id,
            twin=attempt.twin,
            billed=outcome.billed,
            prompt=int(request.prompt_tokens),
            tokens_in=usage.input if usage else 0,
            tokens_out=usage.output if usage else 0,
            stands_for=stands_for,
        )


_ENDED: dict[str, str] = {
    Kind.TIMEOUT_CONNECT: Phase.CONNECT,
    Kind.TIMEOUT_FIRST_BYTE: Phase.FIRST_BYTE,
    Cause.INVALID: Phase.CONNECT,
    Cause.DNS: Phase.CONNECT,
    Cause.REFUSED: Phase.CONNECT,
    Cause.CERTIFICATE: Phase.CONNECT,
    Cause.TLS: Phase.CONNECT,
    Cause.PROXY: Phase.CONNECT,
    Cause.LOCAL: Phase.CONNECT,
}
"""Kinds and causes that belong to one phase."""


def _phase(outcome: Outcome) -> str:
    """Where a failed attempt ended; "" for an answer of whatever status that came whole."""
    if outcome.kind is Kind.OK or (outcome.status and outcome.kind is not Kind.TRUNCATED and outcome.kind not in KILLS):
        return ""
    unsent = Phase.CONNECT if outcome.kind is Kind.CANCELLED and not outcome.billed else ""
    known = unsent or _ENDED.get(outcome.kind) or _ENDED.get(outcome.code)
    return known or (Phase.BODY if outcome.timing.first_byte else Phase.FIRST_BYTE)


def _waited(ended: str, seconds: float) -> float | None:
    return None if ended in (Phase.CONNECT, Phase.WRITE) else round(max(0.0, seconds), 4)
