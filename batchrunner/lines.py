"""Bytes to lines: numbered, bounded, unpacked.

Rules:

1. A line ends at LF; a CR before it belongs to the ending. Blank lines are skipped and counted; the last line needs no LF.
2. No line is held beyond `max_line`: a longer one is read through, digested and passed on as `Oversized`.
3. What a file is, its first bytes say, not its name. gzip and zstd are unpacked on the way; what holds no lines is refused.
4. A file that breaks while it is read ends the run, not the input: one that was cut or damaged before it came here is a wrong
   input (E201), a device that gives up is none (E406).
"""

import gzip
import importlib
import os
import re
import shlex
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from io import BufferedReader, BytesIO
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, cast

from msgspec import Struct

from batchrunner.errors import FileError, UsageError
from batchrunner.landmarks import START, Landmark

MAX_LINE = 64 * 1024 * 1024
_CHUNK = 1024 * 1024
_BLOCK = 256 * 1024
PUT_BACK = "Put the whole file back, then run the same command again: finished requests are kept."


class Oversized(Struct, frozen=True):
    """A line longer than allowed: read through to its end, not kept. `digest` is that of the whole line."""

    size: int
    limit: int
    digest: str


Line = bytes | Oversized
Note = Callable[[int, int], None]
Begin = Callable[[int], Landmark | None]


def read_lines(source: str | os.PathLike[str] | BinaryIO, max_line: int = MAX_LINE) -> Iterator[tuple[int, bytes | Oversized]]:
    """The lines of a file, with their numbers from 1 and without their endings; blank ones are left out.

    The rest is as `read_blocks` has it.
    """
    for first, block in read_blocks(source, max_line):
        for number, line in enumerate(block, first):
            if not blank(line):
                yield number, line


def read_blocks(
    source: str | os.PathLike[str] | BinaryIO, max_line: int = MAX_LINE, begin: Landmark = START, note: Note | None = None
) -> Iterator[tuple[int, list[Line]]]:
    """All lines of a file, blank ones too, about `_BLOCK` bytes at a time, each block with the number of its first line.

    A path may lead to a gzip or zstd file; a file object is read as it is, from where it stands, and left open. `begin` is
    where to begin in a plain file; of such a one `note` is told the line and the byte at which each block after the first begins.
    UsageError E201 E202 E204 E206: not a file that can be read. E203: lines end in CR alone. FileError E406: broken on the way.
    """
    following = begin.line
    with _opened(Path(source)) if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
        try:
            plain = isinstance(file, BufferedReader)
            for first, lines in _numbered(_from(file, begin), max_line, begin.line, note if plain else None):
                following = first + len(lines)
                yield first, lines
        except _damaged() as fault:
            raise _bad_packing(source, following, fault) from None
        except OSError as fault:
            name = f" {source}" if isinstance(source, str | os.PathLike) else ""
            raise FileError("E406", f"the input{name} cannot be read any further: {_reason(fault)}", PUT_BACK) from None


def open_blocks(path: Path, max_line: int, begin: Begin) -> Iterator[tuple[int, list[Line]]]:
    """Those of its blocks that `begin` sends us to: where to read for the lines from a number on, or None when that was all."""
    here = begin(1)
    while here:
        for first, lines in read_blocks(path, max_line, here):
            yield first, lines
            following = first + len(lines)
            here = begin(following)
            if not here or here.line > following:
                break
        else:
            return


def blank(line: Line) -> bool:
    """Whether there is nothing on the line."""
    return isinstance(line, bytes) and (not line or line.isspace())


def _from(file: BinaryIO, begin: Landmark) -> BinaryIO:
    """The file, to be read from the landmark on. FileError E406: no line begins there any more."""
    if begin.offset:
        file.seek(begin.offset - 1)
        if file.read(1) != b"\n":
            raise FileError("E406", f"the input changed while it was read: line {begin.line} is elsewhere", PUT_BACK)
    return file


def _numbered(file: BinaryIO, max_line: int, number: int, note: Note | None) -> Iterator[tuple[int, list[Line]]]:
    for raws, returns, ahead in _raw_blocks(file, max_line):
        if number == 1:
            raws[0] = _first(raws[0])
        last = [_read_through(file, raws.pop(), max_line)] if _endless(raws[-1], max_line) else []
        lines = list(map(without_ending, raws)) if returns else [raw[:-1] for raw in raws]
        block: list[Line] = [*lines, *last]
        if max(map(len, lines), default=0) > max_line:
            block[: len(lines)] = [_oversized(line, max_line) if len(line) > max_line else line for line in lines]
        yield number, block
        number += len(block)
        if note:
            note(number, file.tell() - ahead)


def _raw_blocks(file: BinaryIO, max_line: int) -> Iterator[tuple[list[bytes], bool, int]]:
    """Lines with their endings, whether these may be more than a LF, and how many bytes behind them have been read.

    The last line of all may have no ending, and an endless one.
    """
    torn, read = b"", getattr(file, "read1", file.read)  # what can be had, before what cannot is an error
    while piece := read(max(_BLOCK, len(torn))):
        raws = BytesIO(piece).readlines()
        returns = b"\r" in piece or torn[-1:] == b"\r"
        raws[0] = torn + raws[0]
        torn = b"" if raws[-1][-1:] == b"\n" or _endless(raws[-1], max_line) else raws.pop()
        if raws:
            yield raws, returns, len(torn)
    if torn:
        yield [torn], True, 0


def _endless(raw: bytes, max_line: int) -> bool:
    """Whether a line is too long already and its end not yet in sight."""
    return len(raw) > max_line + 1 and raw[-1:] != b"\n"


def _oversized(line: bytes, max_line: int) -> Oversized:
    return Oversized(len(line), max_line, sha256(line).hexdigest()[:16])


def without_ending(raw: bytes) -> bytes:
    """The line without its LF, CRLF, or the CR of a torn CRLF."""
    if raw[-2:] == b"\r\n":
        return raw[:-2]
    return raw[:-1] if raw[-1:] in (b"\n", b"\r") else raw


def _read_through(file: BinaryIO, start: bytes, max_line: int) -> Oversized:
    """The rest of a line that is too long, in pieces: only its length and digest are kept."""
    digest, size, held = sha256(), 0, start
    while piece := b"" if held[-1:] == b"\n" else file.readline(_CHUNK):
        digest.update(memoryview(held)[:-1])  # the last byte may be the CR of a CRLF
        size += len(held) - 1
        held = held[-1:] + piece
    held = without_ending(held)
    digest.update(held)
    return Oversized(size + len(held), max_line, digest.hexdigest()[:16])


_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe", "UTF-16 or UTF-32 text", "Save it as UTF-8: iconv -f utf-16 -t utf-8 FILE > requests.jsonl"),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8: iconv -f utf-16 -t utf-8 FILE > requests.jsonl"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "Save it as UTF-8: iconv -f utf-32 -t utf-8 FILE > requests.jsonl"),
    (b"\x00\x00\x00{", "UTF-32 text", "Save it as UTF-8: iconv -f utf-32be -t utf-8 FILE > requests.jsonl"),
    (b"{\x00", "UTF-16 text", "Save it as UTF-8: iconv -f utf-16le -t utf-8 FILE > requests.jsonl"),
    (b"\x00{", "UTF-16 text", "Save it as UTF-8: iconv -f utf-16be -t utf-8 FILE > requests.jsonl"),
    (b"PAR1", "a Parquet file", "Write it as lines: duckdb -c \"copy (from 'FILE') to 'requests.jsonl'\""),
    (b"ARROW1", "an Arrow file", "Write its rows as JSON lines first."),
    (b"PK\x03\x04", "a zip archive", "Unpack it: unzip -p FILE > requests.jsonl"),
    (b"SQLite format 3\x00", "an SQLite database", "Write its rows as JSON lines first."),
    (b"BZh", "a bzip2 file", "Unpack it: bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "an xz file", "Unpack it: unxz -k FILE"),
    (_GZIP, "a gzip file within", "Unpack it: gunzip -c FILE > requests.jsonl"),
    (_ZSTD, "a zstd file within", "Unpack it: unzstd -c FILE > requests.jsonl"),
)
_BOM = b"\xef\xbb\xbf"
_BARE_CR = re.compile(rb"\}[ \t]*\r\s*\{")  # two objects: no JSON has that


def _first(raw: bytes) -> bytes:
    """The first line without its byte order mark, once it is clear that the file holds lines of UTF-8 at all."""
    for magic, what, hint in _FOREIGN:
        if raw.startswith(magic):
            raise UsageError("E204", f"the input is {what}, not lines of JSON", hint)
    if _BARE_CR.search(raw):
        hint = "Give them the line feed they lack: tr '\\r' '\\n' < FILE > requests.jsonl"
        raise UsageError("E203", "the input's lines end in a carriage return alone", hint)
    return raw.removeprefix(_BOM)


# -- files


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where they are packed."""
    _check_kind(path)
    try:
        file = path.open("rb")
    except OSError as fault:
        raise _unreadable(path, fault) from None
    with file:
        head = file.read(4)
        file.seek(0)
        if head.startswith(_GZIP):
            with gzip.GzipFile(fileobj=file) as plain:
                yield cast(BinaryIO, plain)
        elif head.startswith(_ZSTD):
            with _zstd().ZstdFile(file) as plain:
                yield plain
        else:
            yield file


def is_packed(path: Path, *how: bytes) -> bool:
    """Whether the file is unpacked when it is read; `how`: by these first bytes."""
    with path.open("rb") as file:
        return file.read(4).startswith(how or (_GZIP, _ZSTD))


def _check_kind(path: Path) -> None:
    """Refuse what has no end or no lines before it is opened: opening a FIFO waits, /dev/zero never ends."""
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        raise _unreadable(path, fault) from None
    if stat.S_ISDIR(mode):
        raise UsageError("E202", f"the input {path} is a directory", "Name one file of requests in it.")
    if not stat.S_ISREG(mode):
        raise UsageError("E202", f"the input {path} is not a regular file", "Pipe it in and give - as the input.")


def _unreadable(path: Path, fault: OSError) -> UsageError:
    hint = f"Relative paths start at {Path.cwd()}." if isinstance(fault, FileNotFoundError) and not path.is_absolute() else ""
    return UsageError("E201", f"the input {path} cannot be read: {_reason(fault)}", hint)


_ZSTD_MODULES = ("compression.zstd", "backports.zstd")  # the standard library's from Python 3.14 on


def _zstd() -> ModuleType:
    for name in _ZSTD_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UsageError("E206", "the input is packed with zstd, which needs an extra", "pip install 'batchrunner[zstd]'")


def _damaged() -> tuple[type[Exception], ...]:
    """What unpacking raises when a file is damaged or cut."""
    loaded = [module.ZstdError for name in _ZSTD_MODULES if (module := sys.modules.get(name))]
    return (gzip.BadGzipFile, EOFError, zlib.error, *loaded)


def _bad_packing(source: str | os.PathLike[str] | BinaryIO, line: int, fault: Exception) -> UsageError:
    """E201: what was packed is damaged, in this line or before it, or it ends there, cut off."""
    if not isinstance(fault, EOFError):
        message = f"the input {source} is damaged, at line {line} or before: {fault}"
        return UsageError("E201", message, "Fetch it again, or pack it again.")
    unpack = "zcat" if isinstance(source, str | os.PathLike) and is_packed(Path(source), _GZIP) else "zstdcat"
    whole = f"What is whole of it:  {unpack} {shlex.quote(str(source))} | head -n {line - 1} > requests.jsonl"
    hint = "Fetch it again, or pack it again." + (f"\n{whole}" if line > 1 else "")
    return UsageError(
        "E201", f"the input {source} is cut off in line {line}: what packed it was not done, or part is missing", hint
    )


def _reason(fault: BaseException) -> str:
    return getattr(fault, "strerror", None) or str(fault)
