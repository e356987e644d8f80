"""Starting a job over: what earlier runs have left is put away.

Rules:

1. Nothing that was paid for is deleted: it goes to `earlier/` in the run folder, under the time of day.
2. Only whoever holds the job's lock does so.
"""

import time
from functools import cache
from pathlib import Path

from batchrunner.journal import Journal
from batchrunner.repair import refusal


async def retire(journal: Journal) -> None:
    """Move the output to `earlier/`, and forget what is only known of it. UsageError E401, FileError E404."""
    paths = journal.paths
    await journal.sync()
    shelf = cache(lambda: _new_shelf(paths.earlier))
    try:
        for ok in (True, False):
            if journal.log(ok).size:
                journal.put_away(ok, shelf())
        for path in (paths.events, paths.attempts):
            if path.exists() and path.stat().st_size:
                path.rename(shelf() / path.name)
        for known in (paths.checkpoint, *(paths.answers.with_name(paths.answers.name + end) for end in ("", "-wal", "-shm"))):
            known.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(error, paths.earlier) from error


def _new_shelf(folder: Path) -> Path:
    """A new folder in this one, named by the time of day; those of one second are told apart."""
    folder.mkdir(0o700, exist_ok=True)
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while (shelf := folder / f"{stamp}-{number}").exists():
        number += 1
    shelf.mkdir(0o700)
    return shelf
