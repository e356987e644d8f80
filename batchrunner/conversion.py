"""From what was given for an option to a value that may be used.

Rules:

1. Text is read by the option's unit or type (`core.units`). What a type cannot say of a value is looked at here as well.
2. What does not fit is an error (E002) that says where it stands, and what would have been right.
3. What may hide a secret is not repeated in an error.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import date, time
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.core import units
from batchrunner.core.address import check_proxy, check_route
from batchrunner.core.cost import price_table
from batchrunner.core.selection import condition, piece
from batchrunner.core.service import check_variables
from batchrunner.core.stopping import cap_of
from batchrunner.core.template import Template
from batchrunner.errors import UsageError, misfit
from batchrunner.masking import MASK, SECRETIVE, masked
from batchrunner.rendering import params
from batchrunner.settings import Option


class Given(Struct, frozen=True):
    """A value as it was given, and where. `label` is what the person typed there."""

    value: Any
    origin: str
    label: str


_READ: Mapping[Any, Callable[[str], Any]] = {
    "seconds": units.duration,
    "bytes": units.size,
    "count": units.count,
    bool: units.truth,
    int: units.count,
    float: units.number,
    tuple: lambda text: (text,),
}
_EXAMPLES = {
    "seconds": "30s, 2m, 1h30m, 500ms",
    "bytes": "4096, 64KiB, 256MiB",
    "count": "8, 40k",
    bool: "true, false",
    int: "8, 40k",
    "hedge": "1%, 20",
    "max_failures": "200, 5%",
    float: "0.5, 20, 1e3",
    "header": "X-Team=research",
    "param": "temperature=0",
    "price": "gpt-x-mini=0.15/0.60",
    "prompt": "'Summarise: {bio}'",
    "proxy": "http://proxy.example:3128, none",
    "route": "/v1/embeddings",
    "shard": "3/8",
    "where": 'body.model == "x", "draft" not in custom_id and line > 100',
}


def _check_header(items: tuple[str, ...]) -> None:
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
            raise ValueError("is not NAME=VALUE")


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "api_key_env": check_variables,
    "header": _check_header,
    "hedge": cap_of,
    "max_failures": cap_of,
    "param": params,
    "price": price_table,
    "prompt": Template.of,
    "proxy": check_proxy,
    "route": check_route,
    "shard": piece,
    "system": Template.of,
    "where": condition,
}
"""What a type cannot say of a value."""


PLACES = ("FILE", "FILE.html", "DIR", "CMD")
"""What names files, which may be called anything; all else is sent, or compared with what is."""


def _check_text(value: Any) -> None:
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str) and not each.isascii():
            try:
                each.encode()
            except UnicodeEncodeError:
                raise ValueError("is not UTF-8") from None


EXACT = 2**53
"""Of a larger whole number not each figure counts any more, and not all that count with it hold it."""


def at_home(path: str) -> str:
    """The path where a shell would have it that sees `~/`; in a file, a variable or quotes none does."""
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 - pathlib raises where there is no home


def _check_number(each: Option, number: float) -> None:
    if each.positive and number <= 0:
        raise ValueError("must be more than 0")
    if number < each.least:
        raise ValueError(f"is too small: at least {each.least:g}")
    if not isfinite(number):
        raise ValueError("is not a finite number")
    if each.type is int and number > EXACT:
        raise ValueError(f"is too large: at most {EXACT}")


def _read(each: Option, text: str) -> Any:
    """Text as its option reads it. A figure below 0 is one, so that it is told what it is too small for."""
    reader = _READ.get(each.unit) or _READ.get(each.type)
    if reader is None:
        return text
    text = text.strip()
    return -reader(text[1:]) if text.startswith("-") and each.type in (int, float) else reader(text)


def _value(each: Option, raw: Any) -> Any:
    """A value as given to one that may be used. Raises ValueError with the end of a sentence."""
    if isinstance(raw, os.PathLike):
        raw = os.fspath(raw)
    if each.auto and raw == "auto":
        return raw
    if isinstance(raw, str):
        raw = _read(each, raw)
    if each.choices and raw not in each.choices:
        raise ValueError(f"is not one of {', '.join(each.choices)}")
    if isinstance(raw, int | float):
        _check_number(each, raw)
    try:
        value = msgspec.convert(raw, each.annotation)
    except msgspec.ValidationError as error:
        raise ValueError(f"does not fit: {misfit(error)}") from None
    if each.metavar not in PLACES:
        _check_text(value)
    elif each.metavar != "CMD":
        value = at_home(value)
    _CHECKS.get(each.name, bool)(value)
    if each.name in SECRETIVE:
        _refuse_mask(each.name, value)
    return value


def _refuse_mask(name: str, value: Any) -> None:
    """What stands for a secret is not sent in its place."""
    shown = masked(name, value)
    same = {shown} & {value} if isinstance(value, str) else {*shown} & {*value}
    if any(MASK in item for item in same):
        raise ValueError(f"holds {MASK} for something that is not shown: put that in")


def _shown(item: Any) -> str:
    """A value as a file has it."""
    if isinstance(item, bool):
        return str(item).lower()
    return str(item) if isinstance(item, date | time) else repr(item)


def convert(each: Option, given: Given) -> Any:
    """The value of an option as it was given. Raises UsageError E002."""
    try:
        return _value(each, given.value)
    except ValueError as error:
        items = given.value if each.type is tuple and isinstance(given.value, list | tuple) else [given.value]
        told = "the value" if each.name in SECRETIVE else ", ".join(map(_shown, items))
        examples = ", ".join(each.choices) or _EXAMPLES.get(each.name) or _EXAMPLES.get(each.unit) or _EXAMPLES.get(each.type)
        hint = f"Examples: {examples}{', auto' if each.auto else ''}" if examples else ""
        raise UsageError("E002", f"{given.label}: {told} {error}.", hint) from None
