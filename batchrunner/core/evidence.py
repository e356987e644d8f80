"""What the moments of a session amount to, as the figures that the diagnosis asks for.

Rules:

1. Pure arithmetic on records of `core.trail`; moments may be few, joined, or of a run still under way.
2. Two times of one endpoint are compared only between periods with enough good answers. The end is none, for its last
   answers are the slow ones; nor is the start, for its first answers are the quick ones, unless what counts is throughput.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

from msgspec import Struct

from batchrunner.core.buckets import Buckets, bucket, merged, middle, quantile
from batchrunner.core.model import Kind
from batchrunner.core.trail import LaneMoment, Moment

ENOUGH = 30  # good answers of a period
PERIODS = 24  # at most about so many
CROWDED = 2.0  # times as much in flight
FEWEST = 2.0  # in flight, for there to be a queue at all
HARDLY = 1.25  # times as many answers a second
SLOWER = 0.6  # of the growth of what is in flight
NOTICEABLE = 0.2  # seconds of growth below which nobody cares
SETTLED = 3.0  # times the median: before that age of a run mostly quick answers have come
ROUND = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    15,
    20,
    25,
    30,
    40,
    45,
    50,
    55,
    60,
    75,
    90,
    100,
    110,
    120,
    150,
    180,
    230,
    240,
    300,
    600,
    900,
)
"""Seconds that people write into the settings of a proxy."""


class Period(Struct, frozen=True):
    """A stretch of time at one endpoint. Latencies are medians of good answers, in seconds."""

    begin: float
    end: float
    good: int
    first_byte: float
    connect: float  # 0.0: nobody connected
    in_flight: float
    rate: float  # good answers a second


Pair = tuple[Period, Period]
"""A good period and a worse one."""


def growth(pair: Pair) -> float:
    """How many times as long the first byte took."""
    return pair[1].first_byte / max(pair[0].first_byte, 1e-4)


def crowding(pair: Pair) -> float:
    """How many times as much was in flight."""
    return max(pair[1].in_flight, 1.0) / max(pair[0].in_flight, 1.0)


def mean(values: Sequence[float]) -> float:
    """The mean; 0.0 of nothing."""
    return sum(values) / len(values) if values else 0.0


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
        told = [seconds for seconds in ROUND if most <= bucket(seconds) <= most + 1]
        mean = sum(middle(number) * aged.get(number, 0) for number in (most, most + 1)) / count
        slower = sum(n for number, n in self.total.items() if number >= most)
        return Spike(told[-1] if told else mean, count, sum(aged.values()), slower / max(1, sum(self.total.values())))

    @cached_property
    def by_chance(self) -> float:
        """Share of the later half of the refusals that came by chance; of the first it is never known."""
        told = [
            (sum(lane.pushed_back for lane in moment.lanes), sum(lane.by_chance for lane in moment.lanes))
            for moment in self.moments
        ]
        refused, chance = told[-1]
        earlier = max((each for each in told if 2 * each[0] <= refused), default=(0, 0))
        return (chance - earlier[1]) / max(1, refused - earlier[0])

    @cached_property
    def periods(self) -> dict[str, list[Period]]:
        """For each endpoint the stretches of time that can be compared."""
        return {lane.name: self._periods(place) for place, lane in enumerate(self.last.lanes)}

    @cached_property
    def grown(self) -> list[Pair]:
        """Of each endpoint the quickest period, with each that was noticeably slower."""
        pairs: list[Pair] = []
        for periods in self.periods.values():
            settled = [period for period in periods if period.begin >= SETTLED * period.first_byte]
            good = min(settled, key=lambda period: period.first_byte, default=None)
            pairs += [(good, bad) for bad in settled if good and bad.first_byte - good.first_byte >= NOTICEABLE]
        return pairs

    @cached_property
    def saturated(self) -> list[Pair]:
        """Pairs of periods of one endpoint: in the second more was in flight, answers came later, and hardly more of them."""
        return [
            (less, more)
            for periods in self.periods.values()
            for less in periods
            for more in periods
            if less.begin >= less.first_byte
            and less.in_flight >= FEWEST
            and more.first_byte - less.first_byte >= NOTICEABLE
            and more.in_flight >= CROWDED * less.in_flight
            and more.rate <= HARDLY * less.rate
            and SLOWER * crowding((less, more)) <= growth((less, more)) <= crowding((less, more)) / SLOWER
        ]

    def _lanes(self) -> Iterable[LaneMoment]:
        return (lane for moment in self.moments for lane in moment.lanes)

    def _phase(self, name: str) -> Buckets:
        return merged(lane.phases.get(name, {}) for lane in self._lanes())

    def _periods(self, place: int) -> list[Period]:
        steady = [(each, each.lanes[place]) for each in self.moments if place < len(each.lanes) and not _ending(each)]
        wanted = max(ENOUGH, sum(_count(lane) for _, lane in steady) // PERIODS)
        groups: list[list[tuple[Moment, LaneMoment]]] = [[]]
        for pair in steady:
            groups[-1].append(pair)
            if sum(_count(lane) for _, lane in groups[-1]) >= wanted:
                groups.append([])
        return [_period(group) for group in groups[:-1]]


def _ending(moment: Moment) -> bool:
    """Whether there was nothing left but what was in flight or waited to be sent again."""
    return moment.total is not None and moment.total - moment.done <= moment.in_flight + moment.retrying


def _count(lane: LaneMoment) -> int:
    return sum(lane.phases.get("first_byte", {}).values())


def _period(group: Sequence[tuple[Moment, LaneMoment]]) -> Period:
    begin, end = group[0][0].at - group[0][0].span, group[-1][0].at
    good = sum(_count(lane) for _, lane in group)
    return Period(
        begin=begin,
        end=end,
        good=good,
        first_byte=quantile(merged(lane.phases.get("first_byte", {}) for _, lane in group), 0.5),
        connect=quantile(merged(lane.phases.get("connect", {}) for _, lane in group), 0.5),
        in_flight=sum(lane.in_flight for _, lane in group) / len(group),
        rate=good / max(end - begin, 1e-3),
    )
