"""The body of a reply as it comes in: whole, or event by event.

Rules:

1. Content type and first byte together say what a body is, not what was asked for: servers stream unasked, and answer
   a stream with JSON, lines of JSON, a page, or nothing.
2. Nothing is held without a cap: of a body `most` bytes, of a stream's events 16 MiB each and `most` altogether.
3. Progress is what the model says. Blank lines, comments, pings and empty deltas keep a connection open and prove nothing.
4. A stream is over when it says so; what follows is read for `DRAIN` seconds at most, so that the connection can be used again.
"""

import asyncio
import re

import aiohttp
from msgspec import structs

from batchrunner.connections import Take, pour
from batchrunner.core.model import Attempt, Fault, Reply, Request
from batchrunner.core.sse import Decoder, EventTooLarge, ServerEvent
from batchrunner.core.sse import plain as plain_events
from batchrunner.core.stream import STREAMED, Assembled, Assembler
from batchrunner.core.whole import Whole
from batchrunner.faults import FAILURES, OversizeError
from batchrunner.wire import Exchange, Streamed, plain

DRAIN = 0.5  # seconds
_BLANK = b"\xef\xbb\xbf \t\r\n"
_OPENING = (b"data:", b"event:", b"id:", b"retry:", b": ", b":\n", b"[DONE]")  # how a stream that is not called one begins
# Blank lines, SSE comments and pings: they keep a connection open, and are no sign of progress.
_QUIET_START = b" \t\r\n:e"
_QUIET = re.compile(rb"(?:[ \t\r\n]|:[^\n]*(?:\n|\Z)|event: ?ping\r?\ndata:[^\n]*\n)*+")


class Stream:
    """A streamed answer while it comes in."""

    __slots__ = ("_answer", "_decoder", "_ended")

    def __init__(self, request: Request) -> None:
        self._decoder = Decoder()
        self._answer = Assembler(request.route, request.choices)
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether the answer is at its end, whatever may still come."""
        return self._answer.ended

    def feed(self, chunk: bytes) -> bool:
        """Take some bytes. True when the model has got on. OversizeError for an event too large to hold."""
        try:
            whole = self._decoder.closed(chunk)
        except EventTooLarge:
            raise OversizeError from None
        texts = plain_events(whole)
        if texts is not None:
            return self._answer.hear(texts)
        take, said = self._answer.feed, False
        for event in self._decoder.events(whole):
            said |= take(event)
        return said

    def finish(self) -> Assembled:
        """What has come so far; an event without a blank line behind it counts if it can be read."""
        last = None if self._ended else self._decoder.finish()
        self._ended = True
        if last is not None:
            self._answer.feed(last)
        return self._answer.finish()


def broken(fault: Fault, exchange: Exchange) -> Reply | Fault:
    """What a fault leaves of a stream: an answer that had said it was whole stays one; of any other, evidence."""
    if exchange.stream is None:
        return fault
    answer = exchange.stream.finish()
    if answer.complete or answer.error:
        return _reply(answer, Reply(fault.status, fault.headers, b"", fault.timing))
    return structs.replace(fault, partial=answer.body)


def _reply(answer: Assembled, reply: Reply, done: bool = False) -> Reply:
    """A reply with what its stream amounts to."""
    flags = ("streamed", *answer.flags)
    if answer.complete:
        return structs.replace(reply, body=answer.body, flags=flags)
    done = done and answer.done
    return structs.replace(reply, body=answer.error, flags=flags, missing=answer.why, partial=answer.body, done=done)


def _announced(response: aiohttp.ClientResponse, request: Request) -> bool:
    """Whether a reply calls itself a stream of an answer."""
    if request.route not in STREAMED or not 200 <= response.status < 300:
        return False
    return response.headers.get("Content-Type", "")[:17].lower() == "text/event-stream"


def accept(whole: Whole, exchange: Exchange, most: int) -> Reply:
    """The reply that came whole and plain. OversizeError."""
    exchange.begun(whole)
    if len(whole.body) > most:
        raise OversizeError
    return _judged(Reply(whole.status, whole.headers, whole.body, exchange.timing()), exchange.attempt)


async def receive(response: aiohttp.ClientResponse, exchange: Exchange, most: int) -> Reply:
    """The reply with its body, or with what its stream amounts to. OversizeError, and whatever aiohttp raises."""
    request = exchange.attempt.request
    if _announced(response, request):
        exchange.begun(response, Stream(request))
        return await _heard(response, exchange, most)
    exchange.begun(response)
    return await _read(response, exchange, most, b"")


async def _heard(response: aiohttp.ClientResponse, exchange: Exchange, most: int) -> Reply:
    stream = exchange.stream
    assert stream is not None
    chunk = await _first(response.content, most)
    if chunk.lstrip(_BLANK)[:1] in {b"{", b"[", b"<"} and not chunk.lstrip(_BLANK).startswith(b"[DONE]"):
        exchange.begun(response)
        return await _read(response, exchange, most, chunk)
    take = _hearing(stream, exchange, most)
    if not take(chunk):
        await pour(response, take)
    answer, timing = stream.finish(), exchange.timing()
    exchange.stop()  # the answer is there: no deadline of it runs while its connection is being cleared
    in_order = await _drain(response)
    return _reply(answer, Reply(response.status, response.headers, b"", timing), in_order)


def _hearing(stream: Streamed, exchange: Exchange, most: int) -> Take:
    """What takes a stream piece by piece. OversizeError."""
    left = most

    def take(chunk: bytes) -> bool:
        nonlocal left
        left -= len(chunk)
        if left < 0:
            raise OversizeError
        if stream.feed(chunk):
            exchange.progress()
        return stream.over

    return take


async def _first(content: aiohttp.StreamReader, most: int) -> bytes:
    """The first chunk that is not blank; empty when none comes."""
    while chunk := await content.readany():
        most -= len(chunk)
        if most < 0:
            raise OversizeError
        if chunk.strip(_BLANK):
            break
    return chunk


async def _drain(response: aiohttp.ClientResponse) -> bool:
    """Read on to the end of the connection's reply. True: it came in time and in order."""
    content = response.content
    try:
        if not content.is_eof():
            async with asyncio.timeout(DRAIN):
                while await content.readany():
                    pass
        return content.exception() is None
    except FAILURES:
        response.close()
        return False


async def _read(response: aiohttp.ClientResponse, exchange: Exchange, most: int, first: bytes) -> Reply:
    """A body that does not call itself a stream; it may be one all the same."""
    body = await _gathered(response, exchange, most, first)
    status, found = response.status, response.headers
    reply = Reply(status, found if status < 300 else plain(found), body, exchange.timing())
    return _judged(reply, exchange.attempt)


def _judged(reply: Reply, attempt: Attempt) -> Reply:
    """The reply, or the answer that it streams without saying so."""
    if reply.status >= 300 or (reply.body[:1] == b"{" and not attempt.stream):
        return reply
    return _unannounced(attempt.request, reply)


async def _gathered(response: aiohttp.ClientResponse, exchange: Exchange, most: int, first: bytes) -> bytes:
    content = response.content
    if content.is_eof() and not first:
        body = content.read_nowait()
        if len(body) > most:
            raise OversizeError
        return body
    parts = exchange.listen()
    parts += first

    def take(chunk: bytes) -> bool:
        parts.extend(chunk)
        if len(parts) > most:
            raise OversizeError
        if not (chunk[0] in _QUIET_START and _QUIET.fullmatch(chunk)):
            exchange.progress()
        return False

    await pour(response, take)
    return bytes(parts)


def _unannounced(request: Request, reply: Reply) -> Reply:
    """A whole body that holds a stream's events, or the events alone, one on each line."""
    if request.route not in STREAMED:
        return reply
    body = reply.body.lstrip(_BLANK)
    if body.startswith(_OPENING):
        stream = Stream(request)
        stream.feed(body)
        return _reply(stream.finish(), structs.replace(reply, body=b""), True)
    lines = body.splitlines() if body[:1] == b"{" else []
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) < 2 or not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return reply
    answer = Assembler(request.route, request.choices)
    for line in lines:
        answer.feed(ServerEvent("", line))
    return _reply(answer.finish(), structs.replace(reply, body=b""), True)
