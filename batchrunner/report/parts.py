"""What every section of the page is made of: headings, tables, legends, and words that stay words.

Rules:

1. Every word that comes from a story passes `shown`, which escapes it and spells out what would act or turn the text round.
2. A line may break between words only: not before a unit, and not at a hyphen of what one types.
3. A table becomes a list of cards on a narrow screen: each cell knows the head of its column.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from batchrunner.core.wording import visible
from batchrunner.report import svg
from batchrunner.report.layout import UNIT

_OPTION: Final = re.compile(r"--[a-z][a-z0-9-]*")


def shown(text: object) -> str:
    """Text fit for any place in the page."""
    return escape(visible(str(text)))


def prose(text: str) -> str:
    """A sentence, with its figures and options kept whole."""
    return _OPTION.sub(r'<code class="whole">\g<0></code>', UNIT.sub("\u00a0", shown(text)))


def typed(command: str) -> str:
    """A command, with its words kept whole. Its spaces stay spaces, so that it can be copied."""
    return " ".join(f"<span>{shown(word)}</span>" for word in command.split(" "))


def section(title: str, content: str, name: str, note: str = "") -> str:
    """One section, with an id to be linked to."""
    said = f' <span class="soft">{shown(note)}</span>' if note else ""
    return f'<section id="{name}"><h2>{shown(title)}{said}</h2>{content}</section>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kinds: str) -> str:
    """Cells are ready HTML. `kinds` has a letter for each column: a figure, words, a waterfall, or what is short."""
    classes = [_CELL[kind] for kind in kinds]
    top = "".join(
        f"<th{kind if kind == _CELL['n'] else ''}>{shown(head)}</th>" for kind, head in zip(classes, heads, strict=True)
    )
    marks = [f'{kind} data-h="{shown(head)}"' if head else kind for kind, head in zip(classes, heads, strict=True)]
    lines = ("".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks, row, strict=True)) for row in rows)
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr class="top">{top}</tr>{inner}</table></div>'


_CELL: Final = {"n": ' class="n"', "w": ' class="w"', "f": ' class="fall"', "s": ""}


def legend(lines: Iterable[svg.Line]) -> str:
    """What the colours of a chart mean."""
    keys = (f'<span><svg viewBox="0 0 12 12" aria-hidden="true">{_key(line)}</svg>{shown(line.name)}</span>' for line in lines)
    return f'<div class="legend">{"".join(keys)}</div>'


def _key(line: svg.Line) -> str:
    drawn = line.role in {"p50", "p95", "flight", "ceiling"} or line.name.startswith("timeout ")
    return (
        f'<path class="line {line.role}" d="M0 6H12"/>' if drawn else f'<rect class="area {line.role}" width="12" height="12"/>'
    )
