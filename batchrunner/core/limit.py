"""How many requests may be in flight at one endpoint."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import Auto, option


class Concurrency(Struct, frozen=True, kw_only=True):
    """How many requests may be in flight at once."""

    concurrency: Annotated[
        int | Auto, option("requests in flight at each endpoint; auto finds what it sustains", group="Speed", metavar="auto|N")
    ] = "auto"
    max_concurrency: Annotated[int, option("where auto stops growing", group="Speed", metavar="N", ge=1)] = 256
