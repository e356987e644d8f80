"""Which of the requests that wait an endpoint may take now.

Rules:

1. It serves their model, and a pace it has for that lets one go.
2. No other endpoint goes first (`core.spread`), and they do not avoid this one as long as another serves. A reserve waits for
   others to fail, not to fill.
3. Towards the end of the job they are left to quicker endpoints, whose next free place is worth waiting for.
   What is left to others or avoids this endpoint is looked at again and again, for those may come to leave it to this one.
4. A request avoids the endpoint that has failed it, if another serves it. Where it has hung, it is asked again elsewhere only if
   that does not usually take much longer.
"""

from collections.abc import Mapping
from functools import partial
from math import inf, log2

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.experience import Experience
from batchrunner.core.hedging import LOOK
from batchrunner.core.model import Outcome, Request
from batchrunner.core.queue import Open, Queue, Row
from batchrunner.core.spread import Spread
from batchrunner.core.treatment import FLED, KILLS, TREATMENT

GLANCE = 0.01  # seconds until an endpoint that let another go first looks again, or whether it leaves work to others
SLOWER = 3.0  # times as long as where a request has hung: it is not sent there instead


class Claims:
    """The claims of some endpoints, by name, on what lies in a queue."""

    __slots__ = ("_endpoints", "_experience", "_queue", "_spread")

    def __init__(self, endpoints: Mapping[str, Endpoint], spread: Spread, queue: Queue, experience: Experience) -> None:
        self._endpoints = endpoints
        self._spread = spread
        self._queue = queue
        self._experience = experience

    def rows(self, lane: Endpoint, coming: float, now: float) -> tuple[list[Row], float]:
        """The rows that this endpoint may take from now, and when to look again for what another takes first or a pace holds.

        So many more requests are `coming`.
        """
        bit, serving, again = self._spread.bit(lane.name), self._spread.serving(now), inf
        rows = []
        for row in self._queue.rows:
            if not row.where & bit:
                continue
            left = self._leaving(row, row.where & serving, coming, now) if row.where != bit else 0
            may = row.open_to(serving & ~left)
            if left & bit or not may & bit:
                again = min(again, max(now + LOOK, row.due()))
            elif pause := lane.pace(row.model).wait(now):
                again = min(again, max(now + pause, row.due()))
            elif not may & ~left & self._spread.before(lane, row.model, now):
                rows.append(row)
            elif not lane.reserve:
                again = min(again, max(now + GLANCE, row.due()))
        return rows, again

    def _leaving(self, row: Row, among: int, coming: float, now: float) -> int:
        """The endpoints that leave this row to others, since the end of the job is near. Looked at once in a while."""
        if row and now >= row.looked + GLANCE:
            request = row.first.request
            rest = len(self._queue) + coming
            row.looked, row.leaving = now, self._spread.leaving(among, rest, partial(self._spans, request))
        return row.leaving & among

    def _spans(self, request: Request, lane: Endpoint) -> tuple[float, float]:
        """Seconds that a request usually takes at an endpoint, and for which it may have to be waited for."""
        patience = self._experience.usual(lane.name, request)
        return patience.expects(request), patience.longest(request)

    def avoided(self, entry: Open, lane: Endpoint, outcome: Outcome) -> int:
        """The endpoints that a request which has failed at this one avoids from now on."""
        here = self._spread.bit(lane.name)
        elsewhere = entry.where & ~here
        slow = self._far_slower(elsewhere, lane, entry.request) if outcome.kind in KILLS else 0
        return slow | (here if elsewhere & ~slow and TREATMENT[outcome.kind].health in FLED else 0)

    def _far_slower(self, among: int, lane: Endpoint, request: Request) -> int:
        """Those where a request that has hung at this one would usually have to be waited for much longer."""
        usual = self._experience.usual(lane.name, request).expects(request)
        others = (each.name for each in self._endpoints.values() if self._spread.bit(each.name) & among)
        slow = (name for name in others if self._experience.usual(name, request).expects(request) > SLOWER * usual)
        return sum(map(self._spread.bit, slow))

    def weight(self, request: Request) -> int:
        """How long a request is expected to take, as a power of two: less is noise, and no reason to change the order."""
        lane = next(each for each in self._endpoints.values() if self._spread.where(request.model) & self._spread.bit(each.name))
        return round(log2(max(1e-6, self._experience.usual(lane.name, request).expects(request))))
