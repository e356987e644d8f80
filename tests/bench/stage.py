"""The stage of a scenario: what the user asked for, the endpoint, a job, a contender's turn.

Rules:

1. The endpoint and the contender have a core each where there are two, unless a scenario is about cores.
2. Each turn has a file of its own, made anew; every answer is checked.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from tests.bench.contenders import Weight, start_pinned, weigh

FILLER = "lorem ipsum dolor sit amet "


class Plan(Struct):
    """What the user asked for; `rows` 0 stands for each scenario's own size."""

    rows: int = 0
    concurrency: int = 128
    contenders: tuple[str, ...] = ("bare", "naive", "batchrunner")
    points: tuple[str, ...] = ()  # of the learning scenario
    latency: float = 5.0  # of the flight scenario, in seconds
    markdown: bool = False


def cores() -> tuple[int | None, int | None]:
    """One core for the server, another for the client; None where there is no choice."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


@contextmanager
def endpoint(pause: float = 0.0) -> Iterator[str]:
    """The raw server on a core of its own; its base URL. `pause` as the server has it."""
    with serving(pause, cores()[0]) as (url, _):
        yield url


@contextmanager
def serving(pause: float, core: int | None) -> Iterator[tuple[str, int]]:
    """The raw server in its own process: its base URL and its pid."""
    server = start_pinned([sys.executable, "-m", "tests.bench.server", str(pause)], core, subprocess.PIPE)
    assert server.stdin
    assert server.stdout
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1", server.pid
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()


def line(number: int) -> bytes:
    """One request line of about 1 KB."""
    name = f"r-{number:09d}"
    said = f"Question {number}: " + FILLER * 31
    body = {"model": "bench", "user": name, "messages": [{"role": "user", "content": said}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()


@contextmanager
def job(rows: int) -> Iterator[Path]:
    """A fresh input file in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        file = folder / "input.jsonl"
        with file.open("wb") as out:
            out.writelines(line(number) + b"\n" for number in range(rows))
        yield file
    finally:
        shutil.rmtree(folder)


def checked(name: str, url: str, file: Path, rows: int, plan: Plan) -> Weight:
    """One contender over a file; RuntimeError unless every answer is right."""
    weight = weigh(name, url, file, plan.concurrency, cores()[1])
    if weight.right != rows:
        raise RuntimeError(f"{name}: {weight.right} right answers to {rows} questions")
    return weight


def run(name: str, url: str, rows: int, plan: Plan) -> Weight:
    """The same over a fresh file."""
    with job(rows) as file:
        return checked(name, url, file, rows, plan)
