"""What a person sees while a run goes on."""

from typing import Annotated, Literal

from msgspec import Struct

from batchrunner.core.policy import option


class Display(Struct, frozen=True, kw_only=True):
    """How a run shows itself on stderr."""

    display: Annotated[
        Literal["auto", "full", "plain", "log", "none"],
        option(
            "bar and status lines, one bar, key=value lines, or nothing; auto asks the terminal",
            group="Show",
            metavar="auto|full|plain|log|none",
        ),
    ] = "auto"
    quiet: Annotated[bool, option("nothing but errors, and the verdict at the end", group="Show")] = False
    verbose: Annotated[bool, option("a line for each attempt that failed", group="Show")] = False
    json: Annotated[bool, option("the summary as one line of JSON on stdout", group="Show")] = False
