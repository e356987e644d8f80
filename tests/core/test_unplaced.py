"""Lines whose model nobody serves: held back while the map may be wrong, failed once it is not."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.unplaced import Unplaced
from batchrunner.feeder import unserved
from tests.virtual import chat


def lines(results: Sequence[object]) -> list[int]:
    return [result.request.line for result in results]  # type: ignore[attr-defined]


@given(st.integers(0, 8), st.lists(st.booleans(), max_size=20))
def test_each_fails_once_or_none_does(most: int, served: list[bool]) -> None:
    unplaced, failed = Unplaced(most), list[int]()
    served = [any(served[: place + 1]) for place in range(len(served))]  # once a line is served, one is
    for line, some in enumerate(served, 1):
        failed += lines(unplaced.take(unserved(chat(line)), some))
        assert not (failed and unplaced.stopped)
        if unplaced.stopped:
            assert (line, some, unplaced.stopped.endswith("[E307]")) == (most, False, True)
            return
    assert not most or len(served) < most or any(served)
    failed += lines(unplaced.rest())
    assert failed == list(range(1, len(served) + 1))
    assert not unplaced.rest()


@pytest.mark.parametrize("most", [0, 3])
def test_what_is_meant_so_fails_at_once(most: int) -> None:
    unplaced = Unplaced(most)
    assert lines(unplaced.take(unserved(chat(7)), served=most > 0)) == [7]


def test_the_reason_names_a_model_as_it_is_asked_for() -> None:
    unplaced = Unplaced(1)
    unplaced.take(unserved(chat(1, model="m" * 200)), served=False)
    assert f"'{'m' * 80}'" in unplaced.stopped
