"""A cap on money where nobody lists the price of a model: its first request goes ahead, the others wait for that answer.

Rules:

1. The answer may tell what it cost (`core.cost`). Where it does not, the run stops, and one answer was paid for, not a hundred.
2. Whatever becomes of the first, the others go then, and at the latest after `PATIENCE`: it may hang, or fail by itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from batchrunner.core.model import Event, Request

PATIENCE = 30.0  # seconds


class Pilot:
    """Stands between source and engine, and listens to the run. `known` says whether the price of a model is."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self._free: dict[str, asyncio.Event] = {}

    async def admit(self, request: Request) -> Request:
        """The request, when it may be sent."""
        free = self._free.get(request.model)
        if free is None:
            free = self._free[request.model] = asyncio.Event()
            if self._known(request.model):
                free.set()
        elif not free.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(free.wait(), PATIENCE)
            free.set()
        return request

    def __call__(self, event: Event) -> None:
        """Hear of what has ended."""
        if event.attempt and event.result and (free := self._free.get(event.result.request.model)):
            free.set()
