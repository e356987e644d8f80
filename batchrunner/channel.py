"""What a run and its workers say to one another, and how it travels: frames of messages over a socket pair.

    run ──Opening, Send, Cancel, Granted──► worker          run ◄──Ready, Asked, Answered, Pulse── worker

Rules:

1. What is said in one turn of the loop is one frame: eight bytes of length, then a list of messages as msgpack. When there is
   much to say it leaves in pieces, so that the other end has something to do while this one is still at it.
2. A frame counts when it is whole. One that is cut was said by somebody who has died, and is never heard.
3. The pair has no name and no address: nobody else can speak into it. A key never travels; a worker finds its own.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import msgspec
from msgspec import Struct

from batchrunner.core.model import Attempt, Outcome, Phase
from batchrunner.core.service import Connection, Service
from batchrunner.core.trail import Ourselves
from batchrunner.records import encodable

MOST = 16  # messages in a frame; twice as many, and both ends wait for one another (`scripts/bench workers`)
_LENGTH = 8


class Opening(Struct, tag=0, array_like=True, frozen=True):
    """The first word to a worker: where to send, by what name."""

    service: Service
    connection: Connection
    urls: Mapping[str, str]


class Send(Struct, tag=1, array_like=True, frozen=True, gc=False):
    """Make this attempt. `number` names it from now on."""

    number: int
    attempt: Attempt


class Cancel(Struct, tag=2, array_like=True, frozen=True, gc=False):
    """Nobody waits for this attempt any more."""

    number: int


class Granted(Struct, tag=3, array_like=True, frozen=True, gc=False):
    """The answer to `Asked`: so many seconds more, counted from the question; 0.0 gives the attempt up."""

    number: int
    seconds: float


class Ready(Struct, tag=4, array_like=True, frozen=True, gc=False):
    """The worker can send."""


class Asked(Struct, tag=5, array_like=True, frozen=True, gc=False):
    """A deadline of the attempt has passed, `age` seconds after the wait in this phase began."""

    number: int
    phase: Phase
    age: float


class Answered(Struct, tag=6, array_like=True, frozen=True, gc=False):
    """What the attempt amounts to."""

    number: int
    outcome: Outcome


class Pulse(Struct, tag=7, array_like=True, frozen=True, gc=False):
    """How the worker's process has been doing of late, and how busy it was (`vitals.Demand`)."""

    us: Ourselves
    busy: float


ToWorker = Opening | Send | Cancel | Granted
FromWorker = Ready | Asked | Answered | Pulse
TO_WORKER = msgspec.msgpack.Decoder(list[ToWorker])
FROM_WORKER = msgspec.msgpack.Decoder(list[FromWorker])
_encode = msgspec.msgpack.Encoder().encode


class Channel(asyncio.Protocol):
    """One end of the pair. `hear` gets each message of the other end, `lost` is called once, when that end has gone."""

    def __init__(
        self, decoder: "msgspec.msgpack.Decoder[Any]", hear: Callable[[Any], object], lost: Callable[[], object]
    ) -> None:
        self._decode = decoder.decode
        self._hear = hear
        self._lost = lost
        self._said: list[ToWorker | FromWorker] = []
        self._heard = bytearray()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def over(
        cls,
        end: socket.socket,
        decoder: "msgspec.msgpack.Decoder[Any]",
        hear: Callable[[Any], object],
        lost: Callable[[], object],
    ) -> Self:
        """The channel over this end of a socket pair."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(lambda: cls(decoder, hear, lost), sock=end)
        return channel

    def say(self, message: ToWorker | FromWorker) -> None:
        """Send a message in this turn of the loop. To somebody who has gone it is lost in silence."""
        if not self._said:
            self._loop.call_soon(self._flush)
        self._said.append(message)
        if len(self._said) == MOST:
            self._flush()

    def close(self) -> None:
        """Say no more."""
        self._transport.close()

    def _flush(self) -> None:
        said, self._said = self._said, []
        if not said or self._transport.is_closing():
            return
        frame = packed(said)
        self._transport.write(len(frame).to_bytes(_LENGTH, "big") + frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pair is open."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Hear what is whole by now."""
        heard = self._heard
        heard += data
        start = 0
        while len(heard) - start >= _LENGTH:
            end = start + _LENGTH + int.from_bytes(heard[start : start + _LENGTH], "big")
            if end > len(heard):
                break
            for message in self._decode(memoryview(heard)[start + _LENGTH : end]):
                self._hear(message)
            start = end
        if start:
            del heard[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has gone, or this one was closed."""
        self._lost()


def packed(messages: list[ToWorker | FromWorker]) -> bytes:
    """Messages as one piece, whatever they hold: a server may say half a character, or count tokens beyond all measure."""
    try:
        return _encode(messages)
    except (UnicodeEncodeError, OverflowError):
        return _encode([encodable(message) for message in messages])
