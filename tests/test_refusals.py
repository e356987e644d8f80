"""Whose fault a refusal is: one line's or everybody's. On virtual time, from the request to the result."""

import asyncio
import re
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.deadlines import Latencies
from batchrunner.core.debut import Debut
from batchrunner.core.endpoints import RECHECK
from batchrunner.core.lessons import Answers, Lessons
from batchrunner.core.model import Attempt, Cause, Fault, Kind, Phase, Reply, Request
from tests.virtual import MemorySink, Script, chat, engine_for, good, run_virtual

UNKNOWN_KEY = Reply(401, {}, b'{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}')
FORBIDDEN = Reply(403, {}, b'{"error":{"message":"not for you"}}')
NO_ROUTE = Reply(404, {}, b'{"error":{"message":"Not Found"}}')
NO_MODEL = Reply(404, {}, b'{"error":{"message":"The model `bad` does not exist","code":"model_not_found"}}')
ELSEWHERE = Reply(308, {"location": "https://h.example/v2"}, b"")
NO_METHOD = Reply(405, {}, b'{"error":{"message":"Method Not Allowed"}}')
NO_MONEY = Reply(402, {}, b'{"error":{"message":"pay","code":"insufficient_quota"}}')
KNOWN = Lessons(answers=(Answers("m", "chat", False, Latencies()),))
COLD = Lessons()
QUICK, SLOW = 0.05, 1.0


class Ran(NamedTuple):
    """What became of a run: the kinds of its failures by line, why it stopped, what is pending, and how often a line was sent."""

    failed: dict[int, Kind]
    stopped: str
    pending: int
    sent: Counter[int]
    messages: dict[int, str]


def poison(lines: Collection[int], refusal: Reply, slow: float = SLOW) -> Script:
    """These lines are refused, quickly; the others are answered, slowly."""

    async def script(attempt: Attempt) -> Reply:
        refused = attempt.request.line in lines
        await asyncio.sleep(QUICK if refused else slow)
        return refusal if refused else good()

    return script


def from_to(start: float, end: float, refusal: Reply) -> Script:
    """Everything that is sent in these seconds of the run is refused."""

    async def script(_attempt: Attempt) -> Reply:
        refused = start <= asyncio.get_running_loop().time() - 1000.0 < end
        await asyncio.sleep(QUICK if refused else SLOW)
        return refusal if refused else good()

    return script


def counted(script: Script, sent: Counter[int]) -> Script:
    """The script, with a note of each line that is sent."""

    async def counting(attempt: Attempt) -> Reply | Fault:
        sent[attempt.request.line] += 1
        return await script(attempt)

    return counting


def ran(
    count: int | list[Request],
    *scripts: Script,
    concurrency: int = 8,
    lessons: Lessons = COLD,
    max_open: int = 1000,
    alike: int = 0,
) -> Ran:
    async def main() -> Ran:
        rows = [chat(n) for n in range(1, count + 1)] if isinstance(count, int) else count
        sink, sent = MemorySink(), Counter[int]()
        counting = [counted(script, sent) for script in scripts]
        engine = engine_for(rows, *counting, concurrency=concurrency, max_open=max_open, chance=lambda: 0.5, sink=sink)
        for endpoint in engine.scheduler.endpoints:
            endpoint.debut = Debut(alike)
            engine.scheduler.experience.recall(endpoint.name, lessons, 1000.0, 60.0)
        await engine.run()
        assert len(sink.results) == len({result.request.line for result in sink.results})
        bad = {result.request.line: result for result in sink.results if not result.ok}
        assert engine.scheduler.open == len(list(engine.scheduler.pending())) <= len(rows) - len(sink.results)
        messages = {line: result.error.message for line, result in bad.items() if result.error}
        failed = {line: result.kind for line, result in bad.items()}
        return Ran(failed, engine.stopping, len(rows) - len(sink.results), sent, messages)

    outcome: Ran = run_virtual(main)
    return outcome


# ---- one line ----


@pytest.mark.parametrize("concurrency", [1, 2, 8, 64])
@pytest.mark.parametrize("line", [1, 50, 99, 100])
@pytest.mark.parametrize(("refusal", "kind"), [(FORBIDDEN, Kind.DENIED), (NO_ROUTE, Kind.CONFIG), (NO_MODEL, Kind.CONFIG)])
def test_one_line_that_is_refused_fails_alone(refusal: Reply, kind: Kind, line: int, concurrency: int) -> None:
    run = ran(100, poison({line}, refusal), concurrency=concurrency)
    assert (run.failed, run.stopped, run.pending) == ({line: kind}, "", 0)
    assert run.sent == Counter({n: 1 + (n == line) for n in range(1, 101)})
    assert run.messages[line].endswith("(gave up after 2 refusals, while others were answered)")


def test_even_a_401_of_one_line_is_its_own_where_others_are_answered_later() -> None:
    run = ran(100, poison({50}, UNKNOWN_KEY))
    assert (run.failed, run.stopped) == ({50: Kind.DENIED}, "")


def test_a_401_that_nobody_was_answered_after_is_the_keys() -> None:
    run = ran(100, poison({100}, UNKNOWN_KEY), concurrency=1)
    assert (run.failed, run.pending) == ({}, 1)
    assert run.stopped == "a: Incorrect API key provided (line 100, r-100) [E301]"


# ---- what says nothing of the line ----


def bare(status: int) -> Reply:
    return Reply(status, {}, b"<html><title>no</title></html>")


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, r"raise the limit of the server.*\[E307\]"),
        (414, r"\[E307\]"),
        (407, r"HTTPS_PROXY.*\[E304\]"),
        (421, r"belongs to another host.*\[E304\]"),
        (431, r"headers .* too large.*--header.*\[E304\]"),
    ],
)
def test_what_every_line_meets_from_the_start_stops_the_run_and_fails_none(status: int, words: str, concurrency: int) -> None:
    run = ran(100, poison(range(1, 101), bare(status)), concurrency=concurrency, alike=20)
    assert (run.failed, run.pending) == ({}, 100)
    assert re.search(words, run.stopped)
    assert sum(run.sent.values()) <= 20 + concurrency


@pytest.mark.parametrize("lines", [{1}, {50}, {1, 2, 3, 60, 90}])
@pytest.mark.parametrize(("status", "kind"), [(413, Kind.TOO_LARGE), (421, Kind.CONFIG), (431, Kind.CONFIG)])
def test_among_good_ones_it_is_the_lines_own(status: int, kind: Kind, lines: set[int]) -> None:
    run = ran(100, poison(lines, bare(status)), alike=20)
    assert (run.failed, run.stopped, run.pending) == (dict.fromkeys(lines, kind), "", 0)


def test_a_certificate_that_is_not_trusted_says_what_to_name() -> None:
    async def script(attempt: Attempt) -> Fault:
        await asyncio.sleep(QUICK)
        return Fault(Cause.CERTIFICATE, Phase.CONNECT, "the certificate of h is not trusted (self-signed certificate)")

    run = ran(3, script)
    assert re.search(r"self-signed.* --ca-bundle FILE\. \[E304\]", run.stopped)


def test_where_the_answer_says_it_the_advice_is_not_said_twice() -> None:
    run = ran(3, poison(range(1, 4), ELSEWHERE))
    assert run.stopped.count("redirects are not followed") == 1


def test_a_connection_that_leads_to_another_host_is_not_asked_twice() -> None:
    async def script(attempt: Attempt) -> Reply:
        await asyncio.sleep(SLOW)
        return good() if attempt.fresh or attempt.request.line != 5 else bare(421)

    run = ran(100, script)
    assert (run.failed, run.stopped, run.pending, run.sent[5]) == ({}, "", 0, 2)


# ---- many lines ----


@pytest.mark.parametrize("concurrency", [1, 4, 64])
@pytest.mark.parametrize("refusal", [FORBIDDEN, NO_MODEL])
def test_a_tenth_of_the_lines(refusal: Reply, concurrency: int) -> None:
    bad = set(Random(7).sample(range(1, 1001), 100))
    run = ran(1000, poison(bad, refusal, slow=20.0), concurrency=concurrency)
    assert (set(run.failed), run.stopped) == (bad, "")
    assert {run.sent[line] for line in bad} == {2}, "and no more"
    assert sum(run.sent.values()) == 1000 + len(bad)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("first", [1, 300, 901])
def test_a_hundred_neighbours_for_a_model_that_does_not_exist(first: int, concurrency: int) -> None:
    bad = range(first, first + 100)
    rows = [chat(n, model="bad" if n in bad else "m") for n in range(1, 1001)]
    run = ran(rows, poison(bad, NO_MODEL), concurrency=concurrency)
    assert (set(run.failed), set(run.failed.values()), run.stopped) == (set(bad), {Kind.CONFIG}, "")
    assert max(run.sent.values()) == 2


def test_more_neighbours_for_it_than_may_be_open() -> None:
    """Nobody else is there to be asked: that another model was answered for must do."""
    rows = [chat(n, model="bad" if 300 <= n < 400 else "m") for n in range(1, 1001)]
    run = ran(rows, poison(range(300, 400), NO_MODEL), max_open=60)
    assert (set(run.failed), run.stopped) == (set(range(300, 400)), "")


@pytest.mark.parametrize("first", [1, 300])
def test_twenty_neighbours_that_are_forbidden(first: int) -> None:
    bad = range(first, first + 20)
    run = ran(1000, poison(bad, FORBIDDEN), concurrency=4)
    assert (set(run.failed), run.stopped) == (set(bad), "")


# ---- everybody ----


@pytest.mark.parametrize("concurrency", [1, 2, 8, 64])
@pytest.mark.parametrize(
    ("refusal", "code"), [(UNKNOWN_KEY, "E301"), (FORBIDDEN, "E301"), (NO_ROUTE, "E304"), (NO_MODEL, "E304")]
)
def test_from_the_start(refusal: Reply, code: str, concurrency: int) -> None:
    run = ran(200, poison(range(1000), refusal), concurrency=concurrency)
    assert (run.failed, run.pending) == ({}, 200)
    assert code in run.stopped
    assert "(line " in run.stopped
    assert sum(run.sent.values()) <= concurrency + 2, "those in flight, and two more"


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("refusal", [UNKNOWN_KEY, FORBIDDEN, NO_MODEL])
def test_few_lines_are_not_used_up_by_a_wrong_key(refusal: Reply, lines: int) -> None:
    run = ran(lines, poison(range(1000), refusal))
    assert (run.failed, run.pending) == ({}, lines)
    assert "[E30" in run.stopped
    assert sum(run.sent.values()) <= 2 * lines


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("refusal", [UNKNOWN_KEY, FORBIDDEN, NO_ROUTE])
def test_from_the_middle_on(refusal: Reply, concurrency: int) -> None:
    run = ran(1000, from_to(5.5, 1e9, refusal), concurrency=concurrency)
    assert run.failed == {}
    assert run.stopped
    done = 1000 - run.pending
    assert 0 < done < 1000
    assert sum(run.sent.values()) - done <= concurrency + 2


def test_a_refusal_of_everybody_that_passes_costs_nothing() -> None:
    run = ran(1000, from_to(5.5, 5.5 + 0.8 * RECHECK, UNKNOWN_KEY))
    assert (run.failed, run.stopped, run.pending) == ({}, "", 0)


def test_no_money_is_nobodys_line_and_not_asked_twice() -> None:
    run = ran(100, poison({50}, NO_MONEY), concurrency=1)
    assert (run.failed, run.pending, run.sent[50]) == ({}, 51, 1)
    assert run.stopped == "a: pay (line 50, r-50) [E302]"


# ---- what is left of a job ----


LAST = [(refusal, Kind.CONFIG) for refusal in (NO_ROUTE, NO_MODEL, ELSEWHERE, NO_METHOD)]


@pytest.mark.parametrize(("refusal", "kind"), [(FORBIDDEN, Kind.DENIED), *LAST])
def test_the_last_line_fails_where_the_endpoint_has_served_the_job(refusal: Reply, kind: Kind) -> None:
    run = ran(1, poison({1}, refusal), lessons=KNOWN)
    assert (run.failed, run.stopped, run.sent[1]) == ({1: kind}, "", 2)


def test_it_stays_pending_where_the_key_is_refused() -> None:
    run = ran(2, poison({1, 2}, UNKNOWN_KEY), lessons=KNOWN)
    assert (run.failed, run.pending, "E301" in run.stopped) == ({}, 2, True)


@pytest.mark.parametrize(("lines", "concurrency"), [(50, 8), (50, 64), (3, 8)])
@pytest.mark.parametrize("refusal", [UNKNOWN_KEY, FORBIDDEN, NO_MODEL, ELSEWHERE])
def test_a_rest_of_which_all_is_refused_stays_pending(refusal: Reply, lines: int, concurrency: int) -> None:
    run = ran(lines, poison(range(1000), refusal), concurrency=concurrency, lessons=KNOWN)
    assert (run.failed, run.pending, "[E30" in run.stopped) == ({}, lines, True)
    assert sum(run.sent.values()) <= min(2 * lines, lines + concurrency + 2)


def test_the_last_twenty_that_are_forbidden_fail_where_this_run_was_answered() -> None:
    run = ran(1000, poison(range(981, 1001), FORBIDDEN), concurrency=64)
    assert (set(run.failed), run.stopped) == (set(range(981, 1001)), "")


# ---- two endpoints ----


def test_what_one_endpoint_refuses_another_may_answer() -> None:
    bad = set(range(1, 100, 9))
    run = ran(100, poison(bad, NO_MODEL), poison((), NO_MODEL), concurrency=4)
    assert (run.failed, run.stopped, run.pending) == ({}, "", 0)


def test_what_both_refuse_fails() -> None:
    run = ran(100, poison({50}, FORBIDDEN), poison({50}, NO_ROUTE), concurrency=4)
    assert (set(run.failed), run.stopped, run.pending) == ({50}, "", 0)
    assert run.sent[50] <= 4


def test_one_without_a_key_beside_one_that_serves() -> None:
    run = ran(100, poison(range(1000), UNKNOWN_KEY), poison((), NO_MODEL), concurrency=4)
    assert (run.failed, run.pending) == ({}, 0)
    assert sum(run.sent.values()) <= 100 + 4 + 2


def test_lines_that_only_a_stopped_endpoint_may_answer_do_not_hold_up_the_run() -> None:
    """They are more than half of what may be open: the source must be read on until that is full."""
    run = ran(200, from_to(3.0, 1e9, UNKNOWN_KEY), poison(range(1, 200, 2), FORBIDDEN), concurrency=2, max_open=20)
    assert (run.failed, "[E301]" in run.stopped, 20 <= run.pending < 190) == ({}, True, True)


# ---- whatever happens ----


@settings(max_examples=150, deadline=None)
@given(
    st.sets(st.integers(1, 60), max_size=12),
    st.sampled_from([1, 2, 5, 30]),
    st.one_of(st.none(), st.floats(0.0, 40.0)),
    st.sampled_from([0.01, 1.0, 7.0]),
    st.integers(1, 2),
)
def test_a_good_line_never_fails_and_no_line_is_asked_without_end(
    bad: set[int], concurrency: int, revoked: float | None, slow: float, endpoints: int
) -> None:
    """Poison lines anywhere, and perhaps a key that is revoked: what fails was poison, and what is sent is bounded."""

    async def script(attempt: Attempt) -> Reply | Fault:
        now = asyncio.get_running_loop().time() - 1000.0
        if revoked is not None and now >= revoked:
            await asyncio.sleep(QUICK)
            return UNKNOWN_KEY
        return await poison(bad, FORBIDDEN, slow)(attempt)

    run = ran(60, *[script] * endpoints, concurrency=concurrency)
    assert set(run.failed) <= bad
    assert bool(run.pending) == bool(run.stopped)
    assert max(run.sent.values()) <= 3 * endpoints
    refused = sum(run.sent.values()) - (60 - run.pending - len(run.failed))
    assert refused <= 2 * endpoints * (len(bad) + concurrency) + 20 * endpoints
