"""Texts that are too long: the longest are cut first, evenly, and nothing else changes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.cutting import MARK, Place, cut, level, places

SIZE = len(MARK.encode())


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.integers(-10, 500))
def test_the_level_fills_the_room_and_no_more(sizes: list[int], room: int) -> None:
    most = level(sizes, room)
    if room < 0:
        assert most == -1
    elif sum(sizes) <= room:
        assert most == max(sizes)
    else:
        assert sum(min(size, most) for size in sizes) <= room < sum(min(size, most + 1) for size in sizes)


@pytest.mark.parametrize(("overflow", "text"), [("truncate-head", f"{MARK}6789"), ("truncate-middle", f"01{MARK}89")])
def test_where_it_was_cut_stands_a_mark(overflow: Any, text: str) -> None:
    holder = {"a": "012345" + "x" * 14 + "6789"}
    assert cut([Place(holder, "a")], 24 - SIZE - 4, overflow)
    assert holder["a"] == text


@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=5),
    st.integers(1, 300),
    st.sampled_from(["truncate-head", "truncate-middle"]),
)
def test_what_is_asked_is_cut_or_nothing(texts: list[str], excess: int, overflow: Any) -> None:
    turns = [{"content": text} for text in texts]
    before = sum(len(text.encode()) for text in texts)
    done = cut([Place(turn, "content") for turn in turns], excess, overflow)
    after = [turn["content"] for turn in turns]
    if not done:
        assert after == texts
    else:
        assert sum(len(text.encode()) for text in after) <= before - excess
        assert all(text == old or MARK in text for text, old in zip(after, texts, strict=True))


def test_a_short_turn_stays_whole_beside_a_long_one() -> None:
    turns = [{"content": "short"}, {"content": "x" * 1000}]
    assert cut([Place(turn, "content") for turn in turns], 900, "truncate-head")
    assert turns[0]["content"] == "short"


@pytest.mark.parametrize(
    ("body", "field", "texts"),
    [
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, "messages", ["u"]),
        ({"messages": [{"role": "developer", "content": "s"}, {"role": "assistant", "content": None}]}, "messages", []),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, "odd"]}]},
            "messages",
            ["a"],
        ),
        ({"input": "i"}, "input", ["i"]),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "i"}]}, {"type": "reasoning"}]}, "input", ["i"]),
        ({"prompt": ["a", "b"]}, "prompt", ["a", "b"]),
        ({"input": [1, 2, 3]}, "input", []),
        ({"messages": "odd"}, "messages", ["odd"]),
        ({"messages": 3}, "messages", []),
    ],
)
def test_the_texts_that_may_be_cut(body: dict[str, Any], field: str, texts: list[str]) -> None:
    assert [place.text for place in places(body, field)] == texts
