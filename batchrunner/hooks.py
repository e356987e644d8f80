"""What the user of the library may do on the way, and what becomes of a line whose hook fails.

Rules:

1. A hook that raises, or returns what cannot be used, fails the line that it was called for. Nothing vanishes by it.
   How its code is kept from ending a task of ours stands in `containment`.
2. What is sent may be changed; which line it answers may not.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct, structs

from batchrunner.core.model import Attempt, Kind, Outcome, Request, Result
from batchrunner.core.treatment import ended
from batchrunner.outbox import Echo, Notice

Judge = Callable[[Attempt, Outcome], Awaitable[Outcome]]


class Hooks(Struct, frozen=True):
    """All of them may wait."""

    prepare: Callable[[Request], Awaitable[object]] | None = None  # before the first sending
    judge: Judge | None = None  # before an attempt is settled
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
