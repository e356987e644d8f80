"""Keys, and how they are kept out of everything that is written, shown or handed on.

Rules:

1. A secret is in no repr. Its value leaves this room only by `reveal`, to be put on the wire.
2. What an endpoint sends back is cleared of it before anybody reads it: servers quote the key they refuse.
3. A placeholder is no secret: words such as EMPTY stand in ordinary text, and answers are not to be spoilt.
"""

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar
from urllib.parse import quote

Text = TypeVar("Text", str, bytes)

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
        self._needles = [(each, each.encode()) for each in sorted({form[:8] for form in forms})]
        pattern = "|".join([*map(re.escape, forms), *(_masked(value) if forms else ())])
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
    """How the key may be written by who quotes it: as it is, percent-encoded, with JSON's optional escape of a slash."""
    if len(value) < SHORT or value.lower() in PLACEHOLDERS:
        return []
    return sorted({value, quote(value, safe=""), value.replace("/", "\\/")}, key=len, reverse=True)


def _masked(value: str) -> list[str]:
    return [rf"{re.escape(value[:8])}[\w*.\-]*"] if len(value) >= 8 else []


def redactor(secrets: Iterable[Secret]) -> Redact | None:
    """What takes all of these out of a text; None when there is nothing to take out."""
    known = [secret for secret in secrets if secret]

    def redact(text: Text) -> Text:
        for secret in known:
            text = secret.redact(text)
        return text

    return redact if known else None
