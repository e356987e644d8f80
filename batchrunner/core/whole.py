"""A reply that comes whole and plain, as nearly all good ones do: read at a glance, without a parser.

Rules:

1. Only what leaves no doubt is read here: HTTP/1.1 200, fields of printable ASCII and none of them twice, a length that fits
   to the byte, nothing encoded, chunked, streamed, upgraded or about to be closed.
2. Everything else, half a reply included, is left to aiohttp's parser untouched. What that refuses must not pass here.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

_HEAD = re.compile(rb"HTTP/1\.1 200(?: [\t -~]*+)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~]*+\r\n)++)\r\n").match
_LARGEST, _MOST = 32 * 1024, 256  # bytes of a head and fields in it
_ODD = frozenset({"transfer-encoding", "content-encoding", "upgrade"})
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
    body = chunk[head.end() :]
    if headers.get("content-length") != str(len(body)) or not _ODD.isdisjoint(headers):
        return None
    if len(headers) != len(fields) - 1 or len(fields) > _MOST or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    if headers.get("content-type", "")[: len(_STREAM)].lower() == _STREAM:
        return None
    return Whole(200, headers, body)
