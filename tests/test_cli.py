"""cli and usage: parsing, help, errors and config show; nothing here needs an engine."""

import errno
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner import cli, terminal, usage
from batchrunner.core.model import Kind
from batchrunner.errors import BatchError, FileError, StopError
from batchrunner.meter import Snapshot
from batchrunner.report.invocation import Invocation
from batchrunner.report.preview import CheckReport
from batchrunner.settings import OPTIONS, Settings
from batchrunner.summary import Report, summarise
from tests.test_progress import Terminal

ROOT = Path(__file__).parent.parent


class Batch(types.ModuleType):
    """Stands in for `batch` and `foreground`: remembers what it was asked, answers what it was told."""

    def __init__(self) -> None:
        super().__init__("batchrunner.batch")
        self.settings = Settings()
        self.reopen: Callable[[str], bool] | None = None
        self.snapshot = Snapshot(total=2, succeeded=2, seconds=1.0)
        self.error: BaseException | None = None

    def execute(
        self,
        settings: Settings,
        *,
        reopen: Callable[[str], bool] | None = None,
        origins: Mapping[str, str] = {},
        said: Invocation | None = None,
    ) -> Report:
        self.settings, self.reopen = settings, reopen
        if self.error:
            raise self.error
        return Report(summarise(self.snapshot, settings.input), self.snapshot, "a.results.jsonl", "a.errors.jsonl")

    def status(self, settings: Settings) -> Report:
        return self.execute(settings)

    def check(self, settings: Settings) -> CheckReport:
        self.settings = settings
        return CheckReport(input=settings.input, requests=3, problems=1)


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Batch:
    """The stand-in, in an empty directory without a user's file."""
    fake = Batch()
    for name in ("batch", "foreground", "checking"):
        monkeypatch.setitem(sys.modules, f"batchrunner.{name}", fake)
        monkeypatch.setattr(batchrunner, name, fake, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/batchrunner"])
    return fake


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- help and version ----


def test_short_help_is_one_screen_and_full_help_is_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # xdist's workers believe in 80
    code, short, err = said(capsys, "-h")
    assert (code, err) == (0, "")
    assert len(short.splitlines()) <= 55
    _, full, _ = said(capsys, "--help")
    for each in OPTIONS.values():
        assert each.flags[-1] in full
        assert (f" {each.flags[-1]} " in short or f" {each.flags[-1]}\n" in short) == each.main
    assert max(map(len, (short + full).splitlines())) <= 101


@pytest.mark.parametrize("width", [60, 80, 100])
def test_option_lines_fit_their_width(width: int) -> None:
    listed = usage.full(width).split("Input and output")[1].split("Other options")[0]
    assert max(map(len, listed.splitlines())) <= max(width, usage.COLUMN + 30)


@pytest.mark.parametrize(("given", "columns"), [(1, 40), (45, 45), (80, 80), (300, 100)])
def test_text_is_as_wide_as_the_terminal_within_reason(given: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(given))
    assert terminal.width() == columns


@pytest.mark.parametrize(("there", "columns"), [(True, 60), (False, 100)])
def test_where_stdout_goes_elsewhere_the_terminal_is_that_of_stderr(
    there: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal(60)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    monkeypatch.setattr(sys, "__stderr__", screen.stream if there else None)
    assert terminal.width() == columns
    screen.written()


def test_full_help_names_every_verb_and_its_options() -> None:
    for name, verb in cli.VERBS.items():
        assert name in usage.full()
        for flag in verb.own:
            assert flag in usage.full()


@pytest.mark.parametrize("verb", sorted(cli.VERBS.keys() - {"run"}))
def test_a_verb_has_a_page_of_its_own(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, page, err = said(capsys, "help", verb)
    assert (code, err) == (0, "")
    assert page.startswith(f"usage: batchrunner {verb} ")
    assert set(re.findall(r"^ +(--\w+)", page, re.MULTILINE)) == cli.VERBS[verb].own.keys()
    assert len(page.splitlines()) <= 12
    assert [said(capsys, verb, flag)[1] for flag in ("-h", "--help")] == [page, page]


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "help") == said(capsys, "run", "-h") == said(capsys, "-h")
    assert said(capsys, "help", "run") == said(capsys, "run", "--help") == said(capsys, "--help")
    code, out, err = said(capsys, "help", "chekc")
    assert (code, out) == (2, "")
    assert "Did you mean check?" in err


def test_defaults_are_written_as_people_write_them() -> None:
    shown = {name: usage.written(each) for name, each in OPTIONS.items()}
    assert (shown["max_timeout"], shown["max_response"], shown["concurrency"], shown["limit"], shown["quiet"]) == (
        "10m",
        "256MiB",
        "auto",
        "",
        "",
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"batchrunner {batchrunner.__version__}\n", "")


def test_help_wins_over_whatever_else_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "retry", "--nonsense", "-h")[0] == 0


def test_nothing_typed_is_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: batchrunner")


# ---- from words to settings ----


@pytest.mark.parametrize(
    "argv",
    [
        ["a.jsonl", "-c", "4", "--model", "m"],
        ["run", "a.jsonl", "-c4", "--model=m"],
        ["-c", "4", "a.jsonl", "--model", "m"],
        ["--model", "m", "--concurrency=4", "--", "a.jsonl"],
        ["run", "-c", "9", "-c", "4", "--model", "m", "a.jsonl"],
    ],
)
def test_first_word_that_is_no_verb_is_the_input(batch: Batch, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert said(capsys, *argv)[0] == 0
    assert (batch.settings.input, batch.settings.concurrency.concurrency, batch.settings.service.model) == ("a.jsonl", 4, "m")
    assert batch.reopen is None


def test_options_that_repeat_and_switches(
    batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHRUNNER_STRICT_OPENAI", "yes")
    said(capsys, "--base-url", "http://a", "--base-url", "http://b", "--fresh", "--no-strict-openai", "a.jsonl", "-q")
    found = batch.settings
    assert found.service.base_url == ("http://a", "http://b")
    assert (found.fresh, found.records.strict_openai, found.display.quiet) == (True, False, True)


def test_an_input_that_looks_like_an_option_or_a_verb(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "--", "-odd.jsonl")
    assert batch.settings.input == "-odd.jsonl"
    said(capsys, "run", "status")
    assert batch.settings.input == "status"
    said(capsys, "-", "-o", "out")
    assert batch.settings.input == "-"


def test_every_option_is_accepted_by_its_flag(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"header": "A=1", "max_failures": "5%", "price": "m=1/2", "otel": "0.5", "shard": "1/2", "where": "line < 9"}
    odd |= {"api_key_env": "MY_KEY", "workers": "2", "param": "a=1", "image_quality": "80", "proxy": "h:1"}
    odd |= {"route": "/x", "connect_timeout": "7", "first_byte_timeout": "7", "idle_timeout": "7"}
    folder, judge = ["--cache", "there"], ["--expect", "json"]
    use = {"cache_all": folder, "cache_size": folder, "image_quality": ["--max-image-px", "9"], "feedback": judge, "reask": judge}
    for name, each in OPTIONS.items():
        value = [] if each.type is bool else [odd.get(name) or (each.choices or ("7000",))[0]]
        code, _, err = said(capsys, "a.jsonl", *(each.flags[0], *value), *use.get(name, []))
        assert (code, err) == (0, ""), name


def test_a_flag_that_may_stand_alone_leaves_the_input_alone(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, port in (
        (["--dashboard", "a.jsonl"], 8377),
        (["--dashboard", "9000", "a.jsonl"], 9000),
        (["a.jsonl", "--dashboard=9000"], 9000),
        (["a.jsonl", "--dashboard"], 8377),
        (["a.jsonl"], 0),
    ):
        assert said(capsys, *argv)[0] == 0
        assert (batch.settings.input, batch.settings.display.dashboard) == ("a.jsonl", port)


# ---- errors ----


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["a.jsonl", "--max-attempt", "3"], "E001", ["--max-attempt: no such option", "Did you mean --max-attempts?"]),
        (["a.jsonl", "--concurency=3"], "E001", ["--concurency: no such option", "--concurrency"]),
        (["status", "a.jsonl", "--zzz"], "E001", ["batchrunner status --help"]),
        (["status", "a.jsonl", "--all"], "E001", ["--all: no such option of status"]),
        (["a.jsonl", "-x"], "E001", ["-x: no such option"]),
        (["a.jsonl", "--done", "b"], "E001", ["--done: no such option", "It is one of retry."]),
        (["a.jsonl", "--nosuch"], "E001", ["no such option. [E001]\n   All there are: batchrunner run --help\n"]),
        (["a.jsonl", "--no-quite"], "E001", ["Did you mean --no-quiet?"]),
        (["chekc", "a.jsonl"], "E003", ["what is 'a.jsonl'", "Did you mean check?"]),
        (["config", "shwo"], "E001", ["config shwo", "config show"]),
        (["a.jsonl", "--timeout"], "E002", ["--timeout", "expected one argument"]),
        (["a.jsonl", "--timeout", "soon"], "E002", ["--timeout: 'soon' is not a duration", "1h30m"]),
        (["a.jsonl", "--fresh=maybe"], "E002", ["--fresh"]),
        (["retry", "a.jsonl", "--kind", "timeout_idel"], "E002", ["timeout_idel", "timeout_idle"]),
        (["simulate", "--port", "x"], "E002", ["--port"]),
        (["simulate", "--port", "80000"], "E002", ["--port: 80000", "no such port"]),
        (["simulate", "--port", "٣"], "E002", ["--port"]),
        (["a.jsonl", "b.jsonl"], "E003", ["'b.jsonl'"]),
        (["a.jsonl", "-q", "-v"], "E003", ["quiet"]),
        (["a.jsonl", "--json", "-o", "-"], "E003", ["stdout"]),
        (["retry", "a.jsonl", "--all", "--kind", "policy"], "E003", ["--all and --kind"]),
        (["frobnicate"], "E201", ["no such file, and no such command", "Commands: run, submit"]),
        (["exprt"], "E201", ["Did you mean export?"]),
        (["run"], "E201", ["no input file", "batchrunner run jobs/input.jsonl"]),
        (["status", "--json"], "E201", ["no input file"]),
    ],
)
def test_wrong_usage(batch: Batch, capsys: pytest.CaptureFixture[str], argv: list[str], code: str, parts: list[str]) -> None:
    status, out, err = said(capsys, *argv)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert f"[{code}]" in err.splitlines()[0]
    for part in parts:
        assert part in err


def test_files_that_a_shell_has_found_are_named(batch: Batch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / "a b.jsonl", tmp_path / "c.jsonl"]
    for file in files:
        file.touch()
    code, _, err = said(capsys, *map(str, files))
    assert code == 2
    assert f"cat '{files[0]}' {files[1]} > all.jsonl" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BatchError("E901", "internal error: KeyError"), 4),
        (StopError("E301", "the key was refused.", "Get another.\nOr two."), 3),
        (FileError("E404", "disk\x1b[2J full."), 4),
    ],
)
def test_errors_end_as_a_sentence_a_code_and_a_hint(
    batch: Batch, capsys: pytest.CaptureFixture[str], error: BatchError, code: int
) -> None:
    batch.error = error
    status, out, err = said(capsys, "a.jsonl")
    assert (status, out) == (code, "")
    assert err.splitlines()[0].endswith(f"[{error.code}]")
    assert "\x1b" not in err
    assert "Traceback" not in err
    assert err.splitlines()[1:] == [f"   {line}" for line in error.hint.splitlines()]


def test_what_nobody_expected_is_one_line_without_its_message(
    batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.error = RuntimeError("the key is hunter2")
    status, out, err = said(capsys, "a.jsonl")
    assert (status, out) == (4, "")
    assert err.startswith("error: unexpected RuntimeError at test_cli.py:")
    assert "[E901]" in err
    assert "BATCHRUNNER_DEBUG=1" in err
    assert "hunter2" not in err
    assert "Traceback" not in err
    monkeypatch.setenv("BATCHRUNNER_DEBUG", "1")
    assert "Traceback" in said(capsys, "a.jsonl")[2]


def test_a_file_that_the_system_withholds_is_named(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.error = PermissionError(errno.EACCES, "Permission denied", "a.run/summary.json")
    status, out, err = said(capsys, "a.jsonl")
    assert (status, out) == (2, "")
    assert err.startswith("error: a.run/summary.json: permission denied [E401]\n   ls -ld")


def test_an_interrupt_is_130(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.error = KeyboardInterrupt()
    assert said(capsys, "a.jsonl") == (130, "", "")


# ---- what is printed where ----


def test_the_summary_goes_to_stdout_as_text_or_json(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "a.jsonl")
    assert (code, err) == (0, "")
    assert out.startswith("✓ 2 of 2 succeeded")
    code, out, err = said(capsys, "a.jsonl", "--json")
    assert (len(out.splitlines()), json.loads(out)["succeeded"], err) == (1, 2, "")
    assert len(said(capsys, "a.jsonl", "-q")[1].splitlines()) == 1


def test_results_on_stdout_push_the_summary_to_stderr(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = said(capsys, "a.jsonl", "-o", "-")
    assert out == ""
    assert "2 of 2" in err


def test_the_exit_code_is_the_summarys(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.snapshot = Snapshot(total=2, succeeded=1, failed=1, failures={Kind.QUOTA: 1})
    code, out, _ = said(
        capsys, "a b.jsonl", "-o", "x", "--base-url", "http://h", "--header", "Key=hunter2", "--config", os.devnull
    )
    assert code == 1
    assert "batchrunner retry 'a b.jsonl' -o x --base-url http://h --header 'Key=…' --config /dev/null\n" in out
    assert "hunter2" not in out


def test_a_module_run_names_itself_so(batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/batchrunner/__main__.py"])
    batch.snapshot = Snapshot(total=2, succeeded=1)
    assert "  next      python -m batchrunner a.jsonl     continues" in said(capsys, "a.jsonl")[1]


@pytest.mark.parametrize("argv", [["check", "a.jsonl"], ["a.jsonl", "--dry-run"]])
def test_check_and_dry_run_are_the_same(batch: Batch, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, out, _ = said(capsys, *argv)
    assert code == 2
    assert out.startswith("3 requests, 1 problem")
    assert json.loads(said(capsys, *argv, "--json")[1])["requests"] == 3


def test_status(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "status", "a.jsonl")[1].startswith("a.jsonl  100 % · 2 of 2 done")
    assert json.loads(said(capsys, "status", "a.jsonl", "--json")[1])["total"] == 2


@pytest.mark.parametrize(
    ("options", "reopened"),
    [
        ([], {"timeout_total", "quota", "invented_later"}),
        (["--all"], {"timeout_total", "quota", "context", "policy", "invented_later"}),
        (["--kind", "context", "--kind", "quota"], {"context", "quota"}),
    ],
)
def test_retry_reopens(batch: Batch, capsys: pytest.CaptureFixture[str], options: list[str], reopened: set[str]) -> None:
    assert said(capsys, "retry", "a.jsonl", *options)[0] == 0
    assert batch.reopen is not None
    kinds = ("timeout_total", "quota", "context", "policy", "invented_later")
    assert {kind for kind in kinds if batch.reopen(kind)} == reopened


# ---- config ----


def test_config_show_says_what_and_whence(
    batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("batchrunner.toml").write_text("max_attempts = 3\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hunter2@h/v1")
    code, out, err = said(capsys, "config", "show", "--origin", "--timeout", "2m", "--header", "Key=hunter2")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert set(rows) == set(OPTIONS)
    assert rows["max_attempts"] == "3 file batchrunner.toml"
    assert rows["timeout"] == "120.0 command line"
    assert rows["base_url"] == '["http://…@h/v1"] environment OPENAI_BASE_URL'
    assert rows["grace"] == "20.0 default"
    assert "hunter2" not in out
    assert "default" not in said(capsys, "config", "show")[1]


def test_config_show_as_json(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    plain: dict[str, Any] = json.loads(said(capsys, "config", "show", "--json")[1])
    assert plain["max_attempts"] == 8
    told = json.loads(said(capsys, "config", "--json", "--origin")[1])
    assert told["max_attempts"] == {"value": 8, "origin": "default"}
    assert told["json"]["origin"] == "default"


def test_config_schema(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(json.loads(said(capsys, "config", "schema")[1])["$defs"]["batchrunner"]["properties"]) == {
        *OPTIONS,
        "prices",
        "endpoint",
    }


# ---- as a process ----


def process(*argv: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, check=False, **more)


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["--version"], ["--nonsense"], ["config", "show", "--origin"], ["status"]])
def test_light_commands_do_not_load_the_engine(argv: list[str]) -> None:
    code = (
        "import sys; from batchrunner.cli import main; main(sys.argv[1:]);"
        "heavy = {'aiohttp', 'uvloop', 'tqdm', "
        "*(f'batchrunner.{room}' for room in ('batch', 'transport', 'engine', 'simulator'))};"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 77)"
    )
    found = process("-c", code, *argv)
    assert found.returncode == 77, found.stderr


def test_python_m_is_the_command() -> None:
    found = process("-m", "batchrunner", "--version")
    assert (found.returncode, found.stdout) == (0, f"batchrunner {batchrunner.__version__}\n")


def test_a_reader_who_leaves_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        found = subprocess.run(
            [sys.executable, "-m", "batchrunner", "--help"],
            stdout=broken,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_stdout_is_a_local_fault() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "batchrunner", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (found.returncode, found.stderr.count("\n")) == (4, 1)
    assert "[E404]" in found.stderr


def test_a_poor_locale_is_no_fault() -> None:
    found = process("-m", "batchrunner", "-h", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stderr) == (0, "")
    assert "\\" not in found.stdout


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", "✓ 3 · 4 → é 漢"), ("latin-1", "ok 3 · 4 -> é \\u6f22"), ("ascii", "ok 3 - 4 -> \\xe9 \\u6f22")],
)
def test_marks_that_a_terminal_does_not_have(encoding: str, said: str) -> None:
    assert "✓ 3 · 4 → é 漢".encode(encoding, terminal.POOR).decode(encoding) == said
