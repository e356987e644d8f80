"""What the endpoint's own headers say is left, and how long that makes requests wait."""

from bisect import insort
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core import allowance
from batchrunner.core.allowance import Allowance, told
from batchrunner.core.model import Left

N, Z = "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({}, ()),
        ({"x-request-id": "r"}, ()),
        ({N: "499", Z: "12ms"}, (Left("requests", 499.0, 0.012),)),
        ({N: "499", Z: "6m0s"}, (Left("requests", 499.0, 360.0),)),
        ({N: "5", Z: "59"}, (Left("requests", 5.0, 59.0),)),
        ({N: "499"}, ()),
        ({Z: "12ms"}, ()),
        ({N: "-1", Z: "0"}, ()),
        ({N: "nan", Z: "1s"}, ()),
        ({N: "inf", Z: "1s"}, ()),
        ({N: "many", Z: "1s"}, ()),
        ({N: "5", Z: "soon"}, ()),
        ({N: "5", Z: "-1"}, ()),
        (
            {"x-ratelimit-remaining-tokens": "29000", "x-ratelimit-reset-tokens": "2.5s", N: "9", Z: "1s"},
            (Left("requests", 9.0, 1.0), Left("tokens", 29000.0, 2.5)),
        ),
        (
            {
                "date": DATE,
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "1994-11-06T08:49:40Z",
                "anthropic-ratelimit-output-tokens-remaining": "8000",
                "anthropic-ratelimit-output-tokens-reset": "1994-11-06T08:49:36Z",
            },
            (Left("requests", 49.0, 3.0), Left("output-tokens", 8000.0, 0.0)),
        ),
        ({"anthropic-ratelimit-requests-remaining": "49", "anthropic-ratelimit-requests-reset": "1994-11-06T08:49:40Z"}, ()),
    ],
)
def test_what_an_answer_says(headers: dict[str, str], left: tuple[Left, ...]) -> None:
    assert told(headers) == left


@given(
    st.dictionaries(st.sampled_from([*allowance._FIRST, *(each[2] for each in allowance._HEADERS), "date"]), st.text(max_size=30))
)
def test_whatever_it_says_is_a_number_or_nothing(headers: dict[str, str]) -> None:
    for left in told(headers):
        assert 0.0 <= left.remaining < inf
        assert 0.0 <= left.reset < inf


class Served:
    """A bucket, and what is left of its allowance as one client sees it. An answer comes `latency` after its request.

    Every other request is on its `way` to it for so long.
    """

    def __init__(
        self, rate: float, size: float, latency: float = 0.3, counted: bool = True, each: float = 1.0, way: float = 0.0
    ) -> None:
        self.rate, self.size, self.latency, self.each = rate, size, latency, each
        self.way = way
        self.level, self.now, self.line = size, 0.0, 0
        self.others = 0.0  # units a second
        self.refused = self.sent = 0
        self.going: list[tuple[float, int, float]] = []
        self.coming: list[tuple[float, int, float, Left]] = []
        self.allowance = Allowance(counted)

    def run(self, seconds: float, most: int = 256) -> float:
        """Send whatever may go out, each hundredth of a second. The rate that was let in."""
        end, before = self.now + seconds, self.sent
        while self.now < end:
            self.now += 0.01
            self.level = min(self.size, self.level + 0.01 * (self.rate - self.others))
            while self.coming and self.coming[0][0] <= self.now:
                _, line, started, left = self.coming.pop(0)
                self.allowance.hear(line, started, left)
            while len(self.coming) + len(self.going) < most and self.allowance.wait(self.now) == 0.0:
                self.line += 1
                self.allowance.take(1.0, self.line, self.now)
                self.going.append((self.now + self.way * (self.line % 2), self.line, self.now))
                self._let_in()
            self._let_in()
        return (self.sent - before) / seconds

    def _let_in(self) -> None:
        for here in [each for each in self.going if each[0] <= self.now]:
            self.going.remove(here)
            _, line, started = here
            if self.level < self.each:
                self.refused += 1
                self.allowance.drop(line, refused=True)
                continue
            self.level -= self.each
            self.sent += 1
            full = round((self.size - self.level) / self.rate, 3)
            left = Left("requests", float(int(self.level)), full)
            insort(self.coming, (self.now + self.latency, line, started, left), key=lambda each: each[0])


@pytest.mark.parametrize(
    ("rate", "seconds", "latency"), [(400.0, 1.0, 0.1), (400.0, 5.0, 0.3), (50.0, 60.0, 2.0), (100.0, 2.0, 1.0)]
)
def test_a_limit_that_is_told_is_used_up_and_never_met(rate: float, seconds: float, latency: float) -> None:
    served = Served(rate, rate * seconds, latency)
    served.run(2.0, most=16)
    served.run(2.0, most=64)
    served.run(60.0 + seconds)
    assert served.refused == 0
    assert served.run(10.0) == pytest.approx(rate, rel=0.03)
    assert served.allowance.rate == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("way", [0.03, 0.1, 0.2])
def test_the_first_of_those_that_overtake_others_is_not_believed(way: float) -> None:
    """What it tells is not yet gone for those that were sent before it."""
    served = Served(150.0, 150.0, latency=0.1, way=way)
    served.run(0.2, most=16)
    served.run(0.2, most=64)
    served.run(10.0)
    assert served.refused == 0
    assert served.run(10.0) == pytest.approx(150.0, rel=0.03)


def test_what_ran_over_in_a_pause_does_not_count_as_used_by_others() -> None:
    served = Served(100.0, 100.0)
    served.run(2.0, most=16)
    served.run(10.0)
    served.run(5.0, most=0)
    served.run(2.0, most=1)
    assert served.run(5.0) >= 100.0, "what came back in the pause is used up, and no time is lost"


def test_what_others_use_is_left_to_them() -> None:
    served = Served(400.0, 400.0)
    served.run(2.0, most=16)
    served.run(10.0)
    served.others = 200.0
    served.run(5.0)
    refused = served.refused
    assert served.run(20.0) == pytest.approx(200.0, rel=0.05)
    assert served.refused <= refused + 2
    served.others = 0.0
    served.run(5.0)
    assert served.run(10.0) == pytest.approx(400.0, rel=0.05)


@pytest.mark.parametrize("each", [0.05, 30.0])
def test_the_endpoint_may_count_otherwise_than_we_do(each: float) -> None:
    """Units that are not those of the header: what a token allowance takes for a request is not known before."""
    served = Served(100.0 * each, 2000.0 * each, counted=False, each=each)
    served.run(3.0, most=16)
    served.run(60.0)
    refused = served.refused
    assert served.run(20.0) == pytest.approx(100.0, rel=0.05)
    assert served.refused == refused


def test_answers_that_say_nothing_leave_everything_as_it_is() -> None:
    allowance = Allowance()
    for line in range(1000):
        assert allowance.wait(float(line)) == 0.0
        allowance.take(1.0, line, float(line))
        allowance.drop(line)
    assert allowance.rate == inf
    assert not allowance._sent


@pytest.mark.parametrize("left", [(0.0, 1.0), (0.0, 86400.0), (99_999_999.0, 0.001)])
def test_the_same_of_every_answer_holds_nothing_back(left: tuple[float, float]) -> None:
    allowance = Allowance()
    for line in range(1000):
        assert allowance.wait(line / 100) == 0.0
        allowance.take(1.0, line, line / 100)
        allowance.hear(line, line / 100, Left("requests", *left))
    assert allowance.rate == inf
