"""A run in words: its start, how it stands, its end, and what the diagnosis says of it.

Rules:

1. Pure functions from counts to text. Nothing here prints, reads a clock or opens a file.
2. Whatever came from outside passes `visible`.
3. The next command to type is a whole one, quoted for a shell, and says again what the user said. A word that a terminal
   would obey is spelled out as `$'…'`, which bash, zsh and ksh read back.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from batchrunner.core.debut import CODE as ALIKE
from batchrunner.core.endpoints import CODES as REFUSALS
from batchrunner.core.model import Kind
from batchrunner.core.trail import Finding
from batchrunner.core.treatment import HOPELESS
from batchrunner.core.wording import WORDS, amount, money, number, percent, plural, rate, seconds, visible
from batchrunner.errors import BatchError
from batchrunner.meter import TIMEOUTS, Snapshot
from batchrunner.report.invocation import Invocation
from batchrunner.report.layout import WIDTH, Command, Fact, block, ends, fold
from batchrunner.summary import Report, Summary

CAUSES = 3  # that the end of a run names
RETRIED = 0.05  # share of attempts that were repetitions: beyond, something went wrong although all may have succeeded

EMPTY = "nothing to do: there are no lines"
"""What is said of an input, or a shard of it, that holds nothing."""

ANEW = "starts anew: results are kept, and gone on from, with -o FILE"
"""What the same command does where results are kept nowhere."""

_TROUBLE: Mapping[str, tuple[Kind, ...]] = {
    "429": (Kind.RATE_LIMITED,),
    "overloaded": (Kind.OVERLOADED,),
    "timeouts": TIMEOUTS,
    "cut answers": (Kind.TRUNCATED,),
    "garbled": (Kind.GARBLED, Kind.PROTOCOL),
    "server errors": (Kind.SERVER_ERROR, Kind.GATEWAY),
    "stale connections": (Kind.STALE,),
    "network": (Kind.CONNECT, Kind.NETWORK, Kind.LOCAL),
    "dead workers": (Kind.CRASHED,),
}


# ---- while it goes on ----


def opening(
    input: str,  # noqa: A002 - the field's name
    results: str,
    snapshot: Snapshot,
    endpoints: Sequence[str] = (),
    simulated: bool = False,
    width: int = WIDTH,
) -> str:
    """The first lines of a run."""
    total = "" if snapshot.total is None else plural(snapshot.total, "request")
    before = f"{number(snapshot.done)} done before" if snapshot.done else "nothing done before"
    to_go = "" if snapshot.total is None else f", {number(snapshot.pending)} to go"
    asked = f" to {', '.join(map(visible, endpoints))}" if endpoints else ""
    where = f"results → {visible(results)} · Ctrl-C is safe" if results else "results are not kept: what is stopped starts anew"
    said, room = " · ".join(filter(None, (f"{total}{asked}".strip(), f"{before}{to_go}"))), width - len(visible(input)) - 2
    head = fold(said, room) if room >= 20 else ["", *fold(said, width - 2)]
    lines = [f"{visible(input)}  {head[0]}".rstrip(), *(f"  {line}" for line in head[1:]), *fold(where, width)]
    return "\n".join([*lines, *(["The answers are simulated: no model is asked."] if simulated else [])])


def stopping(in_flight: int, grace: float) -> str:
    """What the first Ctrl-C says."""
    return f"stopping: no new requests; {in_flight} in flight may take {grace:g} s more; again drops them"


# ---- the end ----


def final(ending: Report, typed: Invocation, quiet: bool = False, width: int = WIDTH) -> str:
    """The last word on a run: verdict, what it took, what failed, what to type next."""
    summary, snapshot = ending.summary, ending.snapshot
    lines = _stopped(ending, typed, width) if _is_open(summary) else _verdict(summary, snapshot, width)
    return "\n".join(lines if quiet else [*lines, *block(_facts(ending, typed), width)])


def status(ending: Report, typed: Invocation, width: int = WIDTH) -> str:
    """How a job stands on disk."""
    summary = ending.summary
    done = summary.total - summary.pending
    share = f"{percent(done, summary.total)} · {number(done)} of {number(summary.total)} done"
    parts = ("succeeded", summary.succeeded), ("failed", summary.failed), ("invalid", summary.invalid), ("to go", summary.pending)
    counts = " · ".join(f"{number(count)} {word}" for word, count in parts if count)
    facts = [("lines", counts), *_failure_facts(ending.snapshot), *_ways_on(ending, typed), *_files(ending)]
    return "\n".join([f"{visible(typed.input)}  {share}", *block(facts, width)])


def diagnosis(findings: Sequence[Finding], typed: Invocation, width: int = WIDTH) -> str:
    """Every question with its answer."""
    lines = [f"{visible(typed.input)}  {_guilty(findings)}"]
    for finding in findings:
        lines.append(f"  {finding.verdict:<8} {finding.question}")
        lines += fold(visible(finding.said), width, 11)
        lines += fold(f"→ {visible(finding.remedy)}", width, 11) if finding.remedy else []
    return "\n".join(lines)


def _guilty(findings: Sequence[Finding]) -> str:
    verdicts = [finding.verdict for finding in findings]
    if guilty := verdicts.count("yes"):
        return plural(guilty, "cause")
    if unknown := verdicts.count("unknown"):
        return f"no cause found; too little is known for {unknown} of {len(findings)} questions"
    return "nothing is the matter, as far as one can tell"


def _is_open(summary: Summary) -> bool:
    return summary.stopped is not None or summary.pending > 0


def _verdict(summary: Summary, snapshot: Snapshot, width: int) -> list[str]:
    bad = [f"{number(count)} {word}" for word, count in (("failed", summary.failed), ("invalid", summary.invalid)) if count]
    mark = "✗" if bad else "✓"
    good = f"{number(summary.succeeded)} of {number(summary.total)} succeeded" if summary.total else EMPTY
    said = ", ".join([f"{mark} {good}", *bad])
    pace = f" · {rate(snapshot.asked / summary.seconds)}" if summary.seconds > 0 and snapshot.asked else ""
    return ends(said, f"{seconds(summary.seconds)}{pace}", min(width, WIDTH))


def _stopped(ending: Report, typed: Invocation, width: int) -> list[str]:
    summary, snapshot = ending.summary, ending.snapshot
    done = summary.total - summary.pending
    head, does = _halted(ending, typed)
    dropped = f" · {number(snapshot.dropped)} in flight dropped that may be billed" if snapshot.dropped else ""
    safe = " · nothing lost" if ending.results and summary.exit_code != BatchError.exit_code else ""  # else the reason says more
    counts = f"{number(done)} done, {number(summary.pending)} to go{safe}{dropped}"
    more = [("", Command(shlex.join([*typed.program, "explain", code]), f"what {code} means")) for code in _codes(summary)]
    ways = block([("next", typed.step(does)), *more], width)
    return [*fold(head, width), *fold(counts, width, 2), *ways]


def _halted(ending: Report, typed: Invocation) -> tuple[str, str]:
    """The verdict on a job that is open, and what the same command does."""
    summary, snapshot = ending.summary, ending.snapshot
    share, goes_on = percent(snapshot.done, summary.total), f"continues{mended(summary)}" if ending.results else ANEW
    if summary.stopped:
        return f"■ stopped at {share} · {visible(summary.stopped)}", goes_on
    if snapshot.done == snapshot.resumed and typed.chooses:
        return "■ nothing was sent: no line that is left fits --where", "with a condition that fits"
    return f"{'✗' if summary.failed or summary.invalid else '✓'} {share} done, as far as was asked for", goes_on


def mended(summary: Summary) -> str:
    """What the same command waits for, as the end of a sentence: a refusal of everything would only be met again."""
    return ", once that is mended" if _REFUSED.intersection(_codes(summary)) else ""


_REFUSED = frozenset(REFUSALS.values()) | {ALIKE}


def _codes(summary: Summary) -> Sequence[str]:
    return list(dict.fromkeys(re.findall(r"\[(E[0-9]{3})\]", summary.stopped or "")))


def _facts(ending: Report, typed: Invocation) -> list[Fact]:
    summary, snapshot = ending.summary, ending.snapshot
    used = summary.tokens
    tokens = f"{amount(used.input)} in · {amount(used.output)} out" if used.input or used.output else ""
    cost = f"cost {'at least ' if snapshot.untold else ''}{money(summary.cost)}" if summary.cost is not None else ""
    untold = f"{plural(snapshot.untold, 'answer')} without a count" if snapshot.untold and tokens else ""
    waiting = f"  (waiting for the first byte: {100 * snapshot.first_byte_share:.0f} %)"
    spread = " · ".join(f"{name} {seconds(value)}" for name, value in _quantiles(snapshot))
    billed = f"{plural(summary.maybe_billed, 'attempt')} may be billed without an answer" if summary.maybe_billed else ""
    limited = f"{plural(snapshot.limited, 'answer')} cut off at the token limit; ask for more tokens where that is too few"
    return [
        ("tokens", " · ".join(part for part in (tokens, cost, untold, billed) if part)),
        ("short", limited if snapshot.limited else ""),
        ("latency", spread + waiting if snapshot.p50 else ""),
        ("hedged", f"{plural(snapshot.hedged, 'second attempt')} beside stragglers" if snapshot.hedged else ""),
        ("trouble", _trouble(snapshot)),
        *_failure_facts(snapshot),
        *_cause_facts(ending),
        *([] if _is_open(summary) or not ending.results else _ways_on(ending, typed)),
        *_files(ending),
        ("exit", str(summary.exit_code)),
    ]


def _quantiles(snapshot: Snapshot) -> tuple[tuple[str, float], ...]:
    return ("p50", snapshot.p50), ("p95", snapshot.p95), ("p99", snapshot.p99)


def _trouble(snapshot: Snapshot) -> str:
    counts = {name: sum(snapshot.kinds.get(kind, 0) for kind in kinds) for name, kinds in _TROUBLE.items()}
    said = " · ".join(f"{name} × {number(count)}" for name, count in counts.items() if count)
    return f"{said}; {plural(snapshot.recovered, 'request')} recovered" if said and snapshot.recovered else said


def _failure_facts(snapshot: Snapshot) -> list[Fact]:
    worst = sorted(snapshot.failures.items(), key=lambda each: -each[1])
    return [("failed", " · ".join(f"{number(count)} {WORDS[kind]}" for kind, count in worst))]


def _cause_facts(ending: Report) -> list[Fact]:
    """What the diagnosis blames, where something went wrong."""
    summary = ending.summary
    wrong = summary.failed or summary.stopped or summary.retries > RETRIED * summary.attempts or ending.snapshot.gauges.room
    found = [finding for finding in ending.findings if finding.verdict == "yes"] if wrong else []
    said = [(visible(finding.said), f"→ {visible(finding.remedy)}" if finding.remedy else "") for finding in found[:CAUSES]]
    return [("" if place else "cause", line) for place, line in enumerate(line for pair in said for line in pair if line)]


def _ways_on(ending: Report, typed: Invocation) -> list[Fact]:
    """What to type next: continue an open job; re-open what can succeed in a finished one."""
    summary, snapshot = ending.summary, ending.snapshot
    if any(ending.undecided):
        return [("" if place else "next", way) for place, way in enumerate(decisions(typed, *ending.undecided))]
    if _is_open(summary):
        return [("next", typed.step(""))]
    hopeful, hopeless = reopened(snapshot.failures)
    if Kind.REJECTED in snapshot.failures and not (hopeful or summary.succeeded):
        return [("next", typed.step("when the settings are corrected", "retry", "--kind", "rejected"))]
    if hopeless and not hopeful and typed.verb == "retry":
        return [("next", typed.step("nothing that failed can succeed as it is; this sends all of it again", "retry", "--all"))]
    return [("next", typed.step(f"asks again {hopes(hopeful, hopeless)}", "retry"))] if hopeful else []


def decisions(typed: Invocation, edited: int, moved: int) -> list[Command]:
    """What to type where the input was edited since the last run: a run wants a word on that (E402)."""
    if not edited:
        does = (
            f"asks them anew: {plural(moved, 'result')} of lines without a custom_id no longer found; better put the lines back"
        )
        return [typed.step(does, "", "--changed", "rerun")] if moved else []
    ways = (f"asks {plural(edited, 'line')} with another text again", "rerun"), ("keeps their earlier results", "keep")
    return [typed.step(does, "", "--changed", way) for does, way in ways]


def reopened(failures: Mapping[Kind, int]) -> tuple[int, int]:
    """Requests that `retry` would send again, and those for which that is hopeless."""
    hopeless = sum(count for kind, count in failures.items() if kind in HOPELESS)
    return sum(failures.values()) - hopeless, hopeless


def hopes(hopeful: int, hopeless: int) -> str:
    """`the 9 that can succeed; the other 120 need other input`."""
    return f"the {number(hopeful)} that can succeed{f'; the other {number(hopeless)} need other input' if hopeless else ''}"


def _files(ending: Report) -> Iterable[Fact]:
    bad = ending.errors if ending.summary.failed + ending.summary.invalid else ""
    return ("results", visible(ending.results)), ("failures", visible(bad)), ("report", visible(ending.page))
