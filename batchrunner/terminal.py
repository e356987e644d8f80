"""What a command says to a terminal, and how it lives with one that is closed, gone, full or poor.

Rules:

1. stdout carries the answer to the question, stderr the rest.
2. Whatever goes wrong ends as one sentence with a code and what to do, never as a traceback (BATCHRUNNER_DEBUG=1 shows it).
3. Every word from outside is made visible before it is printed. Marks that a terminal has no letters for have others.
"""

import codecs
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from batchrunner.core.wording import visible
from batchrunner.disk import why
from batchrunner.errors import BatchError, FileError, UsageError

POOR = "batchrunner.poor"
"""The name of what a stream does with letters that it does not have (`reconfigure(errors=POOR)`)."""
_STAND_INS: Mapping[str, str] = {
    "·": "-",
    "×": "x",
    "→": "->",
    "✓": "ok",
    "✗": "x",
    "■": "#",
    "≈": "~",
    "±": "+-",
    "≤": "<=",
    "…": "...",
    "–": "-",
}


def _poorly(error: UnicodeError) -> tuple[str, int]:
    """Our own marks as ASCII, everything else spelled out."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_STAND_INS.get(each) or ascii(each)[1:-1] for each in missing), error.end


codecs.register_error(POOR, _poorly)


def fill_streams() -> None:
    """Put the null device where a standard stream was closed: what is opened next would get its number, and libuv aborts."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def width() -> int:
    """Columns to write in: those of the terminal, within reason. Where stdout goes elsewhere, stderr is asked."""
    try:
        ours = os.get_terminal_size(sys.__stderr__.fileno() if sys.__stderr__ else -1)
    except (OSError, ValueError):
        ours = os.terminal_size((100, 24))
    return max(40, min(100, shutil.get_terminal_size(ours).columns))


def say(said: str, stream: TextIO | None = None) -> None:
    """Print, and live with a reader who has gone: the exit code still tells how it went."""
    stream = stream or sys.stdout
    try:
        print(said, file=stream, flush=True)
    except BrokenPipeError:
        hush(stream)
    except OSError as error:
        raise FileError("E404", f"stdout cannot be written: {error.strerror or error}.") from None


def hush(stream: TextIO) -> None:
    """The reader of a stream has gone: what else is written there goes nowhere, or the interpreter complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(content: bytes) -> bytes:
    """A file's content as stdout gets it: as it is, but a terminal with no more than line breaks and tabs to obey."""
    if not sys.stdout.isatty():
        return content
    return re.sub(r"[^\n\t]+", lambda run: visible(run[0]), content.decode(errors="backslashreplace")).encode()


def refuse_closed(hint: str) -> None:
    """UsageError E401: stdout is closed, so that nothing can be written there; the hint names another place."""
    if sys.stdout is None:
        raise UsageError("E401", "stdout is closed: there is no place for the results", hint)


def carry(piece: bytes) -> None:
    """Write a piece of a file's content to stdout."""
    sys.stdout.buffer.write(printable(piece))


def complain(error: BatchError) -> None:
    """What stops a command, on stderr."""
    hint = "".join(f"\n   {visible(line)}" for line in error.hint.splitlines())
    with suppress(OSError):
        say(f"error: {visible(error.message)} [{error.code}]{hint}", sys.stderr)


def unexpected(error: Exception) -> int:
    """One line for what nobody has foreseen: a file that the system keeps from us, or a fault of ours."""
    if os.environ.get("BATCHRUNNER_DEBUG"):
        with suppress(OSError):
            say(_shown(error), sys.stderr)
    said = (_withheld(error) if isinstance(error, OSError) else None) or _ours(error)
    complain(said)
    return said.exit_code


def _withheld(error: OSError) -> UsageError | None:
    """What the system says of a place; None: it names none."""
    if error.filename is not None:
        hint = "ls -ld on it, and on the folders above, shows who may" if isinstance(error, PermissionError) else ""
        return UsageError("E401", f"{os.fsdecode(error.filename)}: {why(error)}", hint)
    if isinstance(error, FileNotFoundError) and not _somewhere():
        return UsageError("E401", "the directory that this command was started in is gone", "cd to another one, then again")
    return None


def _somewhere() -> bool:
    with suppress(FileNotFoundError):
        return bool(Path.cwd())
    return False


def _ours(error: Exception) -> BatchError:
    """A fault of ours: what and where, but not its message, which may quote anything."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    said = f"unexpected {type(error).__name__} at {place}; results so far are safe."
    return BatchError("E901", said, "BATCHRUNNER_DEBUG=1 shows more")


def _shown(error: Exception) -> str:
    """Its traceback, visible, and without the value of any variable that speaks of a secret: messages may quote anything."""
    from batchrunner.keyring import TELLING
    from batchrunner.secret import Secret, redactor

    told = "".join(traceback.format_exception(error))
    silent = redactor([Secret(value) for name, value in os.environ.items() if TELLING.search(name)])
    return "\n".join(map(visible, (silent(told) if silent else told).splitlines()))
