"""How far a job has come: two bits a line, and counts.

Rules:

1. A line is answered, refused (its last word is an error) or open; `total` is the sum of the three.
2. What a survey finds odd is counted in full and shown by a few examples.
"""

from collections.abc import Sequence

from msgspec import Struct

from batchrunner.landmarks import Landmark, stretches

BIT = bytes(1 << k for k in range(8))
_FLAG = ord("1")


class Twin(Struct, frozen=True):
    """A line whose id an earlier line has already."""

    id: str
    line: int
    first: int


class Standing(Struct):
    """How far a job has come. `total` lines that are not blank; `last` is the highest line number surveyed."""

    total: int
    last: int
    answered: bytearray  # one bit a line: it has a success
    refused: bytearray  # one bit a line: it has a final error
    succeeded: int = 0
    failed: int = 0
    invalid: int = 0
    reopened: int = 0  # lines with an error that are asked again
    kinds: dict[str, int] = {}  # failed and invalid lines by kind
    twins: list[Twin] = []  # the first duplicates; `duplicates` counts all
    duplicates: int = 0
    edits: list[tuple[str, int]] = []  # the first (id, line) with an answer to an older text; `changed` counts all
    changed: int = 0
    strangers: int = 0  # records whose id the input does not have
    moved: int = 0  # those of them that are answers to lines without a custom_id: changed, moved or gone
    older: int = 0  # answers to an older text of a line that has one to its text of today
    repeated: int = 0  # second and later successes of a line
    superseded: int = 0  # error records that no longer count: `tidy` removes them
    damaged: int = 0  # lines of the output that are no records
    damaged_errors: int = 0  # those of them in the errors file
    current: bytearray = bytearray()  # one bit a line of the errors file: it counts
    outdated: bytearray = bytearray()  # one bit a line of the results file, as far as needed: it is one of `moved` or `older`
    marks: list[Landmark] = []  # where in the input lines begin

    @property
    def pending(self) -> int:
        """Lines that are still to be asked."""
        return self.total - self.succeeded - self.failed - self.invalid

    def undecided(self, decided: str) -> tuple[int, int]:
        """What a run would refuse, unless it was `decided`: lines with an answer to another text, and answers to moved lines."""
        anew = self.pending - self.reopened
        return self.changed if decided == "refuse" else 0, self.moved if anew and decided != "rerun" else 0

    def is_done(self, line: int) -> bool:
        """Whether this run has nothing to do for the line."""
        at = line >> 3
        return line > self.last or bool((self.answered[at] | self.refused[at]) & BIT[line & 7])

    def still_open(self, first: int, count: int) -> Sequence[int]:
        """The lines of `count` from `first` on that this run has something to do for; of a finished stretch none, at once."""
        end = min(first + count, self.last + 1)
        if ~self.done_of(first, end - first) & ((1 << max(0, end - first)) - 1):
            return [line for line in range(first, end) if not self.is_done(line)]
        return ()

    def done_of(self, first: int, count: int, refused: bool = True) -> int:
        """One bit for each of `count` lines from `first` on, the lowest first: it is answered or, with `refused`, refused."""
        end = ((first + count) >> 3) + 1
        done = int.from_bytes(self.answered[first >> 3 : end], "little")
        done |= int.from_bytes(self.refused[first >> 3 : end], "little") if refused else 0
        return (done >> (first & 7)) & ((1 << max(0, count)) - 1)

    def begin(self, line: int, refused: bool = True) -> Landmark | None:
        """Where to read for the lines from this one on that are not done, as `done_of` has it; None: all are."""
        for here, last in stretches(self.marks, line, self.last):
            first = max(line, here.line)
            if self.done_of(first, last + 1 - first, refused).bit_count() < last + 1 - first:
                return here
        return None

    def answer(self, lines: Sequence[int]) -> None:
        """Note a success of each of these lines, at least one; a second one of a line only counts as that."""
        first, size = min(lines) >> 3, (max(lines) >> 3) + 1
        flags = bytearray(b"0") * ((size - first) << 3)
        top = (size << 3) - 1
        for line in lines:
            flags[top - line] = _FLAG
        before = int.from_bytes(self.answered[first:size], "little")
        after = before | int(flags, 2)
        self.answered[first:size] = after.to_bytes(size - first, "little")
        fresh = (before ^ after).bit_count()
        self.succeeded += fresh
        self.repeated += len(lines) - fresh

    def mark(self, line: int, ok: bool, kind: str = "") -> None:
        """Note a record that was just appended. `kind` is that of a failure."""
        assert not self.is_done(line), "one record a line"
        if ok:
            self.answered[line >> 3] |= BIT[line & 7]
            self.succeeded += 1
            return
        self.refused[line >> 3] |= BIT[line & 7]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == "invalid":
            self.invalid += 1
        else:
            self.failed += 1
