"""Lines that an endpoint refuses, until it shows whose fault that is: the line's, or everybody's (`core.doubt`).

Rules:

1. A refused line waits until the endpoint has answered somebody asked later, and is asked once more. If it is refused again, and
   somebody is answered again, it is to blame: it is not asked there any more, and if nobody else serves it, it fails.
2. If the endpoint would refuse everybody, it is out of use, and they are all open again. One without money is so at once.
3. A model is to blame itself where another one was answered for in this run. That proves nothing of the endpoint.
4. When nobody else is left to ask, each is asked once more all the same. Those refused again fail where the endpoint has served
   this run, or a former one and they are few. If they were refused for the key, with no answer to anybody in between, it is out
   of use.
"""

from collections.abc import Mapping, Sequence

from batchrunner.core.endpoints import Endpoint
from batchrunner.core.held import Decided, Held, HeldBack
from batchrunner.core.model import Attempt, Outcome
from batchrunner.core.queue import Open, Queue
from batchrunner.core.spread import Spread
from batchrunner.core.treatment import TREATMENT

BLAMED = "2 refusals, while others were answered"
# What else refuses may be about one line: its url, its model, what it holds. Everything else is about who we are.
_OF_LINES = frozenset({*range(300, 400), 403, 404, 405, 406, 410, 415, 431, 501})


class Refusals(HeldBack):
    """Lines that were refused; a second refusal may be their end."""

    __slots__ = ("_keep_partial", "_spread")

    def __init__(
        self, endpoints: Mapping[str, Endpoint], spread: Spread, queue: Queue, decided: list[Decided], keep_partial: bool
    ) -> None:
        super().__init__(endpoints, queue, decided)
        self._spread = spread
        self._keep_partial = keep_partial

    def hear(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """A line is refused: what that says of the endpoint. Whether it was refused there before."""
        here = self._spread.bit(lane.name)
        before = bool(entry.refused & here)
        entry.refused |= here
        if "model" in outcome.flags and lane.doubt.knows_others(attempt.request.model):
            return before
        if lane.refuse(attempt, outcome, now, not before):
            met, others = (None, 0) if TREATMENT[outcome.kind].health == "stop" else (self._first(lane), lane.doubt.held - 1)
            lane.give_up(*(met or (attempt, outcome)), others)
        return before

    def hold(self, entry: Open, lane: Endpoint, attempt: Attempt, outcome: Outcome, now: float, before: bool) -> None:
        """Keep it back; `decide` tells what becomes of it. It fails if it was refused here `before`."""
        entry.due = now + lane.recheck
        entry.renew(outcome, self._keep_partial)
        result = entry.result(attempt, outcome, now, BLAMED, self._keep_partial) if before else None
        self._held.append(Held(entry, attempt, outcome, result))

    def decide(self, idle: bool) -> int:
        """Decide what can be; `idle`: nobody else is left to ask. How many lines have failed for good."""
        failed = 0
        for lane in self._endpoints.values():
            if lane.stopped:
                self._release(self._of(lane))
            elif not lane.doubt.held:
                failed += self._vouch(lane, self._of(lane))
            elif idle:
                failed += self._end(lane, self._of(lane))
        return failed

    def _first(self, lane: Endpoint) -> tuple[Attempt, Outcome] | None:
        return next(((held.attempt, held.outcome) for held in self._held if held.attempt.endpoint == lane.name), None)

    def _vouch(self, lane: Endpoint, mine: Sequence[Held]) -> int:
        """The endpoint has answered somebody since. How many have failed."""
        for held in mine:
            held.entry.vouched |= self._spread.bit(lane.name)
        return self._blame(lane, mine)

    def _blame(self, lane: Endpoint, mine: Sequence[Held]) -> int:
        """A first refusal is asked again, a second one is the line's own. How many have failed."""
        here, failed = self._spread.bit(lane.name), 0
        for held in mine:
            entry, result = held.entry, held.result
            if result:
                lane.doubt.proven += 1
                entry.where &= ~here
                result = None if entry.where else result
                failed += result is not None
                self._decided.append((held.attempt, held.outcome, result))
            entry.avoid = here if entry.where & ~here else 0
            if entry.where:
                self._queue.put_off(entry)
        return failed

    def _end(self, lane: Endpoint, mine: Sequence[Held]) -> int:
        """Nobody else will be answered here: each is asked once more, if it was not yet. How many have failed."""
        firsts = [held for held in mine if not held.result]
        if firsts:
            self._held += [held for held in mine if held.result]
            return self._blame(lane, firsts)
        here, trusted = self._spread.bit(lane.name), lane.doubt.trusted(len(mine))
        if all(held.entry.vouched & here or (trusted and _about_line(held.outcome)) for held in mine):
            return self._blame(lane, mine)
        lane.give_up(mine[0].attempt, mine[0].outcome, len(mine) - 1)
        self._release(mine)
        return 0


def _about_line(outcome: Outcome) -> bool:
    return outcome.status in _OF_LINES or "model" in outcome.flags
