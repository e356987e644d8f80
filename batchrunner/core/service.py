"""Which endpoints there are and how they are reached, as the user says it.

Rules:

1. A key is never a setting: what stands here names the variable that holds it (`keyring`).
2. What is said of the service holds for all its endpoints, but for what the row of one says otherwise.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from batchrunner.core.policy import Auto, option

Policy = TypeVar("Policy", bound=Struct)
Auth = Literal["auto", "bearer", "basic", "api-key", "x-api-key", "x-goog-api-key"]


class EndpointRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[endpoint]]` of a configuration file, or one of `Runner(endpoints=[...])`. What it leaves out, the service says.

    Endpoints stand in order of preference: an earlier one with room goes first. `weight` shares the work out instead, in
    proportion, while several have room; 0 keeps an endpoint in reserve. `models` maps the models that lines ask for to their
    names there (`"*"` for all others, as a name: unchanged); with a map, nothing else is sent there.
    """

    base_url: str
    api_key_env: str | None = None
    provider: str | None = None
    auth: Auth | None = None
    header: list[str] = []
    models: dict[str, str] = {}
    weight: Annotated[float, Meta(ge=0)] | None = None
    concurrency: Annotated[int, Meta(ge=1)] | Auto | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] | None = None
    rpm: Annotated[int, Meta(ge=0)] | None = None
    tpm: Annotated[int, Meta(ge=0)] | None = None
    rpd: Annotated[int, Meta(ge=0)] | None = None


def as_said(policy: Policy, row: EndpointRow) -> Policy:
    """The policy, with what an endpoint's row says otherwise."""
    said = {name: own for name in policy.__struct_fields__ if (own := getattr(row, name, None)) is not None}
    return replace(policy, **said) if said else policy


_NAME = re.compile(r"(?!(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9]).{20})[A-Za-z_][A-Za-z0-9_]{0,63}|")
"""A variable's name, or none. Long ones that mix cases and figures are keys."""


def check_variables(names: Iterable[str]) -> None:
    """Refuse what can only be a key, before anything shows it. Raises ValueError with the end of a sentence."""
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError("is not the name of a variable; the key itself never stands here")


COUNTS = ("concurrency", "max_concurrency", "rpm", "tpm", "rpd")
"""What of a row may also be written with its unit, as on the command line."""


class Service(Struct, frozen=True, kw_only=True):
    """Which endpoints answer, and how they are addressed. The key itself is never a setting."""

    base_url: Annotated[
        tuple[str, ...],
        option(
            "address of the API; repeat it: a later one takes what the earlier cannot; simulated answers by itself",
            group="Endpoint",
            metavar="URL",
        ),
    ] = ()
    via: Annotated[
        Literal["calls", "batch"],
        option(
            "how requests go there: one by one, or by its Batch API (half the price, within a day), and the rest one by one",
            group="Endpoint",
            metavar="calls|batch",
            main=False,
        ),
    ] = "calls"
    provider: Annotated[
        str,
        option(
            "who answers there, where the URL does not tell: openai, azure, anthropic, groq, vllm, …",
            group="Endpoint",
            metavar="auto|NAME",
            main=False,
        ),
    ] = "auto"
    api_key_env: Annotated[
        tuple[str, ...],
        option(
            "environment variable that holds the key",
            group="Endpoint",
            metavar="NAME",
        ),
    ] = ()
    auth: Annotated[
        Auth,
        option("how the key is sent, by default as the provider wants it", group="Endpoint", metavar="FORM", main=False),
    ] = "auto"
    model: Annotated[str, option("model for every request, in place of the line's own", group="Endpoint", metavar="NAME")] = ""
    header: Annotated[tuple[str, ...], option("extra header for every request", group="Endpoint", metavar="NAME=VALUE")] = ()
    allow_insecure: Annotated[bool, option("allow a key over plain http to another machine", group="Endpoint", main=False)] = (
        False
    )
    endpoints: tuple[EndpointRow, ...] = ()  # instead of `base_url`; no option, for a table has no place on a command line


class Connection(Struct, frozen=True, kw_only=True):
    """How connections are made."""

    proxy: Annotated[str, option("HTTP proxy; none ignores HTTPS_PROXY and its like", group="Endpoint", metavar="URL")] = ""
    ca_bundle: Annotated[
        str,
        option(
            "PEM file of certificate authorities to trust instead of the system's, or of SSL_CERT_FILE's",
            group="Endpoint",
            metavar="FILE",
            main=False,
        ),
    ] = ""
    keepalive: Annotated[
        float,
        option(
            "reuse a connection idle for at most so long; for less where the server shows that it closes them sooner",
            group="Endpoint",
            metavar="T",
            unit="seconds",
            main=False,
        ),
    ] = 4.0
    max_response: Annotated[
        int, option("largest answer to accept", group="Endpoint", metavar="SIZE", unit="bytes", main=False, ge=1024)
    ] = 256 * 1024 * 1024
