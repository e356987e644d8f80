"""Somebody else's batch is finished: what its files answer is taken over, what they lack is sent, in every dialect."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchrunner
from batchrunner.adoption import Batch, adopt
from batchrunner.answers import Told, read_answer
from batchrunner.core.model import Error, Kind, Request, Result, Route
from batchrunner.errors import UsageError
from batchrunner.foreign import WRITERS
from batchrunner.partitions import Partitions
from batchrunner.paths import Paths
from batchrunner.reopening import promising
from batchrunner.source import Intake
from batchrunner.summary import Report

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
Line = dict[str, Any]


def answer(reason: str | None = "stop") -> Line:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def message(reason: str | None = "end_turn") -> Line:
    content = [{"type": "text", "text": "Hello."}]
    usage = {"input_tokens": 3, "output_tokens": 2}
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": content, "stop_reason": reason, "usage": usage}


def openai(name: str, status: int, body: Any) -> Line:
    response = {"status_code": status, "request_id": f"req-{name}", "body": body}
    return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}


def unanswered(name: str) -> Line:
    error = {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}
    return {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": error}


def refusal(code: int) -> Line:
    return {"error": {"message": "no", "type": "invalid_request_error", "code": code}}


def write(path: str, lines: list[Line]) -> str:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def asked(count: int, **changes: Any) -> str:
    line = {"method": "POST", "url": "/v1/chat/completions", "body": CHAT, **changes}
    return write("a.jsonl", [{"custom_id": f"r-{number}", **line} for number in range(count)])


def records(path: str) -> dict[str, Line]:
    """The records of a file by id; an id that comes twice is an error."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def retry(*done: str, **more: Any) -> Report:
    return await batchrunner.Runner(base_url="simulated").retry("a.jsonl", done=done, **more)


async def test_a_half_done_batch_is_finished() -> None:
    asked(6)
    good = write("out.jsonl", [openai("r-0", 200, answer()), openai("r-1", 200, answer())])
    bad = write("err.jsonl", [openai("r-2", 400, refusal(400)), openai("r-3", 500, refusal(500)), unanswered("r-4")])
    report = await retry(good, bad)
    assert (report.summary.total, report.summary.succeeded, report.summary.failed) == (6, 5, 1)
    assert report.summary.attempts == 3  # r-3 and r-4, whose failure says nothing against them, and r-5
    results = records("a.results.jsonl")
    assert set(results) == {"r-0", "r-1", "r-3", "r-4", "r-5"}
    assert results["r-0"]["response"] == openai("r-0", 200, answer())["response"]
    assert results["r-0"]["batchrunner"]["flags"] == ["adopted"]
    assert records("a.errors.jsonl")["r-2"]["batchrunner"]["kind"] == "rejected"


async def test_an_answer_that_does_not_fit_is_not_taken_over() -> None:
    asked(1)
    runner = batchrunner.Runner(base_url="simulated", expect="json", reask=0)
    report = await runner.retry("a.jsonl", done=[write("out.jsonl", [openai("r-0", 200, answer())])])
    assert (report.summary.attempts, report.failed) == (1, 1)
    facts = records("a.errors.jsonl")["r-0"]["batchrunner"]
    assert (facts["kind"], "flags" in facts) == ("invalid_output", False)


async def test_the_sample_is_finished_as_its_page_says() -> None:
    for path in (Path(__file__).parent.parent / "jobs" / "halfdone").glob("*.jsonl"):
        Path("a.jsonl" if path.stem == "input" else path.name).write_bytes(path.read_bytes())
    report = await retry("output.jsonl", "errors.jsonl")
    assert (report.summary.resumed, report.summary.attempts, report.summary.succeeded) == (4, 4, 7)


async def test_the_same_command_takes_nothing_over_twice() -> None:
    asked(3)
    files = write("out.jsonl", [openai("r-0", 200, answer())]), write("err.jsonl", [openai("r-1", 400, refusal(400))])
    await retry(*files)
    before = Path("a.results.jsonl").read_bytes(), Path("a.errors.jsonl").read_bytes()
    report = await retry(*files)
    assert report.summary.attempts == 0
    assert (Path("a.results.jsonl").read_bytes(), Path("a.errors.jsonl").read_bytes()) == before


async def test_http_errors_may_stand_in_the_output_file_and_successes_in_the_error_file() -> None:
    asked(2)
    report = await retry(
        write("out.jsonl", [openai("r-0", 400, refusal(400))]), write("err.jsonl", [openai("r-1", 200, answer())])
    )
    assert report.summary.attempts == 0
    assert set(records("a.results.jsonl")) == {"r-1"}
    assert set(records("a.errors.jsonl")) == {"r-0"}


@pytest.mark.parametrize(
    "body",
    [answer(None), {"error": {"message": "overloaded", "code": 503}}, {}, "text", None],
    ids=["cut", "error within", "empty object", "text", "nothing"],
)
async def test_what_is_no_answer_is_not_taken_for_one(body: Any) -> None:
    asked(2)
    report = await retry(write("out.jsonl", [openai("r-0", 200, body), openai("r-1", 200, answer())]))
    assert report.summary.attempts == 1
    assert "adopted" not in records("a.results.jsonl")["r-0"]["batchrunner"].get("flags", [])


async def test_a_success_goes_before_a_failure_wherever_it_stands() -> None:
    asked(2)
    first = write("1.jsonl", [openai("r-0", 400, refusal(400)), openai("r-1", 200, answer())])
    second = write("2.jsonl", [openai("r-0", 200, answer()), openai("r-1", 400, refusal(400))])
    report = await retry(first, second)
    assert (report.summary.succeeded, report.summary.attempts) == (2, 0)


async def test_a_success_replaces_a_failure_of_our_own() -> None:
    asked(1)
    await retry(write("err.jsonl", [openai("r-0", 400, refusal(400))]))
    report = await retry(write("out.jsonl", [openai("r-0", 200, answer())]))
    assert (report.summary.succeeded, report.summary.failed) == (1, 0)
    assert Path("a.errors.jsonl").read_text() == ""


async def test_all_kinds_sends_even_what_was_refused() -> None:
    asked(1)
    report = await retry(write("err.jsonl", [openai("r-0", 400, refusal(400))]), kinds=list(Kind))
    assert (report.summary.succeeded, report.summary.attempts) == (1, 1)


async def test_an_absolute_url_is_no_obstacle() -> None:
    asked(1, url="https://api.openai.com/v1/chat/completions")
    report = await retry(write("out.jsonl", [openai("r-0", 200, answer())]))
    assert (report.summary.succeeded, report.summary.attempts) == (1, 0)


async def test_vllm_puts_successes_and_errors_into_one_file() -> None:
    asked(3)
    good = {**openai("r-0", 200, answer()), "id": "vllm-1"}
    bad = {**openai("r-1", 400, None), "id": "vllm-2", "error": refusal(400)}
    report = await retry(write("out.jsonl", [good, bad]))
    assert (report.summary.succeeded, report.summary.failed, report.summary.attempts) == (2, 1, 1)
    assert all(line["id"].startswith("vllm-") for line in records("a.results.jsonl").values())
    assert records("a.errors.jsonl")["r-1"]["error"] == refusal(400)


async def test_anthropics_batch_is_finished_in_anthropics_dialect() -> None:
    write("a.jsonl", [{"custom_id": f"r-{n}", "params": {**CHAT, "max_tokens": 9}} for n in range(5)])
    refused = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}, "request_id": None}
    lines = [
        {"custom_id": "r-0", "result": {"type": "succeeded", "message": message()}},
        {"custom_id": "r-1", "result": {"type": "errored", "error": refused}},
        {"custom_id": "r-2", "result": {"type": "expired"}},
        {"custom_id": "r-3", "result": {"type": "canceled"}},
    ]
    report = await retry(write("out.jsonl", lines))
    assert (report.summary.succeeded, report.summary.failed, report.summary.attempts) == (4, 1, 3)
    assert all(line["result"]["type"] == "succeeded" for line in records("a.results.jsonl").values())
    assert records("a.errors.jsonl")["r-1"]["result"]["error"] == refused
    again = await batchrunner.run("a.jsonl", base_url="simulated")  # and goes on in it, without being told
    assert again.summary.attempts == 0


async def test_files_of_another_input_are_refused_before_anything_is_written() -> None:
    asked(2)
    with pytest.raises(UsageError) as refused:
        await retry(write("out.jsonl", [openai("x-0", 200, answer())]))
    assert refused.value.code == "E207"
    assert not Path("a.results.jsonl").exists()


async def test_lines_that_are_torn_or_foreign_are_left_out_and_counted() -> None:
    asked(2)
    Path("out.jsonl").write_text(f'{json.dumps(openai("r-0", 200, answer()))}\n{json.dumps(openai("x", 200, answer()))}\n{{"cu')
    paths = Paths.of(Path("a.jsonl"))
    paths.folder.mkdir()
    for path in (paths.results, paths.errors):
        path.touch()
    kept: list[Result] = []
    counts = adopt(Batch([Path("out.jsonl")], paths, Intake(), promising), kept.extend)
    assert [result.id for result in kept] == ["r-0"]
    assert (counts.answered, counts.strangers, counts.unreadable) == (1, 1, 1)
    told = "answers taken over: 1", "answers to other requests: 1", "lines without an answer: 1", "tokens in: 3", "tokens out: 2"
    assert str(counts) == " · ".join(told)


# ---- answers ----


REQUEST = Request(line=7, id="r-1", digest="0123456789abcdef", route=Route.CHAT, path="/v1/chat/completions", body=b"{}")


@pytest.mark.parametrize("dialect", sorted(WRITERS))
def test_what_we_write_is_read_back(dialect: str) -> None:
    good = Result(request=REQUEST, kind=Kind.OK, status=200, body=b'{"a":1}', request_id="req_1", attempts=1)
    told = read_answer(WRITERS[dialect](good))
    assert (told.id, told.status, told.body) == ("r-1", 200, b'{"a":1}')
    bad = Result(request=REQUEST, kind=Kind.REJECTED, status=400, body=b'{"error":{}}', error=Error(Kind.REJECTED, "c", "m"))
    assert read_answer(WRITERS[dialect](bad)).status != 200


@given(st.binary() | st.from_regex(rb'\{"custom_id":"a",.*\}', fullmatch=True))
def test_anything_is_an_answer_or_a_value_error(raw: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read_answer(raw), Told)


# ---- partitions ----


@given(st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=20))), st.integers(1, 200))
def test_partitions_lose_nothing_and_keep_the_order_of_a_key(rows: list[tuple[str, bytes]], budget: int) -> None:
    with Partitions(Path(), budget) as dealt:
        for key, row in rows:
            dealt.put(key, json.dumps([key, row.hex()]).encode())
        back = [[json.loads(row) for row in partition] for partition in dealt]
    for key in {key for key, _ in rows}:
        mine = [[row for name, row in partition if name == key] for partition in back]
        assert [part for part in mine if part] == [[row.hex() for name, row in rows if name == key]]
