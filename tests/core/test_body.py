"""Any bytes become one line of JSON, or nothing."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.body import ANY, excerpt, printable, quoted, read, value_of


@pytest.mark.parametrize(
    ("body", "line", "flags"),
    [
        (b'{"a":1}', b'{"a":1}', ()),
        (b'\r\n\n {"a":\r\n 1.50}\n', b'{"a":   1.50}', ()),
        (b'{"a":12345678901234567890.10, "b":"\\u00e9\\/"}', b'{"a":12345678901234567890.10, "b":"\\u00e9\\/"}', ()),
        ('\ufeff{"a":"é\u2028"}'.encode(), '{"a":"é\u2028"}'.encode(), ()),
        (b'{"a":"\xff"}', '{"a":"\ufffd"}'.encode(), ("invalid_utf8",)),
        (b'{"a":"\\ud83d"}', b'{"a":"\\ufffd"}', ("lone_surrogate",)),
        (b'{"a":"\\ud83d\\ude00 \\\\ud83d"}', b'{"a":"\\ud83d\\ude00 \\\\ud83d"}', ()),
        (b'{"a":[NaN,-Infinity,"NaN \\" NaN"]}', b'{"a":[null,null,"NaN \\" NaN"]}', ("not_finite",)),
        (b'{"a":NaN,"b":"\\ude00"}', b'{"a":null,"b":"\\ufffd"}', ("not_finite", "lone_surrogate")),
        (b'{"a":1', b"", ()),
        (b'{"a":"x\ny"}', b"", ()),
        (b"<html>", b"", ()),
        (b"[" * 100_000 + b"]" * 100_000, b"", ()),
        (b"", b"", ()),
    ],
)
def test_read(body: bytes, line: bytes, flags: tuple[str, ...]) -> None:
    got, _, told = read(body, ANY)
    assert (got, told) == (line, flags)


def test_half_a_wrong_shape_is_not_json() -> None:
    from msgspec.json import Decoder

    decoder = Decoder(dict[str, int])
    assert read(b'{"a":"x"}', decoder) == (b'{"a":"x"}', None, ())
    assert read(b'{"a":"x"', decoder) == (b"", None, ())


def test_texts_and_bytes_are_quoted() -> None:
    assert quoted("é\n\x1b".encode()) == '"é\\n\\u001b"'.encode()
    assert json.loads(quoted(b"\xff\x00")) == {"base64": "/wA="}
    assert json.loads(excerpt(b"abc\xff", 2)) == "ab"


def test_printable_escapes_what_could_steer_a_terminal_or_break_a_file() -> None:
    assert printable("a\nb\x1b[31m\u202e\ud83dé", 99) == "a\\nb\\x1b[31m\\u202e\\ud83dé"
    assert len(printable("\x00" * 50, 40)) == 40


@settings(max_examples=300, deadline=None)
@given(
    st.binary()
    | (st.text() | st.text("\ud83d\ude00\\u")).map(lambda text: json.dumps(text).encode())
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda value: json.dumps(value, indent=1).encode())
)
def test_a_line_is_one_line_that_json_accepts_and_says_the_same(body: bytes) -> None:
    line, _, flags = read(body, ANY)
    assert b"\n" not in line
    assert b"\r" not in line
    if line:
        told = orjson.loads(line)
        assert value_of(line) == json.loads(line) == told
        if not flags:
            assert told == json.loads(body)
    assert "\n" not in json.loads(quoted(body)) or b"\n" in body
