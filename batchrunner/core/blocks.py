"""Answers that come as named events: Anthropic's messages, OpenAI's responses.

Rules:

1. A message is blocks, found by their index, each of them parts; it is complete when `message_stop` has come after a stop_reason.
2. A response is what its terminal event says; every event before that is progress only.
3. Events and deltas we do not know are passed over, as both providers ask.

Source: Anthropic, "Streaming messages"; OpenAI API reference, "Streaming events" of responses.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from msgspec import Struct
from msgspec.json import Decoder

from batchrunner.core.delta import Json, Nonsense, Tree, an_object, fold, grow, mended, read, say, without

_WAITING = {"response.created", "response.queued", "response.in_progress"}  # the server is there, the model has said nothing
_TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
_BLOCK = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "tool_use"}


class _BlockPart(Struct, gc=False, forbid_unknown_fields=True):
    type: str
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class _BlockDelta(Struct, gc=False):
    type: Literal["content_block_delta"]
    index: int
    delta: _BlockPart
    error: None = None


class Message:
    """An Anthropic message: blocks that come in parts, then how it ended. Usage figures are cumulative."""

    _read = Decoder(_BlockDelta).decode

    def __init__(self, asked: int) -> None:
        self.flags: set[str] = set()
        self.ended = False
        self._message: Json = {}
        self._blocks: dict[int, Json] = {}

    def ordinary(self, text: bytes) -> bool | None:
        """A piece of a text, of thoughts or of a tool's input."""
        event = self._read(text)
        block = self._blocks.get(event.index)
        if block is None:
            return None
        delta = event.delta
        if delta.text:
            return say(block, "text", delta.text)
        if delta.partial_json:
            return say(block, "partial_json", delta.partial_json)
        return delta.thinking != "" and say(block, "thinking", delta.thinking)

    def take(self, kind: str, event: Json) -> bool:
        """Any event; those we do not know are passed over, as the provider asks."""
        step = _STEPS.get(kind)
        if not kind:
            raise Nonsense
        return step is not None and step(self, event)

    def begin(self, event: Json) -> bool:
        """`message_start`."""
        if self._message:
            raise Nonsense
        self._message = {**an_object(event.get("message")), "content": None}
        return True

    def open_block(self, event: Json) -> bool:
        """`content_block_start`."""
        index = event.get("index")
        if type(index) is not int or index in self._blocks:
            raise Nonsense
        self._blocks[index] = Tree(an_object(event.get("content_block")))
        return True

    def grow_block(self, event: Json) -> bool:
        """`content_block_delta`; its block is made up when it was never opened."""
        index, delta = event.get("index"), an_object(event.get("delta"))
        if type(index) is not int:
            raise Nonsense
        if index not in self._blocks:
            self.flags.add("malformed_event")
            self._blocks[index] = Tree(type=_BLOCK.get(str(delta.get("type")), "text"))
        if "citation" in delta:
            delta = {"citations": [delta["citation"]]}
        return grow(self._blocks[index], without(delta, "type"))

    def close_block(self, event: Json) -> bool:
        """`content_block_stop`."""
        return True

    def conclude(self, event: Json) -> bool:
        """`message_delta`: why it stopped, and the bill."""
        news = {**without(event, "type", "delta", "usage"), **an_object(event.get("delta") or {})}
        usage = an_object(event.get("usage") or {})
        _update(self._message, news)
        before = self._message.get("usage")
        self._message["usage"] = dict(before) if isinstance(before, dict) else {}
        _update(self._message["usage"], usage)
        return bool(news.get("stop_reason"))

    def end(self, event: Json) -> bool:
        """`message_stop`."""
        self.ended = True
        return True

    def body(self) -> Json | None:
        """The message with its blocks by index."""
        if not self._message and not self._blocks:
            return None
        return {**self._message, "content": [self._built(block) for _, block in sorted(self._blocks.items())]}

    def _built(self, block: Json) -> Json:
        """A block of the ordinary body. A tool's input that is no JSON (cut by the token limit) is kept as text, and flagged."""
        built: Json = fold(block)
        text = built.pop("partial_json", None)
        if not isinstance(text, str) or not text:
            return built
        try:
            return {**built, "input": read(mended(text).encode())[0]}
        except (ValueError, RecursionError):
            self.flags.add("invalid_tool_input")
            return {**built, "input": {"INVALID_JSON": text}}

    def missing(self) -> str:
        """`message_stop`, or the stop_reason that has to come before it."""
        if not self.ended:
            return "ended without message_stop"
        return "" if self._message.get("stop_reason") else "message_stop without a stop_reason"


_STEPS: Final[Mapping[str, Callable[[Message, Json], bool]]] = {
    "message_start": Message.begin,
    "content_block_start": Message.open_block,
    "content_block_delta": Message.grow_block,
    "content_block_stop": Message.close_block,
    "message_delta": Message.conclude,
    "message_stop": Message.end,
}


def _update(old: Json, news: Json) -> None:
    """Takes over what is not null."""
    old.update({key: value for key, value in news.items() if value is not None or key not in old})


class _Step(Struct, gc=False):
    type: str
    delta: str = "…"  # an event that has no delta says something by itself
    error: None = None


class Response:
    """A response: its terminal event holds the whole of it, what comes before is progress."""

    _read = Decoder(_Step).decode

    def __init__(self, asked: int) -> None:
        self.flags: set[str] = set()
        self.ended = False
        self._response: Json | None = None

    def ordinary(self, text: bytes) -> bool | None:
        """Any event but the terminal ones."""
        step = self._read(text)
        if step.type in _TERMINAL or not step.type.startswith("response."):
            return None
        return step.delta != "" and step.type not in _WAITING

    def take(self, kind: str, event: Json) -> bool:
        """A terminal event, or one of a shape unknown to us."""
        if not kind:
            raise Nonsense
        if kind in _TERMINAL:
            self._response = an_object(event.get("response"))
            self.ended = True
        return kind.startswith("response.") and kind not in _WAITING

    def body(self) -> Json | None:
        """The response of the terminal event."""
        return self._response

    def missing(self) -> str:
        """The terminal event."""
        return "" if self._response is not None else "ended without a terminal response event"
