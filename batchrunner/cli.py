"""The command line: what was typed becomes a call of a verb, its end becomes an exit code.

Rules:

1. Help, version and every usage error cost no more than a start of Python (`verbs`).
2. The first word is the verb; without one it is `run`. What is neither an option nor its value is the input.
3. Exit codes: 0 all succeeded · 1 some failed · 2 usage · 3 stopped early · 4 a fault of disk, file or program · 130/143 signal.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from batchrunner import __version__, usage
from batchrunner.call import Call
from batchrunner.errors import BatchError, UsageError, nearest
from batchrunner.settings import OPTIONS
from batchrunner.terminal import POOR, complain, fill_streams, say, unexpected, width
from batchrunner.verbs import VERBS, Verb


class _Parser(argparse.ArgumentParser):
    """argparse, with our kind of error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("E002", f"{message.removeprefix('argument ')}.", "All options: batchrunner --help")


def _parser(name: str, verb: Verb) -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    whole = partial(usage.of, name)
    parser.add_argument("-h", dest="help", action="store_const", const=usage.short if name == "run" else whole)
    parser.add_argument("--help", dest="help", action="store_const", const=whole)
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
    parser = _parser(name, verb)
    end = words.index("--") if "--" in words else len(words)
    found, loose = parser.parse_known_args(list(_completed(words[:end])))
    said = vars(found)
    asked: dict[str, Any] = {key: said.pop(key) for key in ("help", "version") if key in said}
    if not asked:
        _refuse_unknown(loose, parser, name)
    own = {key: said.pop(key) for key in (flag[2:].replace("-", "_") for flag in verb.own) if key in said}
    return Call(name, (*loose, *words[end + 1 :]), said, own), asked


def _completed(words: Sequence[str]) -> Iterator[str]:
    """Give a flag that may stand alone the value it then means: only a number after it is its own."""
    bare = {flag: each.bare for each in OPTIONS.values() if each.bare for flag in each.flags}
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        yield f"{word}={bare[word]}" if word in bare and not after.isdigit() else word


def _refuse_unknown(loose: Sequence[str], parser: _Parser, verb: str) -> None:
    """What the parser left over is the input, unless it looks like an option."""
    for word in loose:
        if word.startswith("-") and word != "-":
            flag = word.partition("=")[0]
            whose = [name for name, each in VERBS.items() if flag in each.own]
            said = f"{flag}: no such option{' of ' + verb if verb != 'run' else ''}."
            meant = f"It is one of {' and '.join(whose)}." if whose else _meant(flag, parser)
            raise UsageError("E001", said, meant or f"All there are: batchrunner {verb} --help")


def _meant(flag: str, parser: argparse.ArgumentParser) -> str:
    """The option that was probably meant; one that turns something off only where that was asked for."""
    known = (each for each in parser._option_string_actions if each.startswith("--"))
    stems = [each[2:] for each in known if flag.startswith("--no-") or not each.startswith("--no-")]
    return nearest(flag.lstrip("-"), stems).replace("mean ", "mean --")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    fill_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors=POOR)  # type: ignore[union-attr]
    try:
        return _answered(sys.argv[1:] if argv is None else argv)
    except BatchError as error:
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last one to hear of it
        return unexpected(error)


def _answered(argv: Sequence[str]) -> int:
    if not argv:
        say(usage.short(width()), sys.stderr)
        return 2
    call, asked = _call(argv)
    if asked:
        say(asked["help"](width()) if "help" in asked else f"batchrunner {__version__}")
        return 0
    if len(call.words) > VERBS[call.verb].most:
        raise UsageError("E003", f"one input at a time: what is {call.words[1]!r}?", _one_input(argv[0], call))
    if call.words and argv[0] != call.verb:
        _refuse_lone_word(call.words[0])
    return VERBS[call.verb].act(call)


def _one_input(first: str, call: Call) -> str:
    """What to do about more words than a verb takes."""
    if all(Path(word).is_file() for word in call.words):
        return f"Run each by itself, or put them together first:  cat {shlex.join(call.words)} > all.jsonl"
    return (first != call.verb and nearest(call.words[0], VERBS)) or "The verb comes first, then the input."


def _refuse_lone_word(word: str) -> None:
    """A word that is no file either was meant for a verb."""
    if word.isidentifier() and not Path(word).exists():
        hint = nearest(word, VERBS) or f"Commands: {', '.join(VERBS)}"
        raise UsageError("E201", f"{word}: there is no such file, and no such command.", hint)
