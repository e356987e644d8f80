"""Equal requests are sent once; a cache answers what is answered alike each time; neither is ever more than a saving."""

import asyncio
import json
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchrunner
from batchrunner import reuse
from batchrunner.cache import GROUP, NAME, Cache
from batchrunner.core.model import Error, Kind, Request, Result, Route
from batchrunner.errors import UsageError
from batchrunner.reuse import Reuse, Reusing, reuse_of, shared_cache
from batchrunner.simulator import Profile, Simulator
from batchrunner.simulator.ledger import Ledger
from tests.crash import served


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Simulator]:
    with served(Simulator(Profile(median=0.005))) as simulator:
        yield simulator


@pytest.fixture
def sim(endpoint: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    monkeypatch.chdir(tmp_path)
    endpoint.ledger = Ledger()
    return endpoint


def asked(*texts: str, name: str = "a.jsonl", **more: Any) -> str:
    lines = [batchrunner.chat(text, model="m", id=f"r-{n}", **more) for n, text in enumerate(texts)]
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def records(path: str = "a.results.jsonl") -> dict[str, Any]:
    return {line["custom_id"]: line for line in map(json.loads, Path(path).read_text().splitlines())}


def flags(name: str, path: str = "a.results.jsonl") -> list[str]:
    found: list[str] = records(path)[name]["batchrunner"].get("flags", [])
    return found


# ---- dedupe ----


async def test_equal_requests_are_sent_once_and_all_answered(sim: Simulator) -> None:
    report = await batchrunner.run(asked(*"abab" * 20, "c"), base_url=sim.url, dedupe=True)
    assert (report.summary.succeeded, report.summary.attempts) == (81, 3)
    found = records()
    assert len({json.dumps(found[f"r-{n}"]["response"]) for n in range(0, 80, 2)}) == 1
    assert flags("r-0") == []
    assert flags("r-2") == ["duplicate"]
    assert found["r-2"]["batchrunner"]["attempts"] == 0
    assert found["r-2"]["batchrunner"]["digest"] != found["r-0"]["batchrunner"]["digest"]


async def test_without_it_each_is_sent(sim: Simulator) -> None:
    report = await batchrunner.run(asked("a", "a"), base_url=sim.url)
    assert report.summary.attempts == 2


async def test_what_is_equal_to_something_done_long_ago_is_not_sent_after_a_resume(sim: Simulator) -> None:
    await batchrunner.run(asked("a", "a", "a"), base_url=sim.url, dedupe=True, limit=1)
    report = await batchrunner.run("a.jsonl", base_url=sim.url, dedupe=True)
    assert (report.summary.succeeded, report.summary.attempts) == (3, 0)


async def test_a_fresh_start_asks_again(sim: Simulator) -> None:
    await batchrunner.run(asked("a", "a"), base_url=sim.url, dedupe=True)
    report = await batchrunner.run("a.jsonl", base_url=sim.url, dedupe=True, fresh=True)
    assert report.summary.attempts == 1


async def test_rows_in_memory_are_told_apart_too(sim: Simulator) -> None:
    rows = [batchrunner.chat(text, model="m") for text in "aab"]
    results = await batchrunner.gather(rows, base_url=sim.url, dedupe=True)
    assert results[0].text == results[1].text
    assert sum(result.attempts for result in results) == 2


async def test_the_model_the_run_sets_makes_them_equal_and_temperature_keeps_them_apart(sim: Simulator) -> None:
    rows = [batchrunner.chat("a", model=model, temperature=heat) for model, heat in (("x", 0), ("y", 0), ("x", 1))]
    results = await batchrunner.gather(rows, base_url=sim.url, dedupe=True, model="z")
    assert sum(result.attempts for result in results) == 2


REQUEST = Request(line=1, id="r-1", digest="", route=Route.CHAT, path="/v1/chat/completions", body=b'{"a":1}')


def request(line: int, body: bytes = b'{"a":1}', route: Route = Route.CHAT) -> Request:
    return Request(line=line, id=f"r-{line}", digest=str(line), route=route, path="/v1/chat/completions", body=body)


def good(of: Request, body: bytes = b'{"id":1}') -> Result:
    return Result(request=of, kind=Kind.OK, status=200, body=body, attempts=3, maybe_billed=1)


def made(folder: Path | None = None, salt: str = "", **policy: Any) -> Reuse:
    asked = Reusing(**policy)
    reuse = reuse_of(asked, shared_cache(asked), folder, salt, lambda body: body.replace(b"sk-1", b"..."))
    assert reuse
    return reuse


async def test_a_failure_is_the_word_of_all_who_waited() -> None:
    waiting = made(dedupe=True)
    assert await waiting.admit(request(1)) is not None
    assert await waiting.admit(request(2)) is None
    bad = Result(request=request(1), kind=Kind.REJECTED, status=400, error=Error(Kind.REJECTED, "c", "no"), attempts=1)
    (twin,) = waiting.answer(bad)
    assert (twin.id, twin.kind, twin.error, twin.attempts) == ("r-2", Kind.REJECTED, bad.error, 0)
    assert await waiting.admit(request(3)) is not None, "a failure is not kept for those who come later"
    waiting.close()


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "HELD", 2)
    waiting = made(dedupe=True)
    for line in range(1, 4):
        await waiting.admit(request(line))
    late = asyncio.create_task(waiting.admit(request(4)))
    await asyncio.sleep(0)
    assert not late.done()
    assert [twin.request.line for twin in waiting.answer(good(request(1)))] == [2, 3, 4]
    assert await late is None
    waiting.close()


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans()), max_size=30))
def test_every_request_gets_one_word(steps: list[tuple[bytes, bool]]) -> None:
    async def run() -> None:
        waiting, flying, settled = made(dedupe=True), list[Request](), list[int]()
        for line, (body, land) in enumerate(steps):
            admitted = await waiting.admit(request(line, body))
            if isinstance(admitted, Result):
                settled.append(line)
            elif admitted:
                assert body not in {other.body for other in flying}, "equal requests are never under way together"
                flying.append(admitted)
            if land and flying:
                settled += [flying[0].line, *(twin.request.line for twin in waiting.answer(good(flying.pop(0))))]
        for last in flying:
            settled += [last.line, *(twin.request.line for twin in waiting.answer(good(last)))]
        assert sorted(settled) == list(range(len(steps)))
        waiting.close()

    asyncio.run(run())


# ---- cache ----


async def test_another_job_is_answered_from_the_cache(sim: Simulator) -> None:
    await batchrunner.run(asked("a", "b", temperature=0), base_url=sim.url, cache="kept")
    report = await batchrunner.run(asked("a", "b", "c", name="b.jsonl", temperature=0), base_url=sim.url, cache="kept")
    assert (report.summary.succeeded, report.summary.attempts) == (3, 1)
    assert report.summary.tokens.input < 3 * 8
    assert flags("r-0", "b.results.jsonl") == ["cached"]
    assert records("b.results.jsonl")["r-0"]["response"] == records()["r-0"]["response"]


async def test_another_endpoint_has_answers_of_its_own(sim: Simulator) -> None:
    await batchrunner.run(asked("a", temperature=0), base_url="simulated", cache="kept")
    report = await batchrunner.run(asked("a", name="b.jsonl", temperature=0), base_url=sim.url, cache="kept")
    assert report.summary.attempts == 1


async def test_judged_answers_are_not_those_of_a_run_without_a_judge(sim: Simulator) -> None:
    await batchrunner.run(asked("a", temperature=0), base_url=sim.url, cache="kept")
    runner = batchrunner.Runner(base_url=sim.url, cache="kept", validate=lambda result: True)
    assert (await runner.run(asked("a", name="b.jsonl", temperature=0))).summary.attempts == 1


@pytest.mark.parametrize(
    ("body", "route", "steady"),
    [
        (b'{"temperature":0}', Route.CHAT, True),
        (b'{"temperature":0.0}', Route.RESPONSES, True),
        (b'{"temperature":0.7}', Route.CHAT, False),
        (b'{"temperature":false}', Route.CHAT, False),
        (b"{}", Route.CHAT, False),
        (b"{}", Route.EMBEDDINGS, True),
        (b"{}", Route.MODERATIONS, True),
        (b'{"temperature":0}', Route.IMAGES, False),
        (b'{"temperature":0}', Route.HTTP, False),
        (b"[1", Route.CHAT, False),
    ],
)
async def test_only_what_is_answered_alike_each_time_comes_from_a_cache(
    tmp_path: Path, body: bytes, route: Route, steady: bool
) -> None:
    for every in (False, True):
        first = made(cache=str(tmp_path / str(every)), cache_all=every)
        await first.admit(request(1, body, route))
        first.answer(good(request(1, body, route)))
        first.close()
        second = made(cache=str(tmp_path / str(every)), cache_all=every)
        assert isinstance(await second.admit(request(2, body, route)), Result) is (steady or every)
        second.close()


async def test_no_key_and_no_failure_is_kept(tmp_path: Path) -> None:
    first = made(cache=str(tmp_path), cache_all=True)
    await first.admit(request(1))
    await first.admit(request(2, b"{}"))
    first.answer(good(request(1), b'{"echo":"sk-1"}'))
    first.answer(Result(request=request(2, b"{}"), kind=Kind.REJECTED, status=400, body=b'{"error":1}'))
    first.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-1" not in raw
    assert b'{"error":1}' not in raw
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())


def test_the_oldest_answers_leave_a_full_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most=10_000)
    for number in range(4 * GROUP):
        cache.keep(b"%d" % number, (200, "", b"x" * 100))
    cache.flush()
    there = [number for number in range(4 * GROUP) if cache.find(b"%d" % number)]
    assert there == list(range(4 * GROUP - len(there), 4 * GROUP))
    assert 5_000 < 100 * len(there) <= 10_000
    cache.close()


def test_two_runs_share_a_cache(tmp_path: Path) -> None:
    one, two = Cache(tmp_path, 10**6), Cache(tmp_path, 10**6)
    for number in range(10):
        (one, two)[number % 2].keep(b"%d" % number, (200, "", b"x" * 100))
    one.flush()
    two.flush()
    two.keep(b"0", (200, "", b"another"))
    two.flush()
    assert all(cache.find(b"%d" % number) == (200, "", b"x" * 100) for cache in (one, two) for number in range(1, 10))
    assert one.find(b"0") == (200, "", b"x" * 100), "the first answer stays"
    one.close()
    two.close()


def test_a_run_that_is_writing_makes_nobody_wait_for_long(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)
    other = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    other.execute("begin immediate")
    cache.keep(b"a", (200, "", b"x"))
    cache.flush()  # is not kept, and that is all
    assert cache.find(b"a") is None
    other.execute("rollback")
    other.close()
    cache.close()


@pytest.mark.parametrize("spoil", [b"not a database at all" * 100, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_broken_file_is_set_aside(tmp_path: Path, spoil: bytes) -> None:
    (tmp_path / NAME).write_bytes(spoil)
    cache = Cache(tmp_path, 10**6)
    cache.keep(b"a", (200, "", b"x"))
    cache.flush()
    assert cache.find(b"a") == (200, "", b"x")
    cache.close()
    assert not spoil or (tmp_path / f"{NAME}.broken").read_bytes() == spoil


def test_a_file_that_breaks_under_us_costs_no_more_than_its_answers(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)
    for number in range(GROUP):
        cache.keep(b"%d" % number, (200, "", b"x" * 4000))
    cache.close()
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    cache = Cache(tmp_path, 10**6)
    assert cache.find(b"1") is None
    cache.keep(b"1", (200, "", b"y"))
    cache.flush()
    assert cache.find(b"1") == (200, "", b"y")
    cache.close()


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to("/nowhere/at/all")])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "kept")
    with pytest.raises(UsageError, match="E409"):
        Cache(tmp_path / "kept", 10)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(Path(tempfile.gettempdir()) / "elsewhere")
    with pytest.raises(UsageError, match="E409"):
        Cache(tmp_path, 10)
