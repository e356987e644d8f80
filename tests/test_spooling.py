"""What becomes the input of a job: kept whole, private, and only where it differs."""

import io
import os
import stat
from pathlib import Path

import pytest

from batchrunner.errors import FileError
from batchrunner.spooling import spool


def kept(tmp_path: Path, content: bytes, name: str = "input.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_d19_a_stream_is_kept_whole_and_private(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    path = tmp_path / "input.jsonl"
    assert spool(io.BytesIO(content), path) == len(content)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["input.jsonl"]


def test_a_second_stream_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = kept(tmp_path, b"old and longer")
    (tmp_path / "input.jsonl.part").write_bytes(b"of a killed run")
    assert spool(io.BytesIO(b"new"), path) == 3
    assert path.read_bytes() == b"new"


def test_a_stream_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read1(4)

    with pytest.raises(FileError, match="E406"):
        spool(Broken(b"some bytes"), tmp_path / "input.jsonl")
    assert names(tmp_path) == []


def test_a_stream_that_finds_no_room(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="E404"):
        spool(io.BytesIO(b"a"), tmp_path / "no" / "such" / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="E404"):
        spool(io.BytesIO(b"a"), kept(tmp_path / "folder", b"", "file") / "input.jsonl")
    with pytest.raises(FileError, match="E404"):
        spool(io.BytesIO(b"a"), tmp_path / "folder")
    assert names(tmp_path) == ["folder"]
