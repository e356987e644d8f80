"""The tally counts each event once, and cheaply many of them."""

from typing import Any

from batchrunner.core import tally as room
from batchrunner.core.buckets import bucket, quantile
from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Result, Timing, Usage
from batchrunner.core.tally import Tally
from tests.virtual import chat


def event(kind: Kind = Kind.OK, seconds: float = 1.0, line: int = 1, kills: int = 0, final: bool = True, **outcome: Any) -> Event:
    request = chat(line, model=outcome.pop("model", "m"), body=outcome.pop("body", b"x" * 400))
    attempt = Attempt(request, outcome.pop("endpoint", "a"), 1 + kills, 0.0, Deadlines(1, 1, 1, 1), kills)
    timing = outcome.pop("timing", Timing(0.1, 0.6 * seconds, seconds, 0.0, False))
    result = Result(request=request, kind=kind) if final else None
    return Event(seconds, attempt, Outcome(kind, timing=timing, **outcome), result)


def test_phases_are_taken_apart() -> None:
    tally = Tally()
    tally(event(seconds=1.0))
    phases, deaths, kills = tally.lanes["a"].taken()
    assert {name: list(table) for name, table in phases.items()} == {
        "connect": [bucket(0.1)],
        "first_byte": [bucket(0.5)],
        "body": [bucket(0.4)],
        "total": [bucket(1.0)],
    }
    assert (deaths, kills) == ({}, {})
    assert tally.lanes["a"].taken() == ({}, {}, {})
    assert (tally.lanes["a"].attempts, tally.lanes["a"].succeeded) == (1, 1)


def test_a_reused_connection_was_not_made() -> None:
    tally = Tally()
    tally(event(timing=Timing(0.0, 0.5, 1.0, 0.0, True)))
    assert "connect" not in tally.lanes["a"].taken()[0]


def test_at_high_rates_one_stands_for_many() -> None:
    tally = Tally()
    for _ in range(100_000):
        tally(event())
    tally.adapt(10.0)
    assert tally.stride == 20
    tally.lanes["a"].taken()
    for _ in range(10_000):
        tally(event(seconds=2.0))
    total = tally.lanes["a"].taken()[0]["total"]
    assert sum(total.values()) == 10_000
    assert abs(quantile(total, 0.5) - 2.0) < 0.1
    assert tally.lanes["a"].succeeded == 110_000
    tally.adapt(10.0)
    tally.adapt(10.0)
    assert tally.stride == 1


def test_deaths_are_what_others_did_and_kills_what_we_did() -> None:
    tally = Tally()
    tally(event(Kind.NETWORK, 60.0, code="reset"))
    tally(event(Kind.TRUNCATED, 60.0, status=200))
    tally(event(Kind.GATEWAY, 60.0, status=504))
    tally(event(Kind.GATEWAY, 0.1, status=500))
    tally(event(Kind.TIMEOUT_TOTAL, 30.0, final=False, code="timeout"))
    tally(event(Kind.RATE_LIMITED, 0.1, final=False, status=429))
    lane = tally.lanes["a"]
    assert lane.pushed_back == 1
    _, deaths, kills = lane.taken()
    assert deaths == {bucket(60.0): 3}
    assert kills == {bucket(30.0): 1}
    assert tally.causes == {"reset": 1, "timeout": 1}


def test_kills_are_judged_by_what_came_of_the_request() -> None:
    tally = Tally()
    for line in (1, 2, 3):
        tally(event(Kind.TIMEOUT_TOTAL, 10.0, line, final=False))
    tally(event(seconds=1.0, line=1, kills=1))  # answered quickly: it had been dead
    tally(event(seconds=11.0, line=2, kills=1))  # takes its time: it would have been answered
    tally(event(Kind.REJECTED, 1.0, 3, kills=1))  # nobody knows
    judged = tally.judged()
    assert (judged.kills, judged.right, judged.wrong) == (3, 1, 1)
    assert (judged.held, judged.worked) == (30.0, 12.0)
    assert not tally._killed


def test_what_is_remembered_of_kills_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "KILLED", 10)
    tally = Tally()
    for line in range(50):
        tally(event(Kind.TIMEOUT_TOTAL, 1.0, line, final=False))
    assert len(tally._killed) == 10
    assert tally.judged().kills == 50


def test_sizes_are_powers_of_four() -> None:
    tally = Tally()
    tally(event(body=b"x" * 4 * 4, usage=Usage(4, 3)))  # 4 tokens
    tally(event(body=b"x" * 4 * 15, usage=Usage(15, 16)))
    tally(event(Kind.TIMEOUT_TOTAL, body=b"x" * 4 * 64))
    tally(event(body=b""))
    assert [(size.tokens, size.good, size.killed) for size in tally.prompts()] == [(1, 1, 0), (4, 2, 0), (64, 0, 1)]
    assert [(size.tokens, size.good) for size in tally.answers()] == [(1, 1), (16, 1)]


def test_money_by_endpoint_and_model() -> None:
    tally = Tally()
    tally(event(usage=Usage(10, 20, 0.5)))
    tally(event(usage=Usage(1, 2, 0.25)))
    tally(event(usage=Usage(5, 5), endpoint="b", model="n"))
    first, second = tally.spend()
    assert (first.endpoint, first.model, first.requests, first.input, first.output, first.told) == ("a", "m", 2, 11, 22, 0.75)
    assert (second.endpoint, second.model, second.told) == ("b", "n", None)


def test_models_without_end_are_counted_together(monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "MODELS", 3)
    tally = Tally()
    for number in range(20):
        tally(event(usage=Usage(1, 1), model=f"m{number}"))
    spends = {each.model: each.requests for each in tally.spend()}
    assert spends == {"m0": 1, "m1": 1, "m2": 1, "": 17}
