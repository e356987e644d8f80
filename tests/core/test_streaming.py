"""How endpoints are asked: what turns streams on, what turns them off, and who is believed without a finish reason."""

import json
import random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.classify import classify
from batchrunner.core.deadlines import Timeouts
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Attempt, Deadlines, Kind, Outcome, Reply, Request, Result, Route, Timing
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.stream import STREAMED
from batchrunner.core.streaming import LONG_ANSWER, SOME_CALLS, WITHOUT_FINISH, Facts, Manner, Streaming

TEXT = [Route.CHAT, Route.COMPLETIONS, Route.RESPONSES, Route.MESSAGES]


def request(line: int = 1, route: Route = Route.CHAT, **more: Any) -> Request:
    return Request(line=line, id=f"r-{line}", digest="0" * 16, route=route, path="/v1/x", body=b"{}", **more)


def manner(**policy: Any) -> Manner:
    return Manner("host", Streaming(**policy))


def sent(room: Manner, asked: Request | None = None) -> Attempt:
    asked = asked or request()
    form = room.form(asked)
    limits = Deadlines(1.0, 1.0, 1.0, 1.0)
    return Attempt(asked, "host", 1, 0.0, limits, stream=form.stream, usage=form.usage, unmarked=form.unmarked)


def after(seconds: float, kind: Kind = Kind.OK, status: int = 200, **more: Any) -> Outcome:
    return Outcome(kind, status, timing=Timing(first_byte=seconds, total=seconds), **more)


def streams(room: Manner, **asked: Any) -> bool:
    return room.form(request(**asked)).stream


# -- what is asked for


@pytest.mark.parametrize("route", Route)
def test_only_answers_of_words_are_streamed(route: Route) -> None:
    assert streams(manner(stream="on"), route=route) is (route in TEXT)
    assert set(TEXT) == set(STREAMED)


@pytest.mark.parametrize(
    ("policy", "own", "tokens", "asked"),
    [
        ("auto", False, 0, False),
        ("auto", False, LONG_ANSWER - 1, False),
        ("auto", False, LONG_ANSWER, True),
        ("auto", True, 0, True),
        ("on", False, 0, True),
        ("off", True, LONG_ANSWER, False),
    ],
)
def test_policy_and_line_decide(policy: str, own: bool, tokens: int, asked: bool) -> None:
    room = manner(stream=policy)
    assert streams(room, stream=own, max_tokens=tokens) is asked
    assert room.form(request(stream=own, max_tokens=tokens)).usage is asked


def test_lines_that_allow_many_tokens_are_told_of_once() -> None:
    room = manner()
    said = [room.learn(sent(room, request(n, max_tokens=4096)), after(1.0)) for n in range(3)]
    assert "2,000 tokens" in said[0]
    assert said[1:] == ["", ""]
    assert not streams(room), "a short line is still asked for a whole answer"


# -- signs that calls are too long to be silent


def test_long_calls_turn_streams_on() -> None:
    room = manner()
    said = [room.learn(sent(room, request(n)), after(40.0)) for n in range(SOME_CALLS)]
    assert said[:-1] == [""] * (SOME_CALLS - 1)
    assert "30 s" in said[-1]
    assert "--stream off" in said[-1]
    assert streams(room)


def test_one_long_call_in_twenty_is_not_yet_the_p95() -> None:
    room = manner()
    for n in range(400):
        assert room.learn(sent(room, request(n)), after(40.0 if n % 20 == 0 and n else 1.0)) == ""
    assert not streams(room)


def test_what_is_long_is_told_by_recent_calls() -> None:
    room = manner()
    for n in range(5000):
        room.learn(sent(room, request(n)), after(1.0))
    said = [room.learn(sent(room, request(n)), after(40.0)) for n in range(60)]
    assert any(said)


@pytest.mark.parametrize("policy", ["on", "off"])
def test_who_has_said_how_is_not_watched(policy: str) -> None:
    room = manner(stream=policy)
    for n in range(50):
        assert room.learn(sent(room, request(n)), after(60.0)) == ""
        assert room.learn(sent(room, request(n)), after(60.0, Kind.GATEWAY, 504)) == ""
    assert streams(room) is (policy == "on")


DEATHS = [(Kind.GATEWAY, 504), (Kind.NETWORK, 0), (Kind.GATEWAY, 502)]


@pytest.mark.parametrize("limit", [30.0, 60.0, 100.0, 180.0, 300.0, 350.0])
@pytest.mark.parametrize(("kind", "status"), DEATHS)
def test_silent_calls_that_die_at_one_age_turn_streams_on(limit: float, kind: Kind, status: int) -> None:
    room = manner()
    for n, late in enumerate((0.001, 0.01, 0.006)):
        assert not streams(room)
        said = room.learn(sent(room, request(n)), after(limit * (1 + late), kind, status))
    assert streams(room)
    assert "3 silent calls" in said


@pytest.mark.parametrize("ages", [[60.0, 60.1], [12.0, 31.0, 55.0, 90.0, 140.0, 200.0], [0.1] * 50, [9.0] * 50])
def test_other_deaths_do_not(ages: list[float]) -> None:
    """Too few, all different, or too young to have died of silence."""
    room = manner()
    assert [room.learn(sent(room), after(age, Kind.GATEWAY, 504)) for age in ages] == [""] * len(ages)
    assert not streams(room)


def test_a_longer_silence_that_was_answered_refutes_the_limit() -> None:
    room = manner()
    room.learn(sent(room), after(90.0))
    for _ in range(10):
        room.learn(sent(room), after(60.0, Kind.GATEWAY, 504))
    assert not streams(room)


def test_the_age_of_a_call_begins_with_its_connection() -> None:
    room = manner()
    for wait in (1.0, 9.0, 30.0):
        room.learn(sent(room), Outcome(Kind.NETWORK, timing=Timing(connect=wait, total=60.0 + wait)))
    assert streams(room)


@pytest.mark.parametrize(
    "kind", [Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_TOTAL, Kind.TIMEOUT_IDLE, Kind.RATE_LIMITED, Kind.SERVER_ERROR]
)
def test_our_own_deadlines_and_plain_refusals_are_no_sign(kind: Kind) -> None:
    room = manner()
    for _ in range(20):
        room.learn(sent(room), after(60.0, kind))
    assert not streams(room)


def test_524_says_it_at_once() -> None:
    room = manner()
    assert "silence" in room.learn(sent(room), after(100.0, Kind.GATEWAY, 524))
    assert streams(room)


def test_streams_that_die_say_nothing_of_silence() -> None:
    room = manner()
    for n in range(20):
        assert room.learn(sent(room, request(n, max_tokens=9999)), after(60.0, Kind.GATEWAY, 504)) == ""
    assert not streams(room)


def test_long_embeddings_turn_nothing_on() -> None:
    room = manner()
    for n in range(50):
        assert room.learn(sent(room, request(n, Route.EMBEDDINGS)), after(60.0)) == ""
    assert not streams(room)


def test_deaths_at_random_seldom_look_like_a_limit() -> None:
    """A hundred resets spread over two decades of age, a hundred times."""
    chance, fooled = random.Random(7), 0
    for _ in range(100):
        room = manner()
        fooled += any(room.learn(sent(room), after(10.0 * 100.0 ** chance.random(), Kind.NETWORK)) for _ in range(100))
    assert fooled <= 20


# -- refusals


def refused(room: Manner, message: str, model: str = "m", line: int = 1) -> tuple[Attempt, Outcome, str]:
    """What a 400 with this message amounts to, and what is learned of it."""
    attempt = sent(room, request(line, model=model))
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    outcome = classify(attempt, Reply(400, {}, body))
    return attempt, outcome, room.learn(attempt, outcome)


@pytest.mark.parametrize(
    "message",
    [
        "Unrecognized request argument supplied: stream_options",
        "body.stream_options: Extra inputs are not permitted",
        "unknown field include_usage",
    ],
)
def test_refused_options_are_dropped_for_the_endpoint_and_told_once(message: str) -> None:
    room = manner(stream="on")
    late = sent(room, request(2))
    _, outcome, said = refused(room, message)
    assert outcome.kind is Kind.UNSUPPORTED
    assert "stream_options" in said
    form = room.form(request())
    assert (form.stream, form.usage) == (True, False)
    assert room.learn(late, outcome) == "", "another attempt was under way"
    assert streams(room)


@pytest.mark.parametrize("policy", ["on", "auto"])
def test_refused_streams_are_not_asked_of_that_model_again(policy: str) -> None:
    room = manner(stream=policy)
    asked = request(stream=True, model="m")
    attempt = sent(room, asked)
    outcome = classify(attempt, Reply(400, {}, b'{"error":{"message":"stream is not supported with this model"}}'))
    assert outcome.kind is Kind.UNSUPPORTED
    assert "for m" in room.learn(attempt, outcome)
    assert not room.form(asked).stream
    assert room.form(request(stream=True, model="other")).stream
    assert room.learn(attempt, outcome) == ""


def test_a_model_that_has_streamed_is_not_doubted_for_one_request() -> None:
    room = manner(stream="on")
    room.learn(sent(room, request(model="m")), after(1.0))
    _, outcome, said = refused(room, "cannot stream audio")
    assert (outcome.kind, said) == (Kind.UNSUPPORTED, "")
    assert streams(room, model="m")


@pytest.mark.parametrize(
    "message",
    [
        "This model only support stream mode, please enable the stream parameter to access the model.",
        "Requests with max_tokens > 4096 must have stream=true",
        "Streaming is required for this model",
    ],
)
def test_a_stream_that_is_demanded_is_given(message: str) -> None:
    room = manner()
    _, outcome, said = refused(room, message)
    assert outcome.kind is Kind.UNSUPPORTED
    assert said
    assert streams(room)


def test_a_refusal_that_speaks_of_something_else_is_the_lines_own() -> None:
    for policy in ("on", "off", "auto"):
        _, outcome, said = refused(manner(stream=policy), "temperature must be a number")
        assert (outcome.kind, said) == (Kind.REJECTED, "")
    _, outcome, said = refused(manner(), "I never heard of a river called stream")
    assert (outcome.kind, said) == (Kind.REJECTED, "")


# -- finish reasons


def answer(reason: str | None, text: str = "yes", usage: bool = True) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    counted = {"usage": {"prompt_tokens": 3, "completion_tokens": 1}} if usage else {}
    return json.dumps({"id": "x", "choices": [choice], **counted}).encode()


def judged(room: Manner, body: bytes, line: int, *, streamed: bool = False, done: bool = True) -> tuple[Outcome, str]:
    attempt = sent(room, request(line))
    reply = Reply(200, {}, body)
    if streamed:
        reply = Reply(200, {}, b"", flags=("streamed",), missing="no finish_reason for choice 0", partial=body, done=done)
    outcome = classify(attempt, reply)
    return outcome, room.learn(attempt, outcome)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_endpoint_that_never_gives_a_reason_is_believed_in_time(streamed: bool) -> None:
    room = manner(stream="on" if streamed else "off")
    for line in range(WITHOUT_FINISH):
        outcome, said = judged(room, answer(None), line, streamed=streamed)
        assert outcome.kind is Kind.TRUNCATED
        assert outcome.body == b""
    assert "missing_finish" in said
    outcome, said = judged(room, answer(None), 99, streamed=streamed)
    assert (outcome.kind, said) == (Kind.OK, "")
    assert "missing_finish" in outcome.flags
    assert outcome.body == answer(None)


def test_one_reason_is_enough_to_doubt_all_who_lack_it() -> None:
    room = manner()
    judged(room, answer("stop"), 0)
    for line in range(50):
        assert judged(room, answer(None), line)[0].kind is Kind.TRUNCATED


def test_the_belief_ends_with_the_first_reason() -> None:
    room = manner()
    for line in range(WITHOUT_FINISH):
        judged(room, answer(None), line)
    assert judged(room, answer(None), 50)[0].kind is Kind.OK
    assert "no longer" in judged(room, answer("stop"), 51)[1]
    assert judged(room, answer(None), 52)[0].kind is Kind.TRUNCATED


def test_one_line_sent_again_and_again_is_no_evidence() -> None:
    room = manner()
    for _ in range(50):
        assert judged(room, answer(None), 1)[0].kind is Kind.TRUNCATED


BARELY = [
    {"body": answer(None, usage=False)},
    {"body": answer(None, text="")},
    {"body": answer(None), "streamed": True, "done": False},
    {"body": answer(None, usage=False), "streamed": True},
]


@pytest.mark.parametrize("less", BARELY)
def test_what_is_not_whole_otherwise_is_no_evidence_and_never_accepted(less: dict[str, Any]) -> None:
    room = manner()
    for line in range(50):
        assert judged(room, line=line, **less)[0].kind is Kind.TRUNCATED
    for line in range(100, 100 + WITHOUT_FINISH):
        judged(room, answer(None), line)
    assert judged(room, answer(None), 200)[0].kind is Kind.OK
    assert judged(room, line=201, **less)[0].kind is Kind.TRUNCATED


def test_retry_never_believes() -> None:
    room = manner(missing_finish="retry")
    for line in range(50):
        assert judged(room, answer(None), line)[0].kind is Kind.TRUNCATED


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_accept_takes_the_users_word_but_no_cut_answer(streamed: bool) -> None:
    room = manner(missing_finish="accept")
    outcome, _ = judged(room, answer(None, usage=False), 1, streamed=streamed)
    assert outcome.kind is Kind.OK
    assert "missing_finish" in outcome.flags
    assert judged(room, answer(None, text=""), 2, streamed=streamed)[0].kind is Kind.TRUNCATED
    assert judged(room, answer(None)[:-9], 3, streamed=streamed)[0].kind is Kind.TRUNCATED
    assert judged(room, answer(None), 4, streamed=True, done=False)[0].kind is Kind.TRUNCATED


@pytest.mark.parametrize("route", [Route.MESSAGES, Route.RESPONSES])
def test_other_routes_have_proofs_of_their_own(route: Route) -> None:
    """A message without a stop reason, a response without a status: never accepted, whatever the user says."""
    room = manner(missing_finish="accept", stream="on")
    attempt = sent(room, request(1, route))
    body = json.dumps(
        {"id": "m", "content": [{"type": "text", "text": "hi"}], "output": [], "usage": {"output_tokens": 5}}
    ).encode()
    assert classify(attempt, Reply(200, {}, body)).kind is not Kind.OK
    cut = Reply(200, {}, b"", missing="ended without message_stop", partial=body, done=True)
    assert classify(attempt, cut).kind is Kind.TRUNCATED
    whole = json.dumps(
        {"id": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "status": "completed"}
    ).encode()
    assert classify(attempt, Reply(200, {}, whole)).kind is Kind.OK
    cut = Reply(200, {}, b"", missing="ended without message_stop", partial=whole, done=True)
    assert classify(attempt, cut).kind is Kind.TRUNCATED, "what the assembler misses is missing"


REASONS = st.sampled_from(["stop", None, "length"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(REASONS, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9)), max_size=40),
    st.sampled_from(["auto", "retry"]),
)
def test_no_history_lets_an_answer_pass_that_the_rule_forbids(history: list[Any], policy: Literal["auto", "retry"]) -> None:
    room = manner(missing_finish=policy)
    lines: set[int] = set()
    reasons = 0
    for reason, usage, streamed, done, line in history:
        streamed = streamed and reason is None
        outcome, _ = judged(room, answer(reason, usage=usage), line, streamed=streamed, done=done)
        whole = usage and (done or not streamed)
        trusted = policy == "auto" and not reasons and len(lines) >= WITHOUT_FINISH
        assert (outcome.kind is Kind.OK) is (bool(reason) or (whole and trusted))
        lines |= {line} if whole and not reason else set()
        reasons += bool(reason)


# -- in the scheduler


def scheduler(**policy: Any) -> Scheduler:
    endpoint = Endpoint("a", "http://a/v1", Limit(Concurrency(concurrency=4)))
    return Scheduler([endpoint], Retries(), Timeouts(), 10, Streaming(**policy))


def go(room: Scheduler, now: float = 0.0) -> Attempt:
    step = room.next("a", now)
    assert isinstance(step, Attempt)
    return step


def test_the_attempt_says_how_it_is_asked_and_its_deadlines_fit() -> None:
    room = scheduler(stream="on")
    room.offer(request(1))
    attempt = go(room)
    assert (attempt.stream, attempt.usage, attempt.plain) == (True, True, False)
    assert "silence" in room.in_force(attempt)[2]


def test_options_then_streams_then_a_whole_answer() -> None:
    """Whatever is refused, the request is asked in another way, at once and for free, and in the end for itself."""
    room = scheduler(stream="on", keep_partial=True)
    room.offer(request(1, model="m"))
    room.offer(request(2, model="m"))
    room.settle(go(room), after(1.0), 0.0, 0.5)
    forms, notices = [], []
    for message in ("stream_options", "stream", "stream"):
        attempt = go(room)
        forms.append((attempt.stream, attempt.usage))
        room.settle(attempt, Outcome(Kind.UNSUPPORTED, 400, message=message), 0.0, 0.5)
        notices.append(bool(room.notice))
    assert forms == [(True, True), (True, False), (False, False)]
    assert notices == [True, False, False], "the model has streamed for another line"
    room.offer(request(3, model="m"))
    assert go(room).stream


@pytest.mark.parametrize("keep", [True, False])
def test_partial_text_is_kept_with_a_failure_only_and_only_when_asked_for(keep: bool) -> None:
    room = scheduler(keep_partial=keep)
    room.offer(request(1))
    room.offer(request(2))
    cut = Outcome(Kind.TRUNCATED, 200, partial=b'{"a":1}')
    now = 0.0
    while (
        not isinstance(
            verdict := room.settle(first := go(room, now), cut if first.request.line == 1 else after(1.0), now, 0.5), Result
        )
        or verdict.ok
    ):
        now += 100.0
        cut = Outcome(Kind.TRUNCATED, 200, partial=b'{"a":1}') if now < 300 else Outcome(Kind.SERVER_ERROR, 500)
    assert verdict.partial == (b'{"a":1}' if keep else b"")
    assert verdict.body == b""
    room.offer(request(3))
    room.settle(go(room, now), cut, now, 0.5)
    result = room.settle(go(room, now + 100.0), after(1.0), now + 100.0, 0.5)
    assert isinstance(result, Result)
    assert result.partial == b""


def test_what_was_learned_of_an_endpoint_is_known_in_the_next_run() -> None:
    room = manner()
    room.recall(Facts(always=True, usage=False, refusing=("m",), marked=True))
    assert room.learned() == Facts(always=True, usage=False, refusing=("m",), marked=True)
    assert (room.form(request(model="n")).stream, room.form(request(model="n")).usage) == (True, False)
    assert not room.form(request(model="m")).stream


@pytest.mark.parametrize(("said", "streams"), [("on", True), ("off", False), ("auto", True)])
def test_the_users_word_goes_before_what_was_learned(said: str, streams: bool) -> None:
    room = manner(stream=said)
    room.recall(Facts(always=True))
    assert room.form(request()).stream is streams
    assert room.learned().always is (said == "auto")
