"""One command as it was typed: what it says, what is in force for it, and what the next one must say again.

Rules:

1. Nothing is read, neither environment nor files, until a verb asks for what is in force.
2. The next command says again what was typed; where this one only looks at a job, what the job's last run was given.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from batchrunner import origins, retyped
from batchrunner.errors import UsageError
from batchrunner.report.invocation import Invocation
from batchrunner.settings import Settings


class Call(Struct, frozen=True):
    """One command as typed: its verb, its words, the settings among its options, and the verb's own options."""

    verb: str
    words: tuple[str, ...]
    typed: Mapping[str, Any]
    own: Mapping[str, Any]

    def resolved(self) -> origins.Resolved:
        """Settings in force for this command; its input is the one word that may be there. UsageError E002: -o without a name."""
        environ = os.environ
        if self.typed.get("output") == "":  # such as "$UNSET": results would go where nobody looks for them
            raise UsageError("E002", "--output: '' names no file.", "Name one, or leave -o out.")
        flags = {**self.typed, "input": self.words[0] if self.words else ""}
        return origins.resolve(flags, environ, Path(), origins.user_file(environ))

    def of_job(self) -> origins.Resolved:
        """The same for a command that is about a job. UsageError E201: no input was named."""
        if not self.words:
            raise UsageError("E201", "no input file was named.", f"Try: batchrunner {self.verb} jobs/input.jsonl")
        return self.resolved()

    def again(self, before: Mapping[str, Any] = {}, run: bool = True) -> Invocation:
        """What the next command to type must say again: what was typed, and `before` it by an earlier run.

        `run`: this command has run the job, or looks at one that was.
        """
        program = ("python", "-m", "batchrunner") if Path(sys.argv[0]).name == "__main__.py" else ("batchrunner",)
        given = {**{name: value for name, value in before.items() if retyped.matters(name)}, **self.typed}
        words, hides = retyped.words(given, run), retyped.hides(given)
        return Invocation(input=self.words[0], program=program, options=words, hides=hides, verb=self.verb)


def given_before(settings: Settings) -> Mapping[str, Any]:
    """What the last run of this job was given by hand."""
    from batchrunner.looking import paths_of
    from batchrunner.replay import last_start

    start = last_start(paths_of(settings))
    return retyped.by_hand(start.settings, start.origins) if start else {}
