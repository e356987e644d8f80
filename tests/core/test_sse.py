"""Server-sent events: whatever the cuts, the same events; whatever the bytes, bounded memory."""

import itertools
import re
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.core.sse import Decoder, EventTooLarge, ServerEvent, plain

BOM = b"\xef\xbb\xbf"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def decode(chunks: Iterable[bytes]) -> list[ServerEvent]:
    """All events, the unclosed one included."""
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    last = decoder.finish()
    return events + ([last] if last else [])


def shortly(chunks: Iterable[bytes]) -> list[ServerEvent]:
    """The same, by the short way for what allows it."""
    decoder, events = Decoder(), list[ServerEvent]()
    for chunk in chunks:
        whole = decoder.closed(chunk)
        texts = plain(whole)
        events += decoder.events(whole) if texts is None else [ServerEvent("", text) for text in texts]
    last = decoder.finish()
    return events + ([last] if last else [])


def slowly(text: bytes) -> list[ServerEvent]:
    """The same by the letter of the standard, line by line, on the whole text."""
    events, name, lines, done = [], b"", [], False
    for line in [*re.split(rb"\r\n|\r|\n", text.removeprefix(BOM)), b""]:
        field, colon, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if lines or done:
                events.append(ServerEvent(name.decode(errors="replace"), b"\n".join(lines) if lines else b"[DONE]"))
            name, lines, done = b"", [], False
        elif field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
        elif not colon and line.rstrip() == b"[DONE]":
            done = True
    return events


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


TEXTS = {
    "plain": (DELTA * 3, [ServerEvent("", DELTA[6:-2])] * 3),
    "B13 CR": (b"data: a\r\rdata: b\r\r", [ServerEvent("", b"a"), ServerEvent("", b"b")]),
    "B13 CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [ServerEvent("", b"a"), ServerEvent("", b"b")]),
    "B13 CRLF between lines": (b"data: a\r\ndata: b\r\n\r\n", [ServerEvent("", b"a\nb")]),
    "B13 mixed": (b"data: a\n\r\ndata: b\r\n\rdata: c\r\n\n", [ServerEvent("", text) for text in (b"a", b"b", b"c")]),
    "B13 BOM": (BOM + b"data: a\n\n" + BOM + b"data: b\n\n", [ServerEvent("", b"a")]),
    "B13 BOM alone": (BOM, []),
    "B14 lines": (b"data: a\ndata:b\ndata:  c\ndata\n\n", [ServerEvent("", b"a\nb\n c\n")]),
    "B14 no space": (b"data:a\n\ndata:b\n\n", [ServerEvent("", b"a"), ServerEvent("", b"b")]),
    "B14 comments": (b": ping\n\n:\n\ndata: a\n: PING\n\n", [ServerEvent("", b"a")]),
    "B14 comment before data": (b": ping\ndata: a\n\n", [ServerEvent("", b"a")]),
    "B14 fields": (b"id: 1\nretry: 5\nfoo: bar\nfoo\nevent: x\ndata: a\n\n", [ServerEvent("x", b"a")]),
    "B14 names": (b"event: x\ndata: a\n\nevent:y\ndata:b\n\n", [ServerEvent("x", b"a"), ServerEvent("y", b"b")]),
    "B14 name after data": (b"data: a\nevent: x\n\n", [ServerEvent("x", b"a")]),
    "B14 name without data": (b"event: x\n\ndata: a\n\n", [ServerEvent("", b"a")]),
    "B14 two lines after a name": (b"event: x\ndata: a\ndata: b\n\n", [ServerEvent("x", b"a\nb")]),
    "B14 two lines, three breaks": (b"data: a\ndata: b\n\n", [ServerEvent("", b"a\nb")]),
    "B14 empty data": (b"data:\n\ndata: \n\n", [ServerEvent("", b"")] * 2),
    "B14 more blank lines": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n\n", [ServerEvent("", b"a"), ServerEvent("", b"b")]),
    "B24 odd name": (b"event: \xff\ndata: \xff\n\n", [ServerEvent("�", b"\xff")]),
    "DONE": (b"data: [DONE]\n\n", [ServerEvent("", b"[DONE]")]),
    "DONE without space": (b"data:[DONE]\n\n", [ServerEvent("", b"[DONE]")]),
    "DONE bare": (b"data: a\n\n[DONE]  \n\n", [ServerEvent("", b"a"), ServerEvent("", b"[DONE]")]),
    "DONE bare beside data": (b"data: a\n[DONE]\n\n", [ServerEvent("", b"a")]),
    "no blank line at the end": (b"data: a\n\ndata: b", [ServerEvent("", b"a"), ServerEvent("", b"b")]),
    "nothing": (b"", []),
    "U+2028 and other false line ends": (
        "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
        [ServerEvent("", "a\u2028b\u0085c\x0bd\x0ce\x1cf".encode())],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_events_of_a_text(name: str) -> None:
    text, events = TEXTS[name]
    assert slowly(text) == events, "the table itself"
    assert decode([text]) == events


@pytest.mark.parametrize("name", TEXTS)
def test_b12_every_cut_gives_the_same(name: str) -> None:
    text, whole = TEXTS[name]
    assert decode(text[at : at + 1] for at in range(len(text))) == whole
    for place in range(len(text)):
        assert decode([text[:place], b"", text[place:]]) == whole


PIECES = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"data:", b"data", b"event: ", b"event:x", b": c", b":", b" ", b"[DONE]"),
        *(b'{"a":1}', DELTA, b"event: x\ndata: y\n\n", b"id: 1\n", "é€😀".encode(), b"\xff", BOM),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=14).map(b"".join), st.lists(st.integers(0, 10**6), max_size=8))
@example(b"data: a\r\n\r\n", [8, 9])
@example(b"event: \ndata: \n\n", [])
def test_any_cut_of_any_text_gives_what_the_standard_says(text: bytes, places: list[int]) -> None:
    assert decode(cut(text, places)) == shortly(cut(text, places)) == slowly(text)
    assert shortly(re.split(rb"(?<=\n\n)", text)) == slowly(text)


def test_the_short_way_takes_events_of_one_line_of_data_and_no_others() -> None:
    assert plain(b"data: a\n\n") == [b"a"]
    assert plain(b"data: \n\ndata: b: c\n\n") == [b"", b"b: c"]
    others = [
        b"",
        b"\n\n",
        b"data: a\ndata: b\n\n",
        b"data:a\n\n",
        b"data: a\n\n\n\n",
        b"data: a\n\nevent: b\ndata: c\n\n",
        b": a\n\n",
    ]
    assert [plain(whole) for whole in others] == [None] * len(others)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60) | PIECES, max_size=30), st.integers(1, 64))
def test_any_bytes_raise_nothing_but_too_large(chunks: list[bytes], limit: int) -> None:
    decoder = Decoder(limit)
    for chunk in chunks:
        try:
            events = decoder.feed(chunk)
        except EventTooLarge:
            continue
        assert all(len(event.data) <= limit for event in events)
        assert len(decoder._open) <= limit
    decoder.finish()


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [ServerEvent("", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerEvent("", b"b")]


def test_b15_five_megabytes_in_one_line() -> None:
    line = b"A" * 5_000_000
    text = b"data: " + line + b"\n\n"
    assert decode(text[at : at + 65_536] for at in range(0, len(text), 65_536)) == [ServerEvent("", line)]


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20], ids=lambda size: f"chunks of {size}")
def test_b16_an_event_beyond_the_cap(size: int) -> None:
    def feed(length: int) -> list[ServerEvent]:
        decoder = Decoder(10_000)
        text = b"data: first\n\ndata: " + b"x" * (length - 6) + b"\n\n"
        return [event for at in range(0, len(text), size) for event in decoder.feed(text[at : at + size])]

    assert [len(event.data) for event in feed(10_000)] == [5, 9_994]
    with pytest.raises(EventTooLarge, match="10000 bytes"):
        feed(10_001)


def test_b16_an_endless_event_takes_no_memory_beyond_the_cap() -> None:
    decoder, chunk, cap = Decoder(1 << 20), b"x" * 65_536, 1 << 20
    tracemalloc.start()
    try:
        for _ in range(200):
            try:
                decoder.feed(chunk)
            except EventTooLarge:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * cap


def test_a_long_line_in_tiny_chunks_takes_linear_time() -> None:
    decoder, chunk = Decoder(1 << 26), b"abcdefgh" * 16
    decoder.feed(b"data: ")
    for _ in range(400_000):  # what copies or searches its rest for each chunk would move 10 TB here, and time out
        decoder.feed(chunk)
    assert len(decoder.feed(b"\n\n")[0].data) == 400_000 * len(chunk)


def test_blank_lines_without_end_are_not_kept() -> None:
    decoder = Decoder(100)
    for _ in range(1000):
        assert decoder.feed(b"\n\r\n\r") == []
    assert decoder.feed(b"data: a\n\n") == [ServerEvent("", b"a")]
