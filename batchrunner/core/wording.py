"""Figures in words, for everything that people read.

Rules:

1. A figure is shown with its unit and no more digits than it is worth. Unknown is a word, never 0.
2. A share is shown with the count behind it.
3. Whatever came from outside passes `visible`, so that no id, path or server can send the terminal a command.
"""

import unicodedata
from collections.abc import Mapping

from batchrunner.core.model import Kind

WORDS: Mapping[Kind, str] = {
    Kind.OK: "good",
    Kind.RATE_LIMITED: "rate limited",
    Kind.OVERLOADED: "endpoint overloaded",
    Kind.SERVER_ERROR: "server error",
    Kind.GATEWAY: "gateway error",
    Kind.LOADING: "model still loading",
    Kind.CONNECT: "no connection",
    Kind.TLS: "no safe connection",
    Kind.NETWORK: "connection lost",
    Kind.STALE: "connection closed under us",
    Kind.TIMEOUT_CONNECT: "timeout while connecting",
    Kind.TIMEOUT_FIRST_BYTE: "timeout before the first byte",
    Kind.TIMEOUT_IDLE: "timeout inside the answer",
    Kind.TIMEOUT_TOTAL: "timeout",
    Kind.PROTOCOL: "not proper HTTP",
    Kind.TRUNCATED: "answer cut short",
    Kind.GARBLED: "answer garbled",
    Kind.REJECTED: "request refused",
    Kind.CONTEXT: "prompt too long",
    Kind.POLICY: "content filter",
    Kind.TOO_LARGE: "request too large",
    Kind.UNSUPPORTED: "not supported there",
    Kind.RESPONSE_TOO_LARGE: "answer too large",
    Kind.INVALID: "not a request",
    Kind.INVALID_OUTPUT: "answer failed its check",
    Kind.DENIED: "access refused",
    Kind.QUOTA: "out of money",
    Kind.QUOTA_WINDOW: "quota used up for now",
    Kind.CONFIG: "wrong model, route or address",
    Kind.LOCAL: "fault of this machine",
    Kind.CRASHED: "worker process died",
    Kind.HOOK: "a hook failed",
    Kind.CANCELLED: "cancelled",
}
"""Each kind in plain words."""


def outcome_in_words(kind: Kind, status: int | None) -> str:
    """`rate limited (HTTP 429)`, `timeout (HTTP 200)`: the status came before the answer stopped coming."""
    return f"{WORDS[kind]} (HTTP {status})" if status and kind is not Kind.OK else WORDS[kind]


def visible(text: str) -> str:
    """Text with every control, direction and lone surrogate character spelled out; ordinary letters of any script stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if unicodedata.category(each)[0] != "C" else ascii(each)[1:-1] for each in text)


# ---- counts ----


def number(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def plural(count: int, word: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{number(count)} {word}{'' if count == 1 else 's'}"


def amount(value: float) -> str:
    """Three figures: 740, 35.4 k, 31.0 M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * 0.9995:
            return f"{value / factor:.3g} {letter}" if value >= 99.95 * factor else f"{value / factor:.1f} {letter}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes, in the unit that fits: 512 B, 64 MiB, 1.5 GiB."""
    power = min(max(0, int(value).bit_length() - 1) // 10, len(_SIZES) - 1)
    return f"{value / 1024**power:.4g} {_SIZES[power]}"


_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def tokens(count: int) -> str:
    """256, 16 k: the sizes that context windows come in."""
    return f"{count // 1024} k" if count >= 1024 else str(count)


def percent(part: int, whole: int) -> str:
    """31 %; 100 % only when nothing is missing."""
    return f"{100 * part // whole if whole else 100} %"


def part(count: int, whole: int) -> str:
    """`96 of 1,000 (9.6 %)`."""
    return f"{count:,} of {whole:,} ({float(f'{100 * count / whole:.2g}'):g} %)" if whole else f"{count:,}"


# ---- times, rates, money ----


def seconds(value: float) -> str:
    """A measured time with its unit: 0 s, <1 ms, 11 ms, 3.2 s, 60 s, 12 m 24 s, 2 h 5 m, 3 d 4 h, 5 m."""
    if value < 0.9995:
        return f"{1000 * value:.0f} ms" if value >= 0.0005 else "<1 ms" if value else "0 s"
    if value < 99.5:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole, steps = round(value), (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    place = next(place for place, (_, size) in enumerate(steps) if whole >= size)
    (unit, size), (part_unit, part_size) = steps[place : place + 2]
    rest = whole % size // part_size
    return f"{whole // size} {unit}{f' {rest} {part_unit}' if rest else ''}"


def clock(value: float) -> str:
    """A running time as 05:34 or 2:05:34."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def stretch(begin: float, end: float) -> str:
    """`second 3 to 9`, `minute 7 to 9`: of the session."""
    return f"second {begin:.0f} to {end:.0f}" if end < 120 else f"minute {begin / 60:.0f} to {end / 60:.0f}"


def rate(value: float) -> str:
    """Requests per second with three figures at most."""
    return f"{value:.0f} req/s" if value >= 99.95 else f"{value:.1f} req/s" if value >= 0.95 else f"{value:.2g} req/s"


def money(value: float) -> str:
    """$ 14.07, $ 0.0123."""
    return f"$ {value:,.2f}" if value >= 0.995 or not value else f"$ {value:.3g}"
