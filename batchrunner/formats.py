"""One input line to a `Request`, or to a `Result` that says what is wrong with it.

Rules:

1. A line never raises. What cannot be sent becomes a finished `Result` of kind INVALID, under the same id and digest.
2. The body is forwarded byte for byte: huge integers, long floats, key order and repeated keys stay as they were written.
   Only `model`, when it is set, changes it: that one value is put in and the rest of the values keep their bytes.
3. Its id and digest are those of `identity`, whether it is valid or not.
4. A line says where it goes only inside the fence (`core.address.fenced`), and sets only headers that are harmless.
5. A message names the place and our own field names; it never quotes what the line says.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

import msgspec
import orjson

from batchrunner.core.address import fenced
from batchrunner.core.asking import remodelled
from batchrunner.core.model import Error, Kind, Request, Result, Route
from batchrunner.dialects import OPENAI, Dialect, LineError, entries, opened
from batchrunner.identity import digest_of, identify, made
from batchrunner.lines import Oversized
from batchrunner.malformed import explained, word


def parse(
    raw: bytes | Oversized, line: int, origins: Collection[str] = (), model: str = "", dialect: Dialect = OPENAI
) -> Request | Result:
    """The request of one input line, given without its line ending.

    `line` is its number, from 1; `origins` are those an absolute url may name; `model` replaces the body's own.
    `dialect` says which shape the line has (`dialects`). Never raises.
    """
    if isinstance(raw, Oversized):
        message = f"the line has {raw.size:,} bytes; at most {raw.limit:,} are accepted"
        return refuse(raw, line, message, "Raise --max-line, or cut the line.")
    try:
        return _request(raw, line, origins if type(origins) is tuple else tuple(origins), model, dialect)
    except LineError as why:
        return refuse(raw, line, str(why), why.hint)
    except (ValueError, RecursionError) as why:
        return refuse(raw, line, *explained(raw, why))


def refuse(raw: bytes | Oversized, line: int, message: str, hint: str) -> Result:
    """The final word on a line that cannot be sent."""
    name, digest = identify(raw, line)
    stub = Request(line=line, id=name, digest=digest, route=Route.HTTP, path="")
    return Result(request=stub, kind=Kind.INVALID, error=Error(Kind.INVALID, "E203", message, hint))


def _request(raw: bytes, line: int, origins: tuple[str, ...], model: str, dialect: Dialect) -> Request:
    fields = opened(raw, dialect)
    if not raw.isascii():
        raw.decode()  # the decoder does not look into what it skips
    body, url = fields.body, fields.url or ""
    if fields.custom_id == "":
        raise LineError("custom_id is empty", "Give each line its own, or leave the key out: then one is made.")
    place = placed if len(url) < 1024 else placed.__wrapped__
    path, route, choices = place(url, origins)
    content = _content(body, route)
    method = _method(fields.method, route, content)
    known = content if isinstance(content, dict) else {}
    if model and (route is not Route.HTTP or "model" in known):
        body, known = remodelled(body, model), {**known, "model": model}
    digest = digest_of(raw)
    named = known.get("model")
    return Request(
        line=line,
        id=fields.custom_id or made(line, digest),
        digest=digest,
        route=route,
        method=method,
        path=path,
        body=body,
        model=named if isinstance(named, str) else "",
        max_tokens=_max_tokens(known),
        choices=choices(known),
        images=_images(known),
        stream=known.get("stream") is True,
        headers=_headers(bytes(fields.headers)) if fields.headers else (),
        metadata=fields.metadata,
    )


# -- the envelope

_LONG_ROUTES = {"chat/completions": Route.CHAT, "images/generations": Route.IMAGES}
_SHORT_ROUTES = {
    "completions": Route.COMPLETIONS,
    "responses": Route.RESPONSES,
    "messages": Route.MESSAGES,
    "embeddings": Route.EMBEDDINGS,
    "moderations": Route.MODERATIONS,
}
# A short name is an LLM route only where an API's version, deployment or nothing stands before it: /inbox/messages is not.
_LONG = re.compile(rf"/(?:.*/)?({'|'.join(_LONG_ROUTES)})/?")
_SHORT = re.compile(rf"/(?:(?:.*/)?(?:v\d\w*|openai|(?:deployments|engines)/[^/]+)/)?({'|'.join(_SHORT_ROUTES)})/?")
_ROUTES = _LONG_ROUTES | _SHORT_ROUTES


@lru_cache(maxsize=512)
def placed(url: str, origins: tuple[str, ...]) -> tuple[str, Route, Callable[[Mapping[str, object]], int]]:
    """Path, route, and how to count the answers asked for: looked up once, for a file has few urls."""
    try:
        path = fenced(url, origins)
    except ValueError as why:
        hint = "Give a path such as /v1/chat/completions; the address of the server is --base-url."
        raise LineError(str(why), hint) from None
    route = route_of(path)
    return path, route, _CHOICES[route]


def route_of(path: str) -> Route:
    """Which API answers at this path of an endpoint."""
    plain = path.partition("?")[0]
    known = _LONG.fullmatch(plain) or _SHORT.fullmatch(plain)
    return _ROUTES[known[1]] if known else Route.HTTP


_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})  # a tunnel; an echo of the key
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def _method(given: str | None, route: Route, content: object) -> str:
    if given == "POST":
        return given
    method = given.upper() if given else "GET" if content is _ABSENT else "POST"
    if method in _REFUSED_METHODS or not (method == "POST" or _TOKEN.fullmatch(method)):
        raise LineError("method is not one that can be sent", "Use GET, POST, PUT, PATCH or DELETE.")
    if route is not Route.HTTP and method != "POST":
        raise LineError("method is not POST, the only one this url takes here", 'Write "method": "POST".')
    return method


_OPEN_HEADERS = frozenset(
    ["accept", "accept-language", "anthropic-beta", "anthropic-version", "content-type", "idempotency-key", "openai-beta"]
)
_TELLING = re.compile(
    "auth|key|token|secret|passw|credential|cookie|session|sign|forward|remote|real-ip|client-ip|"
    "original|rewrite|override|proxy|host|cluster|envoy|encoding|length"
)
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")


def _headers(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The line's own headers, names in lower case. Only what cannot carry a key, frame a message or steer a proxy."""
    if raw == b"null":
        return ()
    headers = tuple((name.lower(), value) for name, value in _strings(raw).items())
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise LineError("a header's name or value has characters that HTTP forbids", "Printable ASCII only.")
        if name not in _OPEN_HEADERS and (not name.startswith("x-") or _TELLING.search(name)):
            raise LineError(f"a line may not set the header {name[:40]}", "Use --header for what every request needs.")
    if len(dict(headers)) != len(headers):
        raise LineError("headers has a name twice", "Names differ by more than case: keep one.")
    return headers


def _strings(raw: bytes) -> dict[str, str]:
    try:
        return {name: msgspec.json.decode(value, type=str) for name, value in entries(raw, "headers").items()}
    except msgspec.ValidationError:
        raise LineError("headers is not an object of strings", 'Write "headers": {"name": "value"}.') from None


# -- the body

_ABSENT = object()
_HUGE = re.compile(rb"(?<![\d.eE+-])-?\d{309,}(?![\d.eE])")


def _content(body: bytes, route: Route) -> object:
    """The body as Python objects, which also proves that it is JSON."""
    try:
        content = orjson.loads(body) if body else _ABSENT
    except orjson.JSONDecodeError:  # a very long integer is one too; orjson takes it for infinite
        content = orjson.loads(_HUGE.sub(b"0", body))
    if route is not Route.HTTP and not isinstance(content, dict):
        found = "missing" if content is _ABSENT else f"{word(content)}, not an object"
        raise LineError(f"body is {found}", "This url takes a JSON object as its body.")
    return content


def _max_tokens(body: Mapping[str, object]) -> int:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = body.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def _images(body: Mapping[str, object]) -> int:
    """Image parts of a chat, a response's input or a message. Text contents are not searched."""
    turns = body.get("messages") or body.get("input")
    count = 0
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content", turn) if isinstance(turn, dict) else None
        if type(content) is list or type(content) is dict:
            parts = content if type(content) is list else (content,)
            count += sum(isinstance(part, dict) and part.get("type") in _IMAGE_PARTS for part in parts)
    return count


_IMAGE_PARTS = ("image_url", "input_image", "image")


def _n(body: Mapping[str, object]) -> int:
    n = body.get("n")
    return 1 if n is None else n if type(n) is int and n > 0 else 0


def _inputs(given: object, parts: int) -> int:
    """How many inputs: a text or a list of tokens is one, a list of these is many; a list of `parts` says nothing by itself."""
    if isinstance(given, str):
        return 1
    if not isinstance(given, list) or not given:
        return 0
    first = given[0]
    return len(given) if isinstance(first, str | list) else parts if isinstance(first, dict) else int(type(first) is int)


_CHOICES: Mapping[Route, Callable[[Mapping[str, object]], int]] = {
    Route.CHAT: _n,
    Route.COMPLETIONS: lambda body: _n(body) * _inputs(body.get("prompt"), 0),
    Route.RESPONSES: lambda _body: 1,
    Route.MESSAGES: lambda _body: 1,
    Route.EMBEDDINGS: lambda body: _inputs(body.get("input"), 0),
    Route.MODERATIONS: lambda body: _inputs(body.get("input"), 1),  # text and image together are one input
    Route.IMAGES: _n,
    Route.HTTP: lambda _body: 1,
}
