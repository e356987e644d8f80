"""The order of waiting requests: as they came, the due before the fresh, and at the end of the job the long before the short."""

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.model import Attempt, Kind, Outcome, Timing
from batchrunner.core.queue import Open, Queue
from tests.core.test_scheduler import scheduler, send
from tests.virtual import chat


def queue(*places: tuple[int, int]) -> Queue:
    """Of requests that allow so many tokens and may go to these endpoints."""
    made = Queue()
    for line, (tokens, where) in enumerate(places):
        made.append(Open(chat(line, max_tokens=tokens), line, where))
    return made


def drained(made: Queue) -> list[int]:
    lines = []
    while entry := made.take(list(made.rows), 0.0, fresh_first=False):
        lines.append(entry.request.line)
    return lines


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=30))
def test_the_heavy_go_first_and_those_of_one_weight_as_they_came(places: list[tuple[int, int]]) -> None:
    made = queue(*places)
    made.arrange(lambda request: request.max_tokens)
    assert len(made) == len(places)
    assert drained(made) == sorted(range(len(places)), key=lambda line: (-places[line][0], line))


def test_a_due_retry_still_goes_before_all() -> None:
    made = queue((1, 1), (9, 1))
    late = Open(chat(7), 7, 1)
    made.put_off(late)
    made.arrange(lambda request: request.max_tokens)
    assert drained(made) == [7, 1, 0]


def test_the_scheduler_arranges_when_all_is_here_and_again_as_it_learns() -> None:
    room = scheduler(max_open=100)
    for line in range(20):
        room.offer(chat(line, max_tokens=10, body=b"x" * (8000 if line % 5 == 4 else 40)))
    assert [send(room).request.line for _ in range(2)] == [0, 1], "as they came: more may come"
    room.last = True
    order = []
    for _ in range(17):
        sent = room.next("a", 0.0)
        assert isinstance(sent, Attempt)
        order.append(sent.request.line)
        seconds = 50.0 if len(sent.request.body) > 100 else 1.0
        room.settle(sent, Outcome(Kind.OK, 200, body=b"{}", timing=Timing(0.0, seconds, seconds)), seconds, 0.5)
    assert order[0] == 2, "sizes alone tell less than twice the time"
    assert max(order.index(line) for line in (4, 9, 14, 19)) < 10
    assert [line for line in order if line % 5 != 4] == sorted(line for line in order if line % 5 != 4)
