"""The input read ahead by a process beside us, while we read the output.

Rules:

1. It is worth a process when the input is large and there is a core for it. What comes is the same either way (`reader`).
2. A process that cannot be started, dies, falls silent or finds a fault is no fault: we read on ourselves from where it came to.
"""

import socket
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from batchrunner.beside import cores, started
from batchrunner.landmarks import Landmark
from batchrunner.reader import BUFFER, FRAME, Asked, Compared, Ended, Reading, read

WORTH = 128 * 2**20  # bytes of input: a quarter of a second, while a process takes a tenth to come
PATIENCE = 60.0  # seconds without a word

_said = msgspec.msgpack.Decoder(Asked | Ended).decode


def blocks(reading: Reading, marks: list[Landmark], compared: Compared) -> Generator[Asked, None, None]:
    """The blocks of the input, as `reader.read` has them."""
    last = 0
    for said in _elsewhere(reading, compared) if _worth(reading.path) else ():
        if isinstance(said, Ended):
            marks[:] = said.marks
            return
        yield said
        last = said.last
    for asked in read(reading, marks, compared):
        if asked.last > last:
            yield asked.behind(last)


def _worth(path: Path) -> bool:
    """Whether a second process pays, and what runs us is a Python that can be started: not a program that has one within."""
    return path.stat().st_size >= WORTH and cores() > 1 and Path(sys.executable or "").name.startswith("python")


def _elsewhere(reading: Reading, compared: Compared) -> Iterator[Asked | Ended]:
    """What a process says that reads, as long as it says anything."""
    with suppress(OSError, ValueError):  # half a message is a ValueError of msgspec's
        end, process = started("batchrunner.reader", *reading.words())
        try:
            end.settimeout(PATIENCE)
            with end, end.makefile("rb", BUFFER) as heard:
                while frame := _frame(end, heard.read, compared):
                    yield _said(frame)
        finally:
            process.kill()
            process.wait()


def _frame(end: socket.socket, hear: Callable[[int], bytes], compared: Compared) -> bytes:
    """The next message, of one who knows whether digests are still wanted; empty: there is no other."""
    if not compared():
        end.shutdown(socket.SHUT_WR)
    return hear(int.from_bytes(hear(FRAME), "big"))
