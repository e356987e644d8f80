"""core.wording: figures as people read them, and that nothing from outside can command the terminal."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core import wording
from batchrunner.core.model import Kind


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0 s"),
        (0.0004, "<1 ms"),
        (0.0114, "11 ms"),
        (0.354, "354 ms"),
        (0.9996, "1.0 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "60 s"),
        (99.4, "99 s"),
        (99.6, "1 m 40 s"),
        (120, "2 m"),
        (744, "12 m 24 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 m"),
        (273600, "3 d 4 h"),
    ],
)
def test_seconds(value: float, said: str) -> None:
    assert wording.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (740, "740"), (999.7, "1.0 k"), (35_400, "35.4 k"), (454_000, "454 k"), (31_000_000, "31.0 M"), (2.5e9, "2.5 G")],
)
def test_amount(value: float, said: str) -> None:
    assert wording.amount(value) == said


@pytest.mark.parametrize(("value", "said"), [(334, "05:34"), (7534, "2:05:34"), (59.7, "01:00"), (0, "00:00")])
def test_clock(value: float, said: str) -> None:
    assert wording.clock(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 req/s"), (0.034, "0.034 req/s"), (46.4, "46.4 req/s"), (3512.2, "3512 req/s")]
)
def test_rate(value: float, said: str) -> None:
    assert wording.rate(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5e8, "476.8 MiB"), (100 << 40, "100 TiB")],
)
def test_size(value: float, said: str) -> None:
    assert wording.size(value) == said


def test_percent_says_all_only_when_all_is_there() -> None:
    assert [wording.percent(999, 1000), wording.percent(1000, 1000), wording.percent(0, 0)] == ["99 %", "100 %", "100 %"]


@given(st.text())
@settings(deadline=None, max_examples=300)
def test_visible_leaves_no_control_character(raw: str) -> None:
    said = wording.visible(raw)
    assert all(unicodedata.category(each)[0] != "C" for each in said)
    said.encode()


@pytest.mark.parametrize(
    "raw", ["\x1b[2J", "\x1b]52;c;aGk=\x07", "a\rb", "\x9b31m", "\u202egnp.exe", "\u2066x", "\udc80", "\x00", "\u200b"]
)
def test_visible_spells_out_commands(raw: str) -> None:
    assert "\\" in wording.visible(raw)


def test_visible_keeps_letters_of_any_script() -> None:
    assert wording.visible("Größe 名前 имя ✓ 😀") == "Größe 名前 имя ✓ 😀"


def test_every_kind_has_words() -> None:
    assert set(wording.WORDS) == set(Kind)
