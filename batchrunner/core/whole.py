"""A reply that comes whole and plain, as nearly all good ones do: read at a glance, without a parser.

Rules:

1. Only what leaves no doubt is read here: HTTP/1.1 200, fields of printable ASCII and none of them twice, a length that fits
   to the byte or chunks that do, up to the last; nothing encoded, streamed, upgraded or about to be closed.
2. Everything else, half a reply included, is left to aiohttp's parser untouched. What that refuses must not pass here.
3. A reply is as long as its head says (RFC 9112 section 6.3). What comes behind it belongs to nobody and takes nothing from it.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

_HEAD = re.compile(rb"HTTP/1\.1 200(?: [\t -~]*+)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~]*+\r\n)++)\r\n").match
_LARGEST, _MOST = 32 * 1024, 256  # bytes of a head and fields in it
_ODD = frozenset({"content-encoding", "upgrade"})
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}+\r\n").match
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_BODIED = re.compile(rb"HTTP/1\.[01] (?!1|204|304)[0-9]{3}[ \r]").match  # the status line of a reply that may have a body
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n").match
_SIZE_OF_BODY, _CODING = b"\r\ncontent-length", b"\r\ntransfer-encoding"
_STREAM = "text/event-stream"


class Whole(Struct, frozen=True, gc=False):
    """A reply of which nothing is missing. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def whole(chunk: bytes) -> Whole | None:
    """The reply that `chunk` is; None when it is not a whole one, or not a plain one."""
    head = _HEAD(chunk)
    if head is None or head.end() > _LARGEST:
        return None
    fields = [field.partition(":") for field in head[1].decode("ascii").split("\r\n")]
    headers = {name.lower(): value.strip(" \t") for name, colon, value in fields if colon}
    if headers.get("content-type", "")[: len(_STREAM)].lower() == _STREAM or not _ODD.isdisjoint(headers):
        return None
    if len(headers) != len(fields) - 1 or len(fields) > _MOST or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    body = _framed(headers, chunk[head.end() :])  # last: undoing the chunks of a stream would be in vain
    return None if body is None else Whole(200, headers, body)


def end_of(chunk: bytes) -> int:
    """Where the reply ends that `chunk` begins with, if its head tells; the end of `chunk` if not, or if there is no more."""
    stop = chunk.find(b"\r\n\r\n", 0, _LARGEST)
    head = chunk[: stop + 2].lower() if stop > 0 else b""
    at = head.find(_SIZE_OF_BODY)
    told = _LENGTH(head, at) if at >= 0 else None
    if told is None or (end := stop + 4 + int(told[1])) >= len(chunk):  # as nearly always
        return len(chunk)
    sure = _BODIED(chunk) and _CODING not in head and head.rfind(_SIZE_OF_BODY) == at
    return end if sure else len(chunk)


def _framed(headers: Mapping[str, str], rest: bytes) -> bytes | None:
    """The body, if what follows the head is all of it and no more."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is None:
        return rest if length == str(len(rest)) else None
    return _unchunked(rest) if length is None and coding == "chunked" and rest.endswith(_LAST_CHUNK) else None


def _unchunked(rest: bytes) -> bytes | None:
    """The body of chunks without extensions and trailers; the last one has been seen."""
    parts, at, end = list[bytes](), 0, len(rest) - len(_LAST_CHUNK)
    while at <= end and (size := _SIZE(rest, at)):
        start = size.end()
        at = start + int(size[0], 16) + 2
        if at == start + 2 or rest[at - 2 : at] != b"\r\n":
            return None
        parts.append(rest[start : at - 2])
    return b"".join(parts) if at == end + 2 else None
