"""Results in the order of the input: files are put in order at the end of a run, streams are held back as they come.

Rules:

1. A file is the journal, and takes each answer as it comes; when a run has ended by itself its lines are put in order, in one
   step. Whoever kills the run before that keeps a whole file, in another order.
2. What flows on (stdout, the library) waits for its turn. So that what waits is bounded, the input is read at most `AHEAD`
   lines beyond the first that has no answer.
3. Lines of the output that answer nothing in the input stand at the end, as they were.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from struct import Struct as Layout
from typing import Self

import msgspec

from batchrunner.core.model import Request, Result
from batchrunner.disk import records
from batchrunner.outbox import Deliver
from batchrunner.partitions import PARTS, Partitions

AHEAD = 4096
Block = list[Request | Result]
Place = tuple[int, int, int]  # line of the input, offset and length in the output
_PLACE = Layout("<qqq")
_packed = msgspec.msgpack.encode
_read_asked = msgspec.msgpack.Decoder(tuple[str, int]).decode
_read_told = msgspec.msgpack.Decoder(tuple[str, int, int]).decode


def places(
    path: Path, names: Iterable[tuple[int, str]], name_of: Callable[[bytes], str], folder: Path
) -> list[tuple[int, int]] | Iterator[tuple[int, int]]:
    """Offset and length of every line of the output `path`, in the order of the input; [] when it is in order already.

    `names` are the ids of the input by line. `name_of` says which id a line of the output answers; ValueError: none.
    OSError: no room in `folder` for the join.
    """
    with ExitStack() as stack:
        asked, told, placed = (stack.enter_context(Partitions(folder)) for _ in range(3))
        last = 0
        for last, name in names:
            asked.put(name, _packed((name, last)))
        _deal_told(path, name_of, told)
        for partition in zip(asked, told, strict=True):
            for place in _joined(*partition, last + 1):
                placed.put(place[0] * PARTS // (last + 2), _PLACE.pack(*place))
        if _ascending(offset for _, offset, _ in _sorted(placed)):
            return []
        keep = stack.pop_all()
    return _read(placed, keep)


def _deal_told(path: Path, name_of: Callable[[bytes], str], told: Partitions) -> None:
    for offset, raw in records(path):
        try:
            name = name_of(raw)
        except ValueError:
            name = ""
        told.put(name, _packed((name, offset, len(raw))))


def _joined(asked: list[bytes], told: list[bytes], stranger: int) -> Iterator[Place]:
    lines = dict(map(_read_asked, asked))
    for name, offset, length in map(_read_told, told):
        yield lines.get(name, stranger), offset, length


def _sorted(placed: Partitions) -> Iterator[Place]:
    for partition in placed:
        yield from sorted(_PLACE.unpack(row) for row in partition)


def _ascending(offsets: Iterable[int]) -> bool:
    before = -1
    for offset in offsets:
        if offset < before:
            return False
        before = offset
    return True


def _read(placed: Partitions, keep: ExitStack) -> Iterator[tuple[int, int]]:
    with keep:
        for _, offset, length in _sorted(placed):
            yield offset, length


class InOrder:
    """Lets results pass in the order in which their requests were read."""

    def __init__(self) -> None:
        self._expected: deque[int] = deque()
        self._held: dict[int, Result] = {}
        self._moved = asyncio.Event()

    def watch(self, source: AsyncIterator[Block]) -> AsyncIterator[Block]:
        """The blocks of the source; the next one waits while too much waits for the first answer."""
        return _Watched(source, self)

    def expect(self, block: Block) -> None:
        """These are read, in this order."""
        self._expected.extend(item.line if isinstance(item, Request) else item.request.line for item in block)

    async def room(self) -> None:
        """Wait until more may be read."""
        while len(self._expected) >= AHEAD:
            self._moved.clear()
            await self._moved.wait()

    def release(self, results: Sequence[Result]) -> list[Result]:
        """Take these results in; those whose turn it is now."""
        self._held.update((result.request.line, result) for result in results)
        out: list[Result] = []
        while self._expected and (result := self._held.pop(self._expected[0], None)):
            out.append(result)
            self._expected.popleft()
        self._moved.set()
        return out

    def deliver(self, deliver: Deliver) -> Deliver:
        """The same, for whoever takes results one by one."""

        async def in_turn(result: Result) -> None:
            for due in self.release((result,)):
                await deliver(due)

        return in_turn

    def rest(self) -> list[Result]:
        """At the end of a run: what still waits for something that will not come."""
        held, self._held = self._held, {}
        return [held[line] for line in sorted(held)]


class _Watched:
    """A source whose blocks are expected. No generator: one that is dropped half-way would leave a task behind."""

    def __init__(self, source: AsyncIterator[Block], order: InOrder) -> None:
        self._source = source
        self._order = order

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        await self._order.room()
        block = await anext(self._source)
        self._order.expect(block)
        return block
