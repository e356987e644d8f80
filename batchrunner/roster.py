"""The endpoints of a configuration: `[[endpoint]]` tables of a file, or `Runner(endpoints=[...])`.

Rules:

1. What a row does not know is refused, with the name that was probably meant, as options are.
2. A key is never a value: a row names the variable that holds it.
3. Counts may be written as on the command line: 40k.
4. Of `base_url` and `endpoint` the one counts that comes from where more counts; in one place they contradict each other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from batchrunner.core import units
from batchrunner.core.service import COUNTS, EndpointRow, check_variables
from batchrunner.errors import UsageError, misfit, nearest

NAME = "endpoint"
FIELDS = EndpointRow.__struct_fields__
_EXAMPLE = '[[endpoint]]\nbase_url = "https://api.example.com/v1"\napi_key_env = "EXAMPLE_API_KEY"'


def roster(found: Any, place: str) -> tuple[EndpointRow, ...]:
    """The rows as given; `place` is the file they stand in, if any. UsageError E001: no such name. E002: no such value."""
    where = f"{place}, {NAME}" if place else NAME
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        raise UsageError("E002", f"{where} is a list of tables.", _EXAMPLE)
    return tuple(_row(row, f"{where} {number}") for number, row in enumerate(found, 1))


def _row(found: Any, place: str) -> EndpointRow:
    if isinstance(found, str):
        return EndpointRow(base_url=found)
    if not isinstance(found, Mapping):
        raise UsageError("E002", f"{place}: it is a table, or the URL alone.", _EXAMPLE)
    for name in found:
        if name not in FIELDS:
            hint = nearest(str(name), FIELDS) or f"It knows {', '.join(FIELDS)}."
            raise UsageError("E001", f"{place}: {name}: no such setting of an endpoint.", hint)
    counts = {name: _count(found[name], f"{place}: {name}") for name in COUNTS if name in found}
    try:
        row = msgspec.convert({**found, **counts}, EndpointRow)
    except msgspec.ValidationError as error:
        raise UsageError("E002", f"{place}: {misfit(error)}.", _EXAMPLE) from None
    try:
        check_variables([row.api_key_env or ""])
    except ValueError as error:
        raise UsageError("E002", f"{place}: api_key_env: the value {error}.", _EXAMPLE) from None
    return row


def _count(value: Any, place: str) -> Any:
    """A number that is written as text; anything else as it is."""
    if not isinstance(value, str) or value == "auto":
        return value
    try:
        return units.count(value.strip())
    except ValueError as error:
        raise UsageError("E002", f"{place}: {value!r} {error}.", "Examples: 8, 40k") from None
