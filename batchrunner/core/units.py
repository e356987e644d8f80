"""Figures as people write them: 30s, 2m, 1h30m, 500ms, 64MiB, 40k.

Rules:

1. Each reader takes stripped text and raises ValueError with the end of a sentence: "is not a duration".
2. A figure without a unit is seconds, bytes or pieces.
"""

import re

_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_PLAIN = re.compile(_NUMBER)
_DECIMAL = re.compile(_NUMBER + r"(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in ("d", "h", "m", "s", "ms")))
_SPANS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_SIZE = re.compile(_NUMBER + r" ?(?:([kmgt])(i?b)?|b)?", re.IGNORECASE)
_COUNT = re.compile(_NUMBER + r"([kmg])?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def duration(text: str) -> float:
    """Seconds of `30`, `30s`, `2m`, `1h30m`, `500ms`, `1d`."""
    if _PLAIN.fullmatch(text):
        return float(text)
    parts = _DURATION.fullmatch(text)
    if not text or parts is None:
        raise ValueError("is not a duration")
    return sum(float(part) * span for part, span in zip(parts.groups(), _SPANS, strict=True) if part)


def size(text: str) -> int:
    """Bytes of `4096`, of `64MiB` and `64M` (both 2^26) and of `64MB` (64 million)."""
    parts = _SIZE.fullmatch(text)
    if parts is None:
        raise ValueError("is not a size")
    step = 1000.0 if (parts[3] or "").lower() == "b" else 1024.0
    return _whole(float(parts[1]) * _power(step, parts[2]), "is not a size")


def count(text: str) -> int:
    """A whole number, where k, M and G stand for a thousand, a million, a thousand million."""
    parts = _COUNT.fullmatch(text)
    if parts is None:
        raise ValueError("is not a whole number")
    return _whole(float(parts[1]) * _power(1000.0, parts[2]), "is not a whole number")


def truth(text: str) -> bool:
    """True or false, in the words people use for it."""
    if text.lower() not in _TRUTH:
        raise ValueError("is neither true nor false")
    return _TRUTH[text.lower()]


def number(text: str) -> float:
    """A decimal number, `20` or `2e1`."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError("is not a number")
    return float(text)


def _power(step: float, letter: str | None) -> float:
    return float(step ** _POWERS[letter.lower()]) if letter else 1.0


def _whole(value: float, complaint: str) -> int:
    rounded = round(value, 6)
    if not rounded.is_integer():
        raise ValueError(complaint)
    return int(rounded)
