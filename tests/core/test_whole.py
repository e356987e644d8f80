"""What is read at a glance is what aiohttp's parser would have read; the rest is left to it."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.http import HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.core.whole import whole
from tests.server import chunked, head, ok_chat, reply

BODY = b'{"choices": []}'
SIZED = ("Content-Length", str(len(BODY)))


def parsed(chunk: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """The one plain reply that aiohttp sees in `chunk`, with its connection still good; anything else fails the test."""
    protocol: Any = SimpleNamespace(resume_reading=lambda resume_parser=True: None)
    limits = {"max_line_size": 2**15, "max_field_size": 2**15, "max_headers": 256}
    parser = HttpResponseParser(protocol, object(), 2**16, payload_exception=ClientPayloadError, read_until_eof=True, **limits)
    ((message, payload),), upgraded, tail = parser.feed_data(chunk)
    assert (message.should_close, message.compression, message.chunked, upgraded, tail) == (False, None, False, False, b"")
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


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(reply(BODY)[:-1], id="cut"),
        pytest.param(reply(BODY) + b"\n", id="more than it says"),
        pytest.param(ok_chat() + ok_chat(), id="two"),
        pytest.param(head(200) + BODY, id="no length"),
        pytest.param(head(200, [SIZED, SIZED]) + BODY, id="length twice"),
        pytest.param(head(200, {"Content-Length": f"0{len(BODY)}"}) + BODY, id="length written oddly"),
        pytest.param(head(200, {"Content-Length": "9" * 5000}) + BODY, id="length beyond counting"),
        pytest.param(chunked([BODY]), id="chunked"),
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


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Transfer-Encoding", "Connection", "Content-Encoding", "X-A", "x-a", "B:"]
)
VALUES = st.one_of(
    st.sampled_from([str(len(BODY)), "chunked", "gzip", "keep-alive", "close", "", "0"]), st.text(" \t\x00é\r\nab:,")
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([b"", b"\r\n", b"\n", b" ", b"\0", b":", b"1", b"\r\n\r\n"])), max_size=3
)


@settings(max_examples=500, deadline=None)
@given(FIELDS, EDITS, st.booleans())
@example([], [], True)
def test_what_is_read_is_what_aiohttp_reads(fields: list[tuple[str, str]], edits: list[tuple[int, bytes]], sized: bool) -> None:
    chunk = head(200, [*fields, *([SIZED] if sized else [])]) + BODY
    for at, piece in edits:
        chunk = chunk[:at] + piece + chunk[at + (not piece) :]
    if answer := whole(chunk):
        status, headers, body = parsed(chunk)
        assert (answer.status, answer.body) == (status, body)
        assert list(answer.headers.items()) == headers
