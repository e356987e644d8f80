"""What the moments of a session amount to, as the figures that the diagnosis asks for.

Rules:

1. Pure arithmetic on records of `core.trail`; moments may be few, joined, or of a run still under way.
2. Two times of one endpoint are compared only between windows with enough good answers, and neither the start (the first
   answers are the quick ones) nor the end (the last are the slow ones) is such a window.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

from msgspec import Struct

from batchrunner.core.model import Kind
from batchrunner.core.trail import Buckets, LaneMoment, Moment, merged, middle, quantile

ENOUGH = 30  # good answers of a window
WINDOWS = 24  # at most about so many
NOTICEABLE = 0.2  # seconds of growth below which nobody cares
SETTLED = 3.0  # times p90: so long the quick answers are in the majority


class Window(Struct, frozen=True):
    """A stretch of time at one endpoint. Latencies are medians of good answers, in seconds."""

    begin: float
    end: float
    good: int
    first_byte: float
    connect: float  # 0.0: nobody connected
    in_flight: float
    rate: float  # good answers a second


Pair = tuple[Window, Window]
"""A good window and a worse one."""


def growth(pair: Pair) -> float:
    """How many times as long the first byte took."""
    return pair[1].first_byte / max(pair[0].first_byte, 1e-4)


def crowding(pair: Pair) -> float:
    """How many times as much was in flight."""
    return max(pair[1].in_flight, 1.0) / max(pair[0].in_flight, 1.0)


class Spike(Struct, frozen=True):
    """Attempts that were lost at one age."""

    age: float
    count: int
    of: int  # of so many lost ones that were older than a second
    slower: float  # share of the good answers that took longer


class Evidence:
    """The figures of one session. `moments` are in order; there is at least one."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.moments = moments
        self.last = moments[-1]
        self.attempts = self.last.attempts
        self.connect, self.first_byte, self.total = (self._phase(name) for name in ("connect", "first_byte", "total"))
        self.deaths = merged(lane.deaths for lane in self._lanes())
        self.kills = merged(lane.kills for lane in self._lanes())

    def kinds(self, *kinds: Kind) -> int:
        """Attempts that amounted to one of these."""
        return sum(self.last.kinds.get(kind.value, 0) for kind in kinds)

    def share(self, count: float) -> float:
        """Of all attempts."""
        return count / self.attempts if self.attempts else 0.0

    @cached_property
    def good(self) -> int:
        """Attempts with a good answer."""
        return self.kinds(Kind.OK)

    @cached_property
    def spike(self) -> Spike | None:
        """The age at which most of the lost attempts were lost, when they are old enough to tell."""
        aged = {number: count for number, count in self.deaths.items() if middle(number) >= 1.0}
        if not aged:
            return None
        most = max(aged, key=lambda number: aged[number] + aged.get(number + 1, 0))
        count = aged[most] + aged.get(most + 1, 0)
        weight = sum(middle(number) * aged.get(number, 0) for number in (most, most + 1))
        slower = sum(n for number, n in self.total.items() if number >= most)
        return Spike(weight / count, count, sum(aged.values()), slower / max(1, sum(self.total.values())))

    @cached_property
    def windows(self) -> dict[str, list[Window]]:
        """For each endpoint the stretches of time that can be compared."""
        return {lane.name: self._windows(place) for place, lane in enumerate(self.last.lanes)}

    @cached_property
    def grown(self) -> list[Pair]:
        """Of each endpoint the best window, with each that was noticeably slower."""
        pairs: list[Pair] = []
        for windows in self.windows.values():
            good = min(windows, key=lambda window: window.first_byte, default=None)
            pairs += [(good, bad) for bad in windows if good and bad.first_byte - good.first_byte >= NOTICEABLE]
        return pairs

    def _lanes(self) -> Iterable[LaneMoment]:
        return (lane for moment in self.moments for lane in moment.lanes)

    def _phase(self, name: str) -> Buckets:
        return merged(lane.phases.get(name, {}) for lane in self._lanes())

    def _steady(self) -> list[Moment]:
        """The moments between the start and the end of the work."""
        settled = SETTLED * quantile(self.total, 0.9)
        return [moment for moment in self.moments if moment.at - moment.span >= settled and not _ending(moment)]

    def _windows(self, place: int) -> list[Window]:
        steady = [(moment, moment.lanes[place]) for moment in self._steady() if place < len(moment.lanes)]
        wanted = max(ENOUGH, sum(_count(lane) for _, lane in steady) // WINDOWS)
        groups: list[list[tuple[Moment, LaneMoment]]] = [[]]
        for pair in steady:
            groups[-1].append(pair)
            if sum(_count(lane) for _, lane in groups[-1]) >= wanted:
                groups.append([])
        return [_window(group) for group in groups[:-1]]


def _ending(moment: Moment) -> bool:
    """Whether there was nothing left but what was in flight or waited to be sent again."""
    return moment.total is not None and moment.total - moment.done <= moment.in_flight + moment.retrying


def _count(lane: LaneMoment) -> int:
    return sum(lane.phases.get("first_byte", {}).values())


def _window(group: Sequence[tuple[Moment, LaneMoment]]) -> Window:
    begin, end = group[0][0].at - group[0][0].span, group[-1][0].at
    good = sum(_count(lane) for _, lane in group)
    return Window(
        begin=begin,
        end=end,
        good=good,
        first_byte=quantile(merged(lane.phases.get("first_byte", {}) for _, lane in group), 0.5),
        connect=quantile(merged(lane.phases.get("connect", {}) for _, lane in group), 0.5),
        in_flight=sum(lane.in_flight for _, lane in group) / len(group),
        rate=good / max(end - begin, 1e-3),
    )
