"""Figures in columns, for a terminal or a README."""

from msgspec import Struct


class Table(Struct):
    """One scenario's figures."""

    title: str
    columns: list[str]
    rows: list[list[str | float]]

    def __str__(self) -> str:
        cells = [self.columns, *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            row[0].ljust(widths[0]) + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in cells
        ]
        return "\n".join([self.title, *lines, ""])

    def markdown(self) -> str:
        """The same for a README."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        rows = [self.columns, rule, *([_cell(value) for value in row] for row in self.rows)]
        return "\n".join([self.title, "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
