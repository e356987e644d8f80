"""Server-sent events: bytes as they arrive, whole events as they complete.

Rules:

1. Bytes stay bytes: lines end at LF, CR or CRLF only, so a character cut between two chunks or a U+2028 in a text harms nothing.
2. How the bytes are cut into chunks never shows in the events.
3. A comment is no event: it keeps a connection open and proves no progress.
4. Memory is bounded by `max_event`, time is linear in the bytes, however small the chunks.

Source: WHATWG HTML, 9.2 Server-sent events. `id`, `retry` and unknown fields mean nothing here, where no stream is resumed;
a line of nothing but [DONE] is read as data, because some servers send it so.
"""

import re

from msgspec import Struct

DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
_PLAIN = b"data: "
# Every match takes three whole lines; so as many line ends as the matches take mean that nothing was left out.
_NAMED = re.compile(rb"(?m)^event: ?+(.+)\ndata: ?(.*)\n\n").findall


class EventTooLarge(ValueError):  # noqa: N818 - it names the fact, as the wire does
    """One event of the stream is longer than we are willing to hold."""


class ServerEvent(Struct, gc=False):
    """One event: its name ("" when the server gave none) and its data lines, joined with LF."""

    name: str
    data: bytes


class Decoder:
    """Cuts a stream of chunks into events. `max_event` bounds the bytes between two blank lines."""

    def __init__(self, max_event: int = 16 * 1024 * 1024) -> None:
        self._max_event = max_event
        self._open = bytearray()  # the event that has no blank line yet, with LF as its only line end
        self._line_ended = False  # an LF belongs behind `_open`
        self._after_cr = False  # an LF that comes next belongs to the CR before it
        self._first = True  # a byte order mark may still stand in front
        self._between = False  # nothing of the above applies: the next chunk begins an event

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes. Raises EventTooLarge; the stream is of no use afterwards."""
        return self.events(self.closed(chunk))

    def closed(self, chunk: bytes) -> bytes:
        """The same as bytes: whole events, with LF as their only line end."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        if not (self._between and chunk.endswith(b"\n\n")):
            chunk = self._whole(chunk)
        if len(chunk) > self._max_event:
            self._refuse(max(chunk.split(b"\n\n"), key=len))
        return chunk

    def finish(self) -> ServerEvent | None:
        """The event at the end of the stream that has no blank line behind it: the caller finds out whether it is whole."""
        rest = bytes(self._open)
        self._open.clear()
        return _event(rest.removeprefix(_BOM) if self._first else rest)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """`chunk` with CRLF and CR turned into LF; a CRLF cut in two counts as one line end."""
        if self._after_cr:
            self._after_cr = not chunk
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _whole(self, chunk: bytes) -> bytes:
        """All that is closed by a blank line; keeps the rest."""
        if self._line_ended:
            chunk = b"\n" + chunk
        end = chunk.rfind(b"\n\n") + 2
        if end < 2:
            self._hold(chunk)
            return b""
        whole = bytes(self._open) + chunk[:end]
        if self._first:
            self._first = False
            whole = whole.removeprefix(_BOM)
        self._open.clear()
        self._hold(chunk[end:])
        return whole

    def _hold(self, rest: bytes) -> None:
        """Keeps the beginning of an event. Its last LF is kept apart: the next chunk may make a blank line of it."""
        self._line_ended = rest.endswith(b"\n")
        self._open += rest.removesuffix(b"\n")
        self._between = not (self._open or self._line_ended or self._first)
        self._refuse(self._open)

    def _refuse(self, event: bytes | bytearray) -> None:
        if len(event) > self._max_event:
            self._open.clear()
            raise EventTooLarge(f"an event of the stream is longer than {self._max_event} bytes")

    def events(self, whole: bytes) -> list[ServerEvent]:
        """The events of what is closed. Those of one shape are cut in one go."""
        texts = plain(whole)
        if texts is not None:
            return [ServerEvent("", text) for text in texts]
        named = _NAMED(whole) if whole.startswith(b"event:") else []
        if named and 3 * len(named) == whole.count(b"\n"):
            return [ServerEvent(str(name, "utf-8", "replace"), text) for name, text in named]
        events = map(_event, whole.split(b"\n\n"))
        return [event for event in events if event is not None]


def plain(whole: bytes) -> list[bytes] | None:
    """The data of events without a name and of one line each, as most are. None: there is something else in what is closed."""
    if not whole.startswith(_PLAIN):
        return None
    texts = whole[len(_PLAIN) : -2].split(b"\n\n" + _PLAIN)
    return texts if whole.count(b"\n") == 2 * len(texts) else None


def _event(block: bytes) -> ServerEvent | None:
    """The event that the lines of `block` make; None when they hold no data."""
    name, done, lines = b"", False, []
    for line in block.split(b"\n"):
        field, colon, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
        elif not colon and field.rstrip() == DONE:
            done = True
    if not lines and not done:
        return None
    return ServerEvent(str(name, "utf-8", "replace"), b"\n".join(lines) if lines else DONE)
