"""The scenarios and the table.

Rules:

1. Contenders take turns, round by round, so that a busy machine hurts all of them alike; medians over the rounds.
2. A ratio is to `bare` in the same run. Absolute figures are those of this machine.
3. CPU of a run is that of its whole process less that of a run over one row: imports and start are paid once, not per request.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

from msgspec import structs, to_builtins

from batchrunner import __version__
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.identity import identify
from batchrunner.records import record
from tests.bench.blocking import journal
from tests.bench.contenders import ROOT, Weight, answered, command, start_pinned, weigh_words
from tests.bench.learning import learning
from tests.bench.rivals import Unusable, rival_command
from tests.bench.routes import ROUTES
from tests.bench.server import EVENTS
from tests.bench.sharing import workers
from tests.bench.stage import Plan, cores, endpoint, job, run
from tests.bench.table import Table

ROUNDS = 3
STREAMERS = ("lines", "batchrunner streams")
FLIGHT = 10_000
FLYING = 128  # answers that come in any order
PAUSE = 0.01  # seconds between two events of an answer


def overhead(plan: Plan) -> Table:
    """No latency: what each contender costs per request."""
    rows = plan.rows or 20_000
    with endpoint() as url:
        start = {name: run(name, url, 1, plan).cpu for name in plan.contenders}
        rounds = [{name: run(name, url, rows, plan) for name in plan.contenders} for _ in range(ROUNDS)]
    figures = [_costs(name, [each[name] for each in rounds], rows, start[name]) for name in plan.contenders]
    yardstick = next((figure for figure in figures if figure[0] == "bare"), figures[0])
    table = [[name, rate, rate / yardstick[1], wall, cpu, cpu / yardstick[3], peak] for name, rate, wall, cpu, peak in figures]
    title = f"overhead: {rows:,} rows of 1 KB, no latency, concurrency {plan.concurrency}, median of {ROUNDS} rounds"
    return Table(title, ["", "req/s", "ratio", "wall s", "CPU ms/1000", "ratio", "peak MB"], table)


def rooms(plan: Plan) -> Table:
    """No latency: what each room of the engine costs per request, by a sampled profile."""
    rows = plan.rows or 20_000
    with endpoint() as url, job(rows) as file:
        words = command("batchrunner", url, file, plan.concurrency)
        words[words.index("batchrunner")] = "tests.bench.rooms"
        done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
        if answered(file) != rows:
            raise RuntimeError(f"{answered(file)} right answers to {rows} questions")
    spent = sorted(json.loads(done.stdout.splitlines()[-1]).items(), key=lambda room: -room[1])
    whole = sum(seconds for _, seconds in spent)
    table: list[list[str | float]] = [[room, seconds / rows * 1e6, 100 * seconds / whole] for room, seconds in spent]
    title = f"rooms: {rows:,} rows of 1 KB, no latency, concurrency {plan.concurrency}, sampled"
    return Table(title, ["", "CPU ms/1000", "%"], [*table, ["together", whole / rows * 1e6, 100.0]])


def start(plan: Plan) -> Table:
    """What it costs to begin, in seconds of CPU: the least of a few tries."""
    table: list[list[str | float]] = []
    with endpoint() as url:
        for words in ("--version", "--help", "--nonsense"):
            tries = [_cpu_of([sys.executable, "-m", "batchrunner", words]) for _ in range(ROUNDS)]
            table.append([words, min(tries)])
        table.append(["python -c pass", min(_cpu_of([sys.executable, "-c", "pass"]) for _ in range(ROUNDS))])
        table.append(["a job of one line, from start to end", min(run("batchrunner", url, 1, plan).cpu for _ in range(ROUNDS))])
    return Table("start", ["", "CPU s"], table)


def _cpu_of(words: list[str]) -> float:
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def _costs(name: str, weights: list[Weight], rows: int, start: float) -> tuple[str, float, float, float, float]:
    """Requests per second, wall seconds, CPU milliseconds per 1,000 requests, peak."""
    middle = statistics.median
    cpu = middle(weight.cpu for weight in weights) - start
    rate = rows / middle(weight.seconds for weight in weights)
    return name, rate, middle(weight.wall for weight in weights), cpu / rows * 1e6, middle(weight.peak for weight in weights)


def streams(plan: Plan) -> Table:
    """Answers of 200 events: what an event costs. In packets of their own, as a model speaks, and all at once."""
    table: list[list[str | float]] = []
    for pause, title, most in ((PAUSE, "each event in its own packet", 4), (0.0, "all events at once", 32)):
        rows = plan.rows or most * plan.concurrency  # at once an answer costs less than the start of a process varies by
        with endpoint(pause) as url:
            start = {name: min(run(name, url, 1, plan).cpu for _ in range(ROUNDS)) for name in STREAMERS}
            rounds = [{name: run(name, url, rows, plan) for name in STREAMERS} for _ in range(ROUNDS)]
        costs = {name: _event_cost([each[name] for each in rounds], rows, start[name]) for name in STREAMERS}
        table += [[f"{name}, {title}", rows, cost, cost / costs["lines"]] for name, cost in costs.items()]
    title = f"streams: answers of {EVENTS} events, concurrency {plan.concurrency}, median of {ROUNDS} rounds"
    return Table(title, ["", "answers", "CPU µs/event", "ratio"], table)


def _event_cost(weights: list[Weight], rows: int, start: float) -> float:
    """CPU microseconds per event, the request's own share included."""
    return (statistics.median(weight.cpu for weight in weights) - start) / (rows * EVENTS) * 1e6


def flight(plan: Plan) -> Table:
    """Ten thousand under way at once: how many really are, once ramped, and what each costs."""
    table: list[list[str | float]] = []
    for width, rows in ((100, 400), (FLIGHT, plan.rows or 4 * FLIGHT)):
        server = start_pinned([sys.executable, "-m", "tests.bench.server", "0", str(plan.latency)], cores()[0], subprocess.PIPE)
        assert server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        try:
            weight = run("batchrunner", url, rows, structs.replace(plan, concurrency=width))
        finally:
            said, _ = server.communicate(b"")
        table.append([f"{width:,} in flight", float(said), 100 * float(said) / width, weight.cpu / rows * 1e6, weight.peak])
    each = (float(table[1][4]) - float(table[0][4])) * 1024 / (FLIGHT - 100)
    table[1].append(each)
    title = (
        f"flight: answers after {plan.latency:g} s, fixed concurrency; Little's law once ramped is the mean held by the server"
    )
    return Table(title, ["", "held", "% of Little's law", "CPU ms/1000", "peak MB", "KB each"], [[*table[0], ""], table[1]])


def memory(plan: Plan) -> Table:
    """Ten times the lines: how much the engine's peak grows."""
    rows = plan.rows or 20_000
    with endpoint() as url:
        few, many = (run("batchrunner", url, size, plan) for size in (rows, 10 * rows))
    grown = (many.peak - few.peak) * 1024 / (9 * rows)
    columns = ["", f"{rows:,} MB", f"{10 * rows:,} MB", "KB/1000 lines"]
    return Table("memory: peak of the engine", columns, [["batchrunner", few.peak, many.peak, grown * 1000]])


def resume(plan: Plan) -> Table:
    """Nearly all is done: how long until the rest is."""
    return _resumed("resume", plan, plan.rows or 300_000)


def size(plan: Plan) -> Table:
    """The same with two million lines; ten by `--rows 10000000`."""
    return _resumed("size", plan, plan.rows or 2_000_000)


def _resumed(title: str, plan: Plan, rows: int) -> Table:
    """What a line costs that is done, by the clock and in CPU of all processes: a run less one with next to no lines."""
    few = min(100, rows // 3)
    one_core = cores()[1]
    table: list[list[str | float]] = []
    with endpoint() as url, job(rows) as file, job(1) as one:
        checks = min((_checked(one) for _ in range(ROUNDS)), key=_cpu)
        runs = min((run("batchrunner", url, few, plan) for _ in range(ROUNDS)), key=_cpu)

        def add(step: str, weight: Weight, idle: Weight) -> None:
            spent = (weight.wall, weight.cpu)
            each = [(whole - begun) / rows * 1e6 for whole, begun in zip(spent, (idle.wall, idle.cpu), strict=True)]
            table.append([step, *spent, *each, weight.peak])

        def resumed(step: str, core: int | None, *words: str) -> None:
            add(step, weigh_words(step, [*command("batchrunner", url, file, plan.concurrency), *words], core)[1], runs)

        add("check, nothing done", _checked(file), checks)
        _answer(file, 0, rows // 2)
        add("check, half done", _checked(file), checks)
        _answer(file, rows // 2, rows - 3 * few)
        floor = weigh_words("floor", [sys.executable, "-m", "tests.bench.floor", str(file)], one_core)[1]
        add("floor: read, hash and decode", floor, Weight(0.0, 0.0, 0.0, 0.0, 0))
        for step, core in (("no checkpoint, one core", one_core), (f"no checkpoint, {os.cpu_count()} cores", None)):
            (file.with_suffix(".run") / "checkpoint").unlink(missing_ok=True)
            resumed(step, core, "--limit", str(few))
        resumed(f"checkpoint, {few} left", one_core)
        if answered(file) != rows:
            raise RuntimeError(f"{answered(file)} right answers to {rows} questions")
    columns = ["", "wall s", "CPU s", "wall µs/line", "CPU µs/line", "peak MB"]
    return Table(f"{title}: {rows:,} lines of 1 KB", columns, table)


def _cpu(weight: Weight) -> float:
    return weight.cpu


def _checked(file: Path) -> Weight:
    """`batchrunner check`, on any core."""
    return weigh_words("check", [sys.executable, "-m", "batchrunner", "check", str(file), "--json"], None)[1]


def _answer(file: Path, first: int, end: int) -> None:
    """Add the results of these lines as the engine would have: in the order of the answers, which is not that of the lines."""
    answer = json.dumps(
        {
            "id": "chatcmpl",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 120}, "finish_reason": "stop"}],
        }
    )
    chance = Random(first)
    with file.open("rb") as lines, file.with_suffix(".results.jsonl").open("ab") as out:
        asked = islice(enumerate(lines, 1), first, end)
        while flight := list(islice(asked, FLYING)):
            chance.shuffle(flight)
            for number, raw in flight:
                name, digest = identify(raw.rstrip(b"\n"), number)
                request = Request(line=number, id=name, digest=digest, route=Route.CHAT, path="/v1/chat/completions")
                body = answer.replace("chatcmpl", f"chatcmpl-{name}").encode()
                out.write(record(Result(request=request, kind=Kind.OK, status=200, body=body, attempts=1, seconds=0.5)))


def rivals(plan: Plan) -> Table:
    """The programs that people use instead, each in an environment of its own, over the same file."""
    rows, table = plan.rows or 3_000, list[list[str | float]]()
    with endpoint() as url, job(1) as one, job(rows) as file:
        for name in ("bare", "batchrunner", "naive", *ROUTES):
            try:
                table.append([name, *_rival(name, url, one, file, rows, plan)])
            except Unusable as why:
                table.append([name, str(why), "", "", "", ""])
            print(*table[-1], file=sys.stderr, flush=True)
    yardstick = next(float(row[3]) for row in table if row[0] == "bare")
    for row in table:
        row.append(float(row[3]) / yardstick if row[3] else "")
    title = f"rivals: {rows:,} rows of 1 KB, no latency, concurrency {plan.concurrency}, one round, {time.strftime('%Y-%m-%d')}"
    return Table(title, ["", "version", "req/s", "CPU ms/1000", "peak MB", "right", "× CPU"], table)


def _rival(name: str, url: str, one: Path, file: Path, rows: int, plan: Plan) -> list[str | float]:
    """Version, requests per second, CPU milliseconds per 1,000 requests, peak, right answers."""
    if name in ROUTES:
        commands = [rival_command(name, url, each, plan.concurrency) for each in (one, file)]
    else:
        commands = [command(name, url, each, plan.concurrency) for each in (one, file)]
    (_, idle), (said, weight) = (weigh_words(name, words, cores()[1]) for words in commands)
    if why := said.get("failed"):
        raise Unusable(f"{said['version']}, does not run: {why[:200]}")
    right = weight.right if name != "batchrunner" else answered(file)
    version = said.get("version", __version__ if name == "batchrunner" else "")
    return [version, rows / weight.seconds, (weight.cpu - idle.cpu) / rows * 1e6, weight.peak, right]


SCENARIOS: dict[str, Callable[[Plan], Table]] = {
    "rivals": rivals,
    "overhead": overhead,
    "rooms": rooms,
    "start": start,
    "streams": streams,
    "workers": workers,
    "flight": flight,
    "journal": lambda plan: journal(plan.rows or 100_000),
    "memory": memory,
    "resume": resume,
    "size": size,
    "learning": lambda plan: learning(plan.points),
}


def measure(names: list[str], plan: Plan, keep: Path | None) -> None:
    """Run scenarios, print their tables, and keep the figures as JSON when asked."""
    tables = {}
    for name in names:
        tables[name] = SCENARIOS[name](plan)
        print(tables[name].markdown() if plan.markdown else tables[name], flush=True)
    if keep:
        keep.write_text(json.dumps(to_builtins(tables), indent=2) + "\n")
