"""Lines that fail where others are answered, and outages at the end of a job, which look the same. On virtual time."""

import asyncio
from random import Random

import pytest

from batchrunner.core.model import Attempt, Kind, Reply
from batchrunner.core.retry import Spent
from batchrunner.core.suspicion import FEW, MINUTES, Suspicion
from tests.virtual import Script, chat, good, poison, ran

BUSY = Reply(503, {}, b'{"error":{"message":"busy"}}')
OVERLOADED = Reply(529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
BROKEN = Reply(500, {}, b'{"error":{"message":"boom"}}')
GATEWAY = Reply(502, {}, b"<html><title>502 Bad Gateway</title></html>")


@pytest.mark.parametrize("reply", [BUSY, OVERLOADED, BROKEN, GATEWAY])
@pytest.mark.parametrize("lines", [{49, 50}, {3, 30, 60, 90}])
def test_lines_that_fail_each_time_are_given_up_though_nobody_else_is_left(lines: set[int], reply: Reply) -> None:
    run = ran(100, poison(lines, reply))
    assert set(run.failed) == lines
    assert max(run.sent.values()) <= 32
    assert run.took < MINUTES + 120.0
    assert run.took > MINUTES or reply not in {BUSY, OVERLOADED}, "it may be an outage after all"


def outage(begins: float, lasts: float, share: float, reply: Reply) -> Script:
    """Answers within a second, but for this share, and for an outage in which all fail at once."""
    chance = Random(11)

    async def script(_attempt: Attempt) -> Reply:
        now, bad = asyncio.get_running_loop().time() - 1000.0, chance.random() < share
        if begins <= now < begins + lasts:
            await asyncio.sleep(0.02)
            return reply
        await asyncio.sleep(0.5 + chance.random() / 2)
        return reply if bad else good()

    return script


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "lasts"), [(0.0, 2000.0), (0.05, MINUTES), (0.3, 1000.0)])
@pytest.mark.parametrize("begins", [6.0, 17.0, 18.0])
def test_an_outage_at_the_end_costs_no_line(begins: float, share: float, lasts: float, seed: int) -> None:
    assert ran(200, outage(begins, lasts, share, BUSY), seed=seed).failed == {}


def attempt(line: int, started: float, endpoint: str = "a", model: str = "m") -> Attempt:
    return Attempt(chat(line, model=model), endpoint, 1, started, None)  # type: ignore[arg-type]  # deadlines do not matter here


def suspected(*answered: Attempt, first: Kind = Kind.OVERLOADED) -> bool:
    """Whether a line is suspect that was sent at 10 s and at 20 s, and failed."""
    suspicion, spent = Suspicion(), Spent()
    for line in range(2 * FEW):
        suspicion.answered(attempt(line, 0.0))
    assert not suspicion.failed(spent, attempt(100, 10.0), first)
    for each in answered:
        suspicion.answered(each)
    return suspicion.failed(spent, attempt(100, 20.0), Kind.OVERLOADED)


def test_whom_others_outlive_that_were_sent_later_is_suspect() -> None:
    assert suspected(attempt(1, 11.0))
    assert suspected(attempt(1, 11.0), attempt(2, 9.0))
    assert not suspected()
    assert not suspected(attempt(1, 9.0)), "an outage may have begun between the two"
    assert not suspected(attempt(1, 11.0, "b")), "another endpoint may have none"
    assert not suspected(attempt(1, 11.0, model="n"))
    assert not suspected(attempt(1, 11.0), first=Kind.CONNECT), "that is nobody's fault"


def test_nobody_is_suspect_where_many_fail() -> None:
    suspicion, lines = Suspicion(), [Spent() for _ in range(3)]
    for number, spent in enumerate(lines):
        suspicion.failed(spent, attempt(number, 1.0), Kind.SERVER_ERROR)
    for answers in range(1, 3 * FEW + 1):
        suspicion.answered(attempt(50 + answers, 2.0))
        assert suspicion.failed(lines[0], attempt(0, 3.0), Kind.SERVER_ERROR) == (answers == 3 * FEW)
