"""Headers that say nothing true harm nothing: the run is the same, to the last sending."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.simulation.told import LIES, Says, capped, lying, silence
from tests.simulation.world import Run, Stage, run

ROWS = 2_500
Make = Callable[[int, int, Says], Stage]


@cache
def plain(make: Make) -> Run:
    return run(make(ROWS, 1, silence), 1)


@pytest.mark.parametrize("make", [lying, capped])
@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_true_changes_nothing(make: Make, lie: str) -> None:
    lied = run(make(ROWS, 1, LIES[lie]), 1)
    assert plain(make).throttled(0.0) > 0.0, "there is something to find out"
    assert lied.sent == plain(make).sent
