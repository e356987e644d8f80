"""What is done already, found from the input and the output alone.

Rules:

1. A line is known by its id; the digest tells whether it is still the same line. Order and line numbers may change freely.
2. A success settles its line for good, before an error; of several errors the last one counts.
3. Memory is a few bits a line: ids and digests are joined as 64-bit hashes, in partitions that overflow to an unnamed file.
4. What the hashes suspect is looked at again by its real id before anybody is refused.
5. A damaged line of the output is set aside and its line asked again; many damaged lines stop the run.
6. What is appended to the input after the survey waits for the next run.
"""

import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Generic, Protocol, Self, TypeVar

from msgspec import Struct

from batchrunner.disk import records, why
from batchrunner.errors import FileError
from batchrunner.paths import Paths
from batchrunner.standing import BIT, Standing, Twin

Line = TypeVar("Line")

FEW = 10  # how many examples are kept, and how many damaged lines are forgiven
PARTITIONS = 1024
BUDGET = 350_000  # rows of 24 bytes in memory, for the input and for the output each

_SUCCESS, _FAILURE, _OLD = 1, 2, 4
_ANY = hash("")  # the digest of a record that has none
_KINDS = 127  # kinds of failure told apart; foreign files may hold any number


class Known(Protocol):
    """What a record of the output says about its line (`records.Record`); an empty digest fits every line."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def line(self) -> int: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102


class Output(Protocol):
    """What a survey needs of an open `Journal`."""

    paths: Paths

    def set_aside(self, path: Path, offset: int, raw: bytes) -> None:
        """Keep a damaged line."""

    def compact(self, keep: Callable[[bytes], bool]) -> int:
        """Rewrite the errors file."""


class Evidence(Struct, Generic[Line], frozen=True):
    """What a survey reads: the lines of the input from its start as often as asked, and the output."""

    lines: Callable[[], Iterable[tuple[int, Line]]]  # line number and raw line, as `source` reads them
    identify: Callable[[Line, int], tuple[str, str]]  # to id and digest
    read_record: Callable[[bytes], Known]  # ValueError: it is none
    output: Output


def survey(evidence: Evidence[Line], reopen: Callable[[str], bool] | None = None, keep_changed: bool = False) -> Standing:
    """Compare the input with the output.

    `reopen` says which kinds of failure are asked again; `keep_changed` takes the answer to an older text of a line for
    an answer. FileError E405: more than `FEW` lines of the output are damaged. E404: no room for the join.
    """
    folder = evidence.output.paths.folder
    try:
        with _Rows(folder) as asked, _Rows(folder) as told:
            return _Survey(evidence, asked, told, reopen or (lambda kind: False), keep_changed).run()
    except OSError as error:
        message = f"Cannot compare the input with the output in {folder}: {why(error)}. Nothing was sent."
        raise FileError("E404", message, "Mend that, then run the same command again.") from error


def tidy(evidence: Evidence[Line], keep_changed: bool = False) -> Standing:
    """Leave one record in the errors file for each line that still fails, and those of strangers; the standing after that.

    For the end of a run whose standing has `reopened` or `superseded` records.
    """
    standing = survey(evidence, None, keep_changed)
    evidence.output.compact(still_failing(standing))
    standing.damaged -= standing.damaged_errors
    standing.superseded, standing.damaged_errors, standing.current = 0, 0, bytearray()
    return standing


def still_failing(standing: Standing) -> Callable[[bytes], bool]:
    """What to keep of the errors file, for `Journal.compact`: it is asked about every line, in order, once."""
    numbers, current = count(), standing.current

    def keep(_raw: bytes) -> bool:
        number = next(numbers)
        return bool(current[number >> 3] & BIT[number & 7])

    return keep


class _Rows:
    """Rows of three 64-bit numbers, dealt by the first of them."""

    def __init__(self, folder: Path) -> None:
        self.buffers = [array("q") for _ in range(PARTITIONS)]
        self._places = [array("q") for _ in range(PARTITIONS)]  # offset and length of what was spilled, in turn
        self._folder = folder
        self._file: IO[bytes] | None = None

    def spill(self) -> None:
        """Move the rows in memory to the file."""
        self._file = self._file or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed by __exit__
        end = self._file.seek(0, os.SEEK_END)
        for buffer, places in zip(self.buffers, self._places, strict=True):
            places.extend((end, len(buffer) * buffer.itemsize))
            end += self._file.write(buffer)
            del buffer[:]

    def partitions(self) -> Iterator["array[int]"]:
        """Each partition whole, in the order its rows came."""
        for buffer, places in zip(self.buffers, self._places, strict=True):
            rows = array("q")
            for offset, length in zip(places[0::2], places[1::2], strict=True):
                assert self._file is not None
                self._file.seek(offset)
                rows.frombytes(self._file.read(length))
            rows.extend(buffer)
            yield rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class _Survey(Generic[Line]):
    """One survey under way: read the input, read the output, join them partition by partition."""

    def __init__(
        self, evidence: Evidence[Line], asked: _Rows, told: _Rows, reopen: Callable[[str], bool], keep_changed: bool
    ) -> None:
        self._evidence = evidence
        self._asked = asked
        self._told = told
        self._reopen = reopen
        self._keep_changed = keep_changed
        self._kinds: dict[str, int] = {}
        self._names: list[str] = []
        self._twins: list[tuple[int, int]] = []
        self._edits: list[int] = []
        self._standing = Standing(0, 0, bytearray(), bytearray())

    def run(self) -> Standing:
        standing = self._standing
        self._read_input()
        size = (standing.last >> 3) + 1
        standing.answered, standing.refused = bytearray(size), bytearray(size)
        self._read_output(True)
        standing.current = bytearray((self._read_output(False) >> 3) + 1)
        self._names.extend(self._kinds)
        for asked, told in zip(self._asked.partitions(), self._told.partitions(), strict=True):
            if asked or told:
                self._join(asked, told)
        self._second_look()
        return standing

    def _read_input(self) -> None:
        """A row of hash(id), hash(digest), line number for each line that is not blank."""
        buffers, identify, total, line = self._asked.buffers, self._evidence.identify, 0, 0
        for line, raw in self._evidence.lines():
            if isinstance(raw, bytes) and (not raw or raw.isspace()):
                continue
            name, digest = identify(raw, line)
            key = hash(name)
            buffers[key % PARTITIONS].extend((key, hash(digest), line))
            total += 1
            if not total % BUDGET:
                self._asked.spill()
        self._standing.total, self._standing.last = total, line

    def _read_output(self, ok: bool) -> int:
        """A row of hash(id), hash(digest), tag for each record; how many lines were read.

        The tag packs the number of the line in its file, the kind of failure and whether it is a success.
        """
        buffers, read, kinds, number = self._told.buffers, self._evidence.read_record, self._kinds, -1
        for number, (offset, raw) in enumerate(records(self._path(ok))):
            try:
                record = read(raw)
            except ValueError:
                self._damaged(ok, offset, raw)
                continue
            kind = 0 if record.ok else kinds.setdefault(record.kind if len(kinds) < _KINDS else "other", len(kinds))
            key = hash(record.id)
            self._standing.superseded += not ok
            buffers[key % PARTITIONS].extend((key, hash(record.digest), number << 9 | ok << 8 | kind << 1 | record.ok))
            if not (number + 1) % BUDGET:
                self._told.spill()
        return number + 1

    def _path(self, ok: bool) -> Path:
        paths = self._evidence.output.paths
        return paths.results if ok else paths.errors

    def _damaged(self, ok: bool, offset: int, raw: bytes) -> None:
        if raw.isspace():
            return
        output, path = self._evidence.output, self._path(ok)
        output.set_aside(path, offset, raw)
        self._standing.damaged += 1
        self._standing.damaged_errors += not ok
        if self._standing.damaged > FEW:
            message = f"More than {FEW} lines of the output are damaged; one is at byte {offset} of {path}."
            hint = f"Copies are in {output.paths.torn}. Restore the file or delete those lines, then run the same command again."
            raise FileError("E405", message, hint)

    def _join(self, asked: "array[int]", told: "array[int]") -> None:
        """Find for each record of a partition the line it speaks of, then settle the lines."""
        keys, digests, lines = asked[0::3], asked[1::3], asked[2::3]
        where = dict(zip(keys, range(len(keys)), strict=True))
        if len(where) < len(keys):
            where = self._suspects(keys, lines)
        states, last, repeated = bytearray(len(keys)), dict[int, int](), 0
        for key, digest, tag in zip(told[0::3], told[1::3], told[2::3], strict=True):
            at = where.get(key)
            if at is None:
                self._stranger(tag)
            elif digest == digests[at] or digest == _ANY or (tag & 1 and self._keep_changed):
                flag = _SUCCESS if tag & 1 else _FAILURE
                if flag == _FAILURE:
                    last[at] = tag
                else:
                    repeated += states[at] & flag
                states[at] |= flag
            elif tag & 1:
                states[at] |= _OLD
        self._standing.repeated += repeated
        self._settle(states, lines, last)

    def _settle(self, states: bytearray, lines: "array[int]", last: dict[int, int]) -> None:
        """Count each line of a partition by what its records said."""
        standing, edits = self._standing, list[int]()
        answered = standing.answered
        for line, state in zip(lines, states, strict=True):
            if state & _SUCCESS:
                answered[line >> 3] |= BIT[line & 7]
                standing.succeeded += 1
            elif state == _OLD:
                edits.append(line)
        for at, tag in last.items():
            if not states[at] & _SUCCESS:
                self._failure(lines[at], tag)
        standing.changed += len(edits)
        self._edits = sorted(self._edits + edits)[:FEW]

    def _failure(self, line: int, tag: int) -> None:
        """The line's last word is an error: it is refused, unless its kind is asked again."""
        self._keep(tag)
        kind = self._names[tag >> 1 & _KINDS]
        if self._reopen(kind):
            self._standing.reopened += 1
        else:
            self._standing.mark(line, False, kind)

    def _stranger(self, tag: int) -> None:
        self._standing.strangers += 1
        self._keep(tag)

    def _keep(self, tag: int) -> None:
        """The record counts: if it is one of the errors file, `tidy` leaves it there."""
        if not tag >> 8 & 1:
            number = tag >> 9
            self._standing.current[number >> 3] |= BIT[number & 7]
            self._standing.superseded -= 1

    def _suspects(self, keys: "array[int]", lines: "array[int]") -> dict[int, int]:
        """Where each key is first; the lines whose key an earlier one has are suspected of its id."""
        where: dict[int, int] = {}
        twins: list[tuple[int, int]] = []
        for at, key in enumerate(keys):
            first = where.setdefault(key, at)
            if first != at:
                twins.append((lines[at], lines[first]))
        self._standing.duplicates += len(twins)
        self._twins = sorted(self._twins + twins)[:FEW]
        return where

    def _second_look(self) -> None:
        """Read the examples again for their real ids; a suspect with an id of its own was a collision of hashes."""
        wanted = {*self._edits, *(line for pair in self._twins for line in pair)}
        names: dict[int, str] = {}
        for line, raw in self._evidence.lines() if wanted else ():
            if line in wanted:
                names[line] = self._evidence.identify(raw, line)[0]
                if len(names) == len(wanted):
                    break
        standing = self._standing
        standing.edits = [(names[line], line) for line in self._edits]
        for line, first in self._twins:
            if names[line] == names[first]:
                standing.twins.append(Twin(names[line], line, first))
            else:
                standing.duplicates -= 1
