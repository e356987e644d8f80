"""The output file is the journal: append, group commit, repair, lock."""

from typing import Annotated, Literal

from msgspec import Struct

from batchrunner.core.policy import option


class Durability(Struct, frozen=True, kw_only=True):
    """What must survive what."""

    sync: Annotated[
        Literal["none", "interval", "always"],
        option(
            "force results to disk: never, every second, or before each is acknowledged",
            group="Input and output",
            metavar="none|interval|always",
        ),
    ] = "interval"
    min_free: Annotated[
        int,
        option(
            "pause sending when the disk has less room than this",
            group="Input and output",
            metavar="SIZE",
            unit="bytes",
            main=False,
        ),
    ] = 64 * 1024 * 1024
    spill_dir: Annotated[
        str, option("where answers go that the output can no longer take", group="Input and output", metavar="DIR", main=False)
    ] = ""
