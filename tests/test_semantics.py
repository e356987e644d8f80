"""Section C of the fault matrix: what servers say and mean, over real sockets, from the request to the result.

Each test names its row. What the same rows mean to the core alone is proven by table in tests/core (classify, verdicts, waits,
complete) and on virtual time in tests/simulation; here is shown that nothing on the way loses it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, NamedTuple

import pytest

from batchrunner import Result, Runner
from batchrunner import chat as line
from batchrunner.core import endpoints, errored, health, retry
from batchrunner.core.model import Event, Kind
from batchrunner.errors import StopError
from tests.server import FaultServer, Peer, Seen, chat, json_reply, reply

Judge = Callable[[str, int], bytes]


class Ran(NamedTuple):
    """What a run left behind: its results by id, why it was stopped, and what the server was asked when."""

    results: dict[str, Result]
    stopped: str
    asked: list[tuple[str, float]]  # question, second

    def kinds(self) -> Counter[Kind]:
        return Counter(result.kind for result in self.results.values())

    def times(self, question: str) -> int:
        return sum(said == question for said, _ in self.asked)


@pytest.fixture(autouse=True)
def _no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of our own last milliseconds."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(health, "REST", 0.005)
    monkeypatch.setattr(endpoints, "RECHECK", 0.01)
    monkeypatch.setattr(errored, "LOADING_PAUSE", 0.01)


def question(seen: Seen) -> str:
    return str(seen.json()["messages"][0]["content"])


def good(said: str) -> bytes:
    return json_reply(200, chat(text=said))


def refusal(status: int, message: str = "no", code: object = None, headers: Mapping[str, str] = {}) -> bytes:
    return json_reply(status, {"error": {"message": message, "type": None, "param": None, "code": code}}, headers)


async def run(judge: Judge, count: int = 6, *more: str, **options: Any) -> Ran:
    """Ask `count` questions q0, q1, … of a server that answers each as `judge` says, by the question and how often it came."""
    asked: list[tuple[str, float]] = []
    clock = asyncio.get_running_loop().time

    async def script(peer: Peer) -> None:
        while True:
            said = question(await peer.request())
            asked.append((said, clock()))
            await peer.send(judge(said, sum(each == said for each, _ in asked)))

    rows = [line(f"q{n}", model="m", id=f"q{n}") for n in range(count)]
    stopped, results = "", {}
    async with FaultServer(script) as server, Runner(base_url=(server.url, *more), stream="off", **options) as runner:
        try:
            async for result in runner.stream(rows):
                results[result.id] = result
        except StopError as stop:
            stopped = str(stop)
    return Ran(results, stopped, asked)


def once(answer: bytes, at: str = "q0") -> Judge:
    """This answer to the first asking of one question; good ones to everything else."""
    return lambda said, times: answer if said == at and times == 1 else good(said)


def always(answer: bytes, at: str = "q3") -> Judge:
    """This answer to every asking of one question."""
    return lambda said, times: answer if said == at else good(said)


def everything(answer: bytes) -> Judge:
    return lambda said, times: answer


# ---- throttles ----


def gap(ran: Ran, status_at: int = 0) -> float:
    """Seconds between the first request and the next."""
    return ran.asked[status_at + 1][1] - ran.asked[status_at][1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After-Ms": "250"},  # C3
        {"Retry-After": "0.25"},
        {"Retry-After": "-1, 0.25"},
        {"Retry-After": "inf", "Retry-After-Ms": "250"},
        {"Retry-After": "1e99, 0.25"},
    ],
    ids=["ms", "float", "negative", "inf", "absurd"],
)
async def test_c1_c3_a_throttle_pauses_the_endpoint_and_costs_no_attempt(headers: dict[str, str]) -> None:
    ran = await run(once(refusal(429, "slow", headers=headers)), 6, concurrency=1, max_attempts=1)
    assert gap(ran) >= 0.25, "nobody asks meanwhile"
    assert all(result.ok for result in ran.results.values())
    assert ran.results["q0"].attempts == 2


async def test_c1_many_in_flight_wait_alike() -> None:
    ran = await run(once(refusal(429, "slow", headers={"Retry-After-Ms": "300"})), 30, concurrency=3)
    after = [at - ran.asked[0][1] for _, at in ran.asked[3:]]
    assert min(after) >= 0.29
    assert all(result.ok for result in ran.results.values())


async def test_c2_a_date_counts_from_the_servers_own_clock() -> None:
    """An hour before our time by the server's clock: a second of it is a second."""
    headers = {"Date": formatdate(1e9, usegmt=True), "Retry-After": formatdate(1e9 + 1, usegmt=True)}
    ran = await run(once(refusal(429, "slow", headers=headers)), 2, concurrency=1)
    assert gap(ran) >= 0.99
    assert all(result.ok for result in ran.results.values())


async def test_c4_a_storm_without_headers_ends_with_every_answer() -> None:
    ran = await run(lambda said, times: reply(b"", 429) if times <= 2 else good(said), 30, concurrency="auto", max_attempts=2)
    assert all(result.ok for result in ran.results.values())
    assert len(ran.asked) == 90


MONEY = [
    ("insufficient_quota", 429),
    ("credit_balance_exhausted", 429),
    ("organization_spend_limit_exceeded", 429),
    ("project_spend_limit_exceeded", 429),
    ("organization_usage_limit_exceeded", 429),
    ("billing_hard_limit_reached", 429),
    ("insufficient_user_quota", 403),
    ("pre_consume_token_quota_failed", 403),
    ("budget_exceeded", 400),
    ("billing_not_active", 429),
]


@pytest.mark.parametrize(("code", "status"), MONEY)
async def test_c5_no_money_stops_the_run_and_uses_up_no_line(code: str, status: int) -> None:
    ran = await run(everything(refusal(status, "you ran out", code)), 40, concurrency=4)
    assert "[E302]" in ran.stopped
    assert (ran.results, len(ran.asked) <= 8) == ({}, True), "those in flight, and no more"


async def test_c6_a_days_limit_stops_with_its_time() -> None:
    headers = {"Retry-After": "18000"}
    ran = await run(everything(refusal(429, "limit of requests per day reached", headers=headers)), 20, concurrency=2)
    assert "[E30" in ran.stopped
    assert (ran.results, len(ran.asked) <= 4) == ({}, True)


async def test_c7_a_key_refused_at_the_start() -> None:
    ran = await run(everything(refusal(401, "Incorrect API key provided")), 20, concurrency=2)
    assert "[E301]" in ran.stopped
    assert (ran.results, len(ran.asked) <= 4) == ({}, True)


async def test_c7_a_key_refused_once_in_the_middle_is_asked_again() -> None:
    ran = await run(once(refusal(401, "hiccup"), "q3"), 8, concurrency=1)
    assert (ran.stopped, ran.kinds()) == ("", {Kind.OK: 8})


async def test_c8_no_payment_with_a_wait_is_a_throttle_and_without_one_the_end() -> None:
    ran = await run(once(refusal(402, "in flight budget", headers={"Retry-After-Ms": "50"})), 3, concurrency=1)
    assert ran.kinds() == {Kind.OK: 3}
    assert "[E302]" in (await run(everything(refusal(402, "pay")), 3)).stopped


# ---- refusals of one line ----


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(400, "bad temperature"), Kind.REJECTED),
        (refusal(422, "bad temperature"), Kind.REJECTED),
        (refusal(400, "This model's maximum context length is 10", "context_length_exceeded"), Kind.CONTEXT),
        (refusal(400, "flagged", "content_filter"), Kind.POLICY),
        (reply(b"<html><title>413 Request Entity Too Large</title></html>", 413, {"Content-Type": "text/html"}), Kind.TOO_LARGE),
        (refusal(429, "Request too large for m: TPM: Limit 100, Requested 900"), Kind.TOO_LARGE),
        (refusal(451, "legal"), Kind.REJECTED),
    ],
)
async def test_c9_c11_what_one_line_is_refused_for_is_final_and_its_own(answer: bytes, kind: Kind) -> None:
    ran = await run(always(answer), 8, concurrency=2)
    assert ran.kinds() == {Kind.OK: 7, kind: 1}
    assert (ran.times("q3"), ran.results["q3"].attempts) == (1, 1)
    assert ran.results["q3"].error
    assert ran.results["q3"].error.hint


@pytest.mark.parametrize("status", [408, 409, 425, 499, 498])
async def test_c13_odd_statuses_that_pass(status: int) -> None:
    ran = await run(once(refusal(status)), 3, concurrency=1)
    assert (ran.kinds(), ran.times("q0")) == ({Kind.OK: 3}, 2)


async def test_c14_a_line_that_always_breaks_the_server_ends_alone() -> None:
    ran = await run(always(refusal(500, "boom")), 60, concurrency=4, max_attempts=3)
    assert ran.kinds() == {Kind.OK: 59, Kind.SERVER_ERROR: 1}
    assert ran.times("q3") == 3


async def test_c15_a_server_that_fails_for_a_while_loses_nothing() -> None:
    calls = 0

    def ill(said: str, times: int) -> bytes:
        nonlocal calls
        calls += 1
        return refusal(500, "boom") if 5 < calls < 120 else good(said)

    ran = await run(ill, 60, concurrency=8, max_attempts=3)
    assert ran.kinds() == {Kind.OK: 60}


async def test_c17_a_model_that_is_loading_is_waited_for() -> None:
    ran = await run(
        lambda said, times: refusal(503, "Loading model") if times < 12 else good(said), 2, concurrency=1, max_attempts=2
    )
    assert (ran.kinds(), ran.results["q0"].attempts) == ({Kind.OK: 2}, 12)


@pytest.mark.parametrize("status", [502, 504, 520, 521, 522, 523, 524, 527, 529, 530, 598, 599])
async def test_c16_c18_gateways_and_their_pages(status: int) -> None:
    page = reply(b"<html><head><title>Bad gateway</title></head></html>", status, {"Content-Type": "text/html"})
    ran = await run(once(page), 3, concurrency=1)
    assert (ran.kinds(), ran.times("q0")) == ({Kind.OK: 3}, 2)


async def test_c18_an_origin_that_is_silent_is_not_paid_for_ever() -> None:
    ran = await run(always(refusal(524, "a timeout occurred")), 8, concurrency=1, max_attempts=9)
    assert ran.times("q3") == 3


@pytest.mark.parametrize("status", [525, 526])
async def test_c18_a_bad_certificate_behind_the_gateway_stops(status: int) -> None:
    assert "[E304]" in (await run(everything(refusal(status, "handshake")), 5)).stopped


# ---- errors inside a 200 ----

SHAPES: list[tuple[object, Kind]] = [
    ({"error": {"message": "x", "type": "server_error", "code": None}}, Kind.SERVER_ERROR),
    ({"error": {"message": "x", "code": "429"}}, Kind.RATE_LIMITED),
    ({"error": {"message": "x", "code": 503}}, Kind.OVERLOADED),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}, "request_id": "r"}, Kind.OVERLOADED),
    ([{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}], Kind.OVERLOADED),
    ({"error": "text"}, Kind.SERVER_ERROR),
    ({"error": "x", "error_type": "overloaded"}, Kind.OVERLOADED),
    ({"object": "error", "message": "x", "type": "invalid_request_error", "code": 400}, Kind.REJECTED),
    ({"detail": "x", "error": True}, Kind.SERVER_ERROR),
    ({"choices": [{"index": 0, "error": {"code": 502, "message": "x"}, "finish_reason": "error"}]}, Kind.GATEWAY),
    ({**chat(), "error": {"message": "x", "code": 500}}, Kind.SERVER_ERROR),
]


@pytest.mark.parametrize(("body", "kind"), SHAPES, ids=range(len(SHAPES)))
async def test_c19_an_error_in_a_200_is_what_it_says(body: object, kind: Kind) -> None:
    heard: list[Kind] = []

    def hear(event: Event) -> None:
        if event.outcome and event.attempt and event.attempt.request.id == "q1" and event.attempt.number == 1:
            heard.append(event.outcome.kind)

    ran = await run(once(json_reply(200, body), "q1"), 3, concurrency=1, on_event=hear)
    assert heard == [kind]
    assert ran.results["q1"].ok is (kind is not Kind.REJECTED)


def ending(reason: str | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": reason}
    return json_reply(200, chat(choices=[choice]))


async def test_c20_how_an_answer_ends() -> None:
    ends = {"q1": "length", "q2": "content_filter", "q3": None, "q4": "brand_new"}
    ran = await run(lambda said, times: ending(ends[said]) if said in ends else good(said), 5, concurrency=1, max_attempts=2)
    got = {name: (result.kind, result.flags, bool(result.body)) for name, result in ran.results.items()}
    assert got["q1"] == (Kind.OK, ("hit_token_limit",), True)
    assert got["q2"] == (Kind.POLICY, (), True)
    assert (got["q3"][0], got["q3"][2]) == (Kind.TRUNCATED, False)
    assert got["q4"] == (Kind.OK, ("unknown_finish_reason",), True)


async def test_c21_the_server_may_say_whether_to_ask_again() -> None:
    ran = await run(always(refusal(500, "boom", headers={"x-should-retry": "false"})), 6, concurrency=1)
    assert (ran.times("q3"), ran.results["q3"].kind) == (1, Kind.SERVER_ERROR)
    ran = await run(once(refusal(400, "hm", headers={"x-should-retry": "true"}), "q3"), 6, concurrency=1)
    assert (ran.times("q3"), ran.kinds()) == (2, {Kind.OK: 6})


# ---- late, twice, elsewhere ----


async def test_c22_c25_an_answer_given_up_may_be_billed_and_never_makes_a_second_record() -> None:
    first = True

    async def slow(peer: Peer) -> None:
        nonlocal first
        while True:
            said = question(await peer.request())
            if first:
                first = False
                await asyncio.sleep(0.6)  # and then answers, to nobody
            await peer.send(good(said))

    async with FaultServer(slow) as server, Runner(base_url=server.url, stream="off", first_byte_timeout=0.3) as runner:
        results = [result async for result in runner.stream([line(f"q{n}", model="m") for n in range(3)])]
        await asyncio.sleep(0.5)
    assert sorted(result.text for result in results) == ["q0", "q1", "q2"]
    assert sorted((result.attempts, result.maybe_billed) for result in results) == [(1, 0), (1, 0), (2, 1)]


async def test_c23_a_second_endpoint_that_does_not_know_the_model_uses_up_no_line() -> None:
    second: list[str] = []

    async def stranger(peer: Peer) -> None:
        while True:
            second.append(question(await peer.request()))
            await peer.send(refusal(404, "The model m does not exist", "model_not_found"))

    async with FaultServer(stranger) as other:
        ran = await run(lambda said, times: refusal(503, "busy") if times == 1 else good(said), 30, other.url, concurrency=4)
    assert ran.kinds() == {Kind.OK: 30}
    assert ran.stopped == ""


async def test_c24_two_endpoints_that_throttle_in_turn() -> None:
    async def sulky(peer: Peer) -> None:
        turns = 0
        while True:
            said = question(await peer.request())
            turns += 1
            await peer.send(refusal(429, "slow", headers={"Retry-After-Ms": "60"}) if turns % 3 == 0 else good(said))

    throttled = 0

    def moody(said: str, times: int) -> bytes:
        nonlocal throttled
        throttled += times == 1
        wait = {"Retry-After-Ms": "60"}
        return refusal(429, "slow", headers=wait) if times == 1 and throttled % 3 == 0 else good(said)

    async with FaultServer(sulky) as other:
        ran = await run(moody, 40, other.url, concurrency=2)
        elsewhere = len(other.requests)
    assert ran.kinds() == {Kind.OK: 40}
    assert len(ran.asked) + elsewhere <= 80, "a throttled request waits; it does not go to and fro"


async def test_c26_a_record_can_be_traced() -> None:
    answer = json_reply(200, chat(name="chatcmpl-77", created=1700000000, model="served"), {"x-request-id": "req-9"})
    result = (await run(everything(answer), 1)).results["q0"]
    assert (result.request_id, result.endpoint.startswith("127.0.0.1:")) == ("req-9", True)
    assert {name: result.json()[name] for name in ("id", "created", "model")} == {
        "id": "chatcmpl-77",
        "created": 1700000000,
        "model": "served",
    }


@pytest.mark.parametrize("status", [403, 429, 503, 400])
@pytest.mark.parametrize("words", ["余额不足，请充值", "用户额度不足", "账户已欠费"])
async def test_c27_relays_that_say_it_in_chinese(status: int, words: str) -> None:
    ran = await run(everything(refusal(status, words)), 20, concurrency=2)
    assert "[E302]" in ran.stopped
    assert ran.results == {}


async def test_c28_fewer_vectors_than_inputs() -> None:
    async def short(peer: Peer) -> None:
        while True:
            seen = await peer.request()
            inputs = seen.json()["input"]
            vectors = [{"index": n, "embedding": [0.5]} for n in range(len(inputs) - 1)]
            await peer.send(json_reply(200, {"object": "list", "data": vectors, "usage": {"prompt_tokens": 1}}))

    row = {"custom_id": "e", "url": "/v1/embeddings", "body": {"model": "m", "input": ["a", "b", "c"]}}
    async with FaultServer(short) as server, Runner(base_url=server.url, max_attempts=2) as runner:
        (result,) = await runner.gather([json.loads(json.dumps(row))])
    assert (result.kind, result.body) == (Kind.TRUNCATED, b"")
    assert result.error
    assert "2 of 3 vectors" in result.error.message
