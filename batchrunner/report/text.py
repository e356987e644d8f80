"""Figures as words: the start, the status, the end, a check.

Rules:

1. Pure functions from counts to text. Nothing here prints, reads a clock or opens a file.
2. Whatever came from outside passes `visible`, so that no id, path or server can send the terminal a command.
3. The next command to type is a whole one, quoted for a shell, and says again what the user said.
"""

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from batchrunner.core.model import Kind
from batchrunner.core.trail import Finding
from batchrunner.meter import TIMEOUTS, CheckReport, Report, Snapshot, Summary

WIDTH = 96
CAUSES = 3  # that the end of a run names
RETRIED = 0.05  # share of attempts that were repetitions: beyond, something went wrong although all may have succeeded
WORDS: Mapping[Kind, str] = {
    Kind.OK: "good",
    Kind.RATE_LIMITED: "rate limited",
    Kind.OVERLOADED: "endpoint overloaded",
    Kind.SERVER_ERROR: "server error",
    Kind.GATEWAY: "gateway error",
    Kind.LOADING: "model still loading",
    Kind.CONNECT: "no connection",
    Kind.TLS: "no safe connection",
    Kind.NETWORK: "connection lost",
    Kind.STALE: "connection closed under us",
    Kind.TIMEOUT_CONNECT: "timeout while connecting",
    Kind.TIMEOUT_FIRST_BYTE: "timeout before the first byte",
    Kind.TIMEOUT_IDLE: "timeout inside the answer",
    Kind.TIMEOUT_TOTAL: "timeout",
    Kind.PROTOCOL: "not HTTP",
    Kind.TRUNCATED: "answer cut short",
    Kind.GARBLED: "answer garbled",
    Kind.REJECTED: "request refused",
    Kind.CONTEXT: "prompt too long",
    Kind.POLICY: "content filter",
    Kind.TOO_LARGE: "request too large",
    Kind.UNSUPPORTED: "not supported there",
    Kind.RESPONSE_TOO_LARGE: "answer too large",
    Kind.INVALID: "not a request",
    Kind.INVALID_OUTPUT: "answer failed its check",
    Kind.DENIED: "key refused",
    Kind.QUOTA: "out of money",
    Kind.QUOTA_WINDOW: "quota used up for now",
    Kind.CONFIG: "wrong model, route or address",
    Kind.LOCAL: "fault of this machine",
    Kind.HOOK: "a hook failed",
    Kind.CANCELLED: "cancelled",
}
"""Each kind in plain words."""

HOPELESS = frozenset({Kind.REJECTED, Kind.CONTEXT, Kind.POLICY, Kind.TOO_LARGE, Kind.RESPONSE_TOO_LARGE, Kind.INVALID})
"""Kinds that the same request would meet again: `retry` leaves them unless told otherwise."""

_TROUBLE: Mapping[str, tuple[Kind, ...]] = {
    "429": (Kind.RATE_LIMITED,),
    "overloaded": (Kind.OVERLOADED,),
    "timeouts": TIMEOUTS,
    "cut answers": (Kind.TRUNCATED,),
    "garbled": (Kind.GARBLED, Kind.PROTOCOL),
    "server errors": (Kind.SERVER_ERROR, Kind.GATEWAY),
    "network": (Kind.CONNECT, Kind.NETWORK, Kind.STALE, Kind.LOCAL),
}


class Job(Struct, frozen=True, kw_only=True):
    """What the user typed, as far as the text says it again."""

    input: str
    program: tuple[str, ...] = ("batchrunner",)
    options: tuple[str, ...] = ()  # those the next command must repeat

    def command(self, verb: str = "", *more: str) -> str:
        """A whole command for a shell; without a verb the one that continues the run."""
        return shlex.join([*self.program, *([verb] if verb else []), self.input, *self.options, *more])


# ---- figures ----


def visible(text: str) -> str:
    """Text with every control, direction and lone surrogate character spelled out; ordinary letters of any script stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if unicodedata.category(each)[0] != "C" else ascii(each)[1:-1] for each in text)


def number(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def amount(value: float) -> str:
    """Three figures: 740, 35.4 k, 31.0 M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * 0.9995:
            return f"{value / factor:.3g} {letter}" if value >= 99.95 * factor else f"{value / factor:.1f} {letter}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """A measured time with its unit: 0.35 s, 3.2 s, 21 s, 12 m 24 s, 2 h 5 m, 3 d 4 h."""
    if value < 59.5:
        return f"{value:.2f} s" if value < 0.9995 else f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    for unit, part, size in (("d", "h", 86400), ("h", "m", 3600), ("m", "s", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size * (60 if size < 86400 else 24) // size} {part}"
    return f"{whole} s"


def clock(value: float) -> str:
    """A running time as 05:34 or 2:05:34."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def rate(value: float) -> str:
    """Requests per second with three figures at most."""
    return f"{value:.0f} req/s" if value >= 99.95 else f"{value:.1f} req/s" if value >= 0.95 else f"{value:.2g} req/s"


def percent(part: int, whole: int) -> str:
    """31 %; 100 % only when nothing is missing."""
    return f"{100 * part // whole if whole else 100} %"


def money(value: float) -> str:
    """$ 14.07, $ 0.0123."""
    return f"$ {value:,.2f}" if value >= 0.995 or not value else f"$ {value:.3g}"


def plural(count: int, word: str) -> str:
    """1 request, 2 requests."""
    return f"{number(count)} {word}{'' if count == 1 else 's'}"


# ---- lines ----


def opening(input: str, results: str, snapshot: Snapshot, simulated: bool = False) -> str:  # noqa: A002 - the field's name
    """The first lines of a run."""
    total = "requests" if snapshot.total is None else plural(snapshot.total, "request")
    before = f"{number(snapshot.done)} done before" if snapshot.done else "nothing done before"
    to_go = "" if snapshot.total is None else f", {number(snapshot.pending)} to go"
    where = f"results → {visible(results)} · " if results else ""
    lines = [f"{visible(input)}  {total} · {before}{to_go}", f"{where}Ctrl-C is safe"]
    return "\n".join([*lines, *(["The answers are simulated: no model is asked."] if simulated else [])])


def stopping(in_flight: int, grace: float) -> str:
    """What the first Ctrl-C says."""
    return f"stopping: no new requests; {in_flight} in flight may take {grace:g} s more; again drops them"


def final(ending: Report, job: Job, quiet: bool = False) -> str:
    """The last word on a run: verdict, what it took, what failed, what to type next."""
    summary, snapshot = ending.summary, ending.snapshot
    lines = [_stopped(summary, snapshot, job) if _is_open(summary) else _verdict(summary, snapshot)]
    if not quiet:
        lines += _block(_facts(ending, job))
    return "\n".join(lines)


def status(ending: Report, job: Job) -> str:
    """How a job stands on disk."""
    summary = ending.summary
    done = summary.total - summary.pending
    share = f"{percent(done, summary.total)} · {number(done)} of {number(summary.total)} done"
    parts = ("succeeded", summary.succeeded), ("failed", summary.failed), ("invalid", summary.invalid), ("to go", summary.pending)
    counts = " · ".join(f"{number(count)} {word}" for word, count in parts if count)
    facts = [("lines", counts), *_failure_facts(ending.snapshot), *_ways_on(summary, ending.snapshot, job)]
    return "\n".join([f"{visible(job.input)}  {share}", *_block([*facts, ("files", _files(ending))])])


def check(found: CheckReport, job: Job) -> str:
    """What `check` has found. Ends by saying that nothing was sent."""
    head = f"{plural(found.requests, 'request')}, {plural(found.problems, 'problem') if found.problems else 'no problems'}"
    lines = [f"{head}, {number(found.done)} done before" if found.done else head]
    for problem in found.examples:
        hint = f"  → {visible(problem.hint)}" if problem.hint else ""
        where = f"line{'s' if problem.count > 1 else ''} {problem.lines or problem.line}"
        lines.append(f"  {where:<12} {visible(problem.message)}{hint}")
    told = sum(problem.count for problem in found.examples)
    if found.problems > told:
        lines.append(f"  and {number(found.problems - told)} more")
    lines += [_tokens_line(found), *_cost_lines(found)] if found.to_go or not found.done else []
    if found.too_long:
        long = plural(found.too_long, "prompt")
        lines.append(f"{long} too long for the model, it seems; they will fail: line {found.too_long_lines}")
    ready = "" if found.problems else f"    To run it: {job.command()}"
    return "\n".join([*lines, f"Nothing was sent. exit {found.exit_code}{ready}"])


def _tokens_line(found: CheckReport) -> str:
    how = "as counted by the last run" if found.tokens_out is not None else "bytes / 4"
    spread = f"; ± {100 * found.uncertainty:.0f} %" if found.uncertainty else ""
    expected = f", ≈ {amount(found.tokens_out)} out" if found.tokens_out is not None else ""
    most = f", ≤ {amount(found.tokens_out_most)} out by max_tokens" if found.tokens_out_most else ""
    return f"tokens ≈ {amount(found.tokens_in)} in ({how}{spread}){expected}{most}"


def _cost_lines(found: CheckReport) -> list[str]:
    """What it will cost and how long it will take, as far as anybody knows."""
    if not found.to_go:
        return []
    expected = [f"≈ {money(found.cost)}"] if found.cost is not None else []
    most = [f"at most {money(found.cost_most)}"] if found.cost_most is not None else []
    cost = ", ".join(expected + most) or "unknown"
    names = ", ".join(visible(name) or "lines without a model" for name in found.unpriced[:3])
    missing = f" (no price of {names}: --price MODEL=IN/OUT)" if found.unpriced else ""
    known = found.seconds is not None and found.rate is not None
    time = f" · time ≈ {seconds(found.seconds or 0)} at {rate(found.rate or 0)} (last run)" if known else ""
    return [f"cost {cost}{missing}{time}"]


def _is_open(summary: Summary) -> bool:
    return summary.stopped is not None or summary.pending > 0


def _verdict(summary: Summary, snapshot: Snapshot) -> str:
    bad = [f"{number(count)} {word}" for word, count in (("failed", summary.failed), ("invalid", summary.invalid)) if count]
    mark = "✗" if bad else "✓"
    said = ", ".join([f"{mark} {number(summary.succeeded)} of {number(summary.total)} succeeded", *bad])
    fresh = snapshot.done - snapshot.resumed
    pace = f" · {rate(fresh / summary.seconds)}" if summary.seconds > 0 and fresh else ""
    took = f"{seconds(summary.seconds)}{pace}"
    return f"{said}{took:>{max(WIDTH - len(said), len(took) + 2)}}"


def _stopped(summary: Summary, snapshot: Snapshot, job: Job) -> str:
    done = summary.total - summary.pending
    why = f" · {visible(summary.stopped)}" if summary.stopped else ""
    dropped = f", {number(snapshot.gauges.in_flight)} in flight dropped" if snapshot.gauges.in_flight else ""
    share = f"■ stopped at {percent(done, summary.total)}{why}"
    counts = f"  {number(done)} done, {number(summary.pending)} to go · nothing lost{dropped}"
    code = re.search(r"\[(E[0-9]{3})\]", summary.stopped or "")
    more = f"\n  what {code[1]} means: {shlex.join([*job.program, 'explain', code[1]])}" if code else ""
    return f"{share}\n{counts} · continue: {job.command()}{more}"


def _facts(ending: Report, job: Job) -> list[tuple[str, str]]:
    summary, snapshot = ending.summary, ending.snapshot
    used = summary.tokens
    tokens = f"{amount(used.input)} in · {amount(used.output)} out" if used.input or used.output else ""
    cost = f"cost {money(summary.cost)}" if summary.cost is not None else ""
    waiting = f"  (waiting for the first byte: {100 * snapshot.first_byte_share:.0f} %)"
    spread = " · ".join(f"{name} {seconds(value)}" for name, value in _quantiles(snapshot))
    billed = f"{plural(summary.maybe_billed, 'failed attempt')} may be billed" if summary.maybe_billed else ""
    return [
        ("tokens", "   ".join(part for part in (tokens, cost, billed) if part)),
        ("latency", spread + waiting if snapshot.p50 else ""),
        ("trouble", _trouble(snapshot)),
        *_failure_facts(snapshot),
        *_cause_facts(ending),
        *([] if _is_open(summary) else _ways_on(summary, snapshot, job)),
        ("files", f"{_files(ending)}     exit {summary.exit_code}".strip()),
    ]


def _quantiles(snapshot: Snapshot) -> tuple[tuple[str, float], ...]:
    return ("p50", snapshot.p50), ("p95", snapshot.p95), ("p99", snapshot.p99)


def _trouble(snapshot: Snapshot) -> str:
    counts = {name: sum(snapshot.kinds.get(kind, 0) for kind in kinds) for name, kinds in _TROUBLE.items()}
    said = "   ".join(f"{name} × {number(count)}" for name, count in counts.items() if count)
    return f"{said}     {number(snapshot.recovered)} recovered" if said and snapshot.recovered else said


def _failure_facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    worst = sorted(snapshot.failures.items(), key=lambda each: -each[1])
    return [("failed", " · ".join(f"{number(count)} {WORDS[kind]}" for kind, count in worst))]


def _cause_facts(ending: Report) -> list[tuple[str, str]]:
    """What the diagnosis blames, where something went wrong."""
    summary = ending.summary
    wrong = summary.failed or summary.stopped or summary.retries > RETRIED * summary.attempts
    found = [finding for finding in ending.findings if finding.verdict == "yes"] if wrong else []
    lines = [(f"{finding.said}", f"→ {finding.remedy}" if finding.remedy else "") for finding in found[:CAUSES]]
    said = [visible(line) for pair in lines for line in pair if line]
    return [("cause" if place == 0 else "", line) for place, line in enumerate(said)]


def diagnosis(findings: Sequence[Finding], job: Job) -> str:
    """Every question with its answer."""
    guilty = sum(finding.verdict == "yes" for finding in findings)
    head = f"{visible(job.input)}  {plural(guilty, 'cause') if guilty else 'nothing is the matter, as far as one can tell'}"
    lines = [head]
    for finding in findings:
        lines.append(f"  {finding.verdict:<8} {finding.question}")
        lines.append(f"           {visible(finding.said)}")
        lines += [f"           → {visible(finding.remedy)}"] if finding.remedy else []
    return "\n".join(lines)


def _ways_on(summary: Summary, snapshot: Snapshot, job: Job) -> list[tuple[str, str]]:
    """What to type next: continue an open job; re-open what can succeed in a finished one."""
    if _is_open(summary):
        return [("next", job.command())]
    hopeful = sum(count for kind, count in snapshot.failures.items() if kind not in HOPELESS)
    hopeless = sum(snapshot.failures.values()) - hopeful
    other = f"; the other {number(hopeless)} need other input" if hopeless else ""
    if Kind.REJECTED in snapshot.failures and not (hopeful or summary.succeeded):
        return [("next", f"{job.command('retry', '--kind', 'rejected')}     when the settings are corrected")]
    return [("next", f"{job.command('retry')}     the {number(hopeful)} that can succeed{other}")] if hopeful else []


def _files(ending: Report) -> str:
    bad = ending.errors if ending.summary.failed + ending.summary.invalid else ""
    return " · ".join(visible(part) for part in (ending.results, bad) if part)


def _block(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:<9} {said}".rstrip() for name, said in facts if said.strip()]
