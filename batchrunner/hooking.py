"""Functions of a library user, sync or async, as the hooks that a run calls.

Rules:

1. A function that raises, or says what it cannot say, fails the line that it was called for, never the run.
2. What judges an answer says no by False or by raising; then the answer is on the bill all the same.
3. An onlooker has no say.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from batchrunner.containment import in_their_code
from batchrunner.core.model import Attempt, Event, Kind, Outcome, Request, Result
from batchrunner.errors import UsageError
from batchrunner.expectation import Misfit, blamed, reader_of
from batchrunner.hooks import Hooks

Verdict = Kind | str | None
Prepare = Callable[[Request], Request | Awaitable[Request]]
Validate = Callable[[Result], object]
Classify = Callable[[Attempt, Outcome], Verdict | Awaitable[Verdict]]
OnEvent = Callable[[Event], object]


def hooks_of(prepare: Prepare | None, validate: Validate | None, classify: Classify | None, on_event: OnEvent | None) -> Hooks:
    """The hooks of a run, from the functions that were given; without any nothing is called. UsageError E002: no function."""
    hooks: dict[str, object] = {"prepare": prepare, "validate": validate, "classify": classify, "on_event": on_event}
    for name, given in hooks.items():
        if given is not None and not callable(given):
            hint = "Sync or async; for validate it may be a type as well."
            raise UsageError("E002", f"{name}: a function is wanted, not {type(given).__name__}", hint)

    async def prepared(request: Request) -> object:
        return await _called(prepare, request) if prepare else request

    async def judged(attempt: Attempt, outcome: Outcome) -> Outcome:
        if classify:
            outcome = await _classified(classify, attempt, outcome)
        return await _validated(validate, attempt, outcome) if validate and outcome.kind is Kind.OK else outcome

    async def noticed(event: Event) -> None:
        with suppress(Exception):  # an onlooker has no say in the run
            await _called(on_event, event) if on_event else None

    return Hooks(
        prepare=prepared if prepare else None,
        judge=judged if classify or validate else None,
        notice=noticed if on_event else None,
    )


def reading(validate: Any) -> Validate | None:
    """A function is taken as it is, a type reads the answer's text."""
    read = reader_of(validate)
    return validate if read is None else lambda result: (read(result.text), True)[1]


async def _classified(classify: Classify, attempt: Attempt, outcome: Outcome) -> Outcome:
    try:
        said = await _called(classify, attempt, outcome)
        if said == Kind.CANCELLED:
            raise ValueError(f"{said!r} is no verdict: it would be asked again for ever")
        return outcome if said is None else msgspec.structs.replace(outcome, kind=Kind(said), final=False)
    except Exception as error:  # noqa: BLE001 - it fails one line, not the run
        return blamed(outcome, Kind.HOOK, f"classify raised {type(error).__name__}: {error}")


async def _validated(validate: Validate, attempt: Attempt, outcome: Outcome) -> Outcome:
    request = attempt.request
    result = Result(
        request=request,
        kind=Kind.OK,
        status=outcome.status,
        body=outcome.body,
        request_id=outcome.request_id,
        attempts=attempt.number,
        endpoint=attempt.endpoint,
        usage=outcome.usage,
        flags=outcome.flags,
    )
    try:
        said = await _called(validate, result)
        passed, why = bool(said), f"validate returned {said!r}"
    except Misfit as error:
        passed, why = False, str(error)
    except Exception as error:  # noqa: BLE001 - an exception is a way to say no
        passed, why = False, f"validate raised {type(error).__name__}: {error}"
    return outcome if passed else blamed(outcome, Kind.INVALID_OUTPUT, why)


async def _called(function: Callable[..., Any], *given: object) -> Any:
    return await in_their_code(_said(function, *given))


async def _said(function: Callable[..., Any], *given: object) -> Any:
    said = function(*given)
    return await said if inspect.isawaitable(said) else said
