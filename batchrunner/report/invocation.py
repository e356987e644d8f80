"""How a command was typed, and from that the next one to type.

Rules:

1. The next command says again what made this one what it was (`retyped`). A secret among it is a mask, and the text says so.
2. Every word is quoted for a shell. One that would command the terminal is spelled out, and still names the same file.
"""

import shlex

from msgspec import Struct

from batchrunner.core.wording import visible
from batchrunner.report.layout import Command


class Invocation(Struct, frozen=True, kw_only=True):
    """What the user typed, as far as the text says it again."""

    input: str
    program: tuple[str, ...] = ("batchrunner",)
    options: tuple[str, ...] = ()  # those the next command must repeat
    hides: bool = False  # a mask stands among them
    verb: str = ""  # of the command that has ended
    own: tuple[str, ...] = ()  # words of a retry: what it asks again

    @property
    def chooses(self) -> bool:
        """Whether the user said which lines are meant."""
        return any(word.startswith("--where") for word in self.options)

    def step(self, does: str, verb: str = "", *more: str) -> Command:
        """What to type next, and what it does."""
        fill = "put in what … stands for" if self.hides else ""
        return Command(self.command(verb, *more), "; ".join(filter(None, (does, fill))))

    def command(self, verb: str = "", *more: str) -> str:
        """A whole command for a shell; without a verb the one that continues the run, or the retry."""
        if not verb and self.verb == "retry":
            verb, more = self.verb, self.own
        return " ".join(map(_quoted, [*self.program, *([verb] if verb else []), self.input, *self.options, *more]))


def _quoted(word: str) -> str:
    if word == visible(word):
        return shlex.quote(word)
    return f"$'{''.join(map(_spelled, word))}'"


def _spelled(each: str) -> str:
    """One letter between `$'` and `'`."""
    if each == visible(each):
        return f"\\{each}" if each in "\\'" else each
    raw = each.encode(errors="surrogateescape" if "\udc80" <= each <= "\udcff" else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)
