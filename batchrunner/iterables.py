"""Rows of an iterable to blocks of requests.

Rules:

1. The caller's code runs on the event loop, a few rows at a time; what it raises ends the run (`containment`).
2. A row is what a line of a file would be: the same shapes, the same condition, the same piece.
"""

import json
import sys
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Self

import msgspec
from msgspec import Raw, structs

from batchrunner.containment import taking_rows
from batchrunner.core.model import Request, Result
from batchrunner.dialects import Dialect, detected, keys_of
from batchrunner.formats import parse, refuse
from batchrunner.lines import without_ending
from batchrunner.selecting import fits
from batchrunner.source import Block, Intake, Row

BLOCK_ROWS = 64


class IterableSource:
    """The requests of an iterable or async iterable, in blocks like those of a file, once.

    A row is the dict of an input line, its bytes, or a finished `Request`, taken as it is but for its line number: rows count
    from 1. NaN in a dict becomes null. A plain iterable is walked on the event loop, a few rows at a time; the rows of an async
    one are passed on one by one, as they come.
    """

    def __init__(
        self,
        rows: Iterable[Row] | AsyncIterable[Row],
        intake: Intake = Intake(),
        origins: Collection[str] = (),
        model: str = "",
    ) -> None:
        self._rows = rows
        self._walk: Iterator[Row] | AsyncIterator[Row] | None = None
        self._left = intake.limit or sys.maxsize
        self._line = 0
        self._origins = tuple(origins)
        self._model = model
        self._intake = intake
        self._dialect: Dialect | None = None  # that of the first row which tells

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        while self._left and (rows := await taking_rows(self._take())):
            block = [item for row in rows if (item := self._item(row))]
            self._left -= len(block)
            if block:
                return block
        raise StopAsyncIteration

    async def close(self) -> None:
        """Take no more rows. The iterable stays the caller's."""
        self._left = 0

    async def _take(self) -> list[Row]:
        if self._walk is None:
            self._walk = aiter(self._rows) if isinstance(self._rows, AsyncIterable) else iter(self._rows)
        if not isinstance(self._walk, AsyncIterator):
            return list(islice(self._walk, min(BLOCK_ROWS, self._left)))
        try:
            return [await anext(self._walk)]
        except StopAsyncIteration:
            return []

    def _item(self, row: Row) -> Request | Result | None:
        self._line += 1
        if isinstance(row, Request):
            return structs.replace(row, line=self._line) if self._meant(row) else None
        try:
            raw = without_ending(row) if isinstance(row, bytes) else msgspec.json.encode(row)
        except (TypeError, ValueError, RecursionError) as why:
            return refuse(_named(row), self._line, f"the row cannot be written as JSON: {why}", "Use plain JSON values only.")
        if not raw or raw.isspace() or not self._meant(raw):
            return None
        return parse(raw, self._line, self._origins, self._model, self._dialect or self._settled(raw))

    def _meant(self, row: Request | bytes) -> bool:
        """Whether the run is about this row."""
        intake = self._intake
        if intake.every:
            return True
        raw = msgspec.json.encode(fields_of(row)) if isinstance(row, Request) else row
        return fits(raw, self._line, intake.shard, intake.where)

    def _settled(self, raw: bytes) -> Dialect:
        intake, keys = self._intake, keys_of(raw)
        dialect = Dialect(intake.format, intake.route) if intake.format != "auto" else detected(keys, intake.route)
        self._dialect = dialect if keys else None
        return dialect


def _named(row: Row) -> bytes:
    """What is left of a row that cannot be written: the line that only says whose it is."""
    name = row.get("custom_id") if isinstance(row, Mapping) else None
    return json.dumps({"custom_id": name}).encode() if isinstance(name, str) else b""


def fields_of(request: Request) -> dict[str, object]:
    """The input line of this request."""
    fields: dict[str, object] = {"custom_id": request.id, "method": request.method, "url": request.path}
    headers = {"headers": dict(request.headers)} if request.headers else {}
    return fields | headers | ({"body": Raw(request.body)} if request.body else {})
