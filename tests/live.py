"""A run that goes on only as far as a test lets it, with its page live."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.dashboard import Dashboard
from batchrunner.foreground import present
from batchrunner.hooks import Hooks
from batchrunner.origins import ARGUMENT, resolve
from batchrunner.settings import Settings

SIMULATED = {"base_url": "simulated", "display": "none"}


def settings_of(job: Path, **given: Any) -> Settings:
    """Of a run that shows nothing in the terminal."""
    return resolve({**SIMULATED, "input": str(job), **given}, {}, Path("/nonexistent"), None, ARGUMENT).settings


class Gate:
    """Lets the requests up to a line pass; the others wait until it is opened further."""

    def __init__(self, line: float) -> None:
        self.begun = asyncio.Event()
        self._line = line
        self._moved = asyncio.Event()

    def open(self, line: float = inf) -> None:
        """Let those up to this line pass as well."""
        self._line = line
        self._moved.set()
        self._moved = asyncio.Event()

    async def admit(self, request: batchrunner.Request) -> batchrunner.Request:
        """The hook that lets pass."""
        self.begun.set()
        while request.line > self._line:
            await self._moved.wait()
        return request


@asynccontextmanager
async def live(job: Path, *, good: bool = True, **given: Any) -> AsyncIterator[tuple[Dashboard, Gate]]:
    """The dashboard of a run, and the gate behind line 20; at last the run ends, well or not."""
    gate = Gate(20)
    found: list[Dashboard] = []
    opened = Dashboard.open.__func__  # type: ignore[attr-defined]

    async def watched(cls: type[Dashboard], port: int) -> Dashboard:
        found.append(await opened(cls, 0))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dashboard, "open", classmethod(watched))
        run = asyncio.ensure_future(present(settings_of(job, dashboard=8377, **given), hooks=Hooks(prepare=gate.admit)))
        await gate.begun.wait()
        try:
            yield found[0], gate
        finally:
            gate.open()
            assert (await run).ok is good
