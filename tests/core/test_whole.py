"""What is read at a glance is what aiohttp's parser would have read; the rest is left to it."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.http import HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.core.whole import end_of, whole
from tests.server import LAST_CHUNK, chunk, chunked, chunked_head, head, ok_chat, reply

BODY = b'{"choices": []}'
SIZED = ("Content-Length", str(len(BODY)))


def parsed(chunk: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """The one plain reply that aiohttp sees in `chunk`, with its connection still good; anything else fails the test."""
    protocol: Any = SimpleNamespace(resume_reading=lambda resume_parser=True: None)
    limits = {"max_line_size": 2**15, "max_field_size": 2**15, "max_headers": 256}
    parser = HttpResponseParser(protocol, object(), 2**16, payload_exception=ClientPayloadError, read_until_eof=True, **limits)
    ((message, payload),), upgraded, tail = parser.feed_data(chunk)
    assert (message.should_close, message.compression, upgraded, tail) == (False, None, False, b"")
    assert payload.is_eof()
    return message.code, [(name.lower(), value) for name, value in message.headers.items()], payload.read_nowait()


def test_a_plain_reply_is_read() -> None:
    answer = whole(reply(BODY, headers={"X-Request-ID": " req-1\t", "Connection": "Keep-Alive", "x-empty": ""}))
    assert answer
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers == {
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "x-request-id": "req-1",
        "connection": "Keep-Alive",
        "x-empty": "",
    }


def test_a_plain_reply_in_chunks_is_read() -> None:
    answer = whole(chunked([BODY[:5], BODY[5:], b"\r\n0\r\n\r\n"]))
    assert answer
    assert answer.body == BODY + b"\r\n0\r\n\r\n"
    assert answer.headers["transfer-encoding"] == "chunked"


PIECE = chunk(BODY)


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(chunked_head() + PIECE, id="no last chunk"),
        pytest.param(chunked_head() + PIECE + b"0\r\n", id="half a last chunk"),
        pytest.param(chunked_head() + LAST_CHUNK, id="the last chunk alone"),
        pytest.param(chunked_head() + PIECE + LAST_CHUNK + LAST_CHUNK, id="two last chunks"),
        pytest.param(chunked([BODY]) + ok_chat(), id="more after the last chunk"),
        pytest.param(chunked_head() + PIECE + b"0\r\nX: y\r\n\r\n", id="a trailer"),
        pytest.param(chunked_head() + PIECE.replace(b"\r\n", b";a=b\r\n", 1) + LAST_CHUNK, id="an extension"),
        pytest.param(chunked_head() + PIECE.replace(BODY, BODY + b"x") + LAST_CHUNK, id="a chunk longer than it says"),
        pytest.param(chunked_head() + PIECE.replace(BODY, BODY[:-1]) + LAST_CHUNK, id="a chunk shorter than it says"),
        pytest.param(chunked_head() + PIECE[:-2] + b"xx" + PIECE + LAST_CHUNK, id="a chunk that ends otherwise"),
        pytest.param(chunked_head() + b"7fffffff\r\n" + BODY + b"\r\n" + LAST_CHUNK, id="a chunk that is not all there"),
        pytest.param(chunked_head() + b"-1\r\n" + BODY + b"\r\n" + LAST_CHUNK, id="no size"),
        pytest.param(chunked_head(200, {"Content-Length": "15"}) + PIECE + LAST_CHUNK, id="chunked and a length"),
        pytest.param(chunked([BODY], headers={"Transfer-Encoding": "gzip, chunked"}), id="chunked and encoded"),
        pytest.param(b"", id="nothing"),
        pytest.param(reply(BODY)[:-1], id="cut"),
        pytest.param(reply(BODY) + b"\n", id="more than it says"),
        pytest.param(ok_chat() + ok_chat(), id="two"),
        pytest.param(head(200) + BODY, id="no length"),
        pytest.param(head(200, [SIZED, SIZED]) + BODY, id="length twice"),
        pytest.param(head(200, {"Content-Length": f"0{len(BODY)}"}) + BODY, id="length written oddly"),
        pytest.param(head(200, {"Content-Length": "9" * 5000}) + BODY, id="length beyond counting"),
        pytest.param(reply(BODY, headers={"Transfer-Encoding": "identity"}), id="transfer encoding"),
        pytest.param(reply(BODY, headers={"Content-Encoding": "gzip"}), id="encoded"),
        pytest.param(reply(BODY, headers={"Content-Type": "Text/Event-Stream; charset=utf-8"}), id="a stream"),
        pytest.param(reply(BODY, headers={"Connection": "close"}), id="closing"),
        pytest.param(reply(BODY, headers={"Upgrade": "h2c"}), id="upgrade"),
        pytest.param(reply(BODY, 429), id="429"),
        pytest.param(reply(b"", 204), id="204"),
        pytest.param(head(100) + reply(BODY), id="100 first"),
        pytest.param(reply(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(reply(BODY).replace(b"\r\n", b"\n"), id="bare LF"),
        pytest.param(reply(BODY, headers={"X": "a\r\n b"}), id="folded"),
        pytest.param(reply(BODY, headers={"X": "é"}), id="beyond ASCII"),
        pytest.param(reply(BODY, headers={"X": "a\x1b[31m"}), id="control character"),
        pytest.param(reply(BODY, headers={"X Y": "a"}), id="a name with a blank"),
        pytest.param(reply(BODY, headers={"X ": "a"}), id="a blank before the colon"),
        pytest.param(reply(BODY, headers={"X": "y" * 33_000}), id="a head that is too large"),
        pytest.param(reply(BODY, headers={f"X-{n}": "" for n in range(300)}), id="too many fields"),
    ],
)  # fmt: skip
def test_anything_else_is_not(chunk: bytes) -> None:
    assert whole(chunk) is None


@pytest.mark.parametrize(
    "alone",
    [
        reply(BODY),
        reply(BODY, 429),
        reply(b""),
        reply(BODY, headers={"Content-Encoding": "gzip"}),
        reply(BODY).replace(b"Content-Length: ", b"content-length:\t"),
    ],
)
@pytest.mark.parametrize("more", [b"", b"x", b"\r\n", ok_chat()])
def test_a_reply_ends_where_its_head_says(alone: bytes, more: bytes) -> None:
    assert end_of(alone + more) == len(alone)
    assert end_of(alone[:-1]) == len(alone) - 1


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(head(204, [SIZED]) + BODY * 2, id="204"),
        pytest.param(head(304, [SIZED]) + BODY * 2, id="304"),
        pytest.param(head(100, [SIZED]) + BODY + reply(BODY), id="100 first"),
        pytest.param(head(200, [SIZED, SIZED]) + BODY * 2, id="length twice"),
        pytest.param(chunked_head(200, {"Content-Length": "2"}) + PIECE + LAST_CHUNK, id="chunked and a length"),
        pytest.param(head(200, {"Transfer-Encoding": "2"}) + BODY, id="another field"),
        pytest.param(head(200) + BODY, id="no length"),
        pytest.param(head(200, {"Content-Length": "-2"}) + BODY, id="no number"),
        pytest.param(head(200, {"Content-Length": "2" * 5000}) + BODY, id="length beyond counting"),
        pytest.param(head(200, {"X": "y" * 33_000, "Content-Length": "2"}) + BODY, id="a head that is too large"),
        pytest.param(b"SSH-2.0\r\nContent-Length: 2\r\n\r\nabc", id="no HTTP"),
    ],
)
def test_where_a_head_does_not_tell_its_end_nothing_is_cut(chunk: bytes) -> None:
    assert end_of(chunk) == len(chunk)


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Transfer-Encoding", "Connection", "Content-Encoding", "X-A", "x-a", "B:"]
)
VALUES = st.one_of(
    st.sampled_from([str(len(BODY)), "chunked", "gzip", "keep-alive", "close", "", "0"]), st.text(" \t\x00é\r\nab:,")
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([b"", b"\r\n", b"\n", b" ", b"\0", b":", b"1", b"F", b"\r\n\r\n"])), max_size=3
)
BODIES = st.one_of(
    st.tuples(st.sampled_from([[SIZED], []]), st.just(BODY)),
    st.tuples(
        st.just([("Transfer-Encoding", "chunked")]),
        st.lists(st.sampled_from([BODY, b"x" * 17, LAST_CHUNK])).map(lambda parts: b"".join(map(chunk, parts)) + LAST_CHUNK),
    ),
)


@settings(max_examples=700, deadline=None)
@given(FIELDS, EDITS, BODIES)
@example([], [], ([SIZED], BODY))
def test_what_is_read_is_what_aiohttp_reads(
    fields: list[tuple[str, str]], edits: list[tuple[int, bytes]], framed: tuple[list[tuple[str, str]], bytes]
) -> None:
    text = head(200, [*fields, *framed[0]]) + framed[1]
    for at, piece in edits:
        text = text[:at] + piece + text[at + (not piece) :]
    if answer := whole(text):
        status, headers, body = parsed(text)
        assert (answer.status, answer.body) == (status, body)
        assert list(answer.headers.items()) == headers
