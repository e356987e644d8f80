"""How a process says that it is doing."""

import time
from pathlib import Path

import pytest

from batchrunner import vitals
from batchrunner.vitals import Demand


class Clock:
    """Tells what it is set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_waits_for_a_core_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, clock = tmp_path / "schedstat", Clock()
    monkeypatch.setattr(vitals, "_TURNS", turns)
    turns.write_text("5000000000 1000000000 7\n")
    demand = Demand(clock)
    seen = []
    for ran, waited in ((5_200_000_000, 1_050_000_000), (5_200_000_000, 1_050_000_000), (5_250_000_000, 1_250_000_000)):
        clock.now += 0.5
        turns.write_text(f"{ran} {waited} 8\n")
        seen.append(round(demand.taken(), 6))
    assert seen == [0.5, 0.0, 0.5]


def test_where_the_system_is_silent_the_time_on_a_core_must_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "_TURNS", tmp_path / "missing")
    clock, ran = Clock(), iter([3.0, 3.125])
    monkeypatch.setattr(time, "process_time", lambda: next(ran))
    demand = Demand(clock)
    clock.now += 0.25
    assert demand.taken() == 0.5
