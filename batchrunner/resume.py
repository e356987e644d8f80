"""What is done already, found from the input and the output alone.

Rules:

1. A line is known by its id; the digest tells whether it is still the same line. Order and line numbers may change freely.
2. Memory is a few bits a line: ids and digests are 64-bit numbers, kept beside memory (`rows`).
3. A success that stands where it says, with its id and digest, is paired off at once. Only what is left over is joined by id
   (`joining`).
4. What the hashes suspect is looked at again by its real id before anybody is refused.
5. Input and output are read side by side: of the input as much as the records at hand speak of (`ahead`).
6. A damaged line of the output is set aside and its line asked again; many damaged lines stop the run.
7. What is appended to the input after the survey waits for the next run.
"""

import os
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import compress
from operator import itemgetter
from pathlib import Path
from sys import maxsize
from typing import Protocol

from msgspec import Struct

from batchrunner.disk import record_blocks, why
from batchrunner.errors import FileError
from batchrunner.identity import is_made
from batchrunner.joining import BLANK, FEW, KINDS, SPAN, Join, Notes, tag_of
from batchrunner.landmarks import Landmark
from batchrunner.numbers import number_of
from batchrunner.paths import Paths
from batchrunner.reader import Asked, Compared
from batchrunner.standing import BIT, Standing, Twin


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

    def compact(self, ok: bool, keep: Callable[[int], bool]) -> int:
        """Rewrite the results (`ok`) or errors file with the lines of these numbers, from 0."""


class Successes(Protocol):
    """What a block of successes says of its lines (`records.Successes`)."""

    @property
    def ids(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def lines(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def digests(self) -> "array[int]": ...  # noqa: D102


class Evidence(Struct, frozen=True):
    """What a survey reads: the input from its start as often as asked, and the output."""

    blocks: Callable[[Compared], Generator[Asked, None, None]]  # with digests as long as they are compared with anything
    read_successes: Callable[[Sequence[bytes]], Successes | None]  # None: they are to be read one by one
    read_record: Callable[[bytes], Known]  # ValueError: it is none
    output: Output
    marks: list[Landmark] = []  # what reading all the blocks leaves


def survey(evidence: Evidence, reopen: Callable[[str], bool] | None = None, keep_changed: bool = False) -> Standing:
    """Compare the input with the output.

    `reopen` says which kinds of failure are asked again; `keep_changed` takes the answer to an older text of a line for
    an answer. FileError E405: more than `FEW` lines of the output are damaged. E404: no room for the join.
    """
    folder = evidence.output.paths.folder
    try:
        with ExitStack() as until:
            return _Survey(evidence, until, reopen or (lambda kind: False), keep_changed).run()
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else f"in {folder}"
        message = f"Cannot compare the input with the output {place}: {why(error)}. Nothing was sent."
        raise FileError("E404", message, "Mend that, then run the same command again.") from error


def tidy(evidence: Evidence, keep_changed: bool = False) -> Standing:
    """Leave in the results no answer to an older text, in the errors one record for each line that still fails.

    What speaks of no line stays, but for records with made ids. For the end of a run whose standing had such records. Returns the
    standing after that.
    """
    standing = survey(evidence, None, keep_changed)
    evidence.output.compact(False, partial(_in, standing.current))
    if standing.outdated:
        evidence.output.compact(True, lambda number: not _in(standing.outdated, number))
    standing.damaged -= standing.damaged_errors
    standing.superseded, standing.damaged_errors, standing.current = 0, 0, bytearray()
    standing.strangers -= standing.moved
    standing.moved, standing.older, standing.outdated = 0, 0, bytearray()
    return standing


def _in(bits: bytearray, number: int) -> bool:
    return number >> 3 < len(bits) and bool(bits[number >> 3] & BIT[number & 7])


class _Survey:
    """One survey under way: read input and output, pair them off, join what is left over pile by pile."""

    def __init__(self, evidence: Evidence, until: ExitStack, reopen: Callable[[str], bool], keep_changed: bool) -> None:
        self._evidence = evidence
        self._reopen = reopen
        self._keep_changed = keep_changed
        self._notes = Notes.beside(evidence.output.paths.folder, until)
        self._kinds: dict[str, int] = {}
        self._standing = Standing(0, 0, bytearray(1), bytearray(1), marks=evidence.marks)
        self._compared = any(map(self._size, (True, False)))
        self._blocks = until.enter_context(closing(evidence.blocks(lambda: self._compared)))

    def run(self) -> Standing:
        standing = self._standing
        self._read_output(True)
        self._compared = bool(self._size(False) or self._notes.told.used)
        self._read_input(maxsize)
        standing.current = bytearray((self._read_output(False) >> 3) + 1)
        join = Join(standing, list(self._kinds), self._reopen, self._keep_changed)
        join.run(self._notes)
        self._second_look(join)
        return standing

    # -- the input

    def _read_input(self, line: int) -> None:
        """As far as this line, if there are so many."""
        while self._standing.last < line and (asked := next(self._blocks, None)):
            self._take(asked)

    def _take(self, asked: Asked) -> None:
        """Key and digest of each line."""
        notes, standing = self._notes, self._standing
        keys = list(map(hash, asked.names))
        notes.keys.extend(array("q", keys))
        notes.digests.extend(array("q", asked.digests))
        blank = asked.names.count("")
        notes.names.deal([key for key in keys if key != BLANK] if blank else keys)
        standing.total += len(keys) - blank
        standing.last = asked.last
        more = bytes((standing.last >> 3) + 1 - len(standing.answered))
        standing.answered += more
        standing.refused += more

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

    def _pair(self, told: Successes, number: int) -> None:
        """Successes whose line is where they say, and the same, settle it; the others are dealt."""
        low, high = min(told.lines), max(told.lines)
        self._read_input(high)
        near = high <= self._standing.last and high - low < SPAN
        keys, digests = (column.window(low - 1, high if near else 0) for column in (self._notes.keys, self._notes.digests))
        said, places = list(map(hash, told.ids)), [line - low for line in told.lines]
        if near and _at(places, keys) == said and _at(places, digests) == told.digests.tolist():
            self._standing.answer(told.lines)
            return
        rows = list(zip(places, said, told.digests, strict=True))
        fits = [near and keys[place] == key and digests[place] == digest for place, key, digest in rows]
        if any(fits):
            self._standing.answer(list(compress(told.lines, fits)))
        for tag, (_place, key, digest) in enumerate(rows, number):
            if not fits[tag - number]:
                self._notes.told.add(key, digest, tag_of(tag, True, 0, True, is_made(told.ids[tag - number], digest)))

    def _deal(self, ok: bool, number: int, offset: int, lines: Sequence[bytes]) -> None:
        """A row of hash(id), digest, tag for each record."""
        read, kinds = self._evidence.read_record, self._kinds
        for place, raw in enumerate(lines, number):
            try:
                record = read(raw)
            except ValueError:
                self._damaged(ok, offset, raw)
            else:
                kind = 0 if record.ok else kinds.setdefault(record.kind if len(kinds) < KINDS else "other", len(kinds))
                self._standing.superseded += not ok
                digest = number_of(record.digest)
                tag = tag_of(place, ok, kind, record.ok, is_made(record.id, digest))
                self._notes.told.add(hash(record.id), digest, tag)
            offset += len(raw)

    def _size(self, ok: bool) -> int:
        return self._path(ok).stat().st_size

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

    def _second_look(self, join: Join) -> None:
        """Read the examples again for their real ids; a suspect with an id of its own was a collision of hashes."""
        wanted = sorted({*join.edits, *(line for pair in join.twins for line in pair)})
        names = dict(zip(wanted, self._names_of(wanted), strict=True))
        standing = self._standing
        standing.edits = [(names[line], line) for line in join.edits]
        for line, first in join.twins:
            if names[line] == names[first]:
                standing.twins.append(Twin(names[line], line, first))
            else:
                standing.duplicates -= 1

    def _names_of(self, wanted: Sequence[int]) -> Iterator[str]:
        """The ids of these lines, in ascending order."""
        rest = iter(wanted)
        line = next(rest, 0)
        with closing(self._evidence.blocks(lambda: False)) as blocks:
            while line and (asked := next(blocks, None)):
                while asked.first <= line <= asked.last:
                    yield asked.names[line - asked.first]
                    line = next(rest, 0)


def _at(places: Sequence[int], numbers: "array[int]") -> list[int]:
    """The numbers at these places."""
    return [*itemgetter(*places, places[0])(numbers)][:-1]  # of one place alone it would give no sequence
