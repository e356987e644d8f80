"""With --ordered results stand in the order of the input, with bounded memory, whatever order the answers came in."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchrunner
from batchrunner import ordering
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.journal import Durability, Journal
from batchrunner.ordering import InOrder, places
from batchrunner.paths import Paths
from batchrunner.simulator import Profile, Simulator
from tests.crash import chat, served


def request(line: int) -> Request:
    return Request(line=line, id=f"r-{line}", digest="", route=Route.CHAT, path="/")


def result(line: int) -> Result:
    return Result(request=request(line), kind=Kind.OK)


def name_of(raw: bytes) -> str:
    if b"?" in raw:
        raise ValueError("no record")
    return raw.decode().split()[0]


# ---- files ----


@given(st.permutations(list("abcdefgh")), st.lists(st.sampled_from("abcdefghxy?"), max_size=20))
def test_lines_of_a_file_are_put_in_order(asked: list[str], answered: list[str]) -> None:
    with TemporaryDirectory() as folder:
        in_order(Path(folder, "out"), asked, answered)


def in_order(path: Path, asked: list[str], answered: list[str]) -> None:
    path.write_bytes(b"".join(b"%s %d\n" % (name.encode(), n) for n, name in enumerate(answered)))
    found = list(places(path, list(enumerate(asked, 1)), name_of, path.parent))
    raw = path.read_bytes()
    rank = {name: at for at, name in enumerate(asked)}
    wanted = sorted(raw.splitlines(keepends=True), key=lambda line: rank.get(chr(line[0]), len(asked)))
    assert ([raw[at : at + size] for at, size in found] or raw.splitlines(keepends=True)) == wanted


def test_a_file_in_order_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a 1\nb 2\nc 3\n")
    assert places(tmp_path / "out", enumerate("abc", 1), name_of, tmp_path) == []


def test_a_journal_goes_on_after_its_lines_were_put_in_order(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").touch()
    with Journal.open(paths, Durability()) as journal:
        for name in (b"{2}\n", b"{1}\n"):
            journal.append(name, True)
        journal.arrange(True, [(4, 4), (0, 4)])
        journal.append(b"{3}\n", True)
    assert paths.results.read_bytes() == b"{1}\n{2}\n{3}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def slow() -> Iterator[Simulator]:
    """Answers come in another order than they were asked for."""
    with served(Simulator(Profile(median=0.01, sigma=1.0))) as simulator:
        yield simulator


def lines_of(path: str) -> list[int]:
    return [json.loads(line)["batchrunner"]["line"] for line in Path(path).read_text().splitlines()]


async def test_both_files_of_a_job_are_in_order_when_it_has_ended(folder: Path, slow: Simulator) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(chat(n) if n % 5 else {"custom_id": f"bad-{n}"}) + "\n" for n in range(200)))
    await batchrunner.run("a.jsonl", base_url=slow.url)
    assert lines_of("a.results.jsonl") != sorted(lines_of("a.results.jsonl"))
    before = sorted(Path("a.results.jsonl").read_text().splitlines())
    report = await batchrunner.run("a.jsonl", base_url=slow.url, ordered=True)
    assert report.summary.attempts == 0
    assert sorted(Path("a.results.jsonl").read_text().splitlines()) == before
    assert lines_of("a.results.jsonl") == sorted(lines_of("a.results.jsonl"))
    assert lines_of("a.errors.jsonl") == sorted(lines_of("a.errors.jsonl"))
    again = await batchrunner.run("a.jsonl", base_url=slow.url)  # with the checkpoint of the file in order
    assert (again.summary.resumed, again.summary.attempts) == (200, 0)


async def test_the_order_is_that_of_the_input_now(folder: Path, slow: Simulator) -> None:
    rows = [json.dumps(chat(n)) + "\n" for n in range(20)]
    Path("a.jsonl").write_text("".join(rows))
    await batchrunner.run("a.jsonl", base_url=slow.url)
    Path("a.jsonl").write_text("".join(reversed(rows)))
    await batchrunner.run("a.jsonl", base_url=slow.url, ordered=True)
    ids = [json.loads(line)["custom_id"] for line in Path("a.results.jsonl").read_text().splitlines()]
    assert ids == [json.loads(row)["custom_id"] for row in reversed(rows)]


# ---- what flows on ----


async def test_results_of_the_library_come_in_order(slow: Simulator) -> None:
    rows = [chat(n) for n in range(200)]
    async with batchrunner.Runner(base_url=slow.url, ordered=True) as runner:
        assert [result.request.line async for result in runner.stream(rows)] == list(range(1, 201))


async def test_what_waits_for_a_line_that_never_ends_comes_at_the_end() -> None:
    order = InOrder()
    order._expected.extend([1, 2, 3])
    assert order.release([result(3), result(2)]) == []
    assert [each.request.line for each in order.rest()] == [2, 3]


@given(st.permutations(list(range(1, 9))), st.integers(1, 4))
def test_nothing_passes_before_its_turn_and_all_pass(arrivals: list[int], size: int) -> None:
    async def run() -> list[int]:
        order, passed = InOrder(), list[int]()
        async for _ in order.watch(blocks([list(map(request, range(1, 9)))])):
            pass
        for at in range(0, 8, size):
            passed += [each.request.line for each in order.release(list(map(result, arrivals[at : at + size])))]
        return passed

    assert asyncio.run(run()) == list(range(1, 9))


async def blocks(of: list[list[Request]]) -> AsyncIterator[list[Request | Result]]:
    for block in of:
        yield list(block)


async def test_the_input_is_not_read_far_beyond_the_first_line_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "AHEAD", 10)
    order, read = InOrder(), list[int]()

    async def feed() -> None:
        async for block in order.watch(blocks([[request(line)] for line in range(1, 101)])):
            read.extend(item.line for item in block if isinstance(item, Request))

    task = asyncio.create_task(feed())
    await asyncio.sleep(0)
    assert len(read) == 10
    order.release(list(map(result, range(2, 11))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(read) == 10
    order.release([result(1)])
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(read) == 20
    task.cancel()
    await asyncio.wait([task])
