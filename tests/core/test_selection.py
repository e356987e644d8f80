"""Conditions say what they seem to say and cannot fail on a line; pieces share the input out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.selection import array_piece, belongs, condition, names_of, piece

LINE = {
    "custom_id": "r-7",
    "line": 7,
    "body": {"model": "x", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}], "deep": {"a": {"b": None}}},
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('body.model == "x"', True),
        ("body.model != 'x'", False),
        ("body.max_tokens > 99 and line < 8", True),
        ("body.max_tokens > 100 or line == 7", True),
        ("not body.stream", True),
        ("body.stream == null", True),
        ("body.stream is None", True),
        ("body.deep.a.b.c.d == null", True),
        ('body.messages[0].content == "Hello"', True),
        ('body.messages[-1]["role"] == "user"', True),
        ("body.messages[4].role == null", True),
        ('"ell" in body.messages[0].content', True),
        ('custom_id in ["r-1", "r-7"]', True),
        ("custom_id not in ('r-1', 'r-7')", False),
        ("1 < line <= 7", True),
        ("line > -1", True),
        ("body.model > 3", False),
        ("3 in line", False),
        ("body.missing > 3", False),
        ("custom_id == true", False),
        ("body", True),
    ],
)
def test_conditions(text: str, fits: bool) -> None:
    fitting = condition(text)
    assert fitting is not None
    assert fitting(LINE) is fits


def test_no_condition() -> None:
    assert condition("") is None
    assert condition("  ") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("line > 3 and custom_id != null", {"custom_id"}),
        ("body.model == m", {"body", "m"}),
        ("not (draft or [0, body] == true)", {"draft", "body"}),
        ("body['lien'].foo == 'bar' or None", {"body"}),
    ],
)
def test_names_in_a_condition(text: str, names: set[str]) -> None:
    assert names_of(text) == names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('body.model = "x"', "write =="),
        ("body.model ==", "no condition"),
        ("__import__('os')", "may not hold"),
        ("custom_id.startswith('r')", "may not hold"),
        ("[x for x in body]", "may not hold"),
        ("(lambda: 1)", "may not hold"),
        ("line + 1 == 2", "may not hold"),
        ("-body.model", "may not hold"),
        ("body[line]", "brackets"),
        ("body[0:1]", "brackets"),
        ("f'{line}' == '1'", "may not hold"),
        ("not " * 60 + "line", "so much"),
        ("(" * 500 + "line" + ")" * 500, "no condition"),
        ("line\0", "no condition"),
    ],
)
def test_what_is_no_condition(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        condition(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "model"]), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["body", "custom_id", "line"]), VALUES))
def test_no_line_makes_a_condition_fail(line: dict[str, Any]) -> None:
    for text in (
        'body.model == "x"',
        "body.a.b > 3",
        "'q' in custom_id",
        "body[0].a <= line",
        "line in [1, body.b]",
        "custom_id < 3",
    ):
        fits = condition(text)
        assert fits is not None
        assert fits(line) in {True, False}


# ---- pieces ----


def test_pieces() -> None:
    assert piece("") is None
    assert piece("3/8") == (3, 8)
    for wrong in ("0/8", "9/8", "3", "3/", "a/b", "3/0", "-1/8"):
        with pytest.raises(ValueError, match=r"I/N|no piece"):
            piece(wrong)


@given(st.lists(st.text()), st.integers(1, 9))
def test_every_line_belongs_to_one_piece(names: list[str], count: int) -> None:
    for name in names:
        assert sum(belongs(name, (index, count)) for index in range(1, count + 1)) == 1


SLURM = {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5"}


@pytest.mark.parametrize(
    ("text", "environ", "found"),
    [
        ("3/8", SLURM, "3/8"),
        ("auto", SLURM, "3/5"),
        ("auto/7", SLURM, "3/7"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "0"}, "1/4"),
    ],
)
def test_the_piece_of_an_array_task(text: str, environ: dict[str, str], found: str) -> None:
    assert array_piece(text, environ) == found


@pytest.mark.parametrize(("environ", "why"), [({}, "knows neither"), ({"JOB_COMPLETION_INDEX": "0"}, "how many")])
def test_what_an_array_does_not_tell(environ: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        array_piece("auto", environ)
