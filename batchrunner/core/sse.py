"""Server-sent events: bytes as they arrive, whole events as they complete.

Rules:

1. Bytes stay bytes: lines end at LF, CR or CRLF only, so a character cut between two chunks or a U+2028 in a text harms nothing.
2. How the bytes are cut into chunks never shows in the events.
3. A comment is counted, not reported: it keeps a connection open and proves no progress.
4. Memory is bounded by `max_event`, time is linear in the bytes, however small the chunks.

Source: WHATWG HTML, 9.2 Server-sent events. `id`, `retry` and unknown fields mean nothing here, where no stream is resumed;
a line of nothing but [DONE] is read as data, because some servers send it so.
"""

import re

from msgspec import Struct

DONE = b"[DONE]"
_LF = 10
_BOM = b"\xef\xbb\xbf"
# Every match takes whole lines, two or three of them; so as many line ends as the matches take mean that nothing was left out.
_PLAIN = re.compile(rb"(?m)^data: ?(.*)\n\n").findall
_NAMED = re.compile(rb"(?m)^event: ?+(.+)\ndata: ?(.*)\n\n").findall


class EventTooLarge(ValueError):  # noqa: N818 - it names the fact, as the wire does
    """One event of the stream is longer than we are willing to hold."""


class ServerEvent(Struct, gc=False):
    """One event: its name ("" when the server gave none) and its data lines, joined with LF."""

    name: str
    data: bytes


class Decoder:
    """Cuts a stream of chunks into events.

    `max_event` bounds the bytes between two blank lines. `comments` counts the comment lines of the events closed so far.
    """

    def __init__(self, max_event: int = 16 * 1024 * 1024) -> None:
        self.comments = 0
        self._max_event = max_event
        self._open = bytearray()  # the event that has no blank line yet, with LF as its only line end
        self._line_ended = False  # an LF belongs behind `_open`
        self._after_cr = False  # an LF that comes next belongs to the CR before it
        self._first = True  # a byte order mark may still stand in front
        self._between = False  # nothing of the above applies: the next chunk begins an event

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes. Raises EventTooLarge; the stream is of no use afterwards."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        if not (self._between and chunk.endswith(b"\n\n")):
            chunk = self._whole(chunk)
        return self._events(chunk)

    def only(self, chunk: bytes) -> bytes | None:
        """The data of a chunk that is one whole event without a name, as most are; None, and nothing has happened: `feed` it."""
        last = len(chunk) - 2
        if not self._between or self._after_cr or not chunk.startswith(b"data: ") or not 0 < last <= self._max_event:
            return None
        if chunk.find(b"\n") != last or chunk[-1] != _LF or b"\r" in chunk:
            return None
        return chunk[6:last]

    def finish(self) -> ServerEvent | None:
        """The event at the end of the stream that has no blank line behind it: the caller finds out whether it is whole."""
        rest = bytes(self._open)
        self._open.clear()
        return self._event(rest.removeprefix(_BOM) if self._first else rest)

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

    def _events(self, whole: bytes) -> list[ServerEvent]:
        """The events of `whole`, which ends with a blank line. Events of one shape are cut in one go."""
        if len(whole) > self._max_event:
            self._refuse(max(whole.split(b"\n\n"), key=len))
        lines = whole.count(b"\n")
        if whole.startswith(b"data:"):
            plain = _PLAIN(whole)
            if 2 * len(plain) == lines:
                return [ServerEvent("", text) for text in plain]
        elif whole.startswith(b"event:"):
            named = _NAMED(whole)
            if 3 * len(named) == lines:
                return [ServerEvent(str(name, "utf-8", "replace"), text) for name, text in named]
        events = map(self._event, whole.split(b"\n\n"))
        return [event for event in events if event is not None]

    def _event(self, block: bytes) -> ServerEvent | None:
        """The event that the lines of `block` make; None when they hold no data."""
        name, done, lines = b"", False, []
        for line in block.split(b"\n"):
            field, colon, value = line.partition(b":")
            if field == b"data":
                lines.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ")
            elif colon:
                self.comments += not field
            elif field.rstrip() == DONE:
                done = True
        if not lines and not done:
            return None
        return ServerEvent(str(name, "utf-8", "replace"), b"\n".join(lines) if lines else DONE)
