"""The trail: what it says is true, it stays small, and it never costs a run."""

import errno
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

import batchrunner
from batchrunner import replay
from batchrunner.attempts import Attempts, Keeping
from batchrunner.core import trail as records
from batchrunner.core.buckets import bucket, merged, middle, quantile
from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Result, Timing, Usage
from batchrunner.core.trail import End, LaneMoment, Moment, Ourselves, Start, joined
from batchrunner.disk import Buffer, Disk
from batchrunner.meter import Gauges, Snapshot
from batchrunner.paths import Paths
from batchrunner.report import text
from batchrunner.report.invocation import Invocation
from batchrunner.runner import Runner
from batchrunner.scroll import Scroll, older
from batchrunner.trail import RECENT, Opening, Sight, Trail, pause, thinned
from tests.virtual import chat


class Full(Disk):
    """A disk that is full after so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def write(self, fd: int, record: Buffer) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return super().write(fd, record)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# ---- buckets ----


def test_buckets_are_five_per_cent_wide() -> None:
    for seconds in (0.0, 1e-9, 1e-4, 0.001, 0.5, 1.0, 59.9, 600.0, 1e6):
        place = bucket(seconds)
        assert place == 0 or abs(middle(place) / seconds - 1) < 0.026
    assert quantile({}, 0.5) == 0.0
    table = merged([{bucket(1.0): 98}, {bucket(1.0): 1, bucket(50.0): 1}])
    assert abs(quantile(table, 0.99) - 1.0) < 0.03
    assert abs(quantile(table, 1.0) - 50.0) < 1.3


# ---- scrolls ----


def test_lines_are_written_when_asked_or_when_there_are_many(tmp_path: Path) -> None:
    scroll = Scroll(tmp_path / "a.jsonl", 1 << 20, pytest.fail)
    scroll.add(b'{"a":1}')
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    scroll.flush()
    assert lines(tmp_path / "a.jsonl") == [{"a": 1}]
    scroll.add(b"1" * 70_000)
    assert (tmp_path / "a.jsonl").stat().st_size > 70_000
    scroll.close()
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600


def test_it_never_grows_beyond_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    scroll = Scroll(path, 10_000, pytest.fail)
    for number in range(5000):
        scroll.add(b"%08d" % number)
        if number % 50 == 0:
            scroll.flush()
    scroll.close()
    assert path.stat().st_size + older(path).stat().st_size <= 10_000
    kept = [int(line) for part in (older(path), path) for line in part.read_bytes().splitlines()]
    assert kept == list(range(kept[0], 5000))
    assert len(kept) > 500


def test_a_torn_tail_is_cut_before_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"session":3}\n{"sess')
    scroll = Scroll(path, 1 << 20, pytest.fail)
    assert scroll.last() == b'{"session":3}'
    scroll.add(b'{"session":4}')
    scroll.close()
    assert lines(path) == [{"session": 3}, {"session": 4}]


def test_a_full_disk_silences_it_once(tmp_path: Path) -> None:
    said: list[str] = []
    scroll = Scroll(tmp_path / "a.jsonl", 1 << 20, said.append, Full(1))
    for _ in range(5):
        scroll.add(b"1")
        scroll.flush()
    scroll.close()
    assert said == ["a.jsonl is not written any more: the disk is full; the results are not affected"]
    assert (tmp_path / "a.jsonl").read_bytes() == b"1\n"


@pytest.mark.parametrize("odd", ["link", "folder"])
def test_a_path_that_is_no_file_of_ours_is_left_alone(tmp_path: Path, odd: str) -> None:
    said: list[str] = []
    path = tmp_path / "a.jsonl"
    path.symlink_to(tmp_path / "target") if odd == "link" else path.mkdir()
    scroll = Scroll(path, 1 << 20, said.append)
    scroll.add(b"1")
    scroll.close()
    assert len(said) == 1
    assert not (tmp_path / "target").exists()


# ---- attempts ----


def event(kind: Kind = Kind.OK, number: int = 1, seconds: float = 1.0, final: bool = True, **outcome: Any) -> Event:
    request = chat(7)
    attempt = Attempt(request, "a", number, 0.0, Deadlines(1, 2, 3, 4), queued=0.25 if number > 1 else 0.0)
    timing = outcome.pop("timing", Timing(0.1, 0.4, seconds, 0.0, False))
    result = Result(request=request, kind=kind) if final else None
    why = "because" if kind is Kind.TIMEOUT_TOTAL else ""
    return Event(5.0, attempt, Outcome(kind, timing=timing, **outcome), result, why=why)


def written(tmp_path: Path, events: list[Event], policy: Any = "sample") -> list[Any]:
    path = tmp_path / f"{policy}.jsonl"
    scroll = Scroll(path, 1 << 24, pytest.fail)
    listener = Attempts(scroll, Keeping(log_attempts=policy), 1, 2.0, "2026-01-01T00:00:00.000Z")
    for each in events:
        listener(each)
    scroll.close()
    head, *rest = lines(path)
    assert head == {"event": "session", "v": 1, "session": 1, "wall": "2026-01-01T00:00:00.000Z", "log_attempts": policy}
    return rest


def test_what_is_written_by_which_policy(tmp_path: Path) -> None:
    events = [event() for _ in range(1000)] + [event(Kind.RATE_LIMITED, final=False), event(number=2)]
    assert [line["kind"] for line in written(tmp_path, events, "failed")] == ["rate_limited", "ok"]
    assert len(written(tmp_path, events, "all")) == 1002
    sampled = written(tmp_path, events)
    assert len(sampled) == 100 + 9 + 2
    assert sum(line.get("stands_for", 1) for line in sampled) == 1002


def test_the_slowest_are_written_too(tmp_path: Path) -> None:
    scroll = Scroll(tmp_path / "a.jsonl", 1 << 20, pytest.fail)
    listener = Attempts(scroll, Keeping(), 1, 0.0, "")
    for _ in range(150):
        listener(event())
    listener.know(moment(phases={"total": {bucket(1.0): 150}}))
    for _ in range(20):
        listener(event(seconds=9.0))
    scroll.close()
    assert sum(line.get("seconds") == 9.0 for line in lines(tmp_path / "a.jsonl")) == 20


def test_every_fact_of_a_failed_attempt(tmp_path: Path) -> None:
    told = event(
        Kind.OVERLOADED, 2, 1.5, False, status=503, code="busy", message="m" * 500, wait=3.0, request_id="req", usage=Usage(5, 0)
    )
    assert written(tmp_path, [told]) == [
        {
            "event": "attempt",
            "v": 1,
            "session": 1,
            "at": 3.0,
            "line": 7,
            "id": "r-7",
            "endpoint": "a",
            "model": "m",
            "number": 2,
            "kind": "overloaded",
            "status": 503,
            "code": "busy",
            "message": "m" * 300,
            "queue": 0.25,
            "connect": 0.1,
            "first_byte": 0.3,
            "body": 1.1,
            "seconds": 1.5,
            "wait": 3.0,
            "again": True,
            "request_id": "req",
            "prompt": 3,
            "tokens_in": 5,
        }
    ]


@pytest.mark.parametrize(
    ("kind", "outcome", "phase", "known"),
    [
        (Kind.CONNECT, {"code": "dns", "timing": Timing(2.0, 0.0, 2.0)}, "connect", {"connect": 2.0}),
        (Kind.TIMEOUT_CONNECT, {"code": "timeout", "timing": Timing(2.0, 0.0, 2.0)}, "connect", {"connect": 2.0}),
        (Kind.CANCELLED, {"timing": Timing(2.0, 0.0, 2.0)}, "connect", {"connect": 2.0}),
        (Kind.CANCELLED, {"billed": True, "timing": Timing(0.0, 0.0, 2.0)}, "first_byte", {"first_byte": 2.0}),
        (Kind.NETWORK, {"code": "reset", "timing": Timing(0.0, 0.0, 2.0, 0.0, True)}, "first_byte", {"first_byte": 2.0}),
        (Kind.TRUNCATED, {"status": 200, "timing": Timing(0.0, 0.5, 2.0, 0.0, True)}, "body", {"first_byte": 0.5, "body": 1.5}),
        (
            Kind.TIMEOUT_TOTAL,
            {"timing": Timing(0.0, 0.0, 2.0, 0.0, True)},
            "first_byte",
            {"first_byte": 2.0, "deadline": 2.0, "why": "because"},
        ),
    ],
)
def test_where_an_attempt_ended(tmp_path: Path, kind: Kind, outcome: dict[str, Any], phase: str, known: dict[str, Any]) -> None:
    (line,) = written(tmp_path, [event(kind, **outcome)])
    assert line["phase"] == phase
    assert {name: line.get(name) for name in ("connect", "first_byte", "body", "deadline", "why") if line.get(name)} == known


# ---- moments ----


US = Ourselves()


def moment(at: float = 1.0, span: float = 1.0, us: Ourselves = US, **lane: Any) -> Moment:
    fields: dict[str, Any] = dict.fromkeys(
        ("done", "succeeded", "failed", "invalid", "resumed", "attempts", "retries", "recovered", "maybe_billed"), 0
    )
    fields |= dict.fromkeys(("tokens_in", "tokens_out", "in_flight", "limit", "retrying", "oldest"), 0)
    fields |= {"cost": None, "kinds": {}, "failures": {}, "causes": {}, "lanes": [LaneMoment(name="a", **lane)]}
    return Moment(session=1, at=at, span=span, total=None, us=us, **fields)


def test_two_moments_in_one() -> None:
    one = moment(1.0, 1.0, Ourselves(lag=0.5, cpu=1.0), phases={"total": {1: 2}}, deaths={5: 1})
    two = moment(4.0, 3.0, Ourselves(lag=0.1, cpu=0.2), phases={"total": {1: 1, 2: 1}, "body": {0: 1}}, kills={7: 1})
    both = joined(one, two)
    assert (both.at, both.span, both.us.lag, both.us.cpu) == (4.0, 4.0, 0.5, 0.4)
    assert both.lanes[0].phases == {"total": {1: 3, 2: 1}, "body": {0: 1}}
    assert (both.lanes[0].deaths, both.lanes[0].kills) == ({5: 1}, {7: 1})
    assert [each.at for each in thinned([one, two, moment(5.0)])] == [4.0, 5.0]


def test_a_month_is_some_two_thousand_moments() -> None:
    at, count = 0.0, 0
    while at < 30 * 86400:
        at += pause(at)
        count += 1
    assert count < 2_300
    assert pause(0.0) == 0.5
    assert pause(60.0) == 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_memory_holds_a_bounded_number_of_moments() -> None:
    clock = Clock()
    sight = Sight(snapshot=batchrunner.meter.Snapshot(), lanes=[LaneMoment(name="a")])
    trail = Trail(None, Opening(version="1", input="a"), lambda: sight, pytest.fail, Keeping(), clock)
    for number in range(3 * RECENT):
        trail.tally(event())
        clock.now += 1.0
        trail.take()
        assert len(trail.recent) <= RECENT
        assert number or trail.recent[0].at == 1.0
    assert sum(sum(each.lanes[0].phases["total"].values()) for each in trail.recent) == 3 * RECENT
    assert sum(each.span for each in trail.recent) == pytest.approx(3 * RECENT)


def test_a_glance_keeps_nothing_and_takes_nothing_away() -> None:
    sight = Sight(snapshot=batchrunner.meter.Snapshot(), lanes=[LaneMoment(name="a")])
    trail = Trail(None, Opening(version="1", input="a"), lambda: sight, pytest.fail, Keeping(), Clock())
    trail.tally(event())
    for _ in range(2):
        assert (trail.glance().lanes[0].attempts, sum(trail.glance().lanes[0].phases["total"].values())) == (1, 1)
    assert trail.recent == []
    assert sum(trail.take().lanes[0].phases["total"].values()) == 1
    assert trail.glance().lanes[0].phases == {}


# ---- whole runs ----


def job(folder: Path, count: int = 60) -> Path:
    path = folder / "job.jsonl"
    path.write_text("".join(json.dumps(batchrunner.chat(f"question {n}", model="m", id=f"r{n}")) + "\n" for n in range(count)))
    return path


async def test_a_run_leaves_a_trail_that_adds_up(tmp_path: Path) -> None:
    path = job(tmp_path)
    report = await Runner(base_url="simulated:flaky", header=["X-Api-Key-Extra=hush-hush"], log_attempts="all").run(path)
    paths = Paths.of(path)
    start, *moments, end = list(replay.events(paths))
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert (start.session, start.total, start.endpoints, start.simulated) == (1, 60, ["simulated"], True)
    assert start.settings["base_url"] == ["simulated:flaky"]
    last = moments[-1]
    assert isinstance(last, Moment)
    assert sum(last.kinds.values()) == last.attempts == report.summary.attempts
    assert sum(sum(each.lanes[0].phases.get("total", {}).values()) for each in moments) == last.kinds["ok"]
    assert (last.done, last.succeeded) == (60, report.succeeded)
    assert end.summary["succeeded"] == report.succeeded
    assert [finding.code for finding in end.findings] == [finding.code for finding in report.findings]
    tried = list(replay.attempts(paths))
    assert len(tried) == report.summary.attempts
    assert sum(line.again for line in tried) == report.summary.retries
    assert "hush" not in paths.events.read_text() + paths.attempts.read_text()
    assert "question 5" not in paths.events.read_text() + paths.attempts.read_text()
    assert paths.events.stat().st_mode & 0o777 == 0o600


async def test_the_next_run_is_the_next_session(tmp_path: Path) -> None:
    path = job(tmp_path)
    await Runner(base_url="simulated", limit=20).run(path)
    with Paths.of(path).events.open("ab") as file:
        file.write(b'{"event":"moment","v":1,"sess')  # killed while writing
    await Runner(base_url="simulated").run(path)
    told = list(replay.events(Paths.of(path)))
    assert {each.session for each in told} == {1, 2}
    assert [each.resumed for each in told if isinstance(each, Start)] == [0, 20]
    assert [each.done for each in replay.last_moments(Paths.of(path))][-1] == 60
    await Runner(base_url="simulated").run(path)  # nothing to do
    assert replay.last_moments(Paths.of(path))[-1].session == 2


async def test_a_fresh_start_has_a_fresh_trail(tmp_path: Path) -> None:
    path = job(tmp_path, 5)
    await Runner(base_url="simulated").run(path)
    await Runner(base_url="simulated", fresh=True).run(path)
    assert {each.session for each in replay.events(Paths.of(path))} == {1}
    assert len(list(Paths.of(path).folder.glob("earlier/*/events.jsonl"))) == 1


async def test_a_disk_that_takes_no_trail_costs_nothing_but_the_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Disk.write

    def refuse(self: Disk, fd: int, record: Buffer) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().name in ("events.jsonl", "attempts.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, fd, record)

    monkeypatch.setattr(Disk, "write", refuse)
    path = job(tmp_path)
    report = await Runner(base_url="simulated", display="log").run(path)
    assert (report.exit_code, report.succeeded) == (0, 60)
    assert Paths.of(path).events.read_bytes() == Paths.of(path).attempts.read_bytes() == b""
    assert capsys.readouterr().err.count("events.jsonl is not written any more: the disk is full") == 1


async def test_a_run_in_memory_has_findings_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = await Runner(base_url="simulated").gather([batchrunner.chat("hi", model="m") for _ in range(5)])
    assert len(results) == 5
    assert list(tmp_path.iterdir()) == []


async def test_a_cap_on_money_stops_softly_and_the_same_command_continues(tmp_path: Path) -> None:
    path = job(tmp_path, 200)
    # an answer of the embedded endpoint has some tens of tokens
    capped = await Runner(base_url="simulated", concurrency=4, price=["m=0/1000"], max_cost=1.0).run(path)
    assert capped.exit_code == 3
    assert capped.summary.cost is not None
    assert 0.5 <= capped.summary.cost <= 1.2
    assert 0 < capped.succeeded < 200
    assert "[E303]" in str(capped.summary.stopped)
    rest = await Runner(base_url="simulated", price=["m=0/1000"]).run(path)
    assert (rest.exit_code, rest.succeeded) == (0, 200)
    assert rest.snapshot.cost_expected == pytest.approx(rest.summary.cost, rel=1e-3)


async def test_a_cap_on_tokens_stops_softly(tmp_path: Path) -> None:
    report = await Runner(base_url="simulated", concurrency=4, max_tokens_total=1000).run(job(tmp_path, 200))
    assert report.exit_code == 3
    assert 500 <= report.summary.tokens.input + report.summary.tokens.output <= 1400
    assert report.summary.cost is None


async def test_the_end_says_why(tmp_path: Path) -> None:
    report = await Runner(base_url="http://127.0.0.1:9/v1", max_outage=0.05, max_attempts=2).run(job(tmp_path, 30))
    said = text.final(report, Invocation(input="job.jsonl"))
    assert report.exit_code == 3
    assert re.search(r"cause +[0-9].*refused or unreachable", said)
    assert "→" in said


def test_no_cause_is_named_where_all_went_well() -> None:
    guilty = records.Finding(code="us", question="?", verdict="yes", said="said", remedy="do")
    summary = batchrunner.summary.Summary(
        input="a", total=100, succeeded=100, failed=0, invalid=0, pending=0, attempts=101, retries=1
    )
    report = batchrunner.summary.Report(summary, findings=(guilty,))
    assert "cause" not in text.final(report, Invocation(input="a"))
    busy = msgspec.structs.replace(report, summary=msgspec.structs.replace(summary, attempts=140, retries=40))
    assert "cause     said" in text.final(busy, Invocation(input="a"))
    narrow = msgspec.structs.replace(report, snapshot=Snapshot(gauges=Gauges(room=1)))
    assert "cause     said" in text.final(narrow, Invocation(input="a"))


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq")
def test_jq_reads_both(tmp_path: Path) -> None:
    path = job(tmp_path)
    batchrunner.run_sync(path, base_url="simulated:flaky")
    wanted = [line.strip() for line in str(records.__doc__).split("\n") if line.strip().startswith("jq")]
    assert len(wanted) == 3
    for command in re.findall(r"^ {4}jq.*?jsonl$", str(records.__doc__), re.DOTALL | re.MULTILINE):
        subprocess.run(command, shell=True, check=True, cwd=Paths.of(path).folder, capture_output=True)


def test_lines_of_later_versions_and_torn_ones_are_left_out(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "a.jsonl")
    paths.folder.mkdir()
    good = msgspec.json.encode(moment())
    paths.events.write_bytes(good + b'\n{"event":"nova","v":9}\n\n[]\n' + good[:-20] + b"\n" + good + b"\n")
    assert len(list(replay.events(paths))) == 2
    assert list(replay.attempts(paths)) == []
