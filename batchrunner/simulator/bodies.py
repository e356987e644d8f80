"""Plain answers: one JSON body per route, in its provider's shape, with plausible usage. And errors, likewise.

Rules:

1. Every body is complete in the sense of `core.complete`: all choices, each with a finish reason; as many vectors as inputs.
2. Nothing depends on the clock: `CREATED` is the one moment of all answers.
"""

import base64
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from batchrunner.core.model import Route
from batchrunner.simulator.asks import Ask, Question, Text, inputs

CREATED = 1_767_225_600
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="

encode = msgspec.json.Encoder().encode


def error_body(route: Route, kind: str, message: str, code: str | int | None = None) -> bytes:
    """An error as the route's provider words it: Anthropic's shape for messages, else OpenAI's."""
    if route is Route.MESSAGES:
        return encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_simulated"})
    return encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def usage(question: Question) -> dict[str, int]:
    """Tokens, as chat and completions name them."""
    return {
        "prompt_tokens": question.prompt,
        "completion_tokens": question.output,
        "total_tokens": question.prompt + question.output,
    }


def _usage_of_parts(question: Question) -> dict[str, int]:
    return {"input_tokens": question.prompt, "output_tokens": question.output, "total_tokens": question.prompt + question.output}


def frame(question: Question, prefix: str, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
    """What chat and completions share, plain or as a chunk."""
    return {
        "id": f"{prefix}-{question.id}",
        "object": kind,
        "created": CREATED,
        "model": question.ask.model,
        "choices": choices,
        **more,
    }


def finish(text: Text) -> str:
    """The finish reason of a choice."""
    return "length" if text.cut else "stop"


def _chat(question: Question) -> dict[str, Any]:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text.whole}, "logprobs": None, "finish_reason": finish(text)}
        for i, text in enumerate(question.texts)
    ]
    return frame(question, "chatcmpl", "chat.completion", choices, usage=usage(question), system_fingerprint="fp_simulated")


def _completions(question: Question) -> dict[str, Any]:
    choices = [
        {"index": i, "text": text.whole, "logprobs": None, "finish_reason": finish(text)} for i, text in enumerate(question.texts)
    ]
    return frame(question, "cmpl", "text_completion", choices, usage=usage(question))


def response(question: Question, status: str = "") -> dict[str, Any]:
    """The response object; with a `status`, as it is before it has any output."""
    cut = question.texts[0].cut
    done = status or ("incomplete" if cut else "completed")
    return {
        "id": f"resp_{question.id}",
        "object": "response",
        "created_at": CREATED,
        "status": done,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done == "incomplete" else None,
        "model": question.ask.model,
        "output": [] if status else [output_item(question, done)],
        "usage": None if status else _usage_of_parts(question),
    }


def output_item(question: Question, status: str) -> dict[str, Any]:
    """The message of a response."""
    return {
        "type": "message",
        "id": f"msg_{question.id}",
        "status": status,
        "role": "assistant",
        "content": [output_text(question)],
    }


def output_text(question: Question) -> dict[str, Any]:
    """The text part of that message."""
    return {"type": "output_text", "text": question.texts[0].whole, "annotations": []}


def message(question: Question) -> dict[str, Any]:
    """Anthropic's message."""
    return {
        "id": f"msg_{question.id}",
        "type": "message",
        "role": "assistant",
        "model": question.ask.model,
        "content": [{"type": "text", "text": question.texts[0].whole}],
        "stop_reason": "max_tokens" if question.texts[0].cut else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": question.prompt, "output_tokens": question.output},
    }


def _vector(text: Any, ask: Ask) -> list[float] | str:
    """A direction made from the input's bytes; base64 of little-endian float32 when asked."""
    raw = encode(text)
    seed, size = sum(raw), max(1, min(ask.dimensions or 8, 4096))
    vector = [((seed * (i + 3) + len(raw) * 31) % 997) / 997 - 0.5 for i in range(size)]
    return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if ask.encoding_format == "base64" else vector


def _embeddings(question: Question) -> dict[str, Any]:
    vectors = [
        {"object": "embedding", "index": i, "embedding": _vector(text, question.ask)}
        for i, text in enumerate(inputs(question.ask))
    ]
    usage = {"prompt_tokens": question.prompt, "total_tokens": question.prompt}
    return {"object": "list", "data": vectors, "model": question.ask.model, "usage": usage}


def _moderations(question: Question) -> dict[str, Any]:
    verdict = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.0001}}
    return {"id": f"modr-{question.id}", "model": question.ask.model, "results": [verdict] * len(inputs(question.ask))}


def _images(question: Question) -> dict[str, Any]:
    return {"created": CREATED, "data": [{"b64_json": _PIXEL}] * max(1, min(question.ask.n or 1, 10))}


BODIES: dict[Route, Callable[[Question], dict[str, Any]]] = {
    Route.CHAT: _chat,
    Route.COMPLETIONS: _completions,
    Route.RESPONSES: response,
    Route.MESSAGES: message,
    Route.EMBEDDINGS: _embeddings,
    Route.MODERATIONS: _moderations,
    Route.IMAGES: _images,
}
