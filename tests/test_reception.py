"""Streams on the wire: what the transport makes of them, and what that amounts to. Ids like B17 are rows of the fault matrix."""

import asyncio
import gzip
import itertools
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import faults, reception
from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Cause, Deadlines, Fault, Kind, Outcome, Phase, Reply, Request, Route
from batchrunner.core.route import answer_text
from batchrunner.core.service import Connection
from batchrunner.transport import Transport
from tests.server import (
    LAST_CHUNK,
    SSE_HEAD,
    FaultServer,
    Peer,
    Script,
    chunk,
    chunked,
    event,
    head,
    json_reply,
    ok_chat,
    reply,
    sse,
)

LONG = 5.0  # a deadline that must not be reached
BOTH_LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def request(route: Route = Route.CHAT, choices: int = 1, body: bytes = b'{"model":"m"}', **more: Any) -> Request:
    return Request(line=1, id="r-1", digest="d", route=route, path="/v1/x", body=body, choices=choices, **more)


def attempt(asked: Request | None = None, *, stream: bool = True, **seconds: float) -> Attempt:
    deadlines = Deadlines(**{"connect": LONG, "first_byte": LONG, "idle": LONG, "total": LONG} | seconds)
    return Attempt(asked or request(), "e", 1, 0.0, deadlines, stream=stream, usage=stream)


def give_up(attempt: Attempt, phase: Phase, age: float) -> float:
    return 0.0


def never(attempt: Attempt, phase: Phase, age: float) -> float:
    raise AssertionError("no deadline was to pass")


@asynccontextmanager
async def to(server: FaultServer, **connection: Any) -> AsyncIterator[Transport]:
    async with Transport("e", server.url, Connection(**connection)) as transport:
        yield transport


async def heard(script: Script | bytes, sent: Attempt | None = None, **connection: Any) -> tuple[Reply | Fault, Outcome]:
    """What the transport says, and what it amounts to."""
    sent = sent or attempt()
    async with FaultServer(script) as server, to(server, **connection) as transport:
        answer = await transport.send(sent, give_up)
    return answer, classify(sent, answer)


# -- chat chunks


def piece(text: str = "", reason: str | None = None, index: int = 0, **more: object) -> dict[str, object]:
    choice = {"index": index, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
COUNT = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
HELLO = [piece("Hel"), piece("lo"), piece(reason="stop"), COUNT, "[DONE]"]
ERROR = {"error": {"message": "the engine died", "type": "server_error", "code": None}}
PING = b": ping\n\n"


def joined(parts: Iterable[object]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else event(part) for part in parts)


def wire(text: bytes) -> bytes:
    """A stream as a whole answer in one chunk."""
    return SSE_HEAD + chunk(text) + LAST_CHUNK


def saying(*parts: bytes, then: Callable[[Peer], Awaitable[None] | None] = Peer.close) -> Script:
    """Read the request, send the parts, and end like this."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        if (ending := then(peer)) is not None:
            await ending

    return script


async def _reset_later(peer: Peer) -> None:
    await asyncio.sleep(0.03)
    peer.reset()


class Row(NamedTuple):
    """`kind` is what the answer amounts to; `text` what a success or the evidence of a failure says."""

    id: str
    script: Script | bytes
    kind: Kind
    text: str = "Hello"
    flags: tuple[str, ...] = ("streamed",)
    sent: Attempt | None = None
    told: str = ""  # in the outcome's message
    code: str = ""


def short(**seconds: float) -> Attempt:
    return attempt(**seconds)


CUT = HELLO[:2]
TWO = attempt(request(choices=2))
ANTHROPIC = [
    {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
MESSAGE = attempt(request(Route.MESSAGES))
RESPONSE = {
    "id": "r",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
}
RESPONSES = attempt(request(Route.RESPONSES))
PLAIN = attempt(stream=False)
OK, TRUNCATED = Kind.OK, Kind.TRUNCATED


def named(parts: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(b"event: " + part["type"].encode() + b"\n" + event(part) for part in parts)


def _ended(status: str, **more: object) -> bytes:
    created = {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}}
    delta = {"type": "response.output_text.delta", "delta": "Hello"}
    return named([created, delta, {"type": f"response.{status}", "response": {**RESPONSE, "status": status, **more}}])


def squeezed(text: bytes, keep: int | None = None) -> bytes:
    """Gzip'd, as a server that flushes each event does; `keep` bytes of it."""
    packed = gzip.compress(text)[:keep]
    return chunked([packed[:40], packed[40:]], headers={"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})


TABLE = [
    Row("whole", sse(HELLO), OK),
    Row("B12-each-byte-a-chunk", SSE_HEAD + b"".join(chunk(b"%c" % byte) for byte in joined(HELLO)) + LAST_CHUNK, OK),
    Row("B13-cr", wire(joined(HELLO).replace(b"\n", b"\r")), OK),
    Row("B13-crlf", wire(joined(HELLO).replace(b"\n", b"\r\n")), OK),
    Row(
        "B13-mixed",
        wire(joined(HELLO[:2]).replace(b"\n", b"\r\n") + joined(HELLO[2:4]).replace(b"\n", b"\r") + joined(HELLO[4:])),
        OK,
    ),
    Row("B13-bom", wire(b"\xef\xbb\xbf" + joined(HELLO)), OK),
    Row("B14-no-space", wire(joined(HELLO).replace(b"data: ", b"data:")), OK),
    Row("B14-multi-line", wire(joined(HELLO).replace(b', "model"', b'\ndata: , "model"')), OK),
    Row("B14-comments-and-fields", wire(PING + b"id: 7\nretry: 10\nodd: x\n" + joined(HELLO) + PING), OK),
    Row("B15-five-megabytes", sse([piece("x" * 5_000_000), *HELLO]), OK, "x" * 5_000_000 + "Hello"),
    Row("B17-done-without-finish", sse([*CUT, "[DONE]"]), TRUNCATED, code="no_finish_reason"),
    Row("B17-cut-without-done", sse(CUT), TRUNCATED, told="no finish_reason for choice 0", code="incomplete_stream"),
    Row("B18-no-done", sse(HELLO[:3]), OK, flags=("streamed", "no_done")),
    Row("B18-no-done-no-blank-line", wire(joined(HELLO[:3]).rstrip(b"\n")), OK, flags=("streamed", "no_done")),
    Row("B19-error", sse([*CUT, ERROR]), Kind.SERVER_ERROR, told="the engine died"),
    Row("B19-error-then-done", sse([*CUT, ERROR, "[DONE]"]), Kind.SERVER_ERROR),
    Row("B19-throttled", sse([*CUT, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, "[DONE]"]), Kind.RATE_LIMITED),
    Row("B19-filtered", sse([*CUT, {"error": {"message": "no", "code": "content_filter"}}]), Kind.POLICY),
    Row("B19-detail", sse([*CUT, {"detail": "boom"}]), Kind.SERVER_ERROR, told="boom"),
    Row("B19-plain-words", wire(joined(CUT) + b"event: error\ndata: it broke\n\n"), Kind.SERVER_ERROR, told="it broke"),
    Row("B19-error-in-a-choice", sse([*CUT, {"choices": [{"index": 0, "error": {"message": "up", "code": 502}}]}]), Kind.GATEWAY),
    Row("B19-error-after-the-finish", sse([*HELLO[:3], ERROR]), Kind.SERVER_ERROR),
    Row("B19-error-then-reset", saying(SSE_HEAD, chunk(joined([*CUT, ERROR])), then=_reset_later), Kind.SERVER_ERROR),
    Row("B20-one-of-two", sse([*CUT, piece("x", index=1), piece(reason="stop"), "[DONE]"]), TRUNCATED, sent=TWO),
    Row("B20-one-of-two-never-came", sse(HELLO), TRUNCATED, sent=TWO),
    Row(
        "B20-both", sse([*CUT, piece(reason="stop", index=1), piece("x", index=1), piece(reason="stop"), "[DONE]"]), OK, sent=TWO
    ),
    Row("B21-json", ok_chat(text="Hello"), OK, flags=()),
    Row("B21-json-error", json_reply(429, {"error": {"message": "slow"}}), Kind.RATE_LIMITED, "", ()),
    Row("B21-json-called-a-stream", wire(b'{"error": {"message": "slow", "code": 429}}'), Kind.RATE_LIMITED, "", ()),
    Row(
        "B22-lines",
        chunked([joined(HELLO[:4]).replace(b"data: ", b"").replace(b"\n\n", b"\n")]),
        OK,
        flags=("streamed", "no_done"),
    ),
    Row("B22-lines-cut", chunked([joined(CUT).replace(b"data: ", b"")]), TRUNCATED),
    Row("B22-lines-with-an-error", chunked([joined([*CUT, ERROR]).replace(b"data: ", b"")]), Kind.SERVER_ERROR),
    Row(
        "B22-pretty-json",
        reply(json.dumps(json.loads(ok_chat(text="Hello").partition(b"\r\n\r\n")[2]), indent=1).encode()),
        OK,
        flags=(),
    ),
    Row("B22-html", wire(b"<!doctype html><title>Sign in</title>"), Kind.GARBLED, "", ("html",), told="Sign in"),
    Row("B22-empty", wire(b" "), TRUNCATED, ""),
    Row("B22-nothing-at-all", SSE_HEAD + LAST_CHUNK, TRUNCATED, ""),
    Row("B22-only-pings", wire(PING * 5), TRUNCATED, ""),
    Row("B22-unannounced", chunked([joined(HELLO)]), OK),
    Row("B22-unannounced-with-a-name", chunked([named(ANTHROPIC)]), OK, sent=MESSAGE),
    Row("B22-a-stream-nobody-asked-for", sse(HELLO), OK, sent=PLAIN),
    Row("B22-cut-and-nobody-asked-for", sse([*CUT, "[DONE]"]), TRUNCATED, sent=PLAIN),
    Row("B22-unannounced-and-nobody-asked-for", chunked([joined(CUT)]), TRUNCATED, sent=PLAIN),
    Row(
        "B23-half-pairs",
        sse(
            [
                '{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
                '{"choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":"stop"}]}',
            ]
        ),
        OK,
        "😀",
        ("streamed", "no_done"),
    ),
    Row(
        "B24-invalid-utf8",
        wire(joined([*CUT, b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n', *HELLO[2:]])),
        OK,
        "Hello�",
        ("streamed", "invalid_utf8"),
    ),
    Row("B25-usage-first-and-empty-choices", sse([{"choices": []}, COUNT, *HELLO]), OK),
    Row("B29-message", wire(named(ANTHROPIC)), OK, sent=MESSAGE),
    Row("B29-message-without-stop", wire(named(ANTHROPIC[:-1])), TRUNCATED, sent=MESSAGE, told="message_stop"),
    Row("B29-message-cut-in-a-block", wire(named(ANTHROPIC[:3])), TRUNCATED, sent=MESSAGE),
    Row(
        "B29-message-overloaded",
        wire(named([*ANTHROPIC[:3], {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}])),
        Kind.OVERLOADED,
        sent=MESSAGE,
    ),
    Row("B29-response", wire(_ended("completed")), OK, sent=RESPONSES),
    Row(
        "B29-response-hit-its-limit",
        wire(_ended("incomplete", incomplete_details={"reason": "max_output_tokens"})),
        OK,
        flags=("streamed", "hit_token_limit"),
        sent=RESPONSES,
    ),
    Row(
        "B29-response-failed",
        wire(_ended("failed", output=[], error={"code": "rate_limit_exceeded", "message": "slow"})),
        Kind.RATE_LIMITED,
        sent=RESPONSES,
        text="",
    ),
    Row(
        "B29-response-without-an-end",
        wire(_ended("completed").partition(b"event: response.completed")[0]),
        TRUNCATED,
        "",
        sent=RESPONSES,
    ),
    Row("B30-nonsense-index", sse([piece("Hel", index=-4), *HELLO]), OK, flags=("streamed", "malformed_event")),
    Row("length", sse([*CUT, piece(reason="length"), "[DONE]"]), OK, flags=("streamed", "hit_token_limit")),
    Row("filtered", sse([*CUT, piece(reason="content_filter"), "[DONE]"]), Kind.POLICY),
    Row(
        "B1-short-length",
        saying(head(200, {"Content-Type": "text/event-stream", "Content-Length": "9999"}) + joined(CUT)),
        TRUNCATED,
        flags=(),
    ),
    Row("B2-no-last-chunk", saying(SSE_HEAD, chunk(joined(CUT))), TRUNCATED, flags=()),
    Row("B2-no-last-chunk-after-the-end", saying(SSE_HEAD, chunk(joined(HELLO))), OK),
    Row(
        "B2-reset-after-the-finish",
        saying(SSE_HEAD, chunk(joined(HELLO[:3])), then=_reset_later),
        OK,
        flags=("streamed", "no_done"),
    ),
    Row("B2-cut-in-the-finish", saying(SSE_HEAD, chunk(joined(HELLO[:3])[:-9])), TRUNCATED, flags=()),
    Row(
        "B3-unframed-cut",
        saying(head(200, {"Content-Type": "text/event-stream"}) + joined(CUT) + b'data: {"choices":[{"ind'),
        TRUNCATED,
        flags=("streamed", "malformed_event"),
    ),
    Row("B3-unframed-whole", saying(head(200, {"Content-Type": "text/event-stream"}) + joined(HELLO)), OK),
    Row("B4-gzip", squeezed(joined(HELLO)), OK),
    Row("B4-gzip-cut", squeezed(joined([*HELLO[:2], *[piece("o")] * 200, *HELLO[2:]]), -60), TRUNCATED),
    Row(
        "B5-bad-gzip",
        chunked([b"nonsense"], headers={"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}),
        Kind.PROTOCOL,
        "",
        ("encoding",),
    ),
    Row("A12-head-and-silence", saying(SSE_HEAD, then=Peer.hold), Kind.TIMEOUT_FIRST_BYTE, "", (), short(first_byte=0.04)),
    Row("A13-stall", saying(SSE_HEAD, chunk(joined(CUT)), then=Peer.hold), Kind.TIMEOUT_IDLE, flags=(), sent=short(idle=0.04)),
    Row(
        "A13-stall-after-the-finish",
        saying(SSE_HEAD, chunk(joined(HELLO[:3])), then=Peer.hold),
        OK,
        flags=("streamed", "no_done"),
        sent=short(idle=0.04),
    ),
    Row("401", json_reply(401, {"error": {"message": "who?"}}), Kind.DENIED, "", ()),
    Row("502-page-called-a-stream", reply(b"<html>502", 502, {"Content-Type": "text/event-stream"}), Kind.GATEWAY, "", ("html",)),
]


@BOTH_LOOPS
@pytest.mark.parametrize("row", TABLE, ids=[row.id for row in TABLE])
def test_what_a_stream_amounts_to(row: Row, run: Callable[..., Any]) -> None:
    async def case() -> tuple[Reply | Fault, Outcome]:
        return await heard(row.script, row.sent)

    answer, outcome = run(case())
    sent = row.sent or attempt()
    assert outcome.kind is row.kind, (answer, outcome)
    assert row.told in outcome.message
    assert row.code in outcome.code
    if row.kind is OK:
        assert outcome.flags == row.flags
        assert answer_text(sent.request.route, outcome.body) == row.text
        assert outcome.partial == b""
        json.loads(outcome.body)
    else:
        assert set(row.flags) - {"streamed"} <= set(outcome.flags)
        assert b"Hello" not in outcome.body or row.kind is Kind.POLICY, "a cut answer never stands where an answer would"
        assert row.kind is Kind.POLICY or answer_text(sent.request.route, outcome.partial or b"{}").startswith(row.text)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**6), max_size=12), st.sampled_from(["\n", "\r", "\r\n"]), st.integers(0, 5))
def test_b12_b13_any_cut_of_the_bytes_gives_the_same(places: list[int], line_end: str, whole: int) -> None:
    """Whole streams and cut ones: what it amounts to does not depend on the packets."""
    text = joined(HELLO[:whole] if whole else HELLO).replace(b"\n", line_end.encode())
    edges = sorted({0, len(text), *(place % len(text) for place in places)})
    parts = [text[start:end] for start, end in itertools.pairwise(edges)]

    def of(chunks: list[bytes]) -> object:
        stream = reception.Stream(request())
        said = sum(stream.feed(part) for part in chunks)
        return stream.finish(), stream.over, said > 0

    assert of(parts) == of([text])


# -- bounds


async def test_b16_an_endless_event_is_cut_at_the_cap() -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(SSE_HEAD, chunk(b"data: "))
        while sent < 1_000_000_000:
            await peer.send(chunk(b"x" * 1_000_000))
            sent += 1_000_000

    tracemalloc.start()
    try:
        answer, outcome = await heard(endless)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(answer, Fault)
    assert (answer.cause, outcome.kind) == (Cause.TOO_LARGE, Kind.RESPONSE_TOO_LARGE)
    assert sent < 60_000_000
    assert peak < 60_000_000


@pytest.mark.parametrize("part", [event(piece("x" * 400)), b": ping\n\n" * 70, b"\n" * 500], ids=["words", "comments", "blanks"])
@pytest.mark.parametrize("pause", [0.0, 0.001], ids=["at once", "bit by bit"])
async def test_a_stream_is_cut_at_the_cap_for_answers(part: bytes, pause: float) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(SSE_HEAD)
        while True:
            await peer.send(chunk(part) * 10 if not pause else chunk(part))
            sent += len(part)
            await asyncio.sleep(pause)

    answer, outcome = await heard(script, max_response=4096)
    assert outcome.kind is Kind.RESPONSE_TOO_LARGE
    assert isinstance(answer, Fault)
    assert not pause or sent < 40_000


async def test_long_evidence_is_kept_as_an_excerpt() -> None:
    _, outcome = await heard(sse([piece("y" * 3_000_000)]))
    assert outcome.kind is Kind.TRUNCATED
    assert json.loads(outcome.partial).startswith('{"id"')
    assert len(outcome.partial) < 20_000


# -- clocks


async def _words(peer: Peer, count: int, pause: float, text: object) -> None:
    for _ in range(count):
        await asyncio.sleep(pause)
        await peer.send(chunk(joined([text])))


async def test_an_answer_begins_with_its_first_word() -> None:
    """The head comes at once, and so does a role; the model only later. Neither the head nor pings are the beginning."""

    async def script(peer: Peer) -> None:
        await peer.request()
        role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
        await peer.send(SSE_HEAD, chunk(joined([role])))
        await _words(peer, 5, 0.02, PING)
        await peer.send(chunk(joined(HELLO)), LAST_CHUNK)

    answer, outcome = await heard(script, attempt(idle=0.05, first_byte=LONG))
    assert outcome.kind is Kind.OK
    assert outcome.timing.first_byte >= 0.09
    assert outcome.timing.gap < 0.05
    assert answer.timing.total >= outcome.timing.first_byte


async def test_a14_words_that_drip_end_with_the_total_deadline() -> None:
    async def drip(peer: Peer) -> None:
        await peer.request()
        await peer.send(SSE_HEAD)
        await _words(peer, 1000, 0.005, piece("x"))

    _answer, outcome = await heard(drip, attempt(idle=1.0, total=0.08))
    assert outcome.kind is Kind.TIMEOUT_TOTAL
    assert answer_text(Route.CHAT, outcome.partial).startswith("xx")


@pytest.mark.parametrize(
    "noise", [PING, b"\n\n", piece(""), {"choices": []}, b'event: ping\ndata: {"type": "ping"}\n\n'], ids=str
)
async def test_a15_noise_for_ever_is_no_progress(noise: object) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SSE_HEAD, chunk(joined(CUT)))
        await _words(peer, 1000, 0.005, noise)

    _, outcome = await heard(script, attempt(idle=0.06))
    assert outcome.kind is Kind.TIMEOUT_IDLE
    assert outcome.timing.gap >= 0.055


async def test_a15_words_are_progress_however_long_it_takes() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SSE_HEAD)
        await _words(peer, 12, 0.02, piece("x"))
        await peer.send(chunk(joined(HELLO)), LAST_CHUNK)

    answer, outcome = await heard(script, attempt(first_byte=0.12, idle=0.12))
    assert outcome.kind is Kind.OK
    assert answer.timing.total > 0.2


async def test_a_deadline_reviewed_before_the_first_word_is_that_of_the_first_word() -> None:
    phases: list[Phase] = []

    def review(attempt: Attempt, phase: Phase, age: float) -> float:
        phases.append(phase)
        return 0.03 if len(phases) < 3 else 0.0

    async with FaultServer(saying(SSE_HEAD, then=Peer.hold)) as server, to(server) as transport:
        ended = await transport.send(attempt(first_byte=0.03, idle=0.01), review)
    assert phases == [Phase.FIRST_BYTE] * 3
    assert isinstance(ended, Fault)
    assert (ended.phase, ended.status, ended.timing.first_byte) == (Phase.FIRST_BYTE, 200, 0.0)


# -- connections


async def test_twenty_streams_use_one_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(SSE_HEAD, chunk(joined(HELLO)))
            await asyncio.sleep(0.001)
            await peer.send(LAST_CHUNK)

    async with FaultServer(script) as server, to(server) as transport:
        for _ in range(20):
            answer = await transport.send(attempt(), never)
            assert isinstance(answer, Reply)
            assert answer.body
        assert server.connections == 1


@pytest.mark.parametrize("after", [b"", chunk(event("rubbish")), chunk(PING)], ids=["silence", "rubbish", "pings"])
async def test_b26_what_follows_done_is_waited_for_only_so_long(after: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "DRAIN", 0.03)
    async with FaultServer(saying(SSE_HEAD, chunk(joined(HELLO)), after, then=Peer.hold)) as server, to(server) as transport:
        async with asyncio.timeout(LONG):
            answers = [await transport.send(attempt(), never) for _ in range(2)]
        assert server.connections == 2
    assert all(isinstance(answer, Reply) and answer.body and not answer.missing for answer in answers)


async def test_b26_no_deadline_of_the_answer_runs_while_the_connection_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "DRAIN", 0.5)
    async with FaultServer(saying(SSE_HEAD, chunk(joined(HELLO)), then=Peer.hold)) as server, to(server) as transport:
        answer = await transport.send(attempt(first_byte=0.3, idle=0.3, total=0.3), never)
    assert isinstance(answer, Reply)
    assert answer.timing.total < 0.5, "clearing the connection is not the model's time"


async def test_done_counts_as_said_in_order_only_when_the_connection_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that breaks off says [DONE] too, and then breaks the framing (llama-cpp-python)."""
    monkeypatch.setattr(reception, "DRAIN", 0.03)
    text = chunk(joined([*CUT, COUNT, "[DONE]"]))
    ends: dict[str, Script] = {
        "in order": saying(SSE_HEAD, text, LAST_CHUNK, then=Peer.hold),
        "broken": saying(SSE_HEAD, text),
        "open": saying(SSE_HEAD, text, then=Peer.hold),
    }
    found = {name: await heard(script) for name, script in ends.items()}
    assert {name: answer.done for name, (answer, _) in found.items() if isinstance(answer, Reply)} == {
        "in order": True,
        "broken": False,
        "open": False,
    }
    assert {outcome.kind for _, outcome in found.values()} == {Kind.TRUNCATED}
    assert "unmarked" in found["in order"][1].flags
    assert "unmarked" not in found["broken"][1].flags + found["open"][1].flags


async def test_a_cancelled_stream_frees_its_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SSE_HEAD, chunk(joined(CUT)))
        asked.set()
        await peer.hold()
        left.set()

    async with FaultServer(script) as server, to(server) as transport:
        task = asyncio.create_task(transport.send(attempt(), never))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(left.wait(), LONG)


async def test_a_connection_that_dies_old_was_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that gives up after a minute closes used connections too; that is no race of ours with its keep-alive."""
    monkeypatch.setattr(faults, "_STALE", 0.02)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok_chat())
        await peer.opening()
        await asyncio.sleep(0.05)

    async with FaultServer(script) as server, to(server) as transport:
        await transport.send(attempt(stream=False), never)
        ended = await transport.send(attempt(stream=False), never)
    assert isinstance(ended, Fault)
    assert (ended.cause, ended.timing.reused) == (Cause.DISCONNECTED, True)


# -- what goes out


@pytest.mark.parametrize(
    ("route", "body", "stream", "usage", "sent"),
    [
        (Route.CHAT, b'{"model":"m"}', True, True, b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'),
        (Route.CHAT, b'{"model":"m"}', True, False, b'{"model":"m","stream":true}'),
        (Route.CHAT, b'{"stream": true}', False, False, b"{}"),
        (Route.CHAT, b'{"stream": false}', False, True, b'{"stream": false}'),
        (Route.COMPLETIONS, b"{}", True, True, b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (Route.RESPONSES, b"{}", True, True, b'{"stream":true}'),
        (Route.MESSAGES, b"{}", True, True, b'{"stream":true}'),
        (Route.RESPONSES, b'{"stream_options":{"x":1}}', True, True, b'{"stream_options":{"x":1},"stream":true}'),
        (Route.RESPONSES, b'{"stream_options":{"x":1}}', True, False, b'{"stream":true}'),
        (Route.HTTP, b'{"stream":true}', False, False, b'{"stream":true}'),
        (Route.EMBEDDINGS, b'{"stream":true}', False, False, b'{"stream":true}'),
    ],
)
async def test_d15_the_stream_that_is_asked_for_is_the_attempts(
    route: Route, body: bytes, stream: bool, usage: bool, sent: bytes
) -> None:
    asked = request(route, body=body, stream=b'"stream":true' in body.replace(b" ", b""))
    going = Attempt(asked, "e", 1, 0.0, Deadlines(LONG, LONG, LONG, LONG), stream=stream, usage=usage)
    async with FaultServer(ok_chat()) as server, to(server) as transport:
        await transport.send(going, never)
        assert server.requests[0].body == sent
        assert server.requests[0].headers["Content-Length"] == str(len(sent))


async def test_a_key_in_a_stream_is_taken_out_of_answers_and_of_evidence() -> None:
    key = "sk-canary-0123456789abcdef"
    parts = [piece("your key is sk-canary-01"), piece("23456789abcdef")]
    for end, kept in ((HELLO[2:], "body"), ([], "partial")):
        async with (
            FaultServer(sse([*parts, *end])) as server,
            Transport(
                "e",
                server.url,
                Connection(),
                redact=lambda text: text.replace(*(key, "[key]") if isinstance(text, str) else (key.encode(), b"[key]")),
            ) as transport,
        ):
            answer = await transport.send(attempt(), never)
        assert isinstance(answer, Reply)
        assert b"your key is [key]" in getattr(answer, kept)
        assert b"canary" not in answer.body + answer.partial
