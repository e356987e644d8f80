"""How long a server asks us to wait: every form in which it may say so.

Rules:

1. The largest of what is asked for counts: headers, `RetryInfo` in the body, and the words of the message alike.
2. A point in time is measured from the reply's own Date, never from a clock of ours; without a Date it says nothing.
3. What is not finite, negative or beyond a month is ignored: the caller has a backoff of its own.
4. `…ratelimit-reset…` tells when a whole budget is full again, and of which window is unknown: it counts only when nothing
   else is said, and only for a budget that is used up.

Sources: RFC 9110 10.2.3 and 5.6.7, RFC 3339, the providers' pages on rate limits; the libraries of OpenAI and Anthropic for
`retry-after-ms`, google.rpc for `RetryInfo`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 32 * 86400.0
_EPOCH = 1e9  # a reset from here on is a point in time, in seconds; a thousand times that, in milliseconds
# The comma after a weekday separates nothing.
_LISTED = re.compile(r"\s*(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,[^,]*|[^,]+", re.IGNORECASE)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SPOKEN = re.compile(
    r"(?:again|retry|wait)\D{0,40}?((?:\d{1,9}(?:\.\d{1,9})?\s*"
    r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])[\s,]*(?:and\s+)?)+)"
)
_SPOKEN_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(milli|ms|s|m|h|d)")


def asked(headers: Mapping[str, str], delays: Iterable[str] = (), message: str = "") -> float | None:
    """Seconds the server asks for in so many words, wherever it does; None: it does not."""
    return _largest((retry_after(headers), *map(duration, delays), spoken(message)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` and `retry-after`: a number, or a date (RFC 9110); None: neither, or nonsense."""
    exact, plain = headers.get("retry-after-ms"), headers.get("retry-after")
    waits = [_number(item, 1e-3) for item in _items(exact)]
    if plain:
        now = _date(headers.get("date", ""))
        waits += [_number(item) if _numeric(item) else _until(_date(item), now) for item in _items(plain)]
    return _largest(waits)


def reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until the last of the used-up budgets is full again, by the rate-limit headers; None: they do not say."""
    waits = []
    for name, value in headers.items():
        name = name.lower()
        if "ratelimit" in name and "reset" in name and _used_up(headers, name):
            waits += [moment(item, headers.get("date", "")) for item in _items(value)]
    return _largest(waits)


def duration(text: str) -> float | None:
    """Seconds of a duration as Go and protobuf write it: 12ms, 34.07s, 6m0s; None: it is none."""
    text = text.strip()
    unit = text[-2:] if text[-2:] in _SECONDS else text[-1:]
    if unit in _SECONDS and (number := text[: -len(unit)]).replace(".", "", 1).isdecimal() and number.isascii():
        return _sensible(float(number) * _SECONDS[unit])  # as nearly all of them are
    if not _DURATION.fullmatch(text):
        return None
    return _sensible(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)))


def spoken(message: str) -> float | None:
    """Seconds a message asks for: "try again in 6m0s", "retry after 22 seconds"; the largest if there are several."""
    return _largest(map(_spoken_seconds, _SPOKEN.findall(message.lower())))


def _spoken_seconds(words: str) -> float | None:
    parts = _SPOKEN_PART.findall(words)
    return _sensible(sum(float(number) * _SECONDS["ms" if unit == "milli" else unit] for number, unit in parts))


def _items(value: str | None) -> Iterator[str]:
    return (item.strip() for item in _LISTED.findall(value or ""))


def _numeric(text: str) -> bool:
    return text[:1] in "+-.0123456789" or text.lower() in {"nan", "inf", "infinity"}


def _number(text: str, unit: float = 1.0) -> float | None:
    try:
        return _sensible(float(text) * unit)
    except ValueError:
        return duration(text)


def moment(text: str, said: str) -> float | None:
    """Seconds until a reset: a number, a duration, or a point in time in one of three forms; `said` is the reply's Date."""
    if (wait := duration(text)) is not None:
        return wait
    try:
        number = float(text)
    except ValueError:
        return _until(_timestamp(text), _date(said))
    if not number >= _EPOCH:  # NaN included
        return _sensible(number)
    now = _date(said)
    return None if now is None else _sensible(max(0.0, number / (1e3 if number >= 1e3 * _EPOCH else 1.0) - now.timestamp()))


def _used_up(headers: Mapping[str, str], name: str) -> bool:
    left = headers.get(name.replace("reset", "remaining"))
    if left is None:
        return True
    try:
        return float(left.partition(",")[0]) <= 0.0
    except ValueError:
        return True


def _until(moment: datetime | None, now: datetime | None) -> float | None:
    if moment is None or now is None:
        return None
    return _sensible(max(0.0, (moment - now).total_seconds()))


def _date(text: str) -> datetime | None:
    """RFC 9110's date, in any of its three forms."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _timestamp(text: str) -> datetime | None:
    """RFC 3339, or RFC 9110's date."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return _date(text)


def _sensible(seconds: float) -> float | None:
    return seconds if 0.0 <= seconds <= LONGEST else None


def _largest(waits: Iterable[float | None]) -> float | None:
    return max((wait for wait in waits if wait is not None), default=None)
