"""A job by way of a Batch API: uploaded in parts, waited for, adopted; begun once whatever kills it; what is left is sent."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import batchrunner
from batchrunner import submission
from batchrunner.batch_api import BatchApi, multipart
from batchrunner.cli import main
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.model import Attempt, Reply
from batchrunner.core.retry import Retries
from batchrunner.core.service import Service
from batchrunner.errors import StopError, UsageError
from batchrunner.settings import Settings
from batchrunner.simulator import Profile, Simulator
from batchrunner.simulator.batches import Batches, _file_of
from batchrunner.simulator.incoming import Call
from batchrunner.submission import STATE, State, submit
from batchrunner.transport import Transport
from batchrunner.wire import Review
from tests.crash import served
from tests.server import FaultServer, Peer, Seen, json_reply, reply
from tests.virtual import run_virtual

COUNT = 40


class Killed(Exception):  # noqa: N818 - it stands for kill -9
    """The process is gone."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(submission, "FIRST_LOOK", 0.0)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with served(Simulator(Profile())) as simulator:
        yield simulator


def asked(count: int = COUNT, **more: Any) -> None:
    rows = [{**batchrunner.chat(f"question {n}", model="m", id=f"r-{n}"), **more} for n in range(count)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ids(path: str = "a.results.jsonl") -> list[str]:
    return sorted(json.loads(line)["custom_id"] for line in Path(path).read_text().splitlines())


def settings(url: str) -> Settings:
    return Settings(input="a.jsonl", service=Service(base_url=(url,), via="batch"))


def each(answer: Callable[[Peer, Seen], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    """A script that answers every request of a connection."""

    async def script(peer: Peer) -> None:
        while True:
            await answer(peer, await peer.request())

    return script


async def no_pause(_seconds: float) -> None:
    """Time passes."""


def told(_line: str) -> None:
    """Nobody reads."""


async def test_a_job_goes_by_batch_and_is_answered_in_full(sim: Simulator) -> None:
    asked()
    report = await batchrunner.run("a.jsonl", base_url=sim.url, via="batch", price="*=1/1")
    assert (report.summary.succeeded, report.summary.attempts) == (COUNT, 0)
    assert ids() == sorted(f"r-{n}" for n in range(COUNT))
    assert not Path("a.run/batches").exists()
    used = [
        json.loads(line)["response"]["body"]["usage"]["prompt_tokens"]
        for line in Path("a.results.jsonl").read_text().splitlines()
    ]
    assert report.summary.tokens.input == sum(used) > 0
    assert report.summary.cost is None, "nobody knows what a batch service takes"
    again = await batchrunner.run("a.jsonl", base_url=sim.url, via="batch")
    assert (again.summary.succeeded, again.summary.attempts, len(sim._batches._batches)) == (COUNT, 0, 1)


async def test_a_limit_holds_once_for_the_batch_and_the_calls_after_it() -> None:
    asked()
    with served(Simulator(Profile(faults={"error": 0.3}, seed=3))) as sim:
        report = await batchrunner.run("a.jsonl", base_url=sim.url, via="batch", limit=10, max_attempts=50)
        assert (report.summary.succeeded, report.summary.pending) == (10, COUNT - 10)
        assert report.summary.attempts > 0, "some are left open by the batch"
        again = await batchrunner.run("a.jsonl", base_url=sim.url, via="batch", limit=10, max_attempts=50)
        assert (again.summary.succeeded, again.summary.pending) == (20, COUNT - 20)


async def test_the_time_allowed_is_kept_and_the_batch_gone_on_with(sim: Simulator) -> None:
    asked(3)

    async def for_ever(_seconds: float) -> None:
        await asyncio.Event().wait()

    given = settings(sim.url)
    hurried = structs.replace(given, stopping=structs.replace(given.stopping, max_time=0.2))
    with pytest.raises(StopError, match="max_time") as stopped:
        await submit(hurried, told, pause=for_ever)
    assert stopped.value.code == "E303"
    assert len(await submit(hurried, told, pause=no_pause)) == 1
    assert len(sim._batches._batches) == 1


async def test_what_failed_before_goes_by_batch_as_well(sim: Simulator) -> None:
    asked(4)
    with served(Simulator(Profile(faults={"error": 1.0}))) as ill:
        assert (await batchrunner.run("a.jsonl", base_url=ill.url, max_attempts=1)).summary.failed == 4
    report = await batchrunner.Runner(base_url=sim.url, via="batch").retry("a.jsonl")
    assert (report.summary.succeeded, report.summary.attempts) == (4, 0)


@pytest.mark.parametrize("cap", [["--max-cost", "1"], ["--max-tokens-total", "100"]])
def test_a_cap_that_a_batch_cannot_keep_is_refused(cap: list[str], sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    asked(2)
    assert main(["submit", "a.jsonl", "--base-url", sim.url, *cap]) == 2
    assert "a batch (via batch) is paid for as a whole" in capsys.readouterr().err
    assert not sim._batches._batches


async def test_what_the_batch_leaves_open_is_sent_by_calls() -> None:
    asked()
    with served(Simulator(Profile(faults={"error": 0.2, "throttle": 0.1, "hang": 0.2}))) as sim:
        files = await submit(settings(sim.url), told, pause=no_pause)
        answered = sum(json.loads(line)["error"] is None for path in files for line in path.read_text().splitlines())
        assert answered > 0
    with served(Simulator(Profile())) as healthy:
        runner = batchrunner.Runner(base_url=healthy.url)
        report = await runner.retry("a.jsonl", done=files)
        left = report.summary.attempts
    assert report.summary.succeeded == COUNT
    assert 0 < left < COUNT


async def test_a_part_holds_one_url_and_one_model_and_is_bounded(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "MOST_LINES", 4)
    rows = [batchrunner.chat("q", model="xy"[n % 2], id=f"c-{n}") for n in range(10)]
    rows += [{"custom_id": f"e-{n}", "url": "/v1/embeddings", "body": {"model": "x", "input": "q"}} for n in range(3)]
    rows += [{"custom_id": "h", "url": "/items/1"}, {"custom_id": "bad"}, {**rows[0], "custom_id": "s"}]
    rows[-1]["body"] = {**rows[-1]["body"], "stream": True}
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = await batchrunner.run("a.jsonl", base_url=sim.url, via="batch")
    assert (report.summary.succeeded, report.summary.invalid, report.summary.attempts) == (15, 1, 1)
    parts = [[json.loads(line) for line in raw.splitlines()] for name, raw in sim._batches._files.items() if b'"method"' in raw]
    assert all(len({(line["url"], line["body"]["model"]) for line in part}) == 1 and len(part) <= 4 for part in parts)
    assert sum(map(len, parts)) == 14
    assert not any(line["body"].get("stream") for part in parts for line in part)


@pytest.mark.parametrize("step", range(1, 9))
async def test_a_killed_command_begins_no_batch_twice(sim: Simulator, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Killed at each write of the state and at each pause, and gone on with until it ends."""
    monkeypatch.setattr(submission, "MOST_LINES", 20)
    asked()
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Killed

    async def pause(_seconds: float) -> None:
        count()

    save = submission.Shelf.save
    monkeypatch.setattr(submission.Shelf, "save", lambda shelf: (count(), save(shelf)))
    try:
        await submit(settings(sim.url), told, pause=pause)
    except Killed:
        files = await submit(settings(sim.url), told, pause=pause)
    else:
        pytest.skip("it had ended before")
    names = [json.loads(line)["custom_id"] for path in files for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(f"r-{n}" for n in range(COUNT))
    assert len(sim._batches._batches) == 2


async def test_a_batch_created_unheard_is_found_again() -> None:
    """The reply to its creation is lost: it is not created again."""
    asked(2)
    batches, calls = Batches(lambda key: ""), Counter[str]()

    async def answer(peer: Peer, seen: Seen) -> None:
        head = "".join(f"\r\n{name}: {value}" for name, value in seen.headers.items())
        said = batches.reply(Call(seen.method, seen.path, head.encode(), head.lower().encode(), seen.body))
        assert said
        calls[f"{seen.method} {seen.path.partition('?')[0]}"] += 1
        if (seen.method, seen.path) == ("POST", "/v1/batches") and calls["POST /v1/batches"] == 1:
            peer.reset()
        else:
            await peer.send(reply(said.body, said.status))

    with served(FaultServer(each(answer))) as server:
        files = await submit(settings(f"{server.url}/v1"), told, pause=no_pause)
    assert calls["POST /v1/batches"] == 1
    assert len(files) == 1


async def test_a_refused_file_is_told_of_and_may_be_sent_again(sim: Simulator) -> None:
    asked(2)
    files = sim._batches._files

    class Spoiled(dict[str, bytes]):
        def __setitem__(self, name: str, content: bytes) -> None:
            files[name] = b"not json\n" + content
            super().__setitem__(name, files[name])

    sim._batches._files = Spoiled()
    with pytest.raises(StopError, match="line 1: This line is not parseable") as refused:
        await submit(settings(sim.url), told, pause=no_pause)
    assert refused.value.code == "E308"
    sim._batches._files = {}
    assert len(await submit(settings(sim.url), told, pause=no_pause)) == 1


async def test_a_batch_that_the_service_has_forgotten_leaves_its_lines_open(sim: Simulator) -> None:
    asked(3)

    async def forget(_seconds: float) -> None:
        sim._batches._batches.clear()

    assert await submit(settings(sim.url), told, pause=forget) == []
    report = await batchrunner.run("a.jsonl", base_url=sim.url)
    assert report.summary.succeeded == 3


async def test_batches_under_way_elsewhere_are_not_forgotten(sim: Simulator) -> None:
    asked(3)

    async def killed(_seconds: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        await submit(settings(sim.url), told, pause=killed)
    with pytest.raises(UsageError, match="under way at"):
        await submit(settings("http://127.0.0.1:9/v1"), told, pause=no_pause)


async def test_where_there_is_no_such_service_nothing_is_lost() -> None:
    asked(3)
    with (
        served(FaultServer(each(lambda peer, seen: peer.send(json_reply(200, {"hello": 1}))))) as server,
        pytest.raises(StopError) as refused,
    ):
        await submit(settings(f"{server.url}/v1"), told, pause=no_pause)
    assert refused.value.code == "E308"
    assert "--via calls" in refused.value.hint


@pytest.mark.parametrize(("status", "code"), [(401, "E301"), (404, "E308"), (500, "E308")])
async def test_refusals_of_the_service(status: int, code: str) -> None:
    asked(3)
    body = {"error": {"message": "no", "type": "invalid_request_error", "code": None}}
    with served(FaultServer(each(lambda peer, seen: peer.send(json_reply(status, body))))) as server:
        with pytest.raises(StopError) as refused:
            await submit(settings(f"{server.url}/v1"), told, pause=no_pause)
        assert len(server.requests) == (8 if status == 500 else 1)
    assert refused.value.code == code


async def test_the_key_goes_to_the_service_and_into_no_file(monkeypatch: pytest.MonkeyPatch, sim: Simulator) -> None:
    asked(3)
    monkeypatch.setenv("MY_KEY", "sk-canary-1234567890")
    await batchrunner.run("a.jsonl", base_url=sim.url, via="batch", api_key_env="MY_KEY")
    assert not [path for path in Path().rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def test_the_command(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    asked(3)
    assert main(["submit", "a.jsonl", "--base-url", sim.url, "--display", "plain"]) == 0
    said = capsys.readouterr().err
    assert "batch_2: 3 requests to /v1/chat/completions" in said
    assert "batch_2: completed, 3 of 3" in said
    assert re.search(r"answers taken over: 3 · tokens in: \d+ · tokens out: \d+", said)


def test_stdin_cannot_wait_for_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "-", "-o", "-", "--base-url", "simulated"]) == 2
    assert "--via batch needs a file" in capsys.readouterr().err


@given(st.binary(max_size=300), st.sampled_from(["a", "0123456789abcdef"]))
def test_a_form_gives_back_the_file(content: bytes, mark: str) -> None:
    seam = f"batchrunner-{mark}"
    if seam.encode() not in content:
        assert _file_of(multipart(seam, {"purpose": "batch"}, "part-0001.jsonl", content), seam.encode()) == content


async def test_the_state_tells_what_is_under_way(sim: Simulator) -> None:
    asked(3)

    async def killed(_seconds: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        await submit(settings(sim.url), told, pause=killed)
    state = State(**json.loads(Path("a.run/batches", STATE).read_text()))
    assert state.base_url == sim.url
    assert [(part["batch_id"], part["lines"], part["fetched"]) for part in map(dict, state.parts)] == [("batch_2", 3, False)]  # type: ignore[call-overload]


# ---- the pace ----


class _Clock:
    """A service that knows no batch, and when it was asked."""

    name = "a"

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def send(self, attempt: Attempt, review: Review) -> Reply:
        self.asked.append(asyncio.get_running_loop().time())
        return Reply(404, {}, b"{}")


def asked_at(rpm: int, count: int) -> list[float]:
    """When a service is asked that often, as fast as may be, from 0.0 on."""
    clock = _Clock()

    async def look() -> None:
        api = BatchApi(cast("Transport", clock), Timeouts(), Retries(), rpm, no_pause)
        for number in range(count):
            assert (await api.look(f"b-{number}")).status == "gone"

    run_virtual(look)
    return [moment - clock.asked[0] for moment in clock.asked]


def test_a_service_is_asked_at_the_pace_of_the_user() -> None:
    assert asked_at(30, 4) == pytest.approx([0.0, 2.0, 4.0, 6.0])


def test_a_service_is_asked_a_few_times_a_second_about_thousands_of_batches() -> None:
    moments = asked_at(0, 120)
    assert moments[7] == 0.0
    assert moments[8:] == pytest.approx([0.125 * number for number in range(1, 113)])
