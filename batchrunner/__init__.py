"""batchrunner: bring every line of a file of requests to an answer.

     input.jsonl ─► source ─► engine ⇄ core (scheduler: limit, pace, endpoints, deadlines, classify) ─► journal ─► results
                                │
                                └─► transport ─► endpoints

    import batchrunner

    report = batchrunner.run_sync("jobs/input.jsonl")             # a file, resumable
    results = await batchrunner.gather(requests)                  # requests in memory, in order
    async with batchrunner.Runner(concurrency=64) as runner:      # results as they arrive
        async for result in runner.stream(requests):
            ...

Names are imported when they are first used, so that `import batchrunner` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrunner.core.model import Attempt, Error, Event, Kind, Outcome, Request, Result
    from batchrunner.errors import BatchError
    from batchrunner.runner import Runner, chat, gather, run, run_sync
    from batchrunner.summary import Report

__version__ = "0.1.0"
__all__ = [
    "Attempt",
    "BatchError",
    "Error",
    "Event",
    "Kind",
    "Outcome",
    "Report",
    "Request",
    "Result",
    "Runner",
    "chat",
    "gather",
    "run",
    "run_sync",
]

_ROOMS = {
    "BatchError": "errors",
    "Report": "summary",
    **dict.fromkeys(("Attempt", "Error", "Event", "Kind", "Outcome", "Request", "Result"), "core.model"),
    **dict.fromkeys(("Runner", "chat", "gather", "run", "run_sync"), "runner"),
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'batchrunner' has no attribute {name!r}")
    return getattr(import_module(f"batchrunner.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
