"""An endpoint that nobody answers at ends the run in order; one that is merely slow, busy or ill does not. On virtual time."""

import asyncio
import re

import pytest

from batchrunner.batch import _outage
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.model import Attempt, Cause, Event, Fault, Kind, Outcome, Phase, Reply, Timing
from batchrunner.core.stopping import Silence, Stopping, outage
from batchrunner.engine import Engine
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


def ran(stopping: Stopping, *scripts: Script, lines: int = LINES, timeouts: Timeouts = LEARNED) -> tuple[Engine, float]:
    """The engine after a run of `lines` requests, and how long that took."""

    async def main() -> tuple[Engine, float]:
        engine = engine_for([chat(n) for n in range(1, lines + 1)], *scripts, chance=lambda: 0.5)
        await engine.run(_outage(Settings(stopping=stopping, timeouts=timeouts), engine))
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


def test_an_endpoint_that_is_only_busy_is_waited_for() -> None:
    async def busy(_attempt: Attempt) -> Reply:
        await asyncio.sleep(0.01)
        return Reply(529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')

    assert ran(Stopping(max_outage=600), until(3000.0, busy, prompt))[0].stopping == ""


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
    silence.ever = ever
    assert bool(outage(stopping, silence, silent)) == stops


def event(at: float, kind: Kind, status: int = 0, name: str = "a") -> Event:
    attempt = Attempt(chat(1), name, 1, at, None)  # type: ignore[arg-type]  # deadlines do not matter here
    return Event(at, attempt, Outcome(kind, status, message=f"{kind} at {name}"))


def test_silence_begins_with_the_first_fault_and_ends_with_any_answer() -> None:
    silence = Silence(LEARNED)
    assert silence.seconds(5.0) == 0.0
    silence(Event(1.0, None, None))
    silence(event(2.0, Kind.LOCAL))
    assert silence.seconds(5.0) == 0.0, "a fault of this machine says nothing of the endpoints"
    silence(event(3.0, Kind.CONNECT))
    silence(event(4.0, Kind.NETWORK, name="b"))
    assert (silence.seconds(5.0), silence.ever) == (2.0, False)
    assert silence.said == {"a": "connect at a", "b": "network at b"}
    silence(event(4.5, Kind.SERVER_ERROR, 500))
    assert (silence.seconds(5.0), silence.ever) == (2.0, True), "somebody is there, who cannot answer"
    silence(event(5.0, Kind.REJECTED, 400))
    assert (silence.seconds(9.0), silence.ever, silence.said) == (0.0, True, {})
    silence(event(0.0, Kind.CONNECT))
    assert silence.seconds(7.0) == 7.0, "zero is a moment like any other"
