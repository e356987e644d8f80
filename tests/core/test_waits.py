"""Every form in which a server says how long to wait."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core import waits

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:50:07 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "20.5"}, 0.0205),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.25"}, 1.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "34s"}, 34.0),
        ({"retry-after": LATER, "date": DATE}, 30.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:50:07 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Sun Nov  6 08:50:07 1994", "date": DATE}, 30.0),
        ({"retry-after": DATE, "date": LATER}, 0.0),
        ({"retry-after": LATER}, None),
        ({"retry-after": "5, 9"}, 9.0),
        ({"retry-after": f"5, {LATER}, {DATE}", "date": DATE}, 30.0),
        ({"retry-after": "2", "retry-after-ms": "900"}, 2.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan, 4"}, 4.0),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert waits.retry_after(headers) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12ms", 0.012),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("59", 59.0),
        ("0", 0.0),
        ("-1", None),
        ("784111807", 30.0),
        ("784111807000", 30.0),
        ("1994-11-06T08:50:07Z", 30.0),
        ("1994-11-06T08:49:36Z", 0.0),
        ("1994-11-06T09:50:07+01:00", 30.0),
        ("nan", None),
        ("inf", None),
        ("tomorrow", None),
    ],
)
def test_reset(value: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_EPOCH", 7e8)  # so that RFC 9110's own example date serves for epochs too
    got = waits.reset({"x-ratelimit-reset-tokens": value, "date": DATE})
    assert got == (None if seconds is None else pytest.approx(seconds))


def test_epochs_of_today_are_points_in_time() -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1_700_000_000
    assert waits.reset({"x-ratelimit-reset": "1700000060", "date": date}) == 60.0
    assert waits.reset({"x-ratelimit-reset": "1700000060000", "date": date}) == 60.0
    assert waits.reset({"x-ratelimit-reset": "1700000060"}) is None


def test_only_a_budget_that_is_used_up_makes_us_wait() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "900",
        "x-ratelimit-reset-requests": "5h",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    assert waits.reset(headers) == pytest.approx(7.66)
    assert waits.reset({"anthropic-ratelimit-tokens-reset": "1994-11-06T08:50:07Z", "date": DATE}) == 30.0
    assert waits.reset({"anthropic-ratelimit-tokens-remaining": "5", "anthropic-ratelimit-tokens-reset": "9"}) is None


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Please try again in 1.2s.", 1.2),
        ("try again in 20ms", 0.02),
        ("Please try again in 6m0s. Visit", 360.0),
        ("try again in 8m24.5s", 504.5),
        ("Please retry after 22 seconds.", 22.0),
        ("Please wait 3 minutes", 180.0),
        ("retry in 1 minute and 30 seconds", 90.0),
        ("Try again in 34.07s, or wait 1h", 3600.0),
        ("try again in 12", None),
        ("used 30s of audio", None),
        ("try again later", None),
    ],
)
def test_spoken(message: str, seconds: float | None) -> None:
    assert waits.spoken(message) == (None if seconds is None else pytest.approx(seconds))


def test_the_largest_of_everything_said_counts() -> None:
    assert waits.asked({"retry-after": "2"}, ["34s"], "try again in 5s") == 34.0
    assert waits.asked({"retry-after": "2"}, ["nonsense"], "try again in 5s") == 5.0
    assert waits.asked({}) is None


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset", "x-ratelimit-remaining"]), st.text()
    ),
    st.lists(st.text()),
    st.text(),
)
def test_nonsense_never_raises_and_never_becomes_a_wait_without_end(
    headers: dict[str, str], delays: list[str], text: str
) -> None:
    for wait in (waits.asked(headers, delays, f"try again in {text}"), waits.reset(headers)):
        assert wait is None or (math.isfinite(wait) and 0.0 <= wait <= waits.LONGEST)
