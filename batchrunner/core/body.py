"""The bytes of an answer, made fit for one line of a file.

Rules:

1. What is kept is one line of JSON that every reader takes. Its numbers and strings stay byte for byte as they were sent: a valid
   string holds no raw line break, so a line break can only stand between tokens, where a blank says the same.
2. What is no text is not kept: bytes that are no UTF-8, and lone surrogates, which servers that escape everything do send. Half
   the readers refuse the whole line for them (RFC 8259 section 8.2), and nobody can say what they meant.
3. What is no JSON is kept by its beginning, as a string; a cut answer likewise, if it is very long.
4. A repair is always flagged: `invalid_utf8` and `lone_surrogate` (each became U+FFFD), `not_finite` (NaN, Infinity became null).
5. Nothing here raises, whatever the bytes.
"""

import json
import re
from typing import TypeVar

import msgspec
from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder

T = TypeVar("T")

MESSAGE = 2000  # characters of what an error says
EXCERPT = 16384  # bytes kept of an error that is no JSON
LONG_EVIDENCE = 1024 * 1024  # bytes of a cut answer that are kept whole
BLANKS = b" \t\r\n"
ANY: Decoder[Raw] = Decoder(Raw)
_BOM = b"\xef\xbb\xbf"
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?Infinity|NaN', re.DOTALL)
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|\\.",
    re.DOTALL,
)
_TITLE = re.compile(rb"<title[^>]{0,200}>\s*([^<]{1,300})", re.IGNORECASE)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def read(body: bytes, decoder: Decoder[T]) -> tuple[bytes, T | None, tuple[str, ...]]:
    """The body as one line, what the decoder makes of it, and flags.

    No value: it is JSON of another shape. No line either: it is not JSON.
    """
    line = body.strip(BLANKS)
    flags: tuple[str, ...] = ()
    if not line.isascii():
        line, flags = _utf8(line)
    try:
        value = _decoded(line, decoder)
    except (DecodeError, RecursionError):
        return _mended(line, decoder, flags)
    return _flat(line), value, flags


def value_of(line: bytes) -> object:
    """What a line from `read` says, as Python objects; None also when it is nested too deeply to say."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value


def quoted(body: bytes) -> bytes:
    """Any bytes as one line of JSON: text as a string, the rest as `{"base64": "…"}`."""
    try:
        return msgspec.json.encode(body.decode())
    except UnicodeDecodeError:
        return msgspec.json.encode({"base64": body})


def excerpt(body: bytes, size: int) -> bytes:
    """The beginning of a text as a JSON string; bytes that are no text are replaced."""
    return msgspec.json.encode(body[:size].decode("utf-8", "replace"))


def kept(body: bytes) -> bytes:
    """What is kept of a body that is no JSON: its beginning, as a string; empty when there is nothing to keep."""
    text = body.strip(BLANKS)
    return excerpt(text, EXCERPT) if text else b""


def evidence(partial: bytes) -> bytes:
    """What had come of an answer, as one line of JSON: its beginning only, as a text, where it is none or very long."""
    line = read(partial, ANY)[0] if len(partial) <= LONG_EVIDENCE else b""
    return line or kept(partial)


def page_title(body: bytes) -> str:
    """The title of a page; empty: it has none, or is no page."""
    found = _TITLE.search(body[:4096]) if body.lstrip(BLANKS)[:1] == b"<" else None
    return printable(found[1].decode("utf-8", "replace").strip(), MESSAGE) if found else ""


def page_text(body: bytes, line: bytes) -> str:
    """What a body that is no JSON error says: a page's title, or its text."""
    if title := page_title(body):
        return title
    return "" if line or body.lstrip(BLANKS)[:1] == b"<" else body[:MESSAGE].decode("utf-8", "replace").strip()


def printable(text: str, length: int) -> str:
    """Text that is safe in a file and on a terminal: what controls either, and halves of surrogate pairs, as escapes."""
    return _UNPRINTABLE.sub(_escaped, text[:length])[:length]


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _utf8(line: bytes) -> tuple[bytes, tuple[str, ...]]:
    line = line.removeprefix(_BOM).lstrip(BLANKS)
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode("utf-8", "replace").encode(), ("invalid_utf8",)
    return line, ()


def _decoded(line: bytes, decoder: Decoder[T]) -> T | None:
    """Raises DecodeError when the line is not JSON."""
    try:
        return decoder.decode(line)
    except ValidationError:
        ANY.decode(line)  # the first wrong type ended the reading, so the rest is still unchecked
        return None


def _flat(line: bytes) -> bytes:
    return line.translate(_ONE_LINE) if b"\n" in line or b"\r" in line else line


def _mended(line: bytes, decoder: Decoder[T], flags: tuple[str, ...]) -> tuple[bytes, T | None, tuple[str, ...]]:
    """A second reading, for what other readers accept and msgspec does not."""
    finite = _STRING_OR_CONSTANT.sub(_finite, line) if b"NaN" in line or b"Infinity" in line else line
    mended = _ESCAPE.sub(_paired, finite) if b"\\u" in finite else finite
    try:
        value = _decoded(mended, decoder)
    except (DecodeError, RecursionError):
        return b"", None, flags
    flags += ("not_finite",) if finite != line else ()
    flags += ("lone_surrogate",) if mended != finite else ()
    return _flat(mended), value, flags


def _finite(found: re.Match[bytes]) -> bytes:
    return found[0] if found[0].startswith(b'"') else b"null"


def _paired(found: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if found[1] else found[0]
