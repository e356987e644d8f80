"""How work is spread over several endpoints: who may take it, and who goes first.

Rules:

1. Whoever has room takes work, so that each endpoint gets what it really delivers. There is no plan that could be wrong.
2. Where several have room, an earlier endpoint goes before a later one; with weights, the one with the smallest load for its
   weight. Nobody with room waits for one that is full, paused or out of use.
3. An endpoint in reserve (weight 0) takes work only while no endpoint before it serves, be they as full as they like.
4. What failed at one endpoint is sent to another, if another serves it.
5. At the end of a job an endpoint leaves to the others what they will have done sooner: else the last request of a slow one is
   waited for when everything else has long been answered.

A set of endpoints is an int, one bit each in order of preference.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf

from batchrunner.core.endpoints import Endpoint


class Spread:
    """The endpoints together."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._bits = {endpoint.name: 1 << place for place, endpoint in enumerate(endpoints)}
        self._weighed = any(endpoint.weight is not None for endpoint in endpoints)
        self._alone = len(self._endpoints) == 1
        self.everywhere = (1 << len(self._endpoints)) - 1
        self._where = lru_cache(1024)(self._serving_model)
        self._mapped = any(endpoint.models for endpoint in endpoints)

    def bit(self, endpoint: str) -> int:
        """The set of this endpoint alone."""
        return self._bits[endpoint]

    def where(self, model: str) -> int:
        """The endpoints that serve this model, well or ill at the moment."""
        return self._where(model) if self._mapped else self.everywhere

    def _serving_model(self, model: str) -> int:
        return sum(self._bits[each.name] for each in self._endpoints if each.asks(model) is not None)

    def in_use(self) -> int:
        """Those that are not stopped."""
        return sum(self._bits[each.name] for each in self._endpoints if not each.stopped)

    def serving(self, now: float) -> int:
        """Those that are up and not paused, full or not."""
        if self._alone:
            return self.everywhere
        return sum(self._bits[each.name] for each in self._endpoints if each.serves(now))

    def elsewhere(self, where: int, lane: Endpoint, now: float) -> int:
        """Those of `where` that could be asked now instead of this one."""
        return where & self.serving(now) & ~self._bits[lane.name]

    def before(self, lane: Endpoint, model: str, now: float) -> int:
        """Those that take what they can of a model before this one takes it."""
        if self._alone:
            return 0
        return sum(self._bits[each.name] for each in self._endpoints if self._goes_first(each, lane, model, now))

    def leaving(self, among: int, rest: float, spans: Callable[[Endpoint], tuple[float, float]]) -> int:
        """Those of `among` at which one more request may have to be waited for when the others have answered all `rest` of them.

        `spans` tells how many seconds requests usually take at an endpoint, and how many at most, inf if that is not known.
        """
        known = []
        for each in self._endpoints:
            usual, longest = spans(each) if self._bits[each.name] & among and not each.reserve else (inf, inf)
            if longest < inf:
                known.append((each, min(each.limit.size / usual, each.rate), longest))
        leaving = 0
        for lane, _, longest in known if len(known) > 1 else ():
            together = sum(rate for other, rate, _ in known if other is not lane)
            if rest / together + min(most for other, _, most in known if other is not lane) < longest:
                leaving |= self._bits[lane.name]
        return leaving

    def _goes_first(self, other: Endpoint, lane: Endpoint, model: str, now: float) -> bool:
        earlier = self._bits[other.name] < self._bits[lane.name]
        if other is lane or not other.serves(now):
            return False
        if lane.reserve:
            return earlier or not other.reserve
        if other.reserve or other.ready(now) != 0.0 or other.pace(model).wait(now) > 0.0:
            return False
        if not self._weighed:
            return earlier
        load, own = (1 + other.inflight) / (other.weight or 1.0), (1 + lane.inflight) / (lane.weight or 1.0)
        return load < own or (load == own and earlier)
