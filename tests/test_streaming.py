"""Streams end to end: the real run against the simulator and the fault server. What is stored does not tell how it came."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from batchrunner import Runner, reception
from batchrunner.core import health, retry, streaming
from batchrunner.core.model import Event, Kind, Result, Route
from batchrunner.core.route import answer_text
from batchrunner.simulator import FAULTS, PROFILES, Profile, Simulator
from tests.server import FaultServer, Peer, chat, json_reply, sse

URLS = {
    Route.CHAT: "/v1/chat/completions",
    Route.COMPLETIONS: "/v1/completions",
    Route.RESPONSES: "/v1/responses",
    Route.MESSAGES: "/v1/messages",
}
FAST: dict[str, Any] = {"first_byte_timeout": 0.5, "idle_timeout": 0.5, "timeout": 3.0, "max_attempts": 30}


def question(route: Route, number: int, **more: Any) -> dict[str, Any]:
    said = f"Question {number}: what is {number} plus 🙂 — “{number}”?"
    body: dict[str, Any] = {
        Route.CHAT: {"messages": [{"role": "user", "content": said}]},
        Route.COMPLETIONS: {"prompt": said},
        Route.RESPONSES: {"input": said},
        Route.MESSAGES: {"messages": [{"role": "user", "content": said}]},
    }[route]
    cap = {"max_tokens": 9} if route in (Route.CHAT, Route.MESSAGES) and number % 5 == 0 else {}
    several = {"n": 3} if route in (Route.CHAT, Route.COMPLETIONS) and number % 7 == 0 else {}
    return {"custom_id": f"{route}-{number}", "url": URLS[route], "body": {"model": "m", **body, **cap, **several, **more}}


def questions(count: int, **more: Any) -> list[dict[str, Any]]:
    return [question(route, number, **more) for number in range(count) for route in URLS]


async def answers(url: str, rows: list[dict[str, Any]], **options: Any) -> dict[str, Result]:
    async with Runner(base_url=url, **options) as runner:
        return {result.id: result for result in await runner.gather(rows)}


def body_of(result: Result) -> Any:
    """The answer; the simulator names its engine in whole answers only."""
    body = result.json()
    body.pop("system_fingerprint", None)
    return body


@pytest.fixture(autouse=True)
def _no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts last milliseconds."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(health, "REST", 0.005)
    monkeypatch.setattr(reception, "DRAIN", 0.05)


@pytest.fixture
async def whole() -> dict[str, Any]:
    """What the calm simulator answers without streams."""
    async with Simulator(Profile()) as server:
        results = await answers(server.url, questions(15), stream="off")
        assert all(result.ok and "streamed" not in result.flags for result in results.values())
        return {name: body_of(result) for name, result in results.items()}


def check_against(whole: dict[str, Any], results: dict[str, Result]) -> None:
    """Every success is the whole answer: same text, usage, finish reasons, everything."""
    for name, result in results.items():
        if result.ok:
            assert body_of(result) == whole[name]
            assert result.usage
        else:
            assert b"plus" not in result.body, "no piece of an answer stands in the place of one"


async def test_streams_store_what_whole_answers_store(whole: dict[str, Any]) -> None:
    async with Simulator(Profile()) as server:
        results = await answers(server.url, questions(15), stream="on")
    assert all(result.ok and result.flags[0] == "streamed" and result.attempts == 1 for result in results.values())
    assert any("hit_token_limit" in result.flags for result in results.values())
    check_against(whole, results)


async def test_d15_lines_that_ask_for_streams_themselves_store_the_same(whole: dict[str, Any]) -> None:
    async with Simulator(Profile()) as server:
        for policy in ("auto", "on", "off"):
            results = await answers(server.url, questions(15, stream=True), stream=policy)
            assert all(result.ok and ("streamed" in result.flags) is (policy != "off") for result in results.values())
            check_against(whole, results)


SPOILS = [name for name, (where, _) in FAULTS.items() if where != "plain" and not name.startswith(("hang", "throttle", "error"))]


@pytest.mark.parametrize("fault", SPOILS)
async def test_a_stream_spoiled_in_every_way_is_asked_again(fault: str, whole: dict[str, Any]) -> None:
    profile = Profile(seed=3, faults={fault: 0.4}, gap=0.002)
    async with Simulator(profile) as server:
        results = await answers(server.url, questions(15), stream="on", **FAST | {"idle_timeout": 0.1, "first_byte_timeout": 0.1})
        assert server.stats()["faults"][fault] > 5
    assert {result.kind for result in results.values()} <= {Kind.OK, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_FIRST_BYTE, Kind.GARBLED}
    assert sum(result.ok for result in results.values()) > 45
    check_against(whole, results)
    if fault.startswith("cut"):
        assert sum(result.attempts - 1 for result in results.values()) >= server.stats()["faults"][fault]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("stream", ["on", "off", "auto"])
async def test_no_seed_lets_a_cut_answer_pass(seed: int, stream: str, whole: dict[str, Any]) -> None:
    faults = {"cut": 0.4, "odd": 0.1, "reset.body": 0.1, "drip.some": 0.05}
    async with Simulator(Profile(seed=seed, faults=faults, gap=0.001)) as server:
        rows = questions(15, **({"stream": True} if stream == "auto" else {}))
        results = await answers(server.url, rows, stream=stream, **FAST)
        assert server.stats()["faults"]
    assert sum(result.ok for result in results.values()) >= 55
    check_against(whole, results)


@pytest.mark.parametrize("fault", ["cut.done", "cut.finish", "cut.chunked", "cut.unframed"])
async def test_where_every_stream_is_cut_nothing_succeeds(fault: str) -> None:
    """Even always: an endpoint that cuts everything is not taken for one that never says that it has finished."""
    async with Simulator(Profile(faults={fault: 1.0})) as server:
        results = await answers(server.url, questions(6), stream="on", max_attempts=2)
    assert {result.kind for result in results.values()} == {Kind.TRUNCATED}
    assert all(result.body == b"" and result.partial == b"" for result in results.values())


@pytest.mark.parametrize("name", ["flaky", "storm"])
async def test_rough_weather_changes_no_answer(name: str, whole: dict[str, Any]) -> None:
    rough = structs.replace(PROFILES[name], median=0.002, sigma=0.5, wait=0.05, gap=0.005)
    async with Simulator(rough) as server:
        results = await answers(server.url, questions(15), stream="on", **FAST)
    assert sum(result.ok for result in results.values()) >= 58
    check_against(whole, results)


# -- what endpoints teach, on real sockets


def serving(judge: Any) -> Any:
    """A script: `judge(body)` gives the bytes of each answer, or None for silence and a closed connection."""

    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            said = judge(asked.json())
            if said is None:
                await asyncio.sleep(AGE)
                return
            await peer.send(said)

    return script


AGE = 0.4


def refusing(argument: str) -> Any:
    def judge(body: dict[str, Any]) -> bytes:
        if argument in body:
            return json_reply(400, {"error": {"message": f"Unrecognized request argument supplied: {argument}"}})
        return speaking(body) if body.get("stream") else json_reply(200, chat(text="Hello"))

    return judge


def words(reason: str | None, counted: bool = True) -> list[object]:
    choice = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    end = [{"choices": [], "usage": usage}] if counted else []
    return [{"id": "c", "choices": [choice]}, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, *end, "[DONE]"]


def speaking(_body: dict[str, Any]) -> bytes:
    return sse(words("stop"))


def chats(count: int, **more: Any) -> list[dict[str, Any]]:
    return [question(Route.CHAT, number, **more) for number in range(1, count + 1) if number % 7]


async def told(url: str, rows: list[dict[str, Any]], **options: Any) -> tuple[list[Result], list[str]]:
    """The results, and what was said of the endpoint on the way."""
    notices: list[str] = []

    def listen(event: Event) -> None:
        if event.notice:
            notices.append(event.notice)

    async with Runner(base_url=url, on_event=listen, concurrency=2, **options) as runner:
        return await runner.gather(rows), notices


async def test_c12_refused_options_are_dropped_once_for_the_endpoint() -> None:
    async with FaultServer(serving(refusing("stream_options"))) as server:
        results, notices = await told(server.url, chats(40), stream="on", max_attempts=1)
        refusals = sum(b"stream_options" in seen.body for seen in server.requests)
    assert all(result.ok and result.text == "Hello" and "streamed" in result.flags for result in results)
    assert 1 <= refusals <= 2, "those in flight at the time"
    assert len(notices) == 1


async def test_refused_streams_are_not_asked_for_again() -> None:
    async with FaultServer(serving(refusing("stream"))) as server:
        results, notices = await told(server.url, chats(40, stream=True), max_attempts=1)
        refusals = sum(b'"stream":true' in seen.body.replace(b" ", b"") for seen in server.requests)
    assert all(result.ok and result.text == "Hello" and "streamed" not in result.flags for result in results)
    assert 1 <= refusals <= 4
    assert "streams are refused" in notices[-1]


async def test_c16_silent_calls_that_die_at_one_age_are_streamed_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy gives up after AGE of silence; a stream is never silent."""
    monkeypatch.setattr(streaming, "YOUNG", AGE / 2)
    monkeypatch.setattr(streaming, "ALIKE", 0.2)
    async with FaultServer(serving(lambda body: speaking(body) if body.get("stream") else None)) as server:
        results, notices = await told(server.url, chats(20))
        silent = sum(b'"stream"' not in seen.body for seen in server.requests)
    assert all(result.ok and "streamed" in result.flags for result in results)
    assert 3 <= silent <= 5
    assert len(notices) == 1
    assert "silent calls died" in notices[0]


@pytest.mark.parametrize("stream", ["on", "off"])
async def test_an_endpoint_without_finish_reasons_is_believed_and_every_answer_says_so(stream: str) -> None:
    def judge(body: dict[str, Any]) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": None}
        return sse(words(None)) if body.get("stream") else json_reply(200, chat(choices=[choice]))

    async with FaultServer(serving(judge)) as server:
        results, notices = await told(server.url, chats(30), stream=stream)
        firm, _ = await told(server.url, chats(3), stream=stream, missing_finish="retry", max_attempts=2)
    assert all(result.ok and result.text == "Hello" and "missing_finish" in result.flags for result in results)
    assert len(notices) == 1
    assert {result.kind for result in firm} == {Kind.TRUNCATED}


async def test_uncounted_answers_without_a_reason_are_taken_on_the_users_word_only() -> None:
    async with FaultServer(serving(lambda _: sse(words(None, counted=False)))) as server:
        doubted, notices = await told(server.url, chats(12), stream="on", max_attempts=2)
        taken, _ = await told(server.url, chats(12), stream="on", missing_finish="accept")
    assert {result.kind for result in doubted} == {Kind.TRUNCATED}
    assert notices == []
    assert "--missing-finish" in (doubted[0].error.hint if doubted[0].error else "")
    assert all(result.ok and result.text == "Hello" and "missing_finish" in result.flags for result in taken)


# -- the command line


@pytest.mark.parametrize("keep", [True, False])
async def test_partial_text_is_in_the_error_line_when_asked_for(keep: bool, tmp_path: Path) -> None:
    jobs = tmp_path / "a.jsonl"
    jobs.write_text("".join(json.dumps(row) + "\n" for row in chats(3)))
    async with FaultServer(serving(lambda _: sse(words(None)[:1]))) as server:
        options = {"stream": "on", "keep_partial": keep, "max_attempts": 2}
        report = await Runner(base_url=server.url, **options).run(jobs)
    assert report.summary.failed == 3
    records = [json.loads(line) for line in (tmp_path / "a.errors.jsonl").read_text().splitlines()]
    assert (tmp_path / "a.results.jsonl").read_text() == ""
    for record in records:
        assert record["response"]["body"] is None
        assert record["error"]["code"] == "incomplete_stream"
        facts = record["batchrunner"]
        assert ("partial" in facts) is keep
        assert not keep or answer_text(Route.CHAT, json.dumps(facts["partial"]).encode()) == "Hello"


async def test_what_is_learned_is_said_on_stderr(tmp_path: Path) -> None:
    jobs = tmp_path / "a.jsonl"
    jobs.write_text("".join(json.dumps(row) + "\n" for row in chats(3, max_tokens=4000)))
    async with FaultServer(serving(refusing("stream_options"))) as server:
        command = [sys.executable, "-m", "batchrunner", str(jobs), "--base-url", server.url]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    assert process.returncode == 0
    assert said.count(b"stream_options are refused") == 1
    assert b"2,000 tokens or more are streamed" in said
