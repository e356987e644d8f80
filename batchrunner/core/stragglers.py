"""Which attempt under way is waited for the longest beyond what is usual: a twin may go beside it (`core.hedging`).

Rules:

1. A straggler has taken longer than 95 of 100 of its size would. The latest goes first.
2. Its twin goes to another endpoint, if another serves it.
"""

from collections.abc import Mapping
from math import inf

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.hedging import Twins
from batchrunner.core.model import Attempt
from batchrunner.core.queue import Open
from batchrunner.core.spread import Spread

LEAST = 2.0  # seconds that nobody is called a straggler for


class Stragglers:
    """Those of the requests `in_flight` that are waited for longer than is usual."""

    __slots__ = ("_experience", "_in_flight", "_spread")

    def __init__(self, in_flight: Mapping[int, Open], spread: Spread, experience: Experience) -> None:
        self._in_flight = in_flight
        self._spread = spread
        self._experience = experience

    def latest(self, lane: Endpoint, twins: Twins, now: float) -> Attempt | None:
        """The attempt that a twin from this endpoint should go beside."""
        serving, here = self._spread.serving(now), self._spread.bit(lane.name)
        worst, late = None, 1.0
        for line, entry in self._in_flight.items():
            first = entry.sent
            if first is None or twins.had(line) or lane.pace(first.request.model).wait(now):
                continue
            others = entry.where & serving & ~self._spread.bit(first.endpoint)
            usual = self._experience.patience(first.endpoint, first.request, first.stream).late(first.request)
            if (others or entry.where) & here and (found := _lateness(first, usual, now)) > late:
                worst, late = first, found
        return worst


def _lateness(attempt: Attempt, usual: float, now: float) -> float:
    """How many times what is usual an attempt has waited; at most 1 is no straggler."""
    return (now - attempt.started) / max(LEAST, usual) if usual < inf else 0.0
