"""Spans and metrics for OpenTelemetry: one span for each request, whatever it took, and nothing private in it."""

import builtins
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Request, Result, Route, Usage
from batchrunner.errors import UsageError
from batchrunner.otel import DURATION, NAMES, OPERATIONS, TOKENS, Spans

WALL = 1_800_000_000_000_000_000
SPANS = InMemorySpanExporter()
READER = InMemoryMetricReader()


@pytest.fixture(scope="module", autouse=True)
def _providers() -> None:
    """The process's own SDK, once: the API allows no second."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SPANS))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[READER]))


@pytest.fixture
def spans() -> InMemorySpanExporter:
    SPANS.clear()
    return SPANS


def listener(share: float = 1.0) -> Spans:
    return Spans(share, clock=lambda: 100.0, wall=lambda: WALL)


def request(line: int = 7, route: Route = Route.CHAT, model: str = "gpt-x") -> Request:
    return Request(
        line=line, id="private-id", digest="d", route=route, path="/", body=b"private prompt", model=model, max_tokens=50
    )


def events(asked: Request, *kinds: Kind, at: float = 200.0) -> Iterator[Event]:
    """One attempt for each kind, a second apart; the last one settles the request."""
    for number, kind in enumerate(kinds, 1):
        now = at + number - len(kinds)
        attempt = Attempt(asked, "api.example.com:443", number, now - 0.5, Deadlines(1.0, 1.0, 1.0, 1.0))
        usage = Usage(11, 5) if kind is Kind.OK else None
        outcome = Outcome(kind, 200 if kind is Kind.OK else 503, message="private words", body=b"private answer", usage=usage)
        result = None
        if number == len(kinds):
            result = Result(
                request=asked,
                kind=kind,
                status=outcome.status,
                request_id="req-1",
                attempts=number,
                seconds=float(number),
                endpoint=attempt.endpoint,
                usage=usage,
            )
        yield Event(now, attempt, outcome, result)


def heard(share: float, *stories: Iterator[Event]) -> list[ReadableSpan]:
    listen = listener(share)
    for story in stories:
        for event in story:
            listen(event)
    assert not listen._failed, "nothing is kept of a request that has ended"
    return list(SPANS.get_finished_spans())


def test_one_span_covers_all_attempts(spans: InMemorySpanExporter) -> None:
    (span,) = heard(1.0, events(request(), Kind.OVERLOADED, Kind.TIMEOUT_TOTAL, Kind.OK))
    assert span.name == "chat gpt-x"
    assert span.kind is trace.SpanKind.CLIENT
    assert (span.start_time, span.end_time) == (WALL + 97 * 10**9, WALL + 100 * 10**9)
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.id": "req-1",
        "server.address": "api.example.com",
        "http.response.status_code": 200,
        "batchrunner.endpoint": "api.example.com:443",
        "batchrunner.line": 7,
        "batchrunner.attempts": 3,
    }
    assert [(event.timestamp - WALL) / 1e9 for event in span.events] == [98.0, 99.0]
    assert [dict(event.attributes or {})["error.type"] for event in span.events] == ["overloaded", "timeout_total"]
    assert span.status.is_unset


def test_a_failure_is_an_error_by_its_kind(spans: InMemorySpanExporter) -> None:
    (span,) = heard(1.0, events(request(), Kind.CONTEXT))
    assert span.status.status_code is trace.StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "context"


def test_nothing_private_is_recorded(spans: InMemorySpanExporter) -> None:
    (span,) = heard(1.0, events(request(), Kind.OVERLOADED, Kind.OK))
    assert "private" not in span.to_json()


def test_a_share_is_chosen_by_line(spans: InMemorySpanExporter) -> None:
    lines = range(1, 2001)
    first = {(span.attributes or {})["batchrunner.line"] for span in heard(0.1, *(events(request(n), Kind.OK) for n in lines))}
    assert len(first) == pytest.approx(200, abs=3)
    SPANS.clear()
    again = {(span.attributes or {})["batchrunner.line"] for span in heard(0.1, *(events(request(n), Kind.OK) for n in lines))}
    assert again == first


def points(name: str) -> list[Any]:
    found = READER.get_metrics_data()
    assert found is not None
    metric = [m for r in found.resource_metrics for s in r.scope_metrics for m in s.metrics if m.name == name]
    return list(metric[0].data.data_points)


def test_metrics_count_every_request_whatever_the_share(spans: InMemorySpanExporter) -> None:
    model = "only-here"
    assert heard(0.0, events(request(model=model), Kind.OK), events(request(8, model=model), Kind.STALE, Kind.CONTEXT)) == []
    mine = [point for point in points(DURATION) if point.attributes.get("gen_ai.request.model") == model]
    assert {point.attributes.get("error.type"): (point.count, point.sum) for point in mine} == {
        None: (1, 1.0),
        "context": (1, 2.0),
    }
    assert mine[0].explicit_bounds[0] == 0.01
    assert mine[0].explicit_bounds[-1] == 81.92
    tokens = [point for point in points(TOKENS) if point.attributes.get("gen_ai.request.model") == model]
    assert {point.attributes["gen_ai.token.type"]: point.sum for point in tokens} == {"input": 11, "output": 5}


def test_a_line_that_was_never_sent_is_no_span(spans: InMemorySpanExporter) -> None:
    listen = listener()
    listen(Event(1.0, None, None, Result(request=request(), kind=Kind.INVALID)))
    listen(Event(1.0, None, None, None, "a notice"))
    assert not SPANS.get_finished_spans()


def test_other_routes_go_by_their_own_name(spans: InMemorySpanExporter) -> None:
    (span,) = heard(1.0, events(request(route=Route.HTTP, model=""), Kind.OK))
    assert span.name == "http"
    assert set(OPERATIONS) < set(Route)
    assert len(set(NAMES.values())) == len(NAMES)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as refused:
        listener()
    assert refused.value.code == "E206"
    assert refused.value.hint == "pip install 'batchrunner[otel]'"
