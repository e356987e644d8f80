"""explain: every code in use has its long answer, and what it tells people to type exists."""

import re
from pathlib import Path

import pytest

from batchrunner.cli import main
from batchrunner.core.endpoints import CODES as REFUSALS
from batchrunner.core.model import Kind
from batchrunner.core.treatment import HOPELESS, REFUSED, TREATMENT
from batchrunner.report.codes import CODES
from batchrunner.report.explaining import explained, listing
from batchrunner.report.topics import TOPICS
from batchrunner.settings import OPTIONS
from batchrunner.verbs import VERBS

PACKAGE = Path(__file__).parent.parent / "batchrunner"
FLAGS = {flag for option in OPTIONS.values() for flag in option.flags} | {flag for verb in VERBS.values() for flag in verb.own}
FLAGS |= {"--help", "--config"}


def codes_in(text: str) -> set[str]:
    return set(re.findall(r"\bE[0-9]{3}\b", text))


def test_the_table_holds_the_codes_in_use_and_no_other() -> None:
    rooms = [path for path in PACKAGE.rglob("*.py") if path.name != "codes.py"]
    assert set().union(*(codes_in(path.read_text()) for path in rooms)) - {"E000"} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_each_explanation_says_what_why_and_what_to_do(code: str) -> None:
    said = explained(code, 80)
    assert said.startswith(f"{code}  {CODES[code].means}\n")
    assert said.count("→") == len(CODES[code].steps) > 0
    assert max(map(len, said.splitlines()[1:])) <= 80
    assert explained(code.lower(), 80) == said


def test_what_is_to_be_typed_exists() -> None:
    said = "\n".join(step for code in CODES.values() for step in (code.why, *code.steps))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said))
    assert named
    assert named <= FLAGS
    assert set(re.findall(r"batchrunner ([a-z]+)\b", said)) <= set(VERBS)


def test_topics_name_options_that_exist() -> None:
    lines = [line for _, text in TOPICS.values() for line in text.splitlines() if not line.startswith(("#SBATCH", "jq "))]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(lines))) <= FLAGS
    assert max(map(len, lines)) <= 130


def test_a_topic_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "Slurm"]) == 0
    assert capsys.readouterr().out == TOPICS["slurm"][1] + "\n"
    assert all(f"  {topic} " in listing() for topic in TOPICS)


def test_a_refusal_that_stops_an_endpoint_has_a_code() -> None:
    assert set(REFUSALS) == {kind for kind, treatment in TREATMENT.items() if treatment.health in REFUSED}
    assert set(REFUSALS.values()) <= set(CODES)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.OK])
def test_kinds_are_explained_by_what_is_done_about_them(kind: Kind) -> None:
    said = explained(kind)
    assert said.startswith(f"{kind}  ")
    assert " ".join(TREATMENT[kind].hint.split()) in " ".join(said.split())
    assert ("sent again            no" in said) == (not TREATMENT[kind].again)


RESUMED = frozenset({Kind.QUOTA, Kind.QUOTA_WINDOW, Kind.CANCELLED})
"""Kinds that leave a line open, so that the same command asks it again."""


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.OK])
def test_a_hint_says_what_asks_a_failed_line_again(kind: Kind) -> None:
    """The same command does not: what failed has its record. And a retry leaves what is hopeless, unless it is named."""
    said = TREATMENT[kind].hint
    assert ("run the same command again" in said) == (kind in RESUMED)
    assert "run again" not in said
    if kind in HOPELESS and "retry" in said:
        assert f"retry --kind {kind}" in said
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) <= FLAGS


def test_what_a_treatment_says_in_words() -> None:
    assert re.search(r"sent again +yes, at most 2 times", explained("stale"))
    assert re.search(r"sent again +by another endpoint", explained("quota"))
    assert re.search(r"sent again +once, when others", explained("denied"))
    assert re.search(r"uses up an attempt +no", explained("rate_limited"))
    assert re.search(r"the concurrency limit +lowers it", explained("rate_limited"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E301"]) == 0
    assert capsys.readouterr().out.startswith("E301  the endpoint refused the key\n")
    assert main(["explain"]) == 0
    assert capsys.readouterr().out == listing() + "\n"
    assert main(["explain", "e3O1"]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "[E002]" in refused.err
    assert main(["explain", "timeout_frist_byte"]) == 2
    assert "Did you mean timeout_first_byte?" in capsys.readouterr().err


def test_the_listing_is_complete() -> None:
    assert codes_in(listing()) == set(CODES)
    assert all(f"  {kind} " in listing() for kind in Kind if kind is not Kind.OK)
