"""An endpoint that nobody answers at ends the run in order; one that is merely slow, busy or ill does not. On virtual time."""

import asyncio
import re
from collections.abc import Mapping

import pytest

from batchrunner.caps import capped
from batchrunner.core.cost import Prices
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.model import Attempt, Cause, Event, Fault, Kind, Outcome, Phase, Reply, Timing
from batchrunner.core.stopping import Silence, Spell, Stopping, outage
from batchrunner.engine import Engine
from batchrunner.meter import Meter
from batchrunner.settings import Settings
from tests.virtual import Script, chat, engine_for, good, run_virtual

REFUSED = Fault(Cause.REFUSED, Phase.CONNECT, "connection refused")
LINES = 40
LEARNED = Timeouts()


async def refused(_attempt: Attempt) -> Fault:
    await asyncio.sleep(0.001)
    return REFUSED


def until(moment: float, before: Script, after: Script) -> Script:
    """One script up to so many seconds of the run, then the other."""

    async def script(attempt: Attempt) -> Reply | Fault:
        return await (before if asyncio.get_running_loop().time() < 1000.0 + moment else after)(attempt)

    return script


async def prompt(_attempt: Attempt) -> Reply:
    await asyncio.sleep(0.5)
    return good()


def ran(
    stopping: Stopping, *scripts: Script, lines: int = LINES, timeouts: Timeouts = LEARNED, max_attempts: int = 8
) -> tuple[Engine, float]:
    """The engine after a run of `lines` requests, and how long that took."""

    async def main() -> tuple[Engine, float]:
        requests = [chat(n) for n in range(1, lines + 1)]
        engine = engine_for(requests, *scripts, chance=lambda: 0.5, max_attempts=max_attempts)
        settings = Settings(stopping=stopping, timeouts=timeouts)
        await engine.run(capped(settings, engine, Meter(0.0), Prices({})))
        return engine, asyncio.get_running_loop().time() - 1000.0

    engine, took = run_virtual(main)
    return engine, took


def test_an_endpoint_that_was_never_there_is_given_a_minute() -> None:
    engine, took = ran(Stopping(), refused)
    assert engine.stopping.startswith("no endpoint has answered yet, for 6")
    assert engine.stopping.endswith("[E305] (a: connection refused)")
    assert engine.scheduler.open == LINES, "every line stays pending"
    assert took == pytest.approx(61, abs=1.5)


def test_an_endpoint_that_goes_away_is_given_max_outage() -> None:
    engine, took = ran(Stopping(max_outage=600), until(2.0, prompt, refused), lines=400)
    assert re.match(r"no endpoint has answered for 60\d s \[E305\] \(a: connection refused\)", engine.stopping)
    assert took == pytest.approx(603, abs=2)
    assert engine.scheduler.open


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(502, {}, b"<html><title>502 Bad Gateway</title></html>"), "502 Bad Gateway"),
        (Reply(500, {}, b'{"error":{"message":"boom"}}'), "boom"),
    ],
)
def test_errors_of_a_gateway_or_server_are_no_answers_however_long_they_come(reply: Reply, words: str) -> None:
    async def broken(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.01)
        return reply

    engine, took = ran(Stopping(max_outage=600), broken)
    assert engine.stopping == f"no endpoint has answered for {engine.stopping.split()[5]} s [E305] (a: {words})"
    assert took == pytest.approx(603, abs=6), "not the first minute only: somebody is there"
    assert engine.scheduler.open == LINES
    assert ran(Stopping(max_outage=600), until(300.0, broken, prompt))[0].stopping == ""


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}])
@pytest.mark.parametrize("first", [1, LINES])
def test_a_model_that_is_being_loaded_for_ever_is_no_answer_either(first: int, headers: Mapping[str, str]) -> None:
    async def loading(attempt: Attempt) -> Reply:
        await asyncio.sleep(0.01)
        loads = attempt.request.line >= first
        return Reply(503, headers, b'{"error":{"message":"Loading model"}}') if loads else good()

    engine, took = ran(Stopping(max_outage=600), loading)
    assert re.match(r"no endpoint has answered for 60\d s \[E305\] \(a: Loading model\)", engine.stopping)
    assert (engine.scheduler.open, took) == (LINES + 1 - first, pytest.approx(605, abs=10))
    assert ran(Stopping(max_outage=600), until(300.0, loading, prompt))[0].scheduler.open == 0


def test_an_endpoint_that_is_only_busy_is_waited_for() -> None:
    async def busy(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.01)
        return Reply(529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')

    assert ran(Stopping(max_outage=600), until(3000.0, busy, prompt))[0].stopping == ""


@pytest.mark.parametrize(("first", "lines"), [(1, 20), (LINES - 1, LINES)])
def test_the_last_few_lines_wait_for_a_busy_endpoint_no_longer_than_for_another(first: int, lines: int) -> None:
    async def busy(attempt: Attempt) -> Reply:
        await asyncio.sleep(0.01)
        return Reply(503, {}, b'{"error":{"message":"busy"}}') if attempt.request.line >= first else good()

    engine, took = ran(Stopping(max_outage=600), busy, lines=lines)
    assert re.match(r"no endpoint has answered for 60\d s \[E305\] \(a: busy\)", engine.stopping)
    assert (engine.scheduler.open, took) == (lines + 1 - first, pytest.approx(603, abs=6))
    assert ran(Stopping(max_outage=600), until(500.0, busy, prompt), lines=lines)[0].scheduler.open == 0


def test_max_outage_also_shortens_the_first_minute() -> None:
    assert ran(Stopping(max_outage=10), refused)[1] == pytest.approx(11, abs=1.5)


def test_without_max_outage_nobody_gives_up() -> None:
    engine, took = ran(Stopping(max_outage=0), until(5000.0, refused, prompt))
    assert (engine.stopping, engine.scheduler.open) == ("", 0)
    assert took > 5000


def test_a18_an_endpoint_that_comes_back_in_time_finishes_the_job() -> None:
    engine, _ = ran(Stopping(), until(20.0, refused, prompt))
    assert (engine.stopping, engine.scheduler.open) == ("", 0)


def test_each_outage_has_its_own_time() -> None:
    async def ill(attempt: Attempt) -> Reply | Fault:
        """Good for 60 s, away for 400 s, and so on."""
        return await (prompt if (asyncio.get_running_loop().time() - 1000.0) % 460 < 60 else refused)(attempt)

    engine, took = ran(Stopping(max_outage=500), ill, lines=2000)
    assert (engine.stopping, engine.scheduler.open) == ("", 0)
    assert took > 800, "there was more than one outage"


def given_up(after: float) -> Script:
    """A server that is slower than the deadline, which passes after so many seconds."""

    async def script(_attempt: Attempt) -> Fault:
        await asyncio.sleep(after)
        return Fault(Cause.TIMEOUT, Phase.FIRST_BYTE, "first byte: given up", Timing(total=after))

    return script


@pytest.mark.parametrize(
    ("timeouts", "typed", "took"),
    [
        (Timeouts(timeout=1.0), "--timeout 1s", 12),
        (Timeouts(first_byte_timeout=0.5, timeout=20.0), "--first-byte-timeout 0.5s", 7),
        (Timeouts(max_timeout=2.0), "--max-timeout 2s", 24),
        (Timeouts(timeout=20.0), "--timeout 20s", 81),
    ],
)
def test_a_deadline_of_ones_own_that_ends_all_is_blamed_and_soon(timeouts: Timeouts, typed: str, took: float) -> None:
    engine, seconds = ran(Stopping(), given_up(float(typed.split()[1][:-1])), timeouts=timeouts)
    blamed = rf"and {re.escape(typed)} ended all [0-9]+ attempts: allow more \[E305\] \(a: first byte: given up\)"
    assert re.search(blamed, engine.stopping), engine.stopping
    assert engine.scheduler.open == LINES, "every line stays pending"
    assert seconds == pytest.approx(took, abs=4)


@pytest.mark.parametrize(
    ("timeouts", "scripts"),
    [
        (LEARNED, [given_up(60.0)]),
        (Timeouts(timeout=60.0), [given_up(60.0)]),
        (Timeouts(timeout=1.0), [given_up(1.0), refused]),
        (Timeouts(timeout=1.0), [until(0.5, refused, given_up(1.0))]),
        (Timeouts(timeout=1.0), [until(0.5, given_up(1.0), refused)]),
    ],
)
def test_no_deadline_is_blamed_that_is_long_learned_or_not_alone(timeouts: Timeouts, scripts: list[Script]) -> None:
    engine, seconds = ran(Stopping(), *scripts, timeouts=timeouts)
    assert "[E305]" in engine.stopping
    assert "ended all" not in engine.stopping
    assert seconds > 60


def test_what_every_endpoint_said_is_told() -> None:
    async def unknown(_attempt: Attempt) -> Fault:
        await asyncio.sleep(0.002)
        return Fault(Cause.DNS, Phase.CONNECT, "no such host")

    engine, _ = ran(Stopping(), refused, unknown)
    assert engine.stopping.endswith("(a: connection refused; b: no such host)")


def test_one_endpoint_that_answers_is_enough() -> None:
    async def steady(_attempt: Attempt) -> Reply:
        await asyncio.sleep(2.0)
        return good()

    engine, took = ran(Stopping(), refused, steady, lines=500)
    assert (engine.stopping, engine.scheduler.open) == ("", 0)
    assert took > 100


def test_an_error_is_an_answer() -> None:
    async def broken(_attempt: Attempt) -> Reply:
        return Reply(503, {}, b'{"error":{"message":"down for maintenance"}}')

    engine, took = ran(Stopping(max_outage=100), until(500.0, broken, prompt))
    assert (engine.stopping, engine.scheduler.open) == ("", 0)
    assert took > 500


def test_a_slow_first_answer_is_no_outage_even_beside_a_lost_connection() -> None:
    """A model that is being loaded holds every request; one that was dropped on the way does not condemn it."""

    async def loading(attempt: Attempt) -> Reply | Fault:
        if attempt.request.line == 1 and attempt.number == 1:
            return Fault(Cause.RESET, Phase.FIRST_BYTE, "connection reset")
        await asyncio.sleep(150.0)
        return good()

    engine, _ = ran(Stopping(), loading)
    assert (engine.stopping, engine.scheduler.open) == ("", 0)


def test_a_long_pause_asked_for_is_no_outage() -> None:
    async def throttled(attempt: Attempt) -> Reply:
        return Reply(429, {"retry-after": "300"}, b"") if attempt.number == 1 else good()

    engine, took = ran(Stopping(max_outage=60), throttled)
    assert (engine.stopping, engine.scheduler.open) == ("", 0)
    assert took > 300


@pytest.mark.parametrize(
    ("stopping", "silent", "ever", "stops"),
    [
        (Stopping(), 0.0, False, False),
        (Stopping(), 59.9, False, False),
        (Stopping(), 60.0, False, True),
        (Stopping(), 60.0, True, False),
        (Stopping(), 1799.0, True, False),
        (Stopping(), 1800.0, True, True),
        (Stopping(max_outage=5), 5.0, False, True),
        (Stopping(max_outage=5), 4.9, True, False),
        (Stopping(max_outage=0), 1e9, False, False),
    ],
)
def test_when_an_outage_ends_a_run(stopping: Stopping, silent: float, ever: bool, stops: bool) -> None:
    silence = Silence(LEARNED)
    if silent:
        silence(event(0.0, Kind.CONNECT))
    silence.heard = {"a"} if ever else {"b"}
    assert bool(outage(stopping, silence, {"a"}, [], silent)) == stops


def event(at: float, kind: Kind, status: int = 0, name: str = "a") -> Event:
    attempt = Attempt(chat(1), name, 1, at, None)  # type: ignore[arg-type]  # deadlines do not matter here
    return Event(at, attempt, Outcome(kind, status, message=f"{kind} at {name}"))


def test_silence_begins_with_the_first_fault_and_ends_with_any_answer() -> None:
    silence = Silence(LEARNED)
    silence(Event(1.0, None, None))
    silence(event(2.0, Kind.LOCAL))
    assert silence.spells == {}, "a fault of this machine says nothing of the endpoints"
    silence(event(3.0, Kind.CONNECT))
    silence(event(4.0, Kind.NETWORK, name="b"))
    silence(event(4.2, Kind.CONNECT, name="b"))
    assert silence.spells == {"a": Spell(3.0, None, 1, "connect at a"), "b": Spell(4.0, None, 2, "connect at b")}
    assert silence.heard == set()
    silence(event(4.3, Kind.DENIED, 401))
    silence(event(4.4, Kind.QUOTA, 402, name="c"))
    assert (silence.spells["a"].attempts, set(silence.spells)) == (1, {"a", "b"}), "a refusal is neither"
    silence(event(4.5, Kind.SERVER_ERROR, 500))
    assert (silence.spells["a"].since, silence.heard) == (3.0, {"a", "c"}), "somebody is there, who refuses or cannot answer"
    silence(event(5.0, Kind.REJECTED, 400))
    assert (silence.spells, silence.heard) == ({}, {"a", "c"})


# ---- one that is out of use, and another that is not there ----


def answers(status: int, message: str, code: str = "", headers: Mapping[str, str] = {}) -> Script:
    """A server that always says the same, quickly."""
    body = f'{{"error":{{"message":"{message}","code":"{code}"}}}}'.encode()

    async def script(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.05)
        return Reply(status, dict(headers), body)

    return script


def fails(cause: Cause, phase: Phase, after: float = 0.002) -> Script:
    async def script(_attempt: Attempt) -> Fault:
        await asyncio.sleep(after)
        return Fault(cause, phase, "gone", Timing(total=after))

    return script


KEY = answers(401, "bad key", "invalid_api_key")
USELESS = {
    "key": (KEY, "E301"),
    "forbidden": (answers(403, "not for you"), "E301"),
    "money": (answers(402, "pay"), "E302"),
    "quota": (answers(429, "pay", "insufficient_quota"), "E302"),
    "path": (answers(404, "Not Found"), "E304"),
    "model": (answers(404, "no such model", "model_not_found"), "E304"),
    "pause": (answers(429, "later", headers={"retry-after": "5000"}), "E305"),
}
GONE = {
    "down": fails(Cause.REFUSED, Phase.CONNECT),
    "unknown": fails(Cause.DNS, Phase.CONNECT),
    "tls": fails(Cause.TLS, Phase.CONNECT),
    "lost": fails(Cause.RESET, Phase.FIRST_BYTE),
    "no connection": fails(Cause.TIMEOUT, Phase.CONNECT, 10.0),
    "hanging": given_up(60.0),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("useless", USELESS)
def test_one_that_refuses_us_is_no_reason_to_wait_longer_for_one_that_is_not_there(useless: str, gone: str, place: int) -> None:
    refusing, code = USELESS[useless]
    _, alone = ran(Stopping(), GONE[gone])
    engine, took = ran(Stopping(), *((refusing, GONE[gone]) if place else (GONE[gone], refusing)))
    lost, here = "ab"[1 - place], "ab"[place]
    assert re.fullmatch(
        rf"{lost}\b.+ \[{code}\]; no other endpoint has answered yet, for [0-9]+ s \[E305\] \({here}: .+\)", engine.stopping
    ), engine.stopping
    assert engine.scheduler.open == LINES, "every line stays pending"
    assert took == pytest.approx(alone, abs=2.5), "as long as if it were alone"


@pytest.mark.parametrize(
    ("scripts", "said"),
    [
        ([KEY, USELESS["money"][0], refused], "ab"),
        ([refused, KEY, GONE["tls"]], "b"),
        ([GONE["unknown"], refused, KEY], "c"),
    ],
)
def test_of_three_endpoints_each_says_why_not(scripts: list[Script], said: str) -> None:
    engine, took = ran(Stopping(), *scripts)
    *lost, silent = engine.stopping.split("; ", len(said))
    assert [why[0] for why in lost] == list(said)
    assert sorted(re.findall(r"\b([abc]): ", silent)) == sorted(set("abc") - set(said))
    assert (engine.scheduler.open, took) == (LINES, pytest.approx(62, abs=2))


def test_all_that_refuse_stop_the_run_at_once() -> None:
    engine, took = ran(Stopping(), KEY, USELESS["money"][0], USELESS["path"][0])
    assert re.findall(r"E[0-9]{3}", engine.stopping) == ["E301", "E302", "E304"]
    assert (engine.scheduler.open, took < 1) == (LINES, True)


@pytest.mark.parametrize("useless", USELESS)
def test_one_that_had_served_is_no_reason_either(useless: str) -> None:
    """It goes out of use in the middle; the other was never there: rather a wrong address than an outage."""
    engine, took = ran(Stopping(), until(5.0, prompt, USELESS[useless][0]), refused, lines=400)
    assert re.search(r"; no other endpoint has answered yet, for 6\d s \[E305\] \(b: connection refused\)", engine.stopping)
    assert (engine.scheduler.open > 0, took) == (True, pytest.approx(68, abs=5))


@pytest.mark.parametrize("useless", USELESS)
def test_one_that_was_there_is_waited_for_as_if_alone(useless: str) -> None:
    """The rule for one endpoint in the middle of a run."""
    scripts = until(5.0, prompt, USELESS[useless][0]), until(10.0, prompt, refused)
    engine, took = ran(Stopping(max_outage=600), *scripts, lines=600)
    assert re.search(r"; no other endpoint has answered for 60\d s \[E305\] \(b: connection refused\)", engine.stopping)
    assert took == pytest.approx(611, abs=3)
    back = until(5.0, prompt, USELESS[useless][0]), until(10.0, prompt, until(500.0, refused, prompt))
    engine, _ = ran(Stopping(max_outage=600), *back, lines=600)
    assert engine.scheduler.open == 0


def test_one_that_comes_back_in_time_finishes_the_job_without_the_other() -> None:
    assert ran(Stopping(), KEY, until(40.0, refused, prompt))[0].scheduler.open == 0


@pytest.mark.parametrize("max_attempts", [1, 8])
@pytest.mark.parametrize("lines", [1, 3, LINES])
@pytest.mark.parametrize("gone", ["down", "unknown", "tls", "lost", "no connection"])
def test_no_line_fails_where_nobody_has_ever_answered(gone: str, lines: int, max_attempts: int) -> None:
    engine, took = ran(Stopping(), GONE[gone], lines=lines, max_attempts=max_attempts)
    assert engine.stopping.startswith("no endpoint has answered yet, for ")
    assert engine.scheduler.open == lines, "every line stays pending"
    assert took == pytest.approx(75 if gone == "no connection" else 61, abs=10)
    comes, _ = ran(Stopping(), until(50.0, GONE[gone], prompt), lines=lines, max_attempts=max_attempts)
    assert (comes.stopping, comes.scheduler.open) == ("", 0)


@pytest.mark.parametrize("gone", ["down", "unknown", "tls", "lost", "no connection"])
def test_a_line_that_alone_is_never_answered_fails_all_the_same(gone: str) -> None:
    async def particular(attempt: Attempt) -> Reply | Fault:
        return await (GONE[gone] if attempt.request.line == 7 else prompt)(attempt)

    engine, _ = ran(Stopping(), particular, lines=400)
    assert (engine.stopping, engine.scheduler.open) == ("", 0)


def test_a_server_that_only_fails_is_there_whoever_else_is_not() -> None:
    """It is not the first minute's affair, but what its errors may cost ends that; both reasons are told."""
    engine, took = ran(Stopping(), KEY, answers(500, "boom"))
    assert re.findall(r"E[0-9]{3}", engine.stopping) == ["E301", "E309"]
    assert (engine.scheduler.open, took > 600) == (LINES, True)


def test_a_line_that_only_one_may_still_answer_that_is_not_there() -> None:
    """The first serves all others and is not out of use; for what it refuses it is no help."""

    async def particular(attempt: Attempt) -> Reply:
        await asyncio.sleep(0.05)
        return Reply(404, {}, b'{"error":{"message":"Not Found"}}') if attempt.request.line == 20 else good()

    engine, took = ran(Stopping(), particular, refused)
    assert re.fullmatch(r"no other endpoint has answered yet, for 6\d s \[E305\] \(b: connection refused\)", engine.stopping)
    assert (engine.scheduler.open, took) == (1, pytest.approx(70, abs=5))


def test_a_short_deadline_of_ones_own_is_blamed_beside_one_that_refuses() -> None:
    engine, took = ran(Stopping(), KEY, given_up(1.0), timeouts=Timeouts(timeout=1.0))
    assert re.search(r"\[E301\]; no other .+, and --timeout 1s ended all [0-9]+ attempts: allow more \[E305\]", engine.stopping)
    assert took == pytest.approx(12, abs=4)


def test_what_one_out_of_use_had_failed_at_is_no_spell_of_another() -> None:
    silence = Silence(LEARNED)
    silence(event(0.0, Kind.CONNECT))
    silence(event(100.0, Kind.CONNECT, name="b"))
    assert outage(Stopping(), silence, {"b"}, ["a: bad key"], 110.0) == "", "it has its own minute"
    said = outage(Stopping(), silence, {"b"}, ["a: bad key"], 160.0)
    assert said == "a: bad key; no other endpoint has answered yet, for 60 s [E305] (b: connect at b)"
