"""The kill test: kill the real command again and again, then look whether anything is missing.

    endpoint (this process) ◄── python -m batchrunner (killed) ──► results, errors ──► Job.look, Job.verdict

Rules:

1. The command is the real one, against a flaky endpoint in another process; nothing is stubbed. So that kills also hit
   checkpoints and those who read for a resume, some rounds save them every 20 ms in place of every 10 s, and take every input
   for one that is worth a process of its own; that is the only thing they change.
2. Between two rounds the files are looked at as a user would find them, and then ill-treated: the checkpoint is deleted,
   spoiled or an old one put back, half a line is added to an output.
3. What was seen whole in a file once must be there at the end, in its place. At the end each line has exactly one record.
4. A seed repeats the job and the choices; the moments of the kills depend on the machine as well.
5. With workers any of the processes is killed, the run more often than they; when it is, they must end by themselves.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, TypeVar

from batchrunner.simulator import Profile, Simulator
from tests.processes import children_of, outlives

ROOT = Path(__file__).parent.parent
S = TypeVar("S")

FAULTS = {
    "throttle.ms": 0.02,
    "throttle.bare": 0.005,
    "error": 0.03,
    "hang": 0.005,
    "stall": 0.005,
    "cut": 0.03,
    "odd": 0.02,
    "reset": 0.02,
    "slow": 0.01,
    "drip.some": 0.01,
    "drip.endless": 0.005,
}
SHORT = ("-c", "16", "--first-byte-timeout", "1s", "--idle-timeout", "1s", "--timeout", "2s", "--min-free", "0")
COMMAND = (sys.executable, "-m", "batchrunner")
EAGER = (
    sys.executable,
    "-c",
    "from batchrunner import ahead, cli, filing; filing.CHECKPOINT_EVERY, ahead.WORTH = 0.02, 0; raise SystemExit(cli.main())",
)
ODD = 20  # every so manieth line is no request, has no id, or is refused
GARBAGE = b'{"id":"batch_req_half","custom_id":"r-%d","response":{"status_code":200,"body":{"choi'


class Lost(AssertionError):  # noqa: N818  what it says
    """A promise was broken."""


def promise(kept: bool, what: object) -> None:
    """Raise Lost unless it is kept. No assert: it must hold under -O as well."""
    if not kept:
        raise Lost(what)


@contextmanager
def served(server: AbstractAsyncContextManager[S]) -> Iterator[S]:
    """A server on a loop and in a thread of its own, while the block lasts."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def environment(**more: str) -> dict[str, str]:
    """What the command needs of ours, and nothing that could steer it."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "VIRTUAL_ENV"}}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "dumb", **more}


def chat(number: int, **changes: Any) -> dict[str, Any]:
    """A chat line whose question, and so whose answer, begins with a word of its own."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"word{number}. say it"}], **changes}
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def line(number: int) -> bytes:
    """Line `number` of a job: mostly a good request, some streamed; now and then no request, one without an id, or a bad one."""
    made = chat(number, stream=number % 3 == 0)
    match number % ODD:
        case 7:
            return b'{"custom_id": "r-%d", "body": {' % number
        case 11:
            del made["custom_id"]
        case 13:
            made["body"]["n"] = "many"
    return json.dumps(made).encode()


class Round:
    """One start of the command."""

    def __init__(self, argv: list[str], folder: Path, chance: Random, workers: int = 1) -> None:
        program = EAGER if chance.random() < 0.5 else COMMAND
        self._chance = chance
        self._workers = workers
        self._orphans: list[int] = []
        self._process = subprocess.Popen(
            [*program, *argv], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.code: int | None = None
        self.out = self.err = b""

    def kill(self) -> bool:
        """Let it live for 30-500 ms (with workers 1500), mostly of work. False: it came to its end by itself."""
        if self._chance.random() < 0.75:
            assert self._process.stderr
            self._process.stderr.readline()
        self._wait(self._chance.uniform(0.03, 0.5 if self._workers == 1 else 1.5))  # workers take a while to start
        while self._workers > 1 and self._process.poll() is None and self._chance.random() < 0.7:
            self._kill_a_worker()
            self._wait(self._chance.uniform(0.0, 1.0))
        if self._process.poll() is None:
            self._kill_the_run()
        return self.finish()

    def _kill_a_worker(self) -> None:
        if workers := children_of(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)

    def _kill_the_run(self) -> None:
        if self._chance.random() < 0.2:
            self._process.send_signal(signal.SIGTERM)
            self._wait(self._chance.choice([0.0, 0.05, 0.5]))
        self._orphans = children_of(self._process.pid)
        self._process.kill()

    def finish(self) -> bool:
        """Wait for its end; False: it came to it by itself."""
        self.out, self.err = self._process.communicate(timeout=100)
        self.code = self._process.returncode
        promise(b"Traceback" not in self.err, self.err.decode())
        promise(not any(map(outlives, self._orphans)), f"processes outlive their run: {self._orphans}")
        return b"[E407]" in self.err or self.code in {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


class Job:
    """One job and all that was seen of it."""

    def __init__(self, folder: Path, lines: int, url: str, chance: Random, workers: int = 1) -> None:
        self.folder = folder
        self.input = folder / "job.jsonl"
        self.results, self.errors = folder / "job.results.jsonl", folder / "job.errors.jsonl"
        self.run = folder / "job.run"
        self._chance = chance
        self._lines = lines
        self._workers = workers
        self._options = ["job.jsonl", "--base-url", url, "--json", "--workers", str(workers), *SHORT]
        self._seen = b""  # the whole lines of the results
        self._failed: set[str] = set()  # ids whose error was seen
        self._garbage: list[bytes] = []
        self._old = b""  # a checkpoint of before
        self.input.write_bytes(b"\n".join(line(number) for number in range(lines)) + b"\n")

    def start(self, *verb: str, **typed: str) -> Round:
        """The command once more; `max_attempts="1"` makes many lines fail that a retry can mend."""
        options = [part for name, value in typed.items() for part in (f"--{name.replace('_', '-')}", value)]
        return Round([*verb, *self._options, *options], self.folder, self._chance, self._workers)

    @property
    def done(self) -> int:
        """Lines that had a record when last looked at."""
        return self._seen.count(b"\n") + len(self._failed)

    def look(self) -> None:
        """Nothing that was whole has changed. Errors may leave their file, when the line has a result."""
        whole = _whole(self.results)
        promise(whole.startswith(self._seen), "results that were whole have changed")
        self._seen = whole
        failed = {_id(raw) for raw in _whole(self.errors).splitlines()}
        mended = {_id(raw) for raw in whole.splitlines()}
        gone = self._failed - failed - mended
        promise(not gone, f"errors are gone and no result has come: {sorted(gone)[:5]}")
        self._failed = failed - mended

    def spoil(self) -> None:
        """Ill-treat the files as crashes, editors and sync tools do."""
        checkpoint = self.run / "checkpoint"
        whole = checkpoint.read_bytes() if checkpoint.exists() else b""
        match self._chance.randrange(8):
            case 0:
                checkpoint.unlink(missing_ok=True)
            case 1 if whole:
                checkpoint.write_bytes(whole[: self._chance.randrange(len(whole))])
            case 2 if self._old:
                checkpoint.write_bytes(self._old)
            case 3 | 4 if self.run.exists():
                self._add_half_a_line()
        self._old = whole or self._old

    def _add_half_a_line(self) -> None:
        path = self._chance.choice([self.results, self.errors])
        half = GARBAGE % self._chance.randrange(self._lines)
        half = half[: self._chance.randrange(1, len(half))]
        if path.exists():
            with path.open("ab") as file:
                file.write(half)
            self._garbage.append(half)

    def verdict(self, last: Round) -> None:
        """P2, P3 and R12 hold after a round that came to its end by itself."""
        self.look()
        promise(last.code in (0, 1), f"exit code {last.code}: {last.err.decode()}")
        good = [json.loads(raw) for raw in self.results.read_bytes().splitlines()]
        bad = [json.loads(raw) for raw in self.errors.read_bytes().splitlines()]
        twice = [name for name, times in Counter(each["batchrunner"]["line"] for each in good + bad).items() if times > 1]
        promise(not twice, f"lines with several records: {twice[:5]}")
        missing = set(range(1, self._lines + 1)) - {each["batchrunner"]["line"] for each in good + bad}
        promise(not missing, f"lines without a record: {sorted(missing)[:5]}")
        for each in good:
            _answered(each)
        self._kept()
        self._counted(json.loads(last.out), len(good), len(bad))

    def _kept(self) -> None:
        """Every byte that a repair took away is in `torn`."""
        torn = [path.read_bytes() for path in (self.run / "torn").iterdir()] if self._garbage else []
        for half in self._garbage:
            promise(any(half in kept for kept in torn), f"cut and not kept: {half!r}")

    def _counted(self, summary: dict[str, Any], good: int, bad: int) -> None:
        promise(json.loads((self.run / "summary.json").read_bytes()) == summary, "summary.json is not what stdout said")
        counts = {name: summary[name] for name in ("total", "succeeded", "pending", "stopped")}
        promise(counts == {"total": self._lines, "succeeded": good, "pending": 0, "stopped": None}, counts)
        promise(summary["failed"] + summary["invalid"] == bad, f"{bad} errors, but {summary}")


def _whole(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _id(raw: bytes) -> str:
    return str(json.loads(raw)["custom_id"])


def _answered(record: dict[str, Any]) -> None:
    """The record is the good and whole answer to the question of its line."""
    number = record["batchrunner"]["line"] - 1
    [choice] = record["response"]["body"]["choices"]
    promise(choice["message"]["content"].startswith(f"word{number}. say it"), f"not the answer to line {number + 1}: {record}")
    promise(choice["finish_reason"] in ("stop", "length"), f"not a whole answer: {record}")
    promise(number % ODD == 11 or record["custom_id"] == f"r-{number}", f"not the id of line {number + 1}: {record}")


class Campaign:
    """So many kills, over as many jobs as that takes."""

    def __init__(self, rounds: int, seed: int, lines: int, workers: int = 1) -> None:
        self.kills = self.jobs = 0
        self._rounds, self._seed, self._lines, self._workers = rounds, seed, lines, workers

    def fight(self) -> None:
        """Kill until the rounds are over. Lost, and a word about where to look, when a promise was broken."""
        faults = Profile(seed=self._seed, median=0.04, sigma=0.6, wait=0.1, keep_alive=1.0, faults=FAULTS)
        with served(Simulator(faults)) as simulator:
            while self.kills < self._rounds:
                folder = Path(tempfile.mkdtemp(prefix=f"crash-{self._seed}-"))
                try:
                    self._play(Job(folder, self._lines, simulator.url, Random(f"{self._seed}-{self.jobs}"), self._workers))
                except BaseException:
                    print(f"broken after {self.kills} kills, --seed {self._seed}; look into {folder}", file=sys.stderr)
                    raise
                shutil.rmtree(folder)
                self.jobs += 1

    def _play(self, job: Job) -> None:
        """A run in which one attempt must do, a retry of what failed, and a run that has nothing to do."""
        self._until_the_end(job, max_attempts="1")
        self._until_the_end(job, "retry")
        self._until_the_end(job)

    def _stopped(self, round_: Round) -> bool:
        """Whether a round did not come to its end by itself: no longer a question when there were kills enough."""
        return round_.kill() if self.kills < self._rounds else round_.finish()

    def _until_the_end(self, job: Job, *verb: str, **typed: str) -> None:
        """The same command, killed again and again until it came to its end by itself."""
        while self._stopped(last := job.start(*verb, **typed)):
            self.kills += 1
            job.look()
            job.spoil()
            if self.kills % 10 == 0:
                print(
                    f"{self.kills:>5} kills  job {self.jobs + 1}  {''.join(verb) or 'run':<6} {job.done:>5} lines done",
                    flush=True,
                )
        job.verdict(last)


def main() -> None:
    """`scripts/crash [--rounds 200] [--seed N] [--lines 600] [--workers N]`."""
    parser = argparse.ArgumentParser(prog="scripts/crash", description="Kill the command at random and look for losses.")
    parser.add_argument("--rounds", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=600, help="of each job")
    parser.add_argument("--workers", type=int, default=1, help="processes of each run, any of which is killed")
    given = parser.parse_args()
    campaign = Campaign(given.rounds, given.seed, given.lines, given.workers)
    campaign.fight()
    print(f"{campaign.kills} kills over {campaign.jobs} jobs: nothing lost, nothing twice")


if __name__ == "__main__":
    main()
