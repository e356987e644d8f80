"""The options that the next command to type says again.

Rules:

1. Whatever was given by hand, for it is what made the run what it was, above all its caps. What environment and files say
   holds there again.
2. But nothing that only shows something, and not --fresh: it would drop what the next command goes on from. Where nothing was
   run yet, all of it counts.
3. A secret stays a mask. The text says so, and `origins` refuses a mask, so that nobody sends it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from batchrunner.masking import MASK, SECRETIVE, masked
from batchrunner.origins import ARGUMENT, COMMAND_LINE, FILE, PROJECT_FILE, SHARED_FILE
from batchrunner.settings import OPTIONS

CONFIG = "config"  # no setting, but an option
Given = Mapping[str, Any]
"""Option names to what was given for them, as typed or as values."""


def by_hand(settings: Given, origins: Mapping[str, str]) -> dict[str, Any]:
    """What a run was given by hand, of these settings that come from there."""
    typed = (name for name, origin in origins.items() if origin in (COMMAND_LINE, ARGUMENT))
    given = {name: settings[name] for name in typed if name in settings}
    files = (origin.removeprefix(FILE) for origin in origins.values() if origin.startswith(FILE))
    named = next((path for path in files if path not in (PROJECT_FILE, SHARED_FILE)), None)
    return {**given, CONFIG: named} if named else given


def words(given: Given, run: bool = True) -> tuple[str, ...]:
    """The options as they are typed again; `run`: by somebody who has run the job with them."""
    known = (name for name in given if name in OPTIONS or name == CONFIG)
    return tuple(word for name in known if not run or matters(name) for word in _typed(name, given[name]))


def hides(given: Given) -> bool:
    """Whether something of them is not shown."""
    return any(MASK in word for name in SECRETIVE & given.keys() for word in _typed(name, given[name]))


def matters(name: str) -> bool:
    """Whether an option of a run makes what it did what it was."""
    return name == CONFIG or (name != "fresh" and OPTIONS[name].group != "Show")


def _typed(name: str, value: Any) -> Iterator[str]:
    flag = OPTIONS[name].flags[0] if name in OPTIONS else f"--{name}"
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
        return
    shown = masked(name, value)
    for each in shown if isinstance(shown, list | tuple) else [shown]:
        word = f"{each:.12f}".rstrip("0").rstrip(".") if isinstance(each, float) else str(each)
        yield from [f"{flag}={word}"] if word.startswith("-") and word != "-" else [flag, word]
