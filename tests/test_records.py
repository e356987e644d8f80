"""Output lines: the shape others read, and what a resume reads back."""

import json
import sys
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from batchrunner.core.model import Error, Kind, Request, Result, Route, Usage
from batchrunner.formats import parse
from batchrunner.numbers import number_of
from batchrunner.records import Record, read_record, read_successes, record

REQUEST = Request(line=17, id="r-1", digest="0123456789abcdef", route=Route.CHAT, path="/v1/chat/completions", model="m-1")
BODY = b'{"id":"chatcmpl-1","choices":[{"index":0}],"n":123456789012345678901,"t":0.10,"a":1,"a":2}'
GOOD = Result(
    request=REQUEST,
    kind=Kind.OK,
    status=200,
    body=BODY,
    request_id="req_1",
    attempts=2,
    seconds=3.21456,
    endpoint="main",
    usage=Usage(10, 5),
    flags=("length",),
    maybe_billed=1,
)


def failed(kind: Kind, status: int = 0, body: bytes = b"", **facts: Any) -> Result:
    error = Error(kind, "some_code", "What happened.", "What to do.")
    return Result(request=REQUEST, kind=kind, status=status, body=body, error=error, **facts)


def test_a_success_to_the_byte() -> None:
    assert record(GOOD) == (
        b'{"id":"batch_req_0123456789abcdef00000011","custom_id":"r-1",'
        b'"response":{"status_code":200,"request_id":"req_1","body":' + BODY + b'},"error":null,'
        b'"batchrunner":{"v":1,"line":17,"attempts":2,"seconds":3.215,"endpoint":"main","digest":"0123456789abcdef",'
        b'"model":"m-1","flags":["length"],"usage":{"input":10,"output":5},"maybe_billed":1}}\n'
    )


def test_a_record_leaves_nothing_in_memory() -> None:
    record(GOOD)
    before = sys.getallocatedblocks()
    for _ in range(1000):
        record(GOOD)
    assert sys.getallocatedblocks() - before < 100


def test_strict_is_the_service_own_shape() -> None:
    line = json.loads(record(GOOD, strict=True))
    assert list(line) == ["id", "custom_id", "response", "error"]
    assert record(GOOD).startswith(record(GOOD, strict=True)[:-2])


def test_an_http_error_keeps_its_answer_and_no_error() -> None:
    line = json.loads(record(failed(Kind.CONTEXT, 400, b'{"error":{"code":"context_length_exceeded"}}')))
    assert line["response"] == {"status_code": 400, "request_id": "", "body": {"error": {"code": "context_length_exceeded"}}}
    assert line["error"] is None
    assert (line["batchrunner"]["kind"], line["batchrunner"]["hint"]) == ("context", "What to do.")


def test_without_an_answer_there_is_only_the_error() -> None:
    line = json.loads(record(failed(Kind.TIMEOUT_TOTAL)))
    assert line["response"] is None
    assert line["error"] == {"code": "some_code", "message": "What happened."}


@pytest.mark.parametrize("strict", [True, False])
def test_what_failed_with_a_good_status_is_never_taken_for_a_success(strict: bool) -> None:
    raw = record(failed(Kind.TRUNCATED, 200, b'{"choices":[]}'), strict=strict)
    line = json.loads(raw)
    assert line["response"]["body"] == {"choices": []}, "what came is kept: it was paid for"
    assert line["error"]["code"] == "some_code"
    assert not read_record(raw).ok


def test_an_error_without_words_still_says_its_kind() -> None:
    line = json.loads(record(Result(request=REQUEST, kind=Kind.NETWORK)))
    assert line["error"] == {"code": "network", "message": ""}
    assert (
        json.loads(record(Result(request=REQUEST, kind=Kind.NETWORK, error=Error(Kind.NETWORK, "", "m"))))["error"]["code"]
        == "network"
    )


def test_an_answer_without_a_body() -> None:
    line = json.loads(record(Result(request=REQUEST, kind=Kind.OK, status=204)))
    assert line["response"] == {"status_code": 204, "request_id": "", "body": None}


def test_a_hook_may_call_any_status_a_success() -> None:
    raw = record(Result(request=REQUEST, kind=Kind.OK, status=404, body=b"{}"))
    assert json.loads(raw)["error"] is None
    assert read_record(raw) == Record("r-1", 17, "0123456789abcdef", True, "ok")


def test_an_invalid_line_is_an_error_line_with_its_number() -> None:
    item = parse(b"{not json", 41)
    assert isinstance(item, Result)
    line = json.loads(record(item))
    assert line["response"] is None
    assert line["error"]["code"] == "E203"
    assert (line["batchrunner"]["line"], line["batchrunner"]["kind"]) == (41, "invalid")
    assert line["custom_id"] == item.id


def test_the_lines_own_id_depends_only_on_the_input_line() -> None:
    def named(item: Result) -> str:
        return str(json.loads(record(item))["id"])

    assert named(GOOD) == named(failed(Kind.NETWORK))
    other = Request(line=18, id="r-1", digest="0123456789abcdef", route=Route.CHAT, path="/")
    assert named(GOOD) != named(Result(request=other, kind=Kind.OK, status=200))
    bare = Request(line=2**40 + 1, id="r-1", digest="", route=Route.CHAT, path="/")
    assert len(named(Result(request=bare, kind=Kind.OK, status=200))) == len("batch_req_") + 24


@pytest.mark.parametrize("name", ["a\nb\r\n", "\x1b[2J\x07", "nul\0", "../../etc", "🙂", "\u2028\u2029\x85", '","response":'])
def test_d12_an_id_is_escaped_and_comes_back(name: str) -> None:
    request = Request(line=1, id=name, digest="0" * 16, route=Route.CHAT, path="/")
    raw = record(Result(request=request, kind=Kind.OK, status=200, body=b"{}"), secrets=lambda rest: rest)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert not any(byte < 0x20 for byte in raw[:-1])
    assert read_record(raw).id == name


def test_half_a_character_in_a_message_does_not_stop_the_writer() -> None:
    error = Error(Kind.REJECTED, "c\ud800", "m\udfff", "h\ud800")
    result = Result(request=REQUEST, kind=Kind.REJECTED, error=error, flags=("f\ud800",), endpoint="e\ud800", usage=Usage(1, 2))
    line = orjson.loads(record(result))
    assert line["error"] == {"code": "c?", "message": "m?"}
    assert line["batchrunner"]["flags"] == ["f?"]
    assert line["batchrunner"]["usage"] == {"input": 1, "output": 2}


def test_seconds_that_are_no_number_are_null() -> None:
    raw = record(Result(request=REQUEST, kind=Kind.OK, status=200, seconds=float("inf")))
    assert orjson.loads(raw)["batchrunner"]["seconds"] is None
    assert read_record(raw).ok


def test_g9_secrets_are_taken_out_of_all_but_the_id() -> None:
    request = Request(line=1, id="sk-secret", digest="0" * 16, route=Route.CHAT, path="/", model="sk-secret")
    error = Error(Kind.DENIED, "sk-secret", "the key sk-secret is wrong", "not sk-secret")
    result = Result(
        request=request, kind=Kind.DENIED, status=200, body=b'{"echo":"sk-secret"}', request_id="sk-secret", error=error
    )
    raw = record(result, secrets=lambda rest: rest.replace(b"sk-secret", b"[key]"))
    assert raw.count(b"sk-secret") == 1
    assert read_record(raw) == Record("sk-secret", 1, "0" * 16, False, "denied")
    assert raw.endswith(b"}\n")


# -- reading back


@pytest.mark.parametrize(
    ("raw", "ok"),
    [
        (b'{"id": "b", "custom_id": "x", "response": {"status_code": 200, "request_id": "r", "body": {}}, "error": null}', True),
        (b'{"custom_id": "x", "response": {"status_code": 201, "body": {}}}', True),
        (b'{"response": {"body": {}, "status_code": 200}, "custom_id": "x", "error": null}\r\n', True),
        (b'{"custom_id": "x", "response": {"status_code": 400, "body": {}}, "error": null}', False),
        (b'{"custom_id": "x", "response": {"body": {}}, "error": null}', False),
        (b'{"custom_id": "x", "response": null, "error": {"code": "batch_expired", "message": "m"}}', False),
        (b'{"custom_id": "x", "response": {"status_code": 400, "body": null}, "error": {"error": {"code": 400}}}', False),
        (b'{"custom_id": "x", "response": {"status_code": 200, "body": {}}, "error": "Request must not be streamed"}', False),
        (b'{"custom_id": "x", "error": {"code": "c"}}', False),
        (b'{"custom_id": "x", "response": null, "error": null}', False),
    ],
)
def test_lines_of_others_are_read_too(raw: bytes, ok: bool) -> None:
    assert read_record(raw) == Record("x", 0, "", ok, "ok" if ok else "")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"\0\0\0",
        b"[]",
        b"{}",
        b"null",
        b'{"custom_id": "x"}',
        b'{"custom_id": "x", "error": null}',
        b'{"custom_id": 5, "response": null}',
        b'{"custom_id": null, "response": null}',
        b'{"response": {"status_code": 200}}',
        b'{"custom_id": "x", "response": {"status_code": "200"}}',
        b'{"custom_id": "x", "response": {"status_code": 200}, "batchrunner": {"line": "1"}}',
        b'{"custom_id": "x", "method": "POST", "url": "/x", "body": {}}',
        b'{"custom_id": "x", "response": {"status_code": 200}}{}',
        b'{"custom_id": "\xff", "response": null}',
        b'{"custom_id": "x", "response": {"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        record(GOOD)[:-2],
        record(GOOD)[5:],
    ],
)
def test_what_is_no_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the decoders' own words
        read_record(raw)


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
RESULTS = st.builds(
    Result,
    request=st.builds(
        Request,
        line=st.integers(1, 2**33),
        id=TEXT,
        digest=st.text("0123456789abcdef", min_size=16, max_size=16),
        route=st.sampled_from(Route),
        path=st.just("/x"),
        model=TEXT,
    ),
    kind=st.sampled_from(Kind),
    status=st.sampled_from([0, 200, 201, 204, 301, 400, 404, 429, 500, 529]),
    body=st.sampled_from([b"", b"{}", BODY, b"[1,2]", b'"text \\n"', '{"a":"\u2028"}'.encode()]),
    request_id=TEXT,
    error=st.none() | st.builds(Error, kind=st.sampled_from(Kind), code=TEXT, message=TEXT, hint=TEXT),
    attempts=st.integers(0, 99),
    seconds=st.floats(0, 1e6),
    endpoint=TEXT,
    usage=st.none() | st.builds(Usage, input=st.integers(0, 10**9), output=st.integers(0, 10**9)),
    flags=st.lists(TEXT, max_size=2).map(tuple),
    maybe_billed=st.integers(0, 3),
)


@given(RESULTS)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_result_comes_back(result: Result) -> None:
    raw = record(result)
    request = result.request
    assert read_record(raw) == Record(request.id, request.line, request.digest, result.ok, str(result.kind))
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    line = orjson.loads(raw)
    assert line["custom_id"] == request.id
    assert line["response"] is None or line["response"]["body"] == (orjson.loads(result.body) if result.body else None)


@given(RESULTS)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_a_strict_line_never_says_success_of_a_failure(result: Result) -> None:
    read = read_record(record(result, strict=True))
    assert read.id == result.id
    assert result.ok or not read.ok
    assert read.ok == (result.ok and 200 <= result.status < 300)


@given(st.binary(max_size=100), st.integers(0, 400))
@example(b"\xff", 0)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_lines_are_read_or_refused_and_nothing_else(damage: bytes, at: int) -> None:
    whole = record(GOOD)
    for raw in (damage, whole[:at], whole[:at] + damage + whole[at:], whole[at:]):
        try:
            assert isinstance(read_record(raw), Record)
        except ValueError:
            continue


def test_an_answer_with_half_an_emoji_is_still_a_record() -> None:
    body = rb'{"choices":[{"message":{"content":"\ud83d"},"finish_reason":"stop"}],"n":"\\ud83d"}'
    request = Request(line=3, id="r-3", digest="d" * 16, route=Route.CHAT, path="/v1/chat/completions")
    read = read_record(record(Result(request=request, kind=Kind.OK, status=200, body=body)))
    assert (read.id, read.line, read.digest, read.ok) == ("r-3", 3, "d" * 16, True)


def test_half_an_emoji_in_the_answer_leaves_a_whole_one_in_the_id() -> None:
    raw = rb'{"custom_id":"\ud83d\ude00 \\\ud83d\ude00","response":{"status_code":200,"body":{"a":"\ud83d \ude00 \ud83d\ud83d"}}}'
    assert read_record(raw) == Record("😀 \\😀", 0, "", True, "ok")


# ---- many lines at once ----


def agrees(lines: list[bytes]) -> bool:
    """Whether the short cut was taken; what it says is what the lines say one by one."""
    told = read_successes(lines)
    if told is None:
        return False
    records = [read_record(raw) for raw in lines]
    assert all(each.ok for each in records)
    assert [(each.id, each.line, number_of(each.digest)) for each in records] == [
        *zip(told.ids, told.lines, told.digests, strict=True)
    ]
    return True


def test_a_block_of_our_own_successes_is_read_at_once() -> None:
    assert agrees([record(GOOD), record(structs.replace(GOOD, status=204)), record(structs.replace(GOOD, body=b""))])
    assert agrees([])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"status_code":200', b'"status_code":199'),
        (b'"status_code":200', b'"status_code":300'),
        (b'"error":null', b'"error":{}'),
        (b'"line":17', b'"line":0'),
        (b'"digest":"0123456789abcdef"', b'"digest":"012345678 9abcde"'),
        (b'"digest":"0123456789abcdef"', b'"digest":"0123456789abcdeg"'),
        (b'"digest":"0123456789abcdef"', b'"digest":"01234567 89abcde"'),
        (b'"digest":"0123456789abcdef"', b'"digest":"01234567"'),
        (b'"digest":"0123456789abcdef"', b'"other":1'),
        (b'"v":1', b'"v":1,"kind":"policy"'),
        (b'"custom_id":"r-1",', b""),
        (b'"index":0', b'"index":"\\ud83d"'),
        (b"}\n", b"\n"),
        (b'"n":', b'"n":{"batchrunner":'),
    ],
)
def test_any_other_line_is_looked_at_for_itself(old: bytes, new: bytes) -> None:
    odd = record(GOOD).replace(old, new, 1)
    assert odd != record(GOOD)
    assert not agrees([record(GOOD), odd])


@given(st.lists(RESULTS, max_size=3), st.binary(max_size=3), st.integers(0, 400))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_many_lines_say_what_each_says_whatever_became_of_them(results: list[Result], damage: bytes, at: int) -> None:
    lines = list(map(record, results))
    agrees(lines)
    agrees([*lines, record(GOOD)[:at] + damage + record(GOOD)[at:]])
    agrees([*lines, record(GOOD)[:at] + damage + record(GOOD)[at + len(damage) :]])
