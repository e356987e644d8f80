"""Output in the dialects of others: to the byte where the dialect is exact, and back again from every one of them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.core.model import Error, Kind, Request, Result, Route
from batchrunner.errors import UsageError
from batchrunner.foreign import WRITERS, OutputFormat, dialect_of_record, read_record
from batchrunner.origins import resolve

CHAT = b'{"model":"m","messages":[]}'
REQUEST = Request(line=7, id="r-1", digest="0123456789abcdef", route=Route.MESSAGES, path="/v1/messages", body=CHAT, model="m")
GOOD = Result(request=REQUEST, kind=Kind.OK, status=200, body=b'{"id":"msg_1"}', request_id="req_1", attempts=1, endpoint="e")
LIMIT = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"},"request_id":"req_2"}'
REFUSED = Error(Kind.REJECTED, "bad", "no such field", "correct it")
FORMATS = get_args(OutputFormat)


def failed(**more: Any) -> Result:
    return Result(request=REQUEST, kind=Kind.REJECTED, error=REFUSED, attempts=2, endpoint="e", **more)


def written(result: Result, dialect: str, **options: Any) -> Any:
    raw = WRITERS[dialect](result, **options)
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    return json.loads(raw)


# vLLM.


def test_a_success_of_vllms() -> None:
    line = written(GOOD, "vllm", strict=True)
    assert list(line) == ["id", "custom_id", "response", "error"]
    assert line["id"].startswith("vllm-")
    assert line["response"] == {"status_code": 200, "request_id": "req_1", "body": {"id": "msg_1"}}
    assert line["error"] is None
    assert list(written(GOOD, "vllm"))[-1] == "batchrunner"


@pytest.mark.parametrize(
    ("result", "status", "error"),
    [
        (failed(status=400, body=b'{"error":{"message":"m","code":400}}'), 400, {"error": {"message": "m", "code": 400}}),
        (
            failed(status=422, body=b'"a page"'),
            422,
            {"error": {"message": "no such field", "type": "bad", "param": None, "code": 422}},
        ),
        (
            failed(status=400, body=b'{"error":"text"}'),
            400,
            {"error": {"message": "no such field", "type": "bad", "param": None, "code": 400}},
        ),
        (failed(), 500, "no such field"),
        (Result(request=REQUEST, kind=Kind.INVALID, error=REFUSED), 400, "no such field"),
    ],
)
def test_an_error_of_vllms(result: Result, status: int, error: object) -> None:
    line = written(result, "vllm")
    assert (line["response"]["status_code"], line["response"]["body"], line["error"]) == (status, None, error)


# Anthropic.


def test_a_success_of_anthropics_to_the_byte() -> None:
    raw = WRITERS["anthropic"](GOOD, strict=True)
    assert raw == b'{"custom_id":"r-1","result":{"type":"succeeded","message":{"id":"msg_1"}}}\n'


def test_an_error_of_anthropics_is_an_error_in_an_error() -> None:
    assert written(failed(status=429, body=LIMIT), "anthropic", strict=True) == {
        "custom_id": "r-1",
        "result": {"type": "errored", "error": json.loads(LIMIT)},
    }


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (failed(status=400, body=b'{"error":{"message":"x"}}'), "invalid_request_error"),
        (failed(status=401, body=b'"page"'), "authentication_error"),
        (failed(status=529), "overloaded_error"),
        (failed(status=502), "api_error"),
        (failed(), "api_error"),
        (Result(request=REQUEST, kind=Kind.INVALID, error=REFUSED), "invalid_request_error"),
    ],
)
def test_an_error_of_others_is_worded_as_anthropics(result: Result, kind: str) -> None:
    error = written(result, "anthropic")["result"]["error"]
    assert error == {"type": "error", "error": {"type": kind, "message": "no such field"}, "request_id": None}


# The cookbook's script.


def test_a_success_of_the_cookbooks() -> None:
    request = msgspec.structs.replace(REQUEST, metadata=b'{"row":7}')
    line = written(msgspec.structs.replace(GOOD, request=request), "cookbook")
    assert line[:3] == [json.loads(CHAT), {"id": "msg_1"}, {"row": 7}]
    assert line[3]["custom_id"] == "r-1"
    assert written(GOOD, "cookbook")[2] is None


@pytest.mark.parametrize(
    ("result", "errors"),
    [
        (failed(status=400, body=b'{"error":{"message":"m"}}'), [{"error": {"message": "m"}}]),
        (failed(), ["no such field"]),
        (failed(status=200, body=b'{"id":"cut"}'), ["no such field"]),
    ],
)
def test_a_failure_of_the_cookbooks_is_a_list(result: Result, errors: list[object]) -> None:
    assert written(result, "cookbook")[1] == errors


def test_metadata_returns_in_every_dialect() -> None:
    result = msgspec.structs.replace(GOOD, request=msgspec.structs.replace(REQUEST, metadata=b'{"row": 7}'))
    for dialect in FORMATS:
        assert b'{"row": 7}' in WRITERS[dialect](result)


def test_what_could_not_be_found_again_is_not_written() -> None:
    with pytest.raises(UsageError) as refused:
        resolve({"strict_openai": True, "output_format": "cookbook"}, {}, Path("/nowhere"))
    assert refused.value.code == "E003"


# Back.


@pytest.mark.parametrize(
    ("raw", "ok"),
    [
        (b'{"custom_id":"x","result":{"type":"succeeded","message":{}}}', True),
        (b'{"custom_id":"x","result":{"type":"errored","error":{"type":"error","error":{"type":"t","message":"m"}}}}', False),
        (b'{"custom_id":"x","result":{"type":"errored","error":{"type":"t","message":"m"}}}', False),
        (b'{"custom_id":"x","result":{"type":"canceled"}}', False),
        (b'{"custom_id":"x","result":{"type":"expired"}}', False),
        (b'{"custom_id":"x","result":{"type":"succeeded","message":{"text":"half \\ud83d"}}}\n', True),
        (b'{"id":"vllm-1","custom_id":"x","response":{"status_code":200,"request_id":"r","body":{}},"error":null}', True),
        (b'{"id":"vllm-1","custom_id":"x","response":{"status_code":400,"request_id":"r","body":null},"error":"no"}', False),
        (b'{"id":"vllm-1","custom_id":"x","response":{"status_code":200,"request_id":"r"},"error":{"error":{}}}', False),
        (b'{"id":"batch-1","custom_id":"x","response":{"status_code":200,"body":{}},"error":null}', True),
        (b'[{},{},null,{"custom_id":"x"}]', True),
        (b'[{},["no"],null,{"custom_id":"x"}]', False),
    ],
)
def test_lines_of_others_are_read(raw: bytes, ok: bool) -> None:
    record = read_record(raw)
    assert (record.id, record.ok, record.line, record.digest) == ("x", ok, 0, "")


@pytest.mark.parametrize(
    "raw",
    [
        b"[{},{}]",
        b"[{},{},{}]",
        b"[{},{},{},{}]",
        b"[{},{},{},[]]",
        b"[",
        b"{}",
        b'{"custom_id":"x","result":{"type":"odd"}}',
        b'{"custom_id":"x","result":{}}',
        b'{"result":{"type":"succeeded"}}',
        b'{"custom_id":"x","params":{}}',
        b"[" * 5000,
    ],
)
def test_what_is_no_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_record(raw)


BODIES = st.sampled_from([b"", b'{"a":1}', b'"text"', b"[]", LIMIT, b'{"text":"\\ud83d"}', b'{"error":{"x":1}}'])
RESULTS = st.builds(
    Result,
    request=st.builds(
        Request,
        line=st.integers(1, 10**9),
        id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
        digest=st.text("0123456789abcdef", min_size=16, max_size=16),
        route=st.just(Route.CHAT),
        path=st.just("/v1/chat/completions"),
        body=st.sampled_from([b"", CHAT]),
        metadata=st.sampled_from([b"", b"[1]", b'{"row":1}', b"null"]),
    ),
    kind=st.sampled_from(list(Kind)),
    status=st.sampled_from([0, 200, 400, 500]),
    body=BODIES,
    error=st.none() | st.builds(Error, st.just(Kind.REJECTED), st.text(max_size=5), st.text(max_size=9), st.just("h")),
)


@settings(max_examples=300, deadline=None)
@given(RESULTS, st.sampled_from(FORMATS))
@example(msgspec.structs.replace(GOOD, body=b"[]"), "cookbook")
def test_any_result_comes_back_from_any_dialect(result: Result, dialect: OutputFormat) -> None:
    raw = WRITERS[dialect](result)
    assert raw.count(b"\n") == 1
    record = read_record(raw)
    request = result.request
    assert (record.id, record.line, record.digest, record.ok) == (request.id, request.line, request.digest, result.ok)
    assert record.ok or record.kind == result.kind
    assert WRITERS[dialect_of_record(raw)] is WRITERS[dialect]


@settings(max_examples=200, deadline=None)
@given(RESULTS.filter(lambda each: not each.ok or each.status == 200), st.sampled_from(["openai", "vllm", "anthropic"]))
def test_a_strict_line_of_any_dialect_says_whether_it_is_good(result: Result, dialect: str) -> None:
    record = read_record(WRITERS[dialect](result, strict=True))
    assert (record.id, record.ok) == (result.request.id, result.ok)


@settings(max_examples=200, deadline=None)
@given(RESULTS, st.sampled_from(FORMATS), st.binary(max_size=3), st.integers(0, 400))
def test_damaged_lines_are_read_or_refused_and_nothing_else(result: Result, dialect: str, damage: bytes, at: int) -> None:
    raw = WRITERS[dialect](result)
    with suppress(ValueError):
        read_record(raw[:at] + damage + raw[at + 1 :])


@pytest.mark.parametrize("dialect", FORMATS)
def test_g9_secrets_are_taken_out_in_every_dialect(dialect: str) -> None:
    raw = WRITERS[dialect](failed(status=400, body=b'{"e":"sk-1"}'), secrets=lambda text: text.replace(b"sk-1", b"[key]"))
    assert b"sk-1" not in raw
    assert read_record(raw).id == "r-1"
