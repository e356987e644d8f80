"""The servers of the simulation on real sockets and in real time.

    python -m tests.bench.modelled POINT ROWS SEED      prints its base URLs as JSON, serves until its standard input ends
                                                        and then prints what it saw of each sending

Rules:

1. What a server does is `tests.simulation.servers`; here are only sockets and timers. Its clock starts with the first request.
2. A client that closes a connection has given up the call on it: in vain, if the server would have answered.
"""

import asyncio
import json
import sys
from collections import Counter
from math import inf

import msgspec
import uvloop

from tests.bench.points import POINTS
from tests.bench.server import ID
from tests.simulation.servers import Call, Refusal, Server
from tests.simulation.world import PER_TOKEN, Sent

_WORDS = {200: b"OK", 429: b"Too Many Requests", 503: b"Service Unavailable"}
_BUSY = b'{"error":{"message":"too busy"}}'


class Clock:
    """Seconds since the first request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started = asyncio.Event()
        self.start = 0.0

    def now(self) -> float:
        if not self.started.is_set():
            self.start = self._loop.time()
            self.started.set()
        return self._loop.time() - self.start


class Host:
    """One modelled server, its listener, its connections and its timer."""

    def __init__(self, name: str, server: Server, log: list[Sent], clock: Clock) -> None:
        self.name = name
        self.server = server
        self.log = log
        self.clock = clock
        self.connections: set[Connection] = set()
        self.serving: dict[int, Connection] = {}  # by id of the call
        self.sendings: Counter[int] = Counter()
        self.port = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Server | None = None

    async def listen(self) -> None:
        self._listener = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=4096)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        """Live through the outages: nobody listens, and every connection is gone."""
        await self.clock.started.wait()
        for start, end in self.server.nature.outages:
            await asyncio.sleep(start - self.clock.now())
            assert self._listener
            self._listener.close()
            self.turn()
            for connection in list(self.connections):
                connection.transport.abort()
            await asyncio.sleep(end - self.clock.now())
            await self.listen()

    def turn(self) -> None:
        """Let everything end that is due, and see to the next."""
        for call, end in self.server.advance(self.clock.now()):
            self.serving.pop(id(call)).end(end)
        self.arm()

    def arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        due = self.server.due()
        self._timer = self._loop.call_at(self.clock.start + due, self.turn) if due < inf else None


class Connection(asyncio.Protocol):
    """One client's connection; it has one call at a time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.pending = b""
        self.call: Call | None = None
        self.name = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        host, call = self.host, self.call
        host.connections.discard(self)
        if call:
            host.serving.pop(id(call), None)
            host.server.leave(call, host.clock.now())
            self._note("killed" if call.seconds == inf else "wronged", 0)
            host.arm()

    def data_received(self, data: bytes) -> None:
        self.pending = data = self.pending + data
        head = data.find(b"\r\n\r\n")
        at = data.lower().find(b"content-length:", 0, head) if head >= 0 else -1
        end = head + 4 + int(data[at + 15 : data.find(b"\r\n", at)]) if at >= 0 else -1
        if 0 < end <= len(data):
            mark = data.find(b'"r-', head) + 1
            self.name, self.pending = data[mark : mark + len(ID)], b""
            self._arrive(int(self.name[2:]))

    def _arrive(self, line: int) -> None:
        host = self.host
        now = host.clock.now()
        host.turn()
        host.sendings[line] += 1
        call = host.server.arrive(line, host.sendings[line], now)
        if isinstance(call, Refusal):
            host.log.append(Sent(line, host.name, now, now, "refused", call.status))
            self._refuse(call)
        else:
            self.call = call
            host.serving[id(call)] = self
            host.arm()

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.status:
            self.transport.write(_reply(refusal.status, _BUSY, refusal.retry_after))
        else:
            self.transport.abort()  # it came in just before the listener went away

    def end(self, end: str) -> None:
        """The call has been answered, or cut off by an outage."""
        call = self._note(end, 200 if end == "answered" else 0)
        if end == "answered":
            self.transport.write(_answer(self.name, call.seconds))

    def _note(self, end: str, status: int) -> Call:
        call, self.call = self.call, None
        assert call
        self.host.log.append(Sent(call.line, self.host.name, call.began, self.host.clock.now(), end, status))
        return call


def _reply(status: int, body: bytes, retry_after: str = "") -> bytes:
    wait = b"retry-after: %s\r\n" % retry_after.encode() if retry_after else b""
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, _WORDS[status], wait, len(body)) + body


def _answer(name: bytes, seconds: float) -> bytes:
    choice = b'{"index":0,"message":{"role":"assistant","content":"word"},"finish_reason":"stop"}'
    usage = b'{"prompt_tokens":9,"completion_tokens":%d}' % max(1, int(seconds / PER_TOKEN))
    return _reply(200, b'{"id":"chatcmpl-%s","object":"chat.completion","choices":[%s],"usage":%s}' % (name, choice, usage))


async def main(point: str, rows: str, seed: str) -> None:
    stage = POINTS[point].stage(int(rows), int(seed))
    clock, log = Clock(), list[Sent]()
    hosts = [Host(name, Server(nature), log, clock) for name, nature in stage.servers.items()]
    for host in hosts:
        await host.listen()
    print(json.dumps([f"http://127.0.0.1:{host.port}/v1" for host in hosts]), flush=True)
    outages = [asyncio.ensure_future(host.vanish()) for host in hosts]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(msgspec.json.encode(log).decode(), flush=True)
    for outage in outages:
        outage.cancel()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
