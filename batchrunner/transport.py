"""One attempt over aiohttp: a `Reply` or a `Fault`, never an exception."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import option


class Connection(Struct, frozen=True, kw_only=True):
    """How connections are made."""

    proxy: Annotated[str, option("HTTP proxy for every endpoint", group="Endpoint", metavar="URL")] = ""
    ca_bundle: Annotated[
        str, option("PEM file of certificate authorities to trust instead of the system's", group="Endpoint", metavar="FILE")
    ] = ""
    keepalive: Annotated[
        float,
        option(
            "reuse a connection idle for at most so long; stay below the server's own limit",
            group="Endpoint",
            metavar="T",
            unit="seconds",
            main=False,
        ),
    ] = 4.0
    max_response: Annotated[
        int, option("largest answer to accept", group="Endpoint", metavar="SIZE", unit="bytes", main=False, ge=1024)
    ] = 256 * 1024 * 1024
