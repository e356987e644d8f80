"""Durations counted in buckets: tables that may be written down, added up, and asked for quantiles.

Rules:

1. Bucket b counts durations from 0.0001 · 1.05^b to 0.0001 · 1.05^(b+1) seconds; a table holds those that have counted anything.
2. Tables add up. What one is asked is told within 2.5 %.
"""

from collections.abc import Iterable, Mapping
from math import ceil, exp, log

LEAST = 1e-4  # seconds
_PER_E = 1 / log(1.05)
_SHIFT = -log(LEAST) * _PER_E

Buckets = dict[int, int]
"""Bucket to count, sparse."""


def bucket(seconds: float) -> int:
    """The bucket that counts this duration."""
    return int(log(seconds) * _PER_E + _SHIFT) if seconds > LEAST else 0


def middle(number: int) -> float:
    """The duration in the middle of a bucket, seconds."""
    return exp((number + 0.5 - _SHIFT) / _PER_E)


def merged(tables: Iterable[Mapping[int, int]]) -> Buckets:
    """The sum of several tables."""
    whole: Buckets = {}
    for table in tables:
        for number, count in table.items():
            whole[number] = whole.get(number, 0) + count
    return whole


def quantile(table: Mapping[int, int], share: float) -> float:
    """The duration that `share` of the durations do not exceed, within 2.5 %; 0.0 when the table is empty."""
    rank, seen = max(1, ceil(share * sum(table.values()))), 0
    for number in sorted(table):
        seen += table[number]
        if seen >= rank:
            return middle(number)
    return 0.0
