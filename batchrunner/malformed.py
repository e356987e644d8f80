"""What is wrong with a line that is no request, in words.

Rules:

1. Only lines that failed come here, so clear words matter and speed does not.
2. A shape is known by its keys alone. Its hint is a command that turns the file into requests.
3. Nothing of a line's contents is quoted: only our own field names, places and JSON's words for kinds of values.
"""

from collections.abc import Collection

import orjson

_WORDS = {dict: "an object", list: "an array", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
_STRINGS = ("custom_id", "method", "url")
_JQ = "Rewrite the file: jq -c '{}' FILE > requests.jsonl"
_CHAT_LINE = (
    'One line is {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, "messages": […]}}'
)

_ARRAY = "One request per line, without an array round them: jq -c '.[]' FILE > requests.jsonl"
_SPREAD = "One request per line, not spread over several: jq -c . FILE > requests.jsonl"
_TORN = "The line ends too early: is the file still being written, or was it cut?"

# The first row whose keys a line has names its shape.
_SHAPES: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"custom_id", "params"}),
        "this is a row of an Anthropic batch",
        _JQ.format('{custom_id, method: "POST", url: "/v1/messages", body: .params}'),
    ),
    (
        frozenset({"requests"}),
        "this is a whole Anthropic batch in one object",
        _JQ.format('.requests[] | {custom_id, method: "POST", url: "/v1/messages", body: .params}'),
    ),
    (
        frozenset({"recordId"}),
        "this is a row of an Amazon Bedrock batch",
        _JQ.format('{custom_id: .recordId, method: "POST", url: "/v1/messages", body: .modelInput}'),
    ),
    (
        frozenset({"key", "request"}),
        "this is a row of a Gemini batch",
        _JQ.format('{custom_id: .key, method: "POST", url: "/v1beta/models/MODEL:generateContent", body: .request}'),
    ),
    (frozenset({"custom_id", "result"}), "this is a result of an Anthropic batch", "Give the file of requests instead."),
    (frozenset({"custom_id", "response"}), "this is a result line of a batch", "Give the file of requests instead."),
    (
        frozenset({"messages"}),
        "this is a bare chat body",
        _JQ.format('{method: "POST", url: "/v1/chat/completions", body: .}'),
    ),
    (
        frozenset({"prompt"}),
        "this is a row with a prompt, not a request",
        "Make requests of such rows: batchrunner FILE --prompt '{prompt}' --model NAME",
    ),
    (
        frozenset({"input"}),
        "this is a bare body for embeddings or responses",
        _JQ.format('{method: "POST", url: "/v1/embeddings", body: .}'),
    ),
    (frozenset({"body"}), "url is missing", _JQ.format('. + {method: "POST", url: "/v1/chat/completions"}')),
    (frozenset(), "url is missing", _CHAT_LINE),
)


def shape(keys: Collection[str]) -> tuple[str, str]:
    """What a line without a url seems to be, by its keys, and how to make requests of such lines."""
    return next((words, hint) for wanted, words, hint in _SHAPES if wanted.issubset(keys))


def word(value: object) -> str:
    """What JSON calls a value."""
    return _WORDS.get(type(value), "null")


def explained(raw: bytes, why: Exception) -> tuple[str, str]:
    """What is wrong with a line that the decoders refuse for the reason `why`, and what to do about it."""
    try:
        raw.decode()
        fields = orjson.loads(raw)
    except UnicodeDecodeError as fault:
        return f"byte {fault.start + 1} is not UTF-8", "Save the file as UTF-8: iconv -f latin1 -t utf-8 FILE > requests.jsonl"
    except orjson.JSONDecodeError as fault:
        return f"not JSON at column {fault.colno}: {fault.msg}", _layout(raw, torn=fault.pos >= len(fault.doc.rstrip()))
    if not isinstance(fields, dict):
        return f"the line is {word(fields)}, not an object", _layout(raw, torn=False)
    for name in _STRINGS:
        if not isinstance(fields.get(name), str | None):
            return f"{name} is {word(fields[name])}, not a string", f'Write it in quotes: "{name}": "…".'
    return "nested too deep" if isinstance(why, RecursionError) else str(why), _CHAT_LINE


def _layout(raw: bytes, *, torn: bool) -> str:
    """How the file's lines should stand, by how this one begins and whether it ends too early."""
    if raw.lstrip().startswith(b"["):
        return _ARRAY
    return _SPREAD if raw.strip() in {b"{", b"}"} else _TORN if torn else _CHAT_LINE
