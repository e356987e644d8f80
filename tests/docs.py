"""The parts of the README that follow from the code. `python -m tests.docs` writes them; `test_docs` compares."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from batchrunner.settings import OPTIONS, Option
from batchrunner.usage import written

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_PART = re.compile(r"(<!-- options: [^>]*-->\n).*?(<!-- /options -->)", re.DOTALL)


def options() -> str:
    """Every option as a Markdown table."""
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for group, each in groupby(OPTIONS.values(), key=lambda option: option.group):
        rows += [f"| **{group}** | | |", *_rows(each)]
    return "\n".join(rows) + "\n"


def _rows(options: Iterator[Option]) -> Iterator[str]:
    for option in options:
        flags = ", ".join(option.flags) + (f" {option.metavar}" if option.metavar else "")
        cells = (f"`{flags}`", option.help, written(option))
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def with_options(text: str) -> str:
    """The README with the present table in it."""
    return _PART.sub(lambda found: found[1] + options() + found[2], text)


if __name__ == "__main__":
    README.write_text(with_options(README.read_text()))
