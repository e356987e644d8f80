"""Which failures of an earlier run a retry asks again.

Rules:

1. Those of the kinds named, or all; else every one that can succeed at all (`treatment.HOPELESS`), of a kind that others have
   invented too.
2. It is cheap to import: the command line refuses a kind that does not exist before it looks at anything.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from batchrunner.core.model import Kind
from batchrunner.core.treatment import HOPELESS
from batchrunner.errors import UsageError, nearest


class Reopen(Struct, frozen=True):
    """What a retry adds to a run: `kinds` says which failures are asked again, `done` are output files of another batch.

    `ours`: that batch was this run's own, so that the lines it has answered count against the limit.
    """

    kinds: Callable[[str], bool]
    done: Sequence[Path] = ()
    ours: bool = False

    def __call__(self, kind: str) -> bool:
        """Whether a failure of this kind is asked again."""
        return self.kinds(kind)

    @property
    def words(self) -> tuple[str, ...]:
        """How `retry` is told so on a command line."""
        chosen = [] if self.kinds in (promising, whatever) else [word for kind in filter(self, Kind) for word in ("--kind", kind)]
        every = ["--all"] if self.kinds is whatever else []
        return (*every, *chosen, *(word for path in self.done for word in ("--done", str(path))))


def promising(kind: str) -> bool:
    """Whether a request that failed like this can succeed as it is."""
    return kind not in HOPELESS


def whatever(kind: str) -> bool:
    """All of them."""
    return True


def named(kinds: Iterable[str]) -> Callable[[str], bool]:
    """Those of these kinds. UsageError E002: there is no such kind."""
    known = frozenset(kinds)
    for unknown in sorted(known - frozenset(Kind)):
        raise UsageError("E002", f"{unknown!r} is not a kind of failure.", nearest(unknown, list(Kind)))
    return known.__contains__
