"""A server that misbehaves on request: raw bytes over asyncio, one script per connection.

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head(200, {"Content-Length": "10"}), b"half")
        peer.reset()

    async with FaultServer(script) as server:
        ...  # talk to server.url; then look at server.requests and server.connections

Rules:

1. A script sees one connection. When it returns, the connection is closed; a client that leaves ends it quietly.
2. Any other exception of a script fails the test, at the end of the `async with`.
3. Nothing is left behind: tasks are cancelled and awaited, connections aborted.
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from multidict import CIMultiDict


class Seen(NamedTuple):
    """A request as the server read it."""

    method: str
    path: str
    headers: "CIMultiDict[str]"
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """The server's end of one connection. `number` counts them from 1."""

    def __init__(self, server: "FaultServer", number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self._server = server
        self._reader = reader
        self._writer = writer

    @property
    def port(self) -> int:
        """The client's."""
        return int(self._writer.get_extra_info("peername")[1])

    async def request(self) -> Seen:
        """Read one request, with its body. ConnectionError, which ends the script quietly, when the client has left."""
        seen = await self.opening()
        if "chunked" in seen.headers.get("Transfer-Encoding", ""):
            body = await self._chunks()
        else:
            body = await self._exactly(int(seen.headers.get("Content-Length", "0")))
        self._server.requests[-1] = seen = seen._replace(body=body)
        return seen

    async def opening(self) -> Seen:
        """Read the head of a request and leave its body in the pipe."""
        raw = await self._until(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = CIMultiDict((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        seen = Seen(method, path, headers, b"")
        self._server.requests.append(seen)
        return seen

    async def send(self, *parts: bytes) -> None:
        """Send bytes, each part in a packet of its own as far as TCP allows."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    def finish(self) -> None:
        """Send no more, and go on listening: a half-close."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Drop the connection with an RST."""
        with suppress(OSError):
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def hold(self) -> None:
        """Say nothing more until the client leaves or the test ends; what the client sends is read and dropped."""
        while await self._reader.read(65536):
            pass

    async def freeze(self) -> None:
        """Neither read nor write until the test ends."""
        with suppress(RuntimeError):  # the stream's own buffer is full and has paused it already
            self._writer.transport.pause_reading()
        await asyncio.Event().wait()

    async def _until(self, end: bytes) -> bytes:
        try:
            return await self._reader.readuntil(end)
        except asyncio.IncompleteReadError:
            raise ConnectionAbortedError from None

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise ConnectionAbortedError from None

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
            body += await self._exactly(size)
            await self._until(b"\r\n")
        await self._until(b"\r\n")
        return body


Script = Callable[[Peer], Awaitable[None]]


class FaultServer:
    """Listens on 127.0.0.1 while its `async with` lasts. `requests` and `connections` tell what came."""

    def __init__(self, script: Script | bytes, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._script = script if callable(script) else answering(script)
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The origin, without a path."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()
        for writer in list(self._writers):
            with suppress(OSError):
                await writer.wait_closed()
        broken = [end for end in ends if isinstance(end, Exception)]
        if broken and error is None:
            raise broken[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        peer = Peer(self, self.connections, reader, writer)
        self._tasks.add(asyncio.create_task(self._serve(peer, writer)))

    async def _serve(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            await self._script(peer)
        writer.close()


def answering(*replies: bytes) -> Script:
    """Answer the requests of a connection with these, in turn; the last one again and again."""

    async def script(peer: Peer) -> None:
        for reply in replies:
            await peer.request()
            await peer.send(reply)
        while True:
            await peer.request()
            await peer.send(replies[-1])

    return script


def head(status: int = 200, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> bytes:
    """Status line and headers, with the blank line."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode()


def reply(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> bytes:
    """A whole answer with Content-Length. It keeps the connection open."""
    return head(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}) + body


def json_reply(status: int, value: object, headers: Mapping[str, str] = {}) -> bytes:
    return reply(json.dumps(value).encode(), status, headers)


def chat(name: str = "chatcmpl-1", text: str = "pong", **more: object) -> dict[str, object]:
    """The body of a good chat completion; `more` replaces or adds keys."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return {"id": name, "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage} | more


def ok_chat(name: str = "chatcmpl-1", text: str = "pong") -> bytes:
    """A good chat completion, as a whole answer."""
    return json_reply(200, chat(name, text))


def chunk(part: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(part), part)


LAST_CHUNK = b"0\r\n\r\n"


def chunked_head(status: int = 200, headers: Mapping[str, str] = {}) -> bytes:
    return head(status, {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **headers})


def chunked(parts: Iterable[bytes], status: int = 200, headers: Mapping[str, str] = {}) -> bytes:
    """A whole answer in chunks."""
    return chunked_head(status, headers) + b"".join(map(chunk, parts)) + LAST_CHUNK


SSE_HEAD = chunked_head(200, {"Content-Type": "text/event-stream"})


def event(value: object) -> bytes:
    """One SSE event: a string or bytes as they are, anything else as JSON."""
    text = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
    return b"data: " + text + b"\n\n"


def sse(parts: Iterable[object]) -> bytes:
    """A whole stream: one chunk per event. Say "[DONE]" yourself, or not."""
    return SSE_HEAD + b"".join(chunk(event(part)) for part in parts) + LAST_CHUNK
