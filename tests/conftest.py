"""Fixtures for every test. No test leaks a task, sleeps for something, heeds the clock or the developer's own settings."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from tests.browser import CHROMIUM, Tab, chromium, opened

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

FOREIGN = ("BATCHRUNNER_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "TQDM_")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, endpoint, proxy or option of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """A task left behind, or one that died unseen, fails its test. Every async test gets this by itself."""
    loop = asyncio.get_running_loop()
    unseen: list[str] = []
    loop.set_exception_handler(lambda _loop, context: unseen.append(str(context.get("exception") or context["message"])))
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert not left, f"tasks left behind: {left}"
    assert not unseen, f"died unseen: {unseen}"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser; where there is none, its tests are skipped."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with chromium(tmp_path_factory.mktemp("browser")) as address:
        yield address


@pytest.fixture
async def tab(browser: str) -> AsyncIterator[Tab]:
    """An empty tab of it."""
    async with opened(browser) as tab:
        yield tab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_leaks")
