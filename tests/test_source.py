"""Lines to blocks of requests: bounds, order, what is passed over, and an end in order whatever happens."""

import asyncio
import gc
import gzip
import json
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner import source as source_room
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.errors import FileError, UsageError
from batchrunner.formats import parse
from batchrunner.glance import request
from batchrunner.identity import identify
from batchrunner.iterables import IterableSource, fields_of
from batchrunner.lines import Line
from batchrunner.source import BLOCK_BYTES, BLOCK_LINES, Intake, Source

JOBS = Path(__file__).parent.parent / "jobs"


def row(number: int, text: str = "Hello") -> bytes:
    fields = {
        "custom_id": f"r-{number}",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": text}]},
    }
    return json.dumps(fields).encode()


def kept(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


async def blocks(source: Source | IterableSource) -> list[list[Request | Result]]:
    return [block async for block in source]


async def drain(source: Source, taken: list[Request | Result]) -> None:
    async for block in source:
        taken += block


async def items(source: Source | IterableSource) -> list[Request | Result]:
    return [item for block in await blocks(source) for item in block]


def numbers(taken: list[Request | Result]) -> list[int]:
    return [item.line if isinstance(item, Request) else item.request.line for item in taken]


def asking(done: Callable[[int], bool]) -> Callable[[int, int], Iterator[int]]:
    """What a source wants to know, of a rule for single lines; asked line by line."""
    return lambda first, count: (line for line in range(first, first + count) if not done(line))


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batchrunner-source")]


async def test_lines_become_requests_and_results_in_order(tmp_path: Path) -> None:
    path = kept(tmp_path, row(1), b"", b"{broken", row(4))
    taken = await items(Source(path))
    assert numbers(taken) == [1, 3, 4]
    assert [type(item) for item in taken] == [Request, Result, Request]
    assert [item.id for item in taken if isinstance(item, Request)] == ["r-1", "r-4"]


async def test_an_empty_input_has_no_blocks(tmp_path: Path) -> None:
    assert await blocks(Source(kept(tmp_path))) == []
    assert await blocks(Source(kept(tmp_path, b"", b"  "))) == []


async def test_a_block_is_bounded_in_lines_and_bytes(tmp_path: Path) -> None:
    many = await blocks(Source(kept(tmp_path, *map(row, range(1_200)))))
    assert [len(block) for block in many] == [BLOCK_LINES, BLOCK_LINES, 1_200 - 2 * BLOCK_LINES]
    large = await blocks(Source(kept(tmp_path, *(row(n, "x" * 100_000) for n in range(7)))))
    assert [len(block) for block in large] == [3, 3, 1]
    assert BLOCK_BYTES < 3 * 100_000


async def test_what_is_done_is_passed_over_unparsed(tmp_path: Path) -> None:
    asked: list[int] = []

    def done(line: int) -> bool:
        asked.append(line)
        return line != 3

    taken = await items(Source(kept(tmp_path, b"{broken", row(2), row(3), b"[]"), to_do=asking(done)))
    assert numbers(taken) == [3]
    assert asked == [1, 2, 3, 4]


async def test_the_limit_counts_what_is_not_done(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(1, 2_001)))
    taken = await items(Source(path, Intake(limit=600), to_do=asking(lambda line: line % 2 == 1)))
    assert numbers(taken) == list(range(2, 1_201, 2))
    assert numbers(await items(Source(path, Intake(limit=1)))) == [1]


async def test_origins_and_model_reach_the_lines(tmp_path: Path) -> None:
    raw = row(1).replace(b'"/v1', b'"https://api.example.com/v1')
    [request] = await items(
        Source(kept(tmp_path, raw), Intake(), asking(lambda _line: False), ["https://api.example.com"], "m-2")
    )
    assert isinstance(request, Request)
    assert (request.path, request.model) == ("/v1/chat/completions", "m-2")


async def test_d10_an_oversized_line_is_one_invalid_item(tmp_path: Path) -> None:
    taken = await items(Source(kept(tmp_path, row(1), row(2, "x" * 3_000), row(3)), Intake(max_line=1024)))
    assert [item.id for item in taken][::2] == ["r-1", "r-3"]
    assert isinstance(taken[1], Result)
    assert taken[1].kind is Kind.INVALID
    assert numbers(taken) == [1, 2, 3]


async def test_d6_a_file_that_is_no_input_is_a_usage_error(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none", "E201"), (tmp_path, "E202"), (kept(tmp_path, b"PAR1"), "E204")):
        source = Source(path)
        with pytest.raises(UsageError, match=code):
            await anext(source)
        with pytest.raises(StopAsyncIteration):
            await anext(source)


# -- D18: the input goes away


async def test_d18_an_input_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    source = Source(path)
    await anext(source)
    path.unlink()
    taken: list[Request | Result] = []
    with pytest.raises(FileError, match="E406"):
        await drain(source, taken)
    assert len(taken) <= BLOCK_LINES, "only the block that was ahead"


async def test_d18_an_input_that_is_replaced_ends_the_run(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    source = Source(path)
    await anext(source)
    (tmp_path / "other").write_bytes(path.read_bytes())
    (tmp_path / "other").replace(path)
    with pytest.raises(FileError, match="replaced"):
        await items(source)


@pytest.mark.parametrize("size", [0, 200_000])
async def test_d18_an_input_that_shrinks_ends_the_run_before_a_torn_line_counts(tmp_path: Path, size: int) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    source, taken = Source(path), []
    taken += await anext(source)
    os.truncate(path, size)
    with pytest.raises(FileError, match="shorter"):
        await drain(source, taken)
    assert all(isinstance(item, Request) for item in taken)


async def test_lines_are_parsed_by_whoever_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of Python take turns: the one that reads is to have nothing to do but to read."""
    parsing = list[threading.Thread]()

    def noted(raw: Line, line: int, origins: tuple[str, ...]) -> Request | None:
        parsing.append(threading.current_thread())
        return request(raw, line, origins)

    monkeypatch.setattr(source_room, "request", noted)
    source = Source(kept(tmp_path, *map(row, range(3 * BLOCK_LINES))))
    assert len(await items(source)) == len(parsing) == 3 * BLOCK_LINES
    assert {*parsing} == {threading.current_thread()}


async def test_an_input_may_grow_while_it_is_read(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    source = Source(path)
    first = await anext(source)
    with path.open("ab") as file:
        file.write(row(5_000) + b"\n")
    assert len(first) + len(await items(source)) == 5_001


async def test_a_cut_gzip_input_gives_its_blocks_and_then_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(row(number, os.urandom(64).hex()) + b"\n" for number in range(3_000)))[:-100])
    taken: list[Request | Result] = []
    with pytest.raises(UsageError, match="E201"):
        await drain(Source(path), taken)
    assert numbers(taken) == list(range(1, len(taken) + 1))
    assert len(taken) >= BLOCK_LINES


# -- read ahead, cancel, close


async def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """20 MB in; of it, at most the block that is held, the one ahead and the one under way are alive."""
    path = tmp_path / "input.jsonl"
    with path.open("wb") as file:
        file.writelines(row(number, "x" * 10_000) + b"\n" for number in range(2_000))
    gc.collect()
    tracemalloc.start()
    try:
        async for block in Source(path):
            assert len(block) <= BLOCK_BYTES // 10_000 + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


async def test_one_block_is_read_ahead_and_no_more(tmp_path: Path) -> None:
    seen: list[int] = []
    rest = threading.Event()

    def done(line: int) -> bool:
        seen.append(line)
        if line == 2 * BLOCK_LINES:
            rest.set()
        return False

    source = Source(kept(tmp_path, *map(row, range(4 * BLOCK_LINES))), to_do=asking(done))
    await anext(source)
    await asyncio.to_thread(rest.wait, 10)
    await source.close()
    assert seen == list(range(1, 2 * BLOCK_LINES + 1))


async def test_a_cancelled_wait_loses_no_block(tmp_path: Path) -> None:
    hold, started = threading.Event(), threading.Event()

    def done(line: int) -> bool:
        if line == BLOCK_LINES + 1:
            started.set()
            hold.wait(10)
        return False

    source = Source(kept(tmp_path, *map(row, range(3 * BLOCK_LINES))), to_do=asking(done))
    taken = list(await anext(source))
    await asyncio.to_thread(started.wait, 10)
    waiting = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    hold.set()
    taken += await items(source)
    assert numbers(taken) == list(range(1, 3 * BLOCK_LINES + 1))


async def test_close_ends_the_reading_and_gives_the_file_back(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    source = Source(path)
    await anext(source)
    await source.close()
    assert not is_open(path)
    with pytest.raises(StopAsyncIteration):
        await anext(source)
    await source.close()


async def test_close_does_not_wait_for_the_rest_of_a_finished_input(tmp_path: Path) -> None:
    """A resume may have to pass over a hundred million finished lines: closing breaks that off."""
    hold, started, seen = threading.Event(), threading.Event(), list[int]()

    def to_do(first: int, _count: int) -> list[int]:
        seen.append(first)
        started.set()
        hold.wait(10)
        return []

    source = Source(kept(tmp_path, *(row(number, "x" * 1000) for number in range(2_000))), to_do=to_do)
    waiting = asyncio.ensure_future(anext(source))
    await asyncio.to_thread(started.wait, 10)
    closing = asyncio.ensure_future(source.close())
    await asyncio.sleep(0)
    hold.set()
    await closing
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert seen == [1]


async def test_a_source_that_is_dropped_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    path = kept(tmp_path, *map(row, range(5_000)))
    others = reading()  # of tests before this one
    source = Source(path)
    await anext(source)
    threads = [thread for thread in reading() if thread not in others]
    assert threads
    del source
    gc.collect()
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
    assert not is_open(path)


async def test_a_source_that_is_dropped_reads_no_further(tmp_path: Path) -> None:
    hold, started, seen = threading.Event(), threading.Event(), list[int]()

    def to_do(first: int, _count: int) -> list[int]:
        seen.append(first)
        started.set()
        hold.wait(10)
        return []

    others = reading()  # of sources that earlier tests have left to the collector
    source = Source(kept(tmp_path, *(row(number, "x" * 1000) for number in range(2_000))), to_do=to_do)
    waiting = asyncio.ensure_future(anext(source))
    await asyncio.to_thread(started.wait, 10)
    threads = [thread for thread in reading() if thread not in others]
    waiting.cancel()
    await asyncio.wait([waiting])
    del source, waiting
    gc.collect()
    hold.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert seen == [1]


async def test_a_fault_ahead_that_nobody_fetches_is_no_noise(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(row(number) + b"\n" for number in range(BLOCK_LINES)))[:-8])
    source = Source(path)
    await anext(source)
    await source.close()
    del source
    gc.collect()  # the fixture no_leaks fails on an exception that was never retrieved


def is_open(path: Path) -> bool:
    """Whether this process holds the file open."""
    return any(fd.is_symlink() and fd.resolve() == path.resolve() for fd in Path("/proc/self/fd").iterdir())


# -- rows of the library


async def test_rows_of_a_list() -> None:
    request = Request(line=0, id="own", digest="0" * 16, route=Route.HTTP, path="/y", body=b"{}")
    rows: list[Any] = [
        {"custom_id": "a", "url": "/x", "body": {"k": 1}},
        row(2) + b"\r\n",
        request,
        {"params": {}},
        b" \n",
        [1],
        "text",
    ]
    taken = await items(IterableSource(rows))
    assert numbers(taken) == [1, 2, 3, 4, 6, 7]
    assert [item.id for item in taken[:3]] == ["a", "r-2", "own"]
    assert [isinstance(item, Request) for item in taken] == [True, True, True, False, False, False]
    assert isinstance(taken[0], Request)
    assert taken[0].body == b'{"k":1}'


async def test_a_row_that_is_none_ends_no_iterable() -> None:
    async def rows() -> AsyncIterator[Any]:
        for each in ({"url": "/x"}, None, {"url": "/y"}):
            yield each

    taken = await items(IterableSource(rows()))
    assert [isinstance(item, Request) for item in taken] == [True, False, True]


async def test_a_request_as_a_line_is_read_as_the_same_request() -> None:
    first = parse(b'{"custom_id":"a","method":"PUT","url":"/x?y=1","headers":{"X-Tag":"v"},"body":{"k":[1.0]}}', 1)
    assert isinstance(first, Request)
    again = parse(msgspec.json.encode(fields_of(first)), 1)
    assert isinstance(again, Request)
    assert (again.method, again.path, again.headers, json.loads(again.body)) == ("PUT", "/x?y=1", first.headers, {"k": [1.0]})


async def test_rows_have_the_identity_of_their_line() -> None:
    [item] = await items(IterableSource([{"url": "/x", "body": None}]))
    assert isinstance(item, Request)
    assert (item.id, item.digest) == identify(b'{"url":"/x","body":null}', 1)


async def test_rows_that_json_cannot_hold_are_invalid_items() -> None:
    loop: dict[str, Any] = {"custom_id": "c"}
    loop["body"] = loop
    rows: list[Any] = [{"custom_id": "a", "body": object()}, {"body": {"x": "\ud800"}}, loop, {"custom_id": "\ud800"}, object()]
    taken = await items(IterableSource(rows))
    assert [item.kind for item in taken if isinstance(item, Result)] == [Kind.INVALID] * 5
    assert [item.id for item in taken][::2] == ["a", "c", identify(b"", 5)[0]]


async def test_rows_keep_huge_numbers() -> None:
    [item] = await items(IterableSource([{"url": "/x", "body": {"n": 10**30}}]))
    assert isinstance(item, Request)
    assert json.loads(item.body) == {"n": 10**30}


async def test_origins_and_model_reach_the_rows() -> None:
    given_row = {"url": "https://a.example/v1/chat/completions", "body": {}}
    [item] = await items(IterableSource([given_row], Intake(), ["https://a.example"], "m-2"))
    assert isinstance(item, Request)
    assert (item.path, item.model) == ("/v1/chat/completions", "m-2")


async def test_an_endless_generator_is_taken_a_few_rows_at_a_time() -> None:
    taken = 0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"url": "/x", "body": taken}

    source = IterableSource(rows())
    block = await anext(source)
    assert taken == len(block) <= 64
    await source.close()
    with pytest.raises(StopAsyncIteration):
        await anext(source)


async def test_the_limit_takes_no_row_too_many() -> None:
    rows = iter([{"url": "/x", "body": number} for number in range(200)])
    assert len(await items(IterableSource(rows, Intake(limit=70)))) == 70
    assert len(list(rows)) == 130


async def test_rows_of_an_async_generator_are_passed_on_as_they_come() -> None:
    more = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, object] | bytes]:
        yield {"custom_id": "a", "url": "/x"}
        yield b"\n"
        await more.wait()
        yield {"custom_id": "b", "url": "/x"}

    source = IterableSource(rows())
    assert [item.id for item in await anext(source)] == ["a"]
    waiting = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    assert not waiting.done()
    more.set()
    block = await waiting
    assert ([item.id for item in block], numbers(block)) == (["b"], [3])
    with pytest.raises(StopAsyncIteration):
        await anext(source)


@given(st.lists(st.integers(0, 2000), max_size=40), st.integers(0, 30), st.sets(st.integers(1, 40)))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_every_open_line_is_given_out_once_in_order(
    tmp_path_factory: Any, sizes: list[int], limit: int, finished: set[int]
) -> None:
    path = kept(tmp_path_factory.mktemp("any"), *(row(number, "x" * size) for number, size in enumerate(sizes, 1)))
    left = [number for number in range(1, len(sizes) + 1) if number not in finished]
    taken = asyncio.run(items(Source(path, Intake(limit=limit), asking(finished.__contains__))))
    assert numbers(taken) == left[: limit or None]


# -- the samples in jobs/


SAMPLES = {  # by name: a run leaves its results in the same folder
    "input": {Route.CHAT},
    "messy": {Route.CHAT},
    "responses": {Route.RESPONSES},
    "completions": {Route.COMPLETIONS},
    "embeddings": {Route.EMBEDDINGS},
    "moderations": {Route.MODERATIONS},
    "images": {Route.IMAGES},
    "http": {Route.HTTP},
    "anthropic": {Route.MESSAGES},
    "mistral": {Route.CHAT},
    "vllm": {Route.CHAT},
    "cookbook": {Route.CHAT},
}


@pytest.mark.parametrize("name", SAMPLES)
async def test_the_samples_are_what_they_say(name: str) -> None:
    taken = await items(Source(JOBS / f"{name}.jsonl"))
    refused = [item for item in taken if isinstance(item, Result)]
    assert len(refused) == (1 if name == "messy" else 0)
    assert len({item.id for item in taken}) == len(taken) > 1
    assert {item.route for item in taken if isinstance(item, Request)} == SAMPLES[name]
