"""Processes beside us: when they start, and where they may run."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import cast

import pytest

from batchrunner import beside
from batchrunner.beside import Process, apart, early, started

USABLE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
needs_cores = pytest.mark.skipif(len(USABLE) < 2, reason="there is one core, or the system does not tell")


@pytest.fixture
def child() -> Iterator[Process]:
    """A process that waits for the end of its input."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@needs_cores
def test_a_process_is_kept_off_one_core_as_the_system_really_tells_it(child: Process) -> None:
    apart(child)
    assert len(USABLE - os.sched_getaffinity(child.pid)) == 1


@needs_cores
def test_where_we_have_one_core_a_process_stays_where_it_is(child: Process) -> None:
    os.sched_setaffinity(0, {min(USABLE)})
    try:
        apart(child)
        assert os.sched_getaffinity(child.pid) == USABLE
    finally:
        os.sched_setaffinity(0, USABLE)


@needs_cores
def test_the_core_is_ours_as_the_system_tells_it(child: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    core = max(USABLE)
    fields = "1 (a) name) S " + " ".join(["0"] * 35 + [str(core), "0"])
    monkeypatch.setattr(beside, "_STANDING", _Told(fields))
    apart(child)
    assert os.sched_getaffinity(child.pid) == USABLE - {core}


@needs_cores
@pytest.mark.parametrize("told", ["", "1 (name) S 0", "1 (name) S " + "x " * 40])
def test_where_nothing_is_told_a_process_stays_where_it_is(child: Process, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setattr(beside, "_STANDING", _Told(told))
    apart(child)
    assert os.sched_getaffinity(child.pid) == USABLE


class _Told:
    def __init__(self, text: str) -> None:
        self._text = text

    def read_text(self) -> str:
        return self._text


class _Started:
    """What stands for processes that are started: which, and what became of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.made: list[int] = []
        self.over: list[object] = []

    def __call__(self, *_: object) -> tuple[object, object]:
        if len(self.made) == self.most:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.made.append(len(self.made))
        return _End(self, self.made[-1]), _Child(self, self.made[-1])

    def take(self, room: str = "a.room", *words: str, environ: Mapping[str, str] = os.environ) -> int:
        end, _ = started(room, *words, environ=environ)
        return cast(_End, end).number


class _End:
    def __init__(self, told: _Started, number: int) -> None:
        self.told, self.number = told, number

    def close(self) -> None:
        self.told.over.append(("closed", self.number))


class _Child(_End):
    def kill(self) -> None:
        self.told.over.append(("killed", self.number))

    def wait(self) -> None:
        self.told.over.append(("reaped", self.number))


def few(monkeypatch: pytest.MonkeyPatch, most: int = 100) -> _Started:
    told = _Started(most)
    monkeypatch.setattr(beside, "_start", told)
    return told


def test_what_was_started_early_is_what_is_wanted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    told = few(monkeypatch)
    with early("a.room", 2):
        assert told.made == [0, 1]
        assert {told.take(), told.take()} == {0, 1}
        assert told.take() == 2, "there are no more of them"
    assert told.over == [], "whoever took them ends them"


def test_only_what_is_quite_the_same_was_started_early(monkeypatch: pytest.MonkeyPatch) -> None:
    told = few(monkeypatch)
    with early("a.room", 1):
        assert [told.take("another.room"), told.take("a.room", "word"), told.take(environ=dict(os.environ))] == [1, 2, 3]
        assert told.take() == 0


def test_what_nobody_wanted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told = few(monkeypatch)
    with early("a.room", 2):
        told.take()
    assert told.over == [("closed", 0), ("killed", 0), ("reaped", 0)]
    assert told.take() == 2


def test_that_none_can_be_started_is_told_to_whoever_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = few(monkeypatch, most=1)
    with early("a.room", 3):
        assert told.take() == 0
        with pytest.raises(BlockingIOError):
            told.take()
