"""Rows to requests: a prompt with places for values, filled from each row of a table.

Rules:

1. The requests are ordinary input lines, in the order of the rows: what reads them knows nothing of tables.
2. The same rows and options give the same bytes, so that a resume finds each line as it was.
3. A row that lacks a value becomes a line that says so: it ends in the errors file, and the others are sent.
4. What no row could mend is refused before anything is written: braces, model, columns, a route that takes no prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self

import msgspec
from msgspec import Raw, Struct

from batchrunner.core.model import Route
from batchrunner.core.policy import option
from batchrunner.core.template import Template
from batchrunner.dialects import CHAT, UNRENDERED
from batchrunner.errors import UsageError
from batchrunner.formats import route_of
from batchrunner.tables import Cells, Flaw, Row, rows_of


class Rendering(Struct, frozen=True, kw_only=True):
    """How the rows of a table become requests."""

    prompt: Annotated[
        str,
        option("what to ask of each row of a table: 'Summarise: {column}'", group="Input and output", metavar="TEXT", main=False),
    ] = ""
    system: Annotated[
        str, option("system prompt of such requests; may hold {column} too", group="Input and output", metavar="TEXT", main=False)
    ] = ""
    id_column: Annotated[
        str,
        option("column that names a row; by default names are made", group="Input and output", metavar="NAME", main=False),
    ] = ""
    param: Annotated[
        tuple[str, ...],
        option(
            "one more field of such requests, such as temperature=0 or max_tokens=200",
            group="Input and output",
            metavar="NAME=JSON",
            main=False,
        ),
    ] = ()
    render: Annotated[
        str,
        option(
            "where such requests are kept, by default in the run folder",
            group="Input and output",
            metavar="FILE",
            main=False,
        ),
    ] = ""


Body = Callable[[str, str], dict[str, Any]]


def _turns(prompt: str, system: str) -> list[dict[str, str]]:
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": prompt}]


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


_BODIES: Mapping[Route, Body] = {
    Route.CHAT: lambda prompt, system: {"messages": _turns(prompt, system)},
    Route.MESSAGES: lambda prompt, system: {**_given(system=system), "messages": _turns(prompt, "")},
    Route.RESPONSES: lambda prompt, system: {**_given(instructions=system), "input": prompt},
    Route.COMPLETIONS: lambda prompt, _system: {"prompt": prompt},
    Route.EMBEDDINGS: lambda prompt, _system: {"input": prompt},
    Route.MODERATIONS: lambda prompt, _system: {"input": prompt},
    Route.IMAGES: lambda prompt, _system: {"prompt": prompt},
}
_GUIDED = frozenset({Route.CHAT, Route.MESSAGES, Route.RESPONSES})
"""Routes that have a place for a system prompt."""


class Recipe(Struct, frozen=True):
    """How one row becomes one input line."""

    prompt: Template
    system: Template
    id_column: str
    url: str
    body: Body
    fixed: dict[str, Any]

    @classmethod
    def of(cls, rendering: Rendering, model: str = "", url: str = "") -> Self | None:
        """The recipe that the options describe; None: rows are requests already. UsageError E208."""
        if not rendering.prompt:
            _refuse_idle(rendering)
            return None
        route = route_of(url or CHAT)
        if route not in _BODIES:
            raise UsageError("E208", f"--route {url}: no prompt can be put into that.", "Try: --route /v1/chat/completions")
        if rendering.system and route not in _GUIDED:
            raise UsageError("E208", f"--route {url} has no place for a system prompt.", "Leave --system out.")
        fixed = {**_given(model=model), **params(rendering.param)}
        if "model" not in fixed:
            raise UsageError("E208", "Requests made of rows need a model.", "Name it: --model NAME")
        if route is Route.MESSAGES and "max_tokens" not in fixed:
            raise UsageError("E208", "This route wants the length of the answer.", "Say it: --param max_tokens=1024")
        prompt, system = map(Template.of, (rendering.prompt, rendering.system))
        return cls(prompt, system, rendering.id_column, url or CHAT, _BODIES[route], fixed)

    @property
    def columns(self) -> frozenset[str]:
        """What a table must have."""
        return frozenset((*self.prompt.columns, *self.system.columns, *([self.id_column] if self.id_column else ())))

    def line(self, row: Cells | Flaw, place: str) -> bytes:
        """The input line of a row, with its LF. `place` is where the row stands, for people."""
        named: dict[str, str] = {}
        try:
            if isinstance(row, Flaw):
                raise ValueError(row.why)
            named = {"custom_id": _value(row, self.id_column)} if self.id_column else {}
            values = {name: _value(row, name) for name in (*self.prompt.columns, *self.system.columns)}
            body = {**self.fixed, **self.body(self.prompt.filled(values), self.system.filled(values))}
            return _line({**named, "method": "POST", "url": self.url, "body": body})
        except ValueError as why:
            return _unrendered(place, str(why), **named)


def params(items: tuple[str, ...]) -> dict[str, Any]:
    """The fields that `param` adds: a value is JSON, and what is none a text. ValueError: an item is not NAME=JSON."""
    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise ValueError("is not NAME=JSON")
        try:
            msgspec.json.decode(value)
            found[name] = Raw(value.encode())
        except ValueError:
            found[name] = value
    return found


def _refuse_idle(rendering: Rendering) -> None:
    """Options for rows, and no prompt that would use them."""
    idle = [name for name in ("system", "id_column", "param", "render") if getattr(rendering, name)]
    if idle:
        flag = "--" + idle[0].replace("_", "-")
        raise UsageError("E208", f"{flag} is for rows of a table, and there is no --prompt.", "Add: --prompt TEXT")


def lines_made(recipe: Recipe | None, sources: Sequence[Path | BinaryIO], max_line: int) -> Iterator[bytes]:
    """The input lines of all rows of these tables, each with its LF. UsageError E2xx, FileError E406 (`tables.rows_of`)."""
    columns = recipe.columns if recipe else None
    for source in sources:
        file = f"{source}: " if len(sources) > 1 else ""
        for number, row in rows_of(source, columns, max_line):
            yield _made(recipe, row, f"{file}row {number}")


def _made(recipe: Recipe | None, row: Row, place: str) -> bytes:
    if isinstance(row, bytes):
        return row + b"\n"
    if recipe:
        return recipe.line(row, place)
    return _unrendered(place, row.why) if isinstance(row, Flaw) else _line(row)


def _unrendered(place: str, why: str, **named: str) -> bytes:
    return _line({**named, UNRENDERED: f"{place} {why}"})


def _line(fields: Mapping[str, Any]) -> bytes:
    return _json(fields) + b"\n"


def _value(row: Cells, name: str) -> str:
    """A cell as text; numbers, truth values and structures as JSON. ValueError: there is none."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    try:
        told = _json(value)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"has something in {name!r} that cannot be written as text") from None
    if told == b"null":
        raise ValueError(f"has no value for {name!r}")
    return str(msgspec.json.decode(told)) if told[:1] == b'"' else told.decode()


def _plain(value: Any) -> Any:
    """A number of numpy's, or a time of pandas', as Python's own."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError


_json = msgspec.json.Encoder(enc_hook=_plain).encode
