"""When a run stops by a cap the user has set.

Rules:

1. A pure function decides from counts and elapsed seconds; whoever runs the requests obeys.
2. A cap names what may still happen: `max_failures = 10` stops at the 11th failure, 0 at the first. What is under way then
   may still fail, and is recorded.
3. A percentage is judged over at least `ENOUGH` finished requests, for three of the first four may just be bad luck.
4. An outage begins with the first attempt that finds nobody after the last one that did. Waiting is none, however long.
   A refusal is neither: somebody is there, and helps nobody. How long it may last those decide who may still be sent something:
   that one has answered that is out of use by now is no reason to wait for another.
   Who says to be busy is waited for, but no longer than an outage where few lines are left: it may be they (`core.suspicion`).
5. Where a short deadline of the user's own has ended every attempt of the run, it is blamed, and all the sooner.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Struct

from batchrunner.core.deadlines import Imposed, Timeouts, imposed
from batchrunner.core.model import Attempt, Event, Kind, Outcome
from batchrunner.core.policy import option
from batchrunner.core.treatment import FLED, REFUSED, TREATMENT, heard
from batchrunner.core.wording import plural, seconds

ENOUGH = 100
OURSELVES = frozenset({Kind.LOCAL, Kind.CRASHED})  # they say nothing of who should answer
FEW = 20  # lines that may be to blame themselves for what they hear
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
    return f"{failed} of {plural(finished, 'request')} failed (max_failures {stopping.max_failures}) [E306]"


def alike(stopping: Stopping) -> int:
    """How many first requests may fail alike before an endpoint is out of use (`core.debut`); 0: any number.

    A lower cap on failures is the user's own judgement and goes first.
    """
    most, _ = cap_of(stopping.max_failures)
    return stopping.max_alike if most is None or most >= stopping.max_alike else 0


class Spell(Struct):
    """The silence of one endpoint: since when, for so many attempts; `imposed` is the option that ended each of them."""

    since: float
    imposed: Imposed | None
    attempts: int = 0
    said: str = ""


Spells = dict[str, Spell]


class Silence:
    """Which endpoints are silent: a listener to the events of a run.

    `spells` has those since the last answer of any, by name, `busy` those that since then have said they are busy, and nothing
    else; `heard` are all that have answered in this run, if only by an error.
    """

    __slots__ = ("_timeouts", "busy", "heard", "spells")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self.heard: set[str] = set()
        self.spells: Spells = {}
        self.busy: Spells = {}

    def __call__(self, event: Event) -> None:
        """Take in an attempt that has ended. A fault of this machine is neither an answer nor silence, and nor is a refusal."""
        attempt, outcome = event.attempt, event.outcome
        if attempt is None or outcome is None:
            return
        if heard(outcome):
            self.heard.add(attempt.endpoint)
        if _answered(outcome):
            self.spells.clear()
            if outcome.kind is Kind.OVERLOADED:
                self._lengthen(self.busy, attempt, outcome, event.at)
            else:
                self.busy.clear()
        elif outcome.kind not in OURSELVES and TREATMENT[outcome.kind].health not in REFUSED:
            self._lengthen(self.spells, attempt, outcome, event.at)

    def _lengthen(self, spells: Spells, attempt: Attempt, outcome: Outcome, now: float) -> None:
        ended = imposed(self._timeouts, outcome)
        spell = spells.setdefault(attempt.endpoint, Spell(now, ended))
        spell.imposed = spell.imposed if spell.imposed == ended else None
        spell.attempts += 1
        spell.said = outcome.message


def _answered(outcome: Outcome) -> bool:
    """Whether somebody is there who can answer: who begins to, objects to the request or is busy.

    An error or a page is not, nor a model that is being loaded.
    """
    treatment, begun = TREATMENT[outcome.kind], 200 <= outcome.status < 300
    if outcome.kind in {Kind.GARBLED, Kind.LOADING} or not (outcome.status or outcome.kind is Kind.OK):
        return False
    return begun or treatment.health not in FLED or treatment.limit == "pushback"


def outage(
    stopping: Stopping, silence: Silence, awaited: Collection[str], lost: Sequence[str], now: float, few: bool = False
) -> str:
    """Why a run must stop that hears nothing, in words; "" to go on.

    `awaited` are the endpoints that may still be sent something, `lost` says of each that is out of use why it is. `few`: so few
    lines are left that to be busy is no answer any more.
    """
    spells = {**silence.spells, **silence.busy} if few else silence.spells
    ever = not silence.heard.isdisjoint(awaited)
    silent = {name: spell for name, spell in spells.items() if name in awaited}
    lasted = max((now - spell.since for spell in silent.values()), default=0.0)
    blamed = {spell.imposed for spell in silent.values()}
    own = blamed.pop() if len(blamed) == 1 and not ever else None
    patience = stopping.max_outage if ever else min(stopping.max_outage, FIRST_OUTAGE)
    patience = min(patience, FEW_TIMES * own.seconds) if own else patience
    if not patience or lasted < patience:
        return ""
    words = "; ".join(f"{name}: {spell.said}" for name, spell in silent.items())
    hasty = f", and {own} ended all {sum(spell.attempts for spell in silent.values())} attempts: allow more" if own else ""
    nobody = "no other endpoint" if lost or (silence.heard and not ever) else "no endpoint"
    return "; ".join([*lost, f"{nobody} has answered {'' if ever else 'yet, '}for {lasted:.0f} s{hasty} [E305] ({words})"])
