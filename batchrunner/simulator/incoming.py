"""Bytes from a client → calls. HTTP/1.1 requests with Content-Length or chunked bodies, as many as the buffer holds.

Rules:

1. `parse` is pure: it sees a buffer and says what the first call in it is, or None while the rest is still to come.
2. What is not HTTP raises `MalformedError`: 400, and the connection is closed.
"""

from hashlib import blake2b

from msgspec import Struct

MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"})


class MalformedError(Exception):
    """These bytes are no request, or one that is too large."""


class Call(Struct, gc=False):
    """One request of a client. `head` is the raw request head, first line included; `fields` is the same in lower case."""

    method: str
    target: str
    head: bytes
    fields: bytes
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def key_of(self, said: bytes) -> bytes:
        """What makes this request the same as another one that says `said`: method, target and that, in eight bytes."""
        return blake2b(f"{self.method} {self.target}\n".encode() + said, digest_size=8).digest()

    @property
    def headers(self) -> dict[str, str]:
        """The headers as sent, names in lower case, without any that may hold a credential."""
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in lines if name.lower() not in _CREDENTIALS}

    def says(self, name: bytes, word: bytes) -> bool:
        """Whether the header `name` (lower case) contains `word`."""
        return word in _field(self.fields, name)


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a header in a lower-case head; empty when it is not there."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    end = head.find(b"\r\n", at + 2)
    return head[at + len(name) + 3 : end if end >= 0 else None].strip()


def parse(buffer: bytes | bytearray) -> tuple[Call, int] | None:
    """The first call of the buffer and where the next begins; None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD:
            raise MalformedError("the head is too large")
        return None
    head = bytes(buffer[:end])
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise MalformedError("no HTTP/1 request line")
    fields = head.lower()
    found = _body(buffer, end + 4, fields)
    return found and (Call(words[0].decode("latin-1"), words[1].decode("latin-1"), head, fields, found[0]), found[1])


def awaits_permission(buffer: bytes | bytearray) -> bool:
    """Whether a client has sent a head with `expect: 100-continue` and waits with the body."""
    return buffer.endswith(b"\r\n\r\n") and b"100-continue" in _field(bytes(buffer[:MAX_HEAD]).lower(), b"expect")


def _body(buffer: bytes | bytearray, start: int, head: bytes) -> tuple[bytes, int] | None:
    if b"chunked" in _field(head, b"transfer-encoding"):
        return _chunked(buffer, start)
    length = _number(_field(head, b"content-length") or b"0", 10)
    return (bytes(buffer[start : start + length]), start + length) if len(buffer) >= start + length else None


def _chunked(buffer: bytes | bytearray, start: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    at = start
    while (eol := buffer.find(b"\r\n", at)) >= 0:
        size = _number(bytes(buffer[at:eol]).partition(b";")[0], 16)
        if size == 0:
            end = buffer.find(b"\r\n\r\n", eol)  # trailers, if any, end here too
            return (b"".join(pieces), end + 4) if end >= 0 else None
        pieces.append(bytes(buffer[eol + 2 : eol + 2 + size]))
        at = eol + 2 + size + 2
        if at - start > MAX_BODY:
            raise MalformedError("the body is too large")
    if len(buffer) - at > 64:
        raise MalformedError("no chunk size")
    return None


def _number(text: bytes, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        raise MalformedError("a length that is no number") from None
    if not 0 <= number <= MAX_BODY:
        raise MalformedError("the body is too large")
    return number
