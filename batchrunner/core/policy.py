"""How a setting describes itself.

Rules:

1. Each policy struct lives beside the code that obeys it; `settings` puts them together and derives the command line,
   the environment variables, the TOML keys and the documentation from these annotations.
2. A field's name is the option's name everywhere: `max_attempts`, `--max-attempts`, `BATCHRUNNER_MAX_ATTEMPTS`.
"""

from typing import Any, Literal

from msgspec import Meta

Auto = Literal["auto"]
Group = Literal["Input and output", "Endpoint", "Speed", "Patience", "Stop", "Show"]
Unit = Literal["", "seconds", "bytes", "count"]


def option(
    description: str, *, group: Group, metavar: str = "", unit: Unit = "", main: bool = True, bare: str = "", **bounds: Any
) -> Meta:
    """Metadata of one setting. `unit` lets people write 30s, 2m, 64MiB or 40k; `main` puts it on the one-screen help.

    `bare` is the value that the flag stands for when no number follows it.
    """
    extra = {"group": group, "metavar": metavar, "unit": unit, "main": main, "bare": bare}
    return Meta(description=description, extra=extra, **bounds)
