"""Which line an input line is: its id, and the digest that guards it against edits.

Rules:

1. The id is the line's own `custom_id`, or one made from its number and digest. Every line has one, valid or not.
2. It is found without parsing the rest of the line, and block by block what it is line by line (`names`, `digests`).
3. A line never raises.
"""

import sys
from array import array
from collections.abc import Sequence
from hashlib import sha256
from itertools import count

import msgspec
import orjson
from msgspec import Struct

from batchrunner.lines import Line, Oversized, blank
from batchrunner.numbers import WIDTH, number_of


class _Named(Struct, gc=False):
    custom_id: str | None = None


_read_name = msgspec.json.Decoder(_Named).decode


def identify(raw: bytes | Oversized, line: int) -> tuple[str, str]:
    """The id and digest of an input line, without parsing the rest of it. Never raises.

    The id is the line's `custom_id`, or one made from number and digest where it has no proper one. The digest is that of
    the line without its line ending.
    """
    if isinstance(raw, Oversized):
        return made(line, raw.digest), raw.digest
    digest = digest_of(raw)
    return _name(raw) or made(line, digest), digest


def digest_of(raw: bytes) -> str:
    """The first 16 hex digits of its SHA-256."""
    return sha256(raw).hexdigest()[:16]


def names(lines: Sequence[Line], first: int) -> list[str]:
    """The ids of a block of lines whose first has the number `first`, as `identify` gives them; "" for a blank line."""
    try:
        found = [named.custom_id for named in map(_read_name, lines)]  # type: ignore[arg-type]
    except (ValueError, RecursionError, TypeError):  # TypeError: an oversized line
        found = [None] * len(lines)
    if all(found):
        return found  # type: ignore[return-value]
    return [name or _name_of(raw, line) for name, raw, line in zip(found, lines, count(first), strict=False)]


def _name_of(raw: Line, line: int) -> str:
    return "" if blank(raw) else identify(raw, line)[0]


def digests(lines: Sequence[Line]) -> "array[int]":
    """The digests of a block of lines, as `identify` gives them, each as `numbers.number_of` makes a number of it."""
    try:
        whole = [digest.digest() for digest in map(sha256, lines)]  # type: ignore[arg-type]
    except TypeError:
        return array("q", [number_of(identify(raw, 0)[1]) for raw in lines])
    return array("q", b"".join(whole))[:: sha256().digest_size // WIDTH]


def made(line: int, digest: str) -> str:
    """The id of a line that has none of its own."""
    return f"line-{line}-{digest[:8]}"


def is_made(name: str, digest: int) -> bool:
    """Whether an id was made for some line with this digest, which is given as `numbers.number_of` makes it."""
    return name.startswith("line-") and name.endswith(f"-{digest.to_bytes(WIDTH, sys.byteorder, signed=True)[:4].hex()}")


def _name(raw: bytes) -> str | None:
    try:
        return _read_name(raw).custom_id
    except RecursionError:  # how deep is too deep for it depends on the stack; orjson counts for itself
        return _deep_name(raw)
    except ValueError:
        return None


def _deep_name(raw: bytes) -> str | None:
    try:
        name = orjson.loads(raw)["custom_id"]
    except (ValueError, TypeError, LookupError):
        return None
    return name if isinstance(name, str) else None
