"""Where requests go: addresses, the fence round them, and the health of each."""

from typing import Annotated

from msgspec import Struct

from batchrunner.core.policy import option


class Service(Struct, frozen=True, kw_only=True):
    """Which endpoints answer, and how they are addressed. The key itself is never a setting."""

    base_url: Annotated[
        tuple[str, ...],
        option(
            "address of the API; repeat it for failover, in order of preference; simulated answers by itself",
            group="Endpoint",
            metavar="URL",
        ),
    ] = ()
    api_key_env: Annotated[str, option("environment variable that holds the key", group="Endpoint", metavar="NAME")] = (
        "OPENAI_API_KEY"
    )
    model: Annotated[str, option("model for every request, in place of the line's own", group="Endpoint", metavar="NAME")] = ""
    header: Annotated[tuple[str, ...], option("extra header for every request", group="Endpoint", metavar="NAME=VALUE")] = ()
    allow_insecure: Annotated[bool, option("allow a key over plain http to another machine", group="Endpoint", main=False)] = (
        False
    )
