"""When a run stops by a cap the user has set.

Rules:

1. A pure function decides from counts and elapsed seconds; whoever runs the requests obeys.
2. A cap names what may still happen: `max_failures = 10` stops at the 11th failure, 0 at the first. What is under way then
   may still fail, and is recorded.
3. A percentage is judged over at least `ENOUGH` finished requests, for three of the first four may just be bad luck.
4. An outage begins with the first attempt that finds nobody after the last one that did. Waiting is none, however long.
5. Where a short deadline of the user's own has ended every attempt of the run, it is blamed, and all the sooner.
"""

import re
from functools import lru_cache
from typing import Annotated

from msgspec import Struct

from batchrunner.core.deadlines import Imposed, Timeouts, imposed
from batchrunner.core.model import Event, Kind, Outcome
from batchrunner.core.policy import option
from batchrunner.core.treatment import TREATMENT
from batchrunner.core.wording import seconds

ENOUGH = 100
OURSELVES = frozenset({Kind.LOCAL, Kind.CRASHED})  # they say nothing of who should answer
FIRST_OUTAGE = 60.0  # seconds: an address where nobody has answered yet is more likely wrong than out of order
FEW_TIMES = 10.0  # as long as the user's own deadline: a server that takes longer than it will not be quicker after more
_CAP = re.compile(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?)%")


class Stopping(Struct, frozen=True, kw_only=True):
    """When to stop before the end. What is finished stays; the same command continues."""

    max_time: Annotated[
        float, option("stop sending after this long; 0 is never", group="Stop", metavar="T", unit="seconds", ge=0)
    ] = 0.0
    max_failures: Annotated[
        str, option("stop when more requests than this have failed for good", group="Stop", metavar="N|P%")
    ] = ""
    max_alike: Annotated[
        int,
        option(
            "stop when the first so many requests of an endpoint all fail alike: it looks like configuration; 0 is never",
            group="Stop",
            metavar="N",
            main=False,
            ge=0,
        ),
    ] = 20
    max_outage: Annotated[
        float,
        option(
            "stop when no endpoint has answered but by its errors for this long, or at all for 60 s from the start; 0 is never",
            group="Stop",
            metavar="T",
            unit="seconds",
            main=False,
            ge=0,
        ),
    ] = 1800.0
    grace: Annotated[
        float,
        option(
            "how long requests in flight may finish when the run is asked to stop",
            group="Stop",
            metavar="T",
            unit="seconds",
            main=False,
            ge=0,
        ),
    ] = 20.0


@lru_cache(maxsize=64)
def cap_of(text: str) -> tuple[int | None, float | None]:
    """`"200"` as (200, None), `"5%"` as (None, 0.05), `""` as (None, None). Raises ValueError for anything else."""
    if not text:
        return None, None
    cap = _CAP.fullmatch(text.strip())
    if cap is None:
        raise ValueError("is neither a number nor a percentage")
    if cap[1]:
        return int(cap[1]), None
    share = float(cap[2]) / 100
    if share > 1:
        raise ValueError("is more than 100 %")
    return None, share


def reason_to_stop(stopping: Stopping, succeeded: int, failed: int, elapsed: float) -> str:
    """Why the run must stop now, in words; "" to go on. Counts are of this run, `elapsed` its seconds so far."""
    if stopping.max_time and elapsed >= stopping.max_time:
        return f"the time allowed is over (max_time {seconds(stopping.max_time)}) [E303]"
    most, share = cap_of(stopping.max_failures)
    finished = succeeded + failed
    too_many = most is not None and failed > most
    too_often = share is not None and finished >= ENOUGH and failed > share * finished
    if not (too_many or too_often):
        return ""
    return f"{failed} of {finished} requests failed (max_failures {stopping.max_failures}) [E306]"


def alike(stopping: Stopping) -> int:
    """How many first requests may fail alike before an endpoint is out of use (`core.debut`); 0: any number.

    A lower cap on failures is the user's own judgement and goes first.
    """
    most, _ = cap_of(stopping.max_failures)
    return stopping.max_alike if most is None or most >= stopping.max_alike else 0


class Silence:
    """How long every endpoint has been silent: a listener to the events of a run.

    `since` is when the outage began, None while there is none; `said` is what each endpoint had to say since then, to so many
    attempts; `imposed` is the option that ended each of them.
    """

    __slots__ = ("_timeouts", "attempts", "ever", "imposed", "said", "since")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self.since: float | None = None
        self.said: dict[str, str] = {}
        self.attempts = 0
        self.imposed: Imposed | None = None
        self.ever = False  # somebody has answered in this run

    def __call__(self, event: Event) -> None:
        """Take in an attempt that has ended. A fault of this machine is neither an answer nor silence."""
        attempt, outcome = event.attempt, event.outcome
        if attempt is None or outcome is None:
            return
        self.ever = self.ever or (outcome.status > 0 and outcome.kind is not Kind.GARBLED) or outcome.kind is Kind.OK
        if _answered(outcome):
            self.since, self.attempts = None, 0
            self.said.clear()
        elif outcome.kind not in OURSELVES:
            ended = imposed(self._timeouts, outcome)
            if self.since is None:
                self.since, self.imposed = event.at, ended
            self.imposed = self.imposed if self.imposed == ended else None
            self.attempts += 1
            self.said[attempt.endpoint] = outcome.message

    def seconds(self, now: float) -> float:
        """How long it has lasted."""
        return 0.0 if self.since is None else now - self.since


def _answered(outcome: Outcome) -> bool:
    """Whether somebody is there who can answer: who begins to, refuses or is busy. An error or a page is nobody's answer."""
    treatment, begun = TREATMENT[outcome.kind], 200 <= outcome.status < 300
    if outcome.kind is Kind.GARBLED or not (outcome.status or outcome.kind is Kind.OK):
        return False
    return begun or treatment.health != "down" or treatment.limit == "pushback"


def outage(stopping: Stopping, silence: Silence, now: float) -> str:
    """Why a run must stop that hears nothing, in words; "" to go on."""
    silent, own = silence.seconds(now), None if silence.ever else silence.imposed
    patience = stopping.max_outage if silence.ever else min(stopping.max_outage, FIRST_OUTAGE)
    patience = min(patience, FEW_TIMES * own.seconds) if own else patience
    if not silent or not patience or silent < patience:
        return ""
    words = "; ".join(f"{name}: {message}" for name, message in silence.said.items())
    blamed = f", and {own} ended all {silence.attempts} attempts: allow more" if own else ""
    return f"no endpoint has answered {'' if silence.ever else 'yet, '}for {silent:.0f} s{blamed} [E305] ({words})"
