"""The life of an open request, by hand and by random histories."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import RECHECK, Endpoint
from batchrunner.core.health import FAILURES_IN_A_ROW
from batchrunner.core.hedging import Hedging
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Again, Attempt, Kind, Outcome, Phase, Request, Result, Route, Timing, Wait
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.treatment import REFUSED, TREATMENT


def request(line: int) -> Request:
    return Request(line=line, id=f"r-{line}", digest="0" * 16, route=Route.CHAT, path="/v1/chat/completions", body=b"{}")


def endpoint(name: str = "a", concurrency: int = 4) -> Endpoint:
    return Endpoint(name, f"http://{name}/v1", Limit(Concurrency(concurrency=concurrency)))


def scheduler(*endpoints: Endpoint, max_open: int = 10, hedge: str = "", **retries: Any) -> Scheduler:
    return Scheduler(endpoints or [endpoint()], Retries(**retries), Timeouts(), max_open, hedging=Hedging(hedge=hedge))


def send(room: Scheduler, now: float = 0.0, name: str = "a") -> Attempt:
    step = room.next(name, now)
    assert isinstance(step, Attempt)
    return step


def seasoned(answers: int = 500) -> Scheduler:
    """One endpoint that has answered so often, each time within 0.1 s, and has then been cut down to a single slot."""
    lane = Endpoint("a", "http://a/v1", Limit(Concurrency()))
    room = scheduler(lane, max_open=1000)
    for line in range(answers):
        room.offer(request(line))
        room.settle(send(room, line / 10), Outcome(Kind.OK, timing=Timing(total=0.1)), (line + 1) / 10, 0.5)
    lane.limit.overload(answers / 10, 0, answers / 10)
    assert (lane.limit.size, lane.ready(answers / 10)) == (1, 0.0)
    return room


def given_up(room: Scheduler, line: int, times: int, now: float) -> float:
    """A line is sent, and ended by our own deadline, so many times; when it may be sent again."""
    room.offer(request(line))
    for _ in range(times):
        again = room.settle(send(room, now), Outcome(Kind.TIMEOUT_TOTAL, timing=Timing(total=1.0)), now + 1.0, 0.5)
        assert isinstance(again, Again)
        now = again.at
    return now


def test_what_hangs_where_it_alone_is_under_way_lets_one_go_beside_it_and_then_all() -> None:
    room = seasoned()
    now = given_up(room, 1000, 2, 60.0)
    hanging = send(room, now)
    for line in (1001, 1002, 1003):
        room.offer(request(line))
    assert room.next("a", now) == Wait(), "it holds the only slot"
    assert room.review(hanging, Phase.FIRST_BYTE, 0.5, now + 0.5) == pytest.approx(0.5), "it is not late yet"
    assert room.next("a", now + 0.5) == Wait()
    assert room.review(hanging, Phase.FIRST_BYTE, 1.0, now + 1.0) == pytest.approx(59.0), "after two kills it gets a minute"
    beside = send(room, now + 1.0)
    assert room.next("a", now + 1.0) == Wait(), "one at a time"
    room.settle(beside, Outcome(Kind.OK, timing=Timing(total=0.1)), now + 1.1, 0.5)
    after = send(room, now + 1.1)
    assert (beside.request.line, after.request.line) == (1001, 1002)
    room.settle(after, Outcome(Kind.OK, timing=Timing(total=0.1)), now + 1.2, 0.5)
    assert isinstance(room.settle(hanging, Outcome(Kind.OK, timing=Timing(total=9.0)), now + 9.0, 0.5), Result)
    for line in range(2000, 2050):
        room.offer(request(line))
    sent = sum(isinstance(room.next("a", now + 9.0), Attempt) for _ in range(50))
    assert sent == room.endpoints[0].limit.size < 10, "it makes room for nobody any more"


def test_what_is_late_beside_others_keeps_its_slot_until_later_ones_are_answered() -> None:
    room = seasoned()
    room.endpoints[0].limit.warm(4)
    now = given_up(room, 1000, 2, 60.0)
    for line in (1001, 1002, 1003):
        room.offer(request(line))
    hanging, second = send(room, now), send(room, now)
    assert room.review(hanging, Phase.FIRST_BYTE, 1.0, now + 1.0) == pytest.approx(1.0), "it is looked at again"
    assert room.next("a", now + 1.0) == Wait()
    room.settle(second, Outcome(Kind.OK, timing=Timing(total=1.0)), now + 1.0, 0.5)
    third = send(room, now + 1.0)
    room.settle(third, Outcome(Kind.OK, timing=Timing(total=0.1)), now + 1.1, 0.5)
    assert room.review(hanging, Phase.FIRST_BYTE, 2.0, now + 2.0) == pytest.approx(58.0)
    send(room, now + 2.0)
    room.offer(request(1004))
    assert isinstance(room.next("a", now + 2.0), Attempt), "two slots beside it"


def test_an_answer_that_does_not_fit_has_a_budget_of_its_own_and_takes_its_new_form_along() -> None:
    room = scheduler(max_attempts=1, reask=2)
    room.offer(request(7))
    unfit = Outcome(Kind.INVALID_OUTPUT, 200, body=b"{}", message="no")
    changed = replace(request(7), body=b'{"more": 1}')
    assert room.settle(send(room), replace(unfit, instead=changed), 0.0, 0.5) == Again(0.0, "invalid_output")
    second = send(room)
    assert second.request is changed
    assert isinstance(room.settle(second, unfit, 0.0, 0.5), Again)
    third = send(room)
    assert third.request is changed, "a new form stays"
    result = room.settle(third, unfit, 0.0, 0.5)
    assert isinstance(result, Result)
    assert (result.request, result.attempts) == (request(7), 3), "the line itself is what it was"
    assert result.error
    assert result.error.message == "no (gave up after 3 answers)"


def test_what_can_take_another_form_is_sent_once_more() -> None:
    room = scheduler()
    room.offer(request(7))
    large = Outcome(Kind.TOO_LARGE, 413, message="too large", instead=request(7))
    assert isinstance(room.settle(send(room), large, 0.0, 0.5), Again)
    assert isinstance(room.settle(send(room, 99.0), large, 99.0, 0.5), Result)


def test_offers_are_refused_when_enough_is_open() -> None:
    room = scheduler(max_open=2)
    assert [room.offer(request(n)) for n in range(3)] == [True, True, False]
    attempt = send(room)
    assert not room.offer(request(9)), "a request in flight is still open"
    room.settle(attempt, Outcome(Kind.OK), 1.0, 0.5)
    assert room.offer(request(9))


def test_requests_go_out_in_the_order_they_came_and_within_the_limit() -> None:
    room = scheduler(endpoint(concurrency=2))
    for n in range(3):
        room.offer(request(n))
    assert [send(room).request.line, send(room).request.line] == [0, 1]
    assert room.next("a", 0.0) == Wait()


def test_a_success_is_a_result_with_its_facts() -> None:
    room = scheduler()
    room.offer(request(7))
    result = room.settle(send(room, 10.0), Outcome(Kind.OK, 200, body=b"{}", request_id="q"), 12.5, 0.5)
    assert isinstance(result, Result)
    assert (result.ok, result.attempts, result.seconds, result.endpoint, result.request_id) == (True, 1, 2.5, "a", "q")
    assert room.open == 0


def test_a_failure_waits_in_the_heap_and_comes_back_before_fresh_work() -> None:
    room = scheduler()
    room.offer(request(1))
    room.offer(request(2))
    verdict = room.settle(send(room), Outcome(Kind.SERVER_ERROR, 500), 0.0, 0.5)
    assert isinstance(verdict, Again)
    assert verdict.at == pytest.approx(0.5)
    assert send(room, 0.1).request.line == 2, "nothing waits for the one that waits"
    assert room.next("a", 0.1) == Wait(verdict.at)
    room.offer(request(3))
    again = send(room, 0.5)
    assert (again.request.line, again.number) == (1, 2)


def test_attempts_run_out() -> None:
    room = scheduler(max_attempts=3)
    room.offer(request(1))
    for turn in range(2):
        assert isinstance(room.settle(send(room, turn * 100.0), Outcome(Kind.SERVER_ERROR, 500), turn * 100.0, 0.0), Again)
    result = room.settle(send(room, 300.0), Outcome(Kind.SERVER_ERROR, 500, message="boom"), 300.0, 0.0)
    assert isinstance(result, Result)
    assert (result.ok, result.attempts, result.kind) == (False, 3, Kind.SERVER_ERROR)
    assert result.error
    assert "boom" in result.error.message
    assert result.error.hint


def test_a_rate_limit_pauses_the_endpoint_and_costs_no_attempt() -> None:
    room = scheduler(max_attempts=2)
    for n in (1, 2):
        room.offer(request(n))
    now = 0.0
    for _ in range(50):
        verdict = room.settle(send(room, now), Outcome(Kind.RATE_LIMITED, 429, wait=7.0), now, 0.0)
        assert isinstance(verdict, Again)
        assert verdict.at == now + 7.0
        step = room.next("a", now + 1.0)
        assert isinstance(step, Wait), "the pause is the endpoint's, not only the row's"
        assert step.until == pytest.approx(now + 7.0)
        now += 7.0
    assert isinstance(room.settle(send(room, now), Outcome(Kind.OK, 200), now, 0.0), Result)


def test_a_stale_connection_is_retried_at_once_on_a_fresh_one_for_free() -> None:
    room = scheduler(max_attempts=1)
    room.offer(request(1))
    verdict = room.settle(send(room), Outcome(Kind.STALE), 0.25, 0.9)
    assert verdict == Again(0.25, Kind.STALE)
    attempt = send(room, 0.25)
    assert attempt.fresh
    assert isinstance(room.settle(attempt, Outcome(Kind.OK), 1.0, 0.5), Result)


def test_a_refused_key_stops_the_endpoint_and_leaves_the_request_pending() -> None:
    room = scheduler()
    room.offer(request(1))
    denied = Outcome(Kind.DENIED, 401, message="bad key")
    assert room.settle(send(room), denied, 0.0, 0.5) == Again(0.0, Kind.DENIED)
    assert not room.stopped, "it is asked again first"
    assert room.settle(send(room), denied, 0.0, 0.5) is None
    assert room.stopped == "a: bad key (line 1, r-1) [E301]"
    assert (room.next("a", 1e9), room.open) == (Wait(), 1)
    assert [pending.line for pending in room.pending()] == [1]
    assert [(attempt.number, result) for attempt, _, result in room.decided] == [(2, None)]


def test_after_a_refusal_in_mid_run_others_are_asked_the_farthest_first() -> None:
    room = scheduler(endpoint(concurrency=1))
    for n in range(9):
        room.offer(request(n))
    denied = Outcome(Kind.DENIED, 401, message="no")
    room.settle(send(room), Outcome(Kind.OK, 200), 0.0, 0.5)
    room.settle(send(room, 1.0), denied, 1.0, 0.5)
    probe = send(room, 1.0)
    assert probe.request.line == 8
    room.settle(probe, denied, 1.5, 0.5)
    assert not room.stopped
    assert room.next("a", 2.0) == Wait(6.5), "gateways err"
    room.settle(send(room, 10.0), denied, 10.0, 0.5)
    assert room.stopped == "a: no (line 1, r-1, and 2 more) [E301]"
    assert sorted(pending.line for pending in room.pending()) == list(range(1, 9))


def test_cancelling_puts_the_request_back_uncharged() -> None:
    room = scheduler()
    room.offer(request(1))
    room.settle(send(room), Outcome(Kind.CANCELLED), 1.0, 0.5)
    assert (room.open, room.in_flight) == (1, 0)
    assert send(room, 2.0).number == 1


def test_settling_twice_is_an_error() -> None:
    room = scheduler()
    room.offer(request(1))
    attempt = send(room)
    room.settle(attempt, Outcome(Kind.OK), 1.0, 0.5)
    with pytest.raises(KeyError):
        room.settle(attempt, Outcome(Kind.OK), 1.0, 0.5)


def test_maybe_billed_attempts_are_counted() -> None:
    room = scheduler()
    room.offer(request(1))
    room.settle(send(room), Outcome(Kind.TRUNCATED, 200, billed=True), 0.0, 0.0)
    room.settle(send(room, 100.0), Outcome(Kind.CONNECT), 100.0, 0.0)
    result = room.settle(send(room, 200.0), Outcome(Kind.OK, 200), 200.0, 0.0)
    assert isinstance(result, Result)
    assert (result.attempts, result.maybe_billed) == (3, 1)


def test_answers_that_are_always_cut_end_though_the_breaker_opens() -> None:
    """They came, and are on the bill: an endpoint that cuts every answer must not be paid for ever."""
    room = scheduler(endpoint(concurrency=1), max_open=30, max_attempts=3)
    for n in range(30):
        room.offer(request(n))
    now, ends = 0.0, 0
    for _ in range(400):
        step = room.next("a", now)
        if isinstance(step, Attempt):
            ends += isinstance(room.settle(step, Outcome(Kind.TRUNCATED, 200), now, 0.5), Result)
        elif step.until is not None:
            now = step.until
    assert (ends, room.open) == (30, 0)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.CANCELLED, Kind.RATE_LIMITED, Kind.LOADING}])
def test_every_kind_ends_in_the_end(kind: Kind) -> None:
    """However often it is repeated, a kind leads to a result or stops the endpoint, if anybody is there. Waits never do."""
    room = scheduler(max_attempts=3)
    room.endpoints[0].heard = True
    room.offer(request(1))
    now = 0.0
    for _ in range(100):
        step = room.next("a", now)
        if isinstance(step, Wait):
            assert step.until is not None or room.stopped
            if room.stopped:
                return
            assert step.until
            now = max(now, step.until)
            continue
        verdict = room.settle(step, Outcome(kind, message="again"), now + 1.0, 0.5)
        now += 1.0
        if isinstance(verdict, Result):
            assert verdict.ok == (kind is Kind.OK)
            return
    pytest.fail("neither ended nor stopped")


ENDING = [kind for kind in Kind if TREATMENT[kind].health not in REFUSED]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_history_gives_each_line_exactly_one_result(data: st.DataObject) -> None:
    max_open, total = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 25))
    room = scheduler(endpoint("a", data.draw(st.integers(1, 5))), endpoint("b", 2), max_open=max_open, max_attempts=3)
    todo = list(range(total))
    flying: list[Attempt] = []
    results: dict[int, Result] = {}
    now, turns = 0.0, 0
    while len(results) < total:
        turns += 1
        now += data.draw(st.floats(0.0, 40.0))
        while todo and room.offer(request(todo[0])):
            todo.pop(0)
        for name in "ab":
            while isinstance(step := room.next(name, now), Attempt):
                assert step.request.line not in {attempt.request.line for attempt in flying}
                flying.append(step)
        assert room.open <= max_open
        assert room.in_flight == len(flying)
        if flying:
            attempt = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            kind = data.draw(st.sampled_from(ENDING)) if turns < 150 else Kind.OK
            verdict = room.settle(attempt, Outcome(kind), now, data.draw(st.floats(0.0, 0.99)))
            if isinstance(verdict, Result):
                assert verdict.request.line not in results
                results[verdict.request.line] = verdict
    assert sorted(results) == list(range(total))
    assert room.open == 0


def test_an_outage_of_any_length_loses_no_request() -> None:
    room = scheduler(endpoint(concurrency=20), max_open=50, max_attempts=3)
    for n in range(50):
        room.offer(request(n))
    now = 0.0
    while now < 7200.0:
        step = room.next("a", now)
        if isinstance(step, Wait):
            assert step.until is not None
            now = max(now + 0.01, step.until)
            continue
        assert isinstance(
            room.settle(step, Outcome(Kind.TIMEOUT_FIRST_BYTE if step.number % 2 else Kind.CONNECT), now, 0.5), Again
        )
        now += 0.01
    assert room.open == 50


def test_f8_a_machine_that_is_full_lowers_a_fixed_limit_and_blames_nobody() -> None:
    lane = endpoint(concurrency=20)
    room = scheduler(lane, max_open=50)
    for n in range(50):
        room.offer(request(n))
    flying = [send(room, 1.0) for _ in range(20)]
    assert isinstance(room.settle(flying[0], Outcome(Kind.LOCAL), 2.0, 0.5), Again)
    assert lane.limit.size < 20
    for each in flying[1:]:
        room.settle(each, Outcome(Kind.LOCAL), 2.0, 0.5)
    assert not lane.stopped
    assert not lane.breaker.open


# ---- money and blame ----


BILLED = Outcome(Kind.NETWORK, message="gone", billed=True)


def test_what_may_have_been_billed_waits_until_answers_have_earned_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.core.retry.FLOOR", 1.0)
    room = scheduler(endpoint(concurrency=10), max_open=20)
    for n in range(6):
        room.offer(request(n))
    for attempt in [send(room) for _ in range(2)]:
        assert isinstance(room.settle(attempt, BILLED, 0.0, 0.0), Again)
    assert (room.open, room.retrying, room.stopped) == (6, 2, "")
    for attempt in [send(room, 1.0) for _ in range(5)]:
        room.settle(attempt, Outcome(Kind.OK), 1.0, 0.5)
    assert send(room, 1.0).request.line == 1, "five answers have earned one"


def test_what_nobody_can_pay_for_stops_the_run_and_stays_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.core.retry.FLOOR", 0.0)
    room = scheduler()
    room.offer(request(0))
    room.settle(send(room), BILLED, 0.0, 0.0)
    assert room.next("a", 99.0) == Wait()
    assert room.stopped == "", "more may come, and earn it"
    room.last = True
    assert "E309" in room.stopped
    assert list(room.pending()) == [request(0)]


def test_what_waits_to_be_earned_keeps_nobody_from_reading_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.core.retry.FLOOR", 0.0)
    room = scheduler(endpoint(concurrency=10), max_open=10)
    for n in range(6):
        room.offer(request(n))
    assert not room.roomy
    for attempt in [send(room) for _ in range(6)]:
        room.settle(attempt, BILLED, 0.0, 0.0)
    assert (room.open, room.in_flight, room.roomy) == (6, 0, True), "only answers to what comes next can earn it"
    for n in range(6, 10):
        room.offer(request(n))
    for attempt in [send(room) for _ in range(4)]:
        room.settle(attempt, BILLED, 0.0, 0.0)
    assert (room.open, room.in_flight, room.roomy) == (10, 0, False), "but there is no room for any"


def test_never_means_that_such_a_request_fails() -> None:
    room = scheduler(retry_ambiguous="never")
    room.offer(request(0))
    result = room.settle(send(room), BILLED, 0.0, 0.0)
    assert isinstance(result, Result)
    assert (result.kind, result.maybe_billed) == (Kind.NETWORK, 1)
    room.offer(request(1))
    assert isinstance(room.settle(send(room), Outcome(Kind.CONNECT), 0.0, 0.0), Again), "nobody has seen this one"


SLOW = Outcome(Kind.TIMEOUT_FIRST_BYTE, message="too late", billed=True)
SILENT = Phase.FIRST_BYTE


@pytest.mark.parametrize(
    ("retries", "last"),
    [
        ({}, [False] * 3 + [True]),  # so many kills are the end of any request
        ({"max_attempts": 1}, [True]),
        ({"max_attempts": 2}, [False, True]),
        ({"retry_ambiguous": "never"}, [True]),
    ],
)
def test_an_attempt_knows_whether_giving_it_up_ends_its_request(retries: dict[str, Any], last: list[bool]) -> None:
    room, now = scheduler(**retries), 0.0
    room.offer(request(0))
    for number, each in enumerate(last, 1):
        attempt = send(room, now)
        assert attempt.last is each
        verdict = room.settle(attempt, SLOW, now + 60.0, 0.5)
        assert isinstance(verdict, Result) is (number == len(last))
        now = verdict.at if isinstance(verdict, Again) else now


def shut(**retries: Any) -> tuple[Scheduler, list[Attempt]]:
    """The breaker has opened while the last of a job are under way, none of which answers, and its first rest is over."""
    room = scheduler(endpoint(concurrency=4), **retries)
    for line in range(3):
        room.offer(request(line))
    sent = [send(room) for _ in range(3)]
    breaker = room.endpoints[0].breaker
    for _ in range(FAILURES_IN_A_ROW):
        breaker.fail(0.0, 100.0, 0.5, inflight=3)
    assert breaker.open
    return room, sent


def test_where_nobody_waits_to_be_the_probe_of_an_outage_one_that_hangs_becomes_it() -> None:
    room, (first, second, _) = shut(max_attempts=1)
    assert room.review(first, SILENT, 100.5, 100.5) > 0.0, "the endpoint rests"
    assert room.review(first, SILENT, 110.0, 110.0) == 0.0
    again = room.settle(first, SLOW, 110.0, 0.5)
    assert isinstance(again, Again), "an outage is not its fault, though it may fail but once"
    assert room.review(second, SILENT, 110.0, 110.0) > 0.0, "one probe"
    assert send(room, again.at).request == first.request
    assert room.review(second, SILENT, 112.0, 112.0) > 0.0, "and it is out"


@pytest.mark.parametrize("others", [0, 1])
def test_what_hangs_in_an_outage_is_given_up_for_an_endpoint_that_serves(others: int) -> None:
    room = scheduler(endpoint("a"), *[endpoint("b")][:others], max_attempts=2)
    room.offer(request(0))
    hanging = send(room)
    for _ in range(FAILURES_IN_A_ROW):
        room.endpoints[0].breaker.fail(0.0, 100.0, 0.5, inflight=1)
    assert (room.review(hanging, SILENT, 100.5, 100.5) == 0.0) is bool(others)


def test_a_line_that_is_refused_where_others_were_answered_is_asked_again_a_little_later() -> None:
    room = scheduler()
    for line in range(3):
        room.offer(request(line))
    room.settle(send(room), Outcome(Kind.OK, 200), 1.0, 0.5)
    verdict = room.settle(send(room, 10.0), Outcome(Kind.DENIED, 403), 10.0, 0.5)
    assert verdict == Again(10.0 + RECHECK, Kind.DENIED)
    room.settle(send(room, 11.0), Outcome(Kind.OK, 200), 12.0, 0.5)
    assert room.next("a", 12.0) == Wait(verdict.at)
    assert send(room, verdict.at).request.line == 1


def test_what_is_held_back_when_the_run_ends_is_pending_once() -> None:
    room = scheduler()
    for line in range(3):
        room.offer(request(line))
    sent = [send(room) for _ in range(3)]
    for attempt in sent[:2]:
        room.settle(attempt, Outcome(Kind.DENIED, 403), 1.0, 0.5)
    room.reopen()
    assert sorted(each.line for each in room.pending()) == [0, 1, 2]


def test_what_could_not_be_that_probe_costs_what_its_end_always_costs() -> None:
    room, sent = shut(retry_ambiguous="never")
    ended = []
    for _ in range(2):
        for attempt in sent:
            if attempt not in ended and room.review(attempt, SILENT, 110.0, 110.0) == 0.0:
                assert isinstance(room.settle(attempt, SLOW, 110.0, 0.5), Result)
                ended.append(attempt)
    assert len(ended) == 3, "four tokens"


def test_what_is_in_force_is_what_the_eldest_under_way_may_take() -> None:
    room = scheduler(max_attempts=1)
    assert room.eldest("a", 0.0) is None
    for line in range(600):
        room.offer(request(line))
        room.settle(send(room, 0.1 * line), Outcome(Kind.OK, timing=Timing(total=0.2, first_byte=0.2)), 0.1 * line, 0.5)
    room.offer(request(600))
    attempt = send(room, 100.0)
    room.offer(request(601))
    send(room, 150.0)
    assert room.eldest("b", 100.0) is None
    for now, seconds in ((100.0, 60.0), (170.0, 60.0), (180.0, 600.0)):
        found = room.eldest("a", now)
        assert found
        assert found[1] == seconds
    assert room.in_force(attempt)[1] == 60.0
    assert room.in_force(replace(attempt, last=False))[1] == 1.0


def test_a_request_that_fails_alike_among_good_ones_ends_early() -> None:
    room = scheduler(endpoint(concurrency=1000), max_open=5000)
    room.offer(request(0))
    poison, boom = send(room), Outcome(Kind.SERVER_ERROR, 500, message="boom")
    for times in range(3):
        verdict = room.settle(poison, boom, float(times), 0.0)
        for line in range(1 + 200 * times, 201 + 200 * times):
            room.offer(request(line))
        sent = [send(room, float(times)) for _ in range(201 if isinstance(verdict, Again) else 200)]
        poison = next((each for each in sent if each.request.line == 0), poison)
        for each in sent:
            if each.request.line:
                room.settle(each, Outcome(Kind.OK), float(times), 0.5)
    assert isinstance(verdict, Result)
    assert verdict.error
    assert verdict.error.message == "boom (gave up after 3 failures alike, while 400 others succeeded)"


def test_failed_attempts_may_only_take_so_long_together() -> None:
    room = scheduler(max_age=10.0)
    room.offer(request(0))
    assert isinstance(room.settle(send(room), Outcome(Kind.SERVER_ERROR, 500), 6.0, 0.0), Again)
    result = room.settle(send(room, 1000.0), Outcome(Kind.SERVER_ERROR, 500), 1006.0, 0.0)
    assert isinstance(result, Result)
    assert result.error
    assert "12 s of failed attempts" in result.error.message
