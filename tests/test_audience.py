"""Those who look on: the page at the end, the page live, the user's command. None of them is worth a run."""

import asyncio
import json
import re
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

import batchrunner
from batchrunner import cli
from batchrunner import trail as trail_room
from batchrunner.audience import Audience
from batchrunner.dashboard import Dashboard
from batchrunner.engine import Engine
from batchrunner.errors import FileError, UsageError
from batchrunner.foreground import present
from batchrunner.hooks import Hooks
from batchrunner.loop import run_loop
from batchrunner.meter import Snapshot
from batchrunner.notify import notify, told
from batchrunner.report.invocation import Invocation
from batchrunner.report.story import Story
from batchrunner.summary import Report, summarise
from tests.live import SIMULATED, Gate, live, settings_of
from tests.test_report_html import Tree


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = (json.dumps({"custom_id": f"r-{n}", **batchrunner.chat(f"secret prompt {n}", model="m")}) for n in range(40))
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- the page at the end ----


def test_every_file_run_leaves_its_page(job: Path) -> None:
    report = batchrunner.run_sync(job, **SIMULATED)
    page = job.with_name("in.run") / "report.html"
    text = page.read_text()
    tree = Tree(text)
    assert report.ok
    assert {"diagnosis", "endpoints", "sessions", "settings", "files", "slowest", "cost"} <= tree.ids
    assert "All 40 requests succeeded" in text
    assert "the answers are simulated" in text
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert len(text.encode()) < 150_000


def test_no_prompt_and_no_answer_gets_into_a_page(job: Path) -> None:
    batchrunner.run_sync(job, **SIMULATED)
    text = (job.with_name("in.run") / "report.html").read_text()
    assert "secret prompt" not in text
    answer = json.loads(job.with_name("in.results.jsonl").read_text().splitlines()[0])
    assert answer["response"]["body"]["choices"][0]["message"]["content"] not in text


def test_a_resumed_run_shows_all_its_sessions(job: Path) -> None:
    batchrunner.run_sync(job, limit=15, **SIMULATED)
    page = job.with_name("in.run") / "report.html"
    assert "Stopped at 37 % done: 15 succeeded, 25 to go" in page.read_text()
    batchrunner.run_sync(job, **SIMULATED)
    text = page.read_text()
    assert "All 40 requests succeeded" in text
    rows = re.findall(r"<tr>(.*?)</tr>", text[text.index('id="sessions"') :].partition("</section>")[0])
    assert len(rows) == 2
    assert [re.findall(r">([0-9]+)</td>", row)[0] for row in rows] == ["15", "25"]


def test_report_writes_it_anew_from_the_files(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batchrunner.run_sync(job, **SIMULATED)
    page = job.with_name("in.run") / "report.html"
    first = page.read_text()
    page.unlink()
    assert cli.main(["report", str(job)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    again = page.read_text()
    assert Tree(again).ids == Tree(first).ids
    elsewhere = job.with_name("elsewhere.html")
    assert cli.main(["report", str(job), "--report", str(elsewhere)]) == 0
    assert "All 40 requests succeeded" in elsewhere.read_text()


def test_report_of_a_job_that_never_ran_says_what_there_is(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(job)]) == 2
    assert "[E201]" in capsys.readouterr().err


def test_a_page_takes_the_place_of_no_file_but_a_page(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kept in ("notes.html", "other.jsonl"):
        theirs = job.with_name(kept)
        theirs.write_text("<!DOCTYPE html>\nmine")
        said = ["--report", str(theirs), "--base-url", "simulated"]
        assert cli.main([str(job), *said, "--limit", "1"]) == 2
        assert "it holds something other than a page of ours [E401]" in capsys.readouterr().err
        assert not job.with_suffix(".results.jsonl").exists(), "before anything is sent"
        batchrunner.run_sync(job, output=str(job.with_name(f"{kept}.out")), **SIMULATED)
        assert cli.main(["report", str(job), "-o", str(job.with_name(f"{kept}.out")), *said]) == 2
        assert theirs.read_text() == "<!DOCTYPE html>\nmine"
    theirs.write_text("")
    for _ in range(2):
        assert cli.main([str(job), *said]) == 0
        assert "All 40 requests succeeded" in theirs.read_text()


def test_report_says_where_it_cannot_write(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batchrunner.run_sync(job, **SIMULATED)
    assert cli.main(["report", str(job), "--report", str(job / "x.html")]) == 2
    assert "[E401]" in capsys.readouterr().err


OWN = ["in.jsonl", "in.results.jsonl", "in.errors.jsonl", "in.run/events.jsonl", "link", "in.run/../in.jsonl"]


@pytest.mark.parametrize("own", OWN)
def test_a_report_is_never_written_over_a_file_of_the_job(job: Path, own: str) -> None:
    batchrunner.run_sync(job, **SIMULATED)
    job.with_name("link").symlink_to(job)
    place = job.parent / own
    before = place.read_bytes()
    with pytest.raises(UsageError, match=r"own files|other than a page"):
        batchrunner.run_sync(job, report=str(place), **SIMULATED)
    assert place.read_bytes() == before


async def test_nor_over_the_input_of_a_job_that_keeps_nothing(job: Path) -> None:
    before = job.read_bytes()
    with pytest.raises(UsageError, match=r"own files|other than a page"):
        await batchrunner.run(job, "-", report=str(job), **SIMULATED)
    with pytest.raises(UsageError, match=r"own files|other than a page"):
        await batchrunner.gather(job, report=str(job), **SIMULATED)
    assert job.read_bytes() == before


def test_a_pipe_and_a_stream_leave_a_page_where_they_are_told_to(job: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = job.with_name("page.html")
    batchrunner.run_sync(job, "-", report=str(place), **SIMULATED)
    assert "All 40 requests succeeded" in place.read_text()
    assert not job.with_name("in.run").exists()
    assert len(capfd.readouterr().out.splitlines()) == 40


@pytest.mark.parametrize("obstacle", ["folder", "link"])
def test_a_page_that_cannot_be_written_breaks_nothing(job: Path, capfd: pytest.CaptureFixture[str], obstacle: str) -> None:
    page, target = job.with_name("in.run") / "report.html", job.with_name("precious")
    page.parent.mkdir()
    target.write_text("precious")
    if obstacle == "folder":
        (page / "x").mkdir(parents=True)
    else:
        page.symlink_to(target)
    report = batchrunner.run_sync(job, base_url="simulated", display="log")
    assert report.ok
    assert target.read_text() == "precious"
    assert ("the report could not be written" in capfd.readouterr().err) == (obstacle == "folder")
    assert report.page == ("" if obstacle == "folder" else str(page)), "none is named that was not written"
    assert not list(page.parent.glob("*.partial"))


# ---- the page live ----


@asynccontextmanager
async def browsed(job: Path, **given: Any) -> AsyncIterator[tuple[Dashboard, aiohttp.ClientSession, Gate]]:
    """The dashboard of a run that waits behind half of its lines, and one who asks it."""
    async with live(job, **given) as (dashboard, gate), aiohttp.ClientSession(f"http://127.0.0.1:{dashboard.port}") as browser:
        yield dashboard, browser, gate


async def text_of(browser: aiohttp.ClientSession, path: str, **more: Any) -> tuple[int, str]:
    async with browser.get(path, **more) as answer:
        return answer.status, await answer.text()


async def posted(browser: aiohttp.ClientSession, path: str, token: str = "", **form: str) -> tuple[int, str]:
    async with browser.post(path, headers={"X-Token": token}, data=form) as answer:
        return answer.status, await answer.text()


async def test_the_same_page_live(job: Path) -> None:
    async with browsed(job) as (dashboard, browser, _):
        status, text = await text_of(browser, "/", params={"token": dashboard.token})
        assert status == 200
        assert "% done:" in text
        assert '<header class="running">' in text
        assert text.count("<script") == 1
        assert Tree(text).count["button"] == 4


async def test_changes_come_as_events_and_the_end_as_the_last(job: Path) -> None:
    async with browsed(job) as (dashboard, browser, gate), browser.get("/stream", params={"token": dashboard.token}) as stream:
        assert stream.content_type == "text/event-stream"
        first = await stream.content.readuntil(b"\n\n")
        assert "% done" in json.loads(first.removeprefix(b"data: "))
        gate.open()
        rest = await stream.content.read()
    assert b"event: end\n" in rest
    assert "All 40 requests succeeded" in json.loads(rest.rpartition(b"data: ")[2])


async def test_no_older_drawing_comes_after_the_end() -> None:
    drawing, held = asyncio.Event(), asyncio.Event()

    class Slow:
        async def story(self, ended: Report | None = None) -> Story:
            if ended:
                return Story(job="a", state="good", verdict="the end")
            drawing.set()
            await held.wait()
            return Story(job="a", state="running", verdict="half way")

    dashboard = await Dashboard.open(0)
    dashboard.watch(cast(Any, None), cast(Any, Slow()))
    address = f"http://127.0.0.1:{dashboard.port}/stream"
    async with aiohttp.ClientSession() as browser:
        looking = asyncio.ensure_future(text_of(browser, address, params={"token": dashboard.token}))
        await drawing.wait()
        closing = asyncio.ensure_future(dashboard.close(ending()))
        for _ in range(9):  # as far as it comes before the other has been drawn
            await asyncio.sleep(0)
        held.set()
        await closing
        assert "the end" in (await looking)[1].rpartition("event: end")[2]


async def test_status_and_metrics_are_open_and_hold_counts_only(job: Path) -> None:
    async with browsed(job) as (_, browser, _gate):
        status, text = await text_of(browser, "/status.json")
        figures = json.loads(text)
        assert (status, figures["total"], figures["state"], figures["v"]) == (200, 40, "running", 1)
        assert "r-1" not in text
        status, text = await text_of(browser, "/metrics")
        assert status == 200
        assert 'batchrunner_lines{state="pending"}' in text


async def test_what_one_look_at_the_metrics_says_agrees(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago a moment was taken."""
    monkeypatch.setattr(trail_room, "FIRST_EVERY", 1e6)
    async with browsed(job) as (_, browser, _gate):
        figures = {"attempts": 0}
        while figures["attempts"] < 20:  # as many as come through the gate
            figures = json.loads((await text_of(browser, "/status.json"))[1])
        samples = re.findall(r"^batchrunner_(\w+)(\S*) ([0-9.]+)$", (await text_of(browser, "/metrics"))[1], re.MULTILINE)
        attempts = sum(float(value) for name, _, value in samples if name == "attempts_total")
        assert attempts == figures["attempts"]
        assert sum(float(value) for name, _, value in samples if name == "endpoint_attempts_total") == attempts
        good = next(float(value) for name, labels, value in samples if name == "requests_total" and "succeeded" in labels)
        counted = (float(value) for name, labels, value in samples if name == "request_seconds_count" and '"total"' in labels)
        assert sum(counted) == good
        assert sum(endpoint["attempts"] for endpoint in figures["endpoints"]) == attempts


@pytest.mark.parametrize("path", ["/", "/stream"])
async def test_the_page_wants_the_token(job: Path, path: str) -> None:
    async with browsed(job) as (dashboard, browser, _):
        for token in ("", "wrong", dashboard.token[:-1], dashboard.token + "x", "ä"):
            status, text = await text_of(browser, path, params={"token": token})
            assert status == 403
            assert "r-1" not in text
            assert dashboard.token not in text


async def test_controls_want_the_token_and_do_what_they_say(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with browsed(job) as (dashboard, browser, _):

        async def state() -> tuple[str, int]:
            figures = json.loads((await text_of(browser, "/status.json"))[1])
            return figures["state"], figures["limit"]

        for path in ("/pause", "/resume", "/concurrency", "/rate"):
            assert (await posted(browser, path, "wrong", n="3"))[0] == 403
            assert (await text_of(browser, path, params={"token": dashboard.token}))[0] == 405, "looking changes nothing"
        before = await state()
        assert before[0] == "running"
        assert (await posted(browser, "/pause", dashboard.token))[0] == 200
        assert (await state())[0] == "paused"
        assert "Paused at" in (await text_of(browser, "/", params={"token": dashboard.token}))[1]
        assert (await posted(browser, "/resume", dashboard.token))[0] == 200
        assert (await posted(browser, "/concurrency", dashboard.token, n="3"))[0] == 200
        assert await state() == ("running", 3)
        paced: list[int] = []
        monkeypatch.setattr(Engine, "repace", lambda engine, rpm: paced.append(rpm))
        for rpm in ("600", "0"):
            assert (await posted(browser, "/rate", dashboard.token, n=rpm))[0] == 200
        assert (await posted(browser, "/rate", dashboard.token, n="-1"))[0] == 400
        assert paced == [600, 0]
        for bad in ("0", "-1", "x", "", "10001", "9" * 5000, "٣"):
            assert (await posted(browser, "/concurrency", dashboard.token, n=bad))[0] in {400, 413}
        assert await state() == ("running", 3)


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example:8377", "localhost.evil.example", ""])
async def test_it_answers_only_to_its_own_name(job: Path, name: str) -> None:
    async with browsed(job) as (dashboard, browser, _):
        assert (await text_of(browser, "/metrics", headers={"Host": name}))[0] in {400, 403}
        assert (await text_of(browser, "/", params={"token": dashboard.token}, headers={"Host": name}))[0] in {400, 403}
        assert (await text_of(browser, "/metrics", headers={"Host": "localhost:9000"}))[0] == 200


async def test_the_page_lets_nothing_in(job: Path) -> None:
    async with browsed(job) as (dashboard, browser, _), browser.get("/", params={"token": dashboard.token}) as answer:
        fence = answer.headers["Content-Security-Policy"]
        nonce = re.search(r"script-src 'nonce-([^']+)'", fence)
        assert nonce
        assert f'<script nonce="{nonce[1]}">' in await answer.text()
        assert "default-src 'none'" in fence
        assert answer.headers["Referrer-Policy"] == "no-referrer", "the address holds the token"


async def test_a_port_that_is_taken_is_no_reason_to_stop(job: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert (await present(settings_of(job, dashboard=port))).ok
        told = capfd.readouterr().err
        assert re.search(r"live: http://127\.0\.0\.1:\d+/\?token=", told), "told even where nothing else is shown"
        assert f":{port}/" not in told
    finally:
        server.close()
        await server.wait_closed()


async def test_it_is_gone_when_the_run_is_cancelled(job: Path) -> None:
    begun = asyncio.Event()

    async def prepare(request: batchrunner.Request) -> batchrunner.Request:
        begun.set()
        await asyncio.Event().wait()
        return request

    run = asyncio.ensure_future(present(settings_of(job, dashboard=1), hooks=Hooks(prepare=prepare)))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


# ---- the user's command ----

SAVE = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + os.environ['BATCHRUNNER_EXIT_CODE'])"


def command(place: Path, code: str = SAVE) -> str:
    return f'{sys.executable} -c "{code}" {place}'


def test_the_command_gets_the_summary(job: Path, tmp_path: Path) -> None:
    place = tmp_path / "told"
    batchrunner.run_sync(job, notify=command(place), **SIMULATED)
    summary, _, code = place.read_text().partition("\n")
    assert json.loads(summary)["succeeded"] == 40
    assert code == "0"


def test_the_command_hears_of_a_run_that_broke_off(job: Path, tmp_path: Path) -> None:
    place = tmp_path / "told"
    (tmp_path / "in.results.jsonl").mkdir()
    with pytest.raises(batchrunner.BatchError):
        batchrunner.run_sync(job, notify=command(place), **SIMULATED)
    said = json.loads(place.read_text().partition("\n")[0])
    assert said["error"]["code"] == "E401"
    assert said["exit_code"] == 2


def ending() -> Report:
    snapshot = Snapshot(total=2, succeeded=1, failed=1)
    return Report(summarise(snapshot, "a; rm -rf $HOME\0"), snapshot, "r", "e")


async def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    """Nothing of ours becomes a part of it, and what a shell would do with it is not done."""
    victim = tmp_path / "victim"
    assert await notify(f"{sys.executable} -c pass ; touch {victim}", ending(), "a; touch x") == ""
    assert await notify(f"{sys.executable} -c pass $(touch {victim}) `touch {victim}`", ending(), "a") == ""
    assert not victim.exists()


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("/no/such/program", "cannot be run"),
        (f"{sys.executable} -c 'raise SystemExit(7)'", "ended with 7"),
    ],
)
async def test_a_fault_of_the_command_is_a_line(said: str, part: str) -> None:
    line = await notify(said, ending(), "a\0b")
    assert part in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(("said", "part"), [("'unclosed", "cannot be split"), ("   ", "no program ''"), ("nosuch x", "'nosuch'")])
def test_a_command_that_cannot_be_run_is_refused_before_anything_is_sent(
    job: Path, said: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(job), "--base-url", "simulated", "-q", "--notify", said]) == 2
    assert part in capsys.readouterr().err
    assert not job.with_name("in.results.jsonl").exists()


def test_a_fault_of_what_was_asked_for_is_said_even_where_nothing_else_is(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(job), "--base-url", "simulated", "-q", "--display", "none", "--notify", "false"]) == 0
    assert "--notify: false ended with 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "why"),
    [("no/x.html", "the folder does not exist"), ("in.jsonl/x.html", "does not exist"), (".", "it is a directory")],
)
def test_a_page_that_cannot_be_written_where_it_was_asked_for_is_refused(
    job: Path, place: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(job), "--base-url", "simulated", "--report", str(job.parent / place)]
    assert cli.main(typed) == 2
    assert why in capsys.readouterr().err
    assert [path.name for path in job.parent.iterdir()] == ["in.jsonl"], "nothing was made"


def test_a_command_that_ends_before_it_has_read_is_no_fault_of_ours() -> None:
    async def often() -> list[str]:
        return [await notify("false", ending(), "a") for _ in range(60)]

    assert set(run_loop(often())) == {"--notify: false ended with 1"}


async def test_a_command_that_hangs_is_ended() -> None:
    hang = f"{sys.executable} -c 'import threading; threading.Event().wait()'"
    assert "was ended after 0.3 s" in await notify(hang, ending(), "a", patience=0.3)


def test_what_the_command_is_told() -> None:
    assert json.loads(told(ending(), "a"))["failed"] == 1
    assert json.loads(told(FileError("E404", "disk full"), "a")) == {
        "v": 1,
        "input": "a",
        "error": {"code": "E404", "message": "disk full"},
        "exit_code": 4,
    }


async def test_an_audience_without_a_run_leaves_in_order(job: Path) -> None:
    async with Audience(settings_of(job, dashboard=1), Invocation(input=str(job))) as audience:
        assert audience.listeners == [audience.progress]
