"""completion: what each shell makes of the script, asked of the shell itself where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from batchrunner import usage
from batchrunner.cli import main
from batchrunner.completion import SHELLS, flags, script
from batchrunner.report.codes import CODES
from batchrunner.settings import OPTIONS
from batchrunner.verbs import VERBS

OWN = {name: verb.own for name, verb in VERBS.items()}


@pytest.fixture(params=["bash", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not shutil.which(name):
        pytest.skip(f"needs {name}")
    return name


def written(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def offered(shell: str, said: str, folder: Path, *words: str) -> set[str]:
    """What the shell offers for the last word."""
    (folder / "script").write_text(said)
    if shell == "bash":
        line = " ".join(f"'{word}'" for word in words)
        said = "printf '%s\\n' \"${COMPREPLY[@]}\""
        code = f"source ./script; COMP_WORDS=(batchrunner {line}); COMP_CWORD={len(words)}; _batchrunner; {said}"
        argv = ["bash", "--norc", "-c", code]
    else:
        argv = ["fish", "--no-config", "-c", f"source ./script; complete -C 'batchrunner {' '.join(words)}'"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_sound(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = written(name, capsys)
    assert all(option.name.replace("_", "-") in said for option in OPTIONS.values())
    assert all(verb in said for verb in VERBS)
    if shutil.which(name):
        (tmp_path / "script").write_text(said)
        subprocess.run([name, "-n", str(tmp_path / "script")], check=True)


def test_options_and_choices(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = written(shell, capsys)
    assert offered(shell, said, tmp_path, "a.jsonl", "--max-t") == {"--max-time", "--max-timeout", "--max-tokens-total"}
    assert offered(shell, said, tmp_path, "--display", "f") == {"full"}
    assert {"none", "interval", "always"} <= offered(shell, said, tmp_path, "a.jsonl", "--sync", "")


def test_a_verbs_own_options_are_its_own(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = written(shell, capsys)
    assert "--kind" in offered(shell, said, tmp_path, "retry", "--ki")
    assert "--kind" not in offered(shell, said, tmp_path, "status", "--ki")


def test_the_first_word_is_a_verb_or_a_file(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "retries of mine.jsonl").touch()
    said = written(shell, capsys)
    found = {word.replace("\\", "") for word in offered(shell, said, tmp_path, "retr")}
    assert found == {"retry", "retries of mine.jsonl"}


def test_what_follows_a_verb_that_takes_no_file(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = written(shell, capsys)
    assert offered(shell, said, tmp_path, "explain", "E30") == {code for code in CODES if code.startswith("E30")}
    assert offered(shell, said, tmp_path, "completion", "") == set(SHELLS)


def test_files_where_files_belong(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "certificates.pem").touch()
    said = written(shell, capsys)
    assert offered(shell, said, tmp_path, "a.jsonl", "--ca-bundle", "cert") == {"certificates.pem"}


def test_an_equals_sign_in_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """bash takes it for a word of its own."""
    said = written("bash", capsys)
    assert offered("bash", said, tmp_path, "--display", "=", "f") == {"full"}
    assert "full" in offered("bash", said, tmp_path, "--display", "=")


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion"]) == 2


@pytest.mark.parametrize("name", SHELLS)
def test_words_are_quoted_for_their_shell(name: str, tmp_path: Path) -> None:
    """A help text with an apostrophe or a command in it stays a text."""
    if not shutil.which(name):
        pytest.skip(f"needs {name}")
    victim = tmp_path / "victim"
    nasty = f"it's $(touch {victim}) `touch {victim}` \\' : [x]"
    (tmp_path / "script").write_text(script(name, {"run": nasty}, flags(OWN), {"run": [nasty]}))
    subprocess.run(
        [name, "-c", "autoload -U compinit 2>/dev/null; source ./script" if name == "zsh" else "source ./script"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    subprocess.run([name, "-n", "script"], cwd=tmp_path, check=True)
    assert not victim.exists()


def test_every_option_of_files_exists_and_every_verb_has_words() -> None:
    files = {name for flag in flags(OWN) if flag.files for name in flag.names}
    assert {"--output", "--config", "--schema", "--cache", "--report", "--done", "--input"} <= files
    assert not files & {"--model", "--where", "--kind"}
    assert all(len(said) > 10 for said in usage.verbs(VERBS).values())
    assert set(usage.verbs(VERBS)) == set(VERBS)
