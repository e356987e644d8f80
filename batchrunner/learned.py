"""Memory of last time: what the endpoints taught is kept in the run folder, and the next run begins with it.

Rules:

1. A cache: older than a week, of another version, about another address or model, or broken in any way, and it is passed over.
   What cannot be written is not missed.
2. It holds figures and the names of models, never a request, an answer, a query or a key.
3. What goes out may be counted by the day: then it is written each second, and after a kill rather more is known than was sent.
4. Lessons belong to an endpoint's name and address together; one that a run does not know starts cold.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from batchrunner import __version__
from batchrunner.core.lessons import Lessons
from batchrunner.core.scheduler import Scheduler
from batchrunner.disk import replace
from batchrunner.engine import Chore

KEPT = 7 * 86400.0  # seconds after which an endpoint is a stranger again
SAVE_EVERY, SAVE_DAILY = 10.0, 1.0  # seconds; the second where what goes out is counted by the day
LARGEST = 16 * 2**20  # bytes; ours are far smaller


class _Kept(Struct, frozen=True):
    version: str
    at: float  # seconds since 1970
    model: str  # what --model said
    endpoints: Mapping[str, Lessons]


class Memory:
    """What was learned at these endpoints, by name and base URL; `folder` is None where nothing is kept."""

    def __init__(
        self,
        folder: Path | None,
        model: str,
        urls: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,  # which is the loop's
    ) -> None:
        self._path = folder / "learned.json" if folder else None
        self._model = model
        self._names = {name: f"{name} {url.partition('?')[0]}" for name, url in urls.items()}
        self._clock = clock
        self._now = now

    def recall(self, scheduler: Scheduler) -> None:
        """Let every endpoint that is known begin with what it taught."""
        kept = self._read()
        for name, full_name in self._names.items():
            if kept and (lessons := kept.endpoints.get(full_name)):
                scheduler.experience.recall(name, lessons, self._now(), self._clock() - kept.at)

    def chores(self, scheduler: Scheduler) -> list[Chore]:
        """Keeping it at intervals: a run may be killed."""

        async def save() -> None:
            raw = self._frozen(scheduler, last=False)
            await asyncio.to_thread(self._write, raw)

        every = SAVE_DAILY if any(endpoint.daily for endpoint in scheduler.endpoints) else SAVE_EVERY
        return [Chore(every, save)] if self._path else []

    def keep(self, scheduler: Scheduler) -> None:
        """Write down what has been learned; at the end of a run."""
        if scheduler.sent:
            self._write(self._frozen(scheduler, last=True))

    def _frozen(self, scheduler: Scheduler, *, last: bool) -> bytes:
        learned, now = scheduler.experience.learned, self._now()
        lessons = {full_name: learned(name, now, last) for name, full_name in self._names.items()}
        return msgspec.json.encode(_Kept(__version__, self._clock(), self._model, lessons)) + b"\n"

    def _write(self, raw: bytes) -> None:
        if self._path:
            with suppress(OSError):
                replace(self._path, raw)

    def _read(self) -> _Kept | None:
        if not self._path:
            return None
        try:
            with self._path.open("rb") as file:
                kept = msgspec.json.decode(file.read(LARGEST), type=_Kept)
        except (OSError, ValueError):  # msgspec's errors are ValueErrors
            return None
        fresh = 0.0 <= self._clock() - kept.at <= KEPT
        return kept if fresh and (kept.version, kept.model) == (__version__, self._model) else None
