"""Keys, and how they are kept out of everything that is written, shown or handed on.

Rules:

1. A secret is in no repr. Its value leaves this room only by `reveal`, to be put on the wire.
2. What an endpoint sends back is cleared of it before anybody reads it: servers quote the key they refuse.
3. A placeholder is no secret: words such as EMPTY stand in ordinary text, and answers are not to be spoilt.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Protocol, TypeVar
from urllib.parse import quote

Text = TypeVar("Text", str, bytes)

WHOLE = 8  # letters of a key of which a part is told from ordinary text
_NEEDLE = 64  # digits of base64 that are searched for in every answer: long ones are found missing sooner
SHORT = 4  # a word of fewer letters is a placeholder as well
PLACEHOLDERS = frozenset(
    [
        *["empty", "none", "null", "dummy", "fake", "test", "token", "secret", "password", "anything", "changeme", "local"],
        *["unused", "simulated", "ollama", "lm-studio", "not-needed", "not-used", "no-key", "no-key-required"],
        "sk-no-key-required",
    ]
)
"""What people write where a client insists on a key and the server does not."""


class Redact(Protocol):
    """Takes every secret out of a text."""

    def __call__(self, text: Text) -> Text:
        """The same text, with `[key]` in place of each secret."""


class Secret:
    """A key that shows itself only when asked to."""

    __slots__ = ("_needles", "_pattern", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        forms = _forms(value)
        encoded = _encoded(value) if forms else []
        needles = {form[:WHOLE] for form in forms} | {digits[:_NEEDLE] for digits in encoded}
        self._needles = [(each, each.encode()) for each in sorted(needles)]
        pattern = "|".join([*map(re.escape, forms), *(_masked(value) if forms else ()), *map(_with_end, encoded)])
        self._pattern = (re.compile(pattern), re.compile(pattern.encode()))

    def __repr__(self) -> str:
        return "Secret(…)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The key itself, to be put into a header."""
        return self._value

    def redact(self, text: Text) -> Text:
        """The text without the key, and without what servers show of it: its first 8 characters and a mask."""
        if isinstance(text, bytes):
            found = any(needle in text for _, needle in self._needles)
            return self._pattern[1].sub(b"[key]", text) if found else text
        found = any(needle in text for needle, _ in self._needles)
        return self._pattern[0].sub("[key]", text) if found else text


def _forms(value: str) -> list[str]:
    """How the key may be written by who quotes it: as it is, percent-encoded, with JSON's optional escape of a slash.

    The longest first, so that none is taken for the beginning of another.
    """
    if len(value) < SHORT or value.lower() in PLACEHOLDERS:
        return []
    quoted = {quote(value, safe=""), quote(value)}
    lowered = {_PERCENT.sub(lambda escape: escape[0].lower(), each) for each in quoted}
    return sorted({value, value.replace("/", "\\/"), *quoted, *lowered}, key=len, reverse=True)


_PERCENT = re.compile("%[0-9A-F]{2}")


def _encoded(value: str) -> list[str]:
    """What base64 makes of the key, wherever it stands in what is encoded, a header with `Bearer` say: three ways to be aligned.

    Digits that the neighbours have a part in are left out; of a short key too few would remain.
    """
    found, raw = set[str](), value.encode()
    for shift in range(3) if len(value) >= WHOLE else ():
        digits = b64encode(bytes(shift) + raw).decode()[-(-4 * shift // 3) : (shift + len(raw)) * 4 // 3]
        found |= {digits, digits.replace("+", "-").replace("/", "_"), digits.replace("/", "\\/")}
    return sorted(found)


def _with_end(digits: str) -> str:
    """The pattern of these digits of base64, with the one behind them and what fills it up."""
    return rf"{re.escape(digits)}[\w+\-]?={{0,2}}"


def _masked(value: str) -> list[str]:
    return [rf"{re.escape(value[:WHOLE])}[\w*.\-]*"] if len(value) >= WHOLE else []


def redactor(secrets: Iterable[Secret]) -> Redact | None:
    """What takes all of these out of a text; None when there is nothing to take out."""
    known = [secret for secret in secrets if secret]

    def redact(text: Text) -> Text:
        for secret in known:
            text = secret.redact(text)
        return text

    return redact if known else None
