"""Asking for a stream changes what is asked, and no other byte."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.asking import asking

KEYS = st.one_of(st.text(max_size=8), st.sampled_from(["stream", "stream_options", "model", "messages", "streams"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just('"stream": true, }{]['),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BLANKS = st.sampled_from(["", " ", "\n  ", "\t"])
OURS = {"stream", "stream_options"}


def member(key: str, value: Any, ascii_only: bool, around: tuple[str, str, str, str]) -> str:
    spelled = json.dumps(key, ensure_ascii=ascii_only)
    if ascii_only and key == "stream":
        spelled = '"\\u0073tream"'
    return around[0] + spelled + around[1] + ":" + around[2] + json.dumps(value, ensure_ascii=ascii_only) + around[3]


MEMBERS = st.lists(st.tuples(KEYS, VALUES, st.booleans(), st.tuples(BLANKS, BLANKS, BLANKS, BLANKS)), max_size=6)
WANTS = st.fixed_dictionaries({"stream": st.booleans(), "usage": st.booleans(), "options": st.booleans()})


def pairs(body: bytes) -> list[tuple[str, Any]]:
    """The object's members, repeated keys and all."""
    return json.loads(body, object_pairs_hook=list)  # type: ignore[no-any-return]


@settings(max_examples=300, deadline=None)
@given(MEMBERS, BLANKS, WANTS)
def test_every_other_member_keeps_its_bytes(members: list[Any], blank: str, wants: dict[str, bool]) -> None:
    parts = [member(*each).encode("utf-8", "surrogatepass") for each in members]
    body = (blank + "{").encode() + b",".join(parts) + ("}" + blank).encode()
    asked = asking(body, **wants)
    own = any(key == "stream_options" for key, *_ in members)
    speaks = any(key in OURS for key, *_ in members)
    kept = [
        part
        for part, (key, *_) in zip(parts, members, strict=True)
        if key not in OURS
        or (not wants["stream"] and not speaks)
        or (key == "stream_options" and wants["stream"] and wants["options"])
    ]
    added = [b'"stream":true'] if wants["stream"] else []
    if wants["stream"] and wants["usage"] and wants["options"] and not own:
        added.append(b'"stream_options":{"include_usage":true}')
    assert asked == (blank + "{").encode() + b",".join(kept + added) + ("}" + blank).encode()
    said = dict(pairs(asked)) if asked.strip() != b"{}" else {}
    assert said.get("stream", False) is wants["stream"]


@settings(max_examples=200, deadline=None)
@given(MEMBERS.filter(lambda members: not any(key in OURS for key, *_ in members)), BLANKS.filter(str.isspace), st.booleans())
def test_asking_for_a_stream_and_then_for_none_gives_the_body_back(members: list[Any], blank: str, usage: bool) -> None:
    body = b"{" + b",".join(member(*each).encode("utf-8", "surrogatepass") for each in members) + b"}"
    assert asking(asking(body, stream=True, usage=usage), stream=False) == body


@pytest.mark.parametrize(
    ("body", "stream", "usage", "options", "asked"),
    [
        (b"{}", True, False, True, b'{"stream":true}'),
        (b"{ }", True, True, True, b'{ "stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"a":{}}', True, False, True, b'{"a":{},"stream":true}'),
        (
            b'{"a":1e400, "a": 12345678901234567890 }\n',
            True,
            False,
            True,
            b'{"a":1e400, "a": 12345678901234567890 ,"stream":true}\n',
        ),
        (b'{"stream": false, "a": 1}', True, True, False, b'{ "a": 1,"stream":true}'),
        (b'{"stream":true,"a":"stream"}', False, False, True, b'{"a":"stream"}'),
        (b'{"a":1,"stream":true,"stream_options":{"include_usage":false}}', False, True, True, b'{"a":1}'),
        (
            b'{"a":1,"stream":true,"stream_options":{"include_usage":false}}',
            True,
            True,
            True,
            b'{"a":1,"stream_options":{"include_usage":false},"stream":true}',
        ),
        (b'{"a":{"stream":true}}', True, False, True, b'{"a":{"stream":true},"stream":true}'),
        (b'{"\\u0073tream":true,"a":1}', False, False, True, b'{"a":1}'),
        (b'{"a":"\\\\","stream":true}', False, False, True, b'{"a":"\\\\"}'),
        (b'{"a":"\\"stream\\":true,{"}', True, False, True, b'{"a":"\\"stream\\":true,{","stream":true}'),
    ],
)
def test_by_example(body: bytes, stream: bool, usage: bool, options: bool, asked: bytes) -> None:
    assert asking(body, stream=stream, usage=usage, options=options) == asked


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"7", b"{", b"}", b"[{}", b'["stream"]', b"nonsense stream"])
def test_what_is_no_object_stays(body: bytes) -> None:
    assert asking(body, stream=True, usage=True) == body
    assert asking(body, stream=False) == body


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), WANTS)
def test_no_bytes_raise(noise: bytes, wants: dict[str, bool]) -> None:
    asking(noise, **wants)
    asking(b'{"stream' + noise + b"}", **wants)
    asking(b'{"\\u00' + noise + b'":1}', **wants)
