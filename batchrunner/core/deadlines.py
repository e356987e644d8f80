"""How long to wait for each phase of an attempt."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import Auto, option


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long an attempt may take, phase by phase."""

    timeout: Annotated[
        float | Auto,
        option("a whole attempt; auto learns it from the traffic", group="Patience", metavar="auto|T", unit="seconds"),
    ] = "auto"
    max_timeout: Annotated[float, option("the longest that auto may wait", group="Patience", metavar="T", unit="seconds")] = 600.0
    connect_timeout: Annotated[
        float, option("DNS, TCP, TLS and proxy together", group="Patience", metavar="T", unit="seconds")
    ] = 10.0
    first_byte_timeout: Annotated[
        float | Auto, option("from the request sent to the reply's head", group="Patience", metavar="auto|T", unit="seconds")
    ] = "auto"
    idle_timeout: Annotated[
        float | Auto, option("silence inside an answer", group="Patience", metavar="auto|T", unit="seconds")
    ] = "auto"
