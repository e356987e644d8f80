"""Exact quantiles over a sliding window."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.quantile import Reservoir


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.lists(st.floats(0, 10), max_size=60), st.floats(0, 1))
def test_a_window_equals_sorting_its_last_values(size: int, values: list[float], p: float) -> None:
    window = Reservoir(size)
    for n, value in enumerate(values, 1):
        window.add(value)
        last = sorted(values[max(0, n - size) : n])
        assert len(window) == len(last)
        assert window.quantile(p) == last[max(0, ceil(p * len(last)) - 1)]


def test_p99_of_a_hundred_leaves_one_above() -> None:
    window = Reservoir(500)
    for n in range(100):
        window.add(float(n))
    assert window.quantile(0.99) == 98.0
    assert (window.quantile(0.0), window.quantile(1.0)) == (0.0, 99.0)


def test_an_empty_window_has_no_quantile() -> None:
    with pytest.raises(IndexError):
        Reservoir(3).quantile(0.5)
