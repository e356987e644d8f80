"""What learning brings: the defaults beside fixed timeouts and fixed concurrency, on real sockets, through the public command.

Rules:

1. Contenders are options of the command. Those of one proof point run side by side, each with a server of its own:
   nearly all of their time is waiting. Where it is not, they take turns.
2. A contender that takes too long is stopped: then its time is a lower bound, and the lines still open are unanswered.
3. False kills, 429s and sendings are counted by the server, lines by the command's own summary.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from batchrunner.core.model import Request
from tests.bench.contenders import ROOT, start_pinned
from tests.bench.points import POINTS, Point
from tests.bench.table import Table
from tests.simulation.scenarios import CONTENDERS, SCENARIOS
from tests.simulation.world import Stage

SEED = 1
PATIENCE = 30  # seconds for a command that was stopped to end
COLUMNS = ["", "seconds", "ideal", "× ideal", "unanswered", "false kills %", "429s %", "extra sent %", "p50 s"]


class Ran(Struct):
    """One contender's run: the command's summary and the server's figures."""

    summary: dict[str, object]
    seen: dict[str, float]


def learning(points: Iterable[str]) -> Table:
    """Every contender at each proof point; at all of them when none is named. Each is told on stderr as it is done."""
    rows: list[list[str | float]] = []
    for name in points or POINTS:
        measured = _measured(name, POINTS[name])
        rows += measured
        title = f"{name}: {SCENARIOS[name].about}; {POINTS[name].rows:,} rows"
        print(Table(title, COLUMNS, measured), file=sys.stderr, flush=True)
    return Table("learning: shorter jobs than in the simulation, real sockets", COLUMNS, rows)


def _measured(name: str, point: Point) -> list[list[str | float]]:
    stage = point.stage(point.rows, SEED)
    with ThreadPoolExecutor(1 if point.alone else len(CONTENDERS)) as pool:
        ran = list(pool.map(lambda options: _run(name, point, stage, options), CONTENDERS.values()))
    return [[f"{name}, {contender}", *_figures(stage, each)] for contender, each in zip(CONTENDERS, ran, strict=True)]


def _figures(stage: Stage, ran: Ran) -> list[str | float]:
    summary, seen, rows = ran.summary, ran.seen, len(stage.requests)
    seconds = float(str(summary["seconds"]))
    times: list[str | float] = [seconds, stage.ideal, seconds / stage.ideal]
    if summary["stopped"]:
        times = [f"> {seconds:.0f}", stage.ideal, f"> {seconds / stage.ideal:.2g}"]
    unanswered = rows - int(str(summary["succeeded"]))
    return [*times, unanswered, 100 * seen["wronged"], 100 * seen["throttled"], 100 * (seen["sent"] / rows - 1), seen["p50"]]


def _run(name: str, point: Point, stage: Stage, options: Mapping[str, int | str]) -> Ran:
    """One contender against a fresh server and a fresh job."""
    words = [sys.executable, "-m", "tests.bench.modelled", name, str(point.rows), str(SEED)]
    server = start_pinned(words, None, subprocess.PIPE)
    assert server.stdin
    assert server.stdout
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        urls = json.loads(server.stdout.readline())
        file = folder / "input.jsonl"
        file.write_bytes(b"".join(_line(request) for request in stage.requests))
        summary = _command(file, urls, {**options, **stage.options, "max_time": point.most, "grace": 0}, point.most + PATIENCE)
        said, _ = server.communicate(b"stopped" if summary["stopped"] else b"", 20)
        return Ran(summary, json.loads(said))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def _command(file: Path, urls: list[str], options: Mapping[str, int | str], most: float) -> dict[str, object]:
    """The command's own summary. Raises when there is none, or the command does not end in `most` seconds."""
    words = [sys.executable, "-m", "batchrunner", str(file), "--display", "none", "--json"]
    words += [word for url in urls for word in ("--base-url", url)]
    words += [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False, timeout=most)
    if not done.stdout:
        raise RuntimeError(f"the command ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _line(request: Request) -> bytes:
    """A request of the simulation as a line of about the same size."""
    name = f"r-{request.line:09d}"
    body = {"model": request.model, "user": name, "messages": [{"role": "user", "content": "x" * len(request.body)}]}
    if request.max_tokens:
        body["max_tokens"] = request.max_tokens
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode() + b"\n"
