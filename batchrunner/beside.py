"""Processes of ours beside this one: a room of this package, in an interpreter of its own.

Rules:

1. Such a process imports what we have imported, from where we have, and nothing from the folder it stands in.
2. All that ties it to us is a pair of sockets. Ctrl-C is for us; when we have gone, it sees the end of its pair and ends too.
3. What a command is sure to want may start before it is wanted (`early`): it imports while we do, on a core that would be idle.
4. A system wakes a process where the one runs that woke it, though another core stands idle. So what is to work while we work
   is kept off the core that we are on (`apart`); we ourselves go where we are put, and no core is anybody's own.
"""

import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

Process = subprocess.Popen[bytes]
Beside = tuple[socket.socket, Process]
_STANDING = Path("/proc/self/stat")
_PROCESSOR = 36  # its place behind the name of the program: proc_pid_stat(5), field 39


_EARLY: dict[str, list[Beside]] = defaultdict(list)  # by room, of those in our own environment


@contextmanager
def early(room: str, count: int) -> Iterator[None]:
    """Meanwhile `started` has so many of these processes ready. Those that nobody wanted end with it."""
    waiting = _EARLY[room]
    try:
        with suppress(OSError):  # whoever wants it will be told
            for _ in range(count):
                waiting.append(_start(room, (), os.environ))
        yield
    finally:
        for ours, process in waiting:
            ours.close()
            process.kill()
            process.wait()
        waiting.clear()


def started(room: str, *words: str, environ: Mapping[str, str] = os.environ) -> Beside:
    """Our end of a pair, and the process at the other: `python -m ROOM DESCRIPTOR WORDS`. OSError: none can be started."""
    if _EARLY[room] and not words and environ is os.environ:
        return _EARLY[room].pop()
    return _start(room, words, environ)


def _start(room: str, words: Sequence[str], environ: Mapping[str, str]) -> Beside:
    ours, theirs = socket.socketpair()
    descriptor = theirs.fileno()
    silent = None if environ.get("BATCHRUNNER_DEBUG") else subprocess.DEVNULL
    with theirs, ExitStack() as undo:
        undo.callback(ours.close)
        process = subprocess.Popen(  # noqa: S603 - this very Python, and words of ours
            [sys.executable, "-P", "-m", room, str(descriptor), *words],
            pass_fds=[descriptor],
            env={**environ, "PYTHONPATH": os.pathsep.join(str(path or Path.cwd()) for path in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=silent,
            process_group=0,  # Ctrl-C is for us
        )
        undo.pop_all()
    return ours, process


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apart(process: Process) -> None:
    """Keep a process off the core that we are on, until the next call. Where the system does not tell, it stays as it is."""
    with suppress(OSError, IndexError, ValueError):
        ours = int(_STANDING.read_text().rpartition(")")[2].split()[_PROCESSOR])
        if others := os.sched_getaffinity(0) - {ours}:
            os.sched_setaffinity(process.pid, others)
