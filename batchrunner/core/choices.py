"""Answers that come as chunks of choices: chat and completions.

Rules:

1. A choice is found by its index, in whatever order and however often it comes; it has ended when it has a finish_reason.
2. What a delta says goes on where the last one ended; of everything else the last that says something stays.
3. What a chunk says about the answer as a whole is kept from the first that says it, the usage from the last.
4. An ordinary delta is read by a typed struct that refuses whatever it does not name; what it refuses goes the general way,
   which loses nothing. One that differs from the last only in its words is known by its bytes (`core.refrain`).

Sources: OpenAI API reference, "Streaming" of chat and completions; for what others add, the code of vLLM, SGLang, llama.cpp,
Ollama, TGI and one-api, and the libraries of Groq and Mistral.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from msgspec import Struct
from msgspec.json import Decoder

from batchrunner.core.delta import Json, Nonsense, Tree, an_object, fold, grow, say, without
from batchrunner.core.refrain import PROOF, Refrain, refrain

_REFRAINS = 8  # that are tried: where more come, events differ in more than words
_MAX_CHOICES = 4096  # more than any provider gives; an index beyond it would only cost memory
_PER_CHUNK = {"choices", "error", "obfuscation", "usage"}  # top-level keys that belong to one chunk, not to the answer


class _Said(Struct, gc=False, forbid_unknown_fields=True):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    role: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _Piece(Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a choice that ends nothing and has no probabilities. The other fields are those that servers send as null."""

    index: int
    finish_reason: None = None
    logprobs: None = None
    stop_reason: None = None
    matched_stop: None = None
    native_finish_reason: None = None
    token_ids: None = None


class _ChatPiece(_Piece, gc=False, forbid_unknown_fields=True, kw_only=True):
    delta: _Said

    def add_to(self, said: Json) -> bool:
        delta, news = self.delta, False
        if delta.content:
            news = say(said, "content", delta.content)
        if delta.reasoning_content:
            news = say(said, "reasoning_content", delta.reasoning_content)
        if delta.reasoning:
            news = say(said, "reasoning", delta.reasoning)
        return news

    def place(self) -> tuple[Struct, str]:
        """Where it says something, or one of the places."""
        delta = self.delta
        return delta, next((key for key in ("content", "reasoning_content", "reasoning") if getattr(delta, key)), "content")


class _TextPiece(_Piece, gc=False, forbid_unknown_fields=True):
    text: str = ""

    def add_to(self, said: Json) -> bool:
        return self.text != "" and say(said, "text", self.text)

    def place(self) -> tuple[Struct, str]:
        return self, "text"


class _Chunk(Struct, gc=False):
    usage: Json | None = None
    error: None = None
    detail: None = None
    x_groq: None = None


class _ChatChunk(_Chunk, gc=False, kw_only=True):
    choices: list[_ChatPiece]


class _TextChunk(_Chunk, gc=False, kw_only=True):
    choices: list[_TextPiece]


class _Choice:
    """One choice while it comes in: `said` goes on with every delta, `rest` keeps the last of everything else."""

    __slots__ = ("rest", "said")

    def __init__(self, index: int) -> None:
        self.rest: Json = {"index": index}
        self.said: Json = Tree()


class Choices(ABC):
    """The answer to a chat or a completion."""

    said_in: ClassVar[str]  # the key of a choice that goes on with every chunk
    kept_in: ClassVar[str]  # and where the ordinary body has it
    name: ClassVar[str]  # the `object` of the ordinary body
    chunks: ClassVar[Decoder[_ChatChunk] | Decoder[_TextChunk]]

    def __init__(self, asked: int) -> None:
        self.flags: set[str] = set()
        self.ended = False
        self._asked = asked
        self._top: Json = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Json | None = None
        self._refrain: Refrain | None = None
        self._refrains = _REFRAINS
        self._singing: tuple[Json, str] = {}, ""  # where the words of the refrain belong

    def ordinary(self, text: bytes) -> bool | None:
        """Text and thoughts of choices that have begun; None or ValueError: another chunk, and nothing has changed."""
        words = self._refrain.words(text) if self._refrain else None
        if words:
            return say(*self._singing, words)
        choices = self._choices
        if not choices:
            return None
        chunk = self.chunks.decode(text)
        for piece in chunk.choices:
            if piece.index not in choices:
                return None
        self._usage = chunk.usage or self._usage
        said = False
        for piece in chunk.choices:
            said |= piece.add_to(choices[piece.index].said)
        if said and words is None and self._refrains and len(chunk.choices) == 1:
            self._learn(text, chunk)
        return said

    def _learn(self, text: bytes, chunk: "_ChatChunk | _TextChunk") -> None:
        """Expect more chunks like this one. `chunk` is not what it was afterwards."""
        self._refrains -= 1
        spoken, key = chunk.choices[0].place()
        found = refrain(text, getattr(spoken, key))
        if found is None:
            return
        setattr(spoken, key, PROOF)
        if self.chunks.decode(found.proof) == chunk:
            self._refrain = found
            self._singing = self._choices[chunk.choices[0].index].said, key

    def take(self, kind: str, event: Json) -> bool:
        """The general way: any chunk. What a chunk says about the answer as a whole is kept from the first that says it."""
        self._count(event)
        pieces = event.get("choices")
        if not isinstance(pieces, list):
            if event.get("usage"):
                return False
            raise Nonsense
        for key, value in event.items():
            if key == "choices":
                self._top.setdefault(key, None)
            elif key not in _PER_CHUNK and not self._top.get(key):
                self._top[key] = value
        return sum(self._piece(position, piece) for position, piece in enumerate(pieces)) > 0

    def _count(self, event: Json) -> None:
        groq = event.get("x_groq")
        usage = event.get("usage") or (groq.get("usage") if isinstance(groq, dict) else None)
        if isinstance(usage, dict):
            self._usage = usage
        elif usage:
            self.flags.add("malformed_event")

    def _piece(self, position: int, piece: object) -> bool:
        try:
            piece = an_object(piece)
            choice = self._choice(piece.get("index"), position)
            return self._keep(choice.rest, piece) + self._say(choice.said, piece) > 0
        except Nonsense:
            self.flags.add("malformed_event")
            return False

    def _choice(self, index: object, position: int) -> _Choice:
        """The choice of that index. Without one the place in the chunk has to do."""
        if type(index) is not int or index >= self._asked > 0:
            self.flags.add("malformed_event")
        index = index if type(index) is int else position
        if not 0 <= index < max(self._asked, _MAX_CHOICES):
            raise Nonsense
        if index not in self._choices:
            self._choices[index] = _Choice(index)
        return self._choices[index]

    @abstractmethod
    def _say(self, said: Json, piece: Json) -> bool:
        """Adds what the piece says; True if it says something."""

    def _keep(self, rest: Json, piece: Json) -> bool:
        """Keeps what is not said in pieces; True when the choice has just come to its end."""
        reason = piece.get("finish_reason")
        if reason and not isinstance(reason, str):
            raise Nonsense
        news = bool(reason) and not rest.get("finish_reason")
        for key, value in piece.items():
            if key == self.said_in:
                rest.setdefault(self.kept_in, None)
            elif key == "logprobs" and isinstance(value, dict):
                news |= grow(rest, {key: value})
            elif key != "index" and (value or key not in rest):
                rest[key] = value
        return news

    def body(self) -> Json | None:
        """The chunks as one object, its choices by index."""
        if not self._top:
            return None
        name = self._top.get("object")
        whole = {**self._top, "object": name.removesuffix(".chunk") if isinstance(name, str) and name else self.name}
        whole["choices"] = [self._built(choice) for _, choice in sorted(self._choices.items())]
        return whole if self._usage is None else {**whole, "usage": self._usage}

    def _built(self, choice: _Choice) -> Json:
        built = {key: fold(value) for key, value in choice.rest.items()}
        return {**built, self.kept_in: self._kept(fold(choice.said), built.get(self.kept_in))}

    @abstractmethod
    def _kept(self, said: Json, sent: object) -> object:
        """What the ordinary body holds: made of all that was said, or else what the server sent whole."""

    def missing(self) -> str:
        """The first choice, asked for or seen, that has not come to its end."""
        for index in sorted({*range(self._asked or 1), *self._choices}):
            if index not in self._choices or not self._choices[index].rest.get("finish_reason"):
                return f"no finish_reason for choice {index}"
        return ""


class Chat(Choices):
    """`chat.completion.chunk`: the message comes as deltas."""

    said_in = "delta"
    kept_in = "message"
    name = "chat.completion"
    chunks = Decoder(_ChatChunk)

    def _say(self, said: Json, piece: Json) -> bool:
        delta = piece.get("delta")
        return delta is not None and grow(said, an_object(delta))

    def _kept(self, said: Json, sent: object) -> object:
        if not said and isinstance(sent, dict):
            return sent
        message = {"role": "assistant", "content": None, **said}
        message["role"] = message["role"] or "assistant"
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            message["tool_calls"] = [{"type": "function", **without(call, "index")} for call in calls]
        return message


class Completions(Choices):
    """`text_completion`: the text comes in parts."""

    said_in = kept_in = "text"
    name = "text_completion"
    chunks = Decoder(_TextChunk)

    def _say(self, said: Json, piece: Json) -> bool:
        text = piece.get("text")
        if not isinstance(text, str | None):
            raise Nonsense
        return text is not None and say(said, "text", text)

    def _kept(self, said: Json, sent: object) -> object:
        return said.get("text", "")
