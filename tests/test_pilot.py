"""With a cap on money and a model without a price one request goes ahead; the others wait for its answer, but not for ever."""

import asyncio
import json
from pathlib import Path

import pytest

import batchrunner
from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Result
from batchrunner.pilot import PATIENCE, Pilot
from batchrunner.simulator import Profile, Simulator
from tests.crash import served
from tests.virtual import chat, run_virtual


@pytest.fixture(autouse=True)
def _twenty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    rows = [batchrunner.chat(f"question {n}", model="m", id=f"r-{n}") for n in range(20)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ended(line: int, model: str = "m") -> Event:
    request = chat(line, model=model)
    attempt = Attempt(request, "A", 1, 0.0, Deadlines(0.0, 0.0, 0.0, 0.0))
    return Event(0.0, attempt, Outcome(Kind.OK), Result(request=request, kind=Kind.OK))


async def test_one_answer_is_paid_for_where_its_price_is_not_known() -> None:
    with served(Simulator(Profile())) as sim:
        report = await batchrunner.run("a.jsonl", base_url=sim.url, max_cost=1)
        assert report.summary.stopped == "the price of m is not known, so --max-cost cannot be kept: --price MODEL=IN/OUT [E303]"
        assert (report.summary.attempts, report.summary.pending) == (1, 19)
        priced = await batchrunner.run("a.jsonl", base_url=sim.url, max_cost=1, price="m=1/1")
        assert priced.summary.succeeded == 20


def test_the_others_wait_for_the_first_answer_of_their_model_and_no_longer_than_they_should() -> None:
    async def main() -> None:
        clock, pilot = asyncio.get_running_loop().time, Pilot({"known": True}.get)
        began = clock()
        for line in range(3):
            await pilot.admit(chat(line, model="known"))
        await pilot.admit(chat(4))
        second = asyncio.ensure_future(pilot.admit(chat(5)))
        await asyncio.sleep(1.0)
        pilot(ended(1, "known"))
        pilot(Event(0.0, None, None, ended(4).result))
        await asyncio.sleep(1.0)
        assert not second.done(), "neither another model nor a line that was not sent tells a price"
        pilot(ended(4))
        await second
        await pilot.admit(chat(6))
        assert clock() - began == 2.0
        await pilot.admit(chat(7, model="hangs"))
        await pilot.admit(chat(8, model="hangs"))
        await pilot.admit(chat(9, model="hangs"))
        assert clock() - began == 2.0 + PATIENCE

    run_virtual(main)
