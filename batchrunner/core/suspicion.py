"""Lines that fail where others are answered: when nobody else is left they look like an outage, and are none.

Rules:

1. In an outage nothing is answered that was sent later. A line is suspect when it failed and that was answered all the same: it
   failed of itself, or by chance.
2. Where many lines fail it may well have been chance, and nobody is suspect.
3. What comes to nothing in an outage counts for a suspect line all the same (`core.retry.TURNS`). It is sent so rarely in the
   end that this takes minutes: it may have been chance once, and an outage since.
4. A line that has failed only since nobody else was left is not suspect: it waits as long as outages are waited for.
"""

from math import inf

from batchrunner.core.model import Attempt, Kind
from batchrunner.core.retry import PECULIAR, Spent

FEW = 5  # answers for every line that has failed
MINUTES = 180.0  # seconds that the later sendings of a suspect line last in all
_OWN = PECULIAR | {Kind.OVERLOADED}


class Suspicion:
    """What speaks against the lines of a run."""

    __slots__ = ("_answers", "_failed", "_latest")

    def __init__(self) -> None:
        self._answers = self._failed = 0
        self._latest: dict[tuple[str, str], float] = {}  # by endpoint and model: when the last that was answered was sent

    def answered(self, attempt: Attempt) -> None:
        """An answer has come."""
        key = attempt.endpoint, attempt.request.model
        self._answers += 1
        self._latest[key] = max(self._latest.get(key, -inf), attempt.started)

    def failed(self, spent: Spent, attempt: Attempt, kind: Kind) -> bool:
        """A line has failed. Whether it is suspect."""
        if kind not in _OWN:
            return False
        before, spent.failed = spent.failed, attempt
        if before is None:
            self._failed += 1
        elif self._latest.get((before.endpoint, before.request.model), -inf) > before.started:
            spent.suspect = True
        return spent.suspect and FEW * self._failed <= self._answers
