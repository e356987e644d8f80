"""The library, as its users call it: against the embedded endpoint, in a running loop, with every hook."""

import asyncio
import gc
import inspect
import json
import os
import re
import typing
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from msgspec.structs import replace

import batchrunner
from batchrunner import Attempt, Error, Event, Kind, Outcome, Request, Result
from batchrunner.containment import in_their_code
from batchrunner.errors import FileError, StopError
from batchrunner.journal import Durability, Journal
from batchrunner.options import Options
from batchrunner.paths import Paths
from batchrunner.replay import last_moment
from batchrunner.settings import OPTIONS
from batchrunner.simulator import Profile, Simulator
from tests.server import FaultServer, answering, json_reply

PATIENCE = 20.0  # seconds, for what must not hang


def lines(count: int) -> list[dict[str, Any]]:
    return [batchrunner.chat(f"question {n} of many", model="m", id=f"q-{n}") for n in range(count)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


async def test_gather_keeps_the_order_of_the_requests() -> None:
    results = await batchrunner.gather(lines(50), base_url="simulated")
    assert [result.id for result in results] == [f"q-{n}" for n in range(50)]
    assert all(result.ok and result.text.startswith(f"question {n} of") for n, result in enumerate(results))
    assert all(result.usage and result.usage.output > 0 for result in results)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_limit_that_answers_tell_is_kept_with_hardly_a_refusal(workers: int) -> None:
    async with Simulator(Profile(rate=150, median=0.1, sigma=0.5)) as simulator:
        results = await batchrunner.gather(lines(450), base_url=simulator.url, workers=workers)
        assert all(result.ok for result in results)
        assert simulator.stats()["faults"].get("limit.rate", 0) <= 4, "a busy machine may hold up a few"


async def test_stream_takes_async_iterables_and_yields_as_answers_come() -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in lines(20):
            yield row

    seen = set()
    async with batchrunner.Runner(base_url="simulated") as runner:
        async for result in runner.stream(rows()):
            seen.add(result.id)
    assert len(seen) == 20


async def test_a_bad_row_is_a_result_not_an_exception() -> None:
    rows = [*lines(2), {"custom_id": "bad"}, {"custom_id": "worse", "url": "/v1/chat/completions", "body": object()}]
    results = await batchrunner.gather(rows, base_url="simulated")
    assert [result.ok for result in results] == [True, True, False, False]
    assert all(result.error and result.error.kind is Kind.INVALID and result.error.hint for result in results[2:])


@pytest.mark.parametrize("kept", [True, False])
async def test_a_run_that_was_stopped_says_so_after_its_last_result(kept: bool, tmp_path: Path) -> None:
    options: Options = {"base_url": "simulated", "max_tokens_total": 1, "concurrency": 2}
    output = tmp_path / "out.jsonl" if kept else None
    with pytest.raises(StopError, match=r"\[E303\]") as stop:
        await batchrunner.Runner(**options).gather(lines(200), output)
    answered = [result.id for result in stop.value.results]
    assert 0 < len(answered) < 200
    assert answered == sorted(answered, key=lambda name: int(name[2:]))
    assert not kept or set(ids(tmp_path / "out.jsonl")) >= set(answered)


async def test_run_keeps_results_beside_the_file_and_continues(tmp_path: Path) -> None:
    job = written(tmp_path / "in.jsonl", lines(30))
    report = await batchrunner.run(job, base_url="simulated", limit=10)
    assert (report.succeeded, report.summary.pending, report.exit_code) == (10, 20, 0)
    report = await batchrunner.run(job, base_url="simulated")
    assert (report.ok, report.succeeded, report.failed, report.summary.resumed) == (True, 30, 0, 10)
    assert sorted(ids(tmp_path / "in.results.jsonl")) == sorted(f"q-{n}" for n in range(30))
    assert report.to_dict()["total"] == 30


async def test_a_line_that_was_too_long_is_sent_when_it_is_no_longer(tmp_path: Path) -> None:
    job = written(tmp_path / "in.jsonl", [*lines(2), batchrunner.chat("long" * 500, model="m", id="long")])
    report = await batchrunner.run(job, base_url="simulated", max_line=1024)
    assert (report.succeeded, report.summary.invalid) == (2, 1)
    report = await batchrunner.run(job, base_url="simulated")
    assert (report.ok, report.succeeded) == (True, 3)
    assert (tmp_path / "in.errors.jsonl").read_text() == ""


async def test_a_disk_that_fills_up_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([True, True, False])
    monkeypatch.setattr("batchrunner.filing.ROOM_EVERY", 0.0)
    monkeypatch.setattr("batchrunner.journal.Journal.room", lambda _journal: next(looks))
    job = written(tmp_path / "in.jsonl", lines(30))
    with pytest.raises(FileError, match=r"less than 512 KiB are left .* \[E404\]") as broken:
        await batchrunner.run(job, base_url="simulated", concurrency=2, min_free="512KiB")
    done = len(ids(tmp_path / "in.results.jsonl"))
    assert done < 30
    assert broken.value.report
    assert (broken.value.report.succeeded, broken.value.report.pending, broken.value.report.ok) == (done, 30 - done, False)


async def test_stream_with_an_output_yields_only_what_is_missing(tmp_path: Path) -> None:
    async with batchrunner.Runner(base_url="simulated") as runner:
        first = [result.id async for result in runner.stream(lines(10), output=tmp_path / "out.jsonl")]
        second = [result.id async for result in runner.stream(lines(15), output=tmp_path / "out.jsonl")]
    assert len(first) == 10
    assert sorted(second) == [f"q-{n}" for n in range(10, 15)]
    assert len(ids(tmp_path / "out.jsonl")) == 15


def seen(results: list[Result]) -> list[object]:
    """What a record of any dialect tells of a result."""
    return [(each.id, each.kind, each.body, each.attempts, round(each.seconds, 3), each.endpoint, each.usage) for each in results]


@pytest.mark.parametrize("dialect", ["openai", "vllm", "anthropic", "cookbook"])
async def test_gather_with_an_output_gives_what_earlier_calls_have_kept(dialect: Any, tmp_path: Path) -> None:
    rows, output = [*lines(6), {"custom_id": "bad"}], tmp_path / "out.jsonl"

    def classify(attempt: Attempt, _outcome: Outcome) -> str | None:
        return "policy" if attempt.request.id == "q-5" else None

    async with Simulator() as simulator:
        runner = batchrunner.Runner(base_url=simulator.url, output_format=dialect, limit=3, classify=classify)
        calls = [await runner.gather(iter(rows), output) for _ in range(4)]
        assert simulator.stats()["requests"] == 6
    assert [len(results) for results in calls] == [3, 6, 7, 7]
    first, second, _, last = calls
    assert [result.id for result in last] == [*(f"q-{n}" for n in range(6)), "bad"]
    assert seen(last[:5]) == seen([*first, *second[3:5]])
    assert all(result.text.startswith("question") and result.usage for result in last[:5])
    assert [result.kind for result in last] == [*[Kind.OK] * 5, Kind.POLICY, Kind.INVALID]
    assert last[6].error
    assert (last[6].error.message, bool(last[6].error.hint)) == ("url is missing", True)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_kept_refusal_says_what_the_server_said(strict: bool, tmp_path: Path) -> None:
    no = json_reply(400, {"error": {"message": "no such tool", "type": "invalid_request_error", "code": "tool_unknown"}})
    async with FaultServer(answering(no)) as server:
        options: Options = {"base_url": server.url, "strict_openai": strict}
        told, kept = [await batchrunner.gather(lines(1), tmp_path / "out.jsonl", **options) for _ in range(2)]
    assert told[0].error == kept[0].error == Error(Kind.REJECTED, "tool_unknown", "no such tool", kept[0].error.hint)
    assert (kept[0].status, kept[0].body) == (400, told[0].body)


async def test_rows_that_failed_are_asked_again_from_where_they_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def classify(attempt: Attempt, _outcome: Outcome) -> str | None:
        return "hook" if attempt.request.id == "q-1" else None

    failing = batchrunner.Runner(base_url="simulated", classify=classify)
    assert [result.ok for result in await failing.gather(lines(3), output)] == [True, False, True]
    runner = batchrunner.Runner(base_url="simulated")
    assert [result.ok for result in await runner.gather(lines(3), output)] == [True, False, True]
    assert (await runner.retry(tmp_path / "out.run" / "input.jsonl", output)).summary.attempts == 1
    assert [result.ok for result in await runner.gather(lines(3), output)] == [True, True, True]


async def test_gather_gives_the_answer_to_the_text_of_now(tmp_path: Path) -> None:
    old, new = ([batchrunner.chat(text, model="m", id="q")] for text in ("old question", "new question"))
    output = tmp_path / "out.jsonl"
    for rows, changed, text in ((old, "refuse", "old"), (new, "keep", "old"), (new, "rerun", "new"), (new, "refuse", "new")):
        options: Any = {"base_url": "simulated", "changed": changed}
        (result,) = await batchrunner.gather(rows, output, **options)
        assert result.text.startswith(text), changed


async def test_a_stop_tells_what_earlier_calls_have_kept_too(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await batchrunner.gather(lines(200), output, base_url="simulated", limit=50)
    with pytest.raises(StopError) as stop:
        await batchrunner.gather(lines(200), output, base_url="simulated", max_tokens_total=1, concurrency=2)
    answered = [result.id for result in stop.value.results]
    assert answered[:51] == [f"q-{n}" for n in range(51)]
    assert len(answered) == len(ids(output)) < 200


@pytest.mark.parametrize("given", ["option", "environment"])
async def test_output_is_kept_to_wherever_it_is_named(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: Any = {"base_url": "simulated"}
    if given == "option":
        options["output"] = tmp_path / "out.jsonl"
    else:
        monkeypatch.setenv("BATCHRUNNER_OUTPUT", str(tmp_path / "out.jsonl"))
    runner = batchrunner.Runner(**options)
    assert len(await runner.gather(lines(3))) == 3
    assert sorted(ids(tmp_path / "out.jsonl")) == ["q-0", "q-1", "q-2"]
    assert [result.id async for result in runner.stream(lines(4))] == ["q-3"]


async def test_results_for_the_caller_do_not_go_to_stdout_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(batchrunner.BatchError, match=r"\[E003\]"):
        await batchrunner.gather(lines(1), "-", base_url="simulated")
    assert not list(tmp_path.iterdir())


def half_read() -> Iterator[dict[str, Any]]:
    yield from lines(3)
    raise ValueError("mine")


class Unreadable:
    def __iter__(self) -> Iterator[dict[str, Any]]:
        raise ValueError("mine")


@pytest.mark.parametrize("rows", [half_read, Unreadable])
@pytest.mark.parametrize("kept", [True, False])
async def test_rows_that_raise_say_what_they_raised(rows: Any, kept: bool, tmp_path: Path) -> None:
    with pytest.raises(batchrunner.BatchError, match=r"ValueError: mine \[E501\]") as broken:
        await batchrunner.gather(rows(), tmp_path / "out.jsonl" if kept else None, base_url="simulated")
    assert isinstance(broken.value.__cause__, ValueError)


async def test_rows_that_raise_in_the_middle_lose_no_answer() -> None:
    come = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in lines(5):
            yield row
        await come.wait()
        raise ValueError("mine")

    def count(event: Event) -> None:
        if event.result and event.result.id == "q-4":
            come.set()

    runner = batchrunner.Runner(base_url="simulated", concurrency=1, on_event=count)
    with pytest.raises(batchrunner.BatchError, match=r"ValueError: mine \[E501\]") as broken:
        await runner.gather(rows())
    assert [result.id for result in broken.value.results] == [f"q-{n}" for n in range(5)]


@pytest.mark.parametrize("output", [None, "out.jsonl"])
async def test_rows_are_not_sent_one_by_one_when_a_batch_was_asked_for(output: str | None, tmp_path: Path) -> None:
    with pytest.raises(batchrunner.BatchError, match=r"\[E003\]"):
        await batchrunner.gather(lines(1), output and tmp_path / output, base_url="simulated", via="batch")


async def test_requests_made_by_prepare_can_be_kept_and_continued(tmp_path: Path) -> None:
    async with batchrunner.Runner(base_url="simulated") as runner:
        requests = [result.request for result in await runner.gather(lines(3))]
        kept = [result.id async for result in runner.stream(requests, output=tmp_path / "out.jsonl")]
        again = [result.id async for result in runner.stream(requests, output=tmp_path / "out.jsonl")]
    assert sorted(kept) == ["q-0", "q-1", "q-2"]
    assert again == []


def test_run_sync_without_a_loop(tmp_path: Path) -> None:
    assert batchrunner.run_sync(written(tmp_path / "in.jsonl", lines(5)), base_url="simulated").ok


def test_an_error_of_run_sync_names_no_other(tmp_path: Path) -> None:
    job = written(tmp_path / "in.jsonl", lines(1))
    with pytest.raises(batchrunner.BatchError, match=r"\[E401\]") as caught:
        batchrunner.run_sync(job, tmp_path / "nowhere" / "out.jsonl", base_url="simulated")
    assert "no running event loop" not in "".join(format_exception(caught.value.with_traceback(None)))


async def test_run_sync_inside_a_running_loop(tmp_path: Path) -> None:
    assert batchrunner.run_sync(written(tmp_path / "in.jsonl", lines(5)), base_url="simulated").ok


async def test_two_runs_at_once(tmp_path: Path) -> None:
    jobs = [written(tmp_path / f"{name}.jsonl", lines(40)) for name in "ab"]
    reports = await asyncio.gather(*(batchrunner.run(job, base_url="simulated") for job in jobs))
    assert [report.succeeded for report in reports] == [40, 40]


async def test_cancelling_keeps_what_is_done_and_propagates(tmp_path: Path) -> None:
    job = written(tmp_path / "in.jsonl", lines(200))
    enough = asyncio.Event()

    def count(event: Event) -> None:
        if event.result and (tmp_path / "in.results.jsonl").read_bytes().count(b"\n") >= 20:
            enough.set()

    async with Simulator(Profile(median=0.02)) as simulator:
        runner = batchrunner.Runner(base_url=simulator.url, concurrency=4, on_event=count)
        task = asyncio.ensure_future(runner.run(job))
        await enough.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = ids(tmp_path / "in.results.jsonl")
        assert 20 <= len(done) < 200
        last = last_moment(Paths.of(job))
        assert last
        assert (last.done, last.in_flight, last.maybe_billed) == (len(done), 0, last.kinds.get("cancelled", 0))
        report = await batchrunner.run(job, base_url=simulator.url)
    assert (report.succeeded, report.summary.resumed) == (200, len(done))
    assert len(set(ids(tmp_path / "in.results.jsonl"))) == 200


async def test_leaving_a_stream_early_ends_its_run() -> None:
    async with Simulator(Profile(median=0.005)) as simulator:
        async with batchrunner.Runner(base_url=simulator.url, concurrency=4) as runner:
            async for _result in runner.stream(lines(5000)):
                break
        assert simulator.stats()["requests"] < 2000


async def left_early(runner: batchrunner.Runner, output: Path | None) -> None:
    async for _result in runner.stream(lines(5000), output):
        break


@pytest.mark.parametrize("kept", [True, False])
async def test_break_ends_the_run_of_a_stream_at_once(kept: bool, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl" if kept else None
    async with Simulator(Profile(median=0.005)) as simulator:
        runner = batchrunner.Runner(base_url=simulator.url, concurrency=4)
        await left_early(runner, output)
        at_once = simulator.stats()["requests"]
        await batchrunner.gather(lines(300), base_url=simulator.url)  # time goes by
        assert simulator.stats()["requests"] <= at_once + 300 + 4 * 3, "of what had been answered, the next few"
        assert not runner._runs


@pytest.mark.parametrize("same", [True, False])
async def test_after_a_break_the_same_call_goes_on(same: bool, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    async with Simulator(Profile(median=0.005)) as simulator, batchrunner.Runner(base_url=simulator.url) as runner:
        async for _result in runner.stream(lines(300), output):
            break
        again = runner if same else batchrunner.Runner(base_url=simulator.url)
        rest = [result.id async for result in again.stream(lines(300), os.path.relpath(output))]
    assert 0 < len(rest) < 300
    assert sorted(ids(output)) == sorted(f"q-{n}" for n in range(300))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 20])
def test_a_program_that_breaks_and_ends_leaves_no_trace(turns: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "out.jsonl"

    async def main() -> None:
        await left_early(batchrunner.Runner(base_url="simulated"), output)
        for _ in range(turns):
            await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert not caplog.records
    assert len(ids(output)) < 2000
    Journal.open(Paths.of(Path("-"), output), Durability()).close()


async def test_who_still_reads_when_the_runner_is_left_is_told() -> None:
    begun = asyncio.Event()
    async with batchrunner.Runner(base_url="simulated", concurrency=1, on_event=lambda _event: begun.set()) as runner:
        reading = asyncio.ensure_future(runner.gather(lines(3000)))
        await begun.wait()
    with pytest.raises(StopError, match=r"the runner was left, .* \[E303\]") as stop:
        await reading
    assert 0 < len(stop.value.results) < 3000


async def test_a_slow_reader_slows_the_run() -> None:
    async with Simulator() as simulator, batchrunner.Runner(base_url=simulator.url, concurrency=8) as runner:
        stream = runner.stream(lines(3000))
        await anext(stream)
        for _ in range(2000):  # the run goes on as far as it can without us
            await asyncio.sleep(0)
        before = simulator.stats()["requests"]
        for _ in range(2000):
            await asyncio.sleep(0)
        assert simulator.stats()["requests"] == before < 2000
        await stream.aclose()


async def test_prepare_changes_what_is_sent() -> None:
    async def prepare(request: Request) -> Request:
        return replace(request, body=request.body.replace(b"question", b"riddle"))

    (result,) = await batchrunner.Runner(base_url="simulated", prepare=prepare).gather(lines(1))
    assert result.text.startswith("riddle 0 of")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda request: None, "prepare returned None, not a Request"),
        (lambda request: {"body": b"{}"}, "prepare returned dict, not a Request"),
        (lambda request: replace(request, body="{}"), "prepare returned a Request that cannot be sent: .*at `body`"),
        (lambda request: replace(request, headers={"a": "b"}), "prepare returned a Request that cannot be sent: .*at `headers`"),
        (lambda request: 1 // 0, "prepare raised ZeroDivisionError"),
    ],
)
async def test_prepare_that_gives_no_request_fails_its_lines(prepare: Any, why: str) -> None:
    def of_the_first(request: Request) -> Any:
        return prepare(request) if request.line == 1 else request

    async with Simulator() as simulator:
        bad, good = await batchrunner.Runner(base_url=simulator.url, prepare=of_the_first).gather(lines(2))
        assert simulator.stats()["requests"] == 1
    assert good.ok
    assert (bad.id, bad.kind, bad.attempts) == ("q-0", Kind.HOOK, 0)
    assert bad.error
    assert bad.error.code == "E501"
    assert re.match(why, bad.error.message)


async def test_prepare_cannot_answer_for_another_line(tmp_path: Path) -> None:
    first: list[Request] = []

    def prepare(request: Request) -> Request:
        first.append(request)
        return replace(first[0], id="another")

    job = written(tmp_path / "in.jsonl", lines(3))
    report = await batchrunner.Runner(base_url="simulated", prepare=prepare).run(job)
    assert report.succeeded == 3
    assert sorted(ids(tmp_path / "in.results.jsonl")) == ["q-0", "q-1", "q-2"]
    assert (await batchrunner.run(job, base_url="simulated")).summary.attempts == 0


async def test_validate_asks_again_and_keeps_the_answer_that_failed() -> None:
    asked: list[str] = []

    def validate(result: Result) -> bool:
        asked.append(result.id)
        if result.id == "q-1":
            raise ValueError("no label")
        return len(asked) > 1

    runner = batchrunner.Runner(base_url="simulated", validate=validate, reask=1)
    good, bad = await runner.gather(lines(2))
    assert good.ok
    assert (bad.ok, bad.kind, bad.attempts) == (False, Kind.INVALID_OUTPUT, 2)
    assert bad.error
    assert "no label" in bad.error.message
    assert bad.text.startswith("question 1 of")


async def test_classify_has_the_last_word_on_an_attempt() -> None:
    def classify(attempt: Attempt, outcome: Outcome) -> str | None:
        return "rejected" if attempt.request.id == "q-1" else None

    good, bad = await batchrunner.Runner(base_url="simulated", classify=classify).gather(lines(2))
    assert (good.ok, bad.ok, bad.kind, bad.attempts) == (True, False, Kind.REJECTED, 1)


@pytest.mark.parametrize("said", ["cancelled", "nonsense", 7])
async def test_classify_that_names_no_verdict_fails_its_line(said: Any) -> None:
    def classify(attempt: Attempt, _outcome: Outcome) -> Any:
        return said if attempt.request.id == "q-1" else None

    async with asyncio.timeout(PATIENCE):
        good, bad = await batchrunner.Runner(base_url="simulated", classify=classify).gather(lines(2))
    assert (good.ok, bad.kind, bad.attempts) == (True, Kind.HOOK, 1)
    assert bad.error
    assert bad.error.message.startswith(f"classify raised ValueError: {said!r} is ")


async def test_a_hook_that_raises_fails_its_line_alone() -> None:
    def classify(attempt: Attempt, _outcome: Outcome) -> None:
        if attempt.request.id == "q-1":
            raise KeyError("oops")

    good, bad = await batchrunner.Runner(base_url="simulated", classify=classify).gather(lines(2))
    assert good.ok
    assert bad.error
    assert (bad.kind, bad.error.code) == (Kind.HOOK, "E501")


async def test_events_reach_their_listener_and_its_faults_stop_nothing() -> None:
    events: list[Event] = []

    async def on_event(event: Event) -> None:
        events.append(event)
        raise RuntimeError("an onlooker")

    results = await batchrunner.Runner(base_url="simulated", on_event=on_event).gather(lines(10))
    assert len(results) == len([event for event in events if event.result]) == 10


async def broken_off_inside(*_given: object) -> None:
    """What a client does that was closed elsewhere: nobody has cancelled us."""
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


def raising_cancelled(*_given: object) -> None:
    raise asyncio.CancelledError


async def waiting_after_its_own(*_given: object) -> None:
    cancels_its_own()
    await asyncio.sleep(10)


def cancels_its_own(*_given: object) -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()


CANCELS = pytest.mark.parametrize("cancel", [broken_off_inside, raising_cancelled, waiting_after_its_own, cancels_its_own])


def for_the_second(cancel: Any) -> Any:
    """A hook of requests, results and attempts that ends so for one line, and has nothing to say of the others."""

    def hook(given: Any, *_more: object) -> Any:
        name = given.request.id if isinstance(given, Attempt) else given.id
        return cancel() if name == "q-1" else given if isinstance(given, Request) else None if _more else True

    return hook


@CANCELS
@pytest.mark.parametrize(
    ("hook", "kind", "attempts"),
    [("prepare", Kind.HOOK, 0), ("validate", Kind.INVALID_OUTPUT, 2), ("classify", Kind.HOOK, 1)],
)
async def test_a_hook_in_which_something_is_cancelled_fails_its_line_alone(
    hook: str, kind: Kind, attempts: int, cancel: Any, tmp_path: Path
) -> None:
    runner = batchrunner.Runner(base_url="simulated", reask=1, **{hook: for_the_second(cancel)})
    async with asyncio.timeout(PATIENCE):
        good, bad, *rest = await runner.gather(lines(30), tmp_path / "out.jsonl")
    assert all(result.ok for result in (good, *rest))
    assert (bad.kind, bad.attempts) == (kind, attempts)
    assert bad.error
    assert bad.error.message.startswith(f"{hook} raised CancelledError: ")
    assert bad.text.startswith("question 1 of") == bool(attempts), "an answer that was paid for is kept"
    assert len(ids(tmp_path / "out.jsonl") + ids(tmp_path / "out.errors.jsonl")) == 30


@CANCELS
async def test_a_listener_in_which_something_is_cancelled_stops_nothing(cancel: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        results = await batchrunner.Runner(base_url="simulated", on_event=cancel).gather(lines(10))
    assert all(result.ok for result in results)


async def test_what_a_cancelled_run_still_calls_may_fail_in_the_same_way() -> None:
    async def cancelled() -> BaseException | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await in_their_code(broken_off_inside())
            except (asyncio.CancelledError, futures.CancelledError) as error:
                return error
        return None

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance(await task, futures.CancelledError)


async def test_code_that_takes_a_cancellation_back_has_not_failed() -> None:
    async def moody() -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
        await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await waiting_after_its_own()
        return "good"

    assert await in_their_code(moody()) == "good"
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0
    with pytest.raises(ZeroDivisionError):
        await in_their_code(dividing_by_zero())


async def dividing_by_zero() -> float:
    await asyncio.sleep(0)
    return 1 / 0


async def test_a_cancellation_from_outside_counts_beside_one_of_its_own() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await waiting_after_its_own()
        await asyncio.sleep(10)

    task = asyncio.create_task(in_their_code(stubborn()))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@CANCELS
@pytest.mark.parametrize("kept", [True, False])
async def test_rows_in_which_something_is_cancelled_say_so(kept: bool, cancel: Any, tmp_path: Path) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield lines(1)[0]
        if inspect.isawaitable(waits := cancel()):
            await waits

    with pytest.raises(batchrunner.BatchError, match=r"the iterable of requests raised CancelledError: .* \[E501\]"):
        async with asyncio.timeout(PATIENCE):
            await batchrunner.gather(rows(), tmp_path / "out.jsonl" if kept else None, base_url="simulated")


class EndOfTestError(BaseException):
    """What `pytest.fail` raises is of this sort: no Exception."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, EndOfTestError])
@pytest.mark.parametrize("hook", ["prepare", "validate", "classify", "on_event", "rows", "async rows"])
@pytest.mark.parametrize("way", ["run", "gather", "stream"])
def test_what_is_meant_for_the_program_ends_the_run_in_order_and_arrives_as_itself(
    hook: str, error: type[BaseException], way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ends(*_given: object) -> None:
        raise error

    def rows() -> Iterator[dict[str, Any]]:
        yield from lines(20)
        ends()

    async def slow_rows() -> AsyncIterator[dict[str, Any]]:
        for row in rows():
            yield row

    async def ask(runner: batchrunner.Runner, given: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            if way == "stream":
                _ = [result async for result in runner.stream(given, output)]
            else:
                await (runner.gather if way == "gather" else runner.run)(given, output)

    async def main() -> int:
        hooks = {} if "rows" in hook else {hook: ends if hook == "on_event" else for_the_second(ends)}
        asked = written(tmp_path / "in.jsonl", lines(30)) if way == "run" else lines(30)
        given = {"rows": rows(), "async rows": slow_rows()}.get(hook, asked)
        with pytest.raises(error):
            await ask(batchrunner.Runner(base_url="simulated", **hooks), given)
        left = len(asyncio.all_tasks()) - 1
        await ask(batchrunner.Runner(base_url="simulated"), asked)
        return left

    if "rows" in hook and way == "run":
        pytest.skip("a file is no iterable")
    output = tmp_path / "out.jsonl"
    assert asyncio.run(main()) == 0
    gc.collect()
    assert not caplog.records
    assert len(ids(output)) == len(set(ids(output))) == 30


async def test_what_is_meant_for_nobody_fails_a_line() -> None:
    def ends(*_given: object) -> None:
        raise GeneratorExit

    async with asyncio.timeout(PATIENCE):
        results = await batchrunner.Runner(base_url="simulated", prepare=for_the_second(ends)).gather(lines(3))
    assert [result.ok for result in results] == [True, False, True]


@pytest.mark.parametrize("hook", ["prepare", "validate", "classify", "on_event", "rows"])
@pytest.mark.parametrize("way", ["task", "timeout"])
async def test_a_run_that_is_cancelled_while_a_hook_waits_ends(hook: str, way: str) -> None:
    waits, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_given: object) -> None:
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield lines(1)[0]
        await wait()

    runner = batchrunner.Runner(base_url="simulated", **({} if hook == "rows" else {hook: wait}))
    task = asyncio.create_task(runner.gather(rows() if hook == "rows" else lines(3)))
    await waits.wait()
    if way == "task":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await task
    assert ended.is_set()


@pytest.mark.parametrize(
    ("options", "code"),
    [({"concurency": 4}, "E001"), ({"timeout": "soon"}, "E002"), ({"base_url": "ftp://x"}, "E102"), ({}, "E101")],
)
async def test_wrong_options_say_so(options: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(batchrunner.BatchError) as caught:
        await batchrunner.gather(lines(1), **options)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize("hook", ["prepare", "validate", "classify", "on_event"])
def test_what_is_no_function_is_no_hook(hook: str) -> None:
    with pytest.raises(batchrunner.BatchError, match=f"{hook}: a function is wanted, not int \\[E002\\]"):
        batchrunner.Runner(base_url="simulated", **{hook: 5})  # type: ignore[arg-type]


async def test_retry_asks_again_for_the_kinds_that_exist(tmp_path: Path) -> None:
    def classify(_attempt: Attempt, _outcome: Outcome) -> str:
        return "rejected"

    job = written(tmp_path / "in.jsonl", lines(3))
    await batchrunner.Runner(base_url="simulated", classify=classify).run(job)
    runner = batchrunner.Runner(base_url="simulated")
    with pytest.raises(batchrunner.BatchError, match=r"'rejectd' is not a kind of failure. \[E002\]\n.*rejected"):
        await runner.retry(job, kinds=["rejectd"])
    report = await runner.retry(job, kinds=(kind for kind in ["rejected"]))
    assert (report.succeeded, report.failed, report.pending) == (3, 0, 0)


def test_the_public_names_can_be_found_before_they_are_used() -> None:
    assert set(batchrunner.__all__) <= set(dir(batchrunner))


def test_the_keywords_are_the_options() -> None:
    """Editors complete what the command line takes; `output` and `input` are arguments of the calls."""
    assert set(typing.get_type_hints(Options)) == (set(OPTIONS) | {"config"}) - {"output"}


def test_importing_the_package_imports_no_room() -> None:
    import subprocess
    import sys

    code = "import sys, batchrunner; print([name for name in sys.modules if name.startswith(('batchrunner.', 'aiohttp'))])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
