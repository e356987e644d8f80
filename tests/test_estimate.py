"""What the last run has counted makes guesses better, once it is enough."""

from batchrunner.estimate import GUESSED, learned
from tests.test_checking import attempt


def test_a_ratio_needs_enough_answers() -> None:
    assert learned([]) == (1.0, GUESSED)
    assert learned([attempt(100, 150)] * 5) == (1.0, GUESSED)
    ratio, spread = learned([attempt(100, 150)] * 10 + [attempt(100, 300)] * 10)
    assert (ratio, spread) == (1.5, 1.0)
