"""When to send a request again, and when to give up."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import option


class Retries(Struct, frozen=True, kw_only=True):
    """How often one request may be sent."""

    max_attempts: Annotated[
        int,
        option("sendings per request that may fail; waits for a rate limit do not count", group="Patience", metavar="N", ge=1),
    ] = 8
