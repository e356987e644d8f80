"""Where a run reads and writes, all derived from the input's name or from `-o`.

Rules:

1. Nothing here touches the disk.
2. The run folder lies beside the results: one file system, so that renames are one step.
"""

from pathlib import Path
from typing import Self

from msgspec import Struct

PAGE = "report.html"
PACKED = (".gz", ".zst")
_LINES = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv", ".tab", ".parquet")


def without_ending(name: str, endings: tuple[str, ...]) -> str:
    """The name without the first of these endings that it has."""
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


class Paths(Struct, frozen=True):
    """The files and folders of one job."""

    input: Path
    results: Path
    errors: Path
    folder: Path

    @classmethod
    def of(cls, input: Path, output: Path | None = None, ending: str = "") -> Self:  # noqa: A002  the option's name
        """For `jobs/a.jsonl.gz`: `jobs/a.results.jsonl`, `jobs/a.errors.jsonl`, `jobs/a.run`. `output` is the results.

        Where the input gives the name, `ending` goes behind it.
        """
        if output is None:
            stem = without_ending(without_ending(input.name, PACKED), _LINES + _TABLES) + ending
            results = input.with_name(f"{stem}.results.jsonl")
        else:
            stem, results = without_ending(output.name, _LINES), output
        return cls(input, results, results.with_name(f"{stem}.errors.jsonl"), results.with_name(f"{stem}.run"))

    @property
    def lock(self) -> Path:
        """Held by the one run that may write."""
        return self.folder / "lock"

    @property
    def checkpoint(self) -> Path:
        """The cache that makes resume fast."""
        return self.folder / "checkpoint"

    @property
    def answers(self) -> Path:
        """The cache of `--dedupe`."""
        return self.folder / "answers.sqlite"

    @property
    def torn(self) -> Path:
        """The folder of everything that repair took out of a file."""
        return self.folder / "torn"

    @property
    def earlier(self) -> Path:
        """The folder of what was paid for and counts no more."""
        return self.folder / "earlier"

    @property
    def batches(self) -> Path:
        """The folder of what a batch service has been given, and has answered."""
        return self.folder / "batches"

    @property
    def events(self) -> Path:
        """What every run says of itself, moment by moment."""
        return self.folder / "events.jsonl"

    @property
    def attempts(self) -> Path:
        """Attempts that failed, and some that did not."""
        return self.folder / "attempts.jsonl"

    @property
    def report(self) -> Path:
        """The page that explains the job."""
        return self.folder / PAGE

    @property
    def summary(self) -> Path:
        """The counts of the last run."""
        return self.folder / "summary.json"
