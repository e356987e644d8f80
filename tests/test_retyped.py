"""What the next command says again: whatever was given by hand and is not about showing, and no secret."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchrunner
from batchrunner import cli
from batchrunner.cli import main
from batchrunner.masking import SECRETIVE
from batchrunner.retyped import by_hand, hides, words
from batchrunner.settings import OPTIONS
from batchrunner.simulator import Profile, Simulator
from tests.crash import served

OPEN = sorted(OPTIONS.keys() - SECRETIVE)


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    rows = [batchrunner.chat(f"question {n}", model="m", id=f"r-{n}") for n in range(20)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(Simulator(Profile())) as simulator:
        yield simulator


def next_of(said: str) -> list[str]:
    """The command after the word `next`, without its program and what it does."""
    line = next(line for line in said.splitlines() if line.startswith("  next"))
    return shlex.split(line.partition("     ")[2].strip().partition("     ")[0])[1:]


@pytest.mark.parametrize("name", OPEN)
def test_what_was_typed_is_typed_again_unless_it_only_shows(name: str) -> None:
    kind = OPTIONS[name].type
    for value in {bool: [True, False], tuple: [["a=1", "-b"]]}.get(kind, ["2 x", "-1"]):
        again = cli._call(["a.jsonl", *words({name: value})])[0]
        shown = OPTIONS[name].group == "Show" or name == "fresh"
        assert (again.words, again.typed) == (("a.jsonl",), {} if shown else {name: value})


@pytest.mark.parametrize("name", OPEN)
def test_what_was_typed_for_a_check_is_typed_for_the_run(name: str) -> None:
    value: object = {bool: True, tuple: ["a=1"]}.get(OPTIONS[name].type, "2 x" if name != "dashboard" else "2")
    again = cli._call(["a.jsonl", *words({name: value}, run=False)])[0]
    assert again.typed == {name: value}


def test_a_check_says_how_to_run_what_it_has_checked(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--base-url", sim.url, "--fresh", "--max-cost", "3", "--price", "m=1/2", "--report", "page.html", "-q"]
    assert main(["a.jsonl", "--base-url", sim.url, "--display", "none"]) == 0
    capsys.readouterr()
    assert main(["check", "a.jsonl", *typed]) == 0
    said = capsys.readouterr().out
    assert "done before" not in said, "for that is forgotten"
    command = said.partition("To run it: ")[2]
    assert cli._call(shlex.split(command)[1:])[0] == cli._call(["a.jsonl", *typed])[0]


def test_no_secret_is_typed_again() -> None:
    given = {"header": ["Key=hunter2"], "proxy": "http://u:hunter2@p:1", "base_url": ["http://h/v1?key=hunter2", "http://i"]}
    assert words(given) == (
        *("--header", "Key=…", "--proxy", "http://…@p:1"),
        *("--base-url", "http://h/v1?key=…", "--base-url", "http://i"),
    )
    assert hides(given)
    assert not hides({"base_url": ["http://i"], "prompt": "and so on …"})


@pytest.mark.parametrize("option", [["--header", "Key=…"], ["--proxy", "http://…@p:1"], ["--base-url", "http://h/v1?key=…"]])
def test_a_mask_is_never_sent(option: list[str], sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a.jsonl", "--base-url", sim.url, *option]) == 2
    assert "holds … for something that is not shown" in capsys.readouterr().err


def test_the_next_command_keeps_the_caps(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    caps = ["--max-cost", "0.000001", "--price", "*=1/1", "--max-failures", "5%", "--ordered", "--header", "X-Team=red"]
    assert main(["a.jsonl", "--base-url", sim.url, "-c", "1", "--display", "none", *caps]) == 3
    out = capsys.readouterr().out
    assert next_of(out) == ["a.jsonl", "--base-url", sim.url, "-c", "1", *caps[:-1], "X-Team=…"]
    assert "put in what … stands for" in out


def test_status_says_the_command_of_the_last_run(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["a.jsonl", "--base-url", sim.url, "--limit", "7", "--timeout", "90", "--max-cost", "5", "--price", "*=1/1"]
    for _ in range(2):
        assert main([*typed, "--display", "none"]) == 0
        capsys.readouterr()
        assert main(["status", "a.jsonl", "--timeout", "2m"]) == 3
        said = capsys.readouterr().out
        typed = next_of(said)
    assert {typed[at]: typed[at + 1] for at in range(1, len(typed), 2)} == {
        "--base-url": sim.url,
        "--limit": "7",
        "--timeout": "2m",
        "--max-cost": "5",
        "--price": "*=1/1",
    }
    assert "14 of 20 done" in said


async def test_a_program_is_told_the_command_that_does_the_same(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    runner = batchrunner.Runner(base_url=sim.url, max_cost=5, price=["*=1/1"], limit=7)
    assert (await runner.run("a.jsonl", "b.jsonl")).summary.pending == 13
    command = f"batchrunner a.jsonl -o b.jsonl --limit 7 --base-url {sim.url} --price &#x27;*=1/1&#x27; --max-cost 5"
    assert command in re.sub("</?span>", "", Path("b.run/report.html").read_text())
    main(["status", "a.jsonl", "-o", "b.jsonl"])
    assert next_of(capsys.readouterr().out)[1:5] == ["-o", "b.jsonl", "--limit", "7"]


def test_figures_and_files_are_named_as_one_may_type_them() -> None:
    numbers = {"max_cost": 1e-6, "max_time": 7200.0}
    assert words(numbers) == ("--max-cost", "0.000001", "--max-time", "7200")
    settings = {"rpm": 60, "tpm": 9, "model": "m", "rpd": 3}
    origins = {"rpm": "command line", "tpm": "file mine.toml", "model": "file batchrunner.toml", "rpd": "environment X"}
    assert words(by_hand(settings, origins)) == ("--rpm", "60", "--config", "mine.toml")
