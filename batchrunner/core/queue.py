"""Open requests, and those of them that wait: fresh ones in the order they came, the others until they are due again.

Rules:

1. A request waits in the row of those for the same model that may go to the same endpoints and avoid the same one; there are
   few rows.
2. What is due goes before what is fresh, the longest due and the first come before the others, across all rows; but what was
   turned away often lets a fresh one go first (`core.turnstile`).
3. Every move is O(log n) in the number of open requests; to arrange them anew is O(n log n), and rare.
4. At the end of a job long requests go before short ones, so that the last to end has not begun last. Earlier that would
   bring nothing, since every slot is full, and would keep the short ones waiting.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import reduce
from heapq import heappop, heappush
from math import inf
from operator import or_

from msgspec import Struct, field
from msgspec.structs import replace

from batchrunner.core.model import Attempt, Kind, Outcome, Request, Result
from batchrunner.core.retry import Spent
from batchrunner.core.treatment import TREATMENT, ended


class Open(Struct, eq=False, gc=False):
    """A request between its offer and its result. `where` and `avoid` are sets of endpoints, one bit each (`core.spread`)."""

    request: Request
    number: int  # in the order they are to go
    where: int
    avoid: int = 0  # where it has just failed
    refused: int = 0  # where it was refused (`core.refusals`)
    vouched: int = 0  # and where others were answered after that
    spent: Spent = field(default_factory=Spent)
    sent: Attempt | None = None  # the last one
    began: float = -1.0
    due: float = 0.0  # of a retry
    billed: int = 0
    fresh: bool = False
    plain: bool = False
    whole: bool = False  # it cannot be streamed, though others at its endpoint can
    instead: Request | None = None  # the form in which it is sent now
    partial: bytes = b""
    repeats: dict[Kind, int] | None = None

    def repeated(self, kind: Kind) -> int:
        """How often this kind has now happened to this request."""
        if self.repeats is None:
            self.repeats = {}
        count = self.repeats[kind] = self.repeats.get(kind, 0) + 1
        return count

    def repeats_of(self, kind: Kind) -> int:
        """How often this kind has happened to this request so far."""
        return self.repeats.get(kind, 0) if self.repeats else 0

    def yields(self) -> bool:
        """Whether a fresh request goes before it though it is due (`core.turnstile`)."""
        return self.spent.turned is not None and self.spent.turned.yields()

    def renew(self, outcome: Outcome, keep_partial: bool) -> None:
        """The form in which it is sent after this failure."""
        self.fresh = TREATMENT[outcome.kind].fresh
        self.instead = outcome.instead or self.instead
        self.plain = self.plain or outcome.kind is Kind.PROTOCOL
        self.whole = self.whole or (outcome.kind is Kind.UNSUPPORTED and self.repeats_of(Kind.UNSUPPORTED) > 1)
        if keep_partial:
            self.partial = outcome.partial or self.partial

    def result(self, attempt: Attempt, outcome: Outcome, now: float, why: str, keep_partial: bool) -> Result:
        """Its end with this attempt. `why` it was given up, if it might have been sent again."""
        request, good = self.request, outcome.kind is Kind.OK
        if attempt.request.slimmed is not request.slimmed:
            request = replace(request, slimmed=attempt.request.slimmed)
        return ended(
            request,
            outcome,
            why,
            attempts=self.spent.sendings,
            seconds=now - self.began,
            endpoint=attempt.endpoint,
            flags=outcome.flags,
            maybe_billed=self.billed,
            partial=b"" if good or not keep_partial else outcome.partial or self.partial,
        )


class Row:
    """Requests for one model that wait and may go to the same endpoints."""

    __slots__ = ("avoid", "fresh", "later", "leaving", "looked", "model", "where")

    def __init__(self, where: int, avoid: int, model: str) -> None:
        self.model = model
        self.where = where
        self.avoid = avoid
        self.fresh: deque[Open] = deque()
        self.later: list[tuple[float, int, Open]] = []
        self.leaving, self.looked = 0, -inf  # the endpoints that leave it to others (`core.spread`), and when that was found

    def __len__(self) -> int:
        return len(self.fresh) + len(self.later)

    def open_to(self, serving: int) -> int:
        """The endpoints that may take from this row, where those of `serving` are in use: the one to avoid only if need be."""
        rest = self.where & ~self.avoid
        return rest if rest & serving else self.where

    @property
    def first(self) -> Open:
        """What goes next, when it is due; the row is not empty."""
        return self.fresh[0] if self.fresh else self.first_due

    @property
    def first_due(self) -> Open:
        """Of those that are sent again; there is one."""
        return self.later[0][2]

    def due(self) -> float:
        """When something may be sent: -inf for at once, inf for never."""
        return -inf if self.fresh else self.later[0][0] if self.later else inf


class Queue:
    """All rows."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int, str], Row] = {}
        self.rows: Collection[Row] = self._rows.values()  # those that have ever been used; some are empty
        self._pushes = 0
        self._size = 0
        self.retrying = 0  # that wait for their next attempt

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Open]:
        for row in self._rows.values():
            yield from row.fresh
            yield from (entry for _, _, entry in row.later)

    @property
    def where(self) -> int:
        """The endpoints that anything here may go to."""
        return reduce(or_, (row.where for row in self.rows if len(row)), 0)

    def append(self, entry: Open) -> None:
        """At the end of the fresh ones."""
        self._size += 1
        self._row(entry).fresh.append(entry)

    def give_back(self, entry: Open) -> None:
        """Before all fresh ones: it had its turn, and nothing came of it."""
        self._size += 1
        self._row(entry).fresh.appendleft(entry)

    def put_off(self, entry: Open) -> None:
        """Until it is due again."""
        self._size += 1
        self._pushes += 1
        self.retrying += 1
        heappush(self._row(entry).later, (entry.due, self._pushes, entry))

    def arrange(self, weigh: Callable[[Request], int]) -> None:
        """Let the heaviest of the fresh ones go first; those of one weight stay in the order they came."""
        fresh = [entry for row in self._rows.values() for entry in row.fresh]
        weights = {entry.number: weigh(entry.request) for entry in fresh}
        if len(set(weights.values())) < 2:
            return
        numbers = sorted(weights)
        fresh.sort(key=lambda entry: (-weights[entry.number], entry.number))
        for row in self._rows.values():
            row.fresh.clear()
        for number, entry in zip(numbers, fresh, strict=True):
            entry.number = number
            self._row(entry).fresh.append(entry)

    def farthest(self, rows: Iterable[Row]) -> Open | None:
        """The fresh request of these rows that came last, and out of them; None when there is none."""
        row = max((row for row in rows if row.fresh), key=lambda row: row.fresh[-1].number, default=None)
        self._size -= row is not None
        return row.fresh.pop() if row else None

    def take(self, rows: Iterable[Row], now: float, fresh_first: bool) -> Open | None:
        """The next request of these rows, and out of them; None when nothing is to be sent now."""
        due, fresh = _first(rows, now)
        if fresh is not None and (fresh_first or due is None or due.first_due.yields()):
            self._size -= 1
            return fresh.fresh.popleft()
        if due is None:
            return None
        self._size -= 1
        self.retrying -= 1
        return heappop(due.later)[2]

    def _row(self, entry: Open) -> Row:
        key = (entry.where, entry.avoid, entry.request.model)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(*key)
        return row


def _first(rows: Iterable[Row], now: float) -> tuple[Row | None, Row | None]:
    """The row with the longest due request, and the one whose fresh request came first."""
    due: Row | None = None
    fresh: Row | None = None
    for row in rows:
        if row.later and row.later[0][0] <= now and (due is None or row.later[0] < due.later[0]):
            due = row
        if row.fresh and (fresh is None or row.fresh[0].number < fresh.fresh[0].number):
            fresh = row
    return due, fresh
