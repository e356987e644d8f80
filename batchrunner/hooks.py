"""What the user of the library may do on the way, and what becomes of a line whose hook fails."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from batchrunner.core.model import Attempt, Error, Kind, Outcome, Request, Result
from batchrunner.outbox import Echo, Notice


class Hooks(Struct, frozen=True):
    """All of them may wait. A hook that raises fails the line that it was called for."""

    prepare: Callable[[Request], Awaitable[Request]] | None = None  # before the first sending
    judge: Callable[[Attempt, Outcome], Awaitable[Outcome]] | None = None  # before an attempt is settled
    notice: Notice | None = None  # after something was settled
    admit: Callable[[Request], Awaitable[Request | Result | None]] | None = None  # the last to see it: None keeps it back
    echo: Echo | None = None  # what was kept back and a result answers as well


def hook_failed(request: Request, error: Exception) -> Result:
    """The result of a line whose hook raised."""
    message = f"a hook raised {type(error).__name__}: {error}"
    return Result(request=request, kind=Kind.HOOK, error=Error(Kind.HOOK, "E501", message, "mend the hook, then retry"))
