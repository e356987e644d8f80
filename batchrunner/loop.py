"""The event loop of a process of ours, and what the process is tuned to.

Rules:

1. uvloop where it is installed, asyncio's own loop elsewhere: nothing else depends on which it is.
2. What holds for the whole process is set here, and only for a process that is ours: never inside a user's program.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from batchrunner.network import raise_descriptors

T = TypeVar("T")


def tune() -> None:
    """Make this process fit for many requests."""
    gc.freeze()  # what is imported stays; a request leaves next to nothing to the collector, so it may come rarely
    gc.set_threshold(20_000, 50, 100)
    raise_descriptors()


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where it is installed, on asyncio's own loop elsewhere."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
