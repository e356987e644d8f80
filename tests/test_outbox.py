"""Between attempts and sink: who is told what, and when, also when the run is cut off in the middle of it. On virtual time."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from batchrunner.core.model import Attempt, Event, Reply, Result
from batchrunner.engine import Engine
from batchrunner.hooks import Hooks
from tests.virtual import MemorySink, chat, engine_for, good, run_virtual


async def prompt(_attempt: Attempt) -> Reply:
    await asyncio.sleep(1.0)
    return good()


class SlowDisk(MemorySink):
    """Has the results at once, and says so an hour later."""

    async def put(self, results: Sequence[Result]) -> None:
        await super().put(results)
        await asyncio.sleep(3600.0)


async def never(_event: Event) -> None:
    await asyncio.sleep(3600.0)


def dropped_after(seconds: float, make: Callable[[list[Event]], Engine]) -> list[Event]:
    """What the listeners of an engine had heard when it was dropped after so long."""

    async def main() -> list[Event]:
        heard: list[Event] = []
        engine = make(heard)
        asyncio.get_running_loop().call_later(seconds, engine.drop)
        await engine.run()
        return heard

    told: list[Event] = run_virtual(main)
    return told


@pytest.mark.parametrize("hooks", [Hooks(), Hooks(notice=never)], ids=["slow disk", "slow listener"])
def test_what_the_sink_has_taken_is_told_even_if_the_run_is_dropped_meanwhile(hooks: Hooks) -> None:
    """Or the summary would count as pending what is in the file."""
    sink = SlowDisk() if hooks.notice is None else MemorySink()
    requests = [chat(n) for n in range(1, 9)]
    heard = dropped_after(1.5, lambda heard: engine_for(requests, prompt, sink=sink, listeners=[heard.append], hooks=hooks))
    assert len(sink.results) == 8
    assert sorted(event.result.request.line for event in heard if event.result) == list(range(1, 9))


def test_no_hook_is_waited_for_when_the_run_is_cut_off() -> None:
    """Neither the one that is under way nor that of what has come meanwhile: whoever cancels a run wants it to end."""

    async def later(attempt: Attempt) -> Reply:
        await asyncio.sleep(float(attempt.request.line))
        return good()

    async def main() -> tuple[int, int, float]:
        heard: list[Event] = []
        engine = engine_for([chat(n) for n in range(1, 9)], later, listeners=[heard.append], hooks=Hooks(notice=never))
        asyncio.get_running_loop().call_later(5.5, engine.drop)
        began = asyncio.get_running_loop().time()
        await engine.run()
        answered = sum(event.result is not None for event in heard)
        return answered, len(heard) - answered, asyncio.get_running_loop().time() - began

    assert run_virtual(main) == (5, 3, 5.5)
