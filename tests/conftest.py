"""Fixtures for every test. No test leaks a task, sleeps to wait for something, or reads the developer's own settings."""

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, endpoint or option of the machine reaches a test."""
    import os

    for name in list(os.environ):
        if name.startswith(("BATCHRUNNER_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "TQDM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
async def _no_leaks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A task left behind, or one that died unseen, fails its test."""
    loop = asyncio.get_running_loop()
    unseen: list[str] = []
    loop.set_exception_handler(lambda _loop, context: unseen.append(str(context.get("exception") or context["message"])))
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert not left, f"tasks left behind: {left}"
    assert not unseen, f"died unseen: {unseen}"
