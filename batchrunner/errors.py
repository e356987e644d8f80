"""The exceptions of batchrunner. A request that fails is data; these are for what stops a whole run.

    BatchError          exit 4   a fault of our own (E901); resumable
    ├── UsageError      exit 2   wrong options, settings or input; nothing was sent
    ├── StopError       exit 3   stopped by an endpoint or by a cap of the user's own; resumable
    └── FileError       exit 4   a file or a process of ours fails us; resumable

Rules:

1. Each says what happened, why we think so, and what to type next, and carries a stable code:
   E0xx options and settings · E1xx endpoints and keys · E2xx input · E3xx endpoints that stop us · E4xx files
   E5xx hooks · E9xx faults of our own.
2. A message never holds a key, a prompt or an answer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

if TYPE_CHECKING:
    from batchrunner.core.model import Result
    from batchrunner.summary import Report, Summary


class BatchError(Exception):
    """What stops a run. `str()` is the message, the hint on its own line, and the code.

    `results` holds what `gather` had until then, in the order of the requests; `report` how far a run came that had begun.
    """

    exit_code = 4
    results: "Sequence[Result]" = ()
    report: "Report | None" = None

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        hint = "".join(f"\n   {line}" for line in self.hint.splitlines())
        return f"{self.message} [{self.code}]{hint}"

    def ended(self, summary: "Summary") -> "Summary":
        """The same counts, of a run that this has ended."""
        return structs.replace(summary, stopped=f"{self.message} [{self.code}]", exit_code=self.exit_code)


class UsageError(BatchError):
    """Options, settings or input are wrong. Nothing was sent."""

    exit_code = 2


class StopError(BatchError):
    """An endpoint, or a cap the user set, ended the run early. The same command continues."""

    exit_code = 3


class FileError(BatchError):
    """What this machine owes us failed: full disk, broken device, lost lock, dead workers. The same command continues."""

    exit_code = 4


def nearest(word: str, words: Iterable[str], likeness: float = 0.6) -> str:
    """`Did you mean X?` for a word that is not among those known; "" when none is as like it as that."""
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(word, list(words), n=1, cutoff=likeness)
    return f"Did you mean {close[0]}?" if close else ""


_TYPES: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "date": "a date",
    "time": "a time",
    "datetime": "a date and time",
}
_BOUNDS: Mapping[str, str] = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}


def misfit(error: Exception) -> str:
    """What a typed decode says of a value, in plain words and after its place: `header: a list is wanted, not a table`."""
    said, _, place = str(error).partition(" - at `$")
    name = re.sub(r"\[[^]]*\]", "", place.rstrip("`")).lstrip(".")
    return f"{name}: {_plainly(said)}" if name else _plainly(said)


def _plainly(said: str) -> str:
    if types := re.fullmatch(r"Expected `([^`]*)`, got `([^`]*)`", said):
        wanted, found = (" or ".join(_TYPES.get(each, each) for each in some.split(" | ")) for some in types.groups())
        return f"{wanted} is wanted, not {found}"
    if bound := re.fullmatch(r"Expected `[^`]*` ([<>]=?) (\S+)", said):
        return f"{_BOUNDS[bound[1]]} {float(bound[2]):g}"
    if lack := re.fullmatch(r"Object missing required field `(.*)`", said):
        return f"{lack[1]} is missing"
    return f"{said[:1].lower()}{said[1:]}"
