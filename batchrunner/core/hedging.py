"""Hedged requests: a second attempt beside the last stragglers of a job, for those who would rather pay twice than wait.

Rules:

1. Only at the end: everything has been sent, and there is room. A twin never takes the place of a request.
2. Only beside a straggler (`core.stragglers`), and one twin each.
3. Never more than the user has allowed: the loser may be on the bill as well.
4. Whichever answers first is the answer. The other is called off, and teaches nothing.
"""

from math import ceil
from typing import Annotated

from msgspec import Struct

from batchrunner.core.model import Attempt
from batchrunner.core.policy import option
from batchrunner.core.stopping import cap_of


class Hedging(Struct, frozen=True, kw_only=True):
    """Whether stragglers are asked for twice."""

    hedge: Annotated[
        str,
        option(
            "at the end, send a second attempt beside stragglers, for at most so many of the requests; both may be billed",
            group="Speed",
            metavar="N|P%",
            main=False,
        ),
    ] = ""


LOOK = 0.5  # seconds between two looks for stragglers


class Twins:
    """The pairs of attempts under way, and the losers that have not yet been called off."""

    def __init__(self, policy: Hedging) -> None:
        most, share = cap_of(policy.hedge)
        self._most = 0 if most is None else most
        self._share = share or 0.0
        self.on = bool(self._most or self._share)
        self._had: set[int] = set()  # lines, as many as the user allows
        self._pairs: dict[int, tuple[Attempt, Attempt]] = {}
        self._beaten: dict[int, int] = {}  # line → number of the attempt

    def __len__(self) -> int:
        """Attempts under way beyond one for each request that is open."""
        return len(self._pairs) + len(self._beaten)

    def affordable(self, requests: int) -> bool:
        """Whether one more may be sent, of so many requests."""
        return len(self._had) < max(self._most, ceil(self._share * requests))

    def had(self, line: int) -> bool:
        """Whether this line has had its twin."""
        return line in self._had

    def pair(self, first: Attempt, twin: Attempt) -> None:
        """A twin has been sent."""
        self._had.add(twin.request.line)
        self._pairs[twin.request.line] = first, twin

    def part(self, attempt: Attempt) -> Attempt | None:
        """One of a pair has ended: the other one, which is alone now. None: there was no other."""
        pair = self._pairs.pop(attempt.request.line, None)
        return pair and pair[pair[0].number == attempt.number]

    def beat(self, loser: Attempt) -> None:
        """The other one has answered."""
        self._beaten[loser.request.line] = loser.number

    def beaten(self, attempt: Attempt) -> bool:
        """Whether this one is still under way although its twin has answered."""
        return self._beaten.get(attempt.request.line) == attempt.number

    def loser(self, line: int) -> int | None:
        """The number of the attempt to call off, now that the line has its result."""
        return self._beaten.get(line)

    def forget(self, loser: Attempt) -> None:
        """It has ended."""
        del self._beaten[loser.request.line]


BEATEN = "another attempt of the same line answered first"
