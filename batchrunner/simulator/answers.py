"""Complete answers: what a good server would say, as one body or as server-sent events.

Rules:

1. Events come in the order and with the names the route's provider uses; joined deltas equal the plain text.
2. `events` carry the text; `closing` makes the stream complete (finish reasons, usage, [DONE], terminal event). Faults drop it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from batchrunner.core.model import Route
from batchrunner.simulator.asks import Ask, Question, question_of
from batchrunner.simulator.bodies import (
    BODIES,
    encode,
    error_body,
    finish,
    frame,
    message,
    output_item,
    output_text,
    response,
    usage,
)


class Answer(Struct, gc=False):
    """A complete answer: one JSON body, or events; `tokens` is the length of its text."""

    route: Route
    body: bytes = b""
    events: list[bytes] = []
    closing: list[bytes] = []
    tokens: int = 0

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.events)


def answer(route: Route, ask: Ask, key: bytes, size: int) -> Answer:
    """The complete answer to `ask`; `key` names the request, `size` is its body's length in bytes."""
    question = question_of(route, ask, key, size)
    if ask.stream and route in STREAMS:
        events, closing = STREAMS[route](question)
        return Answer(route, b"", events, closing, question.output)
    return Answer(route, encode(BODIES[route](question)), tokens=question.output)


def echo(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """What came in, as JSON: a JSON body as JSON, any other as text."""
    try:
        sent = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, RecursionError):
        sent = body.decode("utf-8", "replace")
    return Answer(Route.HTTP, encode({"method": method, "path": target, "headers": dict(headers), "body": sent}))


def error_event(route: Route) -> bytes:
    """The event by which a server says, inside a stream, that generation broke."""
    return _named("error" if route is Route.MESSAGES else "", error_body(route, "api_error", "the engine died", "server_error"))


_DONE = b"data: [DONE]\n\n"


def _event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _named(name: str, encoded: bytes) -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + encoded + b"\n\n"


def _typed(name: str, **fields: Any) -> bytes:
    """An event whose name is repeated in its JSON, as Anthropic and the Responses API do."""
    return _named(name, encode({"type": name, **fields}))


def _chat_events(question: Question) -> tuple[list[bytes], list[bytes]]:
    def chunk(index: int, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event(frame(question, "chatcmpl", "chat.completion.chunk", [choice]))

    events = [chunk(i, {"role": "assistant", "content": ""}) for i in range(len(question.texts))]
    events += [chunk(i, {"content": piece}) for i, text in enumerate(question.texts) for piece in text.pieces]
    closing = [chunk(i, {}, finish(text)) for i, text in enumerate(question.texts)]
    return events, closing + _usage_event(question, "chatcmpl", "chat.completion.chunk")


def _completion_events(question: Question) -> tuple[list[bytes], list[bytes]]:
    def chunk(index: int, text: str, reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        return _event(frame(question, "cmpl", "text_completion", [choice]))

    events = [chunk(i, piece) for i, text in enumerate(question.texts) for piece in text.pieces]
    closing = [chunk(i, "", finish(text)) for i, text in enumerate(question.texts)]
    return events, closing + _usage_event(question, "cmpl", "text_completion")


def _usage_event(question: Question, prefix: str, kind: str) -> list[bytes]:
    """The end of both streams: the usage when it was asked for, then [DONE]."""
    asked = question.ask.stream_options and question.ask.stream_options.include_usage
    return [_event(frame(question, prefix, kind, [], usage=usage(question))), _DONE] if asked else [_DONE]


def _response_events(question: Question) -> tuple[list[bytes], list[bytes]]:
    final = response(question)
    at = {"item_id": f"msg_{question.id}", "output_index": 0, "content_index": 0}
    item = {**output_item(question, "in_progress"), "content": []}
    events = [
        _typed("response.created", response=response(question, "in_progress")),
        _typed("response.output_item.added", output_index=0, item=item),
        _typed("response.content_part.added", **at, part={**output_text(question), "text": ""}),
        *(_typed("response.output_text.delta", **at, delta=piece) for piece in question.texts[0].pieces),
    ]
    closing = [
        _typed("response.output_text.done", **at, text=question.texts[0].whole),
        _typed("response.content_part.done", **at, part=output_text(question)),
        _typed("response.output_item.done", output_index=0, item=output_item(question, final["status"])),
        _typed(f"response.{final['status']}", response=final),
    ]
    return events, closing


def _message_events(question: Question) -> tuple[list[bytes], list[bytes]]:
    final = message(question)
    usage = {"input_tokens": question.prompt, "output_tokens": 1}
    opening = {**final, "content": [], "stop_reason": None, "usage": usage}
    events = [
        _typed("message_start", message=opening),
        _typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _typed("ping"),
        *(
            _typed("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in question.texts[0].pieces
        ),
        _typed("content_block_stop", index=0),
    ]
    delta = {"stop_reason": final["stop_reason"], "stop_sequence": None}
    return events, [_typed("message_delta", delta=delta, usage={"output_tokens": question.output}), _typed("message_stop")]


STREAMS: dict[Route, Callable[[Question], tuple[list[bytes], list[bytes]]]] = {
    Route.CHAT: _chat_events,
    Route.COMPLETIONS: _completion_events,
    Route.RESPONSES: _response_events,
    Route.MESSAGES: _message_events,
}
