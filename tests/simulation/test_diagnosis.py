"""The diagnosis finds what was planted, and finds nothing where nothing is."""

import re
from collections.abc import Mapping
from functools import cache
from math import inf
from typing import Any

import pytest
from msgspec import structs

from batchrunner.core.diagnosis import QUESTIONS, causes, diagnose
from batchrunner.core.model import Cause, Phase
from batchrunner.core.trail import Ourselves
from batchrunner.settings import OPTIONS
from tests.simulation.illness import Course, Fate, Present, Seen, examined, rows


def well(present: Present) -> Fate:
    return Fate(present.usual)


def nearly(present: Present) -> Fate:
    """What every long run meets: a few resets, rate limits and errors."""
    u = present.chance.random()
    if u < 0.002:
        return Fate(0.1, cause=Cause.RESET)
    return Fate(0.05, 429) if u < 0.006 else Fate(present.usual / 2, 500) if u < 0.008 else Fate(present.usual)


def resetting(present: Present) -> Fate:
    if present.chance.random() < 0.04:
        return Fate(present.usual * present.chance.random(), cause=Cause.RESET)
    return Fate(present.usual)


def unreachable(cause: Cause) -> Course:
    def course(present: Present) -> Fate:
        return Fate(0.01, cause=cause, phase=Phase.CONNECT) if present.chance.random() < 0.04 else Fate(present.usual)

    return course


def heavy(present: Present) -> Fate:
    """Long prompts are answered every other time."""
    long = len(present.attempt.request.body) > 10_000
    return Fate(inf) if long and present.chance.random() < 0.5 else Fate(present.usual)


def far(present: Present) -> Fate:
    return Fate(present.usual, connect=0.8)


def too_long(present: Present) -> Fate:
    """What the model cannot take it refuses at once."""
    body = b'{"error":{"message":"This model\'s maximum context length is 8192 tokens","code":"context_length_exceeded"}}'
    return Fate(0.05, 400, body=body) if len(present.attempt.request.body) > 10_000 else Fate(present.usual)


def ever_slower(present: Present) -> Fate:
    return Fate(present.usual * (1 + min(present.now, 120.0) / 20))


def cut_short(present: Present) -> Fate:
    if present.chance.random() < 0.05:
        return Fate(present.usual * present.chance.random(), cause=Cause.TRUNCATED, phase=Phase.BODY)
    return Fate(present.usual)


def starved(present: Present) -> Fate:
    return Fate(0.001, cause=Cause.LOCAL, phase=Phase.CONNECT) if present.chance.random() < 0.02 else Fate(present.usual)


def slower(present: Present) -> Fate:
    return Fate(present.usual * (6 if 40 < present.now < 80 else 1))


def hanging(present: Present) -> Fate:
    return Fate(inf) if present.attempt.number == 1 and present.chance.random() < 0.03 else Fate(present.usual)


def failing(present: Present) -> Fate:
    return Fate(present.usual, 500) if present.chance.random() < 0.06 else Fate(present.usual)


def queueing(present: Present) -> Fate:
    return Fate(present.usual * max(1.0, present.load / 16))


def full(present: Present) -> Fate:
    return Fate(0.02, 503) if present.load > 24 else Fate(present.usual)


def throttling(present: Present) -> Fate:
    return Fate(0.02, 429) if present.chance.random() < 0.1 else Fate(present.usual)


def cutting(present: Present) -> Fate:
    """A proxy that lets no answer take longer than ten seconds. It is asked again until it works."""
    if present.usual >= 10 and present.attempt.number == 1:
        return Fate(10.0, cause=Cause.DISCONNECTED)
    return Fate(min(present.usual, 9.0))


def drowsy(present: Present) -> Fate:
    """Every answer that would take more than the two seconds allowed comes soon after them."""
    return Fate(present.usual if present.attempt.number == 1 else min(present.usual, 1.8))


PLANTED: Mapping[str, tuple[Course, str, Mapping[str, Any]]] = {
    "resets": (resetting, "network", {}),
    "refused": (unreachable(Cause.REFUSED), "network", {}),
    "dns": (unreachable(Cause.DNS), "network", {}),
    "no TLS": (unreachable(Cause.TLS), "network", {}),
    "certificate": (unreachable(Cause.CERTIFICATE), "network", {}),
    "proxy refuses": (unreachable(Cause.PROXY), "network", {}),
    "far away": (far, "network", {}),
    "too long": (too_long, "request", {"requests": rows(1500, lambda line: 400 if line % 10 else 40_000)}),
    "ever slower": (ever_slower, "service", {"concurrency": 24}),
    "cut short": (cut_short, "service", {}),
    "no descriptors": (starved, "us", {}),
    "heavy prompts": (heavy, "request", {"requests": rows(1500, lambda line: 400 if line % 10 else 40_000)}),
    "slow for a while": (slower, "service", {"concurrency": 24}),
    "never answered": (hanging, "service", {}),
    "errors": (failing, "service", {}),
    "queue": (queueing, "server", {"concurrency": 16, "later": 96}),  # left to itself the limit stays where more brings nothing
    "full": (full, "server", {}),
    "rate limit": (throttling, "server", {}),
    "proxy": (cutting, "proxy", {"median": 5.0, "sigma": 0.6, "concurrency": 64}),
    "short timeout": (drowsy, "timeouts_short", {"timeout": "2s", "median": 1.2}),
    "hasty timeout": (well, "timeouts_short", {"timeout": "1s", "median": 4.0, "sigma": 0.1, "requests": rows(30)}),
    "long timeout": (hanging, "timeouts_long", {"timeout": "120s"}),
}
LATER = {"slow for a while", "ever slower", "never answered", "long timeout"}  # comes late, or shows when asked again
BESIDES = {"long timeout": {"service"}}  # the hanging itself is the service's


@cache
def planted(name: str, seed: int) -> Seen:
    course, _, options = PLANTED[name]
    return examined(course, seed, **options)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_found_and_nothing_else(name: str, seed: int) -> None:
    code, seen = PLANTED[name][1], planted(name, seed)
    assert code in seen.guilty, told(seen)
    assert seen.guilty <= {code} | BESIDES.get(name, set()), told(seen)
    finding = seen.of(code)
    assert re.search(r"\d", finding.said)
    assert finding.remedy


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("course", "options"),
    [
        (well, {}),
        (well, {"concurrency": 8}),
        (well, {"concurrency": 100, "sigma": 1.0}),
        (well, {"median": 0.05}),
        (well, {"median": 20.0, "sigma": 0.8}),
        (nearly, {}),
    ],
)
def test_nothing_is_found_in_a_healthy_run(course: Course, options: Mapping[str, Any], seed: int) -> None:
    seen = examined(course, 100 + seed, **options)
    assert not seen.guilty, told(seen)
    assert {finding.verdict for finding in seen.findings} == {"no"}


@pytest.mark.parametrize(("course", "options"), [(well, {"median": 20.0, "sigma": 0.8}), (nearly, {})])
def test_nothing_is_found_at_any_moment_of_a_healthy_run(course: Course, options: Mapping[str, Any]) -> None:
    """Who looks at the live page sees no alarm that the end takes back."""
    moments = examined(course, 200, **options).moments
    alarms = {finding.code for end in range(1, len(moments)) for finding in causes(diagnose(moments[:end]))}
    assert not alarms


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in LATER])
def test_what_was_planted_is_found_while_it_runs(name: str) -> None:
    moments = planted(name, 1).moments
    found = diagnose(moments[: max(1, 2 * len(moments) // 3)])
    assert PLANTED[name][1] in {finding.code for finding in causes(found)}


def test_the_proxys_age_is_told_as_people_set_it() -> None:
    assert "10 s after the start" in planted("proxy", 1).of("proxy").said


def test_who_is_refused_by_chance_is_not_advised_to_send_less() -> None:
    moments = planted("rate limit", 1).moments
    findings = [finding for end in range(1, len(moments) + 1) for finding in causes(diagnose(moments[:end]))]
    remedies = {finding.remedy for finding in findings if finding.code == "server"}
    assert len(remedies) == 2, "first it is too early to tell"
    assert not [remedy for remedy in remedies if "--max-concurrency" in remedy]
    assert "--max-concurrency" in planted("full", 1).of("server").remedy


def test_little_evidence_is_no_verdict() -> None:
    assert {finding.verdict for finding in diagnose([])} == {"unknown"}
    seen = examined(well, 1, rows(5))
    assert {finding.verdict for finding in seen.findings} == {"unknown"}
    assert [finding.code for finding in seen.findings] == list(QUESTIONS)


@pytest.mark.parametrize("kinds", [{"connect": 40}, {"timeout_first_byte": 40}, {"rejected": 38, "ok": 2}])
def test_what_only_answers_can_tell_is_unknown_where_there_are_hardly_any(kinds: dict[str, int]) -> None:
    last = examined(well, 1, rows(5)).moments[-1]
    found = {finding.code: finding for finding in diagnose([structs.replace(last, attempts=40, kinds=kinds)])}
    for code in ("request", "service", "server", "proxy", "timeouts_short", "timeouts_long"):
        assert found[code].verdict == "unknown", found[code]
        assert found[code].said == ("only 2 good answers so far" if "ok" in kinds else "no good answer so far")
    assert found["us"].verdict == "no"


def test_a_single_refusal_is_proof_where_nobody_has_answered() -> None:
    last = examined(well, 1, rows(5)).moments[-1]
    nobody = structs.replace(last, attempts=1, kinds={"connect": 1}, causes={"refused": 1})
    assert [finding.code for finding in causes(diagnose([nobody]))] == ["network"]
    assert not causes(diagnose([structs.replace(nobody, attempts=6, kinds={"connect": 1, "ok": 5})]))


@pytest.mark.parametrize("option", ["timeout", "first_byte_timeout"])
def test_the_deadline_that_is_too_short_is_the_one_to_be_learned(option: str) -> None:
    seen = examined(well, 1, rows(30), median=4.0, sigma=0.1, **{option: "1s"})
    assert seen.of("timeouts_short").remedy == f"let it be learned: --{option.replace('_', '-')} auto"


@pytest.mark.parametrize(
    ("us", "word"),
    [
        (Ourselves(lag=0.8, cpu=0.99, fds=10, most_fds=1000), "--workers"),
        (Ourselves(lag=0.8, cpu=0.4, fds=10, most_fds=1000), "--max-concurrency"),
        (Ourselves(lag=0.001, fds=990, most_fds=1000), "descriptor"),
        (Ourselves(lag=0.001, disk=0.9, fds=10, most_fds=1000), "disk"),
    ],
)
def test_our_own_machine(us: Ourselves, word: str) -> None:
    seen = examined(well, 1)
    found = diagnose([structs.replace(moment, us=us) for moment in seen.moments])
    assert {finding.code for finding in found if finding.verdict == "yes"} == {"us"}
    said = next(f"{finding.said} {finding.remedy}" for finding in found if finding.code == "us")
    assert word in said


def test_few_open_files() -> None:
    """Where they hold the run back that is the cause; where it never wanted more it is not."""
    seen = examined(well, 1)
    flight = [lane.in_flight for moment in seen.moments for lane in moment.lanes]
    for room, verdict in ((max(1, min(flight[:-1])), "yes"), (2 * max(flight), "no")):
        few = [structs.replace(moment, room=room, us=Ourselves(most_fds=room + 32)) for moment in seen.moments]
        found = next(finding for finding in diagnose(few) if finding.code == "us")
        assert (found.verdict, f"{room} in flight: ulimit -n {room + 32}" in found.said) == (verdict, verdict == "yes")


def test_a_busy_loop_that_keeps_up_is_healthy() -> None:
    seen = examined(well, 1)
    busy = Ourselves(lag=0.02, cpu=1.0, fds=300, most_fds=20_000)
    assert not [f for f in diagnose([structs.replace(moment, us=busy) for moment in seen.moments]) if f.verdict == "yes"]


def test_remedies_name_options_that_exist() -> None:
    flags = {flag for each in OPTIONS.values() for flag in each.flags}
    for name, (_, code, _) in PLANTED.items():
        remedy = planted(name, 1).of(code).remedy
        assert set(re.findall(r"--[a-z-]+", remedy)) <= flags, remedy


def told(seen: Seen) -> str:
    return "\n".join(f"{finding.verdict} {finding.code}: {finding.said}" for finding in seen.findings)
