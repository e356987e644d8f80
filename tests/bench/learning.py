"""What learning brings: the defaults beside fixed timeouts and fixed concurrency, on real sockets, through the public command.

Rules:

1. Contenders are options of the command. Those of one proof point run side by side, each with a server of its own:
   nearly all of their time is waiting. Where it is not, they take turns.
2. A contender that takes too long is stopped: then its time is a lower bound, and the lines still open are not lost.
3. Seconds and lines are those of the command's own summary; what became of each sending is what its server saw.
4. The bounds are those of the simulation. Whether the defaults keep them is told on stderr, figure by figure, as it is known.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from batchrunner.core.model import Request
from tests.bench.contenders import ROOT, start_pinned
from tests.bench.points import POINTS, Point
from tests.bench.table import Table
from tests.simulation.scenarios import CONTENDERS, SCENARIOS, Check, Scenario, attained, slower
from tests.simulation.world import Run, Sent, Stage

SEED = 1
PATIENCE = 30  # seconds for a command that was stopped to end
LAST = 0.5  # seconds before the end in which a stopped client drops what it holds


class Ran(Run):
    """One contender's run on real sockets. `results` stay with the command; its summary says how many there are."""

    answered: int
    stopped: bool

    @property
    def lost(self) -> int:
        return 0 if self.stopped else self.rows - self.answered


def learning(points: Iterable[str]) -> Table:
    """Every contender at each proof point; at all of them when none is named."""
    rows: list[list[str | float]] = []
    for name in points or POINTS:
        ran = _measured(name, POINTS[name])
        told = "; ".join(_figure(check, check.measure(ran[0])) for check in SCENARIOS[name].checks)
        rows.append([f"{SCENARIOS[name].about}; {POINTS[name].rows:,} rows", _most(SCENARIOS[name]), *map(_cell, ran)])
        print(f"{name}: {told}", *rows[-1][1:], sep="\n   ", file=sys.stderr, flush=True)
    return Table("learning: time as a multiple of the ideal, on real sockets", ["", "bound", *CONTENDERS], rows)


def _most(scenario: Scenario) -> str:
    """What the time may come to, if there is a bound to it."""
    of_time = (check for check in scenario.checks if check.measure in (slower, attained))
    check = next(of_time, None)
    return f"{1.0 / check.bound if check.least else check.bound:.2f}" if check else ""


def _figure(check: Check, value: float) -> str:
    """A figure of the defaults beside its bound."""
    sign = "≥" if check.least else "≤"
    return f"{check.name} {value:.3g} ({sign} {check.bound:g}{'' if check.holds(value) else ', MISSED'})"


def _cell(ran: Ran) -> str:
    """The time as a multiple of the ideal, and whatever else half of a per cent of the lines met."""
    shares = {"lost": ran.lost / ran.rows, "killed in vain": ran.wronged, "429s": ran.throttled(0.0)}
    told = [f"{100 * share:.0f} % {what}" for what, share in shares.items() if share >= 0.005]
    return ", ".join([f"{'> ' if ran.stopped else ''}{ran.slower:.2f}", *told])


def _measured(name: str, point: Point) -> list[Ran]:
    stage = point.stage(point.rows, SEED)
    with ThreadPoolExecutor(1 if point.alone else len(CONTENDERS)) as pool:
        return list(pool.map(lambda options: _run(name, point, stage, options), CONTENDERS.values()))


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
        said, _ = server.communicate(b"", 20)
        return ran(stage, summary, msgspec.json.decode(said, type=list[Sent]))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def ran(stage: Stage, summary: Mapping[str, object], log: list[Sent]) -> Ran:
    """What came of it. What a stopped client dropped at the end was not its judgement."""
    seconds, stopped = float(str(summary["seconds"])), bool(summary["stopped"])
    end = max((sent.ended for sent in log), default=0.0)
    kept = [sent for sent in log if not (stopped and sent.end in ("killed", "wronged") and sent.ended > end - LAST)]
    return Ran(stage, kept, [], seconds, int(str(summary["succeeded"])), stopped)


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
