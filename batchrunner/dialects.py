"""The shapes of input lines: where each dialect keeps a request's id, route and body.

    openai     {"custom_id", "method", "url", "body"}   also Azure's, vLLM's, and plain HTTP with "headers"
    anthropic  {"custom_id", "params"}                  a row of a Message Batch
    mistral    {"custom_id", "body"}
    cookbook   the body itself, perhaps with "metadata" (kept aside) and "custom_id"; messages-only rows are such bodies

Rules:

1. A file has one dialect: that of its first readable line, unless `--format` names it. A line of another is refused, not guessed.
2. What an envelope does not say, its dialect does: Anthropic's rows go to /v1/messages. `--route` says it for all the rest.
3. No key of an envelope may stand twice: which one counts would be anybody's guess.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from batchrunner.malformed import shape, word

Format = Literal["auto", "openai", "azure", "vllm", "http", "anthropic", "mistral", "cookbook"]
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
UNRENDERED = "unrendered"
"""The key of a line that a row could not be made a request of; it says why."""


class LineError(ValueError):
    """Why a line cannot be sent, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Dialect(Struct, frozen=True):
    """How the lines of one file are read. `route` is the url of a line that gives none; empty: the dialect's own."""

    format: Format = "openai"
    route: str = ""


OPENAI = Dialect()


class Envelope(Struct, gc=False):
    """A line opened. `body` holds the body's own bytes; empty: it has none."""

    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: bytes = b""
    headers: Raw = Raw(b"")
    metadata: bytes = b""


def opened(raw: bytes, dialect: Dialect) -> Envelope:
    """The envelope of a line. LineError, or the ValueError of a decoder: it is none of this dialect."""
    return _OPENERS[dialect.format](raw, dialect.route)


def detected(keys: Collection[str], route: str = "") -> Dialect:
    """The dialect of a line with these keys; OpenAI's when nothing speaks for another."""
    for format_, wanted in _SIGNS:
        if wanted.issubset(keys):
            return Dialect(format_, route)
    return Dialect("cookbook" if route and keys else "openai", route)


_SIGNS: tuple[tuple[Format, frozenset[str]], ...] = (
    ("openai", frozenset({"url"})),
    ("openai", frozenset({"method"})),
    ("anthropic", frozenset({"params"})),
    ("mistral", frozenset({"custom_id", "body"})),
    ("cookbook", frozenset({"messages"})),
    ("cookbook", frozenset({"model", "prompt"})),
    ("cookbook", frozenset({"model", "input"})),
    ("openai", frozenset({"custom_id", "response"})),  # a result: refused with words of its own
    ("openai", frozenset({"custom_id", "result"})),
    ("openai", frozenset({"requests"})),
)


def keys_of(raw: bytes) -> Collection[str]:
    """The keys of a line; none when it is no JSON object."""
    try:
        return read_entries(raw).keys()
    except (ValueError, RecursionError):
        return ()


# ---- the openers ----


class _Line(Struct, gc=False):
    """Other keys are tolerated; null counts as absent."""

    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: Raw = Raw(b"")
    headers: Raw = Raw(b"")


_read_line = msgspec.json.Decoder(_Line).decode
read_entries = msgspec.json.Decoder(dict[str, Raw]).decode
write = msgspec.json.Encoder().encode


def _openai(raw: bytes, route: str) -> Envelope:
    fields = _read_line(raw)
    body = _body(raw, fields)
    url = fields.url or route
    if not url:
        raise _unsent(read_entries(raw))
    return Envelope(fields.custom_id, fields.method, url, body, fields.headers)


def _unsent(given: Mapping[str, Raw]) -> LineError:
    """Why a line that names no url is refused: as the row it was made of had it (`rendering`), else as its keys tell."""
    why = _text(given, UNRENDERED)
    return LineError(why[:300], "Correct the row, then run the same command again.") if why else LineError(*shape(given.keys()))


def _anthropic(raw: bytes, route: str) -> Envelope:
    given = entries(raw, "the line")
    if "params" not in given:
        raise LineError(
            "params is missing", 'One line is {"custom_id": "r-1", "params": {"model": …, "max_tokens": …, "messages": […]}}'
        )
    return Envelope(_text(given, "custom_id"), None, route or MESSAGES, _present(given["params"]))


def _mistral(raw: bytes, route: str) -> Envelope:
    given = entries(raw, "the line")
    if "body" not in given:
        raise LineError("body is missing", 'One line is {"custom_id": "r-1", "body": {"messages": […]}}')
    return Envelope(_text(given, "custom_id"), None, _text(given, "url") or route or CHAT, _present(given["body"]))


def _cookbook(raw: bytes, route: str) -> Envelope:
    given = entries(raw, "the line")
    name, metadata = _text(given, "custom_id"), bytes(given.get("metadata", b""))
    kept = {key: value for key, value in given.items() if key not in {"custom_id", "metadata"}}
    url = route or next((url for key, url in _BODIES.items() if key in given), "")
    if not url:
        raise LineError(
            "the line does not tell which route its body is for", "Name it: --route /v1/embeddings, --route /v1/responses"
        )
    return Envelope(name, None, url, raw if len(kept) == len(given) else write(kept), metadata=metadata)


_BODIES: Mapping[str, str] = {"messages": CHAT, "prompt": "/v1/completions"}
_OPENERS: Mapping[str, Callable[[bytes, str], Envelope]] = {
    **dict.fromkeys(("openai", "azure", "vllm", "http"), _openai),
    "anthropic": _anthropic,
    "mistral": _mistral,
    "cookbook": _cookbook,
}


def _text(given: Mapping[str, Raw], name: str) -> str | None:
    value = msgspec.json.decode(given[name]) if name in given else None
    if not isinstance(value, str | None):
        raise LineError(f"{name} is {word(value)}, not a string", f'Write it in quotes: "{name}": "…".')
    return value


def _present(body: Raw) -> bytes:
    return b"" if (found := bytes(body)) == b"null" else found


def _body(raw: bytes, fields: _Line) -> bytes:
    """The body's own bytes, after making sure that no key of the envelope stands twice.

    The decoder lets the last one win. Every key costs two quotes and so does every string: when the quotes outside the
    body are just those of the fields we hold, there is nothing else. Otherwise each entry is looked at.
    """
    body = bytes(fields.body)
    strings = (fields.custom_id is not None) + (fields.method is not None) + (fields.url is not None)
    rest = len(raw) - len(body) - 1
    quotes = raw.count(b'"', 0, rest) if raw.startswith(body, rest) else raw.count(b'"') - body.count(b'"')
    if quotes != 4 * strings + 2 * bool(body):
        entries(raw, "the line")
    return b"" if body == b"null" else body


def entries(raw: bytes, where: str) -> dict[str, Raw]:
    """The entries of an object. LineError: a key stands twice."""
    found = read_entries(raw)
    quotes = sum(2 + key.count('"') + bytes(value).count(b'"') for key, value in found.items())
    if raw.count(b'"') > quotes:
        raise LineError(f"{where} has a key twice", "Which one counts is anybody's guess: keep one.")
    return found
