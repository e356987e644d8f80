"""What is finished is passed over unread, and what is open is read as if it had not been."""

import asyncio
import gzip
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner import landmarks, lines
from batchrunner.core.model import Request, Result
from batchrunner.errors import FileError
from batchrunner.landmarks import START, Landmark, note, stretches
from batchrunner.lines import Line, read_blocks
from batchrunner.source import Source
from batchrunner.standing import Standing

FREELY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENT = st.lists(st.sampled_from([b"{}\n", b"\r\n", b"\n", b"x" * 30 + b"\n", b"y" * 9 + b"\r\n"]), max_size=40).map(b"".join)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK", 16)
    monkeypatch.setattr(landmarks, "STRETCH", 20)


def read(path: Path, begin: Landmark = START, marks: list[Landmark] | None = None) -> list[tuple[int, Line]]:
    noted = None if marks is None else partial(note, marks)
    return [each for first, block in read_blocks(path, 20, begin, noted) for each in enumerate(block, first)]


@given(content=CONTENT)
@FREELY
def test_from_any_landmark_on_the_lines_are_the_same(tmp_path: Path, content: bytes) -> None:
    path, marks = tmp_path / "in.jsonl", list[Landmark]()
    path.write_bytes(content)
    whole = read(path, marks=marks)
    assert len(marks) >= len(content) // 60, "lines are at most 31 bytes long, blocks 16 and a line"
    for mark in marks:
        assert read(path, mark) == whole[mark.line - 1 :]


def test_a_packed_file_has_no_landmarks(tmp_path: Path) -> None:
    path, marks = tmp_path / "in.jsonl.gz", list[Landmark]()
    path.write_bytes(gzip.compress(b"{}\n" * 100))
    assert len(read(path, marks=marks)) == 100
    assert marks == []


def test_a_line_that_is_elsewhere_now_ends_the_run(tmp_path: Path) -> None:
    path, marks = tmp_path / "in.jsonl", list[Landmark]()
    path.write_bytes(b"{}\n" * 100)
    read(path, marks=marks)
    path.write_bytes(b" " + b"{}\n" * 100)
    with pytest.raises(FileError, match=r"changed while it was read") as caught:
        read(path, marks[0])
    assert caught.value.code == "E406"


@given(starts=st.sets(st.integers(2, 50)), line=st.integers(1, 50))
def test_stretches_cover_what_is_left_of_the_file(starts: set[int], line: int) -> None:
    marks = [Landmark(start, 10 * start) for start in sorted(starts)]
    found = list(stretches(marks, line, 50))
    assert found[0][0].line <= line
    assert [last + 1 for _, last in found[:-1]] == [here.line for here, _ in found[1:]]
    assert found[-1][1] == 50
    assert found[0][1] >= line


@given(done=st.sets(st.integers(1, 60), min_size=30), extra=st.integers(0, 5))
@FREELY
def test_a_source_that_seeks_gives_what_is_open(tmp_path: Path, done: set[int], extra: int) -> None:
    path, marks = tmp_path / "in.jsonl", list[Landmark]()
    path.write_bytes(b"".join(b'{"custom_id":"r-%d","url":"/x"}\n' % line for line in range(1, 61)))
    for _ in read_blocks(path, note=partial(note, marks)):
        pass
    standing = Standing(60, 60, bytearray(8), bytearray(8), marks=marks)
    for line in done:
        standing.mark(line, line % 2 == 0, "policy")
    with path.open("ab") as file:
        file.write(b'{"custom_id":"late","url":"/x"}\n' * extra)

    async def taken() -> list[Request | Result]:
        source = Source(path, to_do=standing.still_open, begin=standing.begin)
        return [item async for block in source for item in block]

    assert [item.id for item in asyncio.run(taken()) if isinstance(item, Request)] == [
        f"r-{line}" for line in range(1, 61) if line not in done
    ]


def test_what_is_finished_is_not_read(tmp_path: Path) -> None:
    path, marks = tmp_path / "in.jsonl", list[Landmark]()
    path.write_bytes(b"".join(b'{"custom_id":"r-%d","url":"/x"}\n' % line for line in range(1, 201)))
    for _ in read_blocks(path, note=partial(note, marks)):
        pass
    standing = Standing(200, 200, bytearray(26), bytearray(26), marks=marks)
    for line in {*range(1, 201)} - {3, 150}:
        standing.mark(line, True)
    begun: list[int] = []
    plain = lines._numbered

    def watched(*told: object) -> object:
        begun.append(told[2])  # type: ignore[arg-type]
        return plain(*told)  # type: ignore[arg-type]

    async def taken() -> list[Request | Result]:
        source = Source(path, to_do=standing.still_open, begin=standing.begin)
        return [item async for block in source for item in block]

    with patch.object(lines, "_numbered", watched):
        assert len(asyncio.run(taken())) == 2
    assert begun[0] == 1  # its dialect is looked at, too
    assert 140 < begun[-1] <= 150
