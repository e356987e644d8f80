"""Results as tables: which records count, what a column shows, and cells that can do no harm."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchrunner
from batchrunner.cli import main
from batchrunner.columns import Seen, column, spread
from batchrunner.core.fences import unfenced
from batchrunner.errors import UsageError
from batchrunner.export import export
from batchrunner.paths import Paths
from batchrunner.sheets import comma, harmless, markdown, parquet, plain
from batchrunner.tables import arrow


def answer(name: str, text: str = "hi", **facts: Any) -> dict[str, Any]:
    body = {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "details": {"cached": 0}},
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {
        "id": "b",
        "custom_id": name,
        "response": response,
        "error": None,
        "batchrunner": {"attempts": 2, **facts},
    }


def failure(name: str, message: str = "no") -> dict[str, Any]:
    return {
        "id": "b",
        "custom_id": name,
        "response": None,
        "error": {"code": "E", "message": message},
        "batchrunner": {"kind": "network"},
    }


def refused(name: str) -> dict[str, Any]:
    response = {"status_code": 400, "request_id": "r", "body": {"error": {"message": "bad", "type": "x"}}}
    return {"id": "b", "custom_id": name, "response": response, "error": None, "batchrunner": {"kind": "rejected"}}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.chdir(tmp_path)
    return Paths.of(Path("a.jsonl"))


def write(path: Path, *lines: dict[str, Any] | str) -> None:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def rows(path: str = "out.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_request_has_one_row_and_a_success_goes_first(job: Paths) -> None:
    write(job.results, answer("a", "first"), answer("b"), "torn", answer("a", "second"))
    write(job.errors, failure("c", "old"), failure("b"), failure("c", "new"), refused("d"))
    done = export(job, "out.csv")
    assert done.records == 4
    assert [(row["custom_id"], row["text"], row["error"]) for row in rows()] == [
        ("b", "hi", ""),
        ("a", "second", ""),
        ("c", "", "network: new"),
        ("d", "", "rejected: bad"),
    ]


def test_columns_are_any_place_in_a_record(job: Paths) -> None:
    write(job.results, answer("a", '```json\n{"mood": "good", "n": [1, 2]}\n```'))
    write(job.errors, failure("b"))
    names = "custom_id,status,kind,model,usage.total_tokens,json.mood,json.n.1,json.n"
    done = export(job, "out.csv", f"{names},body.choices.0.index,batchrunner.attempts,no.where")
    assert list(rows()[0].values()) == ["a", "200", "ok", "m", "3", "good", "2", "[1,2]", "0", "2", ""]
    assert list(rows()[1].values()) == ["b", "", "network", "", "", "", "", "", "", "", ""]
    assert done.empty == ["no.where"]
    assert "nothing is in: no.where" in str(done)


def test_a_star_is_spread_over_the_plain_values_of_the_first_answer() -> None:
    raws = [json.dumps(each).encode() for each in (failure("b"), answer("a"))]
    assert spread(["usage.*", "text"], raws) == ["usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens", "text"]
    assert spread(["nothing.*"], raws) == []


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"custom_id": "a", "result": {"type": "succeeded", "message": {"content": [{"type": "text", "text": "x"}]}}}, "x"),
        ([{}, {"choices": [{"message": {"content": "x"}}]}, None, {"custom_id": "a", "kind": "ok"}], "x"),
        ({**answer("a"), "response": {"status_code": 200, "body": {"output": [{"content": [{"text": "x"}]}]}}}, "x"),
        ({**answer("a"), "response": {"status_code": 200, "body": {"data": [{"embedding": [1]}]}}}, ""),
    ],
)
def test_the_text_is_found_in_every_dialect_and_route(raw: Any, text: str) -> None:
    seen = Seen(json.dumps(raw).encode())
    assert (column("custom_id")(seen), column("text")(seen), column("error")(seen)) == ("a", text, "")


def test_half_a_surrogate_pair_stops_nothing(job: Paths) -> None:
    write(job.results, json.dumps(answer("a", "x\ud83d")))
    export(job, "out.csv", "text,json,body.model")
    assert rows() == [{"text": "x�", "json": "", "body.model": "m"}]


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", " =1", "\n=1", "\nx", "＝1", "-1+1", "+-1"])
def test_a_formula_becomes_a_text(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "1e-5", "-.5", "plain", "", "a=b", -5, 1.5, True, None])
def test_numbers_and_texts_stay_as_they_are(value: object) -> None:
    assert not harmless(value).startswith("'")


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_a_csv_reads_back_as_it_was_written(cells: list[tuple[str, str]]) -> None:
    found = bytearray()
    comma(["a", "b"], lambda: cells, found.extend)
    read = list(csv.reader(io.StringIO(found.decode(), newline="")))
    assert read[1:] == [[harmless(cell) for cell in row] for row in cells]


def test_markdown_has_one_line_a_row_and_no_markup() -> None:
    found = bytearray()
    markdown(["a|b"], lambda: [["x|y\n<b>*z*</b>\x1b[31m"], [None]], found.extend)
    assert found.decode() == "| a\\|b |\n| --- |\n| x\\|y<br>&lt;b&gt;\\*z\\*&lt;/b&gt; \\[31m |\n|  |\n"


def test_plain_text_is_for_reading() -> None:
    found = bytearray()
    plain(["a", "b"], lambda: [["x\x1b", 1]], found.extend)
    plain(["a"], lambda: [["line\nline"]], found.extend)
    assert found.decode() == "a: x \nb: 1\n\nline\nline\n\n"


def test_parquet_has_the_types_of_all_rows(tmp_path: Path) -> None:
    _, files = arrow()
    values: list[list[Any]] = [
        [None, 1, 1, True, None, "x"],
        [2, 2.5, "z", False, None, [1]],
        [1 << 40, None, None, None, None, 1 << 80],
    ]
    found = bytearray()
    parquet(["i", "f", "s", "b", "none", "mixed"], lambda: values, found.extend)
    (tmp_path / "a.parquet").write_bytes(found)
    table = files.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema] == ["int64", "double", "string", "bool", "string", "string"]
    assert table.to_pydict()["mixed"] == ["x", "[1]", str(1 << 80)]
    assert table.to_pydict()["f"] == [1.0, 2.5, None]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("a.jsonl",), "E201"),
        (("b.jsonl", "out.csv"), "E201"),
        (("a.jsonl", "out.xlsx"), "E002"),
        (("a.jsonl", "-", "--as", "parquet"), "E002"),
        (("a.jsonl", "a.results.jsonl", "--as", "csv"), "E003"),
        (("a.jsonl", "here/../a.jsonl", "--as", "csv"), "E003"),
        (("a.jsonl", ".", "--as", "csv"), "E003"),
        (("a.jsonl", "link.jsonl", "--as", "csv"), "E003"),
        (("a.jsonl", "no/folder/out.csv"), "E404"),
    ],
)
def test_what_cannot_be_written_is_refused(
    job: Paths, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str
) -> None:
    write(job.results, answer("a"))
    Path("link.jsonl").symlink_to(job.errors)
    before = job.results.read_bytes()
    assert main(["export", *words]) in {2, 4}
    assert f"[{code}]" in capsys.readouterr().err
    assert (job.results.read_bytes(), list(Path().glob("*.part"))) == (before, [])


@pytest.mark.parametrize("form", ["csv", "tsv", "md", "txt", "parquet"])
def test_an_earlier_export_is_written_over_and_nothing_else(job: Paths, form: str) -> None:
    write(job.results, answer("a"))
    out = Path(f"out.{form}")
    out.touch()
    export(job, out.name)
    short = out.read_bytes()
    write(job.results, answer("a"), answer("b"))
    export(job, out.name)
    longer = out.read_bytes()
    assert len(longer) > len(short)
    for theirs in (b"my own notes\n", b"custom_id", b"x" + longer[:-9], b"PAR1", b"\n"):
        out.write_bytes(theirs)
        with pytest.raises(UsageError, match="E401") as refused:
            export(job, out.name)
        assert f"rm out.{form}" in refused.value.hint
        assert out.read_bytes() == theirs
    out.write_bytes(longer)
    with pytest.raises(UsageError, match="other than a table of these columns"):
        export(job, out.name, "kind,text")


def test_the_command_writes_every_form_and_stdout(job: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    write(job.results, answer("a"))
    for form in ("csv", "tsv", "md", "txt", "parquet"):
        assert main(["export", "a.jsonl", f"out.{form}"]) == 0
        assert Path(f"out.{form}").stat().st_size
    capsys.readouterr()
    assert main(["export", "a.results.jsonl", "-", "--columns", "custom_id,text"]) == 0
    assert capsys.readouterr().out == "custom_id,text\na,hi\n"


@pytest.mark.parametrize("form", ["csv", "tsv", "md", "txt"])
def test_a_terminal_is_sent_no_command(job: Paths, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(job.results, answer("a\x1b[2J", "one\ntwo\x9b1m\u202e\rthree é"))
    shown = {}
    for is_terminal in (True, False):
        stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
        monkeypatch.setattr(stdout, "isatty", lambda told=is_terminal: told)
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["export", "a.jsonl", "-", "--as", form, "--columns", "custom_id,text"]) == 0
        stdout.flush()
        shown[is_terminal] = stdout.buffer.getvalue().decode()
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f\u202e]", shown[True])) <= {"\n", "\t"}
    assert "three é" in shown[True]
    assert ("\x1b" in shown[False]) == (form in {"csv", "tsv"})  # which are for programs


@pytest.mark.parametrize(("failed", "names"), [((), ["a"]), ((failure("b"),), ["a", "b"])])
def test_a_file_of_results_may_be_named_for_its_job(job: Paths, failed: tuple[dict[str, Any], ...], names: list[str]) -> None:
    write(job.input, answer("a"))
    write(job.errors, *failed)
    assert main(["export", "a.jsonl", "out.csv"]) == 0
    assert [row["custom_id"] for row in rows()] == names


async def test_the_library_exports_what_it_ran(tmp_path: Path) -> None:
    runner = batchrunner.Runner(base_url="simulated")
    requests = [batchrunner.chat(f"question {n}", model="m", id=f"q-{n}") for n in range(5)]
    await runner.gather(requests, output=tmp_path / "out.jsonl")
    done = runner.export("-", tmp_path / "out.csv", ["custom_id", "usage.total_tokens"], output=tmp_path / "out.jsonl")
    assert done.records == 5
    assert {row["custom_id"] for row in rows(str(tmp_path / "out.csv"))} == {f"q-{n}" for n in range(5)}


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        (" \n```\n[1]\n```\n", "[1]"),
        ("~~~ JSON\n1\n~~~", "1"),
        ("  2 ", "2"),
        ("Here it is:\n```json\n{}\n```", "Here it is:\n```json\n{}\n```"),
        ("```\na\n```\n```\nb\n```", "```\na\n```\n```\nb\n```"),
        ("```json {}```", "```json {}```"),
    ],
)
def test_one_fence_round_the_whole_is_taken_off(text: str, bare: str) -> None:
    assert unfenced(text) == bare


def test_a_reader_who_has_seen_enough_is_no_fault(job: Paths) -> None:
    write(job.results, *(answer(f"r-{n}") for n in range(10_000)))
    words = shlex.join([sys.executable, "-m", "batchrunner", "export", "a.jsonl", "-"])
    piped = f"{words} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["custom_id,text,error", "0"]
    assert len(done.stderr.splitlines()) == 1, "how much was written, and nothing else"


def test_memory_does_not_grow_with_the_results(job: Paths) -> None:
    line = json.dumps(answer("r-%07d", "x" * 400))
    with job.results.open("w") as file:
        file.writelines(line % number + "\n" for number in range(15_000))
    tracemalloc.start()
    try:
        assert export(job, "out.csv").records == 15_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000 < job.results.stat().st_size
    finally:
        tracemalloc.stop()
