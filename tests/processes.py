"""The processes of a command, seen from outside (proc(5)); where there is no such file, none."""

from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import sleep
from types import TracebackType
from typing import Self

LOOK = 0.05  # seconds between two looks


def children_of(pid: int) -> list[int]:
    """The processes that this one has started."""
    with suppress(FileNotFoundError):
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return []


def outlives(pid: int) -> bool:
    """Whether it still runs, after it has had the time to end."""
    for _ in range(200):
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                sleep(LOOK)
                continue
        return False
    return True


class Children:
    """Looks at the memory of a process's children while `with` lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, float] = {}
        self._over = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak(self) -> float:
        """Megabytes, each at its own peak: together they had at most so many at any time."""
        return sum(self._peaks.values())

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            for child in children_of(self._pid):
                with suppress(OSError, IndexError):
                    self._peaks[child] = int(Path(f"/proc/{child}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
