"""What is said of a plain line at a glance is what the parsed request says; of any other line nothing is said."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchrunner.core.model import Request
from batchrunner.formats import parse
from batchrunner.glance import Plain, glance
from batchrunner.glance import request as at_a_glance
from batchrunner.lines import Line, Oversized

FREELY = settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
ORIGINS = ("https://api.example.com",)
CHAT = {"model": "m-1", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 40}


def chat(body: object = CHAT, **fields: object) -> bytes:
    return json.dumps({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body} | fields).encode()


def agrees(raw: Line) -> bool:
    """Whether the line is plain; if so, it is a request that says the same. Its neighbours make no difference."""
    [seen] = glance([raw], ORIGINS)
    assert glance([chat(), raw], ORIGINS) == [Plain("r-1", "m-1", len(json.dumps(CHAT)) / 4, 40, 1), seen]
    if seen is None:
        assert at_a_glance(raw, 1, ORIGINS) is None
        return False
    request = parse(raw, 1, ORIGINS)
    assert isinstance(request, Request), request.error
    assert at_a_glance(raw, 1, ORIGINS) == request
    told = (request.id, request.model, request.prompt_tokens, request.max_tokens, max(1, request.choices))
    assert told == (seen.id, seen.model, seen.prompt_tokens, seen.max_tokens, seen.choices)
    return True


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3},
        {"max_completion_tokens": 7},
        {"temperature": 0, "top_p": 0.5, "seed": 1 << 80, "stop": ["a"], "user": "ü", "stream": True},
        {"response_format": {"type": "json_schema", "json_schema": {"a": [1, None]}}},
    ],
)
def test_ordinary_lines_are_plain(more: dict[str, Any]) -> None:
    assert agrees(chat(CHAT | more))
    assert agrees(json.dumps({"custom_id": "a", "url": "https://api.example.com/v1/chat/completions", "body": CHAT}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        Oversized(9, 5, "ab"),
        chat().replace(b'"custom_id": "r-1"', b'"custom_id": ""'),
        chat().replace(b'"r-1"', b'"r-1", "custom_id": "r-2"'),
        chat().replace(b'"r-1"', b"null"),
        chat(headers={"x-a": "b"}),
        chat(note=1),
        chat(method="post"),
        chat(url="/v1/embeddings"),
        chat(url="https://elsewhere.example/v1/chat/completions"),
        chat(CHAT | {"max_tokens": 0}),
        chat(CHAT | {"n": 1.0}),
        chat(CHAT | {"tools": []}),
        chat(CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        chat([]),
        b'{"body": {"messages": []}, "custom_id": "a", "url": "/v1/chat/completions"}',
        chat().replace(b"Say hello.", b"\xff"),
        chat().replace(b"Say hello.", b"\\ud800"),
    ],
)
def test_others_are_not(raw: Line) -> None:
    assert not agrees(raw)


@given(
    st.dictionaries(
        st.sampled_from(["model", "n", "max_tokens", "max_completion_tokens", "seed", "stop", "user", "temperature", "input"]),
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3) | st.just(10**30),
    ),
    st.integers(0, 300),
    st.binary(max_size=3),
)
@example({}, 20, b'"')
@FREELY
def test_whatever_became_of_a_line(more: dict[str, object], at: int, damage: bytes) -> None:
    raw = chat(CHAT | more)
    agrees(raw)
    agrees(raw[:at] + damage + raw[at:])
    agrees(raw[:at] + damage + raw[at + len(damage) :])
    agrees(raw[:at])


@given(st.permutations(["custom_id", "method", "url", "body"]), st.sampled_from(["url", "method", "custom_id", "body", "x"]))
@FREELY
def test_in_any_order_and_with_a_key_twice(order: list[str], twice: str) -> None:
    fields = json.loads(chat())
    parts = [f"{json.dumps(key)}: {json.dumps(fields[key])}" for key in order]
    agrees(f"{{{', '.join(parts)}}}".encode())
    again = f"{json.dumps(twice)}: {json.dumps(fields.get(twice))}"
    assert not agrees(f"{{{again}, {', '.join(parts)}}}".encode())
    assert not agrees(f"{{{', '.join(parts)}, {again}}}".encode())
