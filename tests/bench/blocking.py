"""How long the journal holds up the loop: ten thousand rows a second, with syncs and checkpoints as a run has them.

Rules:

1. Rows come in groups of a hundredth of a second, as the outbox gives them; they are written out, appended and marked.
2. What counts is the time between two steps of the loop. The CPU that was spent in it stands beside it: on a busy machine
   the rest of a long step is somebody else's.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from batchrunner.checkpoint import Checkpoint
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.journal import Durability, Journal
from batchrunner.paths import Paths
from batchrunner.records import record
from batchrunner.standing import Standing
from tests.bench.table import Table

RATE = 10_000  # rows a second
GROUP = 100
LINES = 2_000_000  # of the job, of which a checkpoint keeps two bits each
CHECKPOINTS = 5  # in a run


def journal(rows: int) -> Table:
    """The longest steps."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        steps = uvloop.run(_steps(Path(folder), rows))
    table: list[list[str | float]] = []
    for name, taken in (("by the clock", [wall for wall, _ in steps]), ("of CPU", [cpu for _, cpu in steps])):
        taken.sort()
        table.append([name, statistics.median(taken) * 1e3, taken[int(0.99 * len(taken))] * 1e3, taken[-1] * 1e3])
    title = f"journal: {rows:,} rows at {RATE:,} a second in groups of {GROUP}, synced every second, {CHECKPOINTS} checkpoints"
    return Table(title, ["a step of the loop", "median ms", "p99 ms", "most ms"], table)


async def _steps(folder: Path, rows: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each step."""
    (folder / "input.jsonl").touch()
    body = b'{"id":"chatcmpl","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}' % (b"word " * 200)
    standing = Standing(LINES, LINES, bytearray(LINES // 8 + 1), bytearray(LINES // 8 + 1))
    steps: list[tuple[float, float]] = []
    with Journal.open(Paths.of(folder / "input.jsonl"), Durability()) as out:
        checkpoint, beside = Checkpoint(out), set[asyncio.Task[object]]()
        for first in range(1, rows + 1, GROUP):
            wall, cpu = time.perf_counter(), time.thread_time()
            for line in range(first, first + GROUP):
                request = Request(
                    line=line, id=f"r-{line}", digest="0123456789abcdef", route=Route.CHAT, path="/v1/chat/completions"
                )
                out.append(record(Result(request=request, kind=Kind.OK, status=200, body=body, attempts=1)), True)
                standing.mark(line, True)
            if first // GROUP % (RATE // GROUP) == 0:
                beside.add(asyncio.create_task(out.sync()))
            if first // GROUP % (rows // GROUP // CHECKPOINTS) == 0:
                beside.add(asyncio.create_task(checkpoint.save(standing)))
            await asyncio.sleep(0)  # what was begun takes its first step
            steps.append((time.perf_counter() - wall, time.thread_time() - cpu))
            await asyncio.sleep(max(0.0, GROUP / RATE - steps[-1][0]))
        await asyncio.gather(*beside)
    return steps
