"""Templates: names in braces, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.template import Template

PLAIN = st.text(st.characters(exclude_characters="{}"), max_size=20)
NAMES = st.text(st.characters(exclude_characters="{}"), min_size=1, max_size=8)


def test_names_are_taken_as_they_stand() -> None:
    template = Template.of("{a}: {x.__class__} {y[0]} {z!r:>9} {Full Name}")
    assert template.columns == ("a", "x.__class__", "y[0]", "z!r:>9", "Full Name")


def test_doubled_braces_are_braces() -> None:
    assert Template.of('{{"a": {a}}}').filled({"a": "{b}"}) == '{"a": {b}}'


@pytest.mark.parametrize(("text", "at"), [("a {b", 3), ("a }", 3), ("{}", 1), ("{a{b}}", 1), ("{{{", 3), ("}}}", 3)])
def test_a_brace_that_stands_alone_is_refused_by_its_place(text: str, at: int) -> None:
    with pytest.raises(ValueError, match=rf"on its own at character {at};"):
        Template.of(text)


def test_a_missing_value_is_no_empty_one() -> None:
    with pytest.raises(KeyError):
        Template.of("{a}").filled({})


@given(st.lists(st.tuples(PLAIN, NAMES), max_size=6), st.text(max_size=20), st.text(max_size=9))
def test_any_text_comes_back_as_it_was_meant(parts: list[tuple[str, str]], last: str, value: str) -> None:
    written = "".join(f"{text}{{{name}}}" for text, name in parts) + last.replace("{", "{{").replace("}", "}}")
    template = Template.of(written)
    assert template.columns == tuple(name for _, name in parts)
    assert template.filled(dict.fromkeys(template.columns, value)) == "".join(text + value for text, _ in parts) + last
