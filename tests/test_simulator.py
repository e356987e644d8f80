"""The embedded endpoint: each fault is really on the wire, seeds repeat, every route answers completely."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from batchrunner.core.model import Route
from batchrunner.core.route import answer_text
from batchrunner.errors import UsageError
from batchrunner.simulator import FAULTS, PROFILES, Profile, Simulator, ledger, profile_named, serve
from batchrunner.simulator.incoming import MalformedError, parse
from batchrunner.simulator.ledger import Ledger
from batchrunner.simulator.profile import Dice
from batchrunner.simulator.wire import WRITERS

CHAT = {"model": "m", "messages": [{"role": "user", "content": "what is one plus one?"}]}
STREAM = {**CHAT, "stream": True}
PATIENCE = 30.0  # for what must come
SILENCE = 0.05  # for what must not


class Heard(Struct):
    """What a client without mercy hears. `ending`: whole, cut (closed early), reset, silent."""

    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    ending: str = "whole"

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


def raw(body: object = None, path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> bytes:
    """A request as bytes."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def dialled(sim: Simulator) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def hear(reader: asyncio.StreamReader, bodiless: bool = False, silence: str = "") -> Heard:
    """Read one reply, as far as it goes. `silence` says where none is expected any more: "head" or "body"."""
    heard = Heard()
    try:
        async with asyncio.timeout(SILENCE if silence == "head" else PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        heard.status = int(first.split()[1])
        heard.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert len(heard.headers) == len(lines)
        async with asyncio.timeout(SILENCE if silence == "body" else PATIENCE):
            heard.body = b"" if bodiless else await _hear_body(reader, heard)
    except asyncio.IncompleteReadError as error:
        heard.body += error.partial
        heard.ending = "cut"
    except ConnectionResetError:
        heard.ending = "reset"
    except TimeoutError:
        heard.ending = "silent"
    return heard


async def _hear_body(reader: asyncio.StreamReader, heard: Heard) -> bytes:
    if "content-length" in heard.headers:
        return await reader.readexactly(int(heard.headers["content-length"]))
    if heard.headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        heard.body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readexactly(2) == b"\r\n"
    return heard.body


async def until(true: Callable[[], bool]) -> None:
    """Let the server, which lives on this loop, go on until it has come so far."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 (no event tells how far the server is)
            await asyncio.sleep(0)


async def ask(
    sim: Simulator,
    body: object = None,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    silence: str = "",
    **headers: str,
) -> Heard:
    async with dialled(sim) as (reader, writer):
        writer.write(raw(body, path, method, **headers))
        return await hear(reader, method == "HEAD", silence)


async def suffer(fault: str, body: object = CHAT, **headers: str) -> Heard:
    """One reply of a server that knows nothing but this fault; its books must say the same."""
    async with Simulator(Profile(faults={fault: 1.0}, wait=0.15, gap=0.002)) as sim:
        heard = await ask(sim, body, silence={"hang": "head", "stall": "body"}.get(fault, ""), **headers)
        stats = sim.stats()
    assert stats["faults"] == {fault: 1}
    assert stats["routes"] == {"chat": {str(heard.status): 1}}
    return heard


# --- good answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "route", "body"),
    [
        ("/v1/chat/completions", Route.CHAT, CHAT),
        ("/chat/completions", Route.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is one"}]}]}),
        ("/openai/deployments/d/chat/completions?api-version=1", Route.CHAT, CHAT),
        ("/v1/completions", Route.COMPLETIONS, {"prompt": "what is one"}),
        ("/v1/responses", Route.RESPONSES, {"input": "what is one"}),
        (
            "/v1/responses",
            Route.RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "what is one"}]}]},
        ),
        ("/v1/messages", Route.MESSAGES, {**CHAT, "max_tokens": 100}),
    ],
)
async def test_text_answers_are_complete_and_echo_their_question(path: str, route: Route, body: dict[str, Any]) -> None:
    async with Simulator() as sim:
        first, second = await ask(sim, body, path), await ask(sim, body, path)
    assert (first.status, first.ending) == (200, "whole")
    assert answer_text(route, first.body).startswith("what is one")
    assert first.body == second.body
    assert first.headers["request-id" if route is Route.MESSAGES else "x-request-id"].startswith("req_")
    assert any("ratelimit" in name and "remaining" in name for name in first.headers)


async def test_the_answers_of_the_other_routes_have_as_many_parts_as_were_asked() -> None:
    async with Simulator() as sim:
        vectors = (await ask(sim, {"input": ["a", "b", "c"]}, "/v1/embeddings")).json()["data"]
        tokens = (await ask(sim, {"input": [1, 2, 3], "dimensions": 5}, "/v1/embeddings")).json()["data"]
        packed = (await ask(sim, {"input": "a", "encoding_format": "base64"}, "/v1/embeddings")).json()["data"]
        verdicts = (await ask(sim, {"input": ["x", "y"]}, "/v1/moderations")).json()["results"]
        images = (await ask(sim, {"prompt": "a cat", "n": 2}, "/v1/images/generations")).json()["data"]
        choices = (await ask(sim, {"prompt": ["x", "y"], "n": 2}, "/v1/completions")).json()["choices"]
        models = (await ask(sim, path="/v1/models", method="GET")).json()["data"]
    assert [vector["index"] for vector in vectors] == [0, 1, 2]
    assert vectors[0]["embedding"] != vectors[1]["embedding"]
    assert len(tokens) == 1
    assert len(tokens[0]["embedding"]) == 5
    assert isinstance(packed[0]["embedding"], str)
    assert len(verdicts) == 2
    assert len(images) == 2
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [model["id"] for model in models] == ["simulated"]


async def test_a_small_token_budget_ends_the_answer_with_length() -> None:
    async with Simulator() as sim:
        chat = (await ask(sim, {**CHAT, "max_tokens": 2})).json()
        response = (await ask(sim, {"input": "what is one", "max_output_tokens": 2}, "/v1/responses")).json()
        message = (await ask(sim, {**CHAT, "max_tokens": 2}, "/v1/messages")).json()
        roomy = (await ask(sim, {**CHAT, "max_tokens": 1000})).json()
    assert chat["choices"][0]["message"]["content"] == "what is"
    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["completion_tokens"] == 2
    assert (response["status"], response["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert message["stop_reason"] == "max_tokens"
    assert roomy["choices"][0]["finish_reason"] == "stop"


async def test_a_chat_stream_says_the_same_as_the_plain_answer() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, {**STREAM, "n": 2, "stream_options": {"include_usage": True}})
    *chunks, usage = heard.events
    texts, reasons = ["", ""], {}
    for choice in (choice for event in chunks for choice in event["choices"]):
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert all(text.startswith("what is one plus one?") for text in texts)
    assert reasons == {0: "stop", 1: "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == sum(len(text.split()) for text in texts)
    assert heard.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "body", "last", "delta"),
    [
        ("/v1/completions", {"prompt": "what is one"}, "text_completion", lambda event: event["choices"][0]["text"]),
        ("/v1/responses", {"input": "what is one"}, "response.completed", lambda event: event.get("delta", "")),
        (
            "/v1/responses",
            {"input": "what is one", "max_output_tokens": 2},
            "response.incomplete",
            lambda event: event.get("delta", ""),
        ),
        ("/v1/messages", CHAT, "message_stop", lambda event: event.get("delta", {}).get("text", "")),
    ],
)
async def test_other_streams_end_with_their_last_event(path: str, body: dict[str, Any], last: str, delta: Any) -> None:
    async with Simulator() as sim:
        heard = await ask(sim, {**body, "stream": True}, path)
    assert (heard.events[-1].get("type") or heard.events[-1]["object"]) == last
    assert "".join(map(delta, heard.events)).startswith("what is")


async def test_other_paths_echo_the_request_without_its_credentials() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, {"x": 1}, "/echo?q=1", "PUT", Authorization="Bearer secret", X_Api_Key="secret", X_Mine="yes")
        text = await ask(sim, "plain", "/any/path", "POST")
        head = await ask(sim, None, "/echo", "HEAD")
    echoed = heard.json()
    assert (echoed["method"], echoed["path"], echoed["body"]) == ("PUT", "/echo?q=1", {"x": 1})
    assert echoed["headers"]["x-mine"] == "yes"
    assert b"secret" not in heard.body
    assert text.json()["body"] == "plain"
    assert (head.status, head.ending) == (200, "whole")


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_pipelined_calls_are_answered_in_order() -> None:
    questions = [{"messages": [{"role": "user", "content": f"number {number}"}]} for number in range(5)]
    for profile in (Profile(), Profile(median=0.001), Profile(per_token=0.00001)):
        async with Simulator(profile) as sim, dialled(sim) as (reader, writer):
            writer.write(b"".join(map(raw, questions)))
            texts = [answer_text(Route.CHAT, (await hear(reader)).body) for _ in questions]
            assert sim.stats()["connections"] == 1
        assert [text[:8] for text in texts] == [f"number {number}" for number in range(5)]


BODY = json.dumps(CHAT).encode()
CHUNKED = b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n%b\r\n%x\r\n%b\r\n0\r\nTrailer: 1\r\n\r\n" % (
    BODY[:5],
    len(BODY) - 5,
    BODY[5:],
)


@given(st.integers(0, len(CHUNKED) - 1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_call_is_read_the_same_wherever_its_bytes_are_split(at: int, chunked: bool) -> None:
    request = CHUNKED if chunked else raw(CHAT, "/v1/x")
    assert parse(request[: min(at, len(request) - 1)]) is None
    found = parse(bytearray(request + b"GET /next"))
    assert found
    assert (found[0].method, found[0].path, found[0].body, found[1]) == ("POST", "/v1/x", BODY, len(request))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_parse_survives_any_bytes(noise: bytes) -> None:
    for prefix in (b"", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length:"):
        try:
            found = parse(prefix + noise)
        except MalformedError:
            continue
        assert found is None or found[1] <= len(prefix + noise)


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"x" * 70_000,
    ],
)
async def test_what_is_no_request_gets_400_and_the_connection_ends(noise: bytes) -> None:
    async with Simulator() as sim, dialled(sim) as (reader, writer):
        writer.write(noise)
        assert (await hear(reader)).status == 400
        assert await reader.read() == b""


async def test_a_body_that_is_no_question_gets_400_and_the_connection_lives() -> None:
    async with Simulator() as sim, dialled(sim) as (reader, writer):
        for body in ("text", {"messages": 7}):
            writer.write(raw(body))
            heard = await hear(reader)
            assert (heard.status, heard.json()["error"]["type"]) == (400, "invalid_request_error")
        writer.write(raw(CHAT))
        assert (await hear(reader)).status == 200


async def test_a_client_that_asks_may_send_its_body() -> None:
    request = raw(CHAT, Expect="100-continue")
    async with Simulator() as sim, dialled(sim) as (reader, writer):
        writer.write(request.removesuffix(BODY))
        assert (await hear(reader, bodiless=True)).status == 100
        writer.write(BODY)
        assert (await hear(reader)).status == 200


# --- faults -----------------------------------------------------------------------------------------------------------


def test_every_fault_has_its_writer() -> None:
    assert set(WRITERS) == {"", *FAULTS}


@pytest.mark.parametrize(
    ("fault", "header", "value"),
    [
        ("throttle.seconds", "retry-after", "1"),
        ("throttle.float", "retry-after", "0.15"),
        ("throttle.ms", "retry-after-ms", "150"),
        ("throttle.reset", "x-ratelimit-reset-requests", "150ms"),
    ],
)
async def test_a_429_says_in_a_header_how_long_to_wait(fault: str, header: str, value: str) -> None:
    heard = await suffer(fault)
    assert (heard.status, heard.headers[header]) == (429, value)
    assert heard.json()["error"]["type"] == "rate_limit_error"
    assert {name for name in heard.headers if "retry" in name or "reset" in name} == {header}


async def test_a_429_with_a_date_counts_from_its_own_date() -> None:
    heard = await suffer("throttle.date")
    wait = parsedate_to_datetime(heard.headers["retry-after"]) - parsedate_to_datetime(heard.headers["date"])
    assert wait.total_seconds() == 1


async def test_a_429_says_in_its_body_how_long_to_wait_or_not_at_all() -> None:
    google, prose, bare, empty = [await suffer(f"throttle.{form}") for form in ("google", "prose", "bare", "empty")]
    assert google.json()[0]["error"]["details"][0]["retryDelay"] == "0.15s"
    assert "try again in 150ms" in prose.json()["error"]["message"]
    assert "again" not in bare.json()["error"]["message"]
    assert empty.body == b""
    for heard in (google, prose, bare, empty):
        assert heard.status == 429
        assert not [name for name in heard.headers if "retry" in name or "ratelimit" in name]


async def test_server_errors_have_their_status_and_shape() -> None:
    broken, gateway, full, busy = [await suffer(f"error.{status}") for status in (500, 502, 503, 529)]
    assert (broken.status, gateway.status, full.status, busy.status) == (500, 502, 503, 529)
    assert broken.json()["error"]["type"] == "server_error"
    assert gateway.headers["content-type"].startswith("text/html")
    assert full.json()["error"]["code"] == "server_is_overloaded"
    assert busy.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_silence_before_or_inside_the_answer(body: dict[str, Any]) -> None:
    hang, stall = await suffer("hang", body), await suffer("stall", body)
    assert (hang.status, hang.ending) == (0, "silent")
    assert (stall.status, stall.ending) == (200, "silent")
    assert stall.body


@pytest.mark.parametrize("fault", ["cut.length", "cut.chunked"])
async def test_a_framed_body_ends_before_its_end(fault: str) -> None:
    heard = await suffer(fault)
    assert (heard.status, heard.ending) == (200, "cut")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        heard.json()


async def test_a_stream_ends_without_its_last_chunk() -> None:
    heard = await suffer("cut.chunked", STREAM)
    assert (heard.status, heard.ending) == (200, "cut")
    assert b'finish_reason":"' not in heard.body


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_an_unframed_body_is_cut_and_http_cannot_tell(body: dict[str, Any]) -> None:
    heard = await suffer("cut.unframed", body)
    assert (heard.status, heard.ending) == (200, "whole")
    assert "content-length" not in heard.headers
    assert b'"finish_reason":"' not in heard.body


async def test_a_gzip_body_is_cut_inside_right_framing() -> None:
    heard = await suffer("cut.gzip", accept_encoding="gzip, deflate")
    assert (heard.ending, heard.headers["content-encoding"]) == ("whole", "gzip")
    with pytest.raises(EOFError):
        gzip.decompress(heard.body)
    assert zlib.decompressobj(31).decompress(heard.body).startswith(b'{"id"')
    assert (await suffer("cut.gzip")).ending == "cut"


async def test_a_stream_lacks_its_finish_with_and_without_done() -> None:
    bare, done = await suffer("cut.finish", STREAM), await suffer("cut.done", STREAM)
    for heard in (bare, done):
        assert heard.ending == "whole"
        assert heard.events[-1]["choices"][0]["delta"]["content"]
        assert not any(choice["finish_reason"] for event in heard.events for choice in event["choices"])
    assert not bare.body.endswith(b"[DONE]\n\n")
    assert done.body.endswith(b"data: [DONE]\n\n")


async def test_a_200_that_is_no_answer() -> None:
    empty, error, page, broken = [
        await suffer(f"odd.{fault}", body)
        for fault, body in [("empty", CHAT), ("error", CHAT), ("html", CHAT), ("error", STREAM)]
    ]
    assert {heard.status for heard in (empty, error, page, broken)} == {200}
    assert empty.body == b""
    assert error.json()["error"]["code"] == "server_error"
    assert b"<form" in page.body
    assert broken.events[0]["choices"]
    assert broken.events[-1]["error"]["code"] == "server_error"


async def test_a_reset_comes_before_inside_or_after_the_head() -> None:
    before, head, body = await suffer("reset.before"), await suffer("reset.head"), await suffer("reset.body")
    assert [heard.ending for heard in (before, head, body)] == ["reset"] * 3
    assert [heard.status for heard in (before, head, body)] == [0, 0, 200]


def test_a_reset_is_one_on_uvloop_too() -> None:
    assert uvloop.run(suffer("reset.before")).ending == "reset"
    assert uvloop.run(suffer("reset.body")).ending == "reset"


@pytest.mark.parametrize("fault", ["slow.head", "drip.some"])
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_slow_answers_are_good_ones(fault: str, body: dict[str, Any]) -> None:
    async with Simulator() as sim:
        good = await ask(sim, body)
    heard = await suffer(fault, body)
    assert heard.body.endswith(good.body)
    assert heard.body.removesuffix(good.body).strip() == (b": keep-alive\n\n" * 5).strip() * (
        fault == "drip.some" and body is STREAM
    )
    assert (heard.ending, len(heard.body) > len(good.body)) == ("whole", fault == "drip.some")


async def test_an_endless_drip_never_answers_and_stops_with_its_client() -> None:
    async with Simulator(Profile(faults={"drip.endless": 1.0}, gap=0.001)) as sim:
        async with dialled(sim) as (reader, writer):
            writer.write(raw(CHAT))
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(40) == b"1\r\n\n\r\n" * 6 + b"1\r\n\n"
        await until(lambda: sim.stats()["in_flight"] == 0)
        assert sim.stats()["answered"] == 0


# --- chance -----------------------------------------------------------------------------------------------------------


async def statuses(profile: Profile, order: range) -> dict[int, list[tuple[int, str]]]:
    """What each of some questions meets on its first and second sending."""
    met: dict[int, list[tuple[int, str]]] = {}
    async with Simulator(profile) as sim:
        for number in [*order, *order]:
            heard = await ask(sim, {"messages": [{"role": "user", "content": f"number {number}"}]})
            met.setdefault(number, []).append((heard.status, heard.ending))
    return met


async def test_a_seed_repeats_its_faults_in_any_order_and_another_seed_has_others() -> None:
    profile = Profile(seed=3, faults={"throttle": 0.2, "error": 0.2, "cut": 0.1, "odd": 0.1, "reset": 0.1})
    first = await statuses(profile, range(40))
    assert first == await statuses(profile, range(39, -1, -1))
    assert first != await statuses(replace(profile, seed=4), range(40))
    assert any(once != twice for once, twice in first.values())


def test_shares_are_kept_and_families_are_split_among_fitting_members() -> None:
    dice = Dice(Profile(faults={"cut": 0.3, "hang": 0.1}))
    for streamed, members in ((False, 4), (True, 4)):
        drawn = [dice.throw(number.to_bytes(8, "little"), 1, streamed).fault for number in range(20_000)]
        cuts = {fault for fault in drawn if fault.startswith("cut.")}
        assert len(cuts) == members
        assert all(abs(drawn.count(fault) / 20_000 - 0.3 / members) < 0.01 for fault in cuts)
        assert abs(drawn.count("hang") / 20_000 - 0.1) < 0.01
    assert ("cut.gzip" in cuts, "cut.done" in cuts) == (False, True)


def test_latencies_follow_their_distribution() -> None:
    keys = [number.to_bytes(8, "little") for number in range(4001)]
    spread = sorted(Dice(Profile(median=0.3, sigma=0.8)).throw(key, 1, False).latency for key in keys)
    assert spread[2000] == pytest.approx(0.3, rel=0.1)
    assert spread[int(4001 * 0.8413)] == pytest.approx(0.3 * 2.2255, rel=0.1)  # one sigma
    assert {Dice(Profile(median=0.3)).throw(key, 1, False).latency for key in keys} == {0.3}


async def test_tokens_take_their_time() -> None:
    profile = Profile(per_token=0.001)
    async with Simulator(profile) as sim:
        for body in (CHAT, STREAM):
            start = asyncio.get_running_loop().time()
            heard = await ask(sim, {**body, "max_tokens": 20})
            assert heard.ending == "whole"
            assert asyncio.get_running_loop().time() - start >= 0.018


@pytest.mark.parametrize("name", ["calm", "flaky", "storm"])
def test_profiles_are_known_by_name_and_let_retries_through(name: str) -> None:
    profile = profile_named(f"simulated:{name}")
    assert profile is PROFILES[name] is profile_named(name)
    dice = Dice(profile)
    bad = [number for number in range(500) if all(dice.throw(number.to_bytes(8, "little"), n, False).fault for n in range(1, 15))]
    assert not bad


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    assert profile_named("simulated") is PROFILES["calm"]
    with pytest.raises(UsageError, match="E102") as caught:
        profile_named("simulated:tornado")
    assert all(f"simulated:{name}" in caught.value.hint for name in PROFILES)


@pytest.mark.parametrize("faults", [{"cat": 0.1}, {"hang": 0.6, "cut": 0.6}, {"hang": -0.1}])
def test_impossible_shares_are_refused(faults: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Profile(faults=faults)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_more_calls_than_the_rate_get_429_with_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
    async with Simulator(Profile(rate=5)) as sim:
        heard = [await ask(sim, CHAT) for _ in range(7)]
        clock[0] += 0.2
        heard += [await ask(sim, CHAT) for _ in range(2)]
    assert [each.status for each in heard] == [200] * 5 + [429] * 2 + [200, 429]
    assert [heard[n].headers["x-ratelimit-remaining-requests"] for n in (0, 1, 4)] == ["4", "3", "0"]
    assert heard[0].headers["x-ratelimit-limit-requests"] == "5"
    assert heard[5].headers["retry-after-ms"] == "200"
    assert sim.stats()["faults"] == {"limit.rate": 3}


async def test_a_full_server_lets_some_wait_and_refuses_the_rest() -> None:
    profile = Profile(median=0.3, max_concurrent=1, queue=1)
    async with Simulator(profile) as sim, dialled(sim) as (first, one), dialled(sim) as (second, two):
        one.write(raw(CHAT))
        await until(lambda: sim.stats()["in_flight"] == 1)
        two.write(raw(CHAT))
        await until(lambda: sim.stats()["in_flight"] == 2)
        assert (await ask(sim, CHAT)).status == 503
        assert [(await hear(first)).status, (await hear(second)).status] == [200, 200]
    assert sim.stats()["faults"] == {"limit.full": 1}


async def test_a_client_that_leaves_frees_its_place_for_a_waiting_one() -> None:
    profile = Profile(faults={"hang": 0.5}, max_concurrent=1, queue=2)
    dice = Dice(profile)

    def draw(n: int) -> str:
        found = parse(raw({**CHAT, "n": n}))
        assert found
        return dice.throw(found[0].key_of(found[0].body), 1, False).fault

    hanging = next(n for n in range(1, 100) if draw(n))
    good, other = [n for n in range(1, 100) if not draw(n)][:2]
    async with Simulator(profile) as sim, dialled(sim) as (reader, writer):
        async with dialled(sim) as (_, stuck):
            stuck.write(raw({**CHAT, "n": hanging}))
            await until(lambda: sim.stats()["in_flight"] == 1)
            async with dialled(sim) as (_, leaving):
                leaving.write(raw({**CHAT, "n": other}))
                await until(lambda: sim.stats()["in_flight"] == 2)
                writer.write(raw({**CHAT, "n": good}))
                await until(lambda: sim.stats()["in_flight"] == 3)
            await until(lambda: sim.stats()["in_flight"] == 2)
        assert (await hear(reader)).status == 200
        assert sim.stats()["answered"] == 1


async def test_an_idle_connection_is_closed() -> None:
    async with Simulator(Profile(keep_alive=0.3)) as sim, dialled(sim) as (reader, writer):
        writer.write(raw(CHAT))
        assert (await hear(reader)).status == 200
        assert await asyncio.wait_for(reader.read(), 5) == b""


# --- books and end ----------------------------------------------------------------------------------------------------


async def test_the_books_count_duplicates_and_can_be_cleared() -> None:
    async with Simulator(Profile(median=0.001)) as sim:
        for body in (CHAT, CHAT, STREAM):
            await ask(sim, body)
        told = (await ask(sim, path="/stats", method="GET")).json()
        await ask(sim, path="/reset")
        cleared = sim.stats()
    assert told["routes"] == {"chat": {"200": 3}}
    assert (told["requests"], told["answered"], told["distinct"], told["duplicates"]) == (3, 3, 1, 2), (
        "asked to stream, it is the same request"
    )
    assert (told["connections"], told["max_in_flight"], told["in_flight"]) == (4, 1, 0)
    assert (cleared["requests"], cleared["routes"], cleared["distinct"]) == (0, {}, 0)


def test_the_ledger_remembers_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT", 10)
    book = Ledger()
    for number in range(100):
        book.arrive(number.to_bytes(8, "little"))
    assert len(book._young) + len(book._old) <= 20
    assert book.stats()["distinct"] == 100
    assert book.arrive((99).to_bytes(8, "little")) == 2
    assert book.arrive((90).to_bytes(8, "little")) == 2
    assert book.arrive((5).to_bytes(8, "little")) == 1


async def test_leaving_closes_every_connection() -> None:
    async with Simulator(Profile(faults={"hang": 1.0})) as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw(CHAT))
        await until(lambda: sim.stats()["in_flight"] == 1)
    assert (await hear(reader)).ending in ("cut", "reset")
    assert (sim.stats()["open"], sim.stats()["in_flight"]) == (0, 0)
    writer.close()


async def test_serving_lasts_until_cancelled_and_binds_the_loopback_only() -> None:
    ready = asyncio.Event()
    async with Simulator() as taken:
        assert taken.url == f"http://127.0.0.1:{taken.port}/v1"
        with pytest.raises(OSError, match="in use"):
            await serve(taken.port, Profile(), ready.set)
    assert not ready.is_set()
    task = asyncio.create_task(serve(taken.port, Profile(), ready.set))
    await ready.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", taken.port)
    writer.write(raw(CHAT))
    assert (await hear(reader)).status == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.close()
