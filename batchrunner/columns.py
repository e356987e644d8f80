"""What a column of an export shows of a record, whatever its dialect.

    custom_id  status  kind  model  text      what they say; `text` is the answer's text
    error                                     kind and message of a failure, empty otherwise
    usage.total_tokens   usage.*              the answer's own count; `.*` is every plain value there, as the first answer has it
    json.sentiment       json.*               the text read as JSON, with or without a code fence round it
    body.choices.0.index                      a place in the answer's body
    batchrunner.attempts  response.body.id    any other place, from the top of the record

Rules:

1. A place that is not there is an empty cell, never an error.
2. A record is opened only as far as its columns ask.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec

from batchrunner.answers import read_answer
from batchrunner.core.fences import unfenced
from batchrunner.core.model import Route
from batchrunner.core.route import answer_text
from batchrunner.foreign import read_record
from batchrunner.records import paired

DEFAULT = "custom_id,text,error"


class Seen:
    """A record to look at. `raw` must be one (`foreign.read_record`)."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def whole(self) -> Any:
        """The record itself."""
        return _decoded(self.raw)

    @cached_property
    def told(self) -> Any:
        """Its id, status and body."""
        return read_answer(self.raw)

    @cached_property
    def record(self) -> Any:
        """What it says of its request."""
        return read_record(self.raw)

    @cached_property
    def body(self) -> Any:
        """The answer's body; None when there is none."""
        return _decoded(self.told.body) if self.told.body else None

    @cached_property
    def text(self) -> str:
        """The answer's text; empty for a failure, and for a body without a text."""
        route = next((route for key, route in _TEXTS.items() if isinstance(self.body, dict) and key in self.body), None)
        return answer_text(route, paired(self.told.body)) if route and self.record.ok else ""

    @cached_property
    def answer(self) -> Any:
        """The text as JSON; None when it is none."""
        try:
            return msgspec.json.decode(unfenced(self.text))
        except (msgspec.DecodeError, RecursionError):
            return None

    @property
    def error(self) -> str:
        """Kind and message of a failure."""
        if self.record.ok:
            return ""
        said = (place(self.whole, path) for path in (("error", "message"), ("error",), ("response", "body", "error", "message")))
        inner = (
            place(self.body, path) for path in (("error", "message"), ("error", "error", "message"), ("error",), ("message",))
        )
        message = next((each for each in (*said, *inner) if isinstance(each, str)), "")
        return ": ".join(filter(None, (self.record.kind or self.told.code or str(self.told.status or ""), message)))


_TEXTS: Mapping[str, Route] = {"choices": Route.CHAT, "output": Route.RESPONSES, "content": Route.MESSAGES}
Column = Callable[[Seen], Any]
_SHORT: Mapping[str, Column] = {
    "custom_id": lambda seen: seen.told.id,
    "status": lambda seen: seen.told.status or None,
    "kind": lambda seen: seen.record.kind,
    "model": lambda seen: place(seen.body, ("model",)),
    "text": lambda seen: seen.text,
    "error": lambda seen: seen.error,
}
_ROOTS: Mapping[str, Column] = {
    "body": lambda seen: seen.body,
    "usage": lambda seen: place(seen.body, ("usage",)),
    "json": lambda seen: seen.answer,
}


def column(name: str) -> Column:
    """What shows the column of this name."""
    if name in _SHORT:
        return _SHORT[name]
    first, *steps = name.split(".")
    if first in _ROOTS:
        return partial(_within, _ROOTS[first], steps)
    return partial(_within, lambda seen: seen.whole, [first, *steps])


def _within(root: Column, steps: Sequence[str], seen: Seen) -> Any:
    return place(root(seen), steps)


def place(value: Any, steps: Iterable[str]) -> Any:
    """What stands at the end of these keys and positions; None when nothing does."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def spread(names: Iterable[str], records: Iterable[bytes]) -> list[str]:
    """The names, with `PATH.*` as the plain values that the first record with something there has in it."""
    found: list[str] = []
    for name in names:
        if name.endswith(".*"):
            show = column(name[:-2])
            there = next((shown for raw in records if isinstance(shown := show(Seen(raw)), dict) and shown), {})
            found += [f"{name[:-2]}.{key}" for key, value in there.items() if not isinstance(value, dict | list)]
        else:
            found.append(name)
    return found


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return msgspec.json.decode(paired(raw))
