"""The changes made to a body on its way out: asking for a stream or for none, and for a model by another name.

Rules:

1. Only the members `stream` and `stream_options` of the object itself are touched. Every other byte stays:
   blanks, order, repeated keys, long numbers.
2. Another model is put in for that one value; the other values keep their bytes.
3. A line's own stream_options go before ours. Without a stream none go out: the providers refuse them then.
"""

import json
import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\],]', re.DOTALL)
_STREAM = b'"stream":true'
_USAGE = b'"stream_options":{"include_usage":true}'


def asking(body: bytes, *, stream: bool, usage: bool = False, options: bool = True) -> bytes:
    """`body` asking for a stream or for none; what is no JSON object comes back as it is.

    `usage`: ask for the tokens too, where the body has no stream_options of its own. `options` False: send none at all.
    """
    if body.lstrip()[:1] != b"{" or not body.rstrip().endswith(b"}"):
        return body
    if b"stream" in body or b"\\u" in body:  # "\u0073tream" is the same key
        return _rewritten(body, stream, usage and options, stream and options)
    if not stream:
        return body
    added = _STREAM + b"," + _USAGE if usage and options else _STREAM
    end = body.rindex(b"}")
    comma = b"" if body[:end].strip() == b"{" else b","
    return b"".join((body[:end], comma, added, body[end:]))


def remodelled(body: bytes, model: str) -> bytes:
    """`body`, an object, asking for this model."""
    entries = _read_entries(body)
    entries["model"] = Raw(_write(model))
    return _write(entries)


_read_entries = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


def _rewritten(body: bytes, stream: bool, usage: bool, own: bool) -> bytes:
    """The same member by member, for a body that may say something about streams itself; `own`: its options stay."""
    begin, end = body.index(b"{") + 1, body.rindex(b"}")
    members = list(_members(body, begin, end))
    kept = [raw for key, raw in members if key != "stream" and (own or key != "stream_options")]
    if stream:
        kept.append(_STREAM)
        if usage and all(key != "stream_options" for key, _ in members):
            kept.append(_USAGE)
    return body[:begin] + b",".join(kept) + body[end:]


def _members(body: bytes, start: int, end: int) -> Iterator[tuple[str, bytes]]:
    """The object's members: key, and everything from one comma to the next."""
    depth, key = 0, b""
    for token in _TOKEN.finditer(body, start, end):
        mark = token[0]
        if mark in {b"{", b"["}:
            depth += 1
        elif mark in {b"}", b"]"}:
            depth -= 1
        elif depth == 0 and mark == b",":
            yield _read(key), body[start : token.start()]
            start, key = token.end(), b""
        elif depth == 0 and not key:
            key = mark
    if key:
        yield _read(key), body[start:end]


def _read(key: bytes) -> str:
    """A key as it is meant, whatever escapes it is written with."""
    try:
        return str(json.loads(key))
    except ValueError:
        return ""
