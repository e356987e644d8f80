"""`python -m tests.simulation [SCENARIO ...] [--seeds N] [--rows N] [--set OPTION=VALUE] [--contenders [--brief]] [--markdown]`.

The figures of the proof points on virtual time. One line per figure: worst of the seeds, its bound, and each seed; exit
code 1 when a bound is not kept. With `--contenders` tables of the defaults beside fixed timeouts and fixed concurrency; with
`--brief` one table of them all, which is the README's: the makespan as a multiple of the ideal, and what was lost or killed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from statistics import fmean

from tests.bench.table import Table
from tests.simulation.scenarios import CONTENDERS, SCENARIOS
from tests.simulation.world import Run, run

COLUMNS: Mapping[str, Callable[[Run], float]] = {
    "seconds": lambda run: run.makespan,
    "× ideal": lambda run: run.slower,
    "lost": lambda run: run.lost,
    "false kills %": lambda run: 100 * run.wronged,
    "429s %": lambda run: 100 * run.throttled(0.0),
    "extra sent %": lambda run: 100 * run.extra,
    "p50 s": lambda run: run.latency(0.5),
}


TOLD = ["hangs", "sizes", "slowdown", "tenth", "rate-window", "outage", "hole", "plateau", "overload", "two", "fixed"]
"""The scenarios of the README's table, in its order."""


def runs_of(name: str, given: argparse.Namespace, options: Mapping[str, int | str]) -> list[Run]:
    scenario = SCENARIOS[name]
    return [run(scenario.stage(given.rows or scenario.rows, seed), seed, options) for seed in range(1, given.seeds + 1)]


def show(name: str, given: argparse.Namespace) -> bool:
    scenario = SCENARIOS[name]
    began = time.perf_counter()
    runs = runs_of(name, given, dict(told.split("=", 1) for told in given.set))
    seeds = len(runs)
    spent = time.perf_counter() - began
    print(f"{name}: {scenario.about}; {runs[0].rows:,} rows, {seeds} seeds, {spent / seeds:.1f} s each")
    good = True
    for check in scenario.checks:
        values = [check.measure(each) for each in runs]
        worst = min(values) if check.least else max(values)
        held = check.holds(worst)
        good &= held
        told = " ".join(f"{value:.4g}" for value in values)
        bound = f"{'≥' if check.least else '≤'} {check.bound:g}"
        print(f"  {'ok  ' if held else 'FAIL'} {check.name:<42}{worst:>9.4g}  {bound:<8} [{told}]")
    first = runs[0]
    print(
        f"       seed 1: {first.makespan:.1f} s, ideal {first.stage.ideal:.1f} s; {len(first.sent)} sendings, "
        f"{len(first.those('killed'))} hung and {len(first.those('wronged'))} good ones killed, "
        f"{sum(sent.status == 429 for sent in first.sent)} × 429, p50 {first.latency(0.5):.2f} s"
    )
    return good


def compare(name: str, given: argparse.Namespace) -> Table:
    """A scenario under each contender: means over the seeds."""
    rows: list[list[str | float]] = []
    for contender, options in CONTENDERS.items():
        runs = runs_of(name, given, options)
        rows.append([f"{name}, {contender}", *(fmean(map(measure, runs)) for measure in COLUMNS.values())])
    return Table(f"{name}: {SCENARIOS[name].about}", ["", *COLUMNS], rows)


def brief(names: list[str], given: argparse.Namespace) -> Table:
    """Every scenario in a line, under all contenders."""
    rows: list[list[str | float]] = []
    for name in names:
        told = [verdict(runs_of(name, given, options)) for options in CONTENDERS.values()]
        rows.append([SCENARIOS[name].about, *told])
        print(rows[-1], file=sys.stderr, flush=True)
    return Table("time as a multiple of the ideal", ["", *CONTENDERS], rows)


def verdict(runs: list[Run]) -> str:
    """Means over the seeds. Lines that were lost and good attempts that were killed are told from 0.5 % of the lines on."""
    lost, wronged = (100 * fmean(values) for values in ([run.lost / run.rows for run in runs], [run.wronged for run in runs]))
    parts = [f"{fmean(run.slower for run in runs):.2f}", f"{lost:.0f} % lost", f"{wronged:.0f} % killed in vain"]
    return ", ".join(part for part, share in zip(parts, (100.0, lost, wronged), strict=True) if share >= 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Proof points on virtual time.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="instead of the scenario's own number")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of batchrunner's own")
    parser.add_argument("--contenders", action="store_true", help="tables beside fixed timeouts and fixed concurrency")
    parser.add_argument("--brief", action="store_true", help="one table of all of them")
    parser.add_argument("--markdown", action="store_true", help="those tables in Markdown")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    names = given.scenarios or (TOLD if given.brief else list(SCENARIOS))
    if given.brief:
        table = brief(names, given)
        print(table.markdown() if given.markdown else table)
        return 0
    if given.contenders:
        for name in names:
            table = compare(name, given)
            print(table.markdown() if given.markdown else table, flush=True)
        return 0
    return int(not all([show(name, given) for name in names]))  # noqa: C419 - every one is shown


if __name__ == "__main__":
    raise SystemExit(main())
