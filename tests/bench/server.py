"""The benchmark's endpoint: as little work per request as Python allows, so that the client is what gets measured.

    python -m tests.bench.server [PAUSE [LATENCY]]      prints its port, serves until its standard input ends,
                                                        then prints how many requests it held when it held many

Rules:

1. The answer is prebuilt; only the request's own id (`r-` and nine digits, anywhere in the body) is put in, so that
   every answer can be checked against its question.
2. A request that asks for a stream gets `EVENTS` events, each in a packet of its own, PAUSE seconds apart, as a model's
   tokens come; all at once without a PAUSE.
3. A plain answer comes LATENCY seconds after its request, at once without one.
4. No faults, no limits: `batchrunner.simulator` has those.
"""

import asyncio
import json
import resource
import statistics
import sys

import uvloop

ID = b"r-000000000"  # the width of all ids
_BODY = json.dumps(
    {
        "id": "chatcmpl-" + ID.decode(),
        "object": "chat.completion",
        "created": 1767225600,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 120}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 250, "completion_tokens": 120, "total_tokens": 370},
    }
).encode()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req\r\ncontent-length: %d\r\n\r\n" % len(_BODY)
_BEFORE, _, _AFTER = (_HEAD + _BODY).partition(ID)
EVENTS = 200
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(choices: list[object], **more: object) -> bytes:
    said = {"id": "chatcmpl-" + ID.decode(), "object": "chat.completion.chunk", "created": 1767225600, "model": "bench"}
    event = b"data: %b\n\n" % json.dumps({**said, "choices": choices, **more}).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _choice(delta: dict[str, str], reason: str | None = None) -> list[object]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]


_STREAM = [
    _STREAM_HEAD + _event(_choice({"role": "assistant", "content": ""})),
    *[_event(_choice({"content": "word "}))] * (EVENTS - 4),
    _event(_choice({}, "stop")),
    _event([], usage={"prompt_tokens": 250, "completion_tokens": 196, "total_tokens": 446}),
    b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
]


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length, one after another."""

    def __init__(self, pause: float, latency: float, flight: "Flight") -> None:
        self.pause = pause
        self.latency = latency
        self.flight = flight
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        while data:
            head = data.find(b"\r\n\r\n")
            end = head + 4 + _length(data, head) if head >= 0 else 0
            if not 0 < end <= len(data):
                break
            mark = data.find(b'"r-', head) + 1
            name = data[mark : mark + len(ID)]
            if data.find(b'"stream":true', head, end) >= 0:
                self.stream(name)
            elif self.latency:
                self.flight.held += 1
                asyncio.get_running_loop().call_later(self.latency, self.answer, name)
            else:
                self.transport.write(_BEFORE + name + _AFTER)
            data = data[end:]
        self.pending = data

    def answer(self, name: bytes) -> None:
        self.flight.held -= 1
        if not self.transport.is_closing():
            self.transport.write(_BEFORE + name + _AFTER)

    def stream(self, name: bytes) -> None:
        if not self.pause:
            self.transport.write(b"".join(_STREAM).replace(ID, name))
            return
        events = iter(_STREAM)
        later = asyncio.get_running_loop().call_later

        def step() -> None:
            event = next(events, None)
            if event and not self.transport.is_closing():
                self.transport.write(event.replace(ID, name))
                later(self.pause, step)

        later(int(name[-3:]) / 1000 * self.pause, step)  # connections do not march in step


def _length(data: bytes, head: int) -> int:
    """What the head says of its body's length. Most clients write it the same way."""
    at = data.find(b"Content-Length:", 0, head)
    if at < 0:
        at = data[:head].lower().index(b"content-length:")
    return int(data[at + 15 : data.find(b"\r\n", at)])


class Flight:
    """How many requests are held, looked at ten times a second."""

    def __init__(self) -> None:
        self.held = 0
        self.seen: list[int] = []

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.seen.append(self.held)

    def ramped(self) -> float:
        """The mean from the first to the last time that nine tenths of the most were held."""
        many = [at for at, held in enumerate(self.seen) if held and held >= 0.9 * max(self.seen)]
        return statistics.fmean(self.seen[many[0] : many[-1] + 1]) if many else 0.0


async def main(pause: str = "0", latency: str = "0") -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop, flight = asyncio.get_running_loop(), Flight()
    watch = loop.create_task(flight.watch())
    server = await loop.create_server(lambda: Connection(float(pause), float(latency), flight), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    watch.cancel()
    print(flight.ramped(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
