"""What the user of the library may do on the way, and what becomes of a line whose hook fails, or of a run whose rows do.

Rules:

1. A hook that raises, or returns what cannot be used, fails the line that it was called for. Nothing vanishes by it.
2. What is sent may be changed; which line it answers may not.
3. An iterable that raises ends the run in order: nobody knows what it would have given. What has been sent is not lost.
4. A CancelledError that arises in the user's code is a failure like any other of it. One that was sent to the task in which it
   runs is the run's own, and passes.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import msgspec
from msgspec import Struct, structs

from batchrunner.core.model import Attempt, Kind, Outcome, Request, Result
from batchrunner.core.treatment import ended
from batchrunner.errors import BatchError
from batchrunner.outbox import Echo, Notice


class Hooks(Struct, frozen=True):
    """All of them may wait."""

    prepare: Callable[[Request], Awaitable[object]] | None = None  # before the first sending
    judge: Callable[[Attempt, Outcome], Awaitable[Outcome]] | None = None  # before an attempt is settled
    notice: Notice | None = None  # after something was settled
    admit: Callable[[Request], Awaitable[Request | Result | None]] | None = None  # the last to see it: None keeps it back
    echo: Echo | None = None  # what was kept back and a result answers as well


def prepared(request: Request, made: object) -> Request | Result:
    """What `prepare` made of a request, under the line, id and digest it had; its result where that is no request."""
    if not isinstance(made, Request):
        what = "None" if made is None else type(made).__name__
        return hook_failed(request, f"prepare returned {what}, not a Request")
    try:
        msgspec.convert(structs.astuple(made), Request, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        why = _PLACE.sub(lambda found: Request.__struct_fields__[int(found[1])], str(error))
        return hook_failed(request, f"prepare returned a Request that cannot be sent: {why}")
    return structs.replace(made, line=request.line, id=request.id, digest=request.digest)


_PLACE = re.compile(r"\$\[(\d+)\]")


def hook_failed(request: Request, why: str) -> Result:
    """The result of a line whose hook failed."""
    return ended(request, Outcome(Kind.HOOK, code="E501", message=why))


@contextmanager
def in_their_code() -> Iterator[None]:
    """While code of the user's runs in a task of ours: a CancelledError that nobody sent to the task becomes an Exception.

    It is raised as the CancelledError of `concurrent.futures`, so that whoever takes what the code may raise takes it as well.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0  # above 0 in what is still to be done after a cancellation
    try:
        yield
    except asyncio.CancelledError as error:
        if task and task.cancelling() > before:
            raise
        raise futures.CancelledError(f"{error}" or "something that it waits for was cancelled, not the run") from error


@contextmanager
def taking_rows() -> Iterator[None]:
    """While the caller's own iterable is asked for rows: what it raises is a BatchError E501."""
    try:
        with in_their_code():
            yield
    except BatchError:
        raise
    except Exception as error:
        message = f"the iterable of requests raised {type(error).__name__}: {error}"
        raise BatchError("E501", message, "mend it, then ask again: with output what has come is not asked for twice") from error
