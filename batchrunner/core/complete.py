"""What a complete answer is, for each route.

Rules:

1. HTTP 200 proves nothing. An answer is complete when it parses to its end, holds no error, and says itself that it ended:
   a finish reason for every choice asked for, a terminal status, a vector for every input.
2. What a finish reason says is said in `core.finish`; of several choices the gravest decides.
3. Only the fields named here are read; msgspec checks the syntax of the rest and builds nothing of it.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder

from batchrunner.core.body import ANY
from batchrunner.core.finish import ABORTED, BROKEN, COMPLETE, FILTERED, LIMITED, REFUSAL, ended
from batchrunner.core.model import Kind, Request, Route, Usage
from batchrunner.core.verdicts import Verdict

_HOLLOW = Verdict(Kind.TRUNCATED, "no_message", "a choice ends without a message or text, perhaps the last piece of a stream")
_QUEUED = Verdict(
    Kind.TRUNCATED, "background", "the answer was only queued; background mode cannot be used in a batch", final=True
)
_FOREIGN = Verdict(Kind.GARBLED, "not_an_answer", "the body is JSON, but no answer of this route")
_GRAVITY = {Kind.OK: 0, Kind.POLICY: 1}  # of several choices the gravest decides; what may still succeed is graver than both


MOST = 1e6  # that one answer may cost; what says more counts in something else, or is broken
_Count = Annotated[int, Meta(ge=0, le=10**12)] | None


class _Tokens(Struct, gc=False):
    """Usage, by the names of every route."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    cache_creation_input_tokens: _Count = 0
    cache_read_input_tokens: _Count = 0
    cost: Any = None


def _price(cost: Any) -> float | UnsetType:
    """What an answer says it costs: a number (OpenRouter, LiteLLM), or a table with the total (Perplexity)."""
    total = cost.get("total_cost") if isinstance(cost, dict) else cost
    if not isinstance(total, int | float) or isinstance(total, bool):
        return UNSET
    return float(total) if 0 <= total <= MOST else UNSET


_TOKENS: Decoder[_Tokens | None] = Decoder(_Tokens | None)
_NOTHING = Raw(b"")


class Answer(Struct, gc=False):
    """What every route's answer may carry."""

    id: str | int | float | None = None
    error: Any = None
    usage: Raw = _NOTHING
    x_groq: Any = None

    @property
    def name(self) -> object:
        """The request's id: Groq has one of its own beside the answer's."""
        return (self.x_groq.get("id") if isinstance(self.x_groq, dict) else None) or self.id

    def tokens(self) -> Usage | None:
        """The tokens it counts, those read from or written to a cache included; None: it counts none."""
        if not self.usage:
            return None
        try:
            count = _TOKENS.decode(self.usage)
        except (DecodeError, RecursionError):
            return None  # an odd usage spoils no answer
        if count is None:
            return None
        cached = (count.cache_creation_input_tokens or 0) + (count.cache_read_input_tokens or 0)
        asked = (count.prompt_tokens or 0) + (count.input_tokens or 0) + cached
        said, price = (count.completion_tokens or 0) + (count.output_tokens or 0), _price(count.cost)
        return Usage(asked, said, price) if asked or said or price is not UNSET else None

    def verdict(self, request: Request) -> Verdict:
        """Whether the answer to this request is complete."""
        raise NotImplementedError


class _Refusal(Struct, gc=False):
    refusal: Any = None


class _Choice(Struct, gc=False):
    finish_reason: str | None = None
    message: _Refusal | None = None
    text: Raw = _NOTHING
    error: Any = None


class _Choices(Answer, gc=False):
    """A chat or a completion."""

    choices: list[_Choice] | None = None

    def verdict(self, request: Request) -> Verdict:
        """Complete when every choice asked for says how it ended."""
        choices = self.choices
        if not choices:
            return _FOREIGN if choices is None else _fewer(0, request.choices, "choices")
        if len(choices) == 1 >= request.choices:
            return finished(choices[0])
        if len(choices) < request.choices:
            return _fewer(len(choices), request.choices, "choices")
        return _gravest(map(finished, choices))


class _Speech(Struct, gc=False):
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Spoken(Struct, gc=False):
    finish_reason: str | None = None
    message: _Speech | None = None
    text: str | None = None
    error: Any = None

    def says(self) -> bool:
        said = self.message
        return bool(self.text or (said and (said.content or said.tool_calls or said.function_call)))


class _Unmarked(Struct, gc=False):
    choices: list[_Spoken] = []


_UNMARKED = Decoder(_Unmarked)


def unmarked(line: bytes, request: Request) -> bool:
    """Whether an answer is whole but for its finish reasons: every choice asked for says something, none says why it ended."""
    try:
        choices = _UNMARKED.decode(line).choices
    except (DecodeError, RecursionError):
        return False
    whole = all(choice.says() and not choice.finish_reason and not choice.error for choice in choices)
    return whole and len(choices) >= max(1, request.choices)


class _Incomplete(Struct, gc=False):
    reason: str | None = None


class _Response(Answer, gc=False):
    """An answer of the Responses API."""

    status: str | None = None
    incomplete_details: _Incomplete | None = None

    def verdict(self, request: Request) -> Verdict:
        """Complete when its status is terminal."""
        if self.status == "incomplete":
            reason = self.incomplete_details.reason if self.incomplete_details else ""
            return _INCOMPLETE.get(reason or "") or Verdict(Kind.OK, flags=("unknown_finish_reason",))
        return _RESPONSE_STATUS.get(self.status or "", _FOREIGN)


_INCOMPLETE = {"max_output_tokens": LIMITED, "max_tokens": LIMITED, "content_filter": FILTERED}
_RESPONSE_STATUS = {
    "completed": COMPLETE,
    "failed": BROKEN,
    "cancelled": ABORTED,
    "queued": _QUEUED,
    "in_progress": _QUEUED,
}


class _Message(Answer, gc=False):
    """An answer of Anthropic's Messages API."""

    content: Raw = _NOTHING
    stop_reason: str | None = None

    def verdict(self, request: Request) -> Verdict:
        """Complete when it says why it stopped."""
        if not self.content:
            return _FOREIGN
        return ended(self.stop_reason)


class _Vector(Struct, gc=False):
    index: int | None = None
    embedding: Raw = _NOTHING


class _Embeddings(Answer, gc=False):
    """Vectors, one for every input."""

    data: list[_Vector] | None = None

    def verdict(self, request: Request) -> Verdict:
        """Complete when there is a vector for every input, each at its own place."""
        if self.data is None:
            return _FOREIGN
        vectors = sum(vector.embedding not in _EMPTY for vector in self.data)
        places = {place if vector.index is None else vector.index for place, vector in enumerate(self.data)}
        count = request.choices or len(self.data)
        if len(self.data) == count and vectors == len(places) == count > 0:
            return COMPLETE
        return _fewer(min(vectors, len(places)), count, "vectors")


_EMPTY = tuple(map(Raw, (b"", b"null", b"[]", b'""')))


class _Listed(Answer, gc=False):
    """Images, or verdicts of a moderation."""

    data: list[Raw] | None = None
    results: list[Raw] | None = None

    def verdict(self, request: Request) -> Verdict:
        """Complete when it lists as many as were asked for."""
        listed = self.data if self.results is None else self.results
        if listed is None:
            return _FOREIGN
        count = sum(each not in _EMPTY for each in listed)
        return COMPLETE if count >= max(1, request.choices) else _fewer(count, request.choices, "results")


DECODERS: Mapping[Route, Decoder[Answer]] = {
    Route.CHAT: Decoder(_Choices),
    Route.COMPLETIONS: Decoder(_Choices),
    Route.RESPONSES: Decoder(_Response),
    Route.MESSAGES: Decoder(_Message),
    Route.EMBEDDINGS: Decoder(_Embeddings),
    Route.MODERATIONS: Decoder(_Listed),
    Route.IMAGES: Decoder(_Listed),
}


def finished(choice: _Choice) -> Verdict:
    """What one choice amounts to."""
    if choice.error:
        return BROKEN
    verdict, message = ended(choice.finish_reason), choice.message
    if verdict.kind is not Kind.OK:
        return verdict
    if message is None:
        return verdict if choice.text not in _EMPTY[:2] else _HOLLOW
    return REFUSAL if message.refusal and isinstance(message.refusal, str) else verdict


def _gravest(verdicts: Iterable[Verdict]) -> Verdict:
    found = list(verdicts)
    gravest = max(found, key=lambda verdict: _GRAVITY.get(verdict.kind, 2))
    flags = tuple(dict.fromkeys(flag for verdict in found for flag in verdict.flags))
    return Verdict(gravest.kind, gravest.code, gravest.message, flags, gravest.final)


def _fewer(count: int, expected: int, what: str) -> Verdict:
    return Verdict(Kind.TRUNCATED, f"missing_{what}", f"{count} of {max(1, expected)} {what} came")


class _Function(Struct, gc=False):
    arguments: Any = None


class _Call(Struct, gc=False):
    function: _Function | None = None


class _Caller(Struct, gc=False):
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Calling(Struct, gc=False):
    message: _Caller | None = None


class _Calls(Struct, gc=False):
    choices: list[_Calling] = []


_CALLS = Decoder(_Calls)


def call_flags(line: bytes) -> tuple[str, ...]:
    """A flag when a chat answer calls a tool with arguments that are not JSON."""
    try:
        callers = [choice.message for choice in _CALLS.decode(line).choices if choice.message]
    except (DecodeError, RecursionError):
        return ()
    functions = [call.function for caller in callers for call in caller.tool_calls or ()]
    functions += [caller.function_call for caller in callers]
    return () if all(_is_json(function.arguments) for function in functions if function) else ("bad_tool_arguments",)


def _is_json(arguments: object) -> bool:
    if not isinstance(arguments, str):
        return True  # some servers send the object itself
    try:
        ANY.decode(arguments)
    except (DecodeError, RecursionError, UnicodeError):
        return False
    return True
