"""Every row of the fault matrix has a test that bears its name, so that nobody has to ask which."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SECTIONS = {"A": 22, "B": 33, "C": 28, "G": 28}
"""Network, protocol, what servers mean, security; and how many rows each has."""
ROWS = [f"{letter}{number}" for letter, count in SECTIONS.items() for number in range(1, count + 1)]


def named() -> Iterator[str]:
    """Rows as they stand in names of tests (`test_a1_…`, `test_c3_c4_…`) and of their cases ("B3 unframed", "a10-reset")."""
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__):
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"\s*(?:async )?def test((?:_[a-h][0-9]{1,2})+)_", line)
            yield from found[1].upper().split("_")[1:] if found else ()
            yield from (row.upper() for row in re.findall(r"""["']([A-Ga-g][0-9]{1,2})[ -]""", line))


NAMED = set(named())


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_a_test_of_its_name(row: str) -> None:
    assert row in NAMED
