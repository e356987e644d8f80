"""Figures in the sentences of the diagnosis.

Rules:

1. A figure is shown with its unit and no more digits than it is worth.
2. A share is shown with the count behind it.
"""

from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """The mean; 0.0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def time_of(seconds: float) -> str:
    """11 ms, 3.2 s, 60 s, 12 min."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def stretch(begin: float, end: float) -> str:
    """`second 3 to 9`, `minute 7 to 9`: of the session."""
    return f"second {begin:.0f} to {end:.0f}" if end < 120 else f"minute {begin / 60:.0f} to {end / 60:.0f}"


def part(count: int, whole: int) -> str:
    """`96 of 1,000 (9.6 %)`."""
    return f"{count:,} of {whole:,} ({100 * count / whole:.2g} %)" if whole else f"{count:,}"


def plural(count: int, word: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def tokens(count: int) -> str:
    """256, 16 k."""
    return f"{count // 1024} k" if count >= 1024 else str(count)
