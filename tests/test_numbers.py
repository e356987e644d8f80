"""Numbers kept beside memory come back whole and in order, however few of them memory may hold."""

from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner import numbers
from batchrunner.numbers import Column, Piles, number_of

NUMBER = st.integers(-(2**63), 2**63 - 1)
FREELY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def until(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(numbers, "BUDGET", 4)
    with ExitStack() as until:
        yield until


@given(blocks=st.lists(st.lists(NUMBER, max_size=6), max_size=6), first=st.integers(0, 30), size=st.integers(0, 30))
@FREELY
def test_a_window_of_a_column(tmp_path: Path, until: ExitStack, blocks: list[list[int]], first: int, size: int) -> None:
    column, whole = Column(tmp_path, until), list[int]()
    for block in blocks:
        column.extend(array("q", block))
        whole += block
        assert list(column.window(first, first + size)) == whole[first : first + size]


@given(dealt=st.lists(st.tuples(NUMBER, NUMBER), max_size=30))
@FREELY
def test_rows_come_back_in_the_pile_of_their_key_in_order(tmp_path: Path, until: ExitStack, dealt: list[tuple[int, int]]) -> None:
    pairs, keys = Piles(tmp_path, until), Piles(tmp_path, until)
    for key, other in dealt:
        pairs.add(key, other)
        keys.deal([key, other])
    for pile, alone in zip(pairs, keys, strict=True):
        back = list(zip(pile[0::2], pile[1::2], strict=True))
        assert back == [row for row in dealt if back and row[0] % numbers.PILES == back[0][0] % numbers.PILES]
        assert all(key % numbers.PILES == alone[0] % numbers.PILES for key in alone)
    assert sum(map(len, pairs)) == 2 * len(dealt)
    assert sorted(number for pile in keys for number in pile) == sorted(number for row in dealt for number in row)


def test_nothing_is_left_in_the_folder(tmp_path: Path, until: ExitStack) -> None:
    column = Column(tmp_path, until)
    column.extend(array("q", range(100)))
    assert list(column.window(0, 200)) == list(range(100))
    assert not list(tmp_path.iterdir())


def test_a_digest_is_its_eight_bytes() -> None:
    assert number_of("") == 0
    assert number_of("00000000000000ff") in {255, -(2**56)}
    assert (
        len({*map(number_of, ["0123456789abcdef", "0123456789abcdee", "01234567", "0123456789abcdeg", "01234567 89abcd"])}) == 5
    )
