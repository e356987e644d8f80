"""The figures of a run as Prometheus text.

Rules:

1. Rendered from our own counters when somebody asks; nothing is counted twice. Names and meanings stand in one table.
2. Labels are of few values: endpoint, model, kind, phase. Never an id.
3. Counters and histograms are of this run, from its beginning. `le` is a bound of ours; a histogram's sum is that of the
   middles of 5 % buckets, and at high rates one answer in it stands for several (`core.tally`).
4. What is said together agrees: it is all of now, but for lag and memory of the process, which may be some seconds old.

Source: Prometheus text exposition format 0.0.4.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from batchrunner.core.buckets import Buckets, merged, middle
from batchrunner.core.model import Kind
from batchrunner.core.trail import Moment
from batchrunner.meter import Snapshot

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "build_info": ("gauge", "1, with the version of batchrunner"),
    "requests_total": ("counter", "Requests that this run has brought to an end, by outcome"),
    "failures": ("gauge", "Requests of the job that failed for good, by kind"),
    "attempts_total": ("counter", "Attempts, by what they amounted to"),
    "endpoint_attempts_total": ("counter", "Attempts at each endpoint, by outcome"),
    "retries_total": ("counter", "Attempts that were not the first of their request"),
    "maybe_billed_total": ("counter", "Attempts without an answer that may be on the bill"),
    "request_seconds": ("histogram", "Seconds of good answers, by endpoint and phase"),
    "tokens_total": ("counter", "Tokens as the providers counted them"),
    "cost_dollars_total": ("counter", "What this run has cost, where prices are known"),
    "lines": ("gauge", "Lines of the input, by how they stand"),
    "inflight": ("gauge", "Attempts in flight at each endpoint"),
    "limit": ("gauge", "Attempts that may be in flight at each endpoint"),
    "pace": ("gauge", "Requests that may go to each endpoint each second, told or found out; not there where any number may"),
    "timeout_seconds": ("gauge", "Deadlines in force, by endpoint and phase"),
    "endpoint_up": ("gauge", "1 while an endpoint is in use, 0 while it pauses, rests or is stopped"),
    "retrying": ("gauge", "Requests that wait to be sent again"),
    "oldest_seconds": ("gauge", "Age of the oldest request in flight"),
    "rate": ("gauge", "Requests brought to an end each second, over the last minute"),
    "eta_seconds": ("gauge", "Seconds until the job is done, at this rate"),
    "paused": ("gauge", "1 while the user has paused the run"),
    "loop_lag_seconds": ("gauge", "The longest time this process was late, lately"),
    "resident_bytes": ("gauge", "Memory of this process"),
}
"""Name without its prefix to type and help."""

Sample = tuple[str, Mapping[str, str], float]
"""Suffix of the name, labels, value."""


def exposition(snapshot: Snapshot, moments: Sequence[Moment], version: str, paused: bool = False) -> str:
    """Everything, as text that Prometheus reads. The last of the moments is that of the snapshot."""
    samples = _counters(snapshot) | _gauges(snapshot, paused, version) | _of_moments(moments)
    return "".join(_family(name, samples[name]) for name in NAMES if samples.get(name))


def _counters(snapshot: Snapshot) -> dict[str, list[Sample]]:
    """What has been counted up to now."""
    failed = {kind.value: count for kind, count in snapshot.failures.items()}
    fresh, good = snapshot.done - snapshot.resumed, snapshot.kinds.get(Kind.OK, 0)
    return {
        "requests_total": [("", {"outcome": "succeeded"}, good), ("", {"outcome": "failed"}, max(0, fresh - good))],
        "failures": [("", {"kind": kind}, count) for kind, count in failed.items()],
        "attempts_total": [("", {"kind": kind.value}, count) for kind, count in snapshot.kinds.items()],
        "retries_total": [("", {}, snapshot.retries)],
        "maybe_billed_total": [("", {}, snapshot.maybe_billed)],
        "cost_dollars_total": [] if snapshot.gauges.cost is None else [("", {}, snapshot.gauges.cost)],
    }


def _gauges(snapshot: Snapshot, paused: bool, version: str) -> dict[str, list[Sample]]:
    """What is so now."""
    states = {
        "succeeded": snapshot.succeeded,
        "failed": snapshot.failed,
        "invalid": snapshot.invalid,
        "pending": snapshot.pending,
    }
    return {
        "build_info": [("", {"version": version}, 1)],
        "lines": [("", {"state": state}, count) for state, count in states.items()],
        "retrying": [("", {}, snapshot.gauges.retrying)],
        "rate": [("", {}, snapshot.rate)],
        "eta_seconds": [] if snapshot.eta is None else [("", {}, snapshot.eta)],
        "paused": [("", {}, int(paused))],
    }


def _of_moments(moments: Sequence[Moment]) -> dict[str, list[Sample]]:
    """What the trail knows of endpoints, phases, models and the process itself."""
    if not moments:
        return {}
    last = moments[-1]
    lanes = [({"endpoint": lane.name}, lane) for lane in last.lanes]
    return {
        "endpoint_attempts_total": [
            sample
            for label, lane in lanes
            for sample in (
                ("", {**label, "outcome": "good"}, float(lane.succeeded)),
                ("", {**label, "outcome": "failed"}, float(lane.attempts - lane.succeeded)),
            )
        ],
        "request_seconds": list(_histograms(moments)),
        "tokens_total": [
            ("", {"endpoint": spend.endpoint, "model": spend.model, "direction": direction}, float(count))
            for spend in last.spend
            for direction, count in (("input", spend.input), ("output", spend.output))
        ],
        "inflight": [("", label, lane.in_flight) for label, lane in lanes],
        "limit": [("", label, lane.limit) for label, lane in lanes],
        "pace": [("", label, lane.rate) for label, lane in lanes if lane.rate],
        "timeout_seconds": [
            ("", {**label, "phase": phase}, seconds)
            for label, lane in lanes
            for phase, seconds in (("total", lane.deadline), ("first_byte", lane.first_byte_deadline))
            if seconds
        ],
        "endpoint_up": [("", label, int(lane.state == "up")) for label, lane in lanes],
        "oldest_seconds": [("", {}, last.oldest)],
        "loop_lag_seconds": [("", {}, last.us.lag)],
        "resident_bytes": [("", {}, last.us.rss)] if last.us.rss else [],
    }


def _histograms(moments: Sequence[Moment]) -> Iterable[Sample]:
    tables: dict[tuple[str, str], list[Buckets]] = {}
    for lane in (lane for moment in moments for lane in moment.lanes):
        for phase, table in lane.phases.items():
            tables.setdefault((lane.name, phase), []).append(table)
    for (endpoint, phase), parts in tables.items():
        yield from _histogram({"endpoint": endpoint, "phase": phase}, merged(parts))


def _histogram(labels: Mapping[str, str], table: Buckets) -> Iterable[Sample]:
    counts = [0] * (len(BOUNDS) + 1)
    for number, count in table.items():
        counts[bisect_left(BOUNDS, middle(number))] += count
    seen = 0
    for bound, count in zip((*BOUNDS, float("inf")), counts, strict=True):
        seen += count
        yield "_bucket", {**labels, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}, seen
    yield "_count", labels, seen
    yield "_sum", labels, sum(middle(number) * count for number, count in table.items())


def _family(name: str, samples: Iterable[Sample]) -> str:
    kind, said = NAMES[name]
    full = f"batchrunner_{name}"
    lines = [f"# HELP {full} {said}", f"# TYPE {full} {kind}"]
    lines += [f"{full}{suffix}{_labelled(labels)} {value:.10g}" for suffix, labels, value in samples]
    return "\n".join(lines) + "\n"


def _labelled(labels: Mapping[str, str]) -> str:
    """`{a="b"}`, with backslash, quote and line feed escaped as the format wants it."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").encode("utf-8", "replace").decode()
