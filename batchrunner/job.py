"""A job as `batch` sees it: what a run works on, and where its results go.

    FileJob     a file of lines, results in the journal          batchrunner INPUT [-o FILE]      `filing`
    PipeJob     a file of lines, results on stdout               batchrunner INPUT -o -           `passing`
    MemoryJob   requests from anywhere, results kept by nobody   Runner.stream, gather            `passing`

Rules:

1. `open` refuses everything that can be refused before a request is sent: paths, lock, duplicates, edited lines.
2. What is there already is touched by `begin`, when nobody else refuses the run either.
3. `put` returns when the result is where it belongs: safe, printed, or with those who listen.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from batchrunner.core.model import Request, Result
from batchrunner.engine import Chore
from batchrunner.foreign import WRITERS
from batchrunner.iterables import IterableSource
from batchrunner.meter import Meter
from batchrunner.ordering import InOrder
from batchrunner.settings import Settings
from batchrunner.source import Source
from batchrunner.summary import Summary

Redact = Callable[[bytes], bytes]


class Job(Protocol):
    """One job, as `batch` sees it."""

    name: str
    note: str  # what opening it found that people should know; "" for nothing
    results: str  # where they go, for people; "" for nowhere
    errors: str
    redact: Redact | None  # takes keys out of what is written
    order: InOrder | None  # lets results flow on in the order of the input; None: as they come
    folder: Path | None  # where a run keeps what it writes about itself; None for nowhere

    async def open(self, meter: Meter) -> None:
        """Get ready, and tell the meter what there is and what is done."""

    async def begin(self) -> None:
        """Nothing refuses the run any more: the first request may be sent."""

    def source(self, origins: Collection[str], model: str) -> AsyncIterator[list[Request | Result]]:
        """The requests still to be sent, in blocks."""

    async def put(self, results: Sequence[Result]) -> None:
        """Keep these results."""

    def chores(self) -> list[Chore]:
        """What must be done at intervals."""

    async def close(self, summary: Summary | None) -> None:
        """Everything is kept; `summary` is None when the run did not get to have one. What never began leaves no empty file."""


def watched(source: Source | IterableSource, order: InOrder | None) -> AsyncIterator[list[Request | Result]]:
    """The blocks of a source, as far ahead as the order of results allows."""
    return order.watch(aiter(source)) if order else aiter(source)


def writer(settings: Settings, redact: Redact | None) -> Callable[[Result], bytes]:
    """What makes a line of a result, in the dialect that the user wants."""
    wanted = settings.records
    return partial(WRITERS[wanted.output_format], strict=wanted.strict_openai, secrets=redact)
