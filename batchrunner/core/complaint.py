"""What an error body says, whatever its shape.

Rules:

1. Nobody keeps to one shape, so all known ones are tried, whoever answers: the `error` of OpenAI and Anthropic, Google's list of
   such, a bare text (Ollama, TGI), flat fields (Mistral), FastAPI's `detail`, and what the vendors behind one-api send.
2. The innermost object that carries the error's own fields is the error; what wraps it is only searched for it.
3. A relay may hide its upstream's error, as JSON, in its own message: the inner one counts, and the outer one's words stay.
4. However deep or odd the body, reading it ends and never raises.
"""

import json
from collections.abc import Iterator, Mapping

from msgspec import Struct


class Complaint(Struct, frozen=True, gc=False):
    """What an error body says, whatever its shape."""

    code: str = ""  # the provider's own code, or else its type
    message: str = ""
    words: tuple[str, ...] = ()  # every code, type, status and reason, in lower case
    status: int = 0  # an HTTP status given inside the body; 0: none
    delays: tuple[str, ...] = ()  # waits given inside the body, as durations


_NAMES = ("code", "type", "status", "reason", "error_code", "error_type", "errcode", "__type")
_WRAPPERS = ("error", "errors", "detail", "response", "header", "err", "choices")
_MESSAGES = ("message", "msg", "error", "detail", "err", "error_msg", "error_message", "Message")
_DEPTH = 5


def complaint(value: object) -> Complaint | None:
    """What a JSON value says as an error, in any of the known shapes; None: it says nothing of the sort."""
    return _read(value, 0)


def _read(value: object, depth: int) -> Complaint | None:
    fields = _fields(value, depth)
    if not fields:
        return None
    message = _message(fields)
    sayings = [fields, *_details(fields)]
    words = tuple(_word(said[name]) for said in sayings for name in _NAMES if isinstance(said.get(name), str))
    codes = [text for name in _NAMES if isinstance(text := fields.get(name), str) and text and not text.isdecimal()]
    status = next((number for name in ("code", "status", "status_code") if (number := _status(fields.get(name)))), 0)
    code = codes[0] if codes else str(status or "")
    told = Complaint(code, message, words, status, tuple(_delays(sayings)))
    inner = _quoted(message, depth)
    return _merged(told, inner) if inner else told


def _fields(value: object, depth: int) -> Mapping[str, object]:
    """The innermost object that carries an error's own fields; empty: there is none."""
    if depth > _DEPTH:
        return {}
    if isinstance(value, str):
        return {"message": value}
    if isinstance(value, list):
        return next((found for item in value[:8] if not isinstance(item, str) and (found := _fields(item, depth + 1))), {})
    if not isinstance(value, dict):
        return {}
    for name in _WRAPPERS:
        inside = value.get(name)
        if isinstance(inside, dict | list) and (found := _fields(inside, depth + 1)):
            return found
    return value if _message(value) or (depth and any(value.get(name) for name in ("code", "type", "status"))) else {}


def _message(fields: Mapping[str, object]) -> str:
    text = next((text for name in _MESSAGES if isinstance(text := fields.get(name), str) and text), "")
    where = fields.get("loc")
    if not text or not isinstance(where, list):
        return text
    return f"{'.'.join(str(step) for step in where if isinstance(step, str | int))}: {text}"


def _details(fields: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The finer points beside a message: Google's and Anthropic's details, Azure's inner error."""
    for name in ("details", "innererror"):
        inside = fields.get(name)
        yield from (item for item in (inside if isinstance(inside, list) else [inside]) if isinstance(item, dict))


def _delays(sayings: list[Mapping[str, object]]) -> Iterator[str]:
    for said in sayings:
        if isinstance(delay := said.get("retryDelay"), str):
            yield delay
        if isinstance(seconds := said.get("estimated_time"), int | float) and 0.0 < seconds < 1e6:
            yield f"{seconds:.3f}s"


def _word(text: object) -> str:
    return str(text).lower().rpartition("#")[2]


def _status(value: object) -> int:
    """A code that is really an HTTP status, as a number or as its digits."""
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else 0


def _quoted(message: str, depth: int) -> Complaint | None:
    """What a relay's upstream said, where the relay passes it on as JSON within its own message."""
    if depth > _DEPTH or message.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        return _read(json.loads(message), depth + 2)
    except (ValueError, RecursionError):
        return None


def _merged(outer: Complaint, inner: Complaint) -> Complaint:
    return Complaint(
        inner.code or outer.code,
        inner.message or outer.message,
        outer.words + inner.words,
        outer.status or inner.status,
        outer.delays + inner.delays,
    )
