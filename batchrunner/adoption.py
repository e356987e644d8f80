"""Finish somebody else's batch: the answers in its files become records of this job, and what they lack is left to be sent.

Rules:

1. Every answer is judged as if it had just come (`core.classify`): what is cut, filtered or failed within is no success here.
2. A failure becomes an error record only where the job would not ask again; all others are left out, so that they are sent.
3. A success goes before a failure, wherever it stands. A line that has its record already gets no second one: the same
   command may be given again.
4. Files that answer no line of the input are refused before anything is written.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from batchrunner.answers import Told, read_answer
from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Error, Kind, Reply, Request, Result
from batchrunner.core.treatment import ended
from batchrunner.dialects import Dialect, opened
from batchrunner.disk import records
from batchrunner.errors import UsageError
from batchrunner.expectation import Misfits, blamed, fits
from batchrunner.foreign import read_record
from batchrunner.formats import parse
from batchrunner.identity import identify
from batchrunner.lines import read_lines
from batchrunner.partitions import Partitions
from batchrunner.paths import Paths
from batchrunner.source import Intake, dialect_of

FLAG = "adopted"
"""What marks the record of an answer that another batch gave."""
_NO_DEADLINES = Deadlines(0.0, 0.0, 0.0, 0.0)
_ANY = ""  # the digest of a record that fits every text of its line
_packed = msgspec.msgpack.encode


class Batch(Struct, frozen=True):
    """What is adopted, and into what: `reopen` says which failures this job asks again, `misfit` why an answer does not fit."""

    files: Sequence[Path]
    paths: Paths
    intake: Intake
    reopen: Callable[[str], bool]
    misfit: Misfits = fits


class Adopted(Struct):
    """What came of it. `strangers` answer no line of the input, `unreadable` are lines that hold no answer at all."""

    matched: int = 0  # lines of the input that the files speak of
    answered: int = 0
    failed: int = 0
    left_out: int = 0  # failures that are sent again
    strangers: int = 0
    unreadable: int = 0
    tokens_in: int = 0  # of the answers taken over, as their service counted them
    tokens_out: int = 0

    def __str__(self) -> str:
        told = {
            "answers taken over": self.answered,
            "failures taken over": self.failed,
            "failures to be sent again": self.left_out,
            "answers to other requests": self.strangers,
            "lines without an answer": self.unreadable,
            "tokens in": self.tokens_in,
            "tokens out": self.tokens_out,
        }
        return " · ".join(f"{what}: {count:,}" for what, count in told.items() if count)


class _Asked(Struct, array_like=True, gc=False):
    id: str
    line: int
    raw: bytes


class _Known(Struct, array_like=True, gc=False):
    """A record that the output has already."""

    id: str
    digest: str
    ok: bool


_asked = msgspec.msgpack.Decoder(_Asked).decode
_known = msgspec.msgpack.Decoder(_Known).decode
_told = msgspec.msgpack.Decoder(Told).decode


def adopt(batch: Batch, keep: Callable[[list[Result]], None]) -> Adopted:
    """Give `keep` the results that the files hold for lines of the input, each once.

    UsageError E201 E202 E204: a file cannot be read. E207: none of them answers a line of this input. OSError: no room to join.
    """
    counts, dialect = Adopted(), dialect_of(batch.paths.input, batch.intake)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=batch.paths.folder, prefix="adopt-"))
        told, asked, known = (stack.enter_context(Partitions(Path(folder))) for _ in range(3))
        _deal_told(batch.files, told, counts)
        _deal_asked(batch, asked)
        _deal_known(batch.paths, known)
        for rows in zip(told, asked, known, strict=True):
            keep(list(_joined(*rows, dialect, batch, counts)))
    _refuse_strangers(counts, batch)
    return counts


def _deal_told(files: Sequence[Path], told: Partitions, counts: Adopted) -> None:
    for path in files:
        for _, raw in read_lines(path):
            try:
                answer = read_answer(raw if isinstance(raw, bytes) else b"")
            except ValueError:
                counts.unreadable += 1
                continue
            told.put(answer.id, _packed(answer))


def _deal_asked(batch: Batch, asked: Partitions) -> None:
    for line, raw in read_lines(batch.paths.input, batch.intake.max_line):
        if isinstance(raw, bytes):
            name = identify(raw, line)[0]
            asked.put(name, _packed(_Asked(name, line, raw)))


def _deal_known(paths: Paths, known: Partitions) -> None:
    for path in (paths.results, paths.errors):
        for _, raw in records(path):
            try:
                record = read_record(raw)
            except ValueError:
                continue  # the survey that follows tells of it
            known.put(record.id, _packed(_Known(record.id, record.digest, record.ok)))


def _joined(
    told: list[bytes], asked: list[bytes], known: list[bytes], dialect: Dialect, batch: Batch, counts: Adopted
) -> Iterator[Result]:
    """The results that a partition adds."""
    lines = {row.id: row for row in map(_asked, asked)}
    had = {(row.id, row.digest): row.ok for row in sorted(map(_known, known), key=lambda row: row.ok)}
    best: dict[str, Result] = {}
    for answer in map(_told, told):
        row = lines.get(answer.id)
        if row is None:
            counts.strangers += 1
        elif isinstance(request := _requested(row, dialect), Request):
            best[answer.id] = _better(best.get(answer.id), _judged(request, answer, batch.misfit))
    counts.matched += len(best)
    yield from _wanted(best.values(), had, batch.reopen, counts)


def _better(first: Result | None, second: Result) -> Result:
    return first if first and (first.ok or not second.ok) else second


def _wanted(
    results: Iterable[Result], had: dict[tuple[str, str], bool], reopen: Callable[[str], bool], counts: Adopted
) -> Iterator[Result]:
    for result in results:
        request = result.request
        mine = had.get((request.id, request.digest), had.get((request.id, _ANY)))
        if mine or (mine is False and not result.ok):
            continue
        if not result.ok and (not result.status or reopen(result.kind)):
            counts.left_out += 1
            continue
        counts.answered += result.ok
        counts.failed += not result.ok
        if result.usage:
            counts.tokens_in += result.usage.input
            counts.tokens_out += result.usage.output
        yield result


def _requested(row: _Asked, dialect: Dialect) -> Request | Result:
    """The line as a request. It is not sent, so that an absolute url may lead where it likes."""
    try:
        url = opened(row.raw, dialect).url or ""
    except (ValueError, RecursionError):
        url = ""
    return parse(row.raw, row.line, (url,) if "://" in url else (), dialect=dialect)


def _judged(request: Request, answer: Told, misfit: Misfits) -> Result:
    """What the answer amounts to. No status: nobody has answered."""
    if not answer.status:
        return Result(request=request, kind=Kind.CANCELLED, error=Error(Kind.CANCELLED, answer.code, "not answered"))
    headers = {"x-request-id": answer.request_id} if answer.request_id else {}
    outcome = classify(Attempt(request, "", 1, 0.0, _NO_DEADLINES), Reply(answer.status, headers, answer.body))
    if outcome.kind is Kind.OK and (why := misfit(request.route, outcome.body)):
        outcome = blamed(outcome, Kind.INVALID_OUTPUT, why)
    return ended(request, outcome, flags=(*outcome.flags, FLAG))


def _refuse_strangers(counts: Adopted, batch: Batch) -> None:
    if counts.matched:
        return
    names = ", ".join(map(str, batch.files))
    raise UsageError(
        "E207",
        f"{names}: no line answers a request of {batch.paths.input}",
        f"custom_id joins them: compare  head -1 {batch.paths.input}  with  head -1 {batch.files[0]}",
    )
