"""Events known by their bytes say what they say when they are read."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.core import choices
from batchrunner.core.model import Route
from batchrunner.core.refrain import refrain
from batchrunner.core.stream import Assembled, Assembler


def event(said: dict[str, Any], index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": said, "finish_reason": None}
    return json.dumps({"id": "c-1", "model": "m", **more, "choices": [choice]}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


FIRST, LAST = event({"role": "assistant", "content": ""}), b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


def test_words_are_taken_only_where_they_stand_for_themselves() -> None:
    found = refrain(event({"content": "word"}), "word")
    assert found
    assert found.words(event({"content": "other wörds 😀"})) == "other wörds 😀"
    assert found.words(event({"content": 'say "it"'})) == ""
    assert found.words(event({"content": "a\\b"})) == ""
    assert found.words(event({"content": "a"}).replace(b'"a"', b'"\n"')) == ""
    assert found.words(event({"content": "a", "tool_calls": "b"})) == ""
    assert found.words(event({"content": ""})) == ""
    assert found.words(event({"reasoning": "word"})) is None
    assert found.words(event({"content": "word"}, 1)) is None
    assert found.words(event({"content": "word"})[:-1]) is None
    assert found.words(b"") is None
    with pytest.raises(UnicodeDecodeError):
        found.words(event({"content": "a"}).replace(b'"a"', b'"\xff"'))


def test_a_beginning_and_an_end_that_overlap_are_no_event() -> None:
    found = refrain(b'{"a": "x"}', "x")
    assert found
    assert found.words(b'{"a": "}') is None


def test_there_is_no_refrain_where_the_words_stand_twice() -> None:
    assert refrain(event({"content": "m"}), "m") is None
    assert refrain(event({"content": "a\nb"}), "a\nb") is None


def test_words_that_stand_elsewhere_once_are_found_out() -> None:
    """`content` is written with an escape, and the words as they are stand in another place: the proof fails."""
    escaped = event({"content": "m2"}, note="m2").replace(b'"content": "m2"', b'"content": "m\\u0032"')
    answer = Assembler(Route.CHAT)
    answer.hear([FIRST, escaped, escaped.replace(b"m2", b"m3"), LAST])
    assert json.loads(answer.finish().body)["choices"][0]["message"]["content"] == "m2m2"


def test_most_deltas_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    class Reading:
        def decode(self, text: bytes, real: Any = choices.Chat.chunks) -> Any:
            read.append(text)
            return real.decode(text)

    monkeypatch.setattr(choices.Chat, "chunks", Reading())
    answer = Assembler(Route.CHAT)
    answer.hear([FIRST, *(event({"reasoning": f"{number}."}) for number in range(50))])
    answer.hear([event({"content": f"{number},"}) for number in range(50)])
    answer.hear([event({"content": "a"}, obfuscation=f"{number}") for number in range(50)])
    message = json.loads(answer.finish().body)["choices"][0]["message"]
    assert message["reasoning"] == "".join(f"{number}." for number in range(50))
    assert message["content"] == "".join(f"{number}," for number in range(50)) + "a" * 50
    assert len(read) == 2 + 2 + 50 + 6, (
        "the first of each form and its proof; those that never come again, until no more are tried"
    )


def assembled(events: list[bytes]) -> tuple[list[bool], Assembled]:
    answer = Assembler(Route.CHAT, 2)
    return [answer.hear([each]) for each in events], answer.finish()


WORDS = st.text(st.sampled_from('ab m"\\\n\t\u00a0\ud83d\ude00é'), max_size=4)
KEYS = st.sampled_from(["content", "content", "content", "reasoning", "reasoning_content", "refusal"])
MORE = st.sampled_from([{}, {}, {"usage": None}, {"usage": {"prompt_tokens": 1}}, {"obfuscation": "ab"}, {"error": "no"}])
EVENTS = st.lists(
    st.builds(lambda key, words, index, more: event({key: words}, index, **more), KEYS, WORDS, st.integers(0, 1), MORE)
)
EDITS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(60, 130), st.sampled_from([b'"', b"\\", b"\n", b"\xff", b"}", b"x"])), max_size=2
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, EDITS)
@example([event({"content": "word"})] * 3 + [event({"content": 'a"'}), event({"content": "b"})], [])
def test_what_is_known_by_its_bytes_is_what_would_have_been_read(
    events: list[bytes], edits: list[tuple[int, int, bytes]]
) -> None:
    for place, at, byte in edits:
        if place < len(events):
            events[place] = events[place][:at] + byte + events[place][at + 1 :]
    texts = [FIRST, event({"content": ""}, 1), *events, LAST]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "_REFRAINS", 0)
        slowly = assembled(texts)
    assert assembled(texts) == slowly
