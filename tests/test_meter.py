"""meter and core.histogram: counts, rates and quantiles agree with what was put in."""

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from batchrunner.core.hedging import BEATEN
from batchrunner.core.histogram import Histogram, Lately
from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Request, Result, Route, Timing, Usage
from batchrunner.core.treatment import DROPPED
from batchrunner.meter import Gauges, Meter, Snapshot
from batchrunner.report.preview import CheckReport
from batchrunner.summary import Report, Summary, Tokens, summarise

REQUEST = Request(line=1, id="a", digest="d", route=Route.CHAT, path="/v1/chat/completions")
PATIENCE = Deadlines(1.0, 1.0, 1.0, 1.0)


def event(at: float, kind: Kind, number: int = 1, final: bool = True, endpoint: str = "A", **outcome: object) -> Event:
    """One settled attempt; `final` says whether its request ends with it."""
    attempt = Attempt(REQUEST, endpoint, number, at, PATIENCE)
    result = Result(request=REQUEST, kind=kind, attempts=number) if final else None
    return Event(at, attempt, msgspec.structs.replace(Outcome(kind), **outcome), result)


def invalid_line(at: float) -> Event:
    return Event(at, None, None, Result(request=REQUEST, kind=Kind.INVALID))


# ---- histogram ----


@given(st.lists(st.floats(1e-4, 80000), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
@settings(deadline=None, max_examples=300)
def test_quantiles_are_within_one_percent(durations: Sequence[float], share: float) -> None:
    spread = Histogram()
    for duration in durations:
        spread.add(duration)
    exact = sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]
    assert spread.quantile(share) == pytest.approx(exact, rel=0.0101)


def test_what_is_out_of_range_counts_at_the_ends() -> None:
    spread = Histogram()
    for duration in (0.0, -1.0, 1e-9, 1e9):
        spread.add(duration)
    assert spread.count == 4
    assert spread.quantile(0.5) == pytest.approx(1e-4, rel=0.02)
    assert spread.quantile(1.0) == pytest.approx(86400, rel=0.03)


def test_an_empty_histogram_says_nothing() -> None:
    assert Histogram().quantile(0.5) == 0.0


@given(st.lists(st.floats(1e-3, 100), max_size=50), st.lists(st.floats(1e-3, 100), max_size=50))
@settings(deadline=None, max_examples=50)
def test_merging_is_counting_together(left: list[float], right: list[float]) -> None:
    one, two, both = Histogram(), Histogram(), Histogram()
    for duration in left:
        one.add(duration)
        both.add(duration)
    for duration in right:
        two.add(duration)
        both.add(duration)
    one.merge(two)
    assert (one.buckets, one.count) == (both.buckets, both.count)


# ---- the last minute ----


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(0, 3)), max_size=60), st.floats(0, 200))
@settings(deadline=None, max_examples=200)
def test_the_last_minute_is_the_last_sixty_seconds(steps: list[tuple[float, int]], wait: float) -> None:
    now, minute, told = 1000.25, Lately(1000.25), []
    for step, finished in steps:
        now += step
        minute.add(now, finished, 10 * finished)
        told.append((int(now), finished))
    now += wait
    expected = sum(finished for second, finished in told if second > int(now) - 60)
    assert minute.sums(now) == (expected, 10 * expected)
    longer = sum(finished for second, finished in told if second > int(now) - 300)
    assert minute.sums(now, 300) == (longer, 10 * longer)


def test_what_comes_late_counts_as_now() -> None:
    minute = Lately(100.0)
    minute.add(150.0, 1, 0)
    minute.add(101.0, 1, 0)
    assert minute.sums(150.0) == (2, 0)


# ---- meter ----


def test_the_time_left_goes_by_five_minutes_where_one_tells_little() -> None:
    meter = Meter(0.0, total=1000)
    for second in range(300):
        if second % 10 == 0:
            meter(event(second, Kind.OK))
    slow = meter.snapshot(299.5)
    assert slow.rate == pytest.approx(6 / 59.5)
    assert slow.eta == pytest.approx(970 * 299.5 / 30)
    for _ in range(200):
        meter(event(299, Kind.OK))
    assert meter.snapshot(299.5).eta == pytest.approx(770 * 59.5 / 206), "many in a minute say more than a few in five"


def test_every_count_from_one_story() -> None:
    meter = Meter(100.0, total=12)
    meter.resume(3, {Kind.CONTEXT: 1, Kind.INVALID: 1})
    meter.duplicates = 2
    story = [
        event(101, Kind.OK, usage=Usage(10, 20), timing=Timing(0.1, 0.6, 1.0)),
        event(102, Kind.RATE_LIMITED, final=False),
        event(103, Kind.TIMEOUT_IDLE, number=2, final=False, billed=True),
        event(104, Kind.OK, number=3, usage=Usage(5, 5), timing=Timing(0.0, 0.5, 3.0), endpoint="B"),
        event(105, Kind.TRUNCATED, final=False, billed=True, usage=Usage(0, 7)),
        event(106, Kind.TIMEOUT_CONNECT, number=2),
        event(107, Kind.POLICY),
        invalid_line(108),
    ]
    for each in story:
        meter(each)
    found = meter.snapshot(110.0, Gauges(in_flight=2, limit=8, retrying=1, timeout=26.0))
    assert (found.total, found.succeeded, found.failed, found.invalid, found.resumed, found.done, found.pending) == (
        12,
        5,
        3,
        2,
        5,
        10,
        2,
    )
    assert (found.attempts, found.retries, found.recovered, found.maybe_billed, found.duplicates) == (7, 3, 1, 2, 2)
    assert (found.unsent, found.asked) == (1, 4)
    assert (found.rate_limited, found.timeouts, found.truncated) == (1, 2, 1)
    assert (found.tokens_in, found.tokens_out) == (15, 32)
    assert found.failures == {Kind.CONTEXT: 1, Kind.INVALID: 2, Kind.TIMEOUT_CONNECT: 1, Kind.POLICY: 1}
    assert [(lane.name, lane.attempts, lane.succeeded) for lane in found.lanes] == [("A", 6, 1), ("B", 1, 1)]
    assert found.p50 == pytest.approx(1.0, rel=0.011)
    assert found.p99 == pytest.approx(3.0, rel=0.011)
    assert found.first_byte_share == pytest.approx((0.5 + 0.5) / 4.0)
    assert found.gauges.limit == 8
    assert repr(meter) == "Meter(10/12 done, 7 attempts)"


def test_rate_and_time_left_count_only_this_run() -> None:
    meter = Meter(0.0, total=1100)
    meter.resume(1000)
    for second in range(10):
        meter(event(float(second), Kind.OK, usage=Usage(1, 50)))
    found = meter.snapshot(10.0)
    assert found.rate == pytest.approx(1.0)
    assert found.token_rate == pytest.approx(50.0)
    assert found.eta == pytest.approx(90.0)


def test_rate_forgets_what_is_older_than_a_minute() -> None:
    meter = Meter(0.0, total=10**6)
    for tick in range(6000):
        meter(event(tick / 100, Kind.OK))
    for second in range(60, 180):
        meter(event(float(second), Kind.OK))
    assert meter.snapshot(180.0).rate == pytest.approx(1.0, rel=0.05)


def test_no_time_left_is_invented() -> None:
    assert Meter(0.0, total=10).snapshot(5.0).eta is None
    unknown = Meter(0.0)
    unknown(event(1.0, Kind.OK))
    found = unknown.snapshot(2.0)
    assert (found.eta, found.total, found.pending) == (None, None, 0)


# ---- summary ----

COUNTS = st.integers(0, 5)


@given(st.lists(st.sampled_from([Kind.OK, Kind.CONTEXT, Kind.INVALID, Kind.TIMEOUT_TOTAL]), max_size=30), COUNTS, COUNTS, COUNTS)
@settings(deadline=None, max_examples=100)
def test_the_sum_always_holds(kinds: list[Kind], resumed: int, bad: int, rest: int) -> None:
    meter = Meter(0.0, total=len(kinds) + resumed + bad + rest)
    meter.resume(resumed, {Kind.CONTEXT: bad})
    for kind in kinds:
        meter(invalid_line(1.0) if kind is Kind.INVALID else event(1.0, kind))
    found = summarise(meter.snapshot(2.0), "a.jsonl")
    assert found.total == found.succeeded + found.failed + found.invalid + found.pending
    assert found.pending == rest


def test_a_wrong_sum_is_refused() -> None:
    for counts in ({"total": 3, "pending": 1}, {"total": 0, "pending": -1}):
        with pytest.raises(ValueError, match="lines are not"):
            Summary(input="a", **{"succeeded": 1, "failed": 0, "invalid": 0} | counts)


def test_summary_json_is_the_one_of_the_design() -> None:
    text = Summary(
        input="a.jsonl", total=4, succeeded=1, failed=1, invalid=1, pending=1, tokens=Tokens(5, 6), seconds=1.5
    ).to_json()
    assert text == (
        b'{"v":1,"input":"a.jsonl","total":4,"succeeded":1,"failed":1,"invalid":1,"pending":1,"resumed":0,"attempts":0,"retries":0,'
        b'"rate_limited":0,"timeouts":0,"truncated":0,"maybe_billed":0,"duplicates":0,"seconds":1.5,"tokens":{"input":5,"output":6},'
        b'"cost":null,"stopped":null,"exit_code":0}'
    )
    assert msgspec.json.decode(text, type=Summary).to_json() == text


@pytest.mark.parametrize(
    ("snapshot", "stopped", "given_code", "code"),
    [
        (Snapshot(total=1, succeeded=1), "", 0, 0),
        (Snapshot(total=1, failed=1), "", 0, 1),
        (Snapshot(total=1, invalid=1), "", 0, 1),
        (Snapshot(total=2, failed=1), "max_time", 0, 3),
        (Snapshot(total=2, failed=1), "SIGINT", 130, 130),
    ],
)
def test_exit_code_of_a_summary(snapshot: Snapshot, stopped: str, given_code: int, code: int) -> None:
    found = summarise(snapshot, "a", stopped, given_code)
    assert found.exit_code == Report(found).exit_code == code
    assert found.stopped == (stopped or None)


def test_check_report_says_2_when_there_is_a_problem() -> None:
    assert CheckReport(input="a", requests=3).exit_code == 0
    assert CheckReport(input="a", requests=3, problems=1).exit_code == 2
    assert msgspec.json.decode(CheckReport(input="a", requests=3).to_json())["requests"] == 3


def test_answers_that_end_at_the_token_limit_are_told_only_where_there_were_any() -> None:
    meter = Meter(0.0, 2)
    meter(event(1.0, Kind.OK))
    assert "hit_token_limit" not in summarise(meter.snapshot(1.0), "a").to_json().decode()
    short = event(2.0, Kind.OK)
    assert short.result
    meter(structs.replace(short, result=structs.replace(short.result, flags=("streamed", "hit_token_limit"))))
    assert summarise(meter.snapshot(2.0), "a").hit_token_limit == 1


def test_answers_that_count_no_tokens_are_told_only_where_there_were_any() -> None:
    meter = Meter(0.0, 2)
    meter(event(1.0, Kind.OK, usage=Usage(1, 1)))
    assert "without_usage" not in summarise(meter.snapshot(1.0), "a").to_json().decode()
    meter(event(2.0, Kind.OK))
    assert summarise(meter.snapshot(2.0), "a").without_usage == 1


def test_what_the_end_of_a_run_cut_off_is_counted_apart_where_it_may_be_billed() -> None:
    meter = Meter(0.0, 4)
    for message, billed in ((DROPPED, True), (DROPPED, True), (DROPPED, False), (BEATEN, True)):
        meter(event(1.0, Kind.CANCELLED, final=False, billed=billed, message=message))
    found = meter.snapshot(1.0)
    assert (found.attempts, found.maybe_billed, found.dropped) == (4, 3, 2)


def test_twins_are_counted_apart_from_retries_and_told_only_where_there_were_any() -> None:
    meter = Meter(0.0, 1)
    meter(event(1.0, Kind.CANCELLED, final=False, billed=True))
    assert "hedged" not in summarise(meter.snapshot(1.0), "a").to_json().decode()
    won = event(1.0, Kind.OK, number=2)
    assert won.attempt
    meter(structs.replace(won, attempt=structs.replace(won.attempt, twin=True)))
    summary = summarise(meter.snapshot(1.0), "a")
    assert (summary.hedged, summary.retries, summary.maybe_billed) == (1, 0, 1)
