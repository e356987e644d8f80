"""Tables to rows: every kind of file, and every way in which one can be broken."""

import gzip
import io
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner.errors import FileError, UsageError
from batchrunner.tables import Flaw, files_of, is_pattern, is_table, rows_of

LONGEST = 1 << 20


def kept(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, *columns: str) -> list[tuple[int, Any]]:
    return list(rows_of(path, columns, LONGEST))


def refusal(path: Path, *columns: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        rows(path, *columns)
    return caught.value


def test_cells_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.csv", '\ufeffid,text\r\n1,"a, ""b""\n\n c"\r\n\r\n2,d\r\n')
    assert rows(path, "id", "text") == [(1, {"id": "1", "text": 'a, "b"\n\n c'}), (2, {"id": "2", "text": "d"})]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t"), ("a.tab", "\t")])
def test_cells_are_parted_by_what_the_header_is(tmp_path: Path, name: str, mark: str) -> None:
    assert rows(kept(tmp_path / name, f"a{mark}b\n1,5{mark}2\n"), "a") == [(1, {"a": "1,5", "b": "2"})]


def test_a_packed_table_is_unpacked(tmp_path: Path) -> None:
    assert rows(kept(tmp_path / "a.csv.gz", gzip.compress(b"a\n1\n")), "a") == [(1, {"a": "1"})]


def test_a_row_that_is_too_short_lacks_cells_and_one_too_long_is_a_flaw(tmp_path: Path) -> None:
    found = rows(kept(tmp_path / "a.csv", "a,b\n1\n1,2,3\n4,5\n"), "a")
    assert (found[0], found[2]) == ((1, {"a": "1"}), (3, {"a": "4", "b": "5"}))
    assert isinstance(found[1][1], Flaw)
    assert "3 cells" in found[1][1].why


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b'a,b\n1,"never closed\n2,3\n', "E208", "breaks off at line"),
        (b'a\n"b"c\n', "E208", "breaks off at line 2"),
        (b"a\nk\xf6ln\n", "E204", "line 2 is not UTF-8"),
        ("a\nb\n".encode("utf-16"), "E204", "UTF-16"),
        (b"b,c\n1,2\n", "E208", "no column 'a'"),
        (b"a,a\n1,2\n", "E208", "more than one column 'a'"),
        (b"", "E208", "no column 'a'"),
        (b"a\n" + b"x" * (LONGEST + 1) + b"\n", "E208", "line 2 has"),
    ],
)
def test_a_table_that_is_broken_is_refused_as_a_whole(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    error = refusal(kept(tmp_path / "a.csv", content), "a")
    assert error.code == code
    assert words in error.message


def test_a_table_alone_says_not_what_to_ask(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv", "a.txt"):
        with pytest.raises(UsageError, match="E208"):
            list(rows_of(kept(tmp_path / name, "a\n1\n"), None, LONGEST))


def test_lines_of_json_keep_their_numbers(tmp_path: Path) -> None:
    found = rows(kept(tmp_path / "a.jsonl", '{"a": 1}\n\n[2]\nno\n{"a": null}\n'), "a")
    assert [number for number, _ in found] == [1, 3, 4, 5]
    assert (found[0][1], found[3][1]) == ({"a": 1}, {"a": None})
    assert [row.why for _, row in found[1:3]] == ["is no JSON object", "is not JSON"]


def test_a_column_that_none_of_the_first_rows_has_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.jsonl", 'no\n{"b": 1}\n{"c": 2}\n' + '{"b": 1}\n' * 40)
    assert len(rows(path, "b", "c")) == 43, "some lack it"
    why = refusal(path, "b", "boi")
    assert (why.code, why.hint) == ("E208", "It has: b, c")
    assert "in its first 19 rows, has no column 'boi'" in why.message


def test_lines_without_a_wish_are_their_bytes(tmp_path: Path) -> None:
    assert list(rows_of(kept(tmp_path / "a.jsonl", '{"a":  1}\n'), None, LONGEST)) == [(1, b'{"a":  1}')]


@pytest.mark.parametrize(("content", "row"), [(b'{"a": 1}\n', {"a": 1}), (b"a;b\n1;2\n", {"a": "1", "b": "2"})])
def test_what_has_no_telling_name_is_known_by_its_first_line(tmp_path: Path, content: bytes, row: dict[str, Any]) -> None:
    assert rows(kept(tmp_path / "rows", content), "a") == [(1, row)]
    assert list(rows_of(io.BytesIO(content), ("a",), LONGEST)) == [(1, row)]


def test_a_text_is_one_row(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.md", "# Head\n\ntext\n")
    assert rows(path, "text") == [(1, {"file": str(path), "name": "a.md", "text": "# Head\n\ntext\n"})]
    assert rows(kept(tmp_path / "b.txt", b"\xff\xfe\xfd"), "text") == [(1, Flaw("is not UTF-8"))]
    [(_, flaw)] = list(rows_of(kept(tmp_path / "c.txt", "x" * 2000), ("text",), 1024))
    assert "2,000 bytes" in flaw.why
    assert refusal(path, "body").code == "E208"


def test_parquet_gives_rows_and_only_the_columns_that_are_wanted(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": list(range(3000)), "b": ["x"] * 3000}), path)
    found = rows(path, "a")
    assert found == [(number + 1, {"a": number}) for number in range(3000)]
    assert rows(path) == [(number + 1, {}) for number in range(3000)], "a prompt without a column asks for each row too"
    assert rows(path.rename(tmp_path / "odd"), "b")[2999] == (3000, {"b": "x"})
    assert "It has: a, b" in refusal(tmp_path / "odd", "c").hint
    whole = (tmp_path / "odd").read_bytes()
    assert refusal(kept(tmp_path / "b.parquet", whole[:-40]), "a").code == "E208"


def test_parquet_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refusal(kept(tmp_path / "a.parquet", b"PAR1"), "a")
    assert (error.code, error.hint) == ("E206", "pip install 'batchrunner[parquet]'")


def test_a_folder_gives_the_files_that_can_be_read_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv", "c.png", "a.results.jsonl", "a.errors.jsonl", "mine.jsonl"):
        kept(tmp_path / name, "a\n")
    (tmp_path / "d.csv").mkdir()
    mine = tmp_path / "mine.jsonl"
    assert [path.name for path in files_of(str(tmp_path), [mine])] == ["a.csv", "b.csv"]
    assert [path.name for path in files_of(f"{tmp_path}/*.[cp]*")] == ["a.csv", "b.csv", "c.png"]
    for nothing in (f"{tmp_path}/*.tsv", str(tmp_path / "d.csv")):
        with pytest.raises(UsageError, match="E202"):
            files_of(nothing)


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    kept(tmp_path / "a[1].csv", "a\n1\n")
    assert files_of(str(tmp_path / "a[1].csv")) == [tmp_path / "a[1].csv"]
    assert not is_pattern(str(tmp_path / "a[1].csv"))
    assert is_table(str(tmp_path))
    assert not is_table(str(tmp_path / "a.jsonl"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "a", "a.parquet"]))
def test_no_bytes_raise_anything_but_a_refusal(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        for _number, row in rows_of(kept(tmp_path / name, content), ("a",), 1024):
            assert isinstance(row, dict | Flaw)
    except (UsageError, FileError):
        return  # what is packed and broken breaks on the way


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write("a,b\n")
        file.writelines(f"{number},{'x' * 100}\n" for number in range(40_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in rows_of(path, ("a",), LONGEST))
        assert tracemalloc.get_traced_memory()[1] < 2_500_000 < path.stat().st_size
    finally:
        tracemalloc.stop()
    assert count == 40_000
