"""The loops the engine is measured against, and how each contender is started and weighed.

    python -m tests.bench.contenders (bare | naive | lines | wire) URL FILE CONCURRENCY      one JSON line: {"seconds", "right"}

Rules:

1. Each contender runs in an interpreter of its own. CPU and peak memory are those of that whole process (`os.wait4`).
2. `bare` is the yardstick: tuned aiohttp, uvloop, no timeouts, nothing written. `naive` is what people write. `wire` is our
   own transport with nothing around it.
3. "seconds" of all begin when the rows are read and end with the last answer; imports do not count. Each checks every
   answer's id. `batchrunner` says its own seconds in its summary, journal and start of the engine included.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
from msgspec import Struct
from yarl import URL

from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Kind, Request, Route
from batchrunner.transport import Connection, Transport
from tests.processes import Children

ROOT = Path(__file__).parents[2]


class Row(Struct):
    """One input line, as far as the loops need it."""

    custom_id: str
    body: msgspec.Raw


class Weight(Struct):
    """What one run took. `seconds` is the contender's own count, `wall` and `cpu` those of its process; `peak` in MB.

    `cpu` holds that of its own processes; `theirs` is their part of it, to 10 ms. `peak` holds them too, each at its own.
    """

    seconds: float
    wall: float
    cpu: float
    peak: float
    right: int
    theirs: float = 0.0


async def bare(url: str, rows: list[Row], concurrency: int) -> int:
    right = 0
    target, headers = URL(url + "/chat/completions"), {"content-type": "application/json", "authorization": "Bearer key"}
    work: Iterator[tuple[bytes, bytes]] = iter([(row.custom_id.encode(), bytes(row.body)) for row in rows])
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    none = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=none) as session:

        async def worker() -> None:
            nonlocal right
            for name, body in work:
                async with session.post(target, data=body, headers=headers) as response:
                    right += name in await response.read()

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return right


async def naive(url: str, rows: list[Row], concurrency: int) -> int:
    semaphore = asyncio.Semaphore(concurrency)
    async with aiohttp.ClientSession(headers={"authorization": "Bearer key"}) as session:

        async def ask(name: str, body: object) -> bool:
            async with semaphore, session.post(url + "/chat/completions", json=body) as response:
                answer = await response.json()
                return name in answer["id"]

        return sum(await asyncio.gather(*(ask(row.custom_id, json.loads(bytes(row.body))) for row in rows)))


async def lines(url: str, rows: list[Row], concurrency: int) -> int:
    """The yardstick for streams: splits lines and finds the last event, which is all that nobody can do without."""
    right = 0
    target, headers = URL(url + "/chat/completions"), {"content-type": "application/json", "authorization": "Bearer key"}
    work = iter([(row.custom_id.encode(), bytes(row.body)[:-1] + b',"stream":true}') for row in rows])
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    none = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=none) as session:

        async def worker() -> None:
            nonlocal right
            for name, body in work:
                rest = last = b""
                async with session.post(target, data=body, headers=headers) as response:
                    async for chunk in response.content.iter_any():
                        *whole, rest = (rest + chunk).split(b"\n")
                        for line in whole:
                            if line.startswith(b"data: {"):
                                last = line
                right += name in last

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return right


async def wire(url: str, rows: list[Row], concurrency: int) -> int:
    """Our own transport and judgement alone: what is left of a run without scheduler, journal and meter."""
    right = 0
    work = iter(
        [
            Request(line=line, id=row.custom_id, digest="", route=Route.CHAT, path="/v1/chat/completions", body=bytes(row.body))
            for line, row in enumerate(rows, 1)
        ]
    )
    async with Transport("bench", url, Connection(), secret={"authorization": "Bearer key"}) as transport:

        async def worker() -> None:
            nonlocal right
            for request in work:
                attempt = Attempt(request, "bench", 1, 0.0, Deadlines(60.0, 60.0, 60.0, 60.0))
                outcome = classify(attempt, await transport.send(attempt, lambda attempt, phase, age: 0.0))
                right += outcome.kind is Kind.OK and request.id.encode() in outcome.body

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return right


LOOPS = {"bare": bare, "naive": naive, "lines": lines, "wire": wire}


def main(name: str, url: str, file: str, concurrency: str) -> None:
    decoder = msgspec.json.Decoder(Row)
    with Path(file).open("rb") as lines:
        rows = [decoder.decode(line) for line in lines]

    async def timed() -> tuple[float, int]:
        start = time.perf_counter()
        right = await LOOPS[name](url, rows, int(concurrency))
        return time.perf_counter() - start, right

    seconds, right = asyncio.run(timed()) if name == "naive" else uvloop.run(timed())
    print(json.dumps({"seconds": seconds, "right": right}))


# --- weighing ---------------------------------------------------------------------------------------------------------


def command(name: str, url: str, file: Path, concurrency: int) -> list[str]:
    """How a contender is started."""
    if name in LOOPS:
        return [sys.executable, "-m", "tests.bench.contenders", name, url, str(file), str(concurrency)]
    options = ["--base-url", url, "--concurrency", str(concurrency), "--display", "none", "--json"]
    _, _, way = name.partition(" ")
    words = {"streams": ["--stream", "on"]}.get(way, way.split())
    return [sys.executable, "-m", "batchrunner", str(file), *options, *words]


def weigh(name: str, url: str, file: Path, concurrency: int, core: int | None) -> Weight:
    """Run a contender on one core and weigh it. RuntimeError when it fails."""
    _, weight = weigh_words(name, command(name, url, file, concurrency), core)
    if name not in LOOPS:
        weight.right = answered(file)
    return weight


def weigh_words(name: str, words: list[str], core: int | None) -> tuple[dict[str, Any], Weight]:
    """The same for any command that says its seconds in a last line of JSON; that line, and the weight."""
    start = time.perf_counter()
    child = start_pinned(words, core)
    assert child.stdout
    with Children(child.pid) as children:
        said = child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    theirs = cpu_of(child.pid)[1]
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if child.returncode != 0:
        raise RuntimeError(f"{name} ended with {child.returncode}: {said.decode()[-500:]}")
    summary = json.loads(said.splitlines()[-1])
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024 + children.peak
    return summary, Weight(summary["seconds"] or 0.0, wall, cpu, peak, summary.get("right", 0), theirs)


def cpu_of(pid: int) -> tuple[float, float]:
    """CPU seconds of a process itself, and of those it has waited for (proc(5)); zeros where there is no such file."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0, 0.0
    own, theirs = (sum(map(int, fields[start : start + 2])) / os.sysconf("SC_CLK_TCK") for start in (11, 13))
    return own, theirs


def answered(file: Path) -> int:
    """How many of the engine's results hold the answer to their own question."""
    with file.with_suffix(".results.jsonl").open("rb") as lines:
        records = map(msgspec.json.decode, lines)
        return sum(record["response"]["body"]["id"].endswith(record["custom_id"]) for record in records)


def start_pinned(words: list[str], core: int | None, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """A process of ours on one core; on any where `core` is None."""

    pin = None if core is None else partial(os.sched_setaffinity, 0, {core})
    return subprocess.Popen(words, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, preexec_fn=pin)


if __name__ == "__main__":
    main(*sys.argv[1:])
