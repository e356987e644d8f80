"""The documents are true: their commands run, their snippets run, their tables are those of the code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batchrunner.core.classify import TREATMENT
from batchrunner.settings import OPTIONS
from tests.docs import README, ROOT, with_options

TEXT = README.read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def fenced(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def known_flags() -> set[str]:
    """Every flag that some command accepts, as the full help lists them."""
    said = subprocess.run([sys.executable, "-m", "batchrunner", "--help"], capture_output=True, text=True, check=True)
    return set(FLAG.findall(said.stdout)) | {f"--no-{name.replace('_', '-')}" for name in OPTIONS}


def test_the_option_table_is_that_of_the_code() -> None:
    assert with_options(TEXT) == TEXT, "run: python -m tests.docs"


def test_every_flag_the_texts_name_exists() -> None:
    texts = [path.read_text() for path in ROOT.glob("*.md")] + [row.hint for row in TREATMENT.values()]
    texts = [re.sub(r"^ *pip .*$", "", text, flags=re.MULTILINE) for text in texts]
    named = {flag for text in texts for flag in FLAG.findall(text)}
    assert named <= known_flags() | {"--rounds", "--markdown", "--rivals"}


def test_every_file_the_texts_link_to_exists() -> None:
    for path in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (ROOT / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_run(number: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.results.jsonl", "*.errors.jsonl", "*.run"))
    (tmp_path / "out").mkdir()
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]], cwd=tmp_path, capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr


def test_the_first_command_runs_in_a_fresh_checkout(tmp_path: Path) -> None:
    """What stands behind `pip install -e . &&`; .ci/run does the installing."""
    first = next(line for line in fenced("sh")[0].splitlines() if "jobs/input.jsonl" in line)
    command = first.split("&&")[1].split("#")[0]
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.results.jsonl", "*.errors.jsonl", "*.run"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, *shlex.split(command)[1:], "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 200
    assert "simulated" in done.stderr
    lines = (tmp_path / "jobs" / "input.results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["custom_id"] for line in lines}) == 200


def test_the_test_command_is_the_one_ci_calls() -> None:
    assert "scripts/check" in fenced("sh")[0]
    assert "scripts/check" in (ROOT / ".ci" / "run").read_text()
