"""The scenario of the workers: what more processes bring on the cores of this machine, and what any way to share could bring.

Rules:

1. Nobody is pinned: the server takes its part of the same cores. Its cost, and what the cores idled, stand beside the rates.
2. The limit is measured, not reckoned: as many runs as there are cores, at the same time, that share nothing, each with its
   part of the lines and of the concurrency. No way to divide one job brings more.
3. A ratio is to the one process of the same round, for the machine's speed changes between rounds: their median, the least
   and the most. Every other round goes the other way round, for it changes within one as well. A rate counts from start to
   end, and in it what it takes the workers to start.
"""

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from msgspec import Struct

from tests.bench.contenders import answered, command, cpu_of, weigh_words
from tests.bench.stage import Plan, job, serving
from tests.bench.table import Table

ROUNDS = 8
ROWS = 200_000
COLUMNS = ["", "ratio", "least", "most", "req/s", "run µs/row", "workers", "server", "idle %"]


class Team(Struct, frozen=True):
    """Who does a job: so many runs at once, of so many workers each."""

    runs: int
    workers: int


class Spent(Struct, frozen=True):
    """The seconds of a job, and its CPU seconds by who spent them."""

    seconds: float
    run: float
    workers: float
    server: float


ALONE = Team(1, 1)


def workers(plan: Plan) -> Table:
    """No latency: one process, two, four where there are cores for them, and runs that share nothing."""
    rows, cores = plan.rows or ROWS, len(os.sched_getaffinity(0))
    teams = {"1 worker, the run itself": ALONE, "2 workers, the run and another": Team(1, 2)}
    if cores > 3:
        teams["4 workers, the run and others"] = Team(1, 4)
    teams[f"{cores} runs that share nothing"] = Team(cores, 1)
    with serving(0.0, None) as (url, server):
        begun = {team: _spent(team, url, server, team.runs, plan) for team in teams.values()}
        there = list(begun)
        ways = [there, there[::-1]] * (ROUNDS // 2)
        rounds = [{team: _spent(team, url, server, rows, plan) for team in way} for way in ways]
    table: list[list[str | float]] = []
    for name, team in teams.items():
        ratios = [each[ALONE].seconds / each[team].seconds for each in rounds]
        costs = zip(*(_costs(each[team], begun[team], rows, cores) for each in rounds), strict=True)
        table.append([name, statistics.median(ratios), min(ratios), max(ratios), *map(statistics.median, costs)])
    title = f"workers: {rows:,} rows of 1 KB, no latency, concurrency {plan.concurrency}, median of {ROUNDS} rounds"
    return Table(title, COLUMNS, table)


def _costs(job: Spent, begun: Spent, rows: int, cores: int) -> list[float]:
    """Rows a second; microseconds of CPU for each row, without what it takes to start; per cent of the cores that idled."""
    each = [(job.run - begun.run) / rows, (job.workers - begun.workers) / rows, job.server / rows]
    return [rows / job.seconds, *(cpu * 1e6 for cpu in each), 100 - 100 * sum(each) * rows / job.seconds / cores]


def _spent(team: Team, url: str, server: int, rows: int, plan: Plan) -> Spent:
    """One job over fresh files; RuntimeError unless every answer is right."""
    part, before = rows // team.runs, cpu_of(server)[0]
    with ExitStack() as stack, ThreadPoolExecutor(team.runs) as threads:
        files = [stack.enter_context(job(part)) for _ in range(team.runs)]
        names = [f"batchrunner --workers {team.workers}"] * team.runs
        words = [command(names[0], url, file, plan.concurrency // team.runs) for file in files]
        weights = [weight for _, weight in threads.map(weigh_words, names, words, [None] * team.runs)]
        served = cpu_of(server)[0] - before
        if (right := sum(map(answered, files))) != part * team.runs:
            raise RuntimeError(f"{names[0]}: {right} right answers to {part * team.runs} questions")
    theirs = sum(weight.theirs for weight in weights)
    return Spent(max(weight.seconds for weight in weights), sum(weight.cpu for weight in weights) - theirs, theirs, served)
