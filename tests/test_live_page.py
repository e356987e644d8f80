"""The page of a run while it goes on, as a browser shows it: what it says, when it says so, and what it never does."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

import batchrunner
from batchrunner import dashboard
from tests.browser import UNFIT, Tab
from tests.live import live
from tests.server import FaultServer, Peer, json_reply

MARKUP = "</title></script><script>alert(1)</script><img src=/x onerror=alert(2)><svg onload=alert(3)>\"'&amp;"
STATE = "document.querySelector('#state').textContent"
MADE = "[document.scripts.length, document.querySelectorAll('img, [onload], [onerror]').length]"

LESS = """page.innerHTML.replace(' open=""', '').replace('<section id="new"></section>', '')"""
MORE = """page.innerHTML.replace(' open=""', '').replace('<section id="settings">', '<section id="new"></section>$&')"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return written(tmp_path / "in.jsonl")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn more often than once a second, for nobody is to wait."""
    monkeypatch.setattr(dashboard, "PERIOD", 0.05)


def written(path: Path, name: str = "r", lines: int = 40) -> Path:
    rows = (json.dumps({"custom_id": f"{name}-{n}", **batchrunner.chat(f"prompt {n}", model="m")}) for n in range(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


def at_home(tab: Tab, origin: str) -> bool:
    """Everything was asked of this origin, and nothing went wrong."""
    assert [url for url in tab.asked if not url.startswith(f"{origin}/")] == []
    assert (tab.complaints, tab.dialogues) == ([], [])
    return len(tab.asked) > 1


async def address_of(run: asyncio.subprocess.Process) -> str:
    """What the command says of its page."""
    assert run.stderr
    async for line in run.stderr:
        if told := re.search(rb"live: (\S+)", line):
            return told[1].decode()
    raise AssertionError("it ended without a word of it")


async def test_it_follows_the_run_without_being_loaded_again(job: Path, tab: Tab) -> None:
    async with live(job) as (page, gate):
        await tab.go(page.url)
        await tab.says("50 % done: 20 succeeded, 20 to go")
        await tab.until(f"{STATE} === 'live'")
        await tab.value("window.here = true")
        gate.open(30)
        await tab.says("75 % done: 30 succeeded, 10 to go")
        assert await tab.value("document.title") == f"75 % done: 30 succeeded, 10 to go · {job} · live"
        gate.open()
        await tab.says("All 40 requests succeeded")
        await tab.until(f"{STATE} === 'the run has ended'")
    assert await tab.value("window.here")
    assert sum(url == page.url for url in tab.asked) == 1
    assert at_home(tab, f"http://127.0.0.1:{page.port}")


async def test_what_a_reader_has_opened_stays_open(job: Path, tab: Tab) -> None:
    async with live(job) as (page, gate):
        await tab.go(page.url)
        await tab.says("50 % done")
        await tab.until("document.querySelector('#settings details')")
        await tab.until(f"{STATE} === 'live'")
        await tab.click("#settings summary")
        gate.open(30)
        await tab.says("75 % done")
        assert await tab.value("document.querySelector('#settings details').open")
        await tab.value(f"source.close(); source.onmessage({{ data: JSON.stringify({MORE}) }})")
        assert await tab.value("document.querySelector('#new + #settings details').open"), "a section that comes pushes none out"
        await tab.value(f"source.onmessage({{ data: JSON.stringify({LESS}) }})")
        assert await tab.value("document.querySelector('#new')") is None
        assert await tab.value("document.querySelector('#settings details').open")


async def test_the_controls_answer_and_rest_when_the_run_is_over(job: Path, tab: Tab) -> None:
    off = "[...document.querySelectorAll('#controls button, #controls input')].map((each) => each.disabled)"
    async with live(job) as (page, _):
        await tab.go(page.url)
        await tab.until(f"{STATE} === 'live'")
        assert set(await tab.value(off)) == {False}
        await tab.click("#pause")
        await tab.says("Paused at 50 % done")
        await tab.says("paused: nothing new is sent")
        await tab.click("#resume")
        await tab.says("resumed")
        await tab.value("document.querySelector('form[action=\"/concurrency\"] input').value = 3")
        await tab.click('form[action="/concurrency"] button')
        await tab.says("3 in flight at each endpoint from now on")
    await tab.until(f"{STATE} === 'the run has ended'")
    assert set(await tab.value(off)) == {True}
    assert at_home(tab, f"http://127.0.0.1:{page.port}")


async def test_it_says_so_when_the_server_has_gone(job: Path, tab: Tab) -> None:
    """Killed: there is no farewell, and a control that is pressed then breaks nothing."""
    command = [sys.executable, "-m", "batchrunner", str(job), "--base-url", "simulated", "--rpm", "60", "--dashboard"]
    run = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await tab.go(await address_of(run))
        await tab.says("% done")
        await tab.until(f"{STATE} === 'live'")
        run.kill()
        await tab.until(f"{STATE}.startsWith('no connection: the run has ended, or this machine cannot be reached')")
        await tab.value("document.querySelector('#pause').disabled = false")
        await tab.click("#pause")
        await tab.until("document.querySelector('#pause').disabled")
    finally:
        await run.communicate()
    assert not [each for each in tab.complaints if "Failed to load resource" not in each], "the browser may say that, not we"


async def test_hostile_names_stay_words(tmp_path: Path, tab: Tab) -> None:
    async with live(written(tmp_path / MARKUP / "in.jsonl", MARKUP)) as (page, _):
        await tab.go(page.url)
        await tab.until(f"{STATE} === 'live'")
        await tab.says(f"{MARKUP}-1")
        assert await tab.value(MADE) == [1, 0]
        assert MARKUP in await tab.value("document.title")
    await tab.until(f"{STATE} === 'the run has ended'")
    await tab.says(MARKUP)
    assert await tab.value(MADE) == [1, 0]
    assert at_home(tab, f"http://127.0.0.1:{page.port}")


async def test_nor_does_what_a_server_says_become_markup(job: Path, tab: Tab) -> None:
    looking = asyncio.Event()

    async def refuse(peer: Peer) -> None:
        while True:
            await peer.request()
            await looking.wait()
            await peer.send(json_reply(401, {"error": {"message": MARKUP}}))

    async with FaultServer(refuse) as server, live(job, good=False, base_url=server.url) as (page, gate):
        gate.open()
        await tab.go(page.url)
        await tab.until(f"{STATE} === 'live'")
        looking.set()
        await tab.until(f"{STATE} === 'the run has ended'")
        await tab.says(MARKUP[:20])
        assert await tab.value(MADE) == [1, 0]
    assert at_home(tab, f"http://127.0.0.1:{page.port}")


@pytest.mark.parametrize("width", [400, 1400])
async def test_it_fits_the_window(tmp_path: Path, tab: Tab, width: int) -> None:
    await tab.resize(width)
    async with live(written(tmp_path / ("a-long-name" * 9) / "in.jsonl", "unbroken" * 15)) as (page, _):
        await tab.go(page.url)
        await tab.until(f"{STATE} === 'live' && document.querySelector('#slowest')")
        assert await tab.value(UNFIT) == []
    await tab.until(f"{STATE} === 'the run has ended'")
    assert await tab.value(UNFIT) == []
