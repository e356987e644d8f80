"""Quantiles of what happened lately, exact and cheap.

Rules:

1. Exact: the answer is one of the values seen, never an interpolation or a sketch.
2. Only the last `size` values count, so that a change of weather is forgotten within one window.
"""

from bisect import bisect_left, insort
from collections import deque
from math import ceil


class Reservoir:
    """The last `size` values, kept twice: by age and by rank. Adding costs two binary searches and two short moves of memory."""

    __slots__ = ("_by_age", "_by_rank", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._by_age: deque[float] = deque()
        self._by_rank: list[float] = []

    def __len__(self) -> int:
        return len(self._by_rank)

    def add(self, x: float) -> None:
        """Take a value in; the oldest leaves when the window is full."""
        ranks = self._by_rank
        if len(ranks) == self.size:
            del ranks[bisect_left(ranks, self._by_age.popleft())]
        self._by_age.append(x)
        insort(ranks, x)

    def latest(self, most: int) -> tuple[float, ...]:
        """The last values, at most so many, the oldest first."""
        return tuple(self._by_age)[-most:]

    def quantile(self, p: float) -> float:
        """The smallest value that at least the share `p` of the values does not exceed. IndexError when there are none."""
        ranks = self._by_rank
        return ranks[max(0, ceil(p * len(ranks)) - 1)]
