"""The transport against a server that misbehaves. Ids like A9 and B4 are rows of the fault matrix."""

import asyncio
import errno
import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Self

import aiohttp
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import faults
from batchrunner.core.model import Attempt, Cause, Deadlines, Fault, Phase, Reply, Request, Route
from batchrunner.errors import UsageError
from batchrunner.secret import Secret
from batchrunner.transport import Connection, Transport
from batchrunner.wire import EXCHANGE, Exchange
from tests.server import (
    LAST_CHUNK,
    SSE_HEAD,
    FaultServer,
    Peer,
    Script,
    answering,
    chunk,
    chunked,
    chunked_head,
    head,
    json_reply,
    ok_chat,
    reply,
)

KEY = "sk-canary-0123456789abcdef"
SECRET = {"Authorization": f"Bearer {KEY}"}
LONG = 5.0  # a deadline that must not be reached
PATIENT = Deadlines(connect=LONG, first_byte=LONG, idle=LONG, total=LONG)


def attempt(path: str = "/v1/chat/completions", body: bytes = b'{"model":"m"}', **more: object) -> Attempt:
    line = {name: more.pop(name) for name in ("headers", "method") if name in more}
    request = Request(line=1, id="r-1", digest="d", route=Route.CHAT, path=path, body=body, **line)  # type: ignore[arg-type]
    return Attempt(request, "e", 1, 0.0, more.pop("deadlines", PATIENT), **more)  # type: ignore[arg-type]


def within(**seconds: float) -> Deadlines:
    """Deadlines of which one is short."""
    return Deadlines(**{"connect": LONG, "first_byte": LONG, "idle": LONG, "total": LONG} | seconds)


def give_up(attempt: Attempt, phase: Phase, age: float) -> float:
    return 0.0


def never(attempt: Attempt, phase: Phase, age: float) -> float:
    raise AssertionError("no deadline was to pass")


@asynccontextmanager
async def to(url: str, **more: object) -> AsyncIterator[Transport]:
    connection = Connection(**more.pop("connection", {}))  # type: ignore[arg-type]
    async with Transport("e", url, connection, secret=SECRET, **more) as transport:  # type: ignore[arg-type]
        yield transport


async def closing_time() -> None:
    """Everything that a test began must be over."""
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left


BOTH_LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


# Scripts of a table's row: what the server does, and what must come of it.


class Row(NamedTuple):
    id: str
    script: Script | bytes
    cause: Cause
    phase: Phase
    deadlines: Deadlines = PATIENT
    status: int = 0
    partial: bytes = b""
    detail: str = ""
    large: bool = False  # send more than the kernel's buffers take


def saying(*parts: bytes, then: Callable[[Peer], Awaitable[None] | None]) -> Script:
    """Read the request, send the parts, and end like this."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        if (ending := then(peer)) is not None:
            await ending

    return script


async def _reset_later(peer: Peer) -> None:
    await asyncio.sleep(0.03)  # an RST overtakes what is still in the client's buffer
    peer.reset()


async def _freeze(peer: Peer) -> None:
    await peer.opening()
    await peer.freeze()


async def _drip(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head())
    while True:
        await peer.send(chunk(b"x"))
        await asyncio.sleep(0.005)


async def _keep_alive(peer: Peer) -> None:
    await peer.request()
    await peer.send(SSE_HEAD)
    while True:
        await peer.send(chunk(b": ping\n\n"), chunk(b'event: ping\ndata: {"type": "ping"}\n\n'), chunk(b"\n\n"))
        await asyncio.sleep(0.005)


async def _bad_chunk(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head(), chunk(b"good"))
    await asyncio.sleep(0.03)  # a packet of its own
    await peer.send(b"zz\r\n")
    await peer.hold()


def compressed(body: bytes, encoding: str) -> bytes:
    return reply(body, headers={"Content-Encoding": encoding})


PLAIN = b'{"choices": []}'
ODD = "é" if sys.flags.dev_mode else "\x1b[31mé"  # in Python's development mode aiohttp is strict about control characters
TEN = {"Content-Length": "10"}
BAD_CRC = gzip.compress(PLAIN)[:-8] + b"\0" * 8
NOT_HTTP = Cause.PROTOCOL, Phase.FIRST_BYTE
MALFORMED = Cause.MALFORMED, Phase.FIRST_BYTE
SILENT = Cause.TIMEOUT, Phase.FIRST_BYTE, within(first_byte=0.03)
CUT = Cause.TRUNCATED, Phase.BODY
TABLE = [
    Row("A10-rst-before-head", saying(then=Peer.reset), Cause.DISCONNECTED, Phase.FIRST_BYTE),
    Row("A10-close-before-head", saying(then=Peer.close), Cause.DISCONNECTED, Phase.FIRST_BYTE, detail="https://"),
    Row("A10-rst-in-head", saying(b"HTTP/1.1 200 OK\r\nX: ", then=_reset_later), Cause.DISCONNECTED, Phase.FIRST_BYTE),
    Row("A10-close-in-head", saying(b"HTTP/1.1 200 OK\r\nX: ", then=Peer.close), Cause.DISCONNECTED, Phase.FIRST_BYTE),
    Row("A10-rst-in-body", saying(head(200, TEN), b"half", then=_reset_later), *CUT, status=200),
    Row("A10-rst-in-unframed-body", saying(head(200), b"half", then=_reset_later), *CUT, status=200),
    Row("A11-upload-stall", _freeze, *SILENT, large=True, detail="first byte: "),
    Row("A12-no-head", saying(then=Peer.hold), *SILENT, detail="first byte: "),
    Row("A12-half-a-head", saying(b"HTTP/1.1 200 OK\r\nX", then=Peer.hold), *SILENT),
    Row("A12-only-103", saying(head(103), then=Peer.hold), *SILENT),
    Row(
        "A13-body-stalls",
        saying(chunked_head(), chunk(b"half"), then=Peer.hold),
        Cause.TIMEOUT,
        Phase.BODY,
        within(idle=0.03),
        200,
        b"half",
        "idle: ",
    ),
    Row("A13-body-never-begins", saying(chunked_head(), then=Peer.hold), Cause.TIMEOUT, Phase.BODY, within(idle=0.03), 200),
    Row("A14-drip", _drip, Cause.TIMEOUT, Phase.BODY, within(idle=1.0, total=0.06), 200, detail="total: "),
    Row("A15-keep-alives", _keep_alive, Cause.TIMEOUT, Phase.FIRST_BYTE, within(first_byte=0.06), 200, detail="first byte: "),
    Row(
        "A16-vanished-after-the-head", saying(head(200, TEN), then=Peer.freeze), Cause.TIMEOUT, Phase.BODY, within(idle=0.03), 200
    ),
    Row(
        "B1-short-length",
        saying(head(200, TEN), b"half", then=Peer.close),
        *CUT,
        status=200,
        partial=b"half",
        detail="shorter than",
    ),
    Row("B1-short-length-404", saying(head(404, TEN), b"half", then=Peer.close), *CUT, status=404, partial=b"half"),
    Row("B2-no-last-chunk", saying(chunked_head(), chunk(b"half"), then=Peer.close), *CUT, PATIENT, 200, b"half", "to an end"),
    Row("B2-no-last-chunk-rst", saying(chunked_head(), chunk(b"half"), then=_reset_later), *CUT, status=200),
    Row("B5-bad-crc", compressed(BAD_CRC, "gzip"), Cause.ENCODING, Phase.BODY, status=200),
    Row("B5-not-gzip", compressed(PLAIN, "gzip"), Cause.ENCODING, Phase.BODY, status=200),
    Row("B5-cut-deflate", compressed(zlib.compress(PLAIN)[:-6], "deflate"), Cause.ENCODING, Phase.FIRST_BYTE),
    Row(
        "B5-brotli",
        compressed(b"\x0b\x02\x80", "br"),
        Cause.ENCODING,
        Phase.FIRST_BYTE,
        detail="compression of the answer is broken",
    ),
    Row("B6-bomb", compressed(gzip.compress(bytes(10_000_000)), "gzip"), Cause.TOO_LARGE, Phase.BODY, status=200),
    Row("B6-bomb-chunked", chunked([bytes(10_000)] * 300), Cause.TOO_LARGE, Phase.BODY, status=200),
    Row("B7-header-of-40-kb", head(200, {"X": "y" * 40_000}), *MALFORMED, detail="rules (a line of more than 32 KiB)"),
    Row(
        "B7-300-headers", head(200, [(f"X-{i}", "y") for i in range(300)]), *MALFORMED, detail="rules (Too many headers received)"
    ),
    Row("B8-garbage", saying(b"\x00\x01garbage\r\n\r\n", then=Peer.hold), *NOT_HTTP),
    Row("B8-http2", saying(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", then=Peer.hold), *NOT_HTTP),
    Row("B8-tls-alert", saying(b"\x15\x03\x01\x00\x02\x02\x46", then=Peer.close), *NOT_HTTP, detail="https://"),
    Row(
        "B8-bad-chunk-size",
        saying(chunked_head() + b"zz\r\n", then=Peer.hold),
        *MALFORMED,
        detail="(Invalid character in chunk size)",
    ),
    Row("B8-bad-chunk-size-later", _bad_chunk, Cause.MALFORMED, Phase.BODY, status=200),
    Row("B9-length-and-chunked", chunked([b"x"], headers={"Content-Length": "1"}), *MALFORMED),
    Row("B8-a-field-that-is-none", b"HTTP/1.1 200 OK\r\nthis is canary\r\n\r\n", *MALFORMED, detail="(Invalid header token)"),
    Row("B8-no-such-status", b"HTTP/1.1 99 canary\r\n\r\n", *MALFORMED, detail="(the first line is none of HTTP/1.1)"),
    Row("B8-http2-in-clear", b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n", *MALFORMED),
    Row("B9-two-lengths", head(200, [("Content-Length", "1"), ("Content-Length", "2")]) + b"xx", *MALFORMED),
]


async def _run_row(row: Row) -> None:
    body = b"x" * 16_000_000 if row.large else b'{"model":"m"}'
    async with FaultServer(row.script) as server, to(server.url, connection={"max_response": 1_000_000}) as transport:
        ended = await transport.send(attempt(body=body, deadlines=row.deadlines), give_up)
        assert isinstance(ended, Fault)
        assert (ended.cause, ended.phase, ended.status) == (row.cause, row.phase, row.status)
        assert ended.partial.startswith(row.partial)
        assert len(ended.partial) <= 65536
        assert row.detail in ended.detail
        assert ended.sent
        assert not ended.timing.reused
        assert ended.timing.total < LONG
        assert KEY not in repr(ended)
        assert "canary" not in ended.detail
        assert ("https://" in ended.detail) == (ended.cause in (Cause.DISCONNECTED, Cause.PROTOCOL))
    await closing_time()


@BOTH_LOOPS
@pytest.mark.parametrize("row", TABLE, ids=[row.id for row in TABLE])
def test_what_goes_wrong_on_the_wire_has_a_name(row: Row, run: Callable[..., None]) -> None:
    run(_run_row(row))


# What looks odd and is an answer all the same.

GZIPPED = gzip.compress(PLAIN)
ANSWERS = {
    "B3-unframed-cut": (saying(head(200), b'{"choices', then=Peer.close), 200, b'{"choices'),
    "B4-gzip-cut": (compressed(GZIPPED[:-8], "gzip"), 200, PLAIN),
    "B5-unknown-encoding": (compressed(PLAIN, "x-own"), 200, PLAIN),
    "gzip": (compressed(GZIPPED, "gzip"), 200, PLAIN),
    "gzip-in-pieces": (chunked([GZIPPED[:9], GZIPPED[9:]], headers={"Content-Encoding": "gzip"}), 200, PLAIN),
    "B7-header-of-9-kb": (reply(PLAIN, headers={"X": "y" * 9000}), 200, PLAIN),
    "B7-140-headers": (reply(PLAIN, headers={f"X-{i}": "y" for i in range(140)}), 200, PLAIN),
    "B7-reason-of-9-kb": (b"HTTP/1.1 200 " + b"y" * 9000 + b"\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    "B11-103-early-hints": (head(103, {"Link": "</x>"}) + reply(PLAIN), 200, PLAIN),
    "B11-100-continue": (head(100) + reply(PLAIN), 200, PLAIN),
    "B31-deep-json": (reply(b"[" * 300 + b"1e999,NaN,123456789012345678901234" + b"]" * 300), 200, b"[" * 300),
    "B32-pretty-json": (reply(b'{\n  "choices": []\n}\n'), 200, b'{\n  "choices": []\n}\n'),
    "B33-odd-headers": (head(200, [("Content-Length", "2"), ("X-Odd", ODD)]) + b"{}", 200, b"{}"),
    "no-content": (head(204), 204, b""),
    "empty-body": (reply(b""), 200, b""),
    "413-before-the-body-is-read": (json_reply(413, {"error": "big"}, {"Connection": "close"}), 413, b'{"error": "big"}'),
    "418": (reply(b"x", 418), 418, b"x"),
    "599": (reply(b"x", 599), 599, b"x"),
    "407-of-a-server": (reply(b"x", 407), 407, b"x"),
}


@BOTH_LOOPS
@pytest.mark.parametrize("name", ANSWERS)
def test_what_looks_odd_is_an_answer_all_the_same(name: str, run: Callable[..., None]) -> None:
    script, status, start = ANSWERS[name]

    async def case() -> None:
        async with FaultServer(script) as server, to(server.url) as transport:
            answer = await transport.send(attempt(), never)
            assert isinstance(answer, Reply), answer
            assert answer.status == status
            assert answer.body.startswith(start)
        await closing_time()

    run(case())


@BOTH_LOOPS
def test_an_early_413_is_an_answer_though_the_upload_goes_on(run: Callable[..., None]) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.opening()
        await peer.send(json_reply(413, {"error": "big"}))
        await peer.hold()

    async def case() -> None:
        async with FaultServer(refuse) as server, to(server.url) as transport:
            answer = await transport.send(attempt(body=b"x" * 16_000_000), never)
            assert isinstance(answer, Reply)
            assert answer.status == 413
        await closing_time()

    run(case())


@BOTH_LOOPS
@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["close", "rst"])
def test_a_connection_lost_in_the_upload_is_no_answer(end: Callable[[Peer], None], run: Callable[..., None]) -> None:
    async def script(peer: Peer) -> None:
        await peer.opening()
        end(peer)

    async def case() -> None:
        async with FaultServer(script) as server, to(server.url) as transport:
            ended = await transport.send(attempt(body=b"x" * 16_000_000), never)
            assert isinstance(ended, Fault)
            assert ended.cause in (Cause.DISCONNECTED, Cause.RESET)
            assert ended.phase in (Phase.WRITE, Phase.FIRST_BYTE)
            assert ended.sent
        await closing_time()

    run(case())


@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_large_answer_comes_whole_though_the_server_leaves_at_once(framing: str, encoding: str) -> None:
    """Larger than aiohttp's buffers, so that it pauses reading, and a connection that ends meanwhile."""
    body = b"[" + b"0," * 1_000_000 + b"0]"
    sent = gzip.compress(body) if encoding == "gzip" else body
    headers = {"Content-Encoding": encoding} if encoding == "gzip" else {}
    whole = {
        "length": head(200, headers | {"Content-Length": str(len(sent))}) + sent,
        "chunked": chunked([sent], headers=headers),
        "none": head(200, headers) + sent,
    }
    async with FaultServer(saying(whole[framing], then=Peer.close)) as server, to(server.url) as transport:
        answer = await transport.send(attempt(), never)
    assert isinstance(answer, Reply)
    assert answer.body == body


async def test_b6_the_cap_holds_for_a_body_that_comes_with_its_head() -> None:
    async with FaultServer(reply(b"x" * 2000)) as server:
        async with to(server.url, connection={"max_response": 2000}) as transport:
            assert isinstance(await transport.send(attempt(), never), Reply)
        async with to(server.url, connection={"max_response": 1999}) as transport:
            ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.status) == (Cause.TOO_LARGE, 200)


# What goes out.


async def test_the_request_arrives_as_it_stands() -> None:
    body = b'{ "model": "m",\t"x": "\xc3\xa9" }'
    async with FaultServer(ok_chat()) as server, to(server.url + "/v1") as transport:
        await transport.send(attempt("/v1/chat/completions?a=%2F", body=body), never)
        await transport.send(attempt(stream=True, plain=True), never)
        await transport.send(attempt("/v1/models", body=b"", method="GET"), never)
        await transport.send(attempt(headers=(("X-Trace", "t1"), ("accept", "text/plain"))), never)
    first, second, third, fourth = server.requests
    assert (first.method, first.path, first.body) == ("POST", "/v1/chat/completions?a=%2F", body)
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Accept-Encoding"] == "gzip, deflate"
    assert first.headers["Accept"] == "*/*"
    assert "Cookie" not in first.headers
    assert (second.headers["Accept-Encoding"], second.headers["Accept"]) == ("identity", "text/event-stream")
    assert (third.method, third.body) == ("GET", b"")
    assert fourth.headers["X-Trace"] == "t1"
    assert fourth.headers.getall("Accept") == ["text/plain"]
    assert server.connections == 1


async def test_our_id_of_a_sending_stands_once_and_only_a_line_may_say_another() -> None:
    own = {"headers": {"x-client-request-id": "the endpoint's"}}
    async with FaultServer(ok_chat()) as server, to(server.url, **own) as transport:
        for headers in ((), (("X-Trace", "t1"),), (("x-client-request-id", "the line's"),)):
            await transport.send(attempt(headers=headers), never)
        await transport.send(attempt(body=b"x" * 100_000), never)
    first, second, third, fourth = (seen.headers.getall("X-Client-Request-Id") for seen in server.requests)
    assert third == ["the line's"]
    assert all(len(told) == 1 and told[0].startswith("br-") for told in (first, second, fourth))
    assert len({*first, *second, *fourth}) == 3


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000])
async def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    body = os.urandom(size)
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        assert isinstance(await transport.send(attempt(body=body), never), Reply)
    assert server.requests[0].body == body


async def test_headers_of_a_good_answer_are_handed_on_and_of_others_copied() -> None:
    twice = [("Content-Length", "2"), ("X-One", "1"), ("x-one", "2"), ("Retry-After", "7")]
    async with FaultServer(answering(head(200, twice) + b"{}", head(429, twice) + b"{}")) as server, to(server.url) as transport:
        good = await transport.send(attempt(), never)
        bad = await transport.send(attempt(), never)
    assert good.headers["retry-after"] == "7"
    ours = server.requests[1].headers["X-Client-Request-Id"]
    assert bad.headers == {"content-length": "2", "x-one": "1, 2", "retry-after": "7", "x-client-request-id": ours}


# Security.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_b27_a_redirect_is_an_answer_and_nothing_leaves(status: int) -> None:
    async with FaultServer(ok_chat()) as thief:
        away = reply(b"", status, {"Location": f"{thief.url}/steal"})
        async with FaultServer(away) as server, to(server.url) as transport:
            answer = await transport.send(attempt(), never)
            assert answer.status == status
    assert (thief.connections, len(server.requests)) == (0, 1)


@pytest.mark.parametrize("path", ["@127.0.0.1:{port}/x", ":{port}/x", ".evil/x", "\\\\127.0.0.1:{port}/x"])
async def test_g1_no_path_leads_to_another_origin(path: str) -> None:
    async with FaultServer(ok_chat()) as thief, FaultServer(ok_chat()) as server, to(server.url) as transport:
        ended = await transport.send(attempt(path.format(port=thief.port)), never)
    assert isinstance(ended, Fault)
    assert (ended.cause, ended.phase) == (Cause.INVALID, Phase.CONNECT)
    assert not ended.sent
    assert (thief.connections, server.connections) == (0, 0)


@pytest.mark.parametrize("place", ["http://127.0.0.1:{thief}/x", "https://127.0.0.1:{own}/x", "/x", "http://["])
async def test_g1_an_address_joined_wrongly_is_not_followed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joining itself is tested with `core.address`; this is the fence behind it."""
    async with FaultServer(ok_chat()) as thief, FaultServer(ok_chat()) as server, to(server.url) as transport:
        joined = place.format(thief=thief.port, own=server.port)
        monkeypatch.setattr("batchrunner.transport.address", lambda base_url, path: joined)
        ended = await transport.send(attempt(), never)
    assert isinstance(ended, Fault)
    assert (ended.cause, ended.phase) == (Cause.INVALID, Phase.CONNECT)
    assert (thief.connections, server.connections) == (0, 0)


@pytest.mark.parametrize(
    "path", ["/v1/a b", "/v1/a\r\nX-Evil: 1", "/v1/a HTTP/1.1\r\nHost: evil\r\n\r\n", "/v1/\x00", "/v1/é", "/v1/\x7f"]
)
async def test_g1_a_path_cannot_break_the_request_line(path: str) -> None:
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        ended = await transport.send(attempt(path), never)
    assert isinstance(ended, Fault)
    assert ended.cause is Cause.INVALID
    assert server.connections == 0


@pytest.mark.parametrize(
    "header",
    [
        ("Host", "evil"),
        ("content-length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("AUTHORIZATION", "Bearer x"),
        ("api-key", "x"),
        ("Cookie", "a=b"),
        ("Proxy-Authorization", "x"),
        ("X Y", "1"),
        ("X-Y", "1\r\nX-Evil: 1"),
        ("X-Y", "é"),
        ("", "x"),
    ],
    ids=str,
)
async def test_g3_a_line_cannot_set_framing_or_identity(header: tuple[str, str]) -> None:
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        ended = await transport.send(attempt(headers=(("X-Fine", "1"), header)), never)
    assert isinstance(ended, Fault)
    assert ended.cause is Cause.INVALID
    assert server.connections == 0


async def test_g8_nothing_shows_the_key() -> None:
    async with FaultServer(ok_chat()) as server, to(f"{server.url}/v1?key={KEY}") as transport:
        assert KEY not in repr(transport)
        assert isinstance(await transport.send(attempt(), never), Reply)
    assert KEY in server.requests[0].path
    async with to(f"http://127.0.0.1:1/v1?key={KEY}") as transport:
        assert KEY not in repr(await transport.send(attempt(), never))


@pytest.mark.parametrize("status", [200, 401])
async def test_g23_cookies_do_not_stick(status: int) -> None:
    async with (
        FaultServer(reply(b"{}", status, {"Set-Cookie": "a=b; Path=/"})) as server,
        to(server.url.replace("127.0.0.1", "localhost")) as transport,
    ):
        for _ in range(2):
            await transport.send(attempt(), never)
    assert all("Cookie" not in seen.headers for seen in server.requests)


def test_a_secret_is_shown_only_when_asked() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret} {secret!r}"
    assert secret.reveal() == KEY
    assert secret
    assert not Secret("")


@pytest.mark.parametrize(
    ("key", "text", "left"),
    [
        (KEY, f"Incorrect API key: {KEY}.", "Incorrect API key: [key]."),
        (KEY, "Incorrect API key: sk-canar****************cdef", "Incorrect API key: [key]"),
        (KEY, "Incorrect API key: sk-canar... (see docs)", "Incorrect API key: [key] (see docs)"),
        (KEY, b"x sk-canary-0123456789abcdef y", b"x [key] y"),
        (KEY, "sk-other is not touched", "sk-other is not touched"),
        ("a+b(c", "a+b(c aab(c", "[key] aab(c"),
        ("k/é+12345", "k%2F%C3%A9%2B12345 k%2f%c3%a9%2b12345 k/%C3%A9%2B12345", "[key] [key] [key]"),
        (KEY, f"({b64encode(KEY.encode()).decode()})", "([key])"),
        (KEY, f'"{b64encode(f"Bearer {KEY}".encode()).decode()}"', '"QmVhcmVyIH[key]"'),
        (KEY, f"x {b64encode(f'user:{KEY}:'.encode()).decode()} y", "x dXNlcjp[key]o= y"),
        ("~~~???key~~~", b64encode(b"~~~???key~~~").replace(b"/", b"\\/"), b"[key]"),
        ("~~~???key~~~", urlsafe_b64encode(b"~~~???key~~~"), b"[key]"),
        ("x", "x marks the spot", "x marks the spot"),
        ("", "as it was", "as it was"),
    ],
)
def test_g9_the_key_is_taken_out_of_any_text(key: str, text: str | bytes, left: str | bytes) -> None:
    assert Secret(key).redact(text) == left


@settings(max_examples=200, deadline=None)
@given(st.text("abXYZ09-_+.*/=é(", min_size=8, max_size=40), st.text(max_size=30), st.text(max_size=30))
def test_g9_no_text_keeps_the_key(key: str, before: str, after: str) -> None:
    secret = Secret(key)
    text = before + key + after
    assert key not in secret.redact(text)
    assert key.encode() not in secret.redact(text.encode())
    assert "[key]" in secret.redact(b64encode(text.encode()).decode())


# Connections.


async def test_connections_are_reused_and_the_timing_says_so() -> None:
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        first = await transport.send(attempt(), never)
        second = await transport.send(attempt(), never)
    assert server.connections == 1
    assert (first.timing.reused, second.timing.reused) == (False, True)
    assert 0 < first.timing.connect <= first.timing.first_byte <= first.timing.total
    assert (second.timing.connect, second.timing.gap) == (0.0, 0.0)
    assert EXCHANGE.get(None) is None  # a worker that rests keeps no answer alive


async def test_a_fresh_attempt_uses_no_old_connection() -> None:
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        answers = [await transport.send(attempt(fresh=fresh), never) for fresh in (False, True, True, False)]
    assert [answer.timing.reused for answer in answers] == [False, False, False, True]
    assert server.connections == 3


@BOTH_LOOPS
@pytest.mark.parametrize("drop", [Peer.close, Peer.reset], ids=["close", "rst"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a9_a_stale_connection_is_known_as_such(drop: Callable[[Peer], None], method: str, run: Callable[..., None]) -> None:
    """The server takes the second request of a connection as the moment to close it, which no client can foresee."""

    async def one_shot(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        await peer.opening()
        drop(peer)

    async def case() -> None:
        async with FaultServer(one_shot) as server, to(server.url) as transport:
            for _ in range(3):
                assert isinstance(await transport.send(attempt(fresh=True, method=method), never), Reply)
            stale = await transport.send(attempt(method=method), never)
            assert isinstance(stale, Fault)
            assert (stale.cause, stale.phase, stale.timing.reused) == (Cause.STALE, Phase.FIRST_BYTE, True)
            again = await transport.send(attempt(fresh=True, method=method), never)
            assert isinstance(again, Reply)
            assert (len(server.requests), server.connections) == (5, 4)  # nothing was sent twice behind our back
        await closing_time()

    run(case())


async def test_a9_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    left = asyncio.Event()

    async def impatient(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        peer.finish()
        await peer.hold()  # the client closes in its turn
        left.set()

    async with FaultServer(impatient) as server, to(server.url) as transport:
        assert isinstance(await transport.send(attempt(), never), Reply)
        await left.wait()
        assert isinstance(await transport.send(attempt(), never), Reply)
    assert server.connections == 2


def closing_after(answers: int) -> Script:
    """Each connection ends after so many answers, which nobody is told: the next request on it finds out."""

    async def script(peer: Peer) -> None:
        for _ in range(answers):
            await peer.request()
            await peer.send(ok_chat())
        await peer.opening()
        peer.close()

    return script


async def test_a9_a_server_that_keeps_nothing_is_not_asked_on_old_connections_for_ever() -> None:
    """It ends each connection with its answer and does not say so, which is known only to who uses it again."""

    async with FaultServer(closing_after(1)) as server, to(server.url) as transport:
        answers = [await transport.send(attempt(), never) for _ in range(100)]
    lost = [answer for answer in answers if isinstance(answer, Fault)]
    assert {fault.cause for fault in lost} == {Cause.STALE}
    assert len(lost) <= 3


async def test_a9_one_connection_of_many_that_is_closed_costs_the_others_nothing() -> None:
    async with FaultServer(closing_after(20)) as server, to(server.url) as transport:
        answers = [await transport.send(attempt(), never) for _ in range(63)]
    assert [type(answer) for answer in answers].count(Fault) == 3
    assert server.connections == 3


async def test_a_connection_idle_for_longer_than_keepalive_is_not_used() -> None:
    async with FaultServer(ok_chat()) as server, to(server.url, connection={"keepalive": 0.01}) as transport:
        await transport.send(attempt(), never)
        await asyncio.sleep(0.03)  # the time that is under test
        await transport.send(attempt(), never)
    assert server.connections == 2


@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["close", "rst"])
async def test_half_a_head_on_an_old_connection_is_not_stale(end: Callable[[Peer], None]) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX")
        await asyncio.sleep(0.03)  # an RST overtakes what is still in the client's buffer
        end(peer)

    async with FaultServer(script) as server, to(server.url) as transport:
        await transport.send(attempt(), never)
        ended = await transport.send(attempt(), never)
    assert isinstance(ended, Fault)
    assert (ended.cause, ended.timing.reused) == (Cause.DISCONNECTED, True)


async def test_b10_rubbish_after_an_answer_costs_only_the_connection() -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        if peer.number == 1:
            await more.wait()
            await peer.send(b"rubbish")
        await peer.hold()

    async with FaultServer(script) as server, to(server.url) as transport:
        first = await transport.send(attempt(), never)
        ((line, _),) = next(iter(transport._session.connector._conns.values()))  # type: ignore[union-attr]
        closed = line.closed
        more.set()
        await closed
        second = await transport.send(attempt(), never)
    assert (first.status, second.status, server.connections) == (200, 200, 2)


async def test_b10_rubbish_behind_an_answer_does_not_become_the_next_one() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat() + reply(b'{"not": "asked for"}') if peer.number == 1 else ok_chat())
        await peer.hold()

    async with FaultServer(script) as server, to(server.url) as transport:
        answers = [await transport.send(attempt(), never) for _ in range(2)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, ok_chat().partition(b"\r\n\r\n")[2])}  # type: ignore[union-attr]
    assert server.connections == 2


async def test_who_has_answered_in_http_is_not_taken_for_a_server_with_tls() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await peer.send(json_reply(200, {"ok": True}, {"Connection": "close"}))
        peer.close()

    async with FaultServer(script) as server, to(server.url) as transport:
        first, _, third = [await transport.send(attempt(), never) for _ in range(3)]
    assert isinstance(first, Fault)
    assert isinstance(third, Fault)
    assert ("https://" in first.detail, "https://" in third.detail) == (True, False)


async def test_no_request_waits_for_a_place_in_the_pool() -> None:
    """No pool limit holds a request back: all of them are at the server before one is answered."""
    count, there, everybody = 150, 0, asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal there
        await peer.request()
        there += 1
        if there == count:
            everybody.set()
        await everybody.wait()
        await peer.send(ok_chat())

    async with FaultServer(script) as server, to(server.url) as transport:
        answers = await asyncio.gather(*(transport.send(attempt(), never) for _ in range(count)))
    assert {answer.status for answer in answers} == {200}


async def test_a16_sockets_notice_a_peer_that_vanished() -> None:
    found: list[int] = []
    async with FaultServer(saying(then=Peer.hold)) as server, to(server.url) as transport:

        def look(attempt: Attempt, phase: Phase, age: float) -> float:
            (line,) = transport._session.connector._acquired  # type: ignore[union-attr]
            mine = line.transport.get_extra_info("socket")
            found.append(mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            found.extend(mine.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT))
            return 0.0

        await transport.send(attempt(deadlines=within(first_byte=0.02)), look)
    assert found == [1, 60, 210_000]


# Connecting.


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_a1_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with to("http://no.such.name.invalid") as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase, ended.sent) == (Cause.DNS, Phase.CONNECT, False)
    assert "no.such.name.invalid" in ended.detail
    async with to("http://127.0.0.1", connection={"proxy": "http://no.such.name.invalid:1"}) as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase, ended.sent) == (Cause.PROXY, Phase.CONNECT, False)
    assert "the name of the proxy" in ended.detail


async def test_a3_a_name_that_moves_is_followed_by_new_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, place = [], "127.0.0.1"

    def moving(host: str, port: int, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port))]

    async with (
        FaultServer(ok_chat("old")) as old,
        FaultServer(ok_chat("new")) as new,
        to(f"http://moves.test:{old.port}") as here,
    ):
        elsewhere = await asyncio.start_server(new._accept, "127.0.0.2", old.port)
        monkeypatch.setattr(socket, "getaddrinfo", moving)
        connector = here._session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert connector._cached_hosts._ttl == 120, "seconds, so that a moved service is found again"
        first = await here.send(attempt(), never)
        place = "127.0.0.2"
        connector.clear_dns_cache()  # they are over
        second = await here.send(attempt(fresh=True), never)
        elsewhere.close()
    assert asked == ["moves.test"] * 2
    assert [json.loads(answer.body)["id"] for answer in (first, second)] == ["old", "new"]


async def test_a2_a_resolver_that_hangs_ends_with_the_connect_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait() and [])
    async with to("http://slow.name.invalid") as transport:
        ended = await transport.send(attempt(deadlines=within(connect=0.02)), give_up)
    answers.set()
    assert (ended.cause, ended.phase) == (Cause.TIMEOUT, Phase.CONNECT)
    assert ended.detail.startswith("connect: ")


async def test_a4_a_closed_port() -> None:
    async with to(f"http://127.0.0.1:{closed_port()}") as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase, ended.sent) == (Cause.REFUSED, Phase.CONNECT, False)
    assert os.strerror(errno.ECONNREFUSED) in ended.detail


@BOTH_LOOPS
def test_a5_a_port_that_swallows_connections(run: Callable[..., None]) -> None:
    async def case() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            async with to(f"http://127.0.0.1:{full.getsockname()[1]}") as transport:
                ended = await transport.send(attempt(deadlines=within(connect=0.03)), give_up)
            for client in waiting:
                client.close()
        assert (ended.cause, ended.phase, ended.sent) == (Cause.TIMEOUT, Phase.CONNECT, False)

    run(case())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS], ids=errno.errorcode.get)
async def test_a21_f8_our_own_limits_are_not_the_endpoints_fault(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", refuse)
    async with to("http://127.0.0.1:9") as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase) == (Cause.LOCAL, Phase.CONNECT)
    assert os.strerror(number) in ended.detail


# TLS.


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for localhost in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key", folder / "cert", folder / "both.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, "-out", str(cert)], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@BOTH_LOOPS
def test_a6_only_a_trusted_certificate_is_talked_to(certificate: Path, run: Callable[..., None]) -> None:
    async def case() -> None:
        trusted = {"ca_bundle": str(certificate)}
        async with FaultServer(ok_chat(), tls=serving(certificate), host="localhost") as server:
            async with to(server.url) as stranger:
                unknown = await stranger.send(attempt(), never)
            async with to(server.url.replace("localhost", "127.0.0.1"), connection=trusted) as misnamed:
                wrong = await misnamed.send(attempt(), never)
            async with to(server.url, connection=trusted) as known:
                answers = [await known.send(attempt(), never) for _ in range(2)]
        for ended in (unknown, wrong):
            assert (ended.cause, ended.phase, ended.sent) == (Cause.CERTIFICATE, Phase.CONNECT, False)
            assert f":{server.port}" in ended.detail
        assert "self-signed" in unknown.detail.replace("self signed", "self-signed")
        assert [answer.timing.reused for answer in answers] == [False, True]
        assert len(server.requests) == 2
        await closing_time()

    run(case())


async def _silent(peer: Peer) -> None:
    await peer.hold()


async def _hang_up(peer: Peer) -> None:
    peer.close()


@BOTH_LOOPS
@pytest.mark.parametrize(
    ("script", "cause"), [(_silent, Cause.TIMEOUT), (_hang_up, Cause.TLS), (ok_chat(), Cause.TLS)], ids=["stall", "close", "http"]
)
def test_a7_a8_https_to_a_server_without_tls(script: Script | bytes, cause: Cause, run: Callable[..., None]) -> None:
    async def plain(peer: Peer) -> None:
        if callable(script):
            await script(peer)
        await peer.send(reply(b"x", 400))

    async def case() -> None:
        async with FaultServer(plain) as server, to(server.url.replace("http:", "https:")) as transport:
            deadlines = within(connect=0.05) if cause is Cause.TIMEOUT else PATIENT
            ended = await transport.send(attempt(deadlines=deadlines), give_up)
        assert (ended.cause, ended.phase, ended.sent) == (cause, Phase.CONNECT, False)
        assert "http://" in ended.detail
        await closing_time()

    run(case())


@BOTH_LOOPS
def test_a8_http_to_a_server_with_tls(certificate: Path, run: Callable[..., None]) -> None:
    async def case() -> None:
        async with (
            FaultServer(ok_chat(), tls=serving(certificate)) as server,
            to(server.url.replace("https:", "http:")) as transport,
        ):
            ended = await transport.send(attempt(), never)
        assert ended.cause in (Cause.DISCONNECTED, Cause.PROTOCOL)
        assert "https://" in ended.detail

    run(case())


# Proxies.


async def test_a17_a_proxy_that_cannot_be_reached() -> None:
    async with to("http://x.invalid", connection={"proxy": f"http://u:{KEY}@127.0.0.1:{closed_port()}"}) as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase) == (Cause.PROXY, Phase.CONNECT)
    assert KEY not in repr(ended)


@pytest.mark.parametrize("status", [407, 502])
async def test_a17_a_proxy_that_refuses_the_tunnel(status: int) -> None:
    async with FaultServer(reply(b"", status)) as proxy, to("https://x.invalid", connection={"proxy": proxy.url}) as transport:
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase, ended.status) == (Cause.PROXY, Phase.CONNECT, status)
    assert proxy.requests[0].method == "CONNECT"
    assert "Authorization" not in proxy.requests[0].headers


async def test_a17_a_proxy_that_dies_in_the_tunnel() -> None:
    async with (
        FaultServer(saying(then=Peer.close)) as proxy,
        to("https://x.invalid", connection={"proxy": proxy.url}) as transport,
    ):
        ended = await transport.send(attempt(), never)
    assert (ended.cause, ended.phase) == (Cause.PROXY, Phase.CONNECT)


async def test_a17_a_plain_request_through_a_proxy_carries_its_whole_address() -> None:
    async with FaultServer(reply(b"", 407)) as proxy, to("http://x.invalid/v1", connection={"proxy": proxy.url}) as transport:
        answer = await transport.send(attempt(), never)
    assert answer.status == 407
    assert proxy.requests[0].path == "http://x.invalid/v1/chat/completions"


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    async with FaultServer(ok_chat()) as server, to(server.url) as transport:
        assert isinstance(await transport.send(attempt(), never), Reply)


# Deadlines.


async def test_a_review_grants_more_time_as_often_as_it_likes() -> None:
    go = asyncio.Event()
    asked: list[tuple[Phase, float]] = []

    def patient(attempt: Attempt, phase: Phase, age: float) -> float:
        asked.append((phase, age))
        if len(asked) == 3:
            go.set()
        return 0.02 if len(asked) < 3 else LONG

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(ok_chat())

    async with FaultServer(script) as server, to(server.url) as transport:
        answer = await transport.send(attempt(deadlines=within(first_byte=0.02)), patient)
    assert isinstance(answer, Reply)
    assert [phase for phase, _ in asked] == [Phase.FIRST_BYTE] * 3
    ages = [age for _, age in asked]
    assert ages == sorted(ages)
    assert ages[0] >= 0.02 - 0.001
    assert ages[2] >= 0.06 - 0.003


@BOTH_LOOPS
def test_a12_the_deadline_holds_on_an_old_connection_too(run: Callable[..., None]) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        await peer.request()
        await peer.hold()

    async def case() -> None:
        async with FaultServer(script) as server, to(server.url) as transport:
            await transport.send(attempt(), never)
            ended = await transport.send(attempt(deadlines=within(first_byte=0.03)), give_up)
        assert (ended.cause, ended.phase, ended.timing.reused) == (Cause.TIMEOUT, Phase.FIRST_BYTE, True)
        assert ended.timing.total < LONG

    run(case())


async def test_more_time_for_one_silence_does_not_lengthen_the_next() -> None:
    asked: list[Phase] = []
    next_chunk = asyncio.Event()

    def once(attempt: Attempt, phase: Phase, age: float) -> float:
        asked.append(phase)
        next_chunk.set()
        return LONG if len(asked) == 1 else 0.0

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(), chunk(b"1"))
        await next_chunk.wait()
        await peer.send(chunk(b"2"))
        await peer.hold()

    async with FaultServer(script) as server, to(server.url) as transport:
        task = asyncio.create_task(transport.send(attempt(deadlines=within(idle=0.03)), once))
        done, _ = await asyncio.wait([task], timeout=LONG / 2)
        task.cancel()
        await asyncio.wait([task])
    assert asked == [Phase.BODY] * (2 if done else 1)
    assert done, "the second silence was as long as the reviewer had granted to the first"


async def test_total_may_be_lengthened_too() -> None:
    asked: list[float] = []

    def longer(attempt: Attempt, phase: Phase, age: float) -> float:
        asked.append(age)
        return 0.03 if len(asked) == 1 else 0.0

    async with FaultServer(_drip) as server, to(server.url) as transport:
        ended = await transport.send(attempt(deadlines=within(total=0.03)), longer)
    assert isinstance(ended, Fault)
    assert ended.detail.startswith("total: ")
    assert len(asked) == 2
    assert ended.timing.total >= 0.058
    assert ended.timing.gap < ended.timing.total


async def test_each_phase_has_its_own_clock() -> None:
    """The pauses together are longer than each deadline; none of them is."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.03)
        await peer.send(chunked_head())
        for _ in range(4):
            await asyncio.sleep(0.03)
            await peer.send(chunk(b"x"))
        await peer.send(LAST_CHUNK)

    async with FaultServer(script) as server, to(server.url) as transport:
        answer = await transport.send(attempt(deadlines=within(connect=0.1, first_byte=0.1, idle=0.1)), never)
    assert isinstance(answer, Reply)
    assert answer.body == b"xxxx"
    assert 0.02 < answer.timing.gap < 0.1


async def test_the_servers_time_begins_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        time.sleep(0.25)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    async with FaultServer(ok_chat()) as server, to(f"http://slow.name.invalid:{server.port}") as transport:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        answer = await transport.send(attempt(deadlines=within(first_byte=0.2, total=0.2)), never)
    assert isinstance(answer, Reply)
    assert answer.timing.connect >= 0.24


class _Held:
    """A server in a thread, which has the loop of its client held up from the moment at which it is asked until `until`."""

    def __init__(self, says: bytes, until: float) -> None:
        self._says = says
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._held, self._said = threading.Event(), threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        peer, _ = self._listening.accept()
        with peer:
            peer.recv(65536)
            self._loop.call_soon_threadsafe(self._hold)
            self._held.wait()
            peer.sendall(self._says)
            self._said.set()
            peer.recv(1)  # until the client goes

    def _hold(self) -> None:
        self._held.set()
        self._said.wait()
        while self._loop.time() < self._until:
            time.sleep(0.01)


@BOTH_LOOPS
def test_an_answer_that_came_while_our_loop_was_held_up_is_read(run: Callable[..., None]) -> None:
    async def case() -> None:
        with _Held(ok_chat(), asyncio.get_running_loop().time() + 1.0) as server:
            async with to(server.url) as transport:
                answer = await transport.send(attempt(deadlines=within(first_byte=0.5)), give_up)
        assert isinstance(answer, Reply)

    run(case())


@BOTH_LOOPS
def test_after_a_hold_up_without_an_answer_the_deadline_holds(run: Callable[..., None]) -> None:
    async def case() -> None:
        with _Held(b"HTTP/1.1", asyncio.get_running_loop().time() + 1.0) as server:
            async with to(server.url) as transport:
                ended = await transport.send(attempt(deadlines=within(first_byte=0.5)), give_up)
        assert isinstance(ended, Fault)
        assert (ended.cause, ended.phase) == (Cause.TIMEOUT, Phase.FIRST_BYTE)
        assert ended.timing.total < LONG

    run(case())


async def test_one_timer_serves_an_ordinary_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, set_at = loop.call_at, []
    many = chunked_head() + b"".join(chunk(b"x" * 100) for _ in range(50)) + LAST_CHUNK

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*(many[at : at + 100] for at in range(0, len(many), 100)))

    def counting(when: float, call: Callable[..., None], *more: object, **context: object) -> asyncio.TimerHandle:
        if isinstance(getattr(call, "__self__", None), Exchange):
            set_at.append(when)
        return real(when, call, *more, **context)

    monkeypatch.setattr(loop, "call_at", counting)
    async with FaultServer(script) as server, to(server.url) as transport:
        assert isinstance(await transport.send(attempt(), never), Reply)
    assert len(set_at) == 1


async def test_a_reviewer_that_fails_does_not_leave_the_attempt_waiting() -> None:
    failures: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: failures.append(context["exception"]))

    def broken(attempt: Attempt, phase: Phase, age: float) -> float:
        raise LookupError

    async with FaultServer(saying(then=Peer.hold)) as server, to(server.url) as transport:
        ended = await transport.send(attempt(deadlines=within(first_byte=0.02)), broken)
    loop.set_exception_handler(before)
    assert isinstance(ended, Fault)
    assert [type(failure) for failure in failures] == [LookupError]


# Cancellation and closing.


@BOTH_LOOPS
@pytest.mark.parametrize("proxied", [False, True])
def test_who_is_cancelled_while_connecting_says_that_nothing_was_sent(proxied: bool, run: Callable[..., None]) -> None:
    """TCP is there, TLS is not."""
    arrived: asyncio.Event

    async def silent(peer: Peer) -> None:
        arrived.set()
        await peer.freeze()

    async def case() -> None:
        nonlocal arrived
        arrived = asyncio.Event()
        async with FaultServer(silent) as server:
            way = {"proxy": server.url} if proxied else {}
            async with to(server.url.replace("http:", "https:"), connection=way) as transport:
                task = asyncio.create_task(transport.send(attempt(), never))
                await arrived.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as cancelled:
                    await task
        assert cancelled.value.args == (Phase.CONNECT,)

    run(case())


@BOTH_LOOPS
@pytest.mark.parametrize("station", ["first-byte", "body", "upload"])
def test_cancellation_passes_at_once_and_frees_the_connection(station: str, run: Callable[..., None]) -> None:
    arrived: asyncio.Event

    async def script(peer: Peer) -> None:
        await peer.opening()
        if station == "body":
            await peer.send(chunked_head(), chunk(b"x"))
        arrived.set()
        await peer.freeze()

    async def case() -> None:
        nonlocal arrived
        arrived = asyncio.Event()
        async with FaultServer(script) as server, to(server.url) as transport:
            body = b"x" * (16_000_000 if station == "upload" else 100)
            task = asyncio.create_task(transport.send(attempt(body=body), never))
            await arrived.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task
            assert task.cancelled()
            assert Phase.CONNECT not in cancelled.value.args
            connector = transport._session.connector  # type: ignore[union-attr]
            assert not connector._acquired
            assert not connector._conns
        await closing_time()

    run(case())


@BOTH_LOOPS
def test_after_a_deadline_the_task_is_not_marked_as_cancelled(run: Callable[..., None]) -> None:
    async def case() -> None:
        async with FaultServer(saying(then=Peer.hold)) as server, to(server.url) as transport:
            for _ in range(2):
                ended = await transport.send(attempt(deadlines=within(first_byte=0.01)), give_up)
                assert ended.cause is Cause.TIMEOUT
                assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
            async with asyncio.timeout(LONG):  # still works, and nothing is left to be thrown
                await asyncio.sleep(0)

    run(case())


@BOTH_LOOPS
@pytest.mark.parametrize("order", ["deadline-first", "outside-first"])
def test_a_cancellation_at_the_very_moment_of_the_deadline_gets_through(order: str, run: Callable[..., None]) -> None:
    async def case() -> None:
        task: asyncio.Task[Reply | Fault]

        def review(attempt: Attempt, phase: Phase, age: float) -> float:
            if order == "outside-first":
                task.cancel()
            else:
                asyncio.get_running_loop().call_soon(task.cancel)
            return 0.0

        async with FaultServer(saying(then=Peer.hold)) as server, to(server.url) as transport:
            task = asyncio.create_task(transport.send(attempt(deadlines=within(first_byte=0.02)), review))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1

    run(case())


async def test_an_outer_timeout_is_not_mistaken_for_ours() -> None:
    async with FaultServer(saying(then=Peer.hold)) as server, to(server.url) as transport:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await transport.send(attempt(), never)


@BOTH_LOOPS
def test_a_peer_that_reads_nothing_keeps_no_socket_of_ours(run: Callable[..., None]) -> None:
    async def case() -> None:
        ours: list[asyncio.TransportSocket] = []

        async with FaultServer(_freeze) as server, to(server.url) as transport:

            def look(attempt: Attempt, phase: Phase, age: float) -> float:
                (line,) = transport._session.connector._acquired  # type: ignore[union-attr]
                assert line.transport.get_write_buffer_size()
                ours.append(line.transport.get_extra_info("socket"))
                return 0.0

            ended = await transport.send(attempt(body=b"x" * 16_000_000, deadlines=within(first_byte=0.03)), look)
            assert ended.cause is Cause.TIMEOUT
            for _ in range(5):
                await asyncio.sleep(0)
            assert ours[0].fileno() == -1

    run(case())


@BOTH_LOOPS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("station", ["first-byte", "body"])
def test_closing_ends_what_is_still_on_the_wire(station: str, secure: bool, certificate: Path, run: Callable[..., None]) -> None:
    """aiohttp alone would leave the reader of a body waiting for ever."""

    async def case() -> None:
        arrived = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            if station == "body":
                await peer.send(chunked_head(), chunk(b"x"))
            arrived.set()
            await peer.hold()

        tls = serving(certificate) if secure else None
        async with FaultServer(script, tls=tls, host="localhost") as server:
            async with to(server.url, connection={"ca_bundle": str(certificate)}) as transport:
                task = asyncio.create_task(transport.send(attempt(), never))
                await arrived.wait()
                await asyncio.sleep(0.01)
            ended = await asyncio.wait_for(task, LONG / 2)
        assert isinstance(ended, Fault)
        assert ended.cause is (Cause.TRUNCATED if station == "body" else Cause.DISCONNECTED)
        await closing_time()

    run(case())


async def test_a_transport_can_be_opened_again() -> None:
    async with FaultServer(ok_chat()) as server:
        transport = Transport("e", server.url, Connection())
        for _ in range(2):
            async with transport:
                assert isinstance(await transport.send(attempt(), never), Reply)


# Settings that cannot work.


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"connection": Connection(proxy="socks5://127.0.0.1:1")}, "E002"),
        ({"connection": Connection(ca_bundle="/no/such/file.pem")}, "E002"),
        ({"connection": Connection(ca_bundle=__file__)}, "E002"),
        ({"secret": {"Authorization": f"Bearer {KEY}\n"}}, "E002"),
        ({"headers": {"X Y": "1"}}, "E002"),
        ({"base_url": "not an address"}, "E102"),
        ({"base_url": "http://h:99999"}, "E102"),
        ({"base_url": "http://H/v1"}, "E102"),
        ({"base_url": "http://h/é"}, "E102"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_anything_is_sent(more: dict[str, object], code: str) -> None:
    with pytest.raises(UsageError) as refused:
        Transport(**{"name": "e", "base_url": "http://h", "connection": Connection()} | more)  # type: ignore[arg-type]
    assert refused.value.code == code
    assert KEY not in str(refused.value)


# The table of causes.


def test_the_narrower_exception_stands_before_the_wider() -> None:
    for at, wider in enumerate(faults.FAILURES):
        assert not any(issubclass(later, wider) for later in faults.FAILURES[at + 1 :]), wider
