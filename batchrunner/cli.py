"""The command line: what was typed becomes settings, settings become a run, its end becomes an exit code.

Rules:

1. Help, version, `config` and every usage error cost no more than a start of Python: what runs requests is imported
   only when requests are to run.
2. stdout carries the answer to the question (summary, status, check, settings, or the results with `-o -`), stderr the rest.
3. Whatever goes wrong ends as one sentence with a code and what to do, never as a traceback (BATCHRUNNER_DEBUG=1 shows it).
4. Exit codes: 0 all succeeded · 1 some failed · 2 usage · 3 stopped early · 4 local fault · 130/143 signal.
"""

import argparse
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import msgspec
from msgspec import Struct

from batchrunner import __version__, origins, usage
from batchrunner.core.model import Kind
from batchrunner.errors import BatchError, FileError, UsageError
from batchrunner.report import text
from batchrunner.settings import OPTIONS, Settings, masked, schema, values

REPEATED = ("output", "base_url", "provider", "api_key_env", "auth", "model")
"""Options that the next command to type must say again; none of them holds a secret."""


class Call(Struct, frozen=True):
    """One command as typed: its verb, its words, the settings among its options, and the verb's own options."""

    verb: str
    words: tuple[str, ...]
    typed: Mapping[str, Any]
    own: Mapping[str, Any]

    def resolved(self) -> origins.Resolved:
        """Settings in force for this command; its input is the one word that may be there."""
        environ = os.environ
        flags = {**self.typed, "input": self.words[0] if self.words else ""}
        return origins.resolve(flags, environ, Path(), origins.user_file(environ))

    def job(self) -> text.Job:
        """What the next command to type must say again."""
        program = ("python", "-m", "batchrunner") if Path(sys.argv[0]).name == "__main__.py" else ("batchrunner",)
        said = [(flag, item) for flag, value in self._repeated() for item in (value if isinstance(value, list) else [value])]
        return text.Job(input=self.words[0], program=program, options=tuple(part for pair in said for part in pair))

    def _repeated(self) -> list[tuple[str, Any]]:
        kept = [(OPTIONS[name].flags[0], self.typed[name]) for name in REPEATED if name in self.typed]
        return [*kept, ("--config", self.typed["config"])] if "config" in self.typed else kept


# ---- verbs ----


def _run(call: Call) -> int:
    if call.own.get("dry_run"):
        return _check(call)
    return _executed(call, None)


def _retry(call: Call) -> int:
    kinds = call.own.get("kind", [])
    if kinds and call.own.get("all"):
        raise UsageError("E003", "--all and --kind exclude each other.")
    if "fresh" in call.typed:
        raise UsageError(
            "E003", "retry keeps earlier results; --fresh drops them.", "For a new start: batchrunner run INPUT --fresh"
        )
    for kind in kinds:
        if kind not in list(Kind):
            raise UsageError("E002", f"--kind: {kind!r} is not a kind of failure.", origins.nearest(kind, list(Kind)))
    return _executed(call, _reopener(kinds, bool(call.own.get("all"))))


def _reopener(kinds: Sequence[str], every: bool) -> Callable[[str], bool]:
    """Which kinds of failure to send again: those named, all, or those that can succeed."""
    if kinds:
        return set(kinds).__contains__
    return lambda kind: every or kind not in text.HOPELESS


def _executed(call: Call, reopen: Callable[[str], bool] | None) -> int:
    settings = _with_input(call)
    from batchrunner import foreground

    ending = foreground.execute(settings, reopen=reopen)
    said = ending.summary.to_json().decode() if settings.display.json else text.final(ending, call.job(), settings.display.quiet)
    _say(said, sys.stderr if settings.output == "-" else sys.stdout)
    return ending.exit_code


def _check(call: Call) -> int:
    settings = _with_input(call)
    from batchrunner import batch

    found = batch.check(settings)
    _say(found.to_json().decode() if settings.display.json else text.check(found, call.job()))
    return found.exit_code


def _status(call: Call) -> int:
    settings = _with_input(call)
    from batchrunner import batch

    ending = batch.status(settings)
    _say(ending.summary.to_json().decode() if settings.display.json else text.status(ending, call.job()))
    return ending.exit_code


def _simulate(call: Call) -> int:
    port, seed = (_whole(call, name, default) for name, default in (("port", 8765), ("seed", 1)))
    import asyncio

    from batchrunner import simulator

    profile = msgspec.structs.replace(simulator.profile_named(call.own.get("profile", "calm")), seed=seed)
    _say(f"http://127.0.0.1:{port}/v1 answers until Ctrl-C; its answers are simulated", sys.stderr)
    try:
        asyncio.run(simulator.serve(port, profile))
    except OSError as error:
        raise UsageError(
            "E002", f"--port: {port} cannot be used: {error.strerror or error}.", "Choose another with --port N"
        ) from None
    return 0


def _whole(call: Call, name: str, default: int) -> int:
    said = call.own.get(name, str(default))
    if not (said.isascii() and said.isdigit()):
        raise UsageError("E002", f"--{name}: {said!r} is not a whole number.")
    return int(said)


def _config(call: Call) -> int:
    wanted = call.words[0] if call.words else "show"
    if wanted == "schema":
        _say(msgspec.json.format(msgspec.json.encode(schema())).decode())
    elif wanted == "show":
        _show(call)
    else:
        raise UsageError("E001", f"config {wanted}: no such command.", "Try: batchrunner config show --origin")
    return 0


def _show(call: Call) -> None:
    typed = {name: value for name, value in call.typed.items() if name != "json"}
    resolved = origins.resolve(typed, os.environ, Path(), origins.user_file(os.environ))
    shown = {name: masked(name, value) for name, value in values(resolved.settings).items()}
    told = bool(call.own.get("origin"))
    if call.typed.get("json"):
        rows = {name: {"value": value, "origin": resolved.origins[name]} if told else value for name, value in shown.items()}
        _say(msgspec.json.encode(rows).decode())
        return
    literal = {name: text.visible(msgspec.json.encode(value).decode()) for name, value in shown.items()}
    wide = max(len(value) for value in literal.values())
    lines = (
        f"{name:<20} {value:<{wide}}  {text.visible(resolved.origins[name]) if told else ''}" for name, value in literal.items()
    )
    _say("\n".join(line.rstrip() for line in lines))


def _with_input(call: Call) -> Settings:
    if not call.words:
        raise UsageError("E201", "no input file was named.", f"Try: batchrunner {call.verb} jobs/input.jsonl")
    return call.resolved().settings


class Verb(Struct, frozen=True):
    """What a verb does, and the options that only it takes: flag to argparse's keywords."""

    act: Callable[[Call], int]
    own: Mapping[str, Mapping[str, Any]] = {}


VERBS: Mapping[str, Verb] = {
    "run": Verb(_run, {"--dry-run": {"action": "store_true"}}),
    "check": Verb(_check),
    "retry": Verb(_retry, {"--all": {"action": "store_true"}, "--kind": {"action": "append"}}),
    "status": Verb(_status),
    "simulate": Verb(_simulate, {"--port": {}, "--profile": {}, "--seed": {}}),
    "config": Verb(_config, {"--origin": {"action": "store_true"}}),
}


# ---- from words to a call ----


class _Parser(argparse.ArgumentParser):
    """argparse, with our kind of error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("E002", f"{message.removeprefix('argument ')}.", "All options: batchrunner --help")


def _parser(verb: Verb) -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", dest="help", action="store_const", const=usage.short)
    parser.add_argument("--help", dest="help", action="store_const", const=usage.full)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--config")
    for flag, keywords in verb.own.items():
        parser.add_argument(flag, **keywords)
    for each in OPTIONS.values():
        action: Any = {bool: argparse.BooleanOptionalAction, tuple: "append"}.get(each.type, "store")
        parser.add_argument(*each.flags, action=action)
    return parser


def _call(argv: Sequence[str]) -> tuple[Call, dict[str, Any]]:
    """The command, and what was asked in its place: help or version."""
    name, words = (argv[0], argv[1:]) if argv and argv[0] in VERBS else ("run", argv)
    verb = VERBS[name]
    parser = _parser(verb)
    end = words.index("--") if "--" in words else len(words)
    found, loose = parser.parse_known_args(list(words[:end]))
    said = vars(found)
    asked: dict[str, Any] = {key: said.pop(key) for key in ("help", "version") if key in said}
    if not asked:
        _refuse_unknown(loose, parser, name)
    own = {key: said.pop(key) for key in (flag[2:].replace("-", "_") for flag in verb.own) if key in said}
    return Call(name, (*loose, *words[end + 1 :]), said, own), asked


def _refuse_unknown(loose: Sequence[str], parser: _Parser, verb: str) -> None:
    """What the parser left over is the input, unless it looks like an option."""
    for word in loose:
        if word.startswith("-") and word != "-":
            flag = word.partition("=")[0]
            known = [each for each in parser._option_string_actions if each.startswith("--")]
            raise UsageError(
                "E001", f"{flag}: no such option{' of ' + verb if verb != 'run' else ''}.", origins.nearest(flag, known)
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _fill_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a poor locale may miss ✓
    try:
        return _answered(sys.argv[1:] if argv is None else argv)
    except BatchError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last one to hear of it
        return _unexpected(error)


def _fill_streams() -> None:
    """Put the null device where a standard stream was closed: what is opened next would get its number, and libuv aborts."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _answered(argv: Sequence[str]) -> int:
    if not argv:
        _say(usage.short(_width()), sys.stderr)
        return 2
    call, asked = _call(argv)
    if asked:
        _say(asked["help"](_width()) if "help" in asked else f"batchrunner {__version__}")
        return 0
    if len(call.words) > 1:
        raise UsageError("E003", f"one input at a time: what is {call.words[1]!r}?", "The verb comes first, then the input.")
    return VERBS[call.verb].act(call)


# ---- to the terminal ----


def _width() -> int:
    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))


def _say(said: str, stream: TextIO | None = None) -> None:
    """Print, and live with a reader who has gone: the exit code still tells how it went."""
    stream = stream or sys.stdout
    try:
        print(said, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or the interpreter complains at its end
    except OSError as error:
        raise FileError("E404", f"stdout cannot be written: {error.strerror or error}.") from None


def _complain(error: BatchError) -> None:
    hint = "".join(f"\n   {text.visible(line)}" for line in error.hint.splitlines())
    with suppress(OSError):
        _say(f"error: {text.visible(error.message)} [{error.code}]{hint}", sys.stderr)


def _unexpected(error: Exception) -> int:
    """One line for a fault of ours: what and where, but not its message, which may quote anything."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    if os.environ.get("BATCHRUNNER_DEBUG"):
        traceback.print_exception(error)
    _complain(
        FileError(
            "E901", f"unexpected {type(error).__name__} at {place}; results so far are safe.", "BATCHRUNNER_DEBUG=1 shows more"
        )
    )
    return 4
