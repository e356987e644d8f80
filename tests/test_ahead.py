"""Input read by a process beside us: the same blocks and the same standing as without it, whatever becomes of that process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchrunner import ahead, disk, landmarks, lines
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.errors import FileError, UsageError
from batchrunner.identity import identify
from batchrunner.lines import read_lines
from batchrunner.looking import paths_of, standing_of
from batchrunner.reader import Asked, Reading, read, tell
from batchrunner.records import record
from batchrunner.settings import Settings
from tests.crash import environment
from tests.processes import outlives

MOST = 5000
QUIET = os.pipe()  # nothing is ever said in it


class Tape:
    """In the place of an end of a pair: what is said at it is kept, what it was given is heard."""

    def __init__(self, heard: bytes = b"") -> None:
        self.said = b""
        self._heard = heard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def makefile(self, mode: str, _buffer: int) -> BytesIO:
        return BytesIO(self._heard) if mode == "rb" else Pen(self)

    def settimeout(self, seconds: float) -> None:
        pass

    def shutdown(self, _how: int) -> None:
        """Too late: all is said already."""

    def fileno(self) -> int:
        """There is nothing to hear yet."""
        return QUIET[0]


class Pen(BytesIO):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def close(self) -> None:
        self._tape.said = self._tape.said or self.getvalue()
        super().close()


class Process:
    """Stands for one that has said what it had to say."""

    def kill(self) -> None:
        pass

    def wait(self) -> int:
        return 0


@contextmanager
def beside(share: float = 1.0) -> Iterator[list[tuple[str, ...]]]:
    """Every input is worth a process, which dies after this share of what it would say; what was started."""
    begun: list[tuple[str, ...]] = []

    def started(*words: str) -> tuple[Tape, Process]:
        begun.append(words)
        tape = Tape()
        with pytest.MonkeyPatch.context() as other:
            other.setattr(lines, "_BLOCK", 150 if share == 1.0 else 230)  # from one that dies, blocks that end elsewhere
            tell(Reading.told(*words[1:]), tape)  # type: ignore[arg-type]
        return Tape(tape.said[: int(share * len(tape.said))]), Process()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "WORTH", 0)
        patch.setattr(ahead, "cores", lambda: 2)
        patch.setattr(ahead, "started", started)
        yield begun


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few lines to a block, and landmarks close together."""
    monkeypatch.setattr(lines, "_BLOCK", 150)
    monkeypatch.setattr(disk, "BLOCK", 100)
    monkeypatch.setattr(landmarks, "STRETCH", 200)


NAMES = st.sampled_from(["a", "b", "ü\n", "x" * 90, "", None, 7])
LINES = st.lists(
    st.one_of(
        st.builds(lambda name, note: json.dumps({"custom_id": name, "note": "y" * note}).encode(), NAMES, st.integers(0, 60)),
        st.builds(lambda number: b'{"custom_id": "r-%d"}' % number, st.integers(0, 99)),
        st.sampled_from([b"", b" \t", b"{torn", b'{"custom_id": "long", "note": "%s"}' % (b"z" * MOST)]),
    ),
    max_size=30,
)
ENDINGS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def jobs(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """An input, and the results and errors that some runs may have left, in any order, torn and with records of others."""
    rows, ending = draw(LINES), draw(ENDINGS)
    content = ending.join(rows) + draw(st.sampled_from([ending, b""]))
    told = [
        written(line, raw, draw(st.sampled_from(["ok", "ok", "ok", "policy", "far", "edited", "garbage"])))
        for line, raw in read_lines(BytesIO(content), MOST)
        if isinstance(raw, bytes) and draw(st.booleans())
    ]
    results = b"".join(draw(st.permutations(told)))
    return content, results[: len(results) - draw(st.integers(0, 40))], b"".join(told[::3])


def written(line: int, raw: bytes, word: str) -> bytes:
    """A record of this line."""
    name, digest = identify(raw, line)
    request = Request(
        line=line + 10**9 * (word == "far"),
        id=name,
        digest=digest[::-1] if word == "edited" else digest,
        route=Route.CHAT,
        path="/x",
    )
    kind = Kind.POLICY if word == "policy" else Kind.OK
    return b"{garbage\n" if word == "garbage" else record(Result(request=request, kind=kind, status=200, body=b"{}"))


def laid(folder: Path, job: tuple[bytes, bytes, bytes]) -> Settings:
    """The job on disk."""
    given = Settings(input=str(folder / "-in \udcff.jsonl"))
    paths = paths_of(given)
    for path, content in zip((paths.input, paths.results, paths.errors), job, strict=True):
        path.write_bytes(content)
    return given


def always() -> bool:
    """Digests are compared."""
    return True


def found(given: Settings) -> Any:
    """How the job stands, or why nobody can say."""
    try:
        return standing_of(given, paths_of(given))
    except (FileError, UsageError) as fault:
        return fault.code, fault.message


FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(jobs(), st.floats(0.0, 1.0))
@example((b'{"custom_id": "a"}\n' * 20, b"", b""), 0.5)
@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURES)
def test_a_job_stands_the_same_with_a_process_without_and_with_one_that_dies(
    tmp_path: Path, job: tuple[bytes, bytes, bytes], share: float
) -> None:
    given = laid(tmp_path, job)
    alone = found(given)
    for part in (1.0, share):
        with beside(part) as begun:
            assert found(given) == alone
        assert {room for room, *_ in begun} == {"batchrunner.reader"}


@given(LINES, ENDINGS, st.sampled_from(["", "2/3"]), st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=100, suppress_health_check=FIXTURES)
def test_the_lines_are_the_same_and_so_are_the_landmarks(
    tmp_path: Path, rows: list[bytes], ending: bytes, shard: str, share: float
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(ending.join(rows))
    reading, marks = Reading(path, MOST, shard), list[Any]()
    alone = each(read(reading, marks, always))
    for part in (1.0, share):
        noted = list[Any]()
        with beside(part):
            assert each(ahead.blocks(reading, noted, always)) == alone
        assert noted == marks


def each(blocks: Iterator[Asked]) -> list[tuple[int, str, bytes]]:
    """Number, id and digest of every line."""
    return [
        (asked.first + at, name, asked.digests[8 * at : 8 * at + 8]) for asked in blocks for at, name in enumerate(asked.names)
    ]


def test_a_fault_of_the_input_is_told_as_ever(tmp_path: Path) -> None:
    """Also one that only the process has met: a packed file that is cut."""
    import gzip

    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"custom_id": "%d"}\n' % number for number in range(3000)))[:-9])
    with beside() as begun, pytest.raises(UsageError, match="cut off"):
        list(ahead.blocks(Reading(path, MOST, ""), [], always))
    assert len(begun) == 1


# -- where it is worth a process


@pytest.mark.parametrize(
    ("changes", "worth"),
    [
        ({}, True),
        ({"WORTH": 21}, False),
        ({"cores": lambda: 1}, False),
        ({"sys.executable": "/opt/app/uwsgi"}, False),
        ({"sys.executable": None}, False),
    ],
)
def test_only_a_large_input_and_a_core_to_spare_are_worth_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], worth: bool
) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"custom_id": "abc"}')
    with beside() as begun:
        monkeypatch.setattr(ahead, "WORTH", 20)
        monkeypatch.setattr(ahead.sys, "executable", "/usr/bin/python3.12")
        for name, value in changes.items():
            monkeypatch.setattr(f"batchrunner.ahead.{name}", value)
        assert [asked.names for asked in ahead.blocks(Reading(tmp_path / "in.jsonl", MOST, ""), [], always)] == [["abc"]]
    assert bool(begun) is worth


def test_without_room_for_a_process_we_read_ourselves(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"custom_id": "abc"}')

    def full(*_: str) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with beside(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "started", full)
        assert [asked.names for asked in ahead.blocks(Reading(tmp_path / "in.jsonl", MOST, ""), [], always)] == [["abc"]]


# -- real processes


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reading:
    """More than fits on the way from a process to us."""
    monkeypatch.undo()
    monkeypatch.setattr(ahead, "WORTH", 0)
    monkeypatch.setattr(ahead, "cores", lambda: 2)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(b'{"custom_id": "%d%s"}\n' % (number, b"x" * 1000) for number in range(2000)))
    return Reading(path, 1 << 20, "")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list["subprocess.Popen[bytes]"]:
    """Those that were started."""
    made: list[subprocess.Popen[bytes]] = []
    start = ahead.started

    def started(*words: str) -> Any:
        end, process = start(*words)
        made.append(process)
        return end, process

    monkeypatch.setattr(ahead, "started", started)
    return made


def test_a_process_reads_it_all_and_is_gone(long: Reading, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    marks, noted = list[Any](), list[Any]()
    assert each(ahead.blocks(long, noted, always)) == each(read(long, marks, always))
    assert noted == marks != []
    assert [process.poll() is not None for process in processes] == [True]


@pytest.mark.parametrize("wanted", [0, 1])
def test_digests_come_as_long_as_they_are_wanted(
    long: Reading, processes: Sequence["subprocess.Popen[bytes]"], wanted: int
) -> None:
    """From a process soon after that, from ourselves at once. The ids are the same."""
    seen = list[Asked]()
    for asked in ahead.blocks(long, [], lambda: len(seen) < wanted):
        seen.append(asked)
    assert len(processes) == 1
    told = [bool(asked.digests) for asked in seen]
    assert told == sorted(told, reverse=True), "those of the last lines are left out"
    assert (told[0], told[-1]) == (bool(wanted), False)
    alone = list(read(long, [], iter([True] * wanted + [False] * len(seen)).__next__))
    assert [bool(asked.digests) for asked in alone] == [True] * wanted + [False] * (len(seen) - wanted)
    assert [asked.names for asked in alone] == [asked.names for asked in seen]


@pytest.mark.parametrize("word", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_killed_or_stopped_is_replaced_by_ourselves(
    long: Reading, processes: Sequence["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch, word: signal.Signals
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE", 5.0 if word is signal.SIGKILL else 0.1)
    with closing(ahead.blocks(long, [], always)) as blocks:
        first = next(blocks)
        processes[0].send_signal(word)
        assert each(iter([first, *blocks])) == each(read(long, [], always))
    assert processes[0].poll() is not None


def test_whoever_stops_listening_leaves_no_process(long: Reading, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    with closing(ahead.blocks(long, [], always)) as blocks:
        next(blocks)
        assert processes[0].poll() is None
    assert processes[0].poll() is not None


WAITING = """
import os, signal, sys
from pathlib import Path
from batchrunner import ahead
from batchrunner.reader import Reading
ahead.WORTH, ahead.cores = 0, lambda: 2
start = ahead.started
def started(*words):
    end, process = start(*words)
    sys.stdout.write(f"{process.pid}\\n")
    return end, process
ahead.started = started
blocks = ahead.blocks(Reading(Path(sys.argv[1]), 1 << 20, ""), [], lambda: True)
next(blocks)
sys.stdout.flush()
signal.pause()
"""


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_outlives_us(long: Reading, word: signal.Signals) -> None:
    """Ctrl-C goes to the whole group, and the process does not hear it: it sees that we have gone."""
    command = [sys.executable, "-c", WAITING, str(long.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    ) as waiting:
        assert waiting.stdout
        pid = int(waiting.stdout.readline())
        theirs = os.getpgid(pid)
        os.killpg(waiting.pid, word)
        waiting.wait(10)
    assert theirs != waiting.pid
    assert not outlives(pid)
