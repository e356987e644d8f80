"""A command of the user's own at the end of a run: a message, a mail, the next job.

Rules:

1. No shell: the command is split as a shell would split it, and nothing of ours becomes a part of it.
2. It gets the summary as one line of JSON on stdin, and the few facts a script needs as BATCHRUNNER_ variables.
   A run that broke off on an error has a summary too: input, error, exit code.
3. It is waited for, but not for ever, and what becomes of it changes nothing: its fault is one line for people.
"""

import asyncio
import os
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress

from batchrunner.errors import BatchError, UsageError
from batchrunner.records import written_out
from batchrunner.summary import Report

PATIENCE = 60.0  # seconds
_HINT = "It is run without a shell; where one is needed: --notify 'sh -c \"cat > told.json\"'"


def check(command: str) -> None:
    """Refuse a command that cannot be run before anything is sent. UsageError E002; it may hold a secret, and is not repeated."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError("E002", f"--notify: the command cannot be split: {error}.", _HINT) from None
    if command and not shutil.which(words[0] if words else ""):
        raise UsageError("E002", f"--notify: there is no program {words[0] if words else ''!r} that may be run.", _HINT)


async def notify(command: str, ending: Report | BatchError, job: str, patience: float = PATIENCE) -> str:
    """Run the command, one that passes `check`, and wait for it. Returns what went wrong, "" for nothing."""
    words = shlex.split(command)
    try:
        return await _run(words, told(ending, job), {**os.environ, **_facts(ending, job)}, patience)
    except (OSError, ValueError) as error:
        return f"--notify: {words[0]} cannot be run: {getattr(error, 'strerror', None) or type(error).__name__}"


def told(ending: Report | BatchError, job: str) -> bytes:
    """The line of JSON that the command reads."""
    if isinstance(ending, Report):
        return ending.summary.to_json() + b"\n"
    known = ending.report.to_dict() if ending.report else {"v": 1, "input": job}
    error = {"code": ending.code, "message": ending.message}
    return written_out({**known, "error": error, "exit_code": ending.exit_code}) + b"\n"


def _facts(ending: Report | BatchError, job: str) -> Mapping[str, str]:
    facts = {"INPUT": job, "EXIT_CODE": str(ending.exit_code)}
    report = ending if isinstance(ending, Report) else ending.report
    if report:
        summary = report.summary
        counts = {name: str(getattr(summary, name)) for name in ("total", "succeeded", "failed", "invalid", "pending")}
        facts |= {name.upper(): count for name, count in counts.items()}
        facts |= {"RESULTS": report.results, "ERRORS": report.errors, "STOPPED": summary.stopped or ""}
    if isinstance(ending, BatchError):
        facts |= {"ERROR": ending.code}
    return {f"BATCHRUNNER_{name}": value.replace("\0", "") for name, value in facts.items()}


async def _run(words: list[str], line: bytes, environ: Mapping[str, str], patience: float) -> str:
    # Its output goes to our stderr: stdout may carry results.
    command = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.PIPE, stdout=2, env=environ)
    try:
        async with asyncio.timeout(patience):
            with suppress(RuntimeError):  # uvloop's word for a pipe whose reader ended before it read
                await command.communicate(line)
            await command.wait()
    except TimeoutError:
        return f"--notify: {words[0]} was ended after {patience:g} s"
    finally:
        if command.returncode is None:
            with suppress(ProcessLookupError):
                command.kill()
            await command.wait()
    return f"--notify: {words[0]} ended with {command.returncode}" if command.returncode else ""
