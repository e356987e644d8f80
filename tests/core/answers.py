"""What the tests of the classifying rooms share: an attempt, and a whole answer for each route."""

import json
from collections.abc import Mapping

from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Outcome, Reply, Request, Route, Timing

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": 'Grüße "x" 🙂 }'}, "finish_reason": "stop"}],
    "usage": USAGE,
}
WHOLE = {
    Route.CHAT: CHAT,
    Route.COMPLETIONS: {"id": "cmpl-1", "choices": [{"index": 0, "text": "a\nb", "finish_reason": "stop"}], "usage": USAGE},
    Route.RESPONSES: {
        "id": "resp_1",
        "status": "completed",
        "error": None,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
    },
    Route.MESSAGES: {
        "id": "msg_1",
        "type": "message",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 4, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 3},
    },
    Route.EMBEDDINGS: {"object": "list", "data": [{"index": 0, "embedding": [0.25, -1e-3]}], "usage": {"prompt_tokens": 9}},
    Route.MODERATIONS: {"id": "modr-1", "results": [{"flagged": False}]},
    Route.IMAGES: {"created": 1, "data": [{"url": "http://h/x.png"}]},
}


def attempt(
    route: Route = Route.CHAT, *, choices: int = 1, number: int = 1, stream: bool = False, asked: bool = False
) -> Attempt:
    request = Request(line=1, id="r-1", digest="0" * 16, route=route, path="/v1/x", choices=choices, stream=asked)
    return Attempt(request, "e", number, 0.0, Deadlines(1.0, 1.0, 1.0, 1.0), stream=stream)


def reply(status: int, body: object = b"", headers: Mapping[str, str] | None = None, *, reused: bool = False) -> Reply:
    """Bytes go out as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, headers or {}, raw, Timing(reused=reused))


def outcome(status: int, body: object = b"", headers: Mapping[str, str] | None = None, route: Route = Route.CHAT) -> Outcome:
    return classify(attempt(route), reply(status, body, headers))


def error(message: str = "no", code: object = None, kind: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def chat(reason: object, **more: object) -> dict[str, object]:
    return {**CHAT, "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": reason}], **more}
