"""By what name a request is found again in somebody's log.

Rules:

1. The first id that a header gives, or else the one in the body, or else our own of the sending.
2. It comes from outside: what is kept of it is printable and short.
"""

import re
from collections.abc import Mapping

from batchrunner.core.body import printable, value_of

REQUEST_IDS = (
    "x-request-id",
    "request-id",
    "apim-request-id",
    "x-ms-request-id",
    "x-amzn-requestid",
    "x-generation-id",
    "x-oneapi-request-id",
    "x-ds-trace-id",
    "mistral-correlation-id",
    "x-litellm-call-id",
    "cf-ray",
)
"""Where servers put the id of a request; what stands in the body comes next, and last our own id of the sending."""
OWN_ID = "x-client-request-id"


def request_id(headers: Mapping[str, str], inside: object = None) -> str:
    """The first id that a header gives, or else the one in the body, or else our own."""
    if found := named(headers):
        return found if found.isascii() and found.isprintable() and len(found) <= 200 else printable(found, 200)
    return printable(inside, 200) if isinstance(inside, str) else printable(headers.get(OWN_ID, ""), 200)


def named(headers: Mapping[str, str]) -> str:
    """The request's id as the headers give it; empty: they give none."""
    for name in REQUEST_IDS:
        if found := headers.get(name):
            return found
    return ""


_TOLD = re.compile(r"\(request id: ([\w.-]{8,100})\)")


def told_id(message: str) -> str | None:
    """The id that relays of the one-api family append to a message."""
    found = _TOLD.search(message[-300:])
    return found[1] if found else None


def body_id(line: bytes) -> object:
    """The id an error body carries."""
    value = value_of(line) if b'"request_id"' in line or b'"id"' in line else None
    return (value.get("request_id") or value.get("id")) if isinstance(value, dict) else None
