"""An answer as timed bytes: whole, or spoiled by one fault of `profile.FAULTS`.

Rules:

1. Pure: a `Turn` goes in, a `Script` of (seconds to wait, bytes to write) comes out; the server plays it.
2. One writer per fault, in one table. A fault that needs a body spoils the good one.
3. `Script.status` is what the client can read of the status; 0 when it gets none.
"""

import gzip
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from itertools import chain, repeat
from math import ceil

from msgspec import Struct

from batchrunner.core.model import Route
from batchrunner.simulator.answers import Answer, error_event
from batchrunner.simulator.bodies import error_body
from batchrunner.simulator.profile import Profile


class End(Enum):
    """What becomes of the connection after the last piece."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HOLD = "hold"  # it stays open, and silent, until the client leaves


class Script(Struct, gc=False):
    """What the server does for one call. `good`: the client gets a complete answer."""

    status: int
    steps: Iterable[tuple[float, bytes]]
    end: End = End.KEEP
    good: bool = False


class Turn(Struct, gc=False):
    """One call's answer with what its bytes depend on besides. `now` is the wall clock in seconds."""

    answer: Answer
    request_id: str
    limits: str  # x-ratelimit headers, each line ended
    now: float
    profile: Profile
    gzip: bool = False  # the client accepts gzip


JSON, HTML, TEXT, EVENTS = "application/json", "text/html; charset=utf-8", "text/plain", "text/event-stream; charset=utf-8"
CHUNKED = "transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_REASONS: Mapping[int, str] = {status.value: status.phrase for status in HTTPStatus} | {529: "Site Overloaded"}
_RESET_AFTER = 0.01  # long enough for the bytes before the reset to be read
_LOGIN = b"<!doctype html><title>Sign in</title><form action='/login' method='post'><input name='user'></form>\n"
_GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>\r\n"


@lru_cache(4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def head(turn: Turn, status: int, kind: str, framing: str) -> bytes:
    """A reply head. `framing` is header lines, each ended, that say where the body ends. Only success speaks of limits."""
    name = "request-id" if turn.answer.route is Route.MESSAGES else "x-request-id"
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\ndate: {_date(int(turn.now))}\r\ncontent-type: {kind}\r\n"
        f"{name}: {turn.request_id}\r\n{turn.limits if status == 200 else ''}{framing}\r\n"
    ).encode("latin-1")


def chunk(piece: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def framed(turn: Turn, status: int, kind: str, body: bytes, extra: str = "") -> bytes:
    """A whole reply with a Content-Length."""
    return head(turn, status, kind, f"content-length: {len(body)}\r\n{extra}") + body


def whole(turn: Turn) -> Script:
    """The good answer."""
    if turn.answer.streamed:
        events = [*turn.answer.events, *turn.answer.closing]
        return Script(200, _paced(turn, events, LAST_CHUNK), good=True)
    return Script(200, [(_thinking(turn), framed(turn, 200, JSON, turn.answer.body))], good=True)


def bodiless(turn: Turn) -> Script:
    """The reply to HEAD."""
    return Script(200, [(0.0, head(turn, 200, JSON, f"content-length: {len(turn.answer.body)}\r\n"))], good=True)


def refusal(turn: Turn, status: int, kind: str, message: str, extra: str = "") -> Script:
    """A status that is no answer, in the words of the route's provider."""
    return Script(status, [(0.0, framed(turn, status, JSON, error_body(turn.answer.route, kind, message, kind), extra))])


def _thinking(turn: Turn) -> float:
    return turn.profile.per_token * turn.answer.tokens


def _paced(turn: Turn, events: list[bytes], last: bytes) -> list[tuple[float, bytes]]:
    """A stream whose events come at the pace of the tokens; at once when tokens take no time."""
    pause = _thinking(turn) / len(events)
    pieces = [head(turn, 200, EVENTS, CHUNKED), *(chunk(event) for event in events), last]
    return [(0.0 if at == 0 else pause, piece) for at, piece in enumerate(pieces)] if pause else [(0.0, b"".join(pieces))]


def _events(turn: Turn) -> bytes:
    return b"".join([*turn.answer.events, *turn.answer.closing]) if turn.answer.streamed else turn.answer.body


def _kind(turn: Turn) -> str:
    return EVENTS if turn.answer.streamed else JSON


def _half(body: bytes) -> bytes:
    """The first half of a body, at least one byte short of the whole."""
    return body[: len(body) // 2]


# --- 429 and 5xx ------------------------------------------------------------------------------------------------------


def _throttle(
    extra: Callable[[Turn], str] = lambda _: "", said: Callable[[Turn], str] = lambda _: ""
) -> Callable[[Turn], Script]:
    def write(turn: Turn) -> Script:
        return refusal(turn, 429, "rate_limit_error", f"Rate limit reached for requests.{said(turn)}", extra(turn))

    return write


def _http_date(turn: Turn) -> str:
    return f"retry-after: {_date(int(turn.now) + ceil(turn.profile.wait))}\r\n"


def _reset_header(turn: Turn) -> str:
    return f"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: {turn.profile.wait * 1e3:.0f}ms\r\n"


def _google(turn: Turn) -> Script:
    body = (
        b'[{"error":{"code":429,"message":"Resource has been exhausted.","status":"RESOURCE_EXHAUSTED","details":'
        b'[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"%gs"}]}}]' % turn.profile.wait
    )
    return Script(429, [(0.0, framed(turn, 429, JSON, body))])


def _empty(status: int) -> Callable[[Turn], Script]:
    return lambda turn: Script(status, [(0.0, framed(turn, status, TEXT, b""))])


def _error(status: int, kind: str, message: str) -> Callable[[Turn], Script]:
    return lambda turn: refusal(turn, status, kind, message)


def _page(status: int, page: bytes) -> Callable[[Turn], Script]:
    return lambda turn: Script(status, [(0.0, framed(turn, status, HTML, page))])


# --- silence, cuts, resets --------------------------------------------------------------------------------------------


def _hang(_: Turn) -> Script:
    return Script(0, [], End.HOLD)


def _stall(turn: Turn) -> Script:
    steps = [(0.0, head(turn, 200, _kind(turn), CHUNKED) + chunk(_half(_events(turn))))]
    return Script(200, steps, End.HOLD)


def _cut_length(turn: Turn) -> Script:
    body = _events(turn)
    return Script(200, [(0.0, head(turn, 200, _kind(turn), f"content-length: {len(body)}\r\n") + _half(body))], End.CLOSE)


def _cut_chunked(turn: Turn) -> Script:
    return Script(200, [(0.0, head(turn, 200, _kind(turn), CHUNKED) + chunk(_half(_events(turn))))], End.CLOSE)


def _cut_unframed(turn: Turn) -> Script:
    return Script(200, [(0.0, head(turn, 200, _kind(turn), "connection: close\r\n") + _half(_events(turn)))], End.CLOSE)


def _cut_gzip(turn: Turn) -> Script:
    """Needs a client that accepts gzip; any other gets a short body instead."""
    if not turn.gzip:
        return _cut_length(turn)
    body = _half(gzip.compress(_events(turn), mtime=0))
    return Script(200, [(0.0, framed(turn, 200, _kind(turn), body, "content-encoding: gzip\r\n"))])


def _cut_stream(closing: bytes) -> Callable[[Turn], Script]:
    """A stream in perfect order whose end was replaced."""

    def write(turn: Turn) -> Script:
        last = (chunk(closing) if closing else b"") + LAST_CHUNK
        return Script(200, _paced(turn, turn.answer.events, last))

    return write


def _odd_error(turn: Turn) -> Script:
    if turn.answer.streamed:
        events = turn.answer.events[: len(turn.answer.events) // 2 + 1]
        return Script(200, _paced(turn, [*events, error_event(turn.answer.route)], LAST_CHUNK))
    body = error_body(turn.answer.route, "server_error", "the engine died", "server_error")
    return Script(200, [(0.0, framed(turn, 200, JSON, body))])


def _reset_before(_: Turn) -> Script:
    return Script(0, [], End.RESET)


def _reset_head(turn: Turn) -> Script:
    return Script(0, [(0.0, _half(head(turn, 200, _kind(turn), CHUNKED))), (_RESET_AFTER, b"")], End.RESET)


def _reset_body(turn: Turn) -> Script:
    body = _events(turn)
    piece = head(turn, 200, _kind(turn), f"content-length: {len(body)}\r\n") + _half(body)
    return Script(200, [(0.0, piece), (_RESET_AFTER, b"")], End.RESET)


# --- slow, but good ---------------------------------------------------------------------------------------------------


def _slow_head(turn: Turn) -> Script:
    steps = list(whole(turn).steps)
    first = steps[0][1]
    pieces = [first[:9], first[9:40], first[40:]]
    return Script(200, [*((turn.profile.gap, piece) for piece in pieces), *steps[1:]], good=True)


def _blank(turn: Turn) -> bytes:
    return chunk(b": keep-alive\n\n" if turn.answer.streamed else b"\n")


def _drip_some(turn: Turn) -> Script:
    drops = [(turn.profile.gap, _blank(turn))] * 5
    rest = chunk(_events(turn)) + LAST_CHUNK
    return Script(200, [(0.0, head(turn, 200, _kind(turn), CHUNKED)), *drops, (turn.profile.gap, rest)], good=True)


def _drip_endless(turn: Turn) -> Script:
    drops = repeat((turn.profile.gap, _blank(turn)))
    return Script(200, chain([(0.0, head(turn, 200, _kind(turn), CHUNKED))], drops))


WRITERS: Mapping[str, Callable[[Turn], Script]] = {
    "": whole,
    "throttle.seconds": _throttle(lambda turn: f"retry-after: {ceil(turn.profile.wait)}\r\n"),
    "throttle.float": _throttle(lambda turn: f"retry-after: {turn.profile.wait:g}\r\n"),
    "throttle.date": _throttle(_http_date),
    "throttle.ms": _throttle(lambda turn: f"retry-after-ms: {turn.profile.wait * 1e3:g}\r\n"),
    "throttle.reset": _throttle(_reset_header),
    "throttle.google": _google,
    "throttle.prose": _throttle(said=lambda turn: f" Please try again in {turn.profile.wait * 1e3:.0f}ms."),
    "throttle.bare": _throttle(),
    "throttle.empty": _empty(429),
    "error.500": _error(500, "server_error", "The server had an error while processing your request."),
    "error.502": _page(502, _GATEWAY),
    "error.503": _error(503, "server_is_overloaded", "The engine is currently overloaded, please try again later."),
    "error.529": lambda turn: Script(
        529, [(0.0, framed(turn, 529, JSON, error_body(Route.MESSAGES, "overloaded_error", "Overloaded")))]
    ),
    "hang": _hang,
    "stall": _stall,
    "cut.length": _cut_length,
    "cut.chunked": _cut_chunked,
    "cut.unframed": _cut_unframed,
    "cut.gzip": _cut_gzip,
    "cut.finish": _cut_stream(b""),
    "cut.done": _cut_stream(b"data: [DONE]\n\n"),
    "odd.empty": _empty(200),
    "odd.error": _odd_error,
    "odd.html": _page(200, _LOGIN),
    "reset.before": _reset_before,
    "reset.head": _reset_head,
    "reset.body": _reset_body,
    "slow.head": _slow_head,
    "drip.some": _drip_some,
    "drip.endless": _drip_endless,
}
