"""A run under way in a few words: the line beside the bar, two or three lines below it, a log line, a block.

Rules:

1. Pure functions from a snapshot to text; whoever draws decides where it goes.
2. The weightiest comes first, for a narrow screen has no room for the last. A count that is zero says nothing and is left out.
3. The time left is said with ~ while it is hardly more than a guess, and not at all where there is nothing to go by.
"""

from collections.abc import Mapping
from math import inf

import msgspec

from batchrunner.core.wording import amount, clock, money, number, plural, rate, seconds, visible
from batchrunner.meter import Lane, Snapshot
from batchrunner.report.layout import fit

SETTLED = 30.0  # seconds, and as many results, before the rate of a run tells how long it will take
MARGIN = "  "
OLD = 10.0  # seconds from which on the age of the oldest request is of interest


def pace(snapshot: Snapshot) -> str:
    """`05:34<12:24  46.4 req/s`: spent, left, and how fast."""
    return "  ".join(_pace(snapshot))


def beside(snapshot: Snapshot, width: float = inf) -> str:
    """What stands beside the bar: how many are done, spent and left, and how fast, as far as there is room."""
    return fit([counted(snapshot), *_pace(snapshot)], width)


def _pace(snapshot: Snapshot) -> list[str]:
    if snapshot.gauges.paused:
        return [f"{clock(snapshot.seconds)}<paused"]
    guess = "~" if snapshot.seconds < SETTLED or snapshot.done - snapshot.resumed < SETTLED else ""
    left = "?" if snapshot.eta is None else f"{guess}{clock(snapshot.eta)}"
    return [f"{clock(snapshot.seconds)}<{left}", rate(snapshot.rate)]


def counted(snapshot: Snapshot) -> str:
    """`15,491/50,000`."""
    return f"{number(snapshot.done)}/{'?' if snapshot.total is None else number(snapshot.total)}"


def lines(snapshot: Snapshot, width: float = inf) -> tuple[str, ...]:
    """What is going on; how long it takes and what it costs; and where there are several endpoints, each of them."""
    room = width - len(MARGIN)
    gauges = snapshot.gauges
    flight = f"in flight {gauges.in_flight}/{gauges.limit}" if gauges.limit else f"in flight {gauges.in_flight}"
    oldest = f"oldest {seconds(gauges.oldest)}" if gauges.oldest >= OLD else ""
    counts = {
        "retrying": gauges.retrying,
        "429": snapshot.rate_limited,
        "timeouts": snapshot.timeouts,
        "cut": snapshot.truncated,
    }
    failed = f"failed {number(snapshot.failed + snapshot.invalid)}"
    first = [flight, failed, *(f"{name} {number(count)}" for name, count in counts.items() if count), oldest]
    times = (("p50", snapshot.p50), ("p95", snapshot.p95), ("timeout", gauges.timeout))
    second = [
        fit((f"{name} {seconds(value)}" for name, value in times if value), room),
        f"{amount(snapshot.token_rate)} tok/s" if snapshot.token_rate else "",
        _cost(snapshot),
    ]
    lanes = [_lane(lane, gauges.timeouts) for lane in snapshot.lanes] if len(snapshot.lanes) > 1 else []
    said = (fit(first, room), fit(second, room, "   "), *([fit(lanes, room, " · ")] if lanes else []))
    return tuple(f"{MARGIN}{line}" for line in said)


def block(snapshot: Snapshot) -> str:
    """The same figures for who asks in between, with a line for each endpoint."""
    lanes = [f"  {_lane(lane, snapshot.gauges.timeouts)}  {plural(lane.attempts, 'attempt')}" for lane in snapshot.lanes]
    return "\n".join([f"{counted(snapshot)} done  {pace(snapshot)}", *lines(snapshot)[:2], *lanes])


def _lane(lane: Lane, timeouts: Mapping[str, float]) -> str:
    """`A 3.9/8.9 s ≤ 26 s`: p50, p95, and the timeout in force."""
    allowed = timeouts.get(lane.name, 0.0)
    low, high = seconds(lane.p50), seconds(lane.p95)
    shared = low.removesuffix(high[high.rfind(" ") :])
    spread = f"{shared}/{high}" if lane.p50 else "no answer yet"
    return f"{visible(lane.name)} {spread}{f' ≤ {seconds(allowed)}' if allowed else ''}"


def _cost(snapshot: Snapshot) -> str:
    """What it costs so far and is expected to cost; nothing while that is not known."""
    cost, whole = snapshot.gauges.cost, snapshot.cost_expected
    return "" if cost is None else f"{money(cost)} of ≈ {money(whole).removeprefix('$ ')}" if whole else money(cost)


# ---- for logs ----


def figures(snapshot: Snapshot) -> dict[str, float | int | None]:
    """What a log line holds, in the order in which it does. Times are seconds; None is not known."""
    gauges = snapshot.gauges
    return {
        "done": snapshot.done,
        "total": snapshot.total,
        "pct": round(100 * snapshot.done / snapshot.total, 1) if snapshot.total else None,
        "rate": round(snapshot.rate, 1),
        "eta": None if snapshot.eta is None else round(snapshot.eta, 1),
        "inflight": gauges.in_flight,
        "failed": snapshot.failed + snapshot.invalid,
        "retrying": gauges.retrying,
        "r429": snapshot.rate_limited,
        "timeouts": snapshot.timeouts,
        "truncated": snapshot.truncated,
        "p50": round(snapshot.p50, 2) or None,
        "p95": round(snapshot.p95, 2) or None,
        "timeout": round(gauges.timeout, 1) or None,
        "oldest": round(gauges.oldest, 1),
        "tok_s": round(snapshot.token_rate),
        "cost": None if gauges.cost is None else float(f"{gauges.cost:.4g}"),
        "cost_expected": None if snapshot.cost_expected is None else float(f"{snapshot.cost_expected:.4g}"),
    }


_WRITTEN = {"rate": "{:.1f}/s", "pct": "{:.1f}", "p50": "{:.2f}s", "p95": "{:.2f}s", "timeout": "{:.1f}s", "oldest": "{:.1f}s"}


def key_values(snapshot: Snapshot) -> str:
    """One line for people who search logs; what is not known is left out."""
    return " ".join(_pair(name, value) for name, value in figures(snapshot).items() if value is not None)


def _pair(name: str, value: float) -> str:
    if name == "eta":
        return f"eta={seconds(value).replace(' ', '')}"
    return f"{name}={_WRITTEN.get(name, '{:.10g}').format(value)}"


def json_line(snapshot: Snapshot, stamp: str) -> str:
    """The same figures as a line of JSON; what is not known is null."""
    return msgspec.json.encode({"time": stamp, "event": "progress", **figures(snapshot)}).decode()


def json_note(line: str, stamp: str) -> str:
    """A line for people as a line of JSON."""
    return msgspec.json.encode({"time": stamp, "event": "note", "message": line}).decode()
