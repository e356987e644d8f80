"""Result files are joined into one record for each request: success first, counted, nothing overwritten."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.cli import main
from batchrunner.errors import UsageError
from batchrunner.merging import Merged, merge


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(name: str, status: int = 200, mark: int = 0) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "", "body": {"mark": mark}}
    return {"id": "b", "custom_id": name, "response": response, "error": None}


def write(path: str, *lines: dict[str, Any]) -> Path:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path(path)


def read(path: str) -> dict[str, int]:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"]["body"]["mark"] for line in lines}


def test_the_last_success_and_the_last_failure_count() -> None:
    one = write("1.jsonl", record("a", 500, 1), record("b", 200, 2), record("c", 500, 3))
    two = write("2.jsonl", record("a", 200, 4), record("b", 200, 5), record("c", 500, 6), record("b", 500, 7))
    merged = merge([one, two], Path("all.jsonl"))
    assert read("all.jsonl") == {"a": 4, "b": 5}
    assert read("all.errors.jsonl") == {"c": 6}
    assert (merged.succeeded, merged.failed, merged.repeated, merged.exit_code) == (2, 1, 4, 1)


def test_with_the_input_named_what_is_missing_is_counted_and_strangers_are_left_out() -> None:
    one = write("1.jsonl", record("a"), record("x"))
    asked = write("in.jsonl", {"custom_id": "a"}, {"custom_id": "b"})
    merged = merge([one], Path("all.jsonl"), str(asked))
    assert read("all.jsonl") == {"a": 0}
    assert (merged.missing, merged.strangers, merged.exit_code) == (1, 1, 3)


def test_what_is_missing_can_be_asked_into_what_was_merged(capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}
    write("1.jsonl", record("a"))
    write("in 1.jsonl", {"custom_id": "a", **chat}, {"custom_id": "b", **chat})
    assert main(["merge", "1.jsonl", "-o", "all.jsonl", "--input", "in 1.jsonl"]) == 3
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("To ask what is missing: ")
    assert command == "batchrunner 'in 1.jsonl' -o all.jsonl"
    assert main([*shlex.split(command)[1:], "--base-url", "simulated", "--display", "none"]) == 0
    assert [json.loads(line)["custom_id"] for line in Path("all.jsonl").read_text().splitlines()] == ["a", "b"]


def test_records_are_copied_to_the_byte() -> None:
    raw = b'{"id": "b",  "custom_id": "a", "response": {"status_code": 200, "body": {"x": 1e400}}, "error": null}'
    Path("1.jsonl").write_bytes(raw)  # without an LF
    merge([Path("1.jsonl")], Path("all.jsonl"))
    assert Path("all.jsonl").read_bytes() == raw + b"\n"


def test_what_is_no_record_is_counted_and_left_out() -> None:
    Path("1.jsonl").write_text(f'nonsense\n{json.dumps(record("a"))}\n{{"custom_id": "b", "resp')
    merged = merge([Path("1.jsonl")], Path("all.jsonl"))
    assert (merged.lines, merged.unreadable, merged.succeeded, merged.exit_code) == (3, 2, 1, 0)


def test_without_any_record_nothing_is_written() -> None:
    asked = write("in.jsonl", {"custom_id": "a"}, {"custom_id": "b"})
    with pytest.raises(UsageError, match="1 file with 2 lines: not one is a record"):
        merge([asked], Path("all.jsonl"))
    assert [path.name for path in Path().iterdir() if path.name != "in.jsonl"] == []


def test_dialects_are_not_mixed() -> None:
    one = write("1.jsonl", record("a"))
    two = write("2.jsonl", {"custom_id": "b", "result": {"type": "expired"}})
    with pytest.raises(UsageError, match="anthropic"):
        merge([one, two], Path("all.jsonl"))
    assert not Path("all.jsonl").exists()


def test_nothing_is_overwritten() -> None:
    one = write("1.jsonl", record("a"))
    write("all.errors.jsonl", record("z"))
    with pytest.raises(UsageError, match=r"all\.errors\.jsonl exists"):
        merge([one], Path("all.jsonl"))
    assert read("all.errors.jsonl") == {"z": 0}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([200, 500])), max_size=12))
def test_one_record_an_id_and_every_line_is_accounted_for(lines: list[tuple[str, int]]) -> None:
    for path in Path().glob("all*"):
        path.unlink()
    one = write("1.jsonl", *(record(name, status, mark) for mark, (name, status) in enumerate(lines)))
    merged = merge([one], Path("all.jsonl"))
    assert merged.lines == merged.succeeded + merged.failed + merged.repeated
    assert read("all.jsonl").keys() == {name for name, status in lines if status == 200}
    assert read("all.jsonl").keys() | read("all.errors.jsonl").keys() == {name for name, _ in lines}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    write("1.jsonl", record("a"))
    write("2.jsonl", record("b", 400))
    assert main(["merge", "1.jsonl", "2.jsonl", "-o", "all.jsonl"]) == 1
    assert capsys.readouterr().out == "2 files with 2 lines: succeeded 1 · failed 1\nall.jsonl · all.errors.jsonl\n"
    assert main(["merge", "1.jsonl", "-o", "c.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("1 file with 1 line: ")
    assert main(["merge", "1.jsonl", "-o", "b.jsonl", "--json"]) == 0
    assert Merged(**json.loads(capsys.readouterr().out)).succeeded == 1


@pytest.mark.parametrize(
    ("argv", "code"), [(["merge"], "E201"), (["merge", "1.jsonl"], "E003"), (["merge", "no", "-o", "b"], "E201")]
)
def test_what_merge_lacks_is_said(argv: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("1.jsonl", record("a"))
    assert main(argv) == 2
    assert code in capsys.readouterr().err


def test_a_folder_is_no_file_to_merge_into(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E003"):
        merge([], tmp_path)
