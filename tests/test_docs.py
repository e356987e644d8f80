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

from batchrunner.cli import main
from batchrunner.core.treatment import TREATMENT
from batchrunner.paths import Paths
from batchrunner.report.topics import TOPICS
from batchrunner.settings import OPTIONS
from batchrunner.spooling import KEPT
from tests.docs import README, ROOT, with_options

TEXT = README.read_text()
CHINESE = (ROOT / "README.zh.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def fenced(kind: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def known_flags() -> set[str]:
    """Every flag that some command accepts, as the full help lists them."""
    said = subprocess.run([sys.executable, "-m", "batchrunner", "--help"], capture_output=True, text=True, check=True)
    return set(FLAG.findall(said.stdout)) | {f"--no-{name.replace('_', '-')}" for name in OPTIONS}


def test_the_option_table_is_that_of_the_code() -> None:
    assert with_options(TEXT) == TEXT, "run: python -m tests.docs"


def test_every_flag_the_texts_name_exists() -> None:
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), ROOT / "llms.txt")] + [row.hint for row in TREATMENT.values()]
    texts = [re.sub(r"^ *pip .*$", "", text, flags=re.MULTILINE) for text in texts]
    named = {flag for text in texts for flag in FLAG.findall(text)}
    assert named <= known_flags() | {"--rounds", "--markdown", "--rivals", "--brief", "--seeds"}


def test_every_file_the_texts_link_to_exists() -> None:
    for path in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (ROOT / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_snippets_run(number: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.results.jsonl", "*.errors.jsonl", "*.run"))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]], cwd=tmp_path, capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr


def test_the_snippets_are_typed_as_strictly_as_we_say(tmp_path: Path) -> None:
    files = [tmp_path / f"snippet_{number}.py" for number in range(len(SNIPPETS))]
    for file, snippet in zip(files, SNIPPETS, strict=True):
        file.write_text(snippet)
    environ = {**os.environ, "MYPYPATH": str(ROOT)}
    words = [sys.executable, "-m", "mypy", "--strict", *map(str, files)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr


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


def commands(text: str = TEXT) -> list[list[str]]:
    """What follows the word batchrunner in every shell command of the README, in order; endpoints are the embedded one."""
    lines = [line.partition("  #")[0] for block in fenced("sh", text)[1:] for line in block.splitlines()]
    said = [line.partition("batchrunner ")[2] for line in lines if "batchrunner " in line and not line.startswith("cat ")]
    return [shlex.split(re.sub(r"--base-url https?://\S+", "--base-url simulated", each)) for each in said]


def answered(line: str) -> str:
    """A record of the batch service that answers this line."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    response = {"status_code": 200, "request_id": "r", "body": {"object": "chat.completion", "choices": [choice]}}
    return json.dumps({"id": "x", "custom_id": json.loads(line)["custom_id"], "response": response, "error": None}) + "\n"


def test_the_commands_run_in_the_order_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.results.jsonl", "*.errors.jsonl", "*.run"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHRUNNER_BASE_URL", "simulated")
    lines = (ROOT / "jobs" / "input.jsonl").read_text().splitlines(keepends=True)[:40]
    for name in ("prompts.jsonl", "batch.jsonl"):
        Path(name).write_text("".join(lines))
    Path("output.jsonl").write_text(answered(lines[0]))
    Path("errors.jsonl").touch()
    for name, line in zip(("a.results.jsonl", "b.results.jsonl"), lines, strict=False):
        Path(name).write_text(answered(line))
    assert len(commands()) >= 20
    for words in commands():
        code = main([word.replace("~", str(tmp_path)) for word in words])
        said = capsys.readouterr()
        assert "error:" not in said.err, (words, said.err)
        assert code in {0, 1, 3}, (words, said)


def figures(text: str) -> list[list[str]]:
    """What the tables of measurements hold, row by row, whatever their rows are called."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")[1:]] for line in text.splitlines() if line.startswith("|"))
    measured = (cells for cells in rows if all(re.match(r"[>\d]|$", cell) for cell in cells))
    return [re.findall(r"\d+(?:[.,]\d+)*", " ".join(cells)) for cells in measured]


def test_the_chinese_readme_says_nothing_else() -> None:
    known, told = commands(), commands(CHINESE)
    assert len(told) >= 20
    assert [words for words in told if words not in known] == []
    assert fenced("python", CHINESE) == SNIPPETS
    assert figures(CHINESE) == figures(TEXT.partition("<!-- options")[0])


def test_the_topics_it_names_exist() -> None:
    assert {"files", "systemd", "slurm", "kubernetes", "monitoring"} == set(TOPICS)
    assert all(topic in TEXT and topic in CHINESE for topic in TOPICS)


def test_explain_files_names_all_that_a_job_may_leave() -> None:
    paths = Paths.of(Path("prompts.jsonl"))
    own = [getattr(paths, name).name for name, each in vars(Paths).items() if isinstance(each, property)]
    assert {"lock", "torn", "earlier", "batches"} < set(own)
    told = TOPICS["files"][1]
    assert [name for name in (*own, paths.results.name, paths.errors.name, KEPT) if not re.search(rf"\b{name}\b", told)] == []


def test_the_test_command_is_the_one_ci_calls() -> None:
    assert "scripts/check" in fenced("sh")[0]
    assert "scripts/check" in (ROOT / ".ci" / "run").read_text()
