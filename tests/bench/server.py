"""The benchmark's endpoint: as little work per request as Python allows, so that the client is what gets measured.

    python -m tests.bench.server      prints its port, serves until its standard input ends

Rules:

1. The answer is prebuilt; only the request's own id (`r-` and nine digits, anywhere in the body) is put in, so that
   every answer can be checked against its question.
2. No faults, no latency, no limits: `batchrunner.simulator` has those.
"""

import asyncio
import json
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


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length, one after another."""

    def __init__(self) -> None:
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        while data:
            head = data.find(b"\r\n\r\n")
            at = data.lower().find(b"content-length:") if head >= 0 else -1
            end = head + 4 + int(data[at + 15 : data.find(b"\r\n", at)]) if at >= 0 else -1
            if not 0 < end <= len(data):
                break
            mark = data.find(b'"r-', head) + 1
            self.transport.write(_BEFORE + data[mark : mark + len(ID)] + _AFTER)
            data = data[end:]
        self.pending = data


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
