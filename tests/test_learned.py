"""Memory of last time: kept beside the job, believed only when it fits, and never needed."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner import __version__
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Kind, Outcome, Result, Timing
from batchrunner.core.pace import Pacing
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from batchrunner.learned import KEPT, Memory
from tests.virtual import chat

URLS = {"h": "http://h/v1?key=sesame"}
NOW = 1e9


def scheduler() -> Scheduler:
    return Scheduler([Endpoint("h", "http://h/v1", Limit(Concurrency()))], Retries(), Timeouts(), 1000)


def worked(room: Scheduler, answers: int, seconds: float = 0.5) -> Scheduler:
    for line in range(answers):
        room.offer(chat(line, max_tokens=100))
        sent = room.next("h", 0.0)
        assert isinstance(sent, Attempt)
        outcome = Outcome(Kind.OK, 200, body=b"{}", timing=Timing(0.0, seconds, seconds))
        assert isinstance(room.settle(sent, outcome, seconds, 0.5), Result)
    return room


def memory(folder: Path | None, at: float = NOW, model: str = "", urls: Mapping[str, str] = URLS) -> Memory:
    return Memory(folder, model, urls, lambda: at)


def deadline(room: Scheduler) -> tuple[float, str]:
    room.offer(chat(10**6, max_tokens=100))
    sent = room.next("h", 0.0)
    assert isinstance(sent, Attempt)
    return room.in_force(sent)[1:]


def recalled(folder: Path, **how: Any) -> float:
    room = scheduler()
    memory(folder, **how).recall(room)
    return deadline(room)[0]


COLD = deadline(scheduler())[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run whose answers took half a second."""
    memory(tmp_path).keep(worked(scheduler(), 400))
    return tmp_path


def test_the_next_run_begins_with_what_the_last_one_knew(folder: Path) -> None:
    assert deadline(worked(scheduler(), 250))[0] == pytest.approx(1.0)
    assert recalled(folder) == pytest.approx(1.0, rel=1e-3)
    assert COLD > 30.0


@pytest.mark.parametrize(
    "how",
    [
        {"at": NOW + KEPT + 1},
        {"at": NOW - 1},
        {"model": "other"},
        {"urls": {"h": "http://other/v1"}},
        {"urls": {"x": "http://h/v1"}},
    ],
    ids=str,
)
def test_stale_and_foreign_memories_are_passed_over(folder: Path, how: dict[str, Any]) -> None:
    room = scheduler()
    memory(folder, **{"urls": URLS, **how}).recall(room)
    assert deadline(room)[0] == COLD


def test_a_memory_of_another_version_is_passed_over(folder: Path) -> None:
    path = folder / "learned.json"
    path.write_text(path.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    assert recalled(folder) == COLD


@pytest.mark.parametrize("bite", ["", "[]", "{", "\x00", '{"version":"x"}', "half", "negative"])
def test_a_broken_memory_is_passed_over(folder: Path, bite: str) -> None:
    path = folder / "learned.json"
    whole = path.read_text()
    path.write_text({"half": whole[: len(whole) // 2], "negative": whole.replace("[0.", "[-0.")}.get(bite, bite))
    assert recalled(folder) == COLD


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "learned.json").symlink_to(tmp_path / "victim")
    memory(tmp_path).keep(worked(scheduler(), 30))
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "learned.json").is_symlink()


def test_what_cannot_be_written_is_not_missed(tmp_path: Path) -> None:
    memory(tmp_path / "gone").keep(worked(scheduler(), 30))
    memory(None).keep(worked(scheduler(), 30))
    assert memory(None).chores(scheduler()) == []


def test_what_an_endpoint_sustained_is_known_and_only_of_the_models_asked_most(tmp_path: Path) -> None:
    room = scheduler()
    for line in range(260):
        model = f"m{line}" if line < 60 else "m"
        room.offer(chat(line, model=model))
        sent = [room.next("h", 0.0)]
        room.endpoints[0].inflight += 200
        room.settle(sent[0], Outcome(Kind.OK, 200, body=b"{}", timing=Timing(0.0, 1.0, 1.0)), 1.0, 0.5)  # type: ignore[arg-type]
        room.endpoints[0].inflight -= 200
    memory(tmp_path).keep(room)
    kept = json.loads((tmp_path / "learned.json").read_text())["endpoints"]["h http://h/v1"]
    assert len(kept["answers"]) == 50
    assert kept["answers"][0]["model"] == "m"
    later = scheduler()
    memory(tmp_path).recall(later)
    assert later.endpoints[0].limit.size == room.endpoints[0].limit.size // 2 > 100


def test_a_rate_that_was_found_is_known_and_the_users_is_his_own(tmp_path: Path) -> None:
    room = worked(scheduler(), 1)
    room.endpoints[0].pace("m").warm(40.0)
    memory(tmp_path).keep(room)
    later = scheduler()
    memory(tmp_path).recall(later)
    assert later.endpoints[0].rate == 40.0
    told = Scheduler([Endpoint("h", "http://h/v1", Limit(Concurrency()), pacing=Pacing(rpm=60))], Retries(), Timeouts(), 1000)
    memory(tmp_path).recall(told)
    assert told.endpoints[0].rate == 1.0
    assert told.experience.learned("h", 0.0, last=True).rates == {}


def by_the_day(rpd: int) -> Scheduler:
    return Scheduler([Endpoint("h", "http://h/v1", Limit(Concurrency()), pacing=Pacing(rpd=rpd))], Retries(), Timeouts(), 1000)


def sent(room: Scheduler, most: int, now: float) -> int:
    """As many as may go out now, but no more than that."""
    for count in range(most):
        room.offer(chat(1000 + count))
        step = room.next("h", now)
        if not isinstance(step, Attempt):
            return count
        room.settle(step, Outcome(Kind.OK, 200, body=b"{}", timing=Timing(0.0, 0.1, 0.1)), now + 0.1, 0.5)
    return most


def test_a_day_is_counted_over_all_runs(tmp_path: Path) -> None:
    first = by_the_day(10)
    assert sent(first, 6, 500.0) == 6
    Memory(tmp_path, "", URLS, lambda: NOW, lambda: 500.0).keep(first)
    second = by_the_day(10)
    Memory(tmp_path, "", URLS, lambda: NOW + 3600.0, lambda: 7.0).recall(second)
    assert sent(second, 9, 7.0) == 4
    Memory(tmp_path, "", URLS, lambda: NOW + 3600.0, lambda: 7.0).keep(second)
    third = by_the_day(10)
    Memory(tmp_path, "", URLS, lambda: NOW + 91_000.0, lambda: 7.0).recall(third)
    assert sent(third, 9, 7.0) == 6, "those of the first run, and no others, are more than a day old"


def test_a_run_that_is_killed_leaves_no_fewer_than_it_has_sent(tmp_path: Path) -> None:
    first = by_the_day(100)
    memory = Memory(tmp_path, "", URLS, lambda: NOW, lambda: 500.0)
    [chore] = memory.chores(first)
    assert chore.every == 1.0
    for _ in range(3):
        assert sent(first, 20, 500.0) == 20
        asyncio.run(chore.work())  # type: ignore[arg-type]
    assert sent(first, 20, 500.0) == 20  # and then it is killed
    second = by_the_day(100)
    memory.recall(second)
    assert sent(second, 90, 500.0) == 20


def test_it_holds_no_query_and_is_for_its_owner_alone(folder: Path) -> None:
    path = folder / "learned.json"
    assert "sesame" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) < 10_000


def test_a_run_that_sent_nothing_keeps_the_old_memory(folder: Path) -> None:
    before = (folder / "learned.json").read_bytes()
    memory(folder, at=NOW + 5).keep(scheduler())
    assert (folder / "learned.json").read_bytes() == before


def test_it_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    [chore] = memory(tmp_path).chores(worked(scheduler(), 30))
    asyncio.run(chore.work())  # type: ignore[arg-type]
    assert json.loads((tmp_path / "learned.json").read_text())["version"] == __version__
