"""What a person sees while a run goes on.

Rules:

1. It draws snapshots that it is given, about four times a second; it has no task, no thread and no clock of its own.
2. A display is never worth a run: any error in here silences it, and nothing is raised.
3. A terminal and a notebook get a bar (`bars`), with the figures beside it. A stream that is neither gets key=value or JSON
   lines: at each tenth, two seconds apart, and every `interval` seconds. Never a carriage return.
4. Text from outside is made visible, so that it cannot command the terminal.
5. What goes before a run and takes long is one line that counts; the bar takes its place.
"""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Annotated, Literal, TextIO

from msgspec import Struct

from batchrunner.bars import Bars
from batchrunner.core.model import Event, Kind
from batchrunner.core.policy import option
from batchrunner.core.wording import outcome_in_words, visible
from batchrunner.meter import Snapshot
from batchrunner.report import status
from batchrunner.report.layout import fold
from batchrunner.terminal import width

Mode = Literal["full", "plain", "notebook", "log", "none"]
PERIOD = 0.25
"""Seconds between two drawings."""
SPACING = 2.0
"""Seconds between two log lines, however fast the tenths follow one another."""
_NAME = 24


class Display(Struct, frozen=True, kw_only=True):
    """How a run shows itself on stderr."""

    display: Annotated[
        Literal["auto", "full", "plain", "log", "none"],
        option("auto, full, plain (one line), log (no terminal needed) or none", group="Show", metavar="MODE"),
    ] = "auto"
    quiet: Annotated[bool, option("nothing but errors, and the verdict at the end", group="Show")] = False
    verbose: Annotated[bool, option("a line for each attempt that failed", group="Show")] = False
    json: Annotated[bool, option("the summary as one line of JSON on stdout", group="Show")] = False
    log_format: Annotated[
        Literal["kv", "json"],
        option("log lines as key=value or as JSON", group="Show", metavar="kv|json", main=False),
    ] = "kv"
    report: Annotated[
        str, option("the report that each run leaves in its folder, here as well", group="Show", metavar="FILE.html", main=False)
    ] = ""
    dashboard: Annotated[
        int,
        option(
            "the report live at 127.0.0.1, and /metrics; PORT is 8377",
            group="Show",
            metavar="[PORT]",
            bare="8377",
            ge=0,
            le=65535,
        ),
    ] = 0
    notify: Annotated[
        str,
        option(
            "command to run at the end, without a shell, with the summary as JSON on its stdin",
            group="Show",
            metavar="CMD",
            main=False,
        ),
    ] = ""
    otel: Annotated[
        float,
        option(
            "share of the requests that become OpenTelemetry spans; 0 is off",
            group="Show",
            metavar="0..1",
            main=False,
            ge=0,
            le=1,
        ),
    ] = 0.0


def _now() -> datetime:
    return datetime.now(UTC)


class Progress:
    """Draws a run named `name` on a stream. `show` a snapshot now and then, `note` lines in between, `close` at the end.

    It is a listener too: with `verbose` each failed attempt becomes a line.
    """

    def __init__(
        self,
        display: Display,
        name: str,
        stream: TextIO | None = None,
        interval: float = 30.0,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._stream = stream or sys.stderr
        self._display = display
        self._name = _shortened(visible(name))
        self._interval = interval
        self._clock = clock
        self._last = -inf
        self._tenths = 0
        self.mode = self._mode()
        self._bars = Bars(self._name, self._stream, below=self.mode == "full", notebook=self.mode == "notebook")

    def __repr__(self) -> str:
        return f"Progress({self._name!r}, {self.mode})"

    def show(self, snapshot: Snapshot) -> None:
        """Draw the figures."""
        self._safely(lambda: self._drawn(snapshot))

    def count(self, read: int, seconds: float) -> None:
        """So many lines of the input have been read after so many seconds, before the run begins."""
        self._safely(lambda: self._reading(f"reading {self._name}: {read:,} lines", seconds))

    def note(self, line: str) -> None:
        """One or more lines above the bar, if anything is shown at all."""
        if self.mode != "none":
            self._safely(lambda: self._write(line))

    def __call__(self, event: Event) -> None:
        """Listen to a run: say what was learned of an endpoint, and which attempts failed, if that is wanted."""
        if event.notice:
            self.note(visible(event.notice))
        if self._display.verbose and event.outcome is not None and event.outcome.kind is not Kind.OK:
            self.note(f"{self._clock():%H:%M:%S} {_failed(event)}")

    def close(self) -> None:
        """Take the bar off the screen; what stays is the caller's to say."""
        self._safely(self._bars.clear)

    def _mode(self) -> Mode:
        if self._display.quiet:
            return "none"
        if self._display.display != "auto":
            return self._display.display
        if in_notebook():
            return "notebook"
        try:
            return "full" if self._stream.isatty() and os.environ.get("TERM") != "dumb" else "log"
        except (ValueError, AttributeError):  # closed, or no stream at all
            return "none"

    def _safely(self, act: Callable[[], None]) -> None:
        """Do it; if it cannot be done, be silent from now on."""
        try:
            act()
        except Exception:  # noqa: BLE001 - rule 2
            self.mode = "none"
            self._bars.drop()

    def _drawn(self, snapshot: Snapshot) -> None:
        if self.mode == "log":
            self._log(snapshot)
        elif self.mode != "none":
            self._bars.draw(snapshot)

    def _reading(self, said: str, seconds: float) -> None:
        if self.mode == "log" and seconds >= self._last + self._interval:
            self._last = seconds
            self._write(said)
        elif self.mode not in ("log", "none"):
            self._bars.announce(said)

    def _log(self, snapshot: Snapshot) -> None:
        """A line for each tenth, unless there has just been one, and whenever nothing was said for long."""
        tenths = 10 * snapshot.done // snapshot.total if snapshot.total else 0
        wait = SPACING if tenths > self._tenths else self._interval
        if snapshot.seconds < self._last + wait:
            return
        self._last, self._tenths = snapshot.seconds, tenths
        if self._display.log_format == "json":
            self._bars.write(status.json_line(snapshot, self._stamp()))
        else:
            self._bars.write(f"{self._stamp()} progress {status.key_values(snapshot)}")

    def _stamp(self) -> str:
        return f"{self._clock():%Y-%m-%dT%H:%M:%SZ}"

    def _write(self, said: str) -> None:
        if self.mode == "log" and self._display.log_format == "json":
            self._bars.write("\n".join(status.json_note(line, self._stamp()) for line in said.splitlines()))
        else:
            self._bars.write("\n".join(self._fitted(visible(line)) for line in said.splitlines()))

    def _fitted(self, line: str) -> str:
        """A line for the eye is folded between words, one for a log is not."""
        return "\n".join(fold(line, width())) if self.mode in ("full", "plain") and line else line


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def _failed(event: Event) -> str:
    """What became of a failed attempt; the server's own words stay out, for they may quote a prompt or a key."""
    attempt, outcome = event.attempt, event.outcome
    assert outcome is not None
    what = outcome_in_words(outcome.kind, outcome.status)
    then = "failed for good" if event.result is not None else "to be sent again"
    then = outcome.message if outcome.kind is Kind.CANCELLED else then  # our own: why it is not waited for any more
    return (
        f"{visible(attempt.request.id)} attempt {attempt.number} at {attempt.endpoint}: {what}, {then}"
        if attempt
        else f"{what}, {then}"
    )
