"""Events of a streamed answer, put together into the ordinary body the same route gives without a stream.

Rules:

1. Nothing but the route's own finish marker proves an answer complete: a finish_reason for every choice, `message_stop` after
   a stop_reason, a terminal response event. `[DONE]` proves nothing, nor does the end of the stream.
2. An error in the stream outweighs whatever else came, and ends it.
3. Nonsense is flagged and passed over, never raised. What is kept is proportional to the bytes fed, at most.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from batchrunner.core.blocks import Message, Response
from batchrunner.core.choices import Chat, Completions
from batchrunner.core.delta import Json, Nonsense, read, write
from batchrunner.core.model import Route
from batchrunner.core.sse import DONE, ServerEvent

_BARE_MESSAGE = ("message", "msg", "err", "error_msg")  # where an error that nothing is wrapped around keeps its text
_MAX_WORDS = 2000  # of an error that is no JSON


class Assembled(Struct, frozen=True, gc=False):
    """What a stream amounts to.

    `body` is one JSON line, empty when nothing came that makes one; of an incomplete stream it is what was there.
    `why` says what is missing, "" when complete. `error` is the first error of the stream, as the body of an ordinary error.
    An event that begins as an object and is none was a part of the answer, unless it had ended: the rest is not whole.
    Flags: `no_done`, `malformed_event`, `invalid_utf8`, `invalid_tool_input`.
    """

    body: bytes
    complete: bool
    why: str = ""
    error: bytes = b""
    flags: tuple[str, ...] = ()
    done: bool = False  # [DONE] was said


class _Answer(Protocol):
    """The answer of one route while it comes in."""

    flags: set[str]
    ended: bool  # the route's own last event has come

    def ordinary(self, text: bytes) -> bool | None:
        """Takes a delta of the usual shape: True if it said something. None or ValueError: not one, and nothing has changed."""

    def take(self, kind: str, event: Json) -> bool:
        """Takes any event of the route but an error. Raises Nonsense."""

    def body(self) -> Json | None:
        """The ordinary body; None when there is nothing to make it of."""

    def missing(self) -> str:
        """What keeps the answer from being complete."""


_ANSWERS: Final[Mapping[Route, Callable[[int], _Answer]]] = {
    Route.CHAT: Chat,
    Route.COMPLETIONS: Completions,
    Route.RESPONSES: Response,
    Route.MESSAGES: Message,
}
STREAMED: Final = frozenset(_ANSWERS)


class Assembler:
    """One streamed answer. `route` is one of STREAMED; `choices` as in `Request.choices`, 0 when it cannot be told.

    `ended` says that whatever else may come is of no interest: after `[DONE]`, the route's last event, or an error.
    """

    def __init__(self, route: Route, choices: int = 1) -> None:
        self.ended = False
        self._answer = _ANSWERS[route](choices)
        self._ordinary = self._answer.ordinary
        self._wants_done = route in (Route.CHAT, Route.COMPLETIONS)
        self._done = False
        self._error = b""
        self._torn = False  # a part of the answer could not be read
        self._in_parts = route is not Route.RESPONSES  # whose last event has the whole answer

    def feed(self, event: ServerEvent) -> bool:
        """Takes one event. True when the model has got on: text, thoughts, a call, an end; False for pings and empty deltas."""
        return self.hear((event.data,), event.name)

    def hear(self, texts: Iterable[bytes], name: str = "") -> bool:
        """The same for the data of events of one name."""
        ordinary, got_on = self._ordinary, False
        for text in texts:
            if self.ended:
                break
            try:
                said = ordinary(text)
            except (ValueError, RecursionError):
                said = None
            got_on |= self._take(ServerEvent(name, text)) if said is None else said
        return got_on

    def finish(self) -> Assembled:
        """What the events fed so far amount to."""
        why = "an error came in the stream" if self._error else self._answer.missing()
        if self._torn and not why:
            why = "a part of it could not be read"
        try:
            body = self._answer.body()
            text = b"" if body is None else write(body)
        except RecursionError:
            self._answer.flags.add("malformed_event")
            text, why = b"", why or "the answer is nested too deeply"
        flags = self._answer.flags | ({"no_done"} if self._wants_done and not self._done and not why else set())
        return Assembled(text, not why, why, self._error, tuple(sorted(flags)), self._done)

    def _take(self, event: ServerEvent) -> bool:
        """The general way."""
        if event.data.strip() == DONE:
            self._done = self.ended = True
        if self.ended or not event.data:
            return False
        try:
            return self._take_value(event.name, self._value(event))
        except (ValueError, RecursionError):
            self._answer.flags.add("malformed_event")
            return False

    def _value(self, event: ServerEvent) -> Json:
        """The event's object. Raises ValueError, RecursionError."""
        try:
            value, clean = read(event.data)
        except ValueError:
            if event.name != "error":
                part = self._in_parts and event.data.lstrip().startswith(b"{")
                self._torn = self._torn or (part and self._answer.missing() != "")
                raise
            value, clean = {"error": {"message": event.data[:_MAX_WORDS].decode("utf-8", "replace")}}, True
        if not clean:
            self._answer.flags.add("invalid_utf8")
        if isinstance(value, list) and len(value) == 1:  # Google wraps its errors so
            value = value[0]
        if isinstance(value, dict):
            return value
        raise Nonsense

    def _take_value(self, name: str, value: Json) -> bool:
        error = _error_of(name, value)
        if error is not None:
            self._error = write(error)
            self.ended = True
            if "choices" not in value:
                return False
        kind = value.get("type") or name
        said = self._answer.take(kind if isinstance(kind, str) else "", value)
        self.ended = self.ended or self._answer.ended
        return said


def _error_of(name: str, value: Json) -> Json | None:
    """The error that an event carries, shaped as the body of an ordinary error; None: it carries none."""
    pieces, groq = value.get("choices"), value.get("x_groq")
    if pieces is None:
        if value.get("error") or value.get("detail"):
            return value
        if _is_bare(name, value):
            return {"error": value}
    inner = [value, groq, *(pieces if isinstance(pieces, list) else ())]
    found = (part["error"] for part in inner if isinstance(part, dict) and part.get("error"))
    error = next(found, None)
    return None if error is None else {"error": error}


def _is_bare(name: str, value: Json) -> bool:
    """Whether the event is an error itself, with nothing around it."""
    if "error" in (name, value.get("type"), value.get("object")):
        return True
    return any(isinstance(value.get(key), str) for key in _BARE_MESSAGE) or ("code" in value and "type" not in value)
