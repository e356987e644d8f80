"""progress: what is drawn fits its stream, and no display ever ends a run."""

import fcntl
import io
import json
import logging
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import types
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Request, Result, Route
from batchrunner.core.treatment import DROPPED
from batchrunner.looking import shown
from batchrunner.meter import Gauges, Lane, Snapshot
from batchrunner.progress import Display, Progress
from batchrunner.reader import Asked
from batchrunner.report.status import beside, block, figures, key_values, lines, pace

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
SNAPSHOT = Snapshot(
    seconds=334.0,
    total=50000,
    succeeded=15491,
    rate=46.4,
    token_rate=35400.0,
    eta=744.0,
    p50=3.2,
    p95=8.9,
    kinds={Kind.RATE_LIMITED: 47, Kind.TIMEOUT_IDLE: 10, Kind.TRUNCATED: 1},
    lanes=tuple(Lane(name=name, attempts=9, succeeded=9, p50=p50, p95=3 * p50) for name, p50 in (("A", 3.9), ("B", 2.6))),
    gauges=Gauges(in_flight=256, limit=256, retrying=30, timeout=26.4, timeouts={"A": 26.4, "B": 21.0}, oldest=41.0, cost=4.36),
)


class Terminal:
    """A pseudo terminal of so many columns, and what was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")

    def written(self) -> str:
        self.stream.close()
        said = b""
        try:
            while piece := os.read(self._master, 65536):
                said += piece
        except OSError:  # EIO is a terminal's end of file
            pass
        os.close(self._master)
        return said.decode()


def logged(name: str = "input.jsonl", interval: float = 30.0) -> tuple[Progress, io.StringIO]:
    stream = io.StringIO()
    return Progress(Display(), name, stream, interval, clock=lambda: NOON), stream


def drawn(columns: int, mode: str = "auto", name: str = "input.jsonl", act: Callable[[Progress], None] | None = None) -> str:
    terminal = Terminal(columns)
    progress = Progress(Display(display=mode), name, terminal.stream)  # type: ignore[arg-type]
    for done in range(3):
        progress.show(msgspec.structs.replace(SNAPSHOT, succeeded=15491 + done))
    if act:
        act(progress)
    progress.close()
    return terminal.written()


def lines_of(written: str) -> Iterator[str]:
    return (line for line in re.split(r"\r|\n|\x1b\[A", written) if line.strip())


def failed_attempt(final: bool = False, name: str = "r\x1b[31m-7") -> Event:
    request = Request(line=1, id=name, digest="d", route=Route.CHAT, path="/")
    attempt = Attempt(request, "A", 2, 0.0, Deadlines(1.0, 1.0, 1.0, 1.0))
    outcome = Outcome(Kind.RATE_LIMITED, 429, message="the prompt was: hunter2")
    return Event(1.0, attempt, outcome, Result(request=request, kind=Kind.RATE_LIMITED) if final else None)


# ---- which display ----


@pytest.mark.parametrize(
    ("display", "mode"), [(Display(), "log"), (Display(display="full"), "full"), (Display(display="full", quiet=True), "none")]
)
def test_mode_on_a_stream_that_is_no_terminal(display: Display, mode: str) -> None:
    assert Progress(display, "a", io.StringIO()).mode == mode


def test_mode_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(80)
    monkeypatch.setenv("TERM", "xterm")
    assert Progress(Display(), "a", terminal.stream).mode == "full"
    monkeypatch.setenv("TERM", "dumb")
    assert Progress(Display(), "a", terminal.stream).mode == "log"
    terminal.written()
    assert Progress(Display(), "a", terminal.stream).mode == "none"


class ZMQInteractiveShell:
    """As IPython calls the one of a notebook."""


def test_a_notebook_gets_one_line_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried in a real kernel with and without ipywidgets; here without."""
    ipython = types.ModuleType("IPython")
    monkeypatch.setattr(ipython, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    stream = io.StringIO()
    progress = Progress(Display(), "a.jsonl", stream)
    assert progress.mode == "notebook"
    lane = Lane(name="{x!r}{", attempts=1, succeeded=1, p50=1.0, p95=2.0)
    progress.show(msgspec.structs.replace(SNAPSHOT, lanes=(lane, lane)))
    said = stream.getvalue()
    assert "15,491/50,000  05:34<12:24  46.4 req/s · in flight 256/256" in said
    assert "{x!r}{ 1.0/2.0 s" in said
    assert "\n" not in said
    progress.close()
    assert progress.mode == "notebook"
    assert Progress(Display(display="log"), "a", stream).mode == "log", "what was asked for goes first"
    monkeypatch.setattr(ipython, "get_ipython", lambda: None)
    assert Progress(Display(), "a", stream).mode == "log", "IPython is there, but no kernel"


# ---- on a terminal ----


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    found = list(lines_of(drawn(columns, name="jobs/a-rather-long-name-of-a-file-with-requests.jsonl")))
    assert found
    assert max(map(len, found)) <= columns


def test_80_columns_hold_every_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    found = [line.rstrip() for line in lines_of(drawn(80))]
    bar = next(line for line in found if "input.jsonl  " in line)
    assert re.search(r"input\.jsonl  3[01]% █+.* 15,491/50,000  05:34<12:24  46\.4 req/s", bar)
    assert "  in flight 256/256  failed 0  retrying 30  429 47  timeouts 10  cut 1" in found, "and no half of the next one"
    assert "  p50 3.2 s  p95 8.9 s  timeout 26 s   35.4 k tok/s   $ 4.36 of ≈ 14.07" in " ".join(found)


@pytest.mark.parametrize("columns", range(12, 130, 3))
def test_no_figure_is_cut(columns: int) -> None:
    """`timeouts 1` for 12 would be another figure."""
    texts = [*zip(lines(SNAPSHOT, columns), lines(SNAPSHOT), strict=True), (beside(SNAPSHOT, columns), beside(SNAPSHOT))]
    for fitted, whole in texts:
        assert len(fitted) <= columns
        assert re.match(r"  \S| · |   \S|$", whole.removeprefix(fitted)) or not fitted.strip(), (fitted, whole)


def test_a_narrow_terminal_gets_whole_figures_and_room_for_what_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    found = list(lines_of(drawn(48)))
    assert {line.rstrip() for line in found if line.startswith("  ") and line.strip()} == {
        "  in flight 256/256  failed 0  retrying 30",
        "  p50 3.2 s  p95 8.9 s  timeout 26 s",
        "  A 3.9/12 s ≤ 26 s · B 2.6/7.8 s ≤ 21 s",
    }
    assert any(re.fullmatch(r"input.jsonl  30% .+ 15,491/50,000  05:34<12:24 *", line) for line in found)


@pytest.mark.parametrize("mode", ["full", "plain"])
def test_the_echo_of_what_is_typed_breaks_no_line(mode: str) -> None:
    """One that it breaks is two, of which one stays when the bar goes."""
    assert max(map(len, lines_of(drawn(80, mode)))) == 80 - len(" ^C")
    assert "\r\x1b[Ka line in between" in drawn(80, mode, act=lambda progress: progress.note("a line in between"))
    stream = io.StringIO()
    progress = Progress(Display(display=mode), "a", stream)  # type: ignore[arg-type]
    progress.show(SNAPSHOT)
    progress.note("a line in between")
    assert "\x1b[K" not in stream.getvalue(), "that is for terminals only"


def test_lines_in_between_are_folded_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    said = "stopping: no new requests; 3 in flight may take 20 s more; again drops them"
    assert "may\r\ntake 20 s more" in drawn(45, "full", act=lambda progress: progress.note(said))
    progress, stream = logged()
    progress.note(said)
    assert stream.getvalue() == f"{said}\n", "a line of a log stays one"


def test_120_columns_hold_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    found = [line.rstrip() for line in lines_of(drawn(120))]
    assert "  in flight 256/256  failed 0  retrying 30  429 47  timeouts 10  cut 1  oldest 41 s" in found
    assert "  p50 3.2 s  p95 8.9 s  timeout 26 s   35.4 k tok/s   $ 4.36 of ≈ 14.07" in found
    assert "  A 3.9/12 s ≤ 26 s · B 2.6/7.8 s ≤ 21 s" in found, "several endpoints have a line of their own"


def test_plain_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    written = drawn(80, "plain")
    assert "in flight" not in written
    assert "\n" not in written


def test_the_screen_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert re.search(r"\r {10,}\r$", drawn(80))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TQDM_ASCII", "1"),
        ("TQDM_DISABLE", "1"),
        ("TQDM_NCOLS", "3"),
        ("TQDM_MININTERVAL", "1e9"),
        ("TQDM_BAR_FORMAT", "{nonsense}"),
    ],
)
def test_no_tqdm_variable_has_a_say(name: str, value: str) -> None:
    """In a process of its own, for tqdm reads them when it is imported."""

    code = (
        "import io; from batchrunner.progress import *; s = io.TextIOWrapper(io.BytesIO(), 'utf-8');"
        "p = Progress(Display(display='full'), 'a.jsonl', s); p.show(Snapshot(total=4, succeeded=1)); p.close();"
        "s.flush(); said = s.buffer.getvalue().decode(); assert p.mode == 'full' and '25% █' in said, (p.mode, said)"
    )
    environ = {**os.environ, name: value, "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, cwd=Path(__file__).parent.parent)


def test_no_thread_is_started() -> None:
    before = threading.active_count()
    drawn(80, "full", act=lambda _progress: None if threading.active_count() == before else pytest.fail("a thread"))


def test_unknown_total_draws_no_bar() -> None:
    stream = io.StringIO()
    progress = Progress(Display(display="plain"), "a.jsonl", stream)
    progress.show(Snapshot(succeeded=7, seconds=1.0))
    assert "a.jsonl 7/?" in stream.getvalue()
    assert progress.mode == "plain"
    progress.close()


@pytest.mark.parametrize("name", ["\x1b[2J\u202ea.jsonl", "{bar}{x!r}%s.jsonl", "名前" * 20])
def test_a_name_cannot_command_the_terminal(name: str) -> None:
    stream = io.StringIO()
    progress = Progress(Display(display="full"), name, stream)
    progress.show(SNAPSHOT)
    assert progress.mode == "full"
    assert "\x1b[2J" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    progress.close()


# ---- not on a terminal ----


def test_log_lines_come_by_time_and_by_tenth() -> None:
    progress, stream = logged()
    story = [(0.0, 0), (10.0, 5), (20.0, 10), (25.0, 19), (29.0, 21), (58.0, 22), (59.5, 22), (60.0, 22)]
    counts = []
    for at, done in story:
        progress.show(Snapshot(seconds=at, total=100, succeeded=done))
        counts.append(len(stream.getvalue().splitlines()))
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4]
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().startswith("2026-11-20T12:00:00Z progress done=0 total=100 pct=0.0 ")


def test_tenths_that_follow_fast_share_a_line() -> None:
    progress, stream = logged()
    for quarter in range(17):
        progress.show(Snapshot(seconds=quarter / 4, total=16, succeeded=quarter))
    shares = re.findall(r"pct=([0-9.]+)", stream.getvalue())
    assert shares == ["0.0", "50.0", "100.0"], "two seconds apart"


def test_log_line_holds_every_figure() -> None:
    assert key_values(SNAPSHOT) == (
        "done=15491 total=50000 pct=31.0 rate=46.4/s eta=12m24s inflight=256 failed=0 retrying=30 r429=47 timeouts=10 "
        "truncated=1 p50=3.20s p95=8.90s timeout=26.4s oldest=41.0s tok_s=35400 cost=4.36 cost_expected=14.07"
    )
    assert key_values(Snapshot()).startswith("done=0 rate=0.0/s inflight=0 ")


def test_json_lines_hold_the_same_figures() -> None:
    stream = io.StringIO()
    progress = Progress(Display(log_format="json"), "a", stream, clock=lambda: NOON)
    progress.note("one\x1b[2J\ntwo")
    progress.show(SNAPSHOT)
    progress.show(msgspec.structs.replace(Snapshot(), seconds=1000.0))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert told[0] == {"time": "2026-11-20T12:00:00Z", "event": "note", "message": "one\x1b[2J"}
    assert told[2] == {"time": "2026-11-20T12:00:00Z", "event": "progress", **figures(SNAPSHOT)}
    assert set(told[3]) == set(told[2])
    assert (told[2]["rate"], told[2]["eta"], told[3]["eta"], told[3]["cost"]) == (46.4, 744.0, None, None)
    names = [pair.partition("=")[0] for pair in key_values(SNAPSHOT).split()]
    assert names == list(told[2])[2:]


# ---- words ----


def test_a_guess_is_called_one() -> None:
    assert pace(SNAPSHOT) == "05:34<12:24  46.4 req/s"
    young = msgspec.structs.replace(SNAPSHOT, seconds=12.0)
    few = msgspec.structs.replace(SNAPSHOT, resumed=15480)
    assert pace(young) == "00:12<~12:24  46.4 req/s"
    assert pace(few) == "05:34<~12:24  46.4 req/s"
    assert pace(msgspec.structs.replace(SNAPSHOT, eta=None)) == "05:34<?  46.4 req/s"
    held = msgspec.structs.replace(SNAPSHOT, gauges=Gauges(paused=True))
    assert pace(held) == "05:34<paused"


def test_a_hundred_percent_is_said_only_of_all() -> None:
    stream = io.StringIO()
    progress = Progress(Display(display="plain"), "a.jsonl", stream)
    progress.show(Snapshot(total=100000, succeeded=99999, seconds=9.0))
    assert " 99% " in stream.getvalue()
    progress.close()


def test_counts_of_nothing_are_left_out() -> None:
    assert lines(Snapshot(gauges=Gauges(in_flight=3, limit=8))) == ("  in flight 3/8  failed 0", "  ")


# ---- before the run ----


def blocks_of(lines: int) -> Generator[Asked, None, None]:
    yield from (Asked(line, ["a"], b"") for line in range(1, lines + 1))


def test_reading_is_shown_once_it_takes_long_and_leaves_no_trace() -> None:
    terminal, ticks = Terminal(80), iter([0.0, 0.5, 1.9, 2.0, 2.1, 2.3])
    progress = Progress(Display(display="full"), "input.jsonl", terminal.stream)
    read = shown(blocks_of(5), progress, lambda: next(ticks))
    assert [asked.first for asked in read] == [1, 2, 3, 4, 5]
    said = terminal.written()
    assert re.findall(r"reading input.jsonl: (\d+) lines", said) == ["3", "5"]
    assert re.search(r"\r {10,}\r$", said)


def test_reading_is_logged_rarely() -> None:
    progress, stream = logged(interval=30.0)
    ticks = iter([0.0, *(float(5 * number) for number in range(1, 11))])
    list(shown(blocks_of(10), progress, lambda: next(ticks)))
    assert stream.getvalue() == "reading input.jsonl: 1 lines\nreading input.jsonl: 7 lines\n"


def test_whoever_wants_no_display_gets_none_of_reading() -> None:
    stream, ticks = io.StringIO(), iter([0.0, 5.0, 10.0])
    list(shown(blocks_of(2), Progress(Display(display="none"), "a", stream), lambda: next(ticks)))
    assert stream.getvalue() == ""


def test_block_is_for_who_asks() -> None:
    told = block(SNAPSHOT).splitlines()
    assert told[0] == "15,491/50,000 done  05:34<12:24  46.4 req/s"
    assert told[3:] == ["  A 3.9/12 s ≤ 26 s  9 attempts", "  B 2.6/7.8 s ≤ 21 s  9 attempts"]
    silent = msgspec.structs.replace(SNAPSHOT, lanes=(Lane(name="C\x1b", attempts=1, succeeded=0, p50=0.0, p95=0.0),))
    assert block(silent).splitlines()[3] == "  C\\x1b no answer yet  1 attempt"


# ---- lines in between ----


def test_notes_are_made_visible_and_quiet_when_asked() -> None:
    progress, stream = logged()
    progress.note("one\x1b[2J\rtwo\nthree")
    assert stream.getvalue() == "one\\x1b[2J\ntwo\nthree\n"
    silent = io.StringIO()
    Progress(Display(quiet=True), "a", silent).note("x")
    assert silent.getvalue() == ""


def test_notes_go_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    written = drawn(80, act=lambda progress: progress.note("a line"))
    assert "a line\r\n" in written
    assert written.index("a line") < written.rindex("in flight")


def test_what_others_log_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stands = []

    def log(progress: Progress) -> None:
        stands.append(list(logging.getLogger().handlers))
        logging.getLogger("somebody.else").warning("said in between")
        progress.show(SNAPSHOT)

    with pytest.MonkeyPatch.context() as patch:
        terminal = Terminal(80)
        patch.setattr(sys, "stderr", terminal.stream)
        console = logging.StreamHandler(terminal.stream)
        logging.getLogger().addHandler(console)
        progress = Progress(Display(display="full"), "a", terminal.stream)
        progress.show(SNAPSHOT)
        log(progress)
        progress.close()
        written = terminal.written()
    assert "said in between\r\n" in written
    assert written.index("said in between") < written.rindex("in flight")
    assert stands[0] != [console]
    assert logging.getLogger().handlers == [console], "as it was"


def test_verbose_tells_failed_attempts_without_the_servers_words() -> None:
    stream = io.StringIO()
    progress = Progress(Display(verbose=True), "a", stream, clock=lambda: NOON)
    progress(failed_attempt())
    progress(failed_attempt(final=True))
    progress(msgspec.structs.replace(failed_attempt(), outcome=Outcome(Kind.CANCELLED, message=DROPPED)))
    assert stream.getvalue().splitlines() == [
        "12:00:00 r\\x1b[31m-7 attempt 2 at A: rate limited (HTTP 429), to be sent again",
        "12:00:00 r\\x1b[31m-7 attempt 2 at A: rate limited (HTTP 429), failed for good",
        "12:00:00 r\\x1b[31m-7 attempt 2 at A: cancelled, dropped as the run ended",
    ]
    other, quiet = logged()
    other(failed_attempt())
    assert quiet.getvalue() == ""


# ---- errors ----


class Broken(io.StringIO):
    """A stream that fails after so many writes."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.parametrize("mode", ["full", "plain", "log"])
@pytest.mark.parametrize("left", range(8))
def test_a_broken_stream_ends_the_display_and_nothing_else(mode: str, left: int) -> None:
    progress = Progress(Display(display=mode, verbose=True), "a", Broken(left), interval=0.0)  # type: ignore[arg-type]
    for second in range(4):
        progress.show(Snapshot(seconds=float(second), total=4, succeeded=second))
        progress(failed_attempt())
        progress.note("x")
    progress.close()
    progress.close()
    assert progress.mode == "none"
    assert repr(progress) == "Progress('a', none)"


def test_odd_figures_do_no_harm() -> None:
    for snapshot in (Snapshot(total=0), Snapshot(total=1, succeeded=2), Snapshot(eta=float("inf"), total=5), SNAPSHOT):
        progress = Progress(Display(display="full"), "a", io.StringIO())
        progress.show(snapshot)
        progress.close()
