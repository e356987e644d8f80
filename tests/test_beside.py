"""Processes beside us: where they may run."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batchrunner import beside
from batchrunner.beside import Process, apart

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
