"""`scripts/bench [--rows N] [--concurrency N] [--contenders a,b] [--points a,b] [--markdown] [--json FILE] [scenario ...]`."""

import argparse
from pathlib import Path

from tests.bench.points import POINTS
from tests.bench.scenarios import SCENARIOS, measure
from tests.bench.stage import Plan

parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the engine beside bare and naive aiohttp loops.")
parser.add_argument(
    "scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all but learning and rivals by default"
)
parser.add_argument("--rivals", action="store_true", help="the rivals scenario: installs them, each in an environment of its own")
parser.add_argument("--rows", type=int, default=0, help="lines of the job instead of the scenario's own number")
parser.add_argument("--concurrency", type=int, default=128)
parser.add_argument(
    "--contenders", default=",".join(Plan().contenders), help="of the overhead scenario; `wire` is our transport alone"
)
parser.add_argument("--points", default="", help=f"of the learning scenario, from {', '.join(POINTS)}; all by default")
parser.add_argument("--latency", type=float, default=Plan().latency, help="seconds to an answer in the flight scenario")
parser.add_argument("--markdown", action="store_true", help="tables for a README")
parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
given = parser.parse_args()
if unknown := set(given.scenarios) - set(SCENARIOS):
    parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
points = tuple(filter(None, given.points.split(",")))
if unknown := set(points) - set(POINTS):
    parser.error(f"no such point: {', '.join(sorted(unknown))}")
plan = Plan(given.rows, given.concurrency, tuple(given.contenders.split(",")), points, given.latency, given.markdown)
chosen = given.scenarios + ["rivals"] * given.rivals
measure(chosen or [name for name in SCENARIOS if name not in {"learning", "rivals"}], plan, given.json)
