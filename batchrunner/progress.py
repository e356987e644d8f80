"""What a person sees while a run goes on.

Rules:

1. It draws snapshots that it is given, about four times a second; it has no task, no thread and no clock of its own.
2. A display is never worth a run: any error in here silences it, and nothing is raised.
3. tqdm gets every argument by name, so that no TQDM_ variable has a say.
4. A stream that is no terminal gets key=value lines, every `interval` seconds and at each tenth. Never a carriage return.
5. Text from outside is made visible, so that it cannot command the terminal.
"""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from msgspec import Struct

from batchrunner.core.model import Event, Kind
from batchrunner.core.policy import option
from batchrunner.meter import Snapshot
from batchrunner.report.text import WORDS, amount, clock, money, rate, seconds, visible

if TYPE_CHECKING:
    from tqdm import tqdm

Mode = Literal["full", "plain", "log", "none"]
PERIOD = 0.25
"""Seconds between two drawings."""
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
        option("command to run at the end, with the summary as JSON on its stdin", group="Show", metavar="CMD", main=False),
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
        self._bars: list[tqdm[Any]] = []
        self._due = 0.0
        self._tenths = -1
        self.mode = self._mode()

    def __repr__(self) -> str:
        return f"Progress({self._name!r}, {self.mode})"

    def show(self, snapshot: Snapshot) -> None:
        """Draw the figures."""
        self._safely(lambda: self._log(snapshot) if self.mode == "log" else self._draw(snapshot))

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
        self._safely(self._clear)

    def _mode(self) -> Mode:
        if self._display.quiet:
            return "none"
        if self._display.display != "auto":
            return self._display.display
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
            bars, self._bars = self._bars, []
            for bar in bars:
                bar.disable = True

    def _draw(self, snapshot: Snapshot) -> None:
        if self.mode == "none":
            return
        if not self._bars:
            self._bars = _bars(self._name, self._stream, 3 if self.mode == "full" else 1)
        bar, *lines = self._bars
        bar.total, bar.n = snapshot.total, snapshot.done
        bar.bar_format = _bar_format(snapshot)
        for line, said in zip(lines, _status(snapshot), strict=False):
            line.set_description_str(said, refresh=False)
        for each in self._bars:
            each.refresh()

    def _log(self, snapshot: Snapshot) -> None:
        tenths = 10 * snapshot.done // snapshot.total if snapshot.total else 0
        if snapshot.seconds < self._due and tenths <= self._tenths:
            return
        self._due = snapshot.seconds + self._interval
        self._tenths = tenths
        self._write(f"{self._clock():%Y-%m-%dT%H:%M:%SZ} progress {key_values(snapshot)}")

    def _write(self, lines: str) -> None:
        said = "\n".join(visible(line) for line in lines.splitlines())
        if self._bars:
            self._bars[0].write(said, file=self._stream)
        else:
            print(said, file=self._stream, flush=True)

    def _clear(self) -> None:
        bars, self._bars = self._bars, []
        for bar in reversed(bars):
            bar.close()


def key_values(snapshot: Snapshot) -> str:
    """One line for machines and for people who search logs."""
    gauges = snapshot.gauges
    pairs: dict[str, object] = {
        "done": snapshot.done,
        "total": "?" if snapshot.total is None else snapshot.total,
        "pct": f"{100 * snapshot.done / snapshot.total:.1f}" if snapshot.total else "",
        "rate": f"{snapshot.rate:.1f}/s",
        "eta": "" if snapshot.eta is None else seconds(snapshot.eta).replace(" ", ""),
        "inflight": gauges.in_flight,
        "failed": snapshot.failed + snapshot.invalid,
        "retrying": gauges.retrying,
        "r429": snapshot.rate_limited,
        "timeouts": snapshot.timeouts,
        "truncated": snapshot.truncated,
        "p95": f"{snapshot.p95:.2f}s" if snapshot.p95 else "",
        "timeout": f"{gauges.timeout:.1f}s" if gauges.timeout else "",
        "tok_s": f"{snapshot.token_rate:.0f}",
        "cost": "" if gauges.cost is None else f"{gauges.cost:.4g}",
    }
    return " ".join(f"{name}={value}" for name, value in pairs.items() if value != "")


def block(snapshot: Snapshot) -> str:
    """The same figures as a block of lines, for who asks in between."""
    whole = "?" if snapshot.total is None else f"{snapshot.total:,}"
    return "\n".join([f"{snapshot.done:,}/{whole} done  {_pace(snapshot)}", *_status(snapshot)])


def _status(snapshot: Snapshot) -> tuple[str, str]:
    """Two lines below the bar, the weightiest first: a narrow screen cuts their ends."""
    gauges = snapshot.gauges
    flight = f"{gauges.in_flight}/{gauges.limit}" if gauges.limit else f"{gauges.in_flight}"
    counts = [("failed", snapshot.failed + snapshot.invalid), ("retrying", gauges.retrying), ("429", snapshot.rate_limited)]
    counts += [("timeouts", snapshot.timeouts), ("cut", snapshot.truncated)]
    first = "   ".join([f"in flight {flight}", *(f"{name} {count:,}" for name, count in counts)])
    times = [("p50", snapshot.p50), ("p95", snapshot.p95), ("timeout", gauges.timeout)]
    second = "  ".join(f"{name} {seconds(value)}" for name, value in times if value)
    tokens = f"   {amount(snapshot.token_rate)} tok/s" if snapshot.token_rate else ""
    lanes = " · ".join(f"{visible(lane.name)} {seconds(lane.p50)}" for lane in snapshot.lanes if lane.p50)
    return f"  {first}", f"  {second}{tokens}{_cost(snapshot)}{'   ' + lanes if len(snapshot.lanes) > 1 else ''}"


def _cost(snapshot: Snapshot) -> str:
    """What it costs so far and is expected to cost; nothing while that is not known."""
    cost, whole = snapshot.gauges.cost, snapshot.cost_expected
    if cost is None:
        return ""
    return f"   {money(cost)}{f' of ≈ {whole:.3g}' if whole else ''}"


def _pace(snapshot: Snapshot) -> str:
    left = "?" if snapshot.eta is None else clock(snapshot.eta)
    return f"{clock(snapshot.seconds)}<{left}  {rate(snapshot.rate)}"


def _bar_format(snapshot: Snapshot) -> str:
    """The layout for tqdm around figures of ours; they hold digits and letters only, so no brace needs doubling."""
    known = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt}" if snapshot.total else "{desc} {n_fmt}/?"
    return f"{known}  {_pace(snapshot)}"


def _bars(name: str, stream: TextIO, count: int) -> "list[tqdm[Any]]":
    """A bar and its status lines, empty."""
    from tqdm import tqdm  # 20 ms that only a display needs

    # No thread that redraws slow bars, for ours are redrawn anyway; no last words to a stream that may be broken.
    kind = type("Bar", (tqdm,), {"monitor_interval": 0, "__del__": lambda _bar: None})
    return [_bar(kind, name if place == 0 else "", stream, place) for place in range(count)]


def _bar(kind: "type[tqdm[Any]]", name: str, stream: TextIO, place: int) -> "tqdm[Any]":
    return kind(
        iterable=None,
        desc=name,
        total=0,
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
        dynamic_ncols=True,
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


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def _failed(event: Event) -> str:
    """What became of a failed attempt; the server's own words stay out, for they may quote a prompt or a key."""
    attempt, outcome = event.attempt, event.outcome
    assert outcome is not None
    status = f" {outcome.status}" if outcome.status else ""
    what = f"{WORDS[outcome.kind]}{status}"
    then = "failed for good" if event.result is not None else "to be sent again"
    return (
        f"{visible(attempt.request.id)} attempt {attempt.number} at {attempt.endpoint}: {what}, {then}"
        if attempt
        else f"{what}, {then}"
    )
