"""Spans and metrics by the GenAI conventions of OpenTelemetry: a listener (extra `otel`).

Rules:

1. Only the API is used: which SDK, exporter and sampler is the user's choice, by code or by OTEL_ variables.
2. One span for each request, from its first sending to its result, with an event for each attempt that failed. `share` says
   how many requests become spans, chosen by line number, so that a resumed run chooses alike. Metrics count all of them.
3. Every name stands in one table. No prompt, no answer and no custom_id is ever recorded.

Source: OpenTelemetry semantic conventions for generative AI client spans and metrics.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from batchrunner import __version__
from batchrunner.core.model import Attempt, Event, Kind, Outcome, Result, Route
from batchrunner.errors import UsageError

SPAN = "{operation} {model}"
EVENT = "attempt failed"
DURATION = "gen_ai.client.operation.duration"
TOKENS = "gen_ai.client.token.usage"
NAMES: Mapping[str, str] = {
    "operation": "gen_ai.operation.name",
    "model": "gen_ai.request.model",
    "max_tokens": "gen_ai.request.max_tokens",
    "tokens_in": "gen_ai.usage.input_tokens",
    "tokens_out": "gen_ai.usage.output_tokens",
    "token_type": "gen_ai.token.type",
    "server": "server.address",
    "status": "http.response.status_code",
    "error": "error.type",
    "line": "batchrunner.line",
    "attempts": "batchrunner.attempts",
    "attempt": "batchrunner.attempt",
    "endpoint": "batchrunner.endpoint",
    "request_id": "gen_ai.response.id",
}
OPERATIONS: Mapping[Route, str] = {
    Route.CHAT: "chat",
    Route.MESSAGES: "chat",
    Route.RESPONSES: "chat",
    Route.COMPLETIONS: "text_completion",
    Route.EMBEDDINGS: "embeddings",
    Route.IMAGES: "generate_content",
}
"""Other routes go by their own name."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
SHARES = 10_000


class Spans:
    """Listens to a run. `share` of its requests become spans. UsageError E206 without the extra."""

    def __init__(self, share: float, clock: Callable[[], float] | None = None, wall: Callable[[], int] = time.time_ns) -> None:
        trace, metrics = _api()
        clock = clock or asyncio.get_running_loop().time
        self._zero = wall() - int(clock() * 1e9)  # what the loop's clock counts from
        self._share = share
        self._trace = trace
        self._tracer = trace.get_tracer("batchrunner", __version__)
        meter = metrics.get_meter("batchrunner", __version__)
        self._seconds = meter.create_histogram(DURATION, "s", "from the first sending to the result", **_bounds(SECONDS))
        self._tokens = meter.create_histogram(TOKENS, "{token}", "tokens as the provider counted them", **_bounds(COUNTS))
        self._failed: dict[int, list[tuple[float, Attempt, Outcome]]] = {}

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        attempt, outcome, result = event.attempt, event.outcome, event.result
        if attempt is None or outcome is None:
            return
        drawn = self._drawn(attempt.request.line)
        if drawn and outcome.kind is not Kind.OK:
            self._failed.setdefault(attempt.request.line, []).append((event.at, attempt, outcome))
        if result is not None:
            self._count(result)
            if drawn:
                self._span(event.at, result, self._failed.pop(attempt.request.line, []))

    def _drawn(self, line: int) -> bool:
        return line * 7919 % SHARES < self._share * SHARES

    def _at(self, moment: float) -> int:
        """Nanoseconds of wall clock."""
        return self._zero + int(moment * 1e9)

    def _count(self, result: Result) -> None:
        told = _shared(result)
        self._seconds.record(result.seconds, told if result.ok else {**told, NAMES["error"]: result.kind.value})
        if result.usage:
            self._tokens.record(result.usage.input, {**told, NAMES["token_type"]: "input"})
            self._tokens.record(result.usage.output, {**told, NAMES["token_type"]: "output"})

    def _span(self, at: float, result: Result, failed: list[tuple[float, Attempt, Outcome]]) -> None:
        name = SPAN.format(operation=_operation(result), model=result.request.model).rstrip()
        kind = self._trace.SpanKind.CLIENT
        span = self._tracer.start_span(name, kind=kind, start_time=self._at(at - result.seconds), attributes=_attributes(result))
        for when, attempt, outcome in failed:
            span.add_event(EVENT, _trial(attempt, outcome), self._at(when))
        if not result.ok:
            span.set_status(self._trace.StatusCode.ERROR, result.kind.value)
        span.end(self._at(at))


def _api() -> tuple[Any, Any]:
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise UsageError("E206", "--otel needs an extra", "pip install 'batchrunner[otel]'") from None
    return trace, metrics


def _bounds(bounds: tuple[float, ...]) -> dict[str, Any]:
    return {"explicit_bucket_boundaries_advisory": bounds}


def _operation(result: Result) -> str:
    route = result.request.route
    return OPERATIONS.get(route, route.value)


def _shared(result: Result) -> dict[str, Any]:
    """What both spans and metrics say: few values each, so that a metric stays small."""
    facts = {
        "operation": _operation(result),
        "model": result.request.model,
        "server": result.endpoint.rpartition(":")[0] or result.endpoint,
    }
    return {NAMES[name]: value for name, value in facts.items() if value}


def _attributes(result: Result) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "endpoint": result.endpoint,
        "line": result.request.line,
        "attempts": result.attempts,
        "max_tokens": result.request.max_tokens,
        "status": result.status,
        "request_id": result.request_id,
        "tokens_in": result.usage.input if result.usage else 0,
        "tokens_out": result.usage.output if result.usage else 0,
        "error": "" if result.ok else result.kind.value,
    }
    return {**_shared(result), **{NAMES[name]: value for name, value in facts.items() if value}}


def _trial(attempt: Attempt, outcome: Outcome) -> dict[str, Any]:
    facts = {"attempt": attempt.number, "endpoint": attempt.endpoint, "error": outcome.kind.value, "status": outcome.status}
    return {NAMES[name]: value for name, value in facts.items() if value}
