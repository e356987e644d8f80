"""Bytes to lines: endings, bounds, packed files, and files that are no lines at all."""

import gzip
import importlib
import io
import os
import re
import tracemalloc
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner import lines
from batchrunner.errors import FileError, UsageError
from batchrunner.lines import Oversized, blank, read_blocks, read_lines

ROW = b'{"custom_id":"r","url":"/x"}'


def of(content: bytes, max_line: int = 1024) -> list[tuple[int, bytes | Oversized]]:
    return list(read_lines(io.BytesIO(content), max_line))


def kept(tmp_path: Path, content: bytes, name: str = "input.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refusal(source: Path | BinaryIO) -> UsageError:
    with pytest.raises(UsageError) as caught:
        list(read_lines(source))
    return caught.value


def test_lines_and_their_numbers() -> None:
    assert of(b"a\nb\n") == [(1, b"a"), (2, b"b")]
    assert of(b"") == []


def test_d1_a_byte_order_mark_is_taken_off_the_first_line_only() -> None:
    bom = b"\xef\xbb\xbf"
    assert of(bom + b"a\n" + bom + b"b\n") == [(1, b"a"), (2, bom + b"b")]
    assert of(bom) == []


def test_d2_crlf_is_one_ending_and_a_lone_cr_is_none() -> None:
    assert of(b"a\r\nb\rc\r\nd\r\r\n") == [(1, b"a"), (2, b"b\rc"), (3, b"d\r")]
    assert of(b"a\r\nb\r") == [(1, b"a"), (2, b"b")], "a CRLF that was cut in the middle"


@pytest.mark.parametrize("between", [b"\r", b" \r", b"\r\r  "])
def test_d2_a_file_of_bare_cr_is_one_clear_error(between: bytes) -> None:
    error = refusal(io.BytesIO(between.join([ROW] * 3)))
    assert error.code == "E203"
    assert "tr '\\r' '\\n'" in error.hint


def test_d2_a_cr_between_tokens_is_json() -> None:
    assert of(b'{"a":\r{"b":\r1}\r}\n') == [(1, b'{"a":\r{"b":\r1}\r}')]


def test_d3_blank_lines_are_skipped_and_counted() -> None:
    assert of(b"\n\r\na\n \t \n\nb\n\n") == [(3, b"a"), (6, b"b")]


def test_d4_the_last_line_needs_no_ending() -> None:
    assert of(b"a\nb") == [(1, b"a"), (2, b"b")]


def test_other_separators_do_not_end_a_line() -> None:
    line = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\0h".encode()
    assert of(line + b"\n") == [(1, line)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3, 5_000])
def test_d10_a_line_is_kept_up_to_the_limit_and_digested_beyond(extra: int, ending: bytes) -> None:
    line = b"x" * (1024 + extra)
    first = line if extra <= 0 else Oversized(len(line), 1024, sha256(line).hexdigest()[:16])
    assert of(line + ending + (b"b" if ending else b"")) == [(1, first), (2, b"b")][: 2 if ending else 1]


@pytest.mark.parametrize(
    "size", [1 << 20, (1 << 20) + 1022, (1 << 20) + 1023, (1 << 20) + 1024, (1 << 20) + 1025, (1 << 20) + 1026]
)
def test_d10_the_ending_may_fall_on_the_edge_of_a_piece(size: int) -> None:
    line = bytes(range(97, 122)) * (size // 25 + 1)
    line = line[:size]
    assert of(line + b"\r\nb\r\n") == [(1, Oversized(size, 1024, sha256(line).hexdigest()[:16])), (2, b"b")]


def test_d10_a_file_without_any_lf_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    tracemalloc.start()
    try:
        [(number, line)] = read_lines(path, 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(line, Oversized)
    assert (number, line.size) == (1, 32 << 20)
    assert peak < 6 << 20


# -- what a file is


@pytest.mark.parametrize("name", ["input.jsonl", "input.jsonl.gz", "input"])
def test_d22_gzip_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    assert list(read_lines(kept(tmp_path, gzip.compress(b"a\r\nb\n"), name))) == [(1, b"a"), (2, b"b")]


def test_a_name_does_not_make_a_file_gzip(tmp_path: Path) -> None:
    assert list(read_lines(kept(tmp_path, b"a\nb\n", "plain.gz"))) == [(1, b"a"), (2, b"b")]


def test_d22_gzip_of_several_members(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n") + b"\0" * 20
    assert list(read_lines(kept(tmp_path, packed))) == [(1, b"a"), (2, b"bc"), (3, b"d")]


def test_d22_a_bomb_is_bounded_by_the_line(tmp_path: Path) -> None:
    path = kept(tmp_path, gzip.compress(b"\0" * (64 << 20), 9))
    tracemalloc.start()
    try:
        [(_, line)] = read_lines(path, 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(line, Oversized)
    assert line.size == 64 << 20
    assert peak < 16 << 20


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 9), (0, 40)])
def test_a_cut_gzip_file_ends_the_run_not_the_input(tmp_path: Path, start: int, end: int) -> None:
    content = b"".join(sha256(b"%d" % number).hexdigest().encode() + b"\n" for number in range(2_000))
    with pytest.raises(UsageError) as caught:
        list(read_lines(kept(tmp_path, gzip.compress(content)[start:-end])))
    assert caught.value.code == "E201"
    line = re.search(f"the input {tmp_path}.* is cut off in line ([0-9]+)", caught.value.message)
    assert line
    assert 1_000 < int(line[1]) <= 2_001
    assert f" | head -n {int(line[1]) - 1} > requests.jsonl" in caught.value.hint


@pytest.mark.parametrize("at", [10, 9_000, -5])
def test_a_damaged_gzip_file_ends_the_run(tmp_path: Path, at: int) -> None:
    """In the first deflate block, which breaks the unpacking; further on and in the checksum, which may only break the sum."""
    packed = bytearray(gzip.compress(b"".join(sha256(b"%d" % n).hexdigest().encode() + b"\n" for n in range(2_000))))
    packed[at] ^= 0xFF
    with pytest.raises(UsageError) as caught:
        list(read_lines(kept(tmp_path, bytes(packed))))
    assert caught.value.code == "E201"


def zstd(content: bytes) -> bytes:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return bytes(importlib.import_module(name).compress(content))
        except ImportError:
            continue
    pytest.skip("no zstd here")


def test_zstd_is_unpacked_and_a_cut_one_noticed(tmp_path: Path) -> None:
    packed = zstd(b"a\nb\n" * 5_000)
    lines = list(read_lines(kept(tmp_path, packed)))
    assert (lines[0], len(lines)) == ((1, b"a"), 10_000)
    with pytest.raises(UsageError, match=r"cut off in line.*E201"):
        list(read_lines(kept(tmp_path, packed[:-6])))
    with pytest.raises(UsageError, match=r"damaged.*E201"):
        list(read_lines(kept(tmp_path, packed[:8] + b"\xff" * 20)))


def test_zstd_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    error = refusal(kept(tmp_path, b"\x28\xb5\x2f\xfd rest"))
    assert error.code == "E206"
    assert "pip install 'batchrunner[zstd]'" in error.hint


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (ROW.decode().encode("utf-16"), "UTF-16"),
        (ROW.decode().encode("utf-16-le"), "UTF-16"),
        (ROW.decode().encode("utf-16-be"), "UTF-16"),
        (ROW.decode().encode("utf-32"), "UTF-32"),
        (ROW.decode().encode("utf-32-be"), "UTF-32"),
        (b"\x00\x00\xfe\xff" + ROW.decode().encode("utf-32-be"), "UTF-32"),
        (b"PAR1\x15\x00\n", "Parquet"),
        (b"PK\x03\x04\x14\x00\n", "zip"),
        (b"SQLite format 3\x00\x10", "SQLite"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"ARROW1\x00\x00", "Arrow"),
    ],
)
def test_d6_other_kinds_of_file_stop_at_once(tmp_path: Path, content: bytes, what: str) -> None:
    for path in (kept(tmp_path, content), kept(tmp_path, gzip.compress(content))):
        error = refusal(path)
        assert error.code == "E204"
        assert what in error.message
        assert error.hint
    assert refusal(io.BytesIO(content)).code == "E204"


def test_a_stream_of_packed_bytes_is_refused() -> None:
    assert "gzip" in refusal(io.BytesIO(gzip.compress(b"a\n"))).message


def test_d19_a_missing_file(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none.jsonl")
    assert error.code == "E201"
    assert str(tmp_path / "none.jsonl") in error.message
    assert "Relative paths" in refusal(Path("surely/not/here.jsonl")).hint


def test_d19_what_is_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, Path("/dev/zero"), Path("/dev/null")):
        assert refusal(path).code == "E202"


def test_d21_a_loop_of_symlinks(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refusal(tmp_path / "a").code == "E201"


def test_d21_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = kept(tmp_path, b"a\n")
    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    error = refusal(path)
    assert error.code == "E201"
    assert "Permission denied" in error.message


class Failing(io.BytesIO):
    """A file on a device that gives up after the first block."""

    def read1(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read1(2)


def test_d18_a_read_error_ends_the_run_after_the_lines_before_it() -> None:
    lines = read_lines(Failing(b"a\nb\n"))
    assert next(lines) == (1, b"a")
    with pytest.raises(FileError) as caught:
        next(lines)
    assert caught.value.code == "E406"
    assert "Input/output error" in caught.value.message


def test_a_file_that_is_given_stays_open_and_a_path_is_closed(tmp_path: Path) -> None:
    given_file = io.BytesIO(b"a\n")
    list(read_lines(given_file))
    assert not given_file.closed
    lines = read_lines(kept(tmp_path, b"a\nb\n"))
    next(lines)
    lines.close()  # type: ignore[attr-defined] - filterwarnings turns a file left open into an error


class Dripping(io.RawIOBase):
    """A stream whose reads stop at the given places."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.pieces = [piece for piece in pieces if piece]

    def readable(self) -> bool:
        return True

    def readinto(self, room: bytearray) -> int:  # type: ignore[override]
        if not self.pieces:
            return 0
        piece = self.pieces[0][: len(room)]
        self.pieces[0] = self.pieces[0][len(piece) :]
        self.pieces = [rest for rest in self.pieces if rest]
        room[: len(piece)] = piece
        return len(piece)


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"{}", b" ", b"xyz" * 9, b"\xff"]), max_size=30), st.integers(1, 9))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_chunking_gives_the_same_lines(parts: list[bytes], step: int) -> None:
    """However the bytes come and however large the blocks are."""
    content = b"first\n" + b"".join(parts)
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    with patch.object(lines, "_BLOCK", step + 2):
        chunked = list(read_lines(io.BufferedReader(Dripping(pieces), 16), 20))
        blocks = list(read_blocks(io.BytesIO(content), 20))
    assert chunked == of(content, 20)
    assert [first for first, _ in blocks] == [*accumulate((len(block) for _, block in blocks), initial=1)][:-1]
    assert [line for _, block in blocks for line in block if not blank(line)] == [line for _, line in chunked]
    plain = [(number, line) for number, line in enumerate(content.split(b"\n"), 1)]
    expected = {number: line.removesuffix(b"\r") for number, line in plain if line.strip(b" \r")}
    for number, line in chunked:
        if isinstance(line, bytes):
            assert line == expected[number]
        else:
            assert line.digest == sha256(expected[number]).hexdigest()[:16]
            assert line.size == len(expected[number]) > 20
    assert {number for number, _ in chunked} >= {number for number, line in expected.items() if line.strip()}
