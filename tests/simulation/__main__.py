"""`python -m tests.simulation [SCENARIO ...] [--seeds N] [--rows N]`: the figures of the proof points on virtual time.

One line per figure: worst of the seeds, its bound, and each seed. Exit code 1 when a bound is not kept.
"""

import argparse
import time

from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import run


def show(name: str, seeds: int, rows: int) -> bool:
    scenario = SCENARIOS[name]
    began = time.perf_counter()
    runs = [run(scenario.stage(rows or scenario.rows, seed), seed) for seed in range(1, seeds + 1)]
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Proof points on virtual time.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="instead of the scenario's own number")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    held = [show(name, given.seeds, given.rows) for name in given.scenarios or SCENARIOS]
    return int(not all(held))


if __name__ == "__main__":
    raise SystemExit(main())
