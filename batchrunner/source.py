"""Bytes to requests: bounded lines, bounded read-ahead."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import option


class Intake(Struct, frozen=True, kw_only=True):
    """What is read."""

    limit: Annotated[
        int, option("only the first N requests that are not done yet; 0 is all", group="Input and output", metavar="N", ge=0)
    ] = 0
    max_line: Annotated[
        int, option("longest input line to accept", group="Input and output", metavar="SIZE", unit="bytes", main=False, ge=1024)
    ] = 64 * 1024 * 1024
