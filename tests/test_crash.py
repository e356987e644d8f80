"""A short kill test in every run of the suite; `scripts/crash` is the long one. And that it would notice a loss."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.crash import GARBAGE, Campaign, Job, Lost, Round


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost_and_nothing_is_twice_however_often_it_is_killed(
    capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    campaign = Campaign(rounds=6, seed=3, lines=100, workers=workers)
    campaign.fight()
    assert campaign.kills == 6
    assert capsys.readouterr().err == ""


def record(number: int, ok: bool = True, said: str = "say it so") -> bytes:
    """What a run would write for line `number`, counted from 0."""
    choice = {"index": 0, "message": {"content": f"word{number}. {said}"}, "finish_reason": "stop"}
    response = {"status_code": 200 if ok else 500, "body": {"choices": [choice]}}
    facts = {"line": number + 1, **({} if ok else {"kind": "server_error"})}
    return json.dumps({"custom_id": f"r-{number}", "response": response, "error": None, "batchrunner": facts}).encode() + b"\n"


class Ended(Round):
    """A round that ended with this code and these words."""

    def __init__(self, code: int, out: bytes) -> None:
        self.code, self.out, self.err = code, out, b""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A finished job of four lines, the last of which has failed."""
    made = Job(tmp_path, 4, "http://127.0.0.1:9/v1", Random(1))
    (made.run / "torn").mkdir(parents=True)
    made.results.write_bytes(record(0) + record(1) + record(2))
    made.errors.write_bytes(record(3, ok=False))
    tell(made)
    return made


def tell(job: Job, **changes: object) -> None:
    summary = {"total": 4, "succeeded": 3, "failed": 1, "invalid": 0, "pending": 0, "stopped": None}
    (job.run / "summary.json").write_text(json.dumps(summary | changes))


def verdict(job: Job, code: int = 1) -> None:
    job.verdict(Ended(code, (job.run / "summary.json").read_bytes()))


def replace(job: Job, old: bytes, new: bytes) -> None:
    job.results.write_bytes(job.results.read_bytes().replace(old, new))


def test_a_sound_job_passes(job: Job) -> None:
    job.look()
    job.results.write_bytes(job.results.read_bytes() + record(3))
    job.errors.write_bytes(b"")
    tell(job, succeeded=4, failed=0)
    verdict(job, 0)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda job: replace(job, record(1), b""), "have changed"),
        (lambda job: replace(job, b"so", b"no"), "have changed"),
        (lambda job: job.errors.write_bytes(b""), "errors are gone"),
    ],
    ids=["a result lost", "a result changed", "an error lost"],
)
def test_what_was_seen_whole_must_stay(job: Job, spoil: Callable[[Job], object], word: str) -> None:
    job.look()
    spoil(job)
    with pytest.raises(Lost, match=word):
        job.look()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda job: replace(job, record(1), b""), "without a record"),
        (lambda job: replace(job, record(1), record(1) + record(2)), "several records"),
        (lambda job: replace(job, record(1), record(1) + record(3)), "several records"),
        (lambda job: replace(job, b"word1", b"word2"), "not the answer"),
        (lambda job: replace(job, b'"r-1"', b'"r-7"'), "not the id"),
        (lambda job: replace(job, b'"stop"', b"null"), "not a whole answer"),
        (lambda job: tell(job, succeeded=2, pending=1), "succeeded"),
        (lambda job: tell(job, failed=0), "1 errors"),
        (lambda job: job._garbage.append(GARBAGE), "cut and not kept"),
    ],
    ids=["none", "twice", "result and error", "another's answer", "another's id", "cut", "miscounted", "errors", "torn bytes"],
)
def test_what_is_unsound_at_the_end(job: Job, spoil: Callable[[Job], object], word: str) -> None:
    spoil(job)
    with pytest.raises(Lost, match=word):
        verdict(job)


def test_an_end_that_was_none(job: Job) -> None:
    with pytest.raises(Lost, match="exit code 4"):
        verdict(job, 4)
