"""Rows to requests: the lines that come of them, what is refused, and whole runs over tables."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner import Kind
from batchrunner.cli import main
from batchrunner.core.model import Request, Result
from batchrunner.errors import UsageError
from batchrunner.formats import parse
from batchrunner.rendering import Recipe, Rendering, params
from batchrunner.tables import Flaw

PEOPLE = "id,bio\n1,Ada\n2\n3,Cyd\n"
OPTIONS = ("--prompt", "Sum up: {bio}", "--model", "m", "--base-url", "simulated", "--display", "none")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("people.csv").write_text(PEOPLE)


def recipe(url: str = "", model: str = "m", **rendering: Any) -> Recipe:
    found = Recipe.of(Rendering(**{"prompt": "Sum up: {bio}", **rendering}), model, url)
    assert found
    return found


def line(made: Recipe, **row: Any) -> dict[str, Any]:
    return dict(json.loads(made.line(row, "row 7")))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in Path(name).read_text().splitlines()]


def test_a_row_becomes_an_ordinary_line() -> None:
    made = recipe(system="For {who}.", id_column="id", param=('stop=["a"]', "temperature=0", "effort=low"))
    assert line(made, id=5, bio="Ada {x}", who="kids") == {
        "custom_id": "5",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "stop": ["a"],
            "temperature": 0,
            "effort": "low",
            "messages": [{"role": "system", "content": "For kids."}, {"role": "user", "content": "Sum up: Ada {x}"}],
        },
    }


@pytest.mark.parametrize(
    ("url", "options", "body"),
    [
        ("/v1/responses", {"system": "s"}, {"instructions": "s", "input": "Sum up: x"}),
        ("/v1/embeddings", {}, {"input": "Sum up: x"}),
        ("/v1/moderations", {}, {"input": "Sum up: x"}),
        ("/v1/completions", {}, {"prompt": "Sum up: x"}),
        ("/v1/images/generations", {}, {"prompt": "Sum up: x"}),
        (
            "/v1/messages",
            {"system": "s", "param": ("max_tokens=9",)},
            {"max_tokens": 9, "system": "s", "messages": [{"role": "user", "content": "Sum up: x"}]},
        ),
    ],
)
def test_each_route_has_its_own_place_for_the_prompt(url: str, options: dict[str, Any], body: dict[str, Any]) -> None:
    made = line(recipe(url, **options), bio="x")
    assert (made["url"], made["body"]) == (url, {"model": "m", **body})


@pytest.mark.parametrize(
    ("value", "text"), [("", ""), (1.5, "1.5"), (True, "true"), ([1, "é"], '[1,"é"]'), ({"a": None}, '{"a":null}')]
)
def test_a_value_is_written_as_text(value: object, text: str) -> None:
    assert line(recipe(), bio=value)["body"]["messages"][0]["content"] == f"Sum up: {text}"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"id": "a"}, "row 7 has no value for 'bio'"),
        ({"id": "a", "bio": None}, "row 7 has no value for 'bio'"),
        ({"id": "a", "bio": float("nan")}, "row 7 has no value for 'bio'"),
        ({"id": "a", "bio": object()}, "row 7 has something in 'bio' that cannot be written as text"),
    ],
)
def test_a_row_without_a_value_is_an_invalid_line_under_its_own_id(row: dict[str, Any], why: str) -> None:
    made = recipe(id_column="id").line(row, "row 7")
    result = parse(made.rstrip(), 7)
    assert isinstance(result, Result)
    assert (result.id, result.kind, result.error and result.error.message) == ("a", Kind.INVALID, why)


def test_a_row_that_has_no_id_or_cannot_be_read_says_so_too() -> None:
    made = recipe(id_column="id")
    for row, why in (({"bio": "x"}, "row 7 has no value for 'id'"), (Flaw("is not JSON"), "row 7 is not JSON")):
        result = parse(made.line(row, "row 7").rstrip(), 7)
        assert isinstance(result, Result)
        assert result.error
        assert result.error.message == why


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("", {"model": ""}, "need a model"),
        ("/v1/messages", {}, "length of the answer"),
        ("/v1/embeddings", {"system": "s"}, "no place for a system prompt"),
        ("/generate", {}, "no prompt can be put"),
        ("", {"prompt": "", "system": "s"}, "--system is for rows"),
        ("", {"prompt": "", "id_column": "id"}, "--id-column is for rows"),
    ],
)
def test_what_no_row_could_mend_is_refused(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        recipe(url, **options)
    assert caught.value.code == "E208"


def test_params_are_json_or_texts() -> None:
    made = params(("a=1", "b=x=y", "c="))
    assert (bytes(made["a"]), made["b"], made["c"]) == (b"1", "x=y", "")
    with pytest.raises(ValueError, match="NAME=JSON"):
        params(("a",))


# ---- whole runs ----


def test_a_run_over_a_table_continues_and_notices_edited_rows(capsys: pytest.CaptureFixture[str]) -> None:
    options = (*OPTIONS, "--id-column", "id")
    assert main(["people.csv", *options]) == 1
    assert sorted(record["custom_id"] for record in read("people.results.jsonl")) == ["1", "3"]
    [error] = read("people.errors.jsonl")
    assert (error["custom_id"], error["error"]["message"]) == ("2", "row 2 has no value for 'bio'")
    before = Path("people.run/input.jsonl").stat()
    assert main(["people.csv", *options]) == 1
    assert Path("people.run/input.jsonl").stat().st_mtime_ns == before.st_mtime_ns, "the same bytes stay where they are"

    Path("people.csv").write_text(PEOPLE.replace("2\n", "2,Bob\n") + "4,Dan\n")
    assert main(["people.csv", *options]) == 0
    assert sorted(record["custom_id"] for record in read("people.results.jsonl")) == ["1", "2", "3", "4"]
    Path("people.csv").write_text(PEOPLE.replace("Ada", "Eve"))
    capsys.readouterr()
    assert main(["people.csv", *options]) == 2
    assert "[E402]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bios", "words", "code"),
    [
        ("Ada,Bob", ("--id-column", "bio", "--base-url", "simulated"), "E402"),
        ("Eve,Bob,Bob", ("--id-column", "bio", "--base-url", "simulated"), "E205"),
        ("Eve,Cyd", (), "E101"),
    ],
)
def test_a_refused_run_leaves_the_kept_input_as_it_was(
    capsys: pytest.CaptureFixture[str], bios: str, words: tuple[str, ...], code: str
) -> None:
    Path("people.csv").write_text("bio\nAda\nBob\n")
    assert main(["people.csv", *OPTIONS, "--id-column", "bio"]) == 0
    before = {path.name: path.read_bytes() for path in Path("people.run").glob("[ci]*")}
    assert sorted(before) == ["checkpoint", "input.jsonl"]
    Path("people.csv").write_text("bio\n" + bios.replace(",", "\n") + "\n")
    assert main(["people.csv", "--prompt", "Other: {bio}", "--model", "m", *words]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("people.run").glob("[ci]*")} == before
    assert main(["status", "people.csv"]) == 0


def test_a_later_input_takes_the_place_of_the_kept_one(monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*OPTIONS, "--id-column", "bio")
    Path("people.csv").write_text("bio\nAda\n")
    assert main(["people.csv", *options]) == 0
    Path("people.csv").write_text("bio\nEve\nAda\n")
    assert main(["people.csv", *options]) == 0
    assert [path.name for path in Path("people.run").glob("input*")] == ["input.jsonl"]
    assert [row["custom_id"] for row in read("people.run/input.jsonl")] == ["Eve", "Ada"]
    monkeypatch.setattr("batchrunner.filing.survey", None)
    assert main(["people.csv", *options]) == 0, "the checkpoint knows the input at its place"


def test_what_was_kept_of_another_input_does_not_stand_for_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"bio":"Ada"}\n{"bio":"Eve"}\n')
    assert main(["rows.jsonl", *OPTIONS]) == 0
    requests = [{"custom_id": name, **batchrunner.chat(name, model="m")} for name in "abc"]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in requests))
    assert main(["rows.jsonl", *OPTIONS[4:], "--changed", "rerun", "--limit", "1"]) == 0
    capsys.readouterr()
    assert main(["status", "rows.jsonl", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["total"] == 3


def test_status_needs_no_prompt_and_check_may_write_the_requests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "people.csv", *OPTIONS, "--render", "made.jsonl"]) == 2
    assert [("url" in row) for row in read("made.jsonl")] == [True, False, True]
    assert not Path("people.run").exists()
    main(["people.csv", *OPTIONS, "--limit", "1"])
    capsys.readouterr()
    assert main(["status", "people.csv", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["pending"] == 2
    assert main(["made.jsonl", "--base-url", "simulated", "--display", "none"]) == 1
    assert len(read("made.results.jsonl")) == 2


@pytest.mark.parametrize("words", [("people.csv",), ("people.csv", "--prompt", "{no}", "--model", "m"), (".", "-o", "x.jsonl")])
def test_a_refused_table_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    before = sorted(Path().iterdir())
    assert main([*words, "--base-url", "simulated"]) == 2
    assert "[E208]" in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("taken", ["people.csv", "people.results.jsonl"])
def test_requests_are_not_written_over_the_jobs_own_files(capsys: pytest.CaptureFixture[str], taken: str) -> None:
    assert main(["people.csv", *OPTIONS, "--render", taken]) == 2
    assert "[E003]" in capsys.readouterr().err
    assert Path("people.csv").read_text() == PEOPLE


def test_requests_are_not_written_over_the_file_of_somebody_else(capsys: pytest.CaptureFixture[str]) -> None:
    Path("people.csv").write_text("bio\nAda\n")
    Path("taken.jsonl").write_text("precious\n")
    for words in (["check", "people.csv"], ["people.csv"], ["people.csv", "-o", "-"]):
        assert main([*words, *OPTIONS, "--render", "taken.jsonl"]) == 2, words
        assert "rm taken.jsonl" in capsys.readouterr().err
        assert Path("taken.jsonl").read_text() == "precious\n"
        assert sorted(path.name for path in Path().iterdir()) == ["people.csv", "taken.jsonl"]


@pytest.mark.parametrize("output", [[], ["-o", "-"]])
def test_a_refused_run_writes_no_requests(output: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("people.csv").write_text("bio\nAda\n")
    assert main(["people.csv", *OPTIONS, "--render", "made.jsonl", "--cache", "/dev/null/x", *output]) == 2
    assert "[E409]" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["people.csv"]


def test_requests_of_this_job_are_written_anew_when_its_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    Path("people.csv").write_text("bio\nAda\n")
    words = ["people.csv", *OPTIONS, "--id-column", "bio", "--render", "made.jsonl"]
    for more in (["check"], ["check"], []):
        assert main([*more, *words]) == 0, "the same bytes do no harm"
    Path("people.csv").write_text("bio\nAda\nEve\n")
    for more in (["check"], []):
        assert main([*more, *words]) == 0, "that file is of this job"
        assert [row["custom_id"] for row in read("made.jsonl")] == ["Ada", "Eve"]
    assert not list(Path().glob("*.new"))


def test_what_comes_next_is_said_with_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "people.csv", *OPTIONS]) == 2
    Path("people.csv").write_text("bio\nAda\n")
    main(["check", "people.csv", *OPTIONS])
    assert "--prompt 'Sum up: {bio}'" in capsys.readouterr().out


def test_files_of_a_pattern_and_requests_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.csv").write_text("bio\nEve\n")
    assert main(["*.csv", *OPTIONS]) == 2
    assert "name them: -o FILE" in capsys.readouterr().err
    assert main(["*.csv", *OPTIONS, "-o", "all.jsonl"]) == 1
    assert "people.csv: row 2 has no value" in Path("all.errors.jsonl").read_text()
    assert len(read("all.jsonl")) == 3
    Path("lines").mkdir()
    for name in "ab":
        Path("lines", f"{name}.jsonl").write_text(json.dumps(batchrunner.chat("hi", model="m", id=name)) + "\n")
    assert main(["lines", "--base-url", "simulated", "--display", "none"]) == 0
    assert {record["custom_id"] for record in read("lines.results.jsonl")} == {"a", "b"}


async def test_rows_in_memory_take_a_prompt_too(tmp_path: Path) -> None:
    rows = [{"id": number, "bio": f"person {number}"} for number in range(3)] + [{"id": 9}]

    async def later() -> AsyncIterator[dict[str, Any]]:
        for row in rows:
            yield row

    runner = batchrunner.Runner(base_url="simulated", prompt="{bio}", model="m", id_column="id", route="/v1/chat/completions")
    for requests in (rows, later(), iter([json.dumps(row).encode() for row in rows])):
        results = await runner.gather(requests)
        assert [(result.id, result.ok) for result in results] == [("0", True), ("1", True), ("2", True), ("9", False)]
        assert results[0].text.startswith("person 0")
    kept = await runner.gather(rows, output=tmp_path / "out.jsonl")
    assert len(kept) == 4
    again = await runner.gather(rows, output=tmp_path / "out.jsonl")
    assert [result.id for result in again] == [result.id for result in kept]
    assert [result.id for result in await runner.gather("people.csv")] == ["1", "2", "3"]
    report = await runner.run("people.csv")
    assert (report.succeeded, report.summary.invalid) == (2, 1)


def test_a_line_is_the_same_every_time_and_holds_the_model() -> None:
    made = recipe().line({"bio": "x"}, "row 1")
    assert made == recipe().line({"bio": "x"}, "row 1")
    request = parse(made.rstrip(), 1)
    assert isinstance(request, Request)
    assert request.model == "m"
