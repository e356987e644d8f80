"""A run is about the lines that it is told to be about: by a condition, or as one shard of several."""

import json
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.cli import main
from batchrunner.errors import UsageError
from tests.crash import chat

COUNT = 30


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Path("a.jsonl").write_text("".join(json.dumps(chat(number)) + "\n" for number in range(COUNT)) + "nonsense\n")


def ids(path: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in Path(path).read_text().splitlines()]


async def test_lines_that_do_not_fit_stay_pending() -> None:
    report = await batchrunner.run("a.jsonl", base_url="simulated", where="line <= 4 or line == 9")
    assert (report.summary.total, report.summary.succeeded, report.summary.pending) == (COUNT + 1, 5, COUNT - 4)
    rest = await batchrunner.run("a.jsonl", base_url="simulated")
    assert (rest.summary.succeeded, rest.summary.invalid, rest.summary.pending) == (COUNT, 1, 0)


@pytest.mark.parametrize("command", [["run"], ["run", "-o", "-"], ["check"]])
@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ("lien > 3", "Did you mean line?"),
        ("foo", "The first line has: custom_id, method, url, body, line"),
        ("body.model == m", 'A text stands in quotation marks: "m"'),
    ],
)
def test_a_name_that_no_line_has_is_refused(
    command: list[str], condition: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *more = command
    assert main([verb, "a.jsonl", "--base-url", "simulated", "--where", condition, *more]) == 2
    out, err = capsys.readouterr()
    assert "no line has a field" in err
    assert hint in err
    assert not out


def test_a_name_that_one_line_has_is_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("a.jsonl").open("a") as file:
        file.write(json.dumps(chat(COUNT) | {"draft": True}) + "\n")
    assert main(["a.jsonl", "--base-url", "simulated", "--where", "draft", "--display", "none"]) == 0
    assert ids("a.results.jsonl") == [chat(COUNT)["custom_id"]]


async def test_rows_that_are_kept_are_looked_at_for_names_as_well() -> None:
    rows = [batchrunner.chat("Hi", model="x", id="x")]
    with pytest.raises(UsageError, match="no line has a field 'lien'"):
        await batchrunner.gather(rows, "x.jsonl", base_url="simulated", where="lien > 3")
    with pytest.raises(UsageError, match="no line has a field 'm'"):
        await batchrunner.gather("a.jsonl", base_url="simulated", where="body.model == m")


async def test_without_a_line_that_can_be_read_no_name_is_strange() -> None:
    Path("a.jsonl").write_text("nonsense\n[1, 2]\n")
    report = await batchrunner.run("a.jsonl", base_url="simulated", where="lien > 3")
    assert (report.succeeded, report.pending) == (0, 2)


def test_check_says_that_no_line_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.jsonl", "--where", "body.modle == 'x'"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "no line fits --where"


async def test_the_limit_counts_what_fits() -> None:
    report = await batchrunner.run("a.jsonl", base_url="simulated", where="line > 10", limit=3)
    assert report.summary.succeeded == 3
    assert {json.loads(line)["batchrunner"]["line"] for line in Path("a.results.jsonl").read_text().splitlines()} == {11, 12, 13}


async def test_a_condition_holds_for_rows_of_the_library() -> None:
    rows = [batchrunner.chat("Hi", model=name, id=name) for name in ("x", "y", "x-2")]
    results = await batchrunner.gather(rows, base_url="simulated", where="'x' in body.model")
    assert [result.id for result in results] == ["x", "x-2"]


@pytest.mark.parametrize("finished", [True, False])
async def test_rows_of_the_library_are_selected_like_lines(finished: bool) -> None:
    rows: list[Any] = [batchrunner.chat("Hi", model="m", id=f"r-{number}") for number in range(30)]
    if finished:
        rows = [result.request for result in await batchrunner.gather(rows, base_url="simulated")]
    pieces = [await batchrunner.gather(rows, base_url="simulated", shard=f"{index}/3") for index in range(1, 4)]
    assert all(pieces)
    assert sorted(result.request.line for piece in pieces for result in piece) == list(range(1, 31))
    kept = await batchrunner.gather(rows, "x.jsonl", base_url="simulated", shard="2/3")
    assert [result.id for result in kept] == [result.id for result in pieces[1]]
    some = await batchrunner.gather(rows, base_url="simulated", where="line > 3 and custom_id in ['r-2', 'r-3', 'r-4']")
    assert [result.id for result in some] == ["r-3", "r-4"]


async def test_shards_are_jobs_of_their_own_and_merge_to_the_whole() -> None:
    found: list[str] = []
    for index in range(1, 4):
        report = await batchrunner.run("a.jsonl", base_url="simulated", shard=f"{index}/3")
        assert report.summary.total == report.summary.succeeded + report.summary.invalid < COUNT
        found += ids(f"a.shard-{index}-of-3.results.jsonl")
        again = await batchrunner.run("a.jsonl", base_url="simulated", shard=f"{index}/3")
        assert (again.summary.attempts, again.summary.resumed) == (0, report.summary.total)
    assert len(found) == len(set(found)) == COUNT


@pytest.mark.parametrize(("first", "then"), [("1/2", ""), ("", "2/3"), ("1/2", "1/3")])
async def test_one_output_may_take_one_piece_after_another(first: str, then: str) -> None:
    limit = 0 if first else 20
    await batchrunner.run("a.jsonl", "x.jsonl", base_url="simulated", shard=first, limit=limit)
    report = await batchrunner.run("a.jsonl", "x.jsonl", base_url="simulated", shard=then)
    Path("x.run/checkpoint").unlink()
    settled = await batchrunner.run("a.jsonl", "x.jsonl", base_url="simulated", shard=then)
    assert (settled.summary.attempts, settled.summary.total) == (0, report.summary.total)
    assert (report.summary.total, report.summary.pending) == (settled.summary.succeeded + settled.summary.invalid, 0)
    assert len(ids("x.jsonl")) == len(set(ids("x.jsonl")))


async def test_a_shard_stays_the_same_when_lines_move() -> None:
    await batchrunner.run("a.jsonl", base_url="simulated", shard="2/3")
    lines = Path("a.jsonl").read_text().splitlines()[::-1]
    Path("a.jsonl").write_text("\n".join([json.dumps(chat(99)), *lines[1:]]) + "\n")
    report = await batchrunner.run("a.jsonl", base_url="simulated", shard="2/3")
    assert report.summary.attempts <= 1


def test_commands_know_the_shard(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.jsonl", "--shard", "1/3", "--base-url", "simulated"]) in {0, 2}
    assert not capsys.readouterr().out.startswith("31 requests")
    assert main(["status", "a.jsonl", "--shard", "1/3"]) == 3
    assert "--shard 1/3" in capsys.readouterr().out


@pytest.mark.parametrize("option", [{"where": "body.model = 1"}, {"shard": "4/3"}, {"shard": "auto"}])
def test_what_cannot_be_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="E002"):
        batchrunner.Runner(**option)  # type: ignore[arg-type]
