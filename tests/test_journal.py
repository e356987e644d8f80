"""The journal keeps what it was given: torn tails, full and broken disks, locks, planted files."""

import asyncio
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batchrunner import disk as disks
from batchrunner.disk import Disk
from batchrunner.errors import BatchError, FileError, UsageError
from batchrunner.journal import Durability, Journal, Paths


class Fast(Disk):
    """A disk that never loses its cache, so that syncs need no time."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


CALLS = [name for name in vars(Disk) if not name.startswith("_")]


class Faulty(Fast):
    """Fails call number `at`, or that and every later one. A failing write takes `part` of its bytes first."""

    def __init__(self, at: int, code: int, part: float = 0.0, forever: bool = False) -> None:
        self.at, self.code, self.part, self.forever = at, code, part, forever
        self.calls = 0
        self.failed = ""  # the call that did
        self.short = False

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        return (lambda *args: self._try(name, call, *args)) if name in CALLS else call

    def _try(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.calls += 1
        if not (self.calls == self.at or (self.forever and self.calls > self.at) or self.short):
            return call(*args)
        if name == "close":
            call(*args)  # Linux gives the descriptor back even so
        if name == "write" and self.part and not self.short:
            fd, record = args
            taken = call(fd, bytes(record)[: int(len(record) * self.part)])
            if self.part < 1:  # a short write now, the error at the next call
                self.short = True
                return taken
        self.short, self.failed = False, name
        raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "in.jsonl").write_text("a line\n")
    return Paths.of(tmp_path / "in.jsonl")


@pytest.fixture
def policy(tmp_path: Path) -> Durability:
    return Durability(spill_dir=str(tmp_path / "spill"))


def line(number: int, size: int = 20) -> bytes:
    return json.dumps({"n": number, "error": "x" * size}).encode() + b"\n"


def numbers(*files: Path) -> list[int]:
    """What the files hold; a torn or glued line fails here."""
    lines = [raw for file in files for raw in file.read_bytes().splitlines(keepends=True)]
    assert all(raw.endswith(b"\n") for raw in lines)
    return [json.loads(raw)["n"] for raw in lines]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- names


@pytest.mark.parametrize(
    ("name", "output", "results", "errors", "folder"),
    [
        ("input.jsonl", None, "input.results.jsonl", "input.errors.jsonl", "input.run"),
        ("input.jsonl.gz", None, "input.results.jsonl", "input.errors.jsonl", "input.run"),
        ("a.b.JSONL.zst", None, "a.b.results.jsonl", "a.b.errors.jsonl", "a.b.run"),
        ("prompts.txt", None, "prompts.txt.results.jsonl", "prompts.txt.errors.jsonl", "prompts.txt.run"),
        (".jsonl", None, ".jsonl.results.jsonl", ".jsonl.errors.jsonl", ".jsonl.run"),
        ("in.jsonl", "X.jsonl", "X.jsonl", "X.errors.jsonl", "X.run"),
        ("in.jsonl", "X", "X", "X.errors.jsonl", "X.run"),
        ("für alle.jsonl", None, "für alle.results.jsonl", "für alle.errors.jsonl", "für alle.run"),
    ],
)
def test_names(name: str, output: str | None, results: str, errors: str, folder: str) -> None:
    paths = Paths.of(Path("jobs") / name, Path("jobs") / output if output else None)
    assert (paths.results, paths.errors, paths.folder) == tuple(Path("jobs") / part for part in (results, errors, folder))
    assert paths.lock.parent == paths.checkpoint.parent == paths.torn.parent == paths.summary.parent == paths.folder


# -- opening


def test_everything_is_private_under_any_umask(paths: Paths, policy: Durability) -> None:
    before = os.umask(0)
    try:
        paths.results.write_bytes(line(1) + b"torn")
        with Journal.open(paths, policy) as journal:
            journal.append(line(2), False)
            journal.spill.put(line(3), True)
            journal.compact(False, lambda number: True)
    finally:
        os.umask(before)
    assert mode(paths.errors) == mode(paths.lock) == mode(paths.torn / f"{paths.results.name}.{len(line(1))}") == 0o600
    assert mode(paths.folder) == mode(paths.torn) == mode(journal.spill.folder) == 0o700
    assert mode(journal.spill.path(True)) == 0o600


def test_every_prefix_of_an_output_is_repaired_to_its_whole_records(paths: Paths, policy: Durability) -> None:
    whole = b"".join(line(number, 1 + number % 7) for number in range(40))
    for cut in range(len(whole) + 1):
        paths.results.write_bytes(whole[:cut])
        Journal.open(paths, policy, Fast()).close()
        end = whole.rfind(b"\n", 0, cut) + 1
        assert paths.results.read_bytes() == whole[:end]
        torn = paths.torn / f"{paths.results.name}.{end}"
        if end < cut:
            kept = [file.read_bytes() for file in paths.torn.glob(f"{torn.name}*")]
            assert whole[end:cut] in kept


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0" * 200_000, b'{"n": 7, "te\0\0\0\0', b"{" + b"x" * 300_000])
@pytest.mark.parametrize("good", [b"", line(1) + line(2)])
def test_zeros_and_long_tails_are_cut_and_kept(paths: Paths, policy: Durability, good: bytes, tail: bytes) -> None:
    paths.errors.write_bytes(good + tail)
    with Journal.open(paths, policy) as journal:
        journal.append(line(3), False)
    assert paths.errors.read_bytes() == good + line(3)
    assert (paths.torn / f"{paths.errors.name}.{len(good)}").read_bytes() == tail


def test_the_same_damage_is_kept_once_and_another_beside_it(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy) as journal:
        for raw in (b"one\n", b"one\n", b"two\n", b"two\n"):
            journal.set_aside(paths.results, 7, raw)
    assert sorted(file.read_bytes() for file in paths.torn.iterdir()) == [b"one\n", b"two\n"]


def plant_symlink(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def plant_hard_link(path: Path) -> None:
    path.with_name("victim").write_bytes(line(1))
    path.hardlink_to(path.with_name("victim"))


PLANTED: list[Callable[[Path], object]] = [
    plant_symlink,
    plant_hard_link,
    Path.mkdir,
    os.mkfifo,
    lambda path: path.write_text("Dear diary,\nnot a record"),
    lambda path: path.write_text('{"custom_id": "r-1", "url": "/v1/x", "body": {"response": 1}}\n'),
    lambda path: path.write_text('{"name": "Ada"}'),
    lambda path: path.write_text('{"name": "Ada"}\n{"na'),
    lambda path: path.write_text('{"name": "Ada"}\n' * 9000),
    lambda path: path.symlink_to("/dev/null"),
    lambda path: path.symlink_to(path),
]


@pytest.mark.parametrize("name", ["results", "errors"])
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_output_of_ours_is_refused_untouched(
    paths: Paths, policy: Durability, name: str, plant: Callable[[Path], object]
) -> None:
    path: Path = getattr(paths, name)
    plant(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError) as caught:
        Journal.open(paths, policy)
    assert caught.value.code == "E401"
    assert str(path) in caught.value.message
    assert before is None or path.read_bytes() == before
    victim = path.with_name("victim")
    assert not victim.exists() or victim.read_bytes() == line(1)


@pytest.mark.parametrize("plant", [plant_symlink, plant_hard_link, Path.mkdir])
def test_a_planted_lock_is_refused(paths: Paths, policy: Durability, plant: Callable[[Path], object]) -> None:
    paths.folder.mkdir(0o700)
    plant(paths.lock)
    with pytest.raises(UsageError, match="E401"):
        Journal.open(paths, policy)
    assert not paths.results.exists()


@pytest.mark.parametrize("name", ["folder", "torn"])
def test_a_folder_others_can_write_to_is_refused(paths: Paths, policy: Durability, name: str) -> None:
    paths.folder.mkdir(0o700)
    paths.torn.mkdir(0o700)
    paths.results.write_bytes(line(1) + b"torn")
    getattr(paths, name).chmod(0o777)
    with pytest.raises(UsageError, match="chmod go-w"):
        Journal.open(paths, policy)
    assert paths.results.read_bytes() == line(1) + b"torn"


def test_a_temporary_file_in_the_way_is_replaced_not_followed(paths: Paths, policy: Durability, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    paths.errors.with_name(f"{paths.errors.name}.partial").symlink_to(victim)
    with Journal.open(paths, policy) as journal:
        journal.append(line(1), False)
        journal.compact(False, lambda number: True)
    assert numbers(paths.errors) == [1]
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("output", ["in.jsonl", "./sub/../in.jsonl"])
def test_the_input_is_never_the_output(paths: Paths, policy: Durability, output: str) -> None:
    (paths.input.parent / "sub").mkdir()
    mine = Paths.of(paths.input, paths.input.parent / output)
    with pytest.raises(UsageError, match="input itself"):
        Journal.open(mine, policy)
    assert paths.input.read_text() == "a line\n"


def test_a_missing_folder_is_named(paths: Paths, policy: Durability) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*does not exist.*E401"):
        Journal.open(Paths.of(paths.input, paths.input.parent / "nowhere" / "out.jsonl"), policy)


# -- the lock

HOLD = """
import sys
from pathlib import Path
from batchrunner.journal import Durability, Journal, Paths
journal = Journal.open(Paths.of(Path(sys.argv[1])), Durability(spill_dir=sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(paths: Paths, policy: Durability) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(paths.input), policy.spill_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_told_who_runs(paths: Paths, policy: Durability, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Journal.open(paths, policy)
    assert caught.value.code == "E403"
    assert f"process {holder.pid} on {os.uname().nodename}, since 2" in caught.value.message
    holder.kill()
    holder.wait()
    Journal.open(paths, policy).close()


def test_a_program_that_stands_in_its_own_way_is_told_so(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy), pytest.raises(UsageError, match=r"this program\. \[E403\]\n.*aclose"):
        Journal.open(paths, policy)


def test_the_lock_outlives_its_folder(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy):
        paths.lock.unlink()
        paths.folder.rmdir()
        with pytest.raises(UsageError, match="E403"):
            Journal.open(paths, policy)


def test_a_lock_without_a_name_in_it_still_holds(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy):
        paths.lock.write_bytes(b"\xff{")
        with pytest.raises(UsageError, match="has just begun"):
            Journal.open(paths, policy)


# -- appending and syncing


def test_a_record_is_one_write_and_there_when_append_returns(paths: Paths, policy: Durability) -> None:
    class Counting(Fast):
        writes = 0

        def write(self, fd: int, record: Any) -> int:
            self.writes += 1
            return super().write(fd, record)

    disk = Counting()
    with Journal.open(paths, policy, disk) as journal:
        disk.writes = 0
        for number in range(100):
            journal.append(line(number, 300_000 if number == 50 else 10), number % 3 > 0)
            assert numbers(paths.results if number % 3 else paths.errors)[-1] == number
        assert disk.writes == 100


class Slow(Fast):
    """A sync waits until the test lets it go."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.syncs = 0
        self.slow = False

    def sync(self, fd: int) -> None:
        self.syncs += 1
        if self.slow:
            self.begun.release()
            self.gate.acquire()


async def test_all_who_wait_share_a_sync_and_none_returns_early(paths: Paths) -> None:
    disk = Slow()
    with Journal.open(paths, Durability(sync="always"), disk) as journal:
        await journal.sync()
        disk.slow, disk.syncs = True, 0
        journal.append(line(0), True)
        first = [asyncio.create_task(journal.commit()) for _ in range(20)]
        await asyncio.to_thread(disk.begun.acquire)
        journal.append(line(1), True)  # after the sync has begun: it may not cover this
        late = [asyncio.create_task(journal.commit()) for _ in range(20)]
        first[0].cancel()
        disk.gate.release()
        await asyncio.gather(*first, return_exceptions=True)
        assert not any(task.done() for task in late)
        disk.gate.release()
        await asyncio.gather(*late)
        assert disk.syncs == 2
        disk.slow = False


async def test_only_always_makes_a_commit_wait(paths: Paths, policy: Durability) -> None:
    disk = Slow()
    with Journal.open(paths, policy, disk) as journal:
        disk.slow = True
        journal.append(line(0), True)
        await journal.commit()
        disk.slow = False


async def test_none_never_syncs(paths: Paths, tmp_path: Path) -> None:
    disk = Slow()
    with Journal.open(paths, Durability(sync="none", spill_dir=str(tmp_path / "spill")), disk) as journal:
        journal.append(line(0), True)
        await journal.sync()
    assert disk.syncs == 0


async def test_the_first_sync_covers_what_an_earlier_run_left(paths: Paths, policy: Durability) -> None:
    disk = Slow()
    paths.results.write_bytes(line(1))
    with Journal.open(paths, policy, disk) as journal:
        await journal.sync()
        assert disk.syncs == 2


def test_close_may_be_repeated_and_syncs(paths: Paths, policy: Durability) -> None:
    disk = Slow()
    journal = Journal.open(paths, policy, disk)
    journal.append(line(0), True)
    journal.close()
    journal.close()
    assert disk.syncs == 2


def test_room(paths: Paths) -> None:
    class Tight(Fast):
        def free(self, path: Path) -> int:
            return 1000

    class Dumb(Fast):
        def free(self, path: Path) -> int:
            raise OSError(errno.ENOSYS, "no statvfs")

    for disk, least, room in ((Tight(), 1000, True), (Tight(), 1001, False), (Dumb(), 1001, True), (Disk(), 1, True)):
        with Journal.open(paths, Durability(min_free=least), disk) as journal:
            assert journal.room() is room


# -- faults


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    move(path)
    path.write_bytes(b"")


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("harm", "words"), [(Path.unlink, "deleted or renamed"), (move, "deleted"), (replace, "another file"), (empty, "cut short")]
)
async def test_a_file_taken_from_under_us_is_noticed(
    paths: Paths, policy: Durability, harm: Callable[[Path], object], words: str
) -> None:
    with Journal.open(paths, policy) as journal:
        journal.append(line(1), True)
        await journal.sync()
        harm(paths.results)
        journal.append(line(2), True)
        with pytest.raises(FileError, match=words) as caught:
            await journal.sync()
        assert caught.value.code == "E404"
        journal.append(line(3), True)
        await journal.sync()
    with Journal.open(paths, policy):
        assert numbers(paths.results)[-2:] == [2, 3] or harm is empty  # what stood in the emptied file was no record
        assert numbers(paths.results)[-1] == 3


async def test_a_failed_sync_is_final(paths: Paths, policy: Durability) -> None:
    class Broken(Fast):
        broken = False
        syncs: ClassVar[list[int]] = []

        def sync(self, fd: int) -> None:
            self.syncs.append(fd)
            if self.broken:
                self.broken = False
                raise OSError(errno.EIO, "gone")

    disk = Broken()
    with Journal.open(paths, Durability(sync="always", spill_dir=policy.spill_dir), disk) as journal:
        journal.append(line(1), True)
        await journal.commit()
        disk.broken = True
        journal.append(line(2), True)
        waiting = [journal.commit() for _ in range(3)]
        faults = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(fault) for fault in faults] == [FileError] * 3
        assert journal.fault is not None
        disk.syncs.clear()
        journal.append(line(3), True)
        await journal.commit()
        assert journal.log(True).fd not in disk.syncs
        assert numbers(journal.spill.path(True)) == [2, 3]
    paths.results.write_bytes(line(1))  # the pages of 2 never reached the disk
    with Journal.open(paths, policy):
        assert numbers(paths.results) == [1, 2, 3]


def test_answers_in_memory_are_spilled_and_taken_back(paths: Paths, policy: Durability) -> None:
    class Full(Fast):
        full = False

        def write(self, fd: int, record: Any) -> int:
            if self.full and os.fstat(fd).st_ino == paths.results.stat().st_ino:
                if len(record) > 10:
                    return super().write(fd, record[:10])
                raise OSError(errno.ENOSPC, "full")
            return super().write(fd, record)

    disk = Full()
    with Journal.open(paths, policy, disk) as journal:
        journal.append(line(1), True)
        disk.full = True
        with pytest.raises(FileError) as caught:
            journal.append(line(2), True)
        assert "the disk is full. 1 results of this run were written before" in caught.value.message
        assert policy.spill_dir in caught.value.message
        journal.append(line(3), True)
        journal.append(line(4), False)
        assert numbers(paths.results) == [1]
        with pytest.raises(FileError, match="the disk is full"):
            journal.compact(False, lambda number: True)
    with Journal.open(paths, policy) as journal:
        assert numbers(paths.results) == [1, 2, 3]
        assert numbers(paths.errors) == [4]
    assert not list(Path(policy.spill_dir).iterdir())


def test_a_spill_that_is_full_too_says_that_answers_are_lost(paths: Paths, policy: Durability) -> None:
    class Full(Fast):
        room = 1000

        def write(self, fd: int, record: Any) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "full")
            taken = super().write(fd, record[: self.room])
            self.room -= taken
            return taken

    disk = Full()
    with Journal.open(paths, policy, disk) as journal:
        journal.append(line(1), True)
        disk.room = 0
        with pytest.raises(FileError, match=r"Answers are lost: .* cannot be written either: the disk is full"):
            journal.append(line(2), True)
        disk.room = 10
        with pytest.raises(FileError, match="Answers are lost"):
            journal.append(line(3), True)
        disk.room = 1000
        journal.append(line(4), True)
    with Journal.open(paths, policy):
        assert numbers(paths.results) == [1, 4], "a half of one is no line"


@pytest.mark.parametrize("there", range(4))
def test_a_spill_taken_back_by_half_is_not_taken_twice(paths: Paths, policy: Durability, there: int) -> None:
    with Journal.open(paths, policy) as journal:
        for number in (2, 3, 4):
            journal.spill.put(line(number, 5 * number), True)
    paths.results.write_bytes(b"".join(line(number, 5 * number) for number in range(1, 2 + there)))
    Journal.open(paths, policy).close()
    assert sorted(numbers(paths.results)) == [1, 2, 3, 4]


def test_a_foreign_spill_is_refused(paths: Paths, policy: Durability, tmp_path: Path) -> None:
    with Journal.open(paths, policy) as journal:
        spill = journal.spill.path(True)
    (tmp_path / "forged").write_bytes(line(666))
    spill.symlink_to(tmp_path / "forged")
    with pytest.raises(UsageError, match="symbolic link"):
        Journal.open(paths, policy)
    assert numbers(paths.results) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_spill_of_somebody_else_is_refused(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy) as journal:
        journal.spill.put(line(666), True)
    os.chown(journal.spill.path(True), 12345, 12345)
    with pytest.raises(UsageError, match="another user"):
        Journal.open(paths, policy)


def test_a_spill_folder_open_to_others_is_not_used(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy) as journal:
        Path(policy.spill_dir).chmod(0o777)
        with pytest.raises(FileError, match="Answers are lost"):
            journal.spill.put(line(1), True)
    with pytest.raises(UsageError, match="other users can write to it"):
        Journal.open(paths, policy)


def test_a_spill_folder_that_cannot_be_made_is_refused_before_it_is_needed(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder does not exist") as caught:
        Journal.open(paths, Durability(spill_dir=str(tmp_path / "no" / "such")))
    assert "--spill-dir" in caught.value.hint
    assert not paths.results.exists()


def begin(paths: Paths, policy: Durability) -> None:
    """An output with history: whole records, a torn tail, a spill."""
    paths.results.write_bytes(line(1) + line(2) + b'{"n": 99, "te')
    paths.errors.write_bytes(line(3))
    paths.folder.mkdir(0o700)
    folder = Path(policy.spill_dir)
    folder.mkdir(0o700)
    with Journal.open(Paths.of(paths.input, paths.results.with_name("other.jsonl")), policy, Fast()) as journal:
        place = journal.spill.path(True)
    spill = type(journal.spill)(Fast(), paths.results, policy.spill_dir)
    assert place.parent == spill.folder
    spill.put(line(4), True)
    spill.put(line(5), True)
    spill.close()


def job(paths: Paths, policy: Durability, disk: Disk) -> set[int]:
    """A run on that disk; the numbers it acknowledged. It ends at the first fault, after what was under way."""
    acknowledged: set[int] = set()
    try:
        with Journal.open(paths, policy, disk) as journal:
            for number in range(10, 18):
                try:
                    journal.append(line(number), number % 3 > 0)
                except FileError:
                    continue
                acknowledged.add(number)
                if number == 13:
                    asyncio.run(journal.sync())
            journal.compact(False, lambda number: True)
    except BatchError:
        pass
    return acknowledged


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize(
    ("code", "part"),
    [
        (errno.ENOSPC, 0.0),
        (errno.ENOSPC, 0.5),
        (errno.EDQUOT, 0.9),
        (errno.EIO, 1.0),
        (errno.EIO, 0.0),
        (errno.EINTR, 0.0),
        (errno.EROFS, 0.3),
        (errno.ESTALE, 0.0),
        (errno.EFBIG, 0.7),
    ],
)
def test_whichever_call_fails_nothing_acknowledged_is_lost_or_doubled(
    tmp_path: Path, code: int, part: float, forever: bool
) -> None:
    if forever and code == errno.EINTR:
        return  # a call that is interrupted for ever is of no system
    for at in count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "in.jsonl").write_text("a line\n")
        paths, policy = Paths.of(folder / "in.jsonl"), Durability(spill_dir=str(folder / "spill"))
        begin(paths, policy)
        disk = Faulty(at, code, part, forever)
        acknowledged = job(paths, policy, disk)
        Journal.open(paths, policy, Fast()).close()
        there = numbers(paths.results, paths.errors)
        assert len(there) == len(set(there)), at
        assert {1, 2, 3, 4, 5} | acknowledged <= set(there), at
        kept = [file.read_bytes() for file in paths.torn.glob(f"{paths.results.name}*")]
        assert b'{"n": 99, "te' in kept
        if disk.calls < at:
            assert acknowledged == set(range(10, 18))
            break


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_an_output_that_cannot_be_opened_leaves_nothing(tmp_path: Path, code: int) -> None:
    for at in count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "in.jsonl").write_text("a line\n")
        disk = Faulty(at, code)
        try:
            journal = Journal.open(Paths.of(folder / "in.jsonl"), Durability(spill_dir=str(folder / "spill")), disk)
        except BatchError:
            left = {path.name for path in folder.rglob("*")} - {"in.jsonl"}
            assert not left or (left == {"in.run", "lock"} and disk.failed in {"fstat", "lock"}), "nobody's lock stays"
        else:
            disk.at = 0
            journal.close()
            break


def test_who_is_refused_beside_a_run_takes_nothing_from_it(tmp_path: Path) -> None:
    paths, policy = Paths.of(tmp_path / "in.jsonl"), Durability()
    with Journal.open(paths, policy, Fast()):
        there = {*tmp_path.rglob("*")}
        with pytest.raises(UsageError, match="E403"):
            Journal.open(paths, policy, Fast())
        assert {*tmp_path.rglob("*")} == there


def test_a_lock_that_is_withdrawn_while_it_is_waited_for_is_none(tmp_path: Path) -> None:
    class Late(Fast):
        def lock(self, fd: int) -> None:
            shutil.rmtree(paths.folder)  # by the run before us, which was refused
            super().lock(fd)

    paths = Paths.of(tmp_path / "in.jsonl")
    with pytest.raises(UsageError, match="has just ended"):
        Journal.open(paths, Durability(), Late())
    assert not [*tmp_path.iterdir()]


def test_what_a_run_was_given_is_not_withdrawn(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "in.jsonl")
    with Journal.open(paths, Durability(), Fast()) as journal:
        journal.append(line(1), True)
        journal.withdraw()
        journal.append(line(2), True)
    assert numbers(paths.results) == [1, 2]


@pytest.mark.parametrize("at", range(1, 8))
def test_a_small_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, at: int) -> None:
    path, disk = tmp_path / "small", Faulty(at, errno.ENOSPC, 0.5)
    try:
        disks.replace(path, b"all of it", disk)
    except OSError:
        assert not [*tmp_path.iterdir()]
    else:
        assert path.read_bytes() == b"all of it"


def test_no_small_file_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(OSError, match="not a regular file"):
            disks.replace(path, b"all of it", Fast())
    assert (stat.S_ISFIFO(pipe.stat().st_mode), link.is_symlink()) == (True, True)


@pytest.mark.parametrize("at", range(1, 12))
def test_what_cannot_be_put_away_stays(tmp_path: Path, at: int) -> None:
    paths, shelf, disk = Paths.of(tmp_path / "in.jsonl"), tmp_path / "shelf", Faulty(0, errno.ENOSPC)
    shelf.mkdir()
    with Journal.open(paths, Durability(), disk) as journal:
        journal.append(line(1), True)
        asyncio.run(journal.sync())
        disk.at = disk.calls + at
        try:
            journal.put_away(True, shelf)
        except OSError:
            assert numbers(paths.results) == [1]
        else:
            assert (numbers(paths.results), numbers(shelf / paths.results.name)) == ([], [1])
        disk.at = 0


LIMITED = """
import resource, signal, sys
from pathlib import Path
from batchrunner.errors import FileError
from batchrunner.journal import Durability, Journal, Paths
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
journal = Journal.open(Paths.of(Path(sys.argv[1])), Durability(spill_dir=sys.argv[2]))
for number in range(20):
    try:
        journal.append(b'{"n": %d, "error": "%s"}\\n' % (number, b"x" * 900), True)
    except FileError as error:
        print(error.exit_code, error, flush=True)
journal.close()
"""


def test_a_real_full_file(paths: Paths, policy: Durability) -> None:
    command = [sys.executable, "-c", LIMITED, str(paths.input), policy.spill_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("4 Cannot write")
    assert "size limit" in done.stdout
    assert done.stdout.count("E404") == 1
    assert numbers(paths.results) == list(range(10))
    Journal.open(paths, policy).close()
    assert numbers(paths.results) == list(range(20))


# -- compaction


def test_compaction_keeps_what_is_asked_for_and_goes_on(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy) as journal:
        for number in range(5000):
            journal.append(line(number), False)
        before = paths.errors.stat().st_ino
        assert journal.compact(False, lambda number: number % 10 == 0) == 500
        journal.append(line(9999), False)
        asyncio.run(journal.sync())
    assert numbers(paths.errors) == [*range(0, 5000, 10), 9999]
    assert mode(paths.errors) == 0o600
    assert paths.errors.stat().st_ino != before
    assert not list(paths.errors.parent.glob("*.partial"))
    assert not paths.earlier.exists()


def test_what_falls_out_of_the_results_is_kept(paths: Paths, policy: Durability) -> None:
    with Journal.open(paths, policy) as journal:
        for number in range(6):
            journal.append(line(number), True)
        assert journal.compact(True, lambda number: number != 2) == 5
        journal.append(line(7), True)
        assert journal.compact(True, lambda number: number != 0) == 5
    assert numbers(paths.results) == [1, 3, 4, 5, 7]
    assert sorted(number for kept in paths.earlier.iterdir() for number in numbers(kept)) == [0, 2]


@pytest.mark.parametrize("ok", [True, False])
def test_a_compaction_that_fails_changes_nothing(paths: Paths, policy: Durability, ok: bool) -> None:
    def refuse(number: int) -> bool:
        raise OSError(errno.ENOSPC, "full")

    with Journal.open(paths, policy) as journal:
        journal.append(line(1), ok)
        with pytest.raises(FileError, match="left as it was"):
            journal.compact(ok, refuse)
        journal.append(line(2), ok)
    assert numbers(paths.results if ok else paths.errors) == [1, 2]
    assert not list(paths.errors.parent.glob("*.partial"))


async def test_a_sync_between_the_end_of_a_round_and_the_news_of_it_starts_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round covered the first record only. Waiting for it again would return at once, for ever."""
    (tmp_path / "in.jsonl").write_text("")
    with Journal.open(Paths.of(tmp_path / "in.jsonl"), Durability()) as journal:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        journal.append(b"{}\n", True)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_in_executor", lambda _pool, _work: ended)
            first = asyncio.ensure_future(journal.sync())
            await asyncio.sleep(0)
        journal._force()
        journal.append(b"{}\n", True)
        ended.set_result(None)
        await asyncio.wait_for(journal.sync(), 10)
        await first
        assert journal._forced == 2
