"""Code of the user's inside tasks of ours: hooks, and iterables of requests. What it raises and cancels reaches whom it concerns.

Rules:

1. A CancelledError that arises in it is a failure like any other of it, and so is one that it sends to the task in which it
   runs. One that somebody else has sent there is the run's own, and passes.
2. What is no Exception (`sys.exit`, Ctrl-C, `pytest.fail`) is for the program: the run is cancelled, in order, and it arrives
   where the run is awaited (`interruptible`). Raised in a task of ours it would end the loop, or that task alone, unheard.
3. An iterable that raises ends the run in order: nobody knows what it would have given. What has been sent is not lost.
"""

import asyncio
from collections.abc import Coroutine, Generator
from concurrent import futures
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from batchrunner.errors import BatchError

Out = TypeVar("Out")


async def in_their_code(code: Coroutine[Any, Any, Out]) -> Out:
    """What code of the user's returns, in a task of ours. A CancelledError that nobody else sent to that becomes an Exception.

    It is raised as the CancelledError of `concurrent.futures`, so that whoever takes what the code may raise takes it as well.
    """
    task = asyncio.current_task()
    assert task, "only tasks of ours call it"
    before, steps = task.cancelling(), _Steps(code, task)  # above 0 in what is still to be done after a cancellation
    try:
        try:
            return await steps
        finally:
            if steps.own:
                await asyncio.sleep(0)  # where it waited for nothing more, it is cancelled here
    except asyncio.CancelledError as error:
        if task.cancelling() - before > steps.own:
            raise
        what = "it cancelled its own task" if steps.own else "something that it waits for was cancelled, not the run"
        raise futures.CancelledError(f"{error}" or what) from error
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        if (instead := _instead(task, error)) is error:
            raise
        raise instead from error
    finally:
        for _ in range(steps.own):
            task.uncancel()


class Interrupt:
    """What was raised to end the program while this task carried a run."""

    __slots__ = ("error", "task")

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task = task
        self.error: BaseException | None = None


_INTERRUPT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)  # of the run that a task belongs to


async def interruptible(run: Coroutine[Any, Any, Out]) -> Out:
    """What a run returns. Raises what code of the user's raised to end the program, when the run has ended in order."""
    task = asyncio.current_task()
    assert task, "a run is a task, or in one"
    interrupt = Interrupt(task)
    token = _INTERRUPT.set(interrupt)
    try:
        return await run
    except asyncio.CancelledError:
        if not interrupt.error:
            raise
        task.uncancel()
        raise interrupt.error from None
    finally:
        _INTERRUPT.reset(token)


def _instead(task: "asyncio.Task[Any]", error: BaseException) -> BaseException:
    """What to raise in this task. The run itself hears of it once: what it still has to do then, it does."""
    interrupt = _INTERRUPT.get()
    if interrupt is None or (interrupt.task is task and not interrupt.error):
        return error
    if interrupt.task is task:
        return futures.CancelledError("the run is being ended")
    if not interrupt.error:
        interrupt.error = error
        interrupt.task.cancel()
    return asyncio.CancelledError()


class _Steps(Generic[Out]):
    """A coroutine, step by step. `own`: how often it has cancelled its task: others can do so only between two steps of it."""

    __slots__ = ("_code", "_task", "own")

    def __init__(self, code: Coroutine[Any, Any, Out], task: "asyncio.Task[Any]") -> None:
        self._code = code
        self._task = task
        self.own = 0

    def __await__(self) -> Generator[Any, Any, Out]:
        code, task, thrown = self._code, self._task, None
        while True:
            before = task.cancelling()
            try:
                waits = code.throw(thrown) if thrown else code.send(None)
            except StopIteration as end:
                said: Out = end.value
                return said
            except GeneratorExit as error:
                if isinstance(thrown, GeneratorExit):
                    raise  # nobody will go on with it
                raise RuntimeError("it raised GeneratorExit") from error  # as Python does with StopIteration
            finally:
                self.own = max(0, self.own + task.cancelling() - before)  # a timeout within it takes back what its timer did
            try:
                thrown = None
                yield waits
            except BaseException as error:  # noqa: BLE001 - all of it is for the code
                thrown = error


async def taking_rows(code: Coroutine[Any, Any, Out]) -> Out:
    """What code returns that asks the caller's own iterable for rows. What it raises is a BatchError E501."""
    try:
        return await in_their_code(code)
    except BatchError:
        raise
    except Exception as error:
        message = f"the iterable of requests raised {type(error).__name__}: {error}"
        raise BatchError("E501", message, "mend it, then ask again: with output what has come is not asked for twice") from error
