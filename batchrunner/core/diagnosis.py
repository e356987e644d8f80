"""Why is it slow, why does it fail: eight questions of the field, answered from the evidence of a session.

Rules:

1. Pure: moments in, findings out, always in the same order and one for each question.
2. `yes` needs a number that stands out by itself; whatever a healthy run shows as well is `no`, with its number.
   Where there is too little to tell the answer is `unknown`.
3. Each symptom has one cause: what a proxy cut at a constant age is not blamed on the network as well.
4. A remedy names an option or a command that exists.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from batchrunner.core.buckets import quantile
from batchrunner.core.deadlines import HASTY
from batchrunner.core.evidence import Evidence, crowding, growth, mean
from batchrunner.core.model import Kind
from batchrunner.core.trail import Finding, Moment, Ourselves
from batchrunner.core.wording import part, plural, seconds, stretch, tokens

FEW = 20  # attempts, good answers or refusals below which hardly anything can be told
RARE = 3  # single mishaps prove nothing
NETWORK_SHARE = 0.01
SLOW_CONNECT = 0.5  # seconds, median
KILLED_SHARE = 0.1  # of the attempts of one size
ILL_SHARE = 0.02  # errors of the server
UNANSWERED_SHARE = 0.01
PUSHBACK_SHARE = 0.02
CHANCE = 0.5  # of the refusals
GREW = 3.0  # times as long to the first byte as in better times
SPIKE_SHARE = 0.6  # of the lost attempts, at one age
SLOWER_SHARE = 0.02  # good answers that outlive that age
LATE = 0.5  # seconds that our loop may be late
BUSY = 0.95  # of a core
DISK_SHARE = 0.5
FALSE_SHARE = 0.005
CROWDED = 0.6  # good answers' p90 as a share of the deadline that kills: the tail is cut off
HELD_SHARE = 0.2
FULL = 0.7  # of the room: the limit tries less from time to time
DEAD = 4.0  # times p99 that a killed attempt was waited for

_FIXED = re.compile("set by (--[a-z-]+)")
_DOCTOR = "batchrunner diagnose --base-url URL"


class Assessment(Struct, frozen=True):
    """A verdict with its sentence."""

    verdict: str
    said: str
    remedy: str = ""


def diagnose(moments: Sequence[Moment]) -> list[Finding]:
    """All questions answered from the moments of one session, in order of time."""
    if not moments:
        return [_finding(code, Assessment("unknown", "nothing has been sent")) for code in QUESTIONS]
    evidence = Evidence(moments)
    return [_finding(code, ask(evidence)) for code, ask in _ASK.items()]


def causes(findings: Sequence[Finding]) -> list[Finding]:
    """Those that are the matter."""
    return [finding for finding in findings if finding.verdict == "yes"]


def _finding(code: str, found: Assessment) -> Finding:
    return Finding(code=code, question=QUESTIONS[code], verdict=found.verdict, said=found.said, remedy=found.remedy)


def _no(evidence: Evidence, said: str) -> Assessment:
    """A no, if there is enough to say so."""
    if evidence.attempts < FEW:
        return Assessment("unknown", f"only {plural(evidence.attempts, 'attempt')} so far")
    return Assessment("no", said)


def _answered(evidence: Evidence, said: str) -> Assessment:
    """A no that good answers bear out, if there are enough of them."""
    if evidence.attempts >= FEW > evidence.good:
        return Assessment(
            "unknown", f"only {plural(evidence.good, 'good answer')} so far" if evidence.good else "no good answer so far"
        )
    return _no(evidence, said)


# ---- the questions ----

QUESTIONS: Mapping[str, str] = {
    "network": "Is it the network?",
    "request": "Are requests too long or too heavy?",
    "service": "Is the model or service slow or ill?",
    "server": "Is the server the bottleneck?",
    "proxy": "Does a proxy cut connections?",
    "us": "Is it this machine?",
    "timeouts_short": "Are timeouts too short?",
    "timeouts_long": "Are timeouts too long?",
}

_WIRE_CAUSES: Mapping[str, tuple[str, str]] = {
    "dns": ("name not found", f"check the name in the address: {_DOCTOR}"),
    "refused": ("refused or unreachable", f"see whether the server is up and the port is right: {_DOCTOR}"),
    "certificate": ("certificate not trusted", "name the authority: --ca-bundle FILE"),
    "tls": ("no TLS", f"check https against http in the address: {_DOCTOR}"),
    "proxy": ("proxy failed", "check --proxy, or go without it: --proxy none"),
    "reset": ("connection lost", "the way to the server is bad, or the server drops connections under load: --max-concurrency N"),
    "disconnected": ("closed before an answer", "the server drops connections, perhaps under load: --max-concurrency N"),
    "timeout": ("connecting took too long", f"look at the way there: {_DOCTOR}; or allow more: --connect-timeout T"),
}


def _network(evidence: Evidence) -> Assessment:
    told = {cause: count for cause, count in evidence.last.causes.items() if cause in _WIRE_CAUSES and cause != "timeout"}
    told["timeout"] = evidence.kinds(Kind.TIMEOUT_CONNECT)
    cut = evidence.spike.count if evidence.spike and _is_cut(evidence) else 0
    lost = sum(told.values()) - min(cut, evidence.kinds(Kind.NETWORK))
    slow = quantile(evidence.connect, 0.5)
    made = sum(evidence.connect.values())
    proven = told.get("certificate") or (lost > 0 and not evidence.good)  # stops a run before there is much to count
    if proven or (lost >= RARE and evidence.share(lost) >= NETWORK_SHARE):
        worst = sorted(told, key=lambda cause: -told[cause])
        words = ", ".join(f"{_WIRE_CAUSES[cause][0]} {told[cause]}" for cause in worst[:3] if told[cause])
        said = f"{part(lost, evidence.attempts)} found no connection or lost it{f': {words}' if words else ''}"
        return Assessment("yes", said, _WIRE_CAUSES[worst[0]][1] if worst else _DOCTOR)
    if slow >= SLOW_CONNECT and made >= FEW:
        return Assessment("yes", f"connecting takes {seconds(slow)} (median of {made})", f"look at each step: {_DOCTOR}")
    spent = f"connecting takes {seconds(slow)}" if made else "no new connection"
    return _no(evidence, f"{spent}; {part(lost, evidence.attempts)} lost")


_TOO_LONG: Mapping[Kind, tuple[str, str]] = {
    Kind.CONTEXT: ("too long for the model", "shorten these prompts"),
    Kind.TOO_LARGE: (
        "larger than the server takes",
        "split or shorten these lines, or raise the limit of the server or its proxy",
    ),
}


def _request(evidence: Evidence) -> Assessment:
    for kind, (said, remedy) in _TOO_LONG.items():
        if long := evidence.kinds(kind):
            return Assessment("yes", f"{part(long, evidence.attempts)} refused as {said}", remedy)
    if heavy := _heaviest(evidence):
        return heavy
    sizes = [size for size in evidence.last.answers if size.good >= FEW]
    if len(sizes) > 1:
        small, large = sizes[0], sizes[-1]
        times = f"{seconds(large.seconds / large.good)} against {seconds(small.seconds / small.good)}"
        return _answered(evidence, f"answers of {tokens(large.tokens)} tokens and more take {times} of the smallest")
    return _answered(evidence, "no request was refused for its length, and size makes no difference")


def _heaviest(evidence: Evidence) -> Assessment | None:
    """Prompts of one size and more that we give up far more often than smaller ones."""
    sizes = evidence.last.prompts
    for place in range(1, len(sizes)):
        small, large = sizes[:place], sizes[place:]
        killed, rest = sum(size.killed for size in large), sum(size.killed for size in small)
        tried, others = (sum(size.killed + size.good for size in part) for part in (large, small))
        if killed >= FEW // 4 and others >= FEW and killed / tried >= max(KILLED_SHARE, 5 * rest / others):
            said = f"of prompts of {tokens(large[0].tokens)} tokens and more {part(killed, tried)} timed out"
            return Assessment(
                "yes", f"{said}, of shorter ones {part(rest, others)}", "split or shorten them, or allow more: --max-timeout T"
            )
    return None


def _service(evidence: Evidence) -> Assessment:
    well = f"first byte after {seconds(quantile(evidence.first_byte, 0.5))} (median), all the time about the same"
    return _ill(evidence) or _slowed(evidence) or _unanswered(evidence) or _answered(evidence, well)


def _ill(evidence: Evidence) -> Assessment | None:
    """Answers that are errors, or none."""
    ill = evidence.kinds(Kind.SERVER_ERROR, Kind.GARBLED, Kind.PROTOCOL, Kind.GATEWAY, Kind.TRUNCATED)
    ill -= evidence.spike.count if evidence.spike and _is_cut(evidence) else 0
    if ill < FEW // 4 or evidence.share(ill) < ILL_SHARE:
        return None
    said = f"{part(ill, evidence.attempts)} answered by an error, cut short or garbled"
    return Assessment("yes", said, "ask whoever runs it; a second --base-url takes over")


def _slowed(evidence: Evidence) -> Assessment | None:
    """A time in which answers came much later, though hardly more was in flight."""
    worst = max(evidence.grown, key=lambda pair: pair[1].first_byte / pair[0].first_byte, default=None)
    if not worst or growth(worst) < max(GREW, 2.0 * crowding(worst)):
        return None
    good, bad = worst
    flat = f" while connecting stayed at {seconds(bad.connect)}" if 0 < bad.connect < 2 * max(good.connect, 0.01) else ""
    slower = f"first byte after {seconds(bad.first_byte)} instead of {seconds(good.first_byte)}{flat}"
    said = f"{stretch(bad.begin, bad.end)}: {slower}, with {bad.in_flight:.0f} in flight against {good.in_flight:.0f}"
    return Assessment("yes", said, "a second --base-url takes over; or wait")


def _unanswered(evidence: Evidence) -> Assessment | None:
    """Attempts that hung alone, for when asked again the same was answered quickly."""
    judged = evidence.last.judged
    alike = judged.right > judged.wrong and not _heaviest(evidence) and not _crowded(evidence)
    if not alike or judged.right < FEW // 4 or evidence.share(judged.right) < UNANSWERED_SHARE:
        return None
    said = f"{part(judged.right, evidence.attempts)} never answered, and quickly when asked again"
    return Assessment("yes", said, "nothing to do: they are asked again; tell whoever runs it")


def _server(evidence: Evidence) -> Assessment:
    busy, refused = evidence.kinds(Kind.OVERLOADED), evidence.kinds(Kind.RATE_LIMITED)
    if busy + refused >= FEW // 2 and evidence.share(busy + refused) >= PUSHBACK_SHARE:
        flight = max(1, round(0.8 * mean([moment.in_flight for moment in evidence.moments])))
        said = f"{part(busy + refused, evidence.attempts)} turned away ({refused:,} by a rate limit, {busy:,} overloaded)"
        if evidence.by_chance >= CHANCE:
            remedy = "by chance, however little is sent: ask whoever runs it; a second --base-url takes over"
            return Assessment("yes", said, remedy)
        if busy + refused < FEW:
            return Assessment("yes", said, "too few to tell chance from a limit: nothing to do, they are asked again")
        return Assessment("yes", said, f"ask for less at once: --max-concurrency {flight}; or for a higher limit")
    worst = max(evidence.saturated, key=crowding, default=None)
    if worst:
        less, more = worst
        said = (
            f"{more.in_flight:.0f} in flight instead of {less.in_flight:.0f}"
            f" brought {more.rate:.3g} answers a second instead of {less.rate:.3g},"
            f" and the first byte after {seconds(more.first_byte)} instead of {seconds(less.first_byte)}"
        )
        return Assessment("yes", said, f"more at once brings nothing: --max-concurrency {max(1, round(less.in_flight))}")
    return _answered(evidence, f"{part(busy + refused, evidence.attempts)} turned away, and answers do not wait for one another")


def _proxy(evidence: Evidence) -> Assessment:
    spike = evidence.spike
    if spike and _is_cut(evidence):
        lost = f"{spike.count} of {spike.of} lost answers ended {seconds(spike.age)} after the start"
        said = f"{lost}; {100 * spike.slower:.2g} % of the good ones take longer"
        remedy = "answer in a stream: --stream on; or raise the proxy's limit (nginx: proxy_read_timeout)"
        return Assessment("yes", said, remedy)
    return _answered(evidence, "no age at which answers break off")


def _is_cut(evidence: Evidence) -> bool:
    spike = evidence.spike
    return bool(spike and spike.count >= FEW // 4 and spike.count >= SPIKE_SHARE * spike.of and spike.slower <= SLOWER_SHARE)


def _us(evidence: Evidence) -> Assessment:
    us = [moment.us for moment in evidence.moments]
    fds = max((each.fds / each.most_fds for each in us if each.most_fds), default=0.0)
    disk, lag = mean([each.disk for each in us]), max(each.lag for each in us)
    in_use = f"{100 * fds:.0f} % of the descriptors in use"
    well = f"loop at most {seconds(lag)} late, {in_use}, disk {100 * disk:.0f} % of the time"
    local = evidence.kinds(Kind.LOCAL)
    return _narrow(evidence) or _exhausted(local, fds) or _held_by_disk(disk) or _late(us) or _no(evidence, well)


def _exhausted(local: int, fds: float) -> Assessment | None:
    if local < RARE and fds < 0.9:
        return None
    said = f"{plural(local, 'attempt')} found no descriptor, port or buffer here; {100 * fds:.0f} % of the descriptors in use"
    return Assessment("yes", said, "allow more: ulimit -n 65536; or ask for less: --max-concurrency N")


def _narrow(evidence: Evidence) -> Assessment | None:
    """As much in flight, most of the time, as this process may have open."""
    room, most = evidence.last.room, evidence.last.us.most_fds
    full = sum(each.span for each in evidence.moments if any(lane.in_flight >= FULL * room for lane in each.lanes))
    if not room or evidence.attempts < FEW or full < sum(each.span for each in evidence.moments) / 2:
        return None
    where = " at each endpoint" if len(evidence.last.lanes) > 1 else ""
    return Assessment("yes", f"no more than {room} in flight{where}: ulimit -n {most}", "allow more: ulimit -n 65536")


def _held_by_disk(disk: float) -> Assessment | None:
    if disk < DISK_SHARE:
        return None
    said = f"results waited for the disk {100 * disk:.0f} % of the time"
    return Assessment("yes", said, "write elsewhere: -o FILE; or sync less: --sync interval")


def _late(us: Sequence[Ourselves]) -> Assessment | None:
    """Our own loop comes too late to what has arrived."""
    typical = sorted(each.lag for each in us)[len(us) // 2]
    busy = sum(each.cpu >= BUSY for each in us) > len(us) / 2
    if typical < LATE and not (busy and typical >= LATE / 5):
        return None
    cpu = mean([each.cpu for each in us])
    said = f"our own loop is {seconds(typical)} late (median), with {100 * cpu:.0f} % of a core in use"
    if cpu >= BUSY:
        return Assessment("yes", said, "one core is not enough: --workers 2, or more; or a hook computes for too long")
    remedy = "other work slows this machine, a hook blocks, or we were stopped (Ctrl-Z); else ask for less: --max-concurrency N"
    return Assessment("yes", said, remedy)


def _short(evidence: Evidence) -> Assessment:
    judged, deadline = evidence.last.judged, quantile(evidence.kills, 0.5)
    if judged.wrong >= RARE and evidence.share(judged.wrong) >= FALSE_SHARE:
        said = (
            f"{part(judged.wrong, evidence.attempts)} given up after {seconds(deadline)} would have been answered a little later"
        )
        return Assessment("yes", said, _longer(evidence))
    killed = sum(evidence.kills.values())
    if _crowded(evidence):
        given_up = f"{part(killed, evidence.attempts)} given up after {seconds(deadline)}"
        said = f"{given_up}, and one good answer in ten takes {seconds(quantile(evidence.total, 0.9))}"
        return Assessment("yes", said, _longer(evidence))
    if killed >= FEW // 4 and not evidence.good:
        if deadline < HASTY and (remedy := _learned(evidence)):
            said = f"{part(killed, evidence.attempts)} given up after {seconds(deadline)}, as was asked for, and nothing answered"
            return Assessment("yes", said, remedy)
        return Assessment(
            "unknown", f"all was given up after {seconds(deadline)}, nothing answered", f"ask once, step by step: {_DOCTOR}"
        )
    return _answered(
        evidence, f"{plural(judged.wrong, 'attempt')} of {evidence.attempts:,} given up too early, as far as one can tell"
    )


def _crowded(evidence: Evidence) -> bool:
    """Whether good answers reach up to the deadline that ends others, so that it cuts off their tail."""
    killed, deadline = sum(evidence.kills.values()), quantile(evidence.kills, 0.1)
    many = killed >= FEW // 4 and evidence.share(killed) >= UNANSWERED_SHARE
    return many and quantile(evidence.total, 0.9) >= CROWDED * deadline


def _longer(evidence: Evidence) -> str:
    return _learned(evidence) or "give more time: --timeout T, --first-byte-timeout T"


def _learned(evidence: Evidence) -> str:
    """What lets deadlines be learned that are fixed; "" where none is."""
    fixed = dict.fromkeys(flag for lane in evidence.last.lanes for flag in _FIXED.findall(lane.why))
    return f"let it be learned: {' '.join(f'{flag} auto' for flag in fixed)}" if fixed else ""


def _long(evidence: Evidence) -> Assessment:
    judged, killed = evidence.last.judged, sum(evidence.kills.values())
    held = judged.held / (judged.held + judged.worked) if killed else 0.0
    age, p99 = quantile(evidence.kills, 0.5), quantile(evidence.total, 0.99)
    alike = judged.right > judged.wrong and not _heaviest(evidence)
    if alike and killed >= RARE and evidence.good >= FEW and held >= HELD_SHARE and age >= DEAD * p99:
        spent = f"{part(killed, evidence.attempts)} held their place for {seconds(age)}, {100 * held:.0f} % of all the time"
        said = f"{spent}, and were not answered; 99 % of the answers come within {seconds(p99)}"
        return Assessment("yes", said, _learned(evidence) or f"wait less: --timeout {max(1, round(3 * p99))}s")
    return _answered(evidence, f"{plural(killed, 'attempt')} given up, {100 * held:.0f} % of the time held by them")


_ASK: Mapping[str, Callable[[Evidence], Assessment]] = {
    "network": _network,
    "request": _request,
    "service": _service,
    "server": _server,
    "proxy": _proxy,
    "us": _us,
    "timeouts_short": _short,
    "timeouts_long": _long,
}
