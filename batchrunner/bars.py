"""The bar of a run, by tqdm: on a terminal with lines below it, in a notebook with everything in one line.

Rules:

1. tqdm gets every argument by name, so that no TQDM_ variable has a say.
2. It is imported when there is something to draw, has no thread of its own and draws only when it is told to.
3. What others log meanwhile goes above the bar.
"""

import os
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from math import inf
from typing import TYPE_CHECKING, Any, TextIO
from warnings import catch_warnings, simplefilter

from batchrunner.meter import Snapshot
from batchrunner.report import status

if TYPE_CHECKING:
    from tqdm import tqdm

ERASE = "\x1b[K"  # the rest of the line, in the words of a terminal


class Bars:
    """One bar, and with `below` what is going on as lines below it, each of which is a bar to tqdm."""

    def __init__(self, name: str, stream: TextIO, *, below: bool, notebook: bool) -> None:
        self._name = name
        self._stream = stream
        self._below = below
        self._notebook = notebook
        self._bars: list[tqdm[Any]] = []
        self._stack = ExitStack()

    def announce(self, said: str) -> None:
        """A line in the bar's place, before there is anything to draw."""
        self._bars = self._bars or [_bar(_kind(self._notebook), "", self._stream, 0, None)]
        self._bars[0].set_description_str(said)

    def draw(self, snapshot: Snapshot) -> None:
        """Put the figures on the screen."""
        if not self._bars:
            self._begin(snapshot)
        columns = self._columns()
        said = status.lines(snapshot, columns or inf) if self._below else ()
        while len(self._bars) <= len(said):  # a second endpoint brings a line of its own
            self._bars.append(_bar(type(self._bars[0]), "", self._stream, len(self._bars), snapshot.total))
        bar, *below = self._bars
        bar.total, bar.n = snapshot.total, snapshot.done
        bar.bar_format = _format(snapshot, self._notebook, (columns or inf) - len(self._name))
        for line, words in zip(below, said, strict=False):
            line.set_description_str(words, refresh=False)
        for each in self._bars:
            each.ncols = columns
            each.refresh()

    def _columns(self) -> int | None:
        """Of the terminal as it is now, if there is one. A line that the echo of `^C` breaks could not be taken off it again."""
        if self._notebook:
            return None
        try:
            return max(1, os.get_terminal_size(self._stream.fileno()).columns - len(" ^C"))
        except (OSError, ValueError):
            return None

    def write(self, said: str) -> None:
        """One or more lines above the bar, be there one or not."""
        if self._bars:
            echoed = ERASE if self._columns() else ""  # what was typed stands behind the bar, where tqdm does not look
            self._bars[0].write(f"{echoed}{said}", file=self._stream)
        else:
            print(said, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take everything off the screen."""
        bars, self._bars = self._bars, []
        self._stack.close()
        for bar in reversed(bars):
            bar.close()

    def drop(self) -> None:
        """Leave everything as it is, and write no more: the stream does not take it."""
        bars, self._bars = self._bars, []
        for bar in bars:
            bar.disable = True
        with suppress(Exception):
            self._stack.close()

    def _begin(self, snapshot: Snapshot) -> None:
        with catch_warnings():  # in a notebook without widgets tqdm would complain of that
            simplefilter("ignore")
            from tqdm.contrib.logging import logging_redirect_tqdm

        kind = _kind(self._notebook)
        self._bars = [_bar(kind, self._name, self._stream, 0, snapshot.total)]
        self._stack.enter_context(logging_redirect_tqdm(tqdm_class=kind))


def _format(snapshot: Snapshot, notebook: bool, room: float) -> str:
    """The layout for tqdm, with figures of ours in it, as far as there is room beside the name."""
    share = f"{100 * snapshot.done // snapshot.total}%" if snapshot.total else ""
    said = status.beside(snapshot, inf if notebook else room - len(" 100% █ "))
    if notebook:
        said = " · ".join([said, *(line.strip() for line in status.lines(snapshot) if line.strip())])
    said = said.replace("{", "{{").replace("}", "}}")
    return f"{{desc}} {share:>4} {{bar}} {said}" if share else f"{{desc}} {said}"


def _kind(notebook: bool) -> "type[tqdm[Any]]":
    """A tqdm without a thread that redraws slow bars, for ours are redrawn anyway, and without last words to a broken stream."""
    from tqdm import tqdm  # 20 ms that only a display needs

    plain: type[tqdm[Any]] = tqdm
    if notebook and find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as plain
    return type("Bar", (plain,), {"monitor_interval": 0, "__del__": lambda _bar: None})


def _bar(kind: "type[tqdm[Any]]", name: str, stream: TextIO, place: int, total: int | None) -> "tqdm[Any]":
    return kind(
        iterable=None,
        desc=name,
        total=total or 0,
        leave=False,
        file=stream,
        ncols=None,
        mininterval=0,
        maxinterval=10,
        miniters=1,
        ascii=None,
        disable=False,
        unit="",
        unit_scale=False,
        dynamic_ncols=False,
        smoothing=0,
        bar_format="{desc}",
        initial=0,
        position=place,
        postfix=None,
        unit_divisor=1000,
        write_bytes=False,
        lock_args=None,
        nrows=None,
        colour=None,
        delay=0,
        gui=False,
    )
