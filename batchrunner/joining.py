"""Records and lines that were not paired off in their places, joined by id, pile by pile.

Rules:

1. A row of `told` is the hash of a record's id, the number of its digest, and its tag; a row of `asked` is the same of a line,
   with its number. What belongs together lies in the same pile, in the order it came.
2. Only lines that a left-over record may speak of, or whose id may come twice, are asked for.
3. A success settles its line for good, before an error; of several errors the last one counts.
4. An answer to an older text of a line is out of date when there is one to the text of today. So is a record with a made id that
   is the id of no line any more: the line has been changed or has moved, for in its id are its number and its text.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Self

from msgspec import Struct

from batchrunner.numbers import Column, Piles, number_of
from batchrunner.standing import BIT, Standing

FEW = 10  # how many examples are kept, and how many damaged lines are forgiven
SPAN = 1 << 16  # lines that are held at once
MANY = 100_000  # keys that are told apart from the others in memory
KINDS = 127  # kinds of failure told apart; foreign files may hold any number
BLANK = hash("")  # the key of a line that is none of the job's, such as a blank one

_SUCCESS, _FAILURE, _OLD = 1, 2, 4  # what has been said of a line
_ANY = number_of("")  # the digest of a record that has none
_OK, _IN_RESULTS, _MADE = 1, 1 << 8, 1 << 9  # bits of a tag, and how far its other parts are shifted
_KIND, _PLACE = 1, 10


def tag_of(place: int, in_results: bool, kind: int, ok: bool, made: bool) -> int:
    """What else is known of a record, in one number: its place and its file, a made id (`identity.is_made`), kind, success."""
    return place << _PLACE | made * _MADE | in_results * _IN_RESULTS | kind << _KIND | ok * _OK


class Notes(Struct):
    """What reading input and output leaves: two numbers of each line, and rows of all that is still to be joined."""

    keys: Column  # the hash of each line's id
    digests: Column
    names: Piles  # the same hashes, to find those that come twice
    told: Piles
    asked: Piles

    @classmethod
    def beside(cls, folder: Path, until: ExitStack) -> Self:
        """Empty ones, which spill into files in this folder."""
        column, piles = partial(Column, folder, until), partial(Piles, folder, until)
        return cls(column(), column(), piles(), piles(), piles())


class Join:
    """One join: settles lines in the standing, and counts what is odd; `edits` and `twins` are the first examples."""

    def __init__(self, standing: Standing, kinds: Sequence[str], reopen: Callable[[str], bool], keep_changed: bool) -> None:
        self.edits: list[int] = []
        self.twins: list[tuple[int, int]] = []
        self._standing = standing
        self._kinds = kinds
        self._reopen = reopen
        self._keep_changed = keep_changed

    def run(self, notes: Notes) -> None:
        """Find the line of every record that is left over."""
        self._ask(notes, _wanted(notes))
        for asked, told in zip(notes.asked, notes.told, strict=True):
            if asked or told:
                self._join(asked, told)

    def _ask(self, notes: Notes, wanted: set[int] | None) -> None:
        """Deal the lines with these keys; with None all of them."""
        if wanted is not None and not wanted:
            return
        for start in range(0, self._standing.last, SPAN):
            keys, digests = (column.window(start, start + SPAN) for column in (notes.keys, notes.digests))
            told = chain(digests, repeat(_ANY))  # of the last lines none, where there was nothing to compare them with
            for line, (key, digest) in enumerate(zip(keys, told, strict=False), start + 1):
                if key in wanted if wanted is not None else key != BLANK:
                    notes.asked.add(key, digest, line)

    def _join(self, asked: "array[int]", told: "array[int]") -> None:
        """Find for each record of a pile the line it speaks of, then settle the lines."""
        keys, digests, lines = asked[0::3], asked[1::3], asked[2::3]
        where = dict(zip(keys, range(len(keys)), strict=True))
        if len(where) < len(keys):
            where = self._suspects(keys, lines)
        answered = self._standing.answered
        states = bytearray(_SUCCESS if answered[line >> 3] & BIT[line & 7] else 0 for line in lines)
        last: dict[int, int] = {}
        older: list[tuple[int, int]] = []
        for key, digest, tag in zip(told[0::3], told[1::3], told[2::3], strict=True):
            at, good = where.get(key), tag & _OK
            if at is None:
                self._stranger(tag)
                continue
            current = digest == digests[at] or digest == _ANY or (good and self._keep_changed)
            if good and current:
                states[at] |= _SUCCESS
                self._standing.answer([lines[at]])
            elif good:
                states[at] |= _OLD
                older.append((at, tag))
            elif current:
                states[at] |= _FAILURE
                last[at] = tag
        self._settle(states, lines, last)
        self._supersede(states, older)

    def _settle(self, states: bytearray, lines: "array[int]", last: dict[int, int]) -> None:
        """Count the lines of a pile that have no success by what their records said."""
        edits = [line for line, state in zip(lines, states, strict=True) if state == _OLD]
        for at, tag in last.items():
            if not states[at] & _SUCCESS:
                self._failure(lines[at], tag)
        self._standing.changed += len(edits)
        self.edits = sorted(self.edits + edits)[:FEW]

    def _supersede(self, states: bytearray, older: Sequence[tuple[int, int]]) -> None:
        """Answers to an older text of a line do not count where there is one to the text of today."""
        for at, tag in older:
            if states[at] & _SUCCESS:
                self._standing.older += 1
                self._out_of_date(tag)

    def _failure(self, line: int, tag: int) -> None:
        """The line's last word is an error: it is refused, unless its kind is asked again."""
        self._keep(tag)
        kind = self._kinds[tag >> _KIND & KINDS]
        if self._reopen(kind):
            self._standing.reopened += 1
        else:
            self._standing.mark(line, False, kind)

    def _stranger(self, tag: int) -> None:
        self._standing.strangers += 1
        if not tag & _MADE:
            self._keep(tag)
        elif tag & _OK:
            self._standing.moved += 1
            self._out_of_date(tag)

    def _keep(self, tag: int) -> None:
        """The record counts: if it is one of the errors file, `tidy` leaves it there."""
        if not tag & _IN_RESULTS:
            number = tag >> _PLACE
            self._standing.current[number >> 3] |= BIT[number & 7]
            self._standing.superseded -= 1

    def _out_of_date(self, tag: int) -> None:
        """The record does not count any more: if it is one of the results, `tidy` takes it out of them."""
        if tag & _IN_RESULTS:
            number, bits = tag >> _PLACE, self._standing.outdated
            bits.extend(bytes(max(0, (number >> 3) + 1 - len(bits))))
            bits[number >> 3] |= BIT[number & 7]

    def _suspects(self, keys: "array[int]", lines: "array[int]") -> dict[int, int]:
        """Where each key is first; the lines whose key an earlier one has are suspected of its id."""
        where: dict[int, int] = {}
        twins: list[tuple[int, int]] = []
        for at, key in enumerate(keys):
            first = where.setdefault(key, at)
            if first != at:
                twins.append((lines[at], lines[first]))
        self._standing.duplicates += len(twins)
        self.twins = sorted(self.twins + twins)[:FEW]
        return where


def _wanted(notes: Notes) -> set[int] | None:
    """The keys of lines that something is still to be said of; None when there are too many to tell them apart."""
    wanted: set[int] = set()
    for names, told in zip(notes.names, notes.told, strict=True):
        wanted.update(told[0::3])
        if len(set(names)) < len(names):
            wanted.update(key for key, times in Counter(names).items() if times > 1)
        if len(wanted) > MANY:
            return None
    return wanted
