"""What is done is found from input and output, whatever became of either; the checkpoint only makes it fast."""

import asyncio
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner import disk, foreign, identity, joining, numbers, resume
from batchrunner import lines as input_lines
from batchrunner.checkpoint import Checkpoint
from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.errors import FileError
from batchrunner.journal import Durability, Journal, Paths
from batchrunner.lines import MAX_LINE, Line, blank, read_blocks
from batchrunner.numbers import number_of
from batchrunner.reader import Asked, Compared, Reading, read
from batchrunner.records import Successes, read_successes, record
from batchrunner.resume import Evidence, Output, survey, tidy
from batchrunner.standing import Standing, Twin


@dataclass(frozen=True)
class Record:
    id: str
    line: int
    digest: str
    ok: bool
    kind: str
    error: None = None


def identify(raw: bytes, line: int) -> tuple[str, str]:
    """Lines of these tests are `id text`."""
    return raw.split(b" ")[0].decode(), hashlib.sha256(raw).hexdigest()[:16]


def read_record(raw: bytes) -> Record:
    try:
        return Record(**json.loads(raw))
    except (TypeError, RecursionError) as error:
        raise ValueError("no record") from error


def evidence(texts: Sequence[bytes], output: Output) -> Evidence:
    """Three lines to a block."""

    def blocks(compared: Compared) -> Generator[Asked, None, None]:
        for at in range(0, len(texts), 3):
            lines = [(number, text) for number, text in enumerate(texts[at : at + 3], at + 1)]
            digests = array("q", [number_of(identify(text, number)[1]) for number, text in lines if compared()])
            yield Asked(at + 1, [identify(text, number)[0] if text.strip() else "" for number, text in lines], digests.tobytes())

    def read_successes(lines: Sequence[bytes]) -> Successes | None:
        try:
            told = list(map(read_record, lines))
        except ValueError:
            return None
        if not all(each.ok and each.line and each.digest for each in told):
            return None
        return Successes(
            [each.id for each in told], [each.line for each in told], array("q", [number_of(each.digest) for each in told])
        )

    return Evidence(blocks, read_successes, read_record, output)


@dataclass
class Job:
    """An input with its open journal."""

    journal: Journal
    texts: list[str]

    def write_input(self, texts: list[str]) -> None:
        self.texts = texts
        self.journal.paths.input.write_text("".join(f"{text}\n" for text in texts))

    def record(self, line: int, kind: str = "ok", /, **other: object) -> bytes:
        name, digest = identify(self.texts[line - 1].encode(), line)
        record = {"id": name, "line": line, "digest": digest, "ok": kind == "ok", "kind": kind, **other}
        return json.dumps(record).encode() + b"\n"

    def settle(self, line: int, kind: str = "ok", standing: Standing | None = None, /, **other: object) -> None:
        self.journal.append(self.record(line, kind, **other), kind == "ok")
        if standing is not None:
            standing.mark(line, kind == "ok", kind)

    @property
    def evidence(self) -> Evidence:
        return evidence([text.encode() for text in self.texts], self.journal)

    def survey(self, reopen: Callable[[str], bool] | None = None, keep_changed: bool = False) -> Standing:
        standing = survey(self.evidence, reopen, keep_changed)
        assert standing.total == standing.succeeded + standing.failed + standing.invalid + standing.pending
        assert sum(standing.kinds.values()) == standing.failed + standing.invalid
        return standing

    def done(self, standing: Standing) -> list[int]:
        return [line for line in range(1, len(self.texts) + 1) if standing.is_done(line)]

    def errors(self) -> list[tuple[str, str]]:
        lines = self.journal.paths.errors.read_bytes().splitlines()
        return [(record.id, record.kind) for record in map(read_record, lines)]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "in.jsonl").touch()
    with Journal.open(Paths.of(tmp_path / "in.jsonl"), Durability(spill_dir=str(tmp_path / "spill"))) as journal:
        job = Job(journal, [])
        job.write_input([f"r{number} text" for number in range(1, 11)])
        yield job


# -- the survey


def test_a_fresh_input(job: Job) -> None:
    standing = job.survey()
    assert (standing.total, standing.last, standing.pending, job.done(standing)) == (10, 10, 10, [])


def test_an_empty_input(job: Job) -> None:
    job.write_input([])
    assert job.survey().total == 0


def test_blank_lines_are_counted_as_places_only(job: Job) -> None:
    job.write_input(["", "a 1", "   ", "b 2", "\t"])
    job.settle(4)
    standing = job.survey()
    assert (standing.total, standing.last, job.done(standing)) == (2, 5, [4])


def test_successes_failures_and_kinds(job: Job) -> None:
    for line, kind in ((1, "ok"), (2, "rejected"), (3, "policy"), (4, "rejected"), (5, "invalid"), (10, "ok")):
        job.settle(line, kind)
    standing = job.survey()
    assert (standing.succeeded, standing.failed, standing.invalid, standing.pending) == (2, 3, 1, 4)
    assert standing.kinds == {"rejected": 2, "policy": 1, "invalid": 1}
    assert job.done(standing) == [1, 2, 3, 4, 5, 10]


def test_marking_agrees_with_a_survey(job: Job) -> None:
    standing = job.survey()
    for line, kind in ((1, "ok"), (8, "rejected"), (9, "invalid"), (10, "ok")):
        job.settle(line, kind, standing)
    standing.current = bytearray([0b11])
    assert standing == job.survey()


@given(first=st.lists(st.integers(1, 40), min_size=1), then=st.lists(st.integers(1, 40), min_size=1))
def test_successes_noted_together_are_those_noted_one_by_one(first: list[int], then: list[int]) -> None:
    together, alone = (Standing(40, 40, bytearray(6), bytearray(6)) for _ in range(2))
    for lines in (first, then):
        together.answer(lines)
        for line in lines:
            alone.answer([line])
    assert together == alone
    assert [line for line in range(1, 41) if together.is_done(line)] == sorted({*first, *then})
    assert (together.succeeded, together.repeated) == (len({*first, *then}), len(first + then) - len({*first, *then}))


@given(
    marks=st.lists(st.tuples(st.integers(1, 40), st.booleans())), last=st.integers(0, 40), first=st.integers(1, 45),
    count=st.integers(0, 45),
)  # fmt: skip
def test_what_is_still_open_is_what_is_not_done(marks: list[tuple[int, bool]], last: int, first: int, count: int) -> None:
    standing = Standing(40, 40, bytearray(6), bytearray(6))
    for line, ok in dict(marks).items():
        standing.mark(line, ok, "" if ok else "policy")
    standing.last = last
    assert list(standing.still_open(first, count)) == [line for line in range(first, first + count) if not standing.is_done(line)]


def test_lines_that_come_after_the_survey_wait(job: Job) -> None:
    assert job.survey().is_done(11)


def test_added_removed_and_reordered_lines(job: Job) -> None:
    job.settle(1)
    job.settle(2)
    job.settle(3, "policy")
    job.settle(9)
    job.write_input(["r9 text", "new text", "r3 text", "r1 text", "r4 text"])
    standing = job.survey()
    assert job.done(standing) == [1, 3, 4]
    assert (standing.strangers, standing.changed) == (1, 0)


def test_an_edited_line_with_an_answer_is_reported_and_open(job: Job) -> None:
    job.settle(1)
    job.settle(2)
    job.write_input(["r1 other", *job.texts[1:]])
    standing = job.survey()
    assert (standing.changed, standing.edits, job.done(standing)) == (1, [("r1", 1)], [2])
    kept = job.survey(keep_changed=True)
    assert (kept.changed, job.done(kept)) == (0, [1, 2])
    job.settle(1)
    standing = job.survey()
    assert (standing.changed, job.done(standing)) == (0, [1, 2])


def test_an_edited_line_that_had_failed_is_simply_open(job: Job) -> None:
    job.settle(1, "invalid")
    job.write_input(["r1 mended", *job.texts[1:]])
    for keep_changed in (False, True):
        standing = job.survey(keep_changed=keep_changed)
        assert (standing.changed, standing.superseded, job.done(standing)) == (0, 1, [])


def test_examples_are_the_first_few_and_the_count_is_whole(job: Job) -> None:
    job.write_input([f"r{number} old" for number in range(1, 101)])
    for line in range(1, 101):
        job.settle(line)
    job.write_input([f"r{number} new" for number in range(1, 101)])
    standing = job.survey()
    assert standing.changed == 100
    assert standing.edits == [(f"r{number}", number) for number in range(1, resume.FEW + 1)]


def test_duplicates_are_named_with_their_first_line(job: Job) -> None:
    job.write_input(["a 1", "b 2", "", "a 3", "c 4", "a 5", "b 2"])
    standing = job.survey()
    assert standing.duplicates == 3
    assert standing.twins == [Twin("a", 4, 1), Twin("a", 6, 1), Twin("b", 7, 2)]


def test_a_collision_of_hashes_is_no_duplicate(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "hash", lambda name: 7 if name in {"r1", "r2"} else hash(name), raising=False)
    standing = job.survey()
    assert (standing.duplicates, standing.twins, standing.pending) == (0, [], 10)


def test_a_success_wins_and_the_last_error_counts(job: Job) -> None:
    job.settle(1, "policy")
    job.settle(1)
    job.settle(2)
    job.settle(2, "policy")
    job.settle(3, "policy")
    job.settle(3, "rejected")
    job.settle(4)
    job.settle(4)
    standing = job.survey()
    assert (standing.succeeded, standing.kinds) == (3, {"rejected": 1})
    assert (standing.repeated, standing.superseded) == (1, 3)


def test_records_without_our_key_match_by_id(job: Job) -> None:
    job.settle(3, digest="", line=0)
    job.settle(4, "policy", digest="", line=0)
    assert job.done(job.survey()) == [3, 4]


@pytest.mark.parametrize("ok", [True, False])
def test_damage_in_the_middle_is_set_aside_once_and_asked_again(job: Job, ok: bool) -> None:
    path = job.journal.paths.results if ok else job.journal.paths.errors
    kind = "ok" if ok else "policy"
    whole = [job.record(line, kind) for line in (1, 2, 3)]
    hole = b"\0" * 50 + b"\n"
    path.write_bytes(whole[0] + whole[1][:20] + b"\xff" + whole[1][21:] + hole + b"\n" + whole[2])
    for _ in range(2):
        standing = job.survey()
        assert (standing.damaged, job.done(standing)) == (2, [1, 3])
    start = len(whole[0])
    assert (job.journal.paths.torn / f"{path.name}.{start}").read_bytes()[:20] == whole[1][:20]
    assert (job.journal.paths.torn / f"{path.name}.{start + len(whole[1])}").read_bytes() == hole


def test_much_damage_stops(job: Job) -> None:
    job.journal.paths.results.write_bytes(b"{garbage\n" * resume.FEW)
    assert job.survey().damaged == resume.FEW
    job.journal.paths.errors.write_bytes(b"{garbage\n")
    with pytest.raises(FileError, match="E405"):
        job.survey()


def test_partitions_that_overflow_give_the_same_standing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write_input([f"r{number} text" for number in range(1, 501)] + ["r7 twin"])
    for line in range(1, 400):
        job.settle(line, ("ok", "policy", "invalid")[line % 3])
    whole = job.survey()
    monkeypatch.setattr(numbers, "BUDGET", 37)
    assert job.survey() == whole
    assert whole.succeeded == 133


def test_no_room_for_the_join_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "BUDGET", 3)

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numbers.tempfile, "TemporaryFile", full)
    with pytest.raises(FileError, match=r"disk is full.*E404"):
        job.survey()


# -- the short cut


NAMES = st.sampled_from(["a", "b", "c", "\u00fc", "", None, 7])
WORDS = st.sampled_from(["ok", "ok", "ok", "policy", "strict", "far", "wrong line", "wrong digest", "garbage", "blank"])


def real(paths: Paths, exactly: bool) -> Evidence:
    """The rooms themselves; `exactly` line by line."""

    class Exact:
        def __init__(self) -> None:
            self.paths = paths

        def set_aside(self, path: Path, offset: int, raw: bytes) -> None:
            """Nothing: both ways read the same file."""

        def compact(self, keep: Callable[[bytes], bool]) -> int:
            raise NotImplementedError

    def blocks(compared: Compared) -> Generator[Asked, None, None]:
        reading = Reading(paths.input, 200, "")
        return one_by_one(reading) if exactly else read(reading, [], compared)

    return Evidence(blocks, (lambda lines: None) if exactly else read_successes, foreign.read_record, Exact())


def one_by_one(reading: Reading) -> Generator[Asked, None, None]:
    """What `read` gives, line by line, without its short cuts."""
    for first, lines in read_blocks(reading.path, reading.max_line):
        for line, raw in enumerate(lines, first):
            name, digest = identity.identify(raw, line)
            yield Asked(line, ["" if blank(raw) else name], array("q", [number_of(digest)]).tobytes())


def said(word: str, raw: Line, line: int) -> bytes:
    """A line of the results about this line of the input."""
    name, digest = identity.identify(raw, line)
    shift = {"far": 10**9, "wrong line": 1}.get(word, 0)
    digest = digest[::-1] if word == "wrong digest" else digest
    request = Request(line=line + shift, id=name, digest=digest, route=Route.CHAT, path="/x")
    kind = Kind.POLICY if word == "policy" else Kind.OK
    line_of_it = record(Result(request=request, kind=kind, status=200, body=b"{}"), strict=word == "strict")
    return {"garbage": b"{nothing\n", "blank": b" \n"}.get(word, line_of_it)


@given(
    rows=st.lists(st.tuples(NAMES, st.booleans()), max_size=12), told=st.lists(st.tuples(WORDS, st.integers(0, 11)), max_size=9)
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_pairing_off_gives_the_standing_of_a_join(
    tmp_path: Path, rows: list[tuple[object, bool]], told: list[tuple[str, int]]
) -> None:
    """Unless an id comes twice: then nothing is sent, and which of the twins has the answer is nobody's concern."""
    paths = Paths.of(tmp_path / "in.jsonl")
    lines = [
        b"" if number % 5 == 4 else json.dumps({"custom_id": name and f"{name}{number}", "note": "x" * 300 * long}).encode()
        for number, (name, long) in enumerate(rows)
    ]
    paths.input.write_bytes(b"".join(line + b"\n" for line in lines))
    read = [raw for _, block in read_blocks(paths.input, 200) for raw in block]
    records = [said(word, read[at % len(read)], at % len(read) + 1) for word, at in told if read]
    paths.results.write_bytes(b"".join(records))
    paths.errors.write_bytes(b"".join(records[::2]))
    with pytest.MonkeyPatch.context() as patch:  # a few lines to a block: then the input is read bit by bit
        patch.setattr(input_lines, "_BLOCK", 150)
        patch.setattr(disk, "BLOCK", 100)
        assert survey(real(paths, False)) == survey(real(paths, True))


def test_successes_in_their_places_are_paired_off_without_a_join(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in range(1, 8):
        job.settle(line)

    def joined(*_: object) -> None:
        raise AssertionError("nothing is left to join")

    monkeypatch.setattr(joining.Join, "_join", joined)
    assert job.done(job.survey()) == list(range(1, 8))


def test_a_success_under_another_id_settles_no_line(job: Job) -> None:
    job.settle(1)
    job.settle(2, id="somebody else's")
    standing = job.survey()
    assert (job.done(standing), standing.strangers) == ([1], 1)


def test_records_far_apart_are_joined(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SPAN", 4)
    for line in (1, 9, 5, 2):
        job.settle(line)
    assert job.done(job.survey()) == [1, 2, 5, 9]


def test_more_leftovers_than_are_told_apart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in range(1, 8):
        job.settle(line, "policy")
    whole = job.survey()
    monkeypatch.setattr(joining, "MANY", 3)
    assert job.survey() == whole
    assert whole.failed == 7


# -- retry


def test_reopened_kinds_are_asked_again(job: Job) -> None:
    for line, kind in ((1, "ok"), (2, "policy"), (3, "rate_limited"), (4, "invalid")):
        job.settle(line, kind)
    standing = job.survey(reopen=lambda kind: kind == "rate_limited")
    assert (standing.reopened, standing.pending, standing.kinds) == (1, 7, {"policy": 1, "invalid": 1})
    assert job.done(standing) == [1, 2, 4]


def test_after_a_retry_each_failing_line_has_one_record(job: Job) -> None:
    for line in range(1, 8):
        job.settle(line, "policy")
    job.write_input([*job.texts[:5], "r6 edited", *job.texts[7:]])  # r7 is gone
    standing = job.survey(reopen=lambda kind: True)
    job.settle(1, "ok", standing)
    job.settle(2, "rejected", standing)
    job.settle(6, "context", standing)
    with job.journal.paths.errors.open("ab") as file:
        file.write(b"{damage\n\n")
    job.journal.log(False).size += 9
    standing = tidy(job.evidence)
    assert job.errors() == [
        ("r3", "policy"), ("r4", "policy"), ("r5", "policy"), ("r7", "policy"), ("r2", "rejected"), ("r6", "context")
    ]  # fmt: skip
    standing.current = bytearray([0b111111])
    assert standing == job.survey()


def test_an_error_among_the_results_takes_no_place_in_the_errors_file(job: Job) -> None:
    job.journal.append(job.record(1, "policy"), True)
    job.settle(2, "policy")
    job.settle(2, "rejected")
    standing = tidy(job.evidence)
    assert (standing.failed, job.done(standing), job.errors()) == (2, [1, 2], [("r2", "rejected")])


# -- the checkpoint


def saved(job: Job, standing: Standing) -> bool:
    return asyncio.run(Checkpoint(job.journal).save(standing))


def bare(standing: Standing) -> Standing:
    standing.current = bytearray()
    return standing


def test_a_checkpoint_gives_the_standing_of_a_survey(job: Job) -> None:
    job.settle(1)
    job.settle(2, "policy")
    assert saved(job, job.survey())
    job.settle(3)
    job.settle(4, "invalid")
    assert Checkpoint(job.journal).load(read_record) == bare(job.survey())
    assert job.journal.paths.checkpoint.stat().st_mode & 0o777 == 0o600


def test_only_what_came_since_is_read(job: Job) -> None:
    job.settle(1)
    assert saved(job, job.survey())
    job.settle(2)
    seen = list[int]()

    def read(raw: bytes) -> Record:
        record = read_record(raw)
        seen.append(record.line)
        return record

    assert Checkpoint(job.journal).load(read) is not None
    assert seen == [2]


def test_a_missing_checkpoint(job: Job) -> None:
    assert Checkpoint(job.journal).load(read_record) is None


def test_every_flipped_or_missing_byte_voids_it(job: Job) -> None:
    job.settle(1)
    job.settle(2, "policy")
    assert saved(job, job.survey())
    path = job.journal.paths.checkpoint
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bad in (whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :], whole[:at]):
            path.write_bytes(bad)
            assert Checkpoint(job.journal).load(read_record) is None
            assert not path.exists()
    path.write_bytes(whole)
    assert Checkpoint(job.journal).load(read_record) == bare(job.survey())


def touch(job: Job) -> None:
    os.utime(job.journal.paths.input, ns=(1, 1))


def exchange(job: Job) -> None:
    """Other bytes, same size and time, in another inode."""
    source = job.journal.paths.input
    facts = source.stat()
    copy = source.with_name("copy")
    copy.write_bytes(source.read_bytes().replace(b"r9", b"x9"))
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    copy.replace(source)


def edit_in_place(job: Job) -> None:
    """Other bytes, with size, inode and time as they were."""
    source = job.journal.paths.input
    facts = source.stat()
    source.write_bytes(source.read_bytes().replace(b"r9", b"x9"))
    os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def shorten(job: Job) -> None:
    log = job.journal.log(True)
    os.truncate(log.path, log.size - 1)


def shift(job: Job) -> None:
    """A record was deleted by hand, and others have come since: no shorter, but another end."""
    path = job.journal.paths.results
    path.write_bytes(b"".join([*path.read_bytes().splitlines(keepends=True)[1:], *map(job.record, range(5, 9))]))


def substitute(job: Job) -> None:
    path = job.journal.paths.errors
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def other_version(job: Job) -> None:
    job.journal.paths.checkpoint.write_bytes(b"batchrunner checkpoint 2")


def append_again(job: Job) -> None:
    job.settle(1)


def append_after_error(job: Job) -> None:
    job.settle(2)


def append_without_digest(job: Job) -> None:
    job.settle(5, digest="", line=0)


def append_line_without_digest(job: Job) -> None:
    job.settle(5, digest="")


def append_out_of_range(job: Job) -> None:
    job.settle(5, line=11)


def append_damage(job: Job) -> None:
    job.journal.append(b"{damage\n", True)


def delete_results(job: Job) -> None:
    job.journal.paths.results.unlink()


@pytest.mark.parametrize(
    "harm",
    [
        touch, exchange, edit_in_place, shorten, shift, substitute, other_version, delete_results,
        append_again, append_after_error, append_without_digest, append_line_without_digest, append_out_of_range, append_damage,
    ],
)  # fmt: skip
def test_anything_odd_voids_it(job: Job, harm: Callable[[Job], None]) -> None:
    for line in (1, 3, 4):
        job.settle(line)
    job.settle(2, "policy")
    assert saved(job, job.survey())
    harm(job)
    assert Checkpoint(job.journal).load(read_record) is None
    assert not job.journal.paths.checkpoint.exists()


def test_an_edit_far_from_both_ends_of_the_input_voids_it(job: Job) -> None:
    job.write_input([f"r{number} {'x' * 1000}" for number in range(1, 401)])
    assert saved(job, job.survey())
    source = job.journal.paths.input
    facts = source.stat()
    source.write_bytes(source.read_bytes().replace(b"r200 ", b"y200 "))
    os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert Checkpoint(job.journal).load(read_record) is None


def test_it_is_for_one_way_to_treat_changed_lines(job: Job) -> None:
    assert saved(job, job.survey())
    assert Checkpoint(job.journal, keep_changed=True).load(read_record) is None


@pytest.mark.parametrize("read_as", [("1/2", MAX_LINE), ("", 1024)])
def test_it_is_for_one_way_to_read_the_input(job: Job, read_as: tuple[str, int]) -> None:
    assert saved(job, job.survey())
    assert Checkpoint(job.journal, read_as=read_as).load(read_record) is None


def test_it_is_not_written_when_it_would_mislead(job: Job) -> None:
    job.settle(1)
    job.settle(2, "policy")
    assert not saved(job, job.survey(reopen=lambda kind: True))
    job.texts[0] = "r1 edited"
    assert not saved(job, job.survey())
    job.texts[0:3] = ["r1 text", "r2 text", "r2 text"]
    assert not saved(job, job.survey())
    job.texts[2] = "r3 text"
    assert saved(job, job.survey())
    job.journal.fault = FileError("E404", "spilled")
    assert not saved(job, job.survey())
    assert not Checkpoint(Journal(Paths.of(Path("gone")), Durability(), job.journal._disk))._input


def test_without_syncs_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("a 1\n")
    with Journal.open(Paths.of(tmp_path / "in.jsonl"), Durability(sync="none")) as journal:
        job = Job(journal, ["a 1"])
        assert not saved(job, job.survey())


def test_a_checkpoint_of_an_input_that_changed_meanwhile_is_void(job: Job) -> None:
    checkpoint = Checkpoint(job.journal)
    standing = job.survey()
    job.write_input(["other 1"])
    assert asyncio.run(checkpoint.save(standing))
    assert Checkpoint(job.journal).load(read_record) is None


def test_a_checkpoint_that_cannot_be_written_stops_nothing(job: Job) -> None:
    job.journal.paths.checkpoint.mkdir()
    assert not saved(job, job.survey())
