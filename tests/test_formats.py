"""One input line: what becomes a request, what is refused in which words, and that nothing ever raises."""

import json
import sys
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchrunner import formats
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.formats import parse
from batchrunner.identity import digests, identify, is_made, names
from batchrunner.lines import Oversized, blank
from batchrunner.numbers import number_of

CHAT = {"model": "m-1", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 40}
DEEP = 100_000


def written(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def chat(**fields: Any) -> bytes:
    return written(**{"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT} | fields)


def good(raw: bytes, **options: Any) -> Request:
    request = parse(raw, 7, **options)
    assert isinstance(request, Request), request.error
    return request


def bad(raw: bytes | Oversized, **options: Any) -> Result:
    result = parse(raw, 7, **options)
    assert isinstance(result, Result), "this line should have been refused"
    assert result.kind is Kind.INVALID
    assert result.error is not None
    assert result.error.code == "E203"
    assert result.error.message
    assert result.error.hint
    assert (result.request.id, result.request.digest) == identify(raw, 7)
    assert result.request.line == 7
    return result


def why(raw: bytes, **options: Any) -> str:
    error = bad(raw, **options).error
    assert error
    return error.message


def test_a_chat_line() -> None:
    raw = chat()
    request = good(raw)
    assert (request.line, request.id) == (7, "r-1")
    assert (request.route, request.method, request.path) == (Route.CHAT, "POST", "/v1/chat/completions")
    assert (request.model, request.max_tokens, request.choices, request.images, request.stream) == ("m-1", 40, 1, 0, False)
    assert request.body == json.dumps(CHAT).encode()
    assert request.headers == ()


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("/v1/chat/completions", Route.CHAT),
        ("/chat/completions", Route.CHAT),
        ("/v1/chat/completions/", Route.CHAT),
        ("/api/chat/completions", Route.CHAT),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", Route.CHAT),
        ("/v1beta/openai/chat/completions", Route.CHAT),
        ("/v1/responses", Route.RESPONSES),
        ("/openai/v1/responses", Route.RESPONSES),
        ("/v1/embeddings", Route.EMBEDDINGS),
        ("/openai/deployments/e/embeddings?api-version=1", Route.EMBEDDINGS),
        ("/v1/completions", Route.COMPLETIONS),
        ("/completions", Route.COMPLETIONS),
        ("/v1/moderations", Route.MODERATIONS),
        ("/v1/images/generations", Route.IMAGES),
        ("/v1/messages", Route.MESSAGES),
        ("/messages", Route.MESSAGES),
        ("/inbox/messages", Route.HTTP),
        ("/v1/messages/batches", Route.HTTP),
        ("/v1/rerank", Route.HTTP),
        ("/chatcompletions", Route.HTTP),
        ("/survey/responses", Route.HTTP),
    ],
)
def test_the_url_tells_the_route(url: str, route: Route) -> None:
    request = good(chat(url=url))
    assert (request.route, request.path) == (route, url)


def test_an_absolute_url_needs_an_endpoint_of_that_origin() -> None:
    raw = chat(url="https://api.example.com/v1/chat/completions")
    assert good(raw, origins=["https://api.example.com"]).path == "/v1/chat/completions"
    assert "origin" in why(raw, origins=["https://other.example.com"])
    assert "origin" in why(raw)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/v1/chat/completions",
        "//evil.example/v1/chat/completions",
        "http:evil",
        "\\\\evil",
        "/v1/../../x",
        "/v1/%2e%2e/x",
        "https://u:p@api.example.com/v1",
        "/v1/chat\r\nHost: evil",
        "file:///etc/passwd",
        "v1/chat/completions",
    ],
)
def test_d14_no_url_leaves_the_endpoint(url: str) -> None:
    bad(chat(url=url), origins=("https://api.example.com",))


# -- D6 to D9: what is JSON


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "column 1"),
        (b"\0\0\0\0", "column 1"),
        (b"[1, 2]", "an array, not an object"),
        (b"[", "column 2"),
        (b"5", "a number"),
        (b'"text"', "a string"),
        (b"null", "null"),
        (b"true", "a truth value"),
        (b"{} {}", "column 4"),
        (b'{"url": "/x", "body": {}},', "unexpected content"),
        (b'{"url": "/x", "body": {"a": 01}}', "leading zero"),
        (b'{"url": "/x", "body": {"a": NaN}}', "column 29"),
        (b'{"url": "/x", "body": {"a": Infinity}}', "column 29"),
        (b'{"url": "/x", "body": {"a": 1e999}}', "infinity"),
        (b'{"url": "/x", "body": {"a": "\\ud800"}}', "surrogate"),
        (b'{"url": "/x", "body": {"a": "\xff"}}', "byte 30 is not UTF-8"),
        (b'{"url": "/x", "note": "\xff"}', "byte 24 is not UTF-8"),
        (b'{"url": "/x", "body": {"a": "\t"}}', "control character"),
        (b'{"url": "/x", "body": ' + b"[" * DEEP + b"]" * DEEP + b"}", "depth"),
        (b'{"url": "/x", "note": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", "depth"),
        (b'{"url": "/x", "body": {"a": "cut o', "end of data"),
    ],
)
def test_d5_to_d8_what_is_no_json_is_refused_with_its_place(raw: bytes, says: str) -> None:
    assert says in why(raw)


def test_the_hint_fits_how_the_file_is_written() -> None:
    def hint(raw: bytes) -> str:
        error = bad(raw).error
        assert error
        return error.hint

    assert "jq -c '.[]'" in hint(b"[")
    assert "jq -c '.[]'" in hint(b'[{"url": "/x"}, {"url": "/y"}]')
    assert "jq -c . " in hint(b"{")
    assert "still being written" in hint(b'{"custom_id": "r-1", "url": "/v1/ch')
    assert "utf-8" in hint(b'{"custom_id": "\xe9"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 123456789012345678901234567890}',
        b'{"a": 0.12345678901234567, "b": -0, "c": 1E+2}',
        b'{"z": 1, "a": 2, "z": 3}',
        b'{ "spaced" :\t[ 1 , 2 ] }',
        b'{"a": "\\u00e9\\/ \xc3\xa9 \xe2\x80\xa8"}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": -' + b"9" * 400 + b', "b": [1.5, ' + b"8" * 400 + b"]}",
        b"[1, 2]",
        b'"a text"',
        b"17",
        b"false",
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
@pytest.mark.parametrize("order", ["last", "first"])
def test_d9_the_body_is_forwarded_byte_for_byte(body: bytes, order: str) -> None:
    raw = b'{"url": "/x", "body": ' + body + b"}" if order == "last" else b'{"body":  ' + body + b' , "url": "/x"}'
    assert good(raw).body == body


def test_d9_a_long_number_beside_an_infinite_one_saves_nothing() -> None:
    assert "infinity" in why(b'{"url": "/x", "body": [' + b"9" * 400 + b", 1e999]}")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"custom_id": "a", "custom_id": "b", "url": "/x"}',
        b'{"custom_id": "a", "custom\\u005fid": "b", "url": "/x"}',
        b'{"url": "/x", "custom_id": "a", "url": "/y"}',
        b'{"url": "/x", "body": {}, "body": {}}',
        b'{"url": "/x", "body": {"a": "b"}, "body": {"c": "d"}}',
        b'{"body": 1, "url": "/x", "body": 1}',
        b'{"url": "/x", "note": 1, "note": 2}',
        b'{"url": "/x", "method": null, "method": "GET"}',
        b'{"url": "/x", "headers": {}, "headers": {}}',
    ],
)
def test_d9_a_key_of_the_envelope_that_stands_twice(raw: bytes) -> None:
    assert why(raw) == "the line has a key twice"


# -- D11 to D13, D15: the envelope


def test_d11_a_missing_id_is_made_of_number_and_digest() -> None:
    for raw in (written(url="/x", body={}), written(custom_id=None, url="/x", body={})):
        request = good(raw)
        assert is_made(request.id, number_of(request.digest))
        assert request.id == f"line-7-{request.digest[:8]}"
        assert parse(raw, 8) != request, "the same text on another line is another request"


@pytest.mark.parametrize(("name", "says"), [("", "empty"), (5, "a number"), ([], "an array"), ({}, "an object"), (True, "truth")])
def test_d11_an_improper_id_is_refused_under_a_made_one(name: object, says: str) -> None:
    result = bad(chat(custom_id=name))
    assert result.error
    assert says in result.error.message
    assert result.id.startswith("line-7-")
    assert is_made(result.id, number_of(result.request.digest))


def test_an_invalid_line_keeps_its_own_id() -> None:
    result = bad(chat(url=None))
    assert result.id == "r-1"
    assert not is_made("line-7-00000000", number_of(result.request.digest)), "a custom_id may look like one"


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31m", "nul\0", "../../etc", "x" * 10_000, "🙂", "\u202eabc", '"quoted"', "back\\slash", "\u2028", " "]
)
def test_d12_an_id_is_only_a_name(name: str) -> None:
    for raw in (chat(custom_id=name), orjson.dumps({"url": "/v1/chat/completions", "custom_id": name, "body": CHAT})):
        request = good(raw)
        assert request.id == name
        assert request.path == "/v1/chat/completions"
        assert request.headers == ()


def test_d12_half_a_character_is_no_id() -> None:
    raw = b'{"custom_id": "\\ud83d", "url": "/x"}'
    assert bad(raw).id.startswith("line-7-")


def test_d13_method_and_body() -> None:
    assert good(written(url="/x")).method == "GET"
    assert good(written(url="/x", body=None)).body == b""
    assert good(written(url="/x", body={})).method == "POST"
    assert good(written(url="/x", method="delete")).method == "DELETE"
    assert good(written(url="/x", method="PURGE", body=1)).method == "PURGE"
    assert good(written(url="/v1/embeddings", body={"input": "a"})).method == "POST"


@pytest.mark.parametrize("method", ["CONNECT", "trace", "GE T", "G\r\nET", "é", "GET "])
def test_d13_a_method_that_cannot_be_sent(method: str) -> None:
    assert "method" in why(written(url="/x", method=method))


def test_d13_what_an_llm_route_needs() -> None:
    assert "POST" in why(chat(method="GET"))
    assert why(chat(body=None)) == "body is missing"
    assert why(chat(body=[1])) == "body is an array, not an object"
    assert why(chat(body="text")) == "body is a string, not an object"
    assert why(chat(url=5)) == "url is a number, not a string"
    assert why(chat(method={})) == "method is an object, not a string"


@pytest.mark.parametrize(("stream", "kept"), [(True, True), (False, False), (None, False), ("yes", False), (1, False)])
def test_d15_a_stream_is_noted_and_the_body_left_alone(stream: object, kept: bool) -> None:
    body = CHAT | {"stream": stream}
    request = good(chat(body=body))
    assert request.stream is kept
    assert json.loads(request.body) == body


@pytest.mark.parametrize(
    ("row", "says", "hint"),
    [
        ({"custom_id": "x", "params": {}}, "Anthropic", "body: .params"),
        ({"requests": [{"custom_id": "x", "params": {}}]}, "Anthropic", ".requests[]"),
        ({"recordId": "x", "modelInput": {}}, "Bedrock", ".modelInput"),
        ({"key": "x", "request": {}}, "Gemini", ".request"),
        ({"custom_id": "x", "result": {"type": "succeeded"}}, "result", "file of requests"),
        (
            {"id": "b", "custom_id": "x", "response": {"status_code": 200, "body": {}}, "error": None},
            "result",
            "file of requests",
        ),
        ({"id": "vllm-1", "custom_id": "x", "response": None, "error": "bad"}, "result", "file of requests"),
        ({"model": "m", "messages": []}, "bare chat body", "chat/completions"),
        ({"messages": [], "metadata": {"row": 1}}, "bare chat body", "chat/completions"),
        ({"prompt": "Hi"}, "prompt", "--prompt"),
        ({"model": "m", "input": "Hi"}, "bare body", "embeddings"),
        ({"custom_id": "x", "body": {}}, "url is missing", "url"),
        ({"custom_id": "x", "method": "POST", "url": "", "body": {}}, "url is missing", "url"),
        ({}, "url is missing", "/v1/chat/completions"),
    ],
)
def test_d23_a_wrong_schema_is_named(row: dict[str, object], says: str, hint: str) -> None:
    error = bad(written(**row)).error
    assert error
    assert says in error.message
    assert hint in error.hint


def test_unknown_keys_are_tolerated() -> None:
    raw = chat(metadata={"row": 5, "tags": ["a", 'quote "this"']}, priority=1, messages=[])
    assert good(raw).body == json.dumps(CHAT).encode()


# -- G3: headers of a line


def test_g3_harmless_headers_pass() -> None:
    headers = {"Accept": "text/plain", "X-Trace": 'a "b" c', "content-type": "application/json", "Idempotency-Key": "k-1"}
    assert good(written(url="/x", headers=headers)).headers == (
        ("accept", "text/plain"),
        ("x-trace", 'a "b" c'),
        ("content-type", "application/json"),
        ("idempotency-key", "k-1"),
    )
    assert good(written(url="/x", headers={})).headers == ()
    assert good(written(url="/x", headers=None)).headers == ()


@pytest.mark.parametrize(
    "name",
    [
        "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect",
        "Authorization", "Cookie", "Proxy-Authorization", "Proxy-Connection", "Accept-Encoding", "User-Agent", "api-key",
        "X-Api-Key", "x-goog-api-key", "X-Auth-Token", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "X-Original-URL",
        "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Amz-Security-Token", "X-Remote-User", "X-Session", "Forwarded",
        "OpenAI-Organization",
    ],
)  # fmt: skip
def test_g3_headers_that_carry_keys_or_steer_are_refused(name: str) -> None:
    assert name.lower() in why(written(url="/x", headers={name: "1"}))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"x a": "1"}',
        b'{"": "1"}',
        b'{"x-a:": "1"}',
        b'{"x-a": "1\\r\\nhost: evil"}',
        b'{"x-a": "\\u0000"}',
        b'{"x-a": "\xc3\xa9"}',
        b'{"x-a": " 1"}',
        b'{"x-a": 1}',
        b'{"x-a": null}',
        b'{"x-a": "1", "x-a": "2"}',
        b'{"x-a": "1", "X-A": "2"}',
        b"[]",
        b'"x-a: 1"',
    ],
)
def test_g3_headers_of_wrong_form_are_refused(raw: bytes) -> None:
    assert "header" in why(b'{"url": "/x", "headers": ' + raw + b"}")


# -- the few facts of a body


@pytest.mark.parametrize(
    ("url", "body", "choices"),
    [
        ("/v1/chat/completions", {"n": 3}, 3),
        ("/v1/chat/completions", {"n": None}, 1),
        ("/v1/chat/completions", {"n": "3"}, 0),
        ("/v1/chat/completions", {"n": 0}, 0),
        ("/v1/chat/completions", {"n": True}, 0),
        ("/v1/completions", {"prompt": "a"}, 1),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}, 4),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 1),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, 2),
        ("/v1/embeddings", {"input": "a"}, 1),
        ("/v1/embeddings", {"input": ["a"] * 2048}, 2048),
        ("/v1/embeddings", {"input": [1, 2, 3]}, 1),
        ("/v1/embeddings", {"input": [[1], [2]]}, 2),
        ("/v1/embeddings", {"input": []}, 0),
        ("/v1/embeddings", {"input": [{"text": "a"}]}, 0),
        ("/v1/embeddings", {"messages": []}, 0),
        ("/v1/moderations", {"input": ["a", "b"]}, 2),
        ("/v1/moderations", {"input": [{"type": "text"}, {"type": "image_url"}]}, 1),
        ("/v1/images/generations", {"n": 4}, 4),
        ("/v1/responses", {"input": ["a", "b"]}, 1),
        ("/v1/messages", {"n": 5}, 1),
        ("/x", {"n": 5}, 1),
    ],
)
def test_how_many_answers_a_line_asks_for(url: str, body: dict[str, object], choices: int) -> None:
    assert good(written(url=url, body=body)).choices == choices


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"max_output_tokens": 7}, 7),
        ({"max_tokens": None}, 0),
        ({"max_tokens": "5"}, 0),
        ({"max_tokens": 5.5}, 0),
        ({"max_tokens": True}, 0),
        ({"max_tokens": -1}, 0),
    ],
)
def test_the_limit_of_tokens(body: dict[str, object], limit: int) -> None:
    assert good(chat(body=body)).max_tokens == limit


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}] * 2}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}, {"type": "input_text"}]}] * 2}),
        ("/v1/messages", {"messages": [{"content": [{"type": "image", "source": {}}]}, {"content": [{"type": "image"}]}]}),
        ("/v1/moderations", {"input": [{"type": "image_url"}, {"type": "text"}, {"type": "image_url"}]}),
    ],
)
def test_images_are_counted_as_parts(url: str, body: dict[str, object]) -> None:
    assert good(written(url=url, body=body)).images == 2


def test_words_about_images_are_no_images() -> None:
    text = 'the key "image_url" with "type": "image"'
    body = {"messages": [{"content": text}, {"content": [{"type": "text", "text": text}]}, {"content": None}, "odd", None]}
    assert good(chat(body=body)).images == 0


def test_a_set_model_replaces_the_lines_own_and_nothing_else() -> None:
    raw = b'{"url": "/v1/chat/completions", "body": {"model" : "old", "seed": 123456789012345678901, "t": 0.10, "x": "\\u00e9"}}'
    request = good(raw, model='new "one"')
    assert request.body == b'{"model":"new \\"one\\"","seed":123456789012345678901,"t":0.10,"x":"\\u00e9"}'
    assert request.model == 'new "one"'
    assert request.digest == good(raw).digest, "the identity is that of the line"


def test_a_set_model_where_the_line_has_none() -> None:
    assert good(chat(body={}), model="new").body == b'{"model":"new"}'
    assert good(written(url="/x", body={"a": 1}), model="new").body == b'{"a": 1}', "not every HTTP body takes a model"
    assert good(written(url="/v1/rerank", body={"model": "old"}), model="new").body == b'{"model":"new"}'
    assert good(written(url="/x", body=[1]), model="new").body == b"[1]"


def test_long_urls_are_not_remembered() -> None:
    before = formats.placed.cache_info()
    for number in range(20):
        assert good(written(url=f"/x?q={number:04000}")).path.endswith(f"{number:04000}")
    assert formats.placed.cache_info() == before


# -- identity


def test_the_digest_is_that_of_the_line() -> None:
    assert identify(b'{"custom_id": "a"}', 1) == ("a", "01d8a47dbe27187c")


def test_an_oversized_line_has_one_identity_too() -> None:
    line = Oversized(500, 100, "0123456789abcdef")
    result = bad(line)
    assert result.id == "line-7-01234567"
    assert result.request.digest == "0123456789abcdef"
    assert result.error
    assert "500" in result.error.message


def test_a_deep_line_has_one_identity_however_deep_the_stack() -> None:
    """The fast decoder gives up by the depth of Python's own stack; the id must not depend on it."""
    raw = b'{"custom_id": "deep", "url": "/x", "body": ' + b"[" * 700 + b"]" * 700 + b"}"

    def below(frames: int) -> tuple[tuple[str, str], str]:
        return (identify(raw, 1), _id(parse(raw, 1))) if frames == 0 else below(frames - 1)

    room = sys.getrecursionlimit()
    assert {below(frames) for frames in (0, room // 2)} == {below(0)}
    assert below(0)[1] == "deep"


def _id(item: Request | Result) -> str:
    return item.id


# -- any line at all

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)
KEYS = st.sampled_from(["custom_id", "method", "url", "body", "headers", "params", "messages", "note", "model", "input", "n"])
URLS = st.sampled_from(["/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/x", "//evil", "", "/v1/moderations"])
ROWS = st.dictionaries(KEYS, VALUES | URLS, max_size=6)
SOUND = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def agrees(raw: bytes) -> None:
    item = parse(raw, 3)
    stub = item if isinstance(item, Request) else item.request
    assert (stub.id, stub.digest) == identify(raw, 3)
    assert isinstance(item, Request) or item.kind is Kind.INVALID
    named, company = "" if blank(raw) else stub.id, chat()
    for block, first, at in (([raw], 3, 0), ([company, raw, b" "], 2, 1), ([company, Oversized(9, 5, "ab" * 8), raw], 1, 2)):
        assert names(block, first)[at] == named
        assert digests(block)[at] == number_of(stub.digest)


def test_a_block_of_lines_has_the_names_and_digests_of_its_lines() -> None:
    lines = [chat(), b"", chat(custom_id=""), b"{broken", written(url="/x"), Oversized(9, 5, "0123456789abcdef"), b" \t"]
    known = [identify(raw, line) for line, raw in enumerate(lines, 5)]
    assert names(lines, 5) == ["r-1", "", *(name for name, _ in known[2:6]), ""]
    assert list(digests(lines)) == [number_of(digest) for _, digest in known]
    assert len({*digests(lines)}) == len(lines)


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf{}")
@example(b'{"custom_id":"\xed\xa0\x80","url":"/x"}')
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_become_something_with_one_identity(raw: bytes) -> None:
    agrees(raw)


@given(ROWS, st.booleans(), st.integers(0, 400), st.binary(max_size=3))
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_any_row_cut_or_damaged_anywhere_too(row: dict[str, object], ascii_only: bool, at: int, damage: bytes) -> None:
    raw = json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    agrees(raw)
    agrees(raw[:at])
    agrees(raw[:at] + damage + raw[at:])
    agrees(raw + raw)


@given(
    SOUND, st.text(min_size=1, max_size=20), st.dictionaries(st.text(max_size=6), SOUND, max_size=2), st.permutations(range(4))
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_a_sound_line_in_any_order_is_read_and_its_body_untouched(
    body: object, name: str, extra: dict[str, object], order: list[int]
) -> None:
    fields: dict[str, object] = {"custom_id": name, "url": "/x", "body": body, "method": "PUT"}
    ordered = {key: fields[key] for key in (list(fields)[place] for place in order)}
    raw = json.dumps(
        {**{key: value for key, value in extra.items() if key not in {*fields, "headers"}}, **ordered}, ensure_ascii=False
    )
    request = good(raw.encode())
    assert request.id == name
    assert request.body == (b"" if body is None else json.dumps(body, ensure_ascii=False).encode())


@given(st.sampled_from(["custom_id", "method", "url", "body", "note"]), SOUND, SOUND)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_second_key_is_seen_wherever_it_stands(key: str, body: object, first: object) -> None:
    fields = {"custom_id": "r-1", "method": "PUT", "url": "/x", "body": body, "note": 1}
    twice = f"{{{json.dumps(key)}: {json.dumps(first)}, {json.dumps(fields)[1:]}"
    if key in {"custom_id", "method", "url"} and not isinstance(first, str):
        bad(twice.encode())
    else:
        assert why(twice.encode()) == "the line has a key twice"
