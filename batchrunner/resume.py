"""What is done already, found from the input and the output alone.

Rules:

1. A line is known by its id; the digest tells whether it is still the same line. Order and line numbers may change freely.
2. A success settles its line for good, before an error; of several errors the last one counts.
3. Memory is a few bits a line: ids and digests are 64-bit numbers, kept beside memory (`rows`).
4. A success that stands where it says, with its id and digest, is paired off at once. Only what is left over is joined by id,
   and only with the lines that it may speak of.
5. What the hashes suspect is looked at again by its real id before anybody is refused.
6. A damaged line of the output is set aside and its line asked again; many damaged lines stop the run.
7. What is appended to the input after the survey waits for the next run.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import compress, count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from batchrunner.disk import record_blocks, why
from batchrunner.errors import FileError
from batchrunner.landmarks import Landmark
from batchrunner.paths import Paths
from batchrunner.rows import Column, Piles, number_of
from batchrunner.standing import BIT, Standing, Twin

Line = TypeVar("Line")

FEW = 10  # how many examples are kept, and how many damaged lines are forgiven
SPAN = 1 << 16  # lines that are held at once to pair records off with
MANY = 100_000  # keys that are told apart from the others in memory

_SUCCESS, _FAILURE, _OLD = 1, 2, 4
_ANY = number_of("")  # the digest of a record that has none
_KINDS = 127  # kinds of failure told apart; foreign files may hold any number
_BLANK = hash("")  # the key of a line that is none of the job's, such as a blank one


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


class Told(Protocol):
    """What a block of successes says of its lines (`records.Successes`)."""

    @property
    def ids(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def lines(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def digests(self) -> "array[int]": ...  # noqa: D102


class Evidence(Struct, Generic[Line], frozen=True):
    """What a survey reads: the lines of the input from its start as often as asked, and the output."""

    blocks: Callable[[], Iterator[tuple[int, Sequence[Line]]]]  # number of the first line and raw lines, as `lines` reads them
    names: Callable[[Sequence[Line], int], Sequence[str]]  # the ids of a block; "" for a line that is none of the job's
    digests: Callable[[Sequence[Line]], "array[int]"]
    read_successes: Callable[[Sequence[bytes]], Told | None]  # None: they are to be read one by one
    read_record: Callable[[bytes], Known]  # ValueError: it is none
    output: Output
    marks: list[Landmark] = []  # what reading the blocks notes


def survey(evidence: Evidence[Line], reopen: Callable[[str], bool] | None = None, keep_changed: bool = False) -> Standing:
    """Compare the input with the output.

    `reopen` says which kinds of failure are asked again; `keep_changed` takes the answer to an older text of a line for
    an answer. FileError E405: more than `FEW` lines of the output are damaged. E404: no room for the join.
    """
    folder = evidence.output.paths.folder
    try:
        with ExitStack() as until:
            return _Survey(evidence, until, reopen or (lambda kind: False), keep_changed).run()
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


class _Survey(Generic[Line]):
    """One survey under way: read the input, read the output, pair them off, join what is left over pile by pile."""

    def __init__(self, evidence: Evidence[Line], until: ExitStack, reopen: Callable[[str], bool], keep_changed: bool) -> None:
        self._evidence = evidence
        self._reopen = reopen
        self._keep_changed = keep_changed
        folder = evidence.output.paths.folder
        self._keys = Column(folder, until)  # the hash of each line's id
        self._digests = Column(folder, until)
        self._names = Piles(folder, until)  # the same hashes, to find those that come twice
        self._asked = Piles(folder, until)  # hash of id, digest, line number
        self._told = Piles(folder, until)  # hash of id, digest, tag
        self._kinds: dict[str, int] = {}
        self._kind_names: list[str] = []
        self._twins: list[tuple[int, int]] = []
        self._edits: list[int] = []
        self._standing = Standing(0, 0, bytearray(), bytearray(), marks=evidence.marks)

    def run(self) -> Standing:
        standing = self._standing
        self._read_input()
        size = (standing.last >> 3) + 1
        standing.answered, standing.refused = bytearray(size), bytearray(size)
        self._read_output(True)
        standing.current = bytearray((self._read_output(False) >> 3) + 1)
        self._kind_names.extend(self._kinds)
        self._ask(self._wanted())
        for asked, told in zip(self._asked, self._told, strict=True):
            if asked or told:
                self._join(asked, told)
        self._second_look()
        return standing

    def _read_input(self) -> None:
        """Key and digest of each line; the digest only where there is something to compare it with."""
        evidence, standing = self._evidence, self._standing
        compared = any(self._path(ok).stat().st_size for ok in (True, False))
        for first, lines in evidence.blocks():
            names = evidence.names(lines, first)
            keys = array("q", map(hash, names))
            self._keys.extend(keys)
            if compared:
                self._digests.extend(evidence.digests(lines))
            blank = names.count("")
            self._names.deal([key for key in keys if key != _BLANK] if blank else keys)
            standing.total += len(names) - blank
            standing.last = first + len(names) - 1

    # -- the output

    def _read_output(self, ok: bool) -> int:
        """Pair off what can be, deal the rest; how many lines were read."""
        number = 0
        for offset, lines in record_blocks(self._path(ok)):
            told = self._evidence.read_successes(lines) if ok else None
            if told:
                self._pair(told, number)
            else:
                self._deal(ok, number, offset, lines)
            number += len(lines)
        return number

    def _pair(self, told: Told, number: int) -> None:
        """Successes whose line is where they say, and the same, settle it; the others are dealt."""
        low, high = min(told.lines), max(told.lines)
        near = high <= self._standing.last and high - low < SPAN
        keys, digests = (column.window(low - 1, high if near else 0) for column in (self._keys, self._digests))
        rows = list(zip(map(hash, told.ids), told.lines, told.digests, strict=True))
        fits = [near and keys[line - low] == key and digests[line - low] == digest for key, line, digest in rows]
        self._answer(compress(told.lines, fits))
        for tag, (key, _line, digest) in enumerate(rows, number) if not all(fits) else ():
            if not fits[tag - number]:
                self._told.add(key, digest, tag << 9 | 1 << 8 | 1)

    def _answer(self, lines: Iterable[int]) -> None:
        """A success of each of these lines counts."""
        answered, once, again = self._standing.answered, 0, 0
        for line in lines:
            at, bit = line >> 3, BIT[line & 7]
            if answered[at] & bit:
                again += 1
            else:
                answered[at] |= bit
                once += 1
        self._standing.succeeded += once
        self._standing.repeated += again

    def _deal(self, ok: bool, number: int, offset: int, lines: Sequence[bytes]) -> None:
        """A row of hash(id), digest, tag for each record.

        The tag packs the number of the line in its file, the kind of failure and whether it is a success.
        """
        read, kinds = self._evidence.read_record, self._kinds
        for place, raw in enumerate(lines, number):
            try:
                record = read(raw)
            except ValueError:
                self._damaged(ok, offset, raw)
            else:
                kind = 0 if record.ok else kinds.setdefault(record.kind if len(kinds) < _KINDS else "other", len(kinds))
                self._standing.superseded += not ok
                tag = place << 9 | ok << 8 | kind << 1 | record.ok
                self._told.add(hash(record.id), number_of(record.digest), tag)
            offset += len(raw)

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

    # -- the join

    def _wanted(self) -> set[int] | None:
        """The keys of lines that something is still to be said of; None when there are too many to tell them apart."""
        wanted: set[int] = set()
        for names, told in zip(self._names, self._told, strict=True):
            wanted.update(told[0::3])
            if len(set(names)) < len(names):
                wanted.update(key for key, times in Counter(names).items() if times > 1)
            if len(wanted) > MANY:
                return None
        return wanted

    def _ask(self, wanted: set[int] | None) -> None:
        """Deal the lines with these keys; with None all of them."""
        if wanted is not None and not wanted:
            return
        for start in range(0, self._standing.last, SPAN):
            keys, digests = (column.window(start, start + SPAN) for column in (self._keys, self._digests))
            for at, key in enumerate(keys):
                if key in wanted if wanted is not None else key != _BLANK:
                    self._asked.add(key, digests[at] if digests else _ANY, start + at + 1)

    def _join(self, asked: "array[int]", told: "array[int]") -> None:
        """Find for each record of a pile the line it speaks of, then settle the lines."""
        keys, digests, lines = asked[0::3], asked[1::3], asked[2::3]
        where = dict(zip(keys, range(len(keys)), strict=True))
        if len(where) < len(keys):
            where = self._suspects(keys, lines)
        answered = self._standing.answered
        states = bytearray(_SUCCESS if answered[line >> 3] & BIT[line & 7] else 0 for line in lines)
        last: dict[int, int] = {}
        for key, digest, tag in zip(told[0::3], told[1::3], told[2::3], strict=True):
            at = where.get(key)
            if at is None:
                self._stranger(tag)
            elif not (digest == digests[at] or digest == _ANY or (tag & 1 and self._keep_changed)):
                states[at] |= _OLD if tag & 1 else 0
            elif tag & 1:
                states[at] |= _SUCCESS
                self._answer([lines[at]])
            else:
                states[at] |= _FAILURE
                last[at] = tag
        self._settle(states, lines, last)

    def _settle(self, states: bytearray, lines: "array[int]", last: dict[int, int]) -> None:
        """Count the lines of a pile that have no success by what their records said."""
        standing = self._standing
        edits = [line for line, state in zip(lines, states, strict=True) if state == _OLD]
        for at, tag in last.items():
            if not states[at] & _SUCCESS:
                self._failure(lines[at], tag)
        standing.changed += len(edits)
        self._edits = sorted(self._edits + edits)[:FEW]

    def _failure(self, line: int, tag: int) -> None:
        """The line's last word is an error: it is refused, unless its kind is asked again."""
        self._keep(tag)
        kind = self._kind_names[tag >> 1 & _KINDS]
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
        wanted = sorted({*self._edits, *(line for pair in self._twins for line in pair)})
        names = dict(zip(wanted, self._names_of(wanted), strict=True))
        standing = self._standing
        standing.edits = [(names[line], line) for line in self._edits]
        for line, first in self._twins:
            if names[line] == names[first]:
                standing.twins.append(Twin(names[line], line, first))
            else:
                standing.duplicates -= 1

    def _names_of(self, wanted: Sequence[int]) -> Iterator[str]:
        """The ids of these lines, in ascending order."""
        evidence, rest = self._evidence, iter(wanted)
        line = next(rest, 0)
        for first, lines in evidence.blocks() if line else ():
            while first <= line < first + len(lines):
                yield evidence.names([lines[line - first]], line)[0]
                line = next(rest, 0)
            if not line:
                return
