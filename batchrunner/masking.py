"""Options whose value may hide a secret, fit to be shown.

Rules:

1. Header values, passwords in addresses, their queries and the arguments of a command are masked; the rest is shown as it is.
2. A mask is never taken for a value: `conversion` refuses it.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from batchrunner.core.service import EndpointRow

SECRETIVE = frozenset({"api_key_env", "header", "base_url", "notify", "proxy"})
"""Options whose value may hide a secret: `masked` shows them, errors leave them out."""
MASK = "…"


def masked(name: str, value: Any) -> Any:
    """A value fit to be shown: header values, passwords and queries of addresses are left out, but for Azure's version.

    Of a command only its first word is shown.
    """
    if name == "header":
        return tuple(f"{item.partition('=')[0]}={MASK}" for item in value)
    if name == "base_url":
        return tuple(_masked_url(item) for item in value)
    if name == "notify":
        return re.sub(r"(?s)(\S)\s.*", rf"\1 {MASK}", value.strip())
    return _masked_url(value) if name == "proxy" else value


def rows_shown(endpoints: Iterable[EndpointRow]) -> list[dict[str, Any]]:
    """The endpoints that stand in tables, fit to be shown, each with what its row says."""
    rows = map(msgspec.to_builtins, endpoints)
    return [
        {**{name: said for name, said in row.items() if said not in (None, [], {})}, "base_url": _masked_url(row["base_url"])}
        | ({"header": list(masked("header", row["header"]))} if row["header"] else {})
        for row in rows
    ]


def _masked_url(url: str) -> str:
    named = re.sub(r"^([^/]*//)?[^/]*@", rf"\1{MASK}@", url)
    return re.sub(r"([?&](?!api-version=)[^=&]*=)[^&]*", rf"\1{MASK}", named)
