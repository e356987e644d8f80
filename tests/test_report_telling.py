"""From a trail to a story: sessions in a row, counters that begin anew, words for every ending, and a size for every page."""

from collections.abc import Sequence

import msgspec
import pytest

from batchrunner.core.buckets import bucket
from batchrunner.core.model import Kind
from batchrunner.core.trail import AttemptLine, End, Finding, LaneMoment, Moment, Spend, Start, TrailLine
from batchrunner.report import html
from batchrunner.report.course import KEPT, Chapter, chapters, folded
from batchrunner.report.invocation import Invocation
from batchrunner.report.story import GROUPS, Story
from batchrunner.report.svg import POINTS
from batchrunner.report.telling import Count, tell
from batchrunner.summary import Summary

JOB = Invocation(input="a.jsonl", options=("--base-url", "http://h/v1"))
GROUP = list(GROUPS)


def start(session: int = 1, **more: object) -> Start:
    facts: dict[str, object] = {
        "session": session,
        "wall": "2026-11-20T17:20:30.123Z",
        "version": "0.3",
        "python": "3.11",
        "platform": "Linux",
        "libraries": {},
        "pid": 1,
        "input": "a.jsonl",
        "total": 100,
        "resumed": 0,
        "endpoints": ["A"],
        "simulated": False,
        "settings": {"concurrency": "auto", "rpm": 7, "header": ["Key=…"], "max_attempts": 4},
        "origins": {"concurrency": "default", "header": "command line"},
        **more,
    }
    return msgspec.convert({"event": "start", **facts}, Start)


def moment(session: int, at: float, *, ok: int = 0, limited: int = 0, done: int | None = None, **more: object) -> Moment:
    lane = LaneMoment(
        name="A",
        attempts=ok + limited,
        succeeded=ok,
        in_flight=3,
        limit=8,
        deadline=26.0,
        phases={"total": {bucket(3.0): 9, bucket(9.0): 1}, "connect": {bucket(0.01): 10}},
    )
    facts: dict[str, object] = {
        "v": 1,
        "session": session,
        "at": at,
        "span": 5.0,
        "total": 100,
        "done": ok if done is None else done,
        "succeeded": ok,
        "failed": 0,
        "invalid": 0,
        "resumed": 0,
        "attempts": ok + limited,
        "retries": limited,
        "recovered": limited,
        "maybe_billed": 0,
        "tokens_in": 10 * ok,
        "tokens_out": 5 * ok,
        "cost": 0.5,
        "kinds": {kind: count for kind, count in (("ok", ok), ("rate_limited", limited)) if count},
        "failures": {},
        "causes": {},
        "in_flight": 3,
        "limit": 8,
        "retrying": 0,
        "oldest": 1.0,
        "lanes": [lane],
        "spend": [Spend(endpoint="A", model="m", requests=ok, input=10 * ok, output=5 * ok)],
    }
    return Moment(**(facts | more))  # type: ignore[arg-type]


def end(session: int = 1, at: float = 11.0, stopped: str | None = None) -> End:
    return End(session=session, at=at, wall="", stopped=stopped, exit_code=0, summary={})


def summary(succeeded: int = 100, failed: int = 0, total: int = 100, stopped: str | None = None) -> Summary:
    pending = total - succeeded - failed
    return Summary(input="a", total=total, succeeded=succeeded, failed=failed, invalid=0, pending=pending, stopped=stopped)


def attempt(seconds: float = 1.0, **more: object) -> AttemptLine:
    facts: dict[str, object] = {
        "v": 1,
        "session": 1,
        "at": 1.0,
        "line": 7,
        "id": "r-7",
        "endpoint": "A",
        "number": 1,
        "kind": "ok",
    }
    return AttemptLine(**(facts | {"seconds": seconds} | more))  # type: ignore[arg-type]


def told(lines: Sequence[TrailLine], count: Count | None = None, attempts: Sequence[AttemptLine] = (), **more: object) -> Story:
    return tell(chapters(lines), attempts, count or Count(summary=summary()), JOB, **more)  # type: ignore[arg-type]


TWO = [
    start(1),
    moment(1, 5.0, ok=10),
    moment(1, 10.0, ok=40, limited=4),
    end(1),
    start(2),
    moment(2, 5.0, ok=60, done=100),
    end(2, 6.0),
]


# ---- sessions and their course ----


def test_sessions_follow_one_another_in_running_time() -> None:
    story = told(TWO)
    assert [round(step.at, 1) for step in story.moments] == [5.0, 10.0, 16.0]
    assert [(session.at, session.seconds, session.settled, session.ended) for session in story.sessions] == [
        (0.0, 11.0, 40, "finished"),
        (11.0, 6.0, 100, "finished"),
    ]
    assert story.sessions[0].began == "2026-11-20 17:20:30"


def test_counters_begin_anew_with_each_session() -> None:
    steps = told(TWO).moments
    good, busy = GROUP.index("good"), GROUP.index("busy")
    assert [(step.counts[good], step.counts[busy]) for step in steps] == [(10, 0), (30, 4), (60, 0)]


def test_what_was_in_force_stands_beside_what_was_measured() -> None:
    step = told(TWO).moments[0]
    assert step.p50 == pytest.approx(3.0, rel=0.03)
    assert step.p95 == pytest.approx(9.0, rel=0.03)
    assert (step.timeout, step.in_flight, step.limit) == (26.0, 3, 8)


def test_a_session_without_an_end_was_killed_or_is_running() -> None:
    lines = TWO[:3]
    assert told(lines).sessions[0].ended == "killed"
    assert told(lines, Count(summary=summary(40), running=True)).sessions[0].ended == "running"
    assert told([*lines, end(1, 11.0, "SIGTERM")]).sessions[0].ended == "SIGTERM"


def test_a_trail_whose_beginning_was_dropped_is_told_as_far_as_it_goes() -> None:
    story = told(TWO[2:])
    assert [session.began for session in story.sessions] == ["", "2026-11-20 17:20:30"]
    assert told([]).verdict == "All 100 requests succeeded"
    assert told([start()]).moments == ()
    html.page(told([start()]))


def test_a_long_session_is_folded_while_it_is_read() -> None:
    long = [start(), *(moment(1, 5.0 * n, ok=n) for n in range(1, 3 * KEPT)), end()]
    chapter = chapters(long)[0]
    assert len(chapter.moments) <= KEPT
    assert sum(each.span for each in chapter.moments) == pytest.approx(5.0 * (3 * KEPT - 1))
    story = told(long)
    assert len(story.moments) <= POINTS
    assert sum(step.counts[GROUP.index("good")] for step in story.moments) == 3 * KEPT - 1


def test_folding_keeps_an_odd_one() -> None:
    kept = folded([moment(1, 5.0 * n, ok=n) for n in range(1, 6)], 3)
    assert [(each.at, each.span) for each in kept] == [(10.0, 10.0), (20.0, 10.0), (25.0, 5.0)]


# ---- the verdict ----


@pytest.mark.parametrize(
    ("count", "state", "verdict", "command"),
    [
        (Count(summary=summary()), "good", "All 100 requests succeeded", ""),
        (Count(summary=summary(0, 0, 0)), "good", "There was nothing to do", ""),
        (
            Count(summary=summary(90, 10), failures={Kind.CONTEXT: 8, Kind.TIMEOUT_TOTAL: 2}),
            "bad",
            "90 of 100 succeeded, 10 failed",
            "batchrunner retry a.jsonl --base-url http://h/v1",
        ),
        (Count(summary=summary(90, 10), failures={Kind.CONTEXT: 10}), "bad", "90 of 100 succeeded, 10 failed", ""),
        (
            Count(summary=summary(30, 1, stopped="key refused [E301]")),
            "stopped",
            "Stopped at 31 % done: 30 succeeded, 1 failed, 69 to go (key refused [E301])",
            "batchrunner a.jsonl --base-url http://h/v1",
        ),
        (
            Count(summary=summary(90, 10), failures={Kind.TIMEOUT_TOTAL: 10}, kept=False),
            "bad",
            "90 of 100 succeeded, 10 failed",
            "",
        ),
        (Count(summary=summary(30), running=True), "running", "30 % done: 30 succeeded, 70 to go", ""),
        (Count(summary=summary(30), running=True, paused=True), "running", "Paused at 30 % done: 30 succeeded, 70 to go", ""),
    ],
)
def test_every_ending_has_its_words_and_its_next_command(count: Count, state: str, verdict: str, command: str) -> None:
    story = told(TWO, count)
    assert (story.state, story.verdict, story.next) == (state, verdict, command)
    assert bool(story.why) == bool(command)
    assert (story.share is not None) == count.running


def test_a_refusal_has_to_be_mended_first() -> None:
    refused = msgspec.structs.replace(summary(30), stopped="A: bad key [E301]")
    assert told(TWO, Count(summary=refused)).why == "continues where it was, once that is mended"


def test_nothing_continues_where_nothing_is_kept() -> None:
    assert told(TWO, Count(summary=summary(30))).why == "continues where it was"
    assert told(TWO, Count(summary=summary(30), kept=False)).why.startswith("starts anew")


def test_retry_says_how_many_it_can_help() -> None:
    story = told(TWO, Count(summary=summary(90, 10), failures={Kind.CONTEXT: 8, Kind.TIMEOUT_TOTAL: 2}))
    assert story.why == "asks again the 2 that can succeed; the other 8 need other input"


# ---- what the sections hold ----


def test_tiles_add_up_over_sessions() -> None:
    tiles = {tile.name: (tile.value, tile.note) for tile in told(TWO).tiles}
    assert tiles["succeeded"] == ("100", "100 %")
    assert tiles["time"][0] == "17 s"
    assert tiles["tokens"] == ("1.0 k in", "500 out")
    assert tiles["cost"] == ("$ 1.00", "")
    assert tiles["retries"] == ("4", "4 recovered")
    assert tiles["429, overloaded"] == ("4", "rate limited")
    assert tiles["timeouts"] == ("0", "")


def test_lines_that_were_never_sent_are_no_speed() -> None:
    for unsent, said in ((0, "10.0 req/s"), (40, "2.0 req/s"), (50, "")):
        tiles = {tile.name: tile.note for tile in told([start(1), moment(1, 5.0, ok=50, unsent=unsent), end(1, 5.0)]).tiles}
        assert tiles["time"] == said


def test_an_unknown_cost_is_unknown() -> None:
    lines = [start(), moment(1, 5.0, ok=9, cost=None)]
    assert ("unknown", "") in [(tile.value, tile.note) for tile in told(lines).tiles]
    assert [price.cost for price in told(lines).prices] == ["unknown"]
    assert [price.source for price in told(lines).prices] == [""]


def test_what_the_sums_leave_out_is_said() -> None:
    assert told([start(), moment(1, 5.0, ok=9)]).cost == ""
    assert told([start(), moment(1, 5.0, ok=9, maybe_billed=1)]).cost == "1 attempt may be on the bill without an answer."
    silent = "2 answers without a count of tokens: this is the least."
    assert told([start(), moment(1, 5.0, ok=9, untold=2)]).cost == silent
    assert told([start(), moment(1, 5.0, ok=9, untold=2, tokens_in=0, tokens_out=0)]).cost == "", "no sum is shown"


def test_prices_are_of_sums_over_sessions() -> None:
    asked = []

    def priced(spend: Spend) -> tuple[float | None, str]:
        asked.append(spend)
        return 2.5, "your prices"

    story = told(TWO, priced=priced)
    assert [(price.model, price.tokens_in, price.tokens_out, price.cost, price.source) for price in story.prices] == [
        ("m", 1000, 500, "$ 2.50", "your prices")
    ]
    assert [(spend.requests, spend.input) for spend in asked] == [(100, 1000)]


def test_a_running_job_says_what_it_will_have_cost() -> None:
    story = told(TWO, Count(summary=summary(30), running=True, expected=4.0))
    assert "≈ $ 4.00 at the end" in [tile.note for tile in story.tiles]


def test_troubles_say_what_to_do_where_something_is_left_to_do() -> None:
    story = told(TWO, Count(summary=summary(99, 1), failures={Kind.CONTEXT: 1}))
    rows = [(row.what, row.attempts, row.failed, row.remedy) for row in story.troubles]
    assert rows[0][:3] == ("prompt too long", 0, 1)
    assert "shorten it" in rows[0][3]
    assert rows[1] == ("rate limited", 4, 0, "Sent again; nothing to do.")


@pytest.mark.parametrize(("stopped", "word"), [(None, "nothing to do"), ("no endpoint has answered [E305]", "check the address")])
def test_what_stopped_a_run_is_not_just_sent_again(stopped: str | None, word: str) -> None:
    lines = [start(), moment(1, 5.0, ok=0, limited=3, kinds={"connect": 27, "rate_limited": 3})]
    connect, limited = told(lines, Count(summary=summary(0, stopped=stopped))).troubles
    assert word in connect.remedy
    assert "nothing to do" in limited.remedy


@pytest.mark.parametrize(("state", "word"), [("up", "nothing to do"), ("stopped", "check the key")])
def test_what_put_an_endpoint_out_of_use_is_not_just_sent_again(state: str, word: str) -> None:
    seen = moment(1, 5.0, ok=50, kinds={"ok": 50, "denied": 9})
    (lane,) = seen.lanes
    lanes = (lane, msgspec.structs.replace(lane, name="B", state=state))
    (denied,) = told([start(), msgspec.structs.replace(seen, lanes=lanes)], Count(summary=summary(50))).troubles
    assert word in denied.remedy


def test_the_diagnosis_is_passed_on_as_it_was_said() -> None:
    findings = [
        Finding(code="network", question="Is it the network?", verdict=word, said="n", remedy="r")
        for word in ("yes", "no", "unknown")
    ]
    story = told(TWO, Count(summary=summary(), findings=findings))
    assert [each.mark for each in story.findings] == ["yes", "no", "open"]


def test_endpoints_are_summed_by_name() -> None:
    (lane,) = told(TWO).endpoints
    assert (lane.name, lane.attempts, lane.good, lane.timeout, lane.in_flight, lane.state) == ("A", 104, 100, "26 s", "3/8", "")
    assert (lane.p50, lane.connect) == ("3.0 s", "10 ms")


@pytest.mark.parametrize(("own", "said"), [(False, "at most 400 req/s"), (True, "at most 400 req/s, by its own headers")])
def test_a_pace_is_told_with_whose_word_it_is(own: bool, said: str) -> None:
    paced = LaneMoment(name="A", rate=400.0, own=own)
    (lane,) = told([start(), moment(1, 5.0, ok=9, lanes=[paced])]).endpoints
    assert lane.state == said


def test_a_spike_of_deaths_is_marked() -> None:
    dead = LaneMoment(name="A", deaths={bucket(60.0): 40, bucket(2.0): 3}, kills={bucket(26.0): 5})
    story = told([start(), moment(1, 5.0, ok=9, lanes=[dead])])
    assert {(death.group, death.count) for death in story.deaths} == {("cut", 40), ("cut", 3), ("timeout", 5)}
    (spike,) = story.spikes
    assert spike.count == 40
    assert spike.age == pytest.approx(60.0, rel=0.03)
    assert "40 of 43 cut attempts" in spike.words
    even = LaneMoment(name="A", deaths={bucket(2.0**n): 5 for n in range(8)})
    assert told([start(), moment(1, 5.0, ok=9, lanes=[even])]).spikes == ()


def test_the_slowest_attempts_fall_into_their_phases() -> None:
    slow = attempt(20.0, queue=1.0, connect=0.5, first_byte=9.5, body=10.0, deadline=26.0)
    dead = attempt(10.0, kind="connect", phase="connect", number=2)
    quick = [attempt(0.1, line=n) for n in range(50)]
    story = told(TWO, None, [*quick, dead, slow])
    assert len(story.slowest) == 20
    first, second = story.slowest[:2]
    assert [(leg.phase, leg.begin, leg.end) for leg in first.legs] == [
        ("queue", 0.0, 1.0),
        ("connect", 1.0, 1.5),
        ("first_byte", 1.5, 11.0),
        ("body", 11.0, 21.0),
    ]
    assert first.deadline == 27.0
    assert [(leg.phase, leg.end) for leg in second.legs] == [("connect", 10.0)]
    assert (second.what, second.number) == ("no connection", 2)


def test_a_kind_that_a_newer_program_wrote_is_told_by_its_name() -> None:
    story = told([start(), moment(1, 5.0, ok=1, kinds={"ok": 1, "invented": 3})], None, [attempt(kind="invented")])
    assert story.moments[0].counts[GROUP.index("broken")] == 3
    assert story.slowest[0].what == "invented"


def test_settings_say_who_gave_them() -> None:
    rows = {row.name: (row.value, row.origin, row.given) for row in told(TWO).settings}
    assert rows["concurrency"] == ("auto", "default", False)
    assert rows["header"] == ("Key=…", "command line", True)
    assert rows["max_attempts"] == ("4", "given", True), "without an origin, what is not the default was given"


def test_simulated_answers_are_called_so() -> None:
    assert "simulated" in told([start(simulated=True)]).made


def test_a_month_with_a_hundred_sessions_twenty_endpoints_and_long_names_keeps_its_size() -> None:
    name = "n" * 5000
    lanes = [LaneMoment(name=f"{n}{name}", attempts=9, phases={"total": {bucket(3.0 + n): 9}}) for n in range(20)]
    spend = [Spend(endpoint="A", model=f"{n}{name}", requests=1, input=1) for n in range(200)]
    lines = [
        line
        for session in range(1, 101)
        for line in (
            start(session, settings={f"o{n}": name for n in range(90)}, input=name),
            *(moment(session, 5.0 * n, ok=7 * n, limited=n, lanes=lanes, spend=spend) for n in range(1, 20)),
            end(session, 100.0, name),
        )
    ]
    slow = [attempt(float(n), id=name, endpoint=name, queue=0.1, connect=0.2, first_byte=0.3, body=1.0) for n in range(1, 99)]
    story = tell(chapters(lines), slow, Count(summary=summary()), Invocation(input="a.jsonl"))
    assert len(html.page(story).encode()) < 150_000


def test_a_chapter_knows_its_number_whatever_is_left_of_it() -> None:
    assert Chapter(None, (moment(3, 1.0),), None).session == 3
    assert Chapter(start(4), (), None).session == 4
    assert Chapter(None, (), end(5)).session == 5
