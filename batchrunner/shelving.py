"""Starting a job over: what earlier runs have left is put away.

Rules:

1. Nothing that was paid for is deleted: it goes to `earlier/` in the run folder, under the time of day.
2. Only whoever holds the job's lock does so.
"""

import time
from pathlib import Path

from batchrunner.journal import Durability, Journal
from batchrunner.paths import Paths


async def retire(paths: Paths, durability: Durability) -> None:
    """Move the output to `earlier/`, and forget what is only known of it. UsageError E401, E403; FileError E404."""
    with Journal.open(paths, durability) as journal:
        await journal.sync()  # after this, closing has no reason to look for the files under their old names
        shelf: Path | None = None
        for path in (paths.results, paths.errors, paths.events, paths.attempts):
            if path.exists() and path.stat().st_size:
                shelf = shelf or _new_shelf(paths.earlier)
                path.rename(shelf / path.name)
        for cache in (paths.checkpoint, *(paths.answers.with_name(paths.answers.name + end) for end in ("", "-wal", "-shm"))):
            cache.unlink(missing_ok=True)


def _new_shelf(folder: Path) -> Path:
    """A new folder in this one, named by the time of day; those of one second are told apart."""
    folder.mkdir(0o700, exist_ok=True)
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while (shelf := folder / f"{stamp}-{number}").exists():
        number += 1
    shelf.mkdir(0o700)
    return shelf
