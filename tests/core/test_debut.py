"""An endpoint's first requests: whether the lines are wrong or the way they are sent."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from batchrunner.core.deadlines import Timeouts
from batchrunner.core.debut import Debut
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Again, Attempt, Kind, Outcome, Result
from batchrunner.core.retry import Retries
from batchrunner.core.scheduler import Scheduler
from tests.virtual import chat

REFUSAL = Outcome(Kind.REJECTED, 400, code="bad", message="Unknown parameter: 'max_tokenz' (request id: req_0a1b2c)")
GOOD = Outcome(Kind.OK, 200)


def room_of(lines: int, *names: str, alike: int = 5, concurrency: int = 3) -> Scheduler:
    lanes = [Endpoint(name, "http://h", Limit(Concurrency(concurrency=concurrency)), alike) for name in names or "a"]
    room = Scheduler(lanes, Retries(), Timeouts(), 1000)
    for line in range(1, lines + 1):
        room.offer(chat(line))
    return room


def flying(room: Scheduler, name: str = "a", now: float = 0.0) -> list[Attempt]:
    sent = []
    while isinstance(step := room.next(name, now), Attempt):
        sent.append(step)
    return sent


def settle(room: Scheduler, attempts: Sequence[Attempt], outcome: Outcome) -> list[Again | Result | None]:
    return [room.settle(attempt, outcome, 1.0, 0.5) for attempt in attempts]


def failed(room: Scheduler) -> list[int]:
    return [attempt.request.line for attempt, _, result in room.decided if result]


def open_again(room: Scheduler) -> list[int]:
    return [attempt.request.line for attempt, _, result in room.decided if not result]


def refuse_all(room: Scheduler, name: str = "a") -> None:
    while attempts := flying(room, name):
        settle(room, attempts, REFUSAL)


# ---- what ends a debut ----


def take(debut: Debut, *outcomes: Outcome) -> list[bool]:
    return [debut.take(line, outcome, outcome.kind is not Kind.GARBLED) for line, outcome in enumerate(outcomes)]


def refusal(message: str = "no", status: int = 400, code: str = "", kind: Kind = Kind.REJECTED) -> Outcome:
    return Outcome(kind, status, code=code, message=message)


@pytest.mark.parametrize(
    "other",
    [
        refusal("yes"),
        refusal(status=422),
        refusal(code="c"),
        refusal(kind=Kind.CONTEXT),
        refusal(kind=Kind.POLICY),
        refusal(kind=Kind.TOO_LARGE, status=413),
        Outcome(Kind.OK, 200),
    ],
)
def test_a_different_end_is_the_end_of_a_debut(other: Outcome) -> None:
    debut = Debut(3)
    assert take(debut, refusal(), other, refusal(), refusal(), refusal()) == [True, False, False, False, False]
    assert (debut.over, debut.full) == (True, False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bad (request id: 20260102abc)", "bad (request id: 20260102xyz9)"),
        ("messages.3.content: wrong", "messages.17.content: wrong"),
        ("Field required (trace 5f0c-11)", "field required (trace 9e9-22)"),
    ],
)
def test_what_varies_with_every_request_makes_no_difference(one: str, other: str) -> None:
    debut = Debut(2)
    assert take(debut, refusal(one), refusal(other)) == [True, True]
    assert debut.full


@pytest.mark.parametrize("kind", [Kind.SERVER_ERROR, Kind.RATE_LIMITED, Kind.NETWORK, Kind.TIMEOUT_TOTAL, Kind.TRUNCATED])
def test_what_is_sent_again_says_nothing_yet(kind: Kind) -> None:
    debut = Debut(2)
    assert not debut.take(1, Outcome(kind, 500), False)
    assert take(debut, refusal(), refusal()) == [True, True]


def test_what_is_sent_again_in_a_smaller_form_says_nothing_yet() -> None:
    debut, large = Debut(2), refusal("too large", 413, kind=Kind.TOO_LARGE)
    shrunk = structs.replace(large, instead=chat(1))
    assert [debut.take(line, shrunk, False) for line in range(5)] == [False] * 5
    assert (debut.full, take(debut, large, large), debut.full) == (False, [True, True], True)


def test_a_line_counts_once_however_often_a_page_comes() -> None:
    debut, page = Debut(2), refusal("Login", 200, "not_json", Kind.GARBLED)
    assert [debut.take(1, page, False) for _ in range(5)] == [False] * 5
    assert not debut.full
    debut.take(2, page, False)
    assert debut.full


def test_what_the_server_calls_final_counts_whatever_its_kind() -> None:
    debut, forbidden = Debut(2), Outcome(Kind.SERVER_ERROR, 500, message="do not ask again", final=True)
    assert take(debut, forbidden, forbidden) == [True, True]
    assert debut.full


def test_without_a_number_there_is_no_debut() -> None:
    debut = Debut(0)
    assert take(debut, *[refusal()] * 50) == [False] * 50


# ---- what becomes of the requests ----


def test_refused_alike_from_the_start_stops_the_endpoint_and_fails_nothing() -> None:
    room = room_of(30)
    refuse_all(room)
    assert "Unknown parameter: 'max_tokenz'" in room.stopped
    assert room.stopped.endswith("[E307]")
    assert "--max-alike 0" in room.stopped
    assert (room.sent, failed(room), sorted(open_again(room))) == (6, [], [1, 2, 3, 4, 5, 6]), "two rounds of three"
    assert sorted(request.line for request in room.pending()) == list(range(1, 31))


def test_one_good_answer_tells_that_the_refusals_were_the_lines_own() -> None:
    room = room_of(30)
    assert settle(room, flying(room), REFUSAL) == [None] * 3
    assert (room.open, room.decided) == (30, []), "held back"
    one, *others = flying(room)
    assert isinstance(room.settle(one, GOOD, 1.0, 0.5), Result)
    assert failed(room) == [1, 2, 3]
    assert all(isinstance(each, Result) for each in settle(room, others, REFUSAL)), "no debut any more"


def test_enough_refusals_wait_for_what_is_under_way() -> None:
    """Twenty bad lines at the head of a good file: they are refused at once, while the good ones are still being answered."""
    room = room_of(30, concurrency=8)
    *quick, slow = flying(room)
    settle(room, quick, REFUSAL)
    assert not room.stopped
    assert flying(room) == [], "nothing more is sent meanwhile"
    assert isinstance(room.settle(slow, GOOD, 60.0, 0.5), Result)
    assert (room.stopped, failed(room)) == ("", [1, 2, 3, 4, 5, 6, 7])
    assert len(flying(room)) == 8


def test_a_small_file_fails_line_by_line() -> None:
    room = room_of(4)
    refuse_all(room)
    assert (room.stopped, failed(room), room.open) == ("", [1, 2, 3, 4], 0)


def test_the_last_one_under_way_decides_about_those_held_back() -> None:
    """A source that waits for results before it gives more must not wait for ever."""
    room = room_of(2, concurrency=2)
    first, second = flying(room)
    assert room.settle(first, REFUSAL, 1.0, 0.5) is None
    room.settle(second, Outcome(Kind.SERVER_ERROR, 500), 1.0, 0.5)
    assert room.decided == [], "the second is to be sent again"
    assert isinstance(room.settle(flying(room, now=9.0)[0], GOOD, 9.5, 0.5), Result)
    assert (failed(room), room.open) == ([1], 0)


def test_the_next_endpoint_asks_what_the_first_refused() -> None:
    room = room_of(9, "a", "b")
    refuse_all(room)
    assert room.stopped == ""
    sent = flying(room, "b")
    assert [attempt.request.line for attempt in sent] == [1, 2, 3], "they come before fresh ones"
    settle(room, sent, GOOD)
    while sent := flying(room, "b"):
        settle(room, sent, GOOD)
    assert room.open == 0


def test_a_refused_key_leaves_open_what_was_held_back() -> None:
    room = room_of(9)
    first, *others = flying(room)
    room.settle(first, REFUSAL, 1.0, 0.5)
    while not room.stopped:
        settle(room, others, Outcome(Kind.DENIED, 401, message="bad key"))
        others = flying(room, now=2.0)
    assert (open_again(room), failed(room), room.open) == ([1], [], 9)


def test_at_the_end_of_a_run_what_is_held_back_is_open() -> None:
    room = room_of(9)
    settle(room, flying(room), REFUSAL)
    room.reopen()
    assert (open_again(room), room.open) == ([1, 2, 3], 9)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_each_line_ends_once_or_is_open(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 30))
    room = room_of(total, *data.draw(st.sampled_from(["a", "ab"])), alike=data.draw(st.integers(1, 6)))
    outcomes = [REFUSAL, refusal("other"), GOOD, Outcome(Kind.SERVER_ERROR, 500), refusal("Page", 200, "", Kind.GARBLED)]
    ends: list[int] = []
    for turn in range(400):
        now = turn * 100.0
        for name in "ab"[: len(room.endpoints)]:
            for attempt in flying(room, name, now):
                verdict = room.settle(attempt, data.draw(st.sampled_from(outcomes)) if turn < 40 else GOOD, now, 0.5)
                ends += [attempt.request.line] if isinstance(verdict, Result) else []
                ends += failed(room)
                room.decided.clear()
        if room.stopped or not room.open:
            break
    assert len(ends) == len(set(ends))
    assert sorted([*ends, *(request.line for request in room.pending())]) == list(range(1, total + 1))
    assert room.stopped or not room.open
