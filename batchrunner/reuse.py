"""Answers used again: by equal requests of one job (`--dedupe`), and from earlier jobs (`--cache DIR`).

Rules:

1. Requests are equal when method, path, headers and body are, to the byte, and when they would go to the same endpoints under
   the same settings of what a good answer is.
2. With `dedupe` the first of them is sent. The others wait for it, without a slot, and get the same final word, good or bad.
3. Out of a cache comes only what is answered alike each time it is asked: embeddings, moderations, text at temperature 0.
   `cache_all` says that any answer will do.
4. What waits is bounded: beyond `HELD` requests the input is read no further.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import orjson
from msgspec import Struct

from batchrunner.core.model import Kind, Request, Result, Route
from batchrunner.core.policy import option

if TYPE_CHECKING:
    from batchrunner.cache import Answer, Cache

HELD = 10_000
Redact = Callable[[bytes], bytes]
CACHED, TWIN = "cached", "duplicate"
"""What marks a record whose answer came from a cache, or from an equal request."""
_STEADY = frozenset({Route.EMBEDDINGS, Route.MODERATIONS})
_TEXT = frozenset({Route.CHAT, Route.COMPLETIONS, Route.RESPONSES, Route.MESSAGES})


class Reusing(Struct, frozen=True, kw_only=True):
    """Which answers are used again."""

    dedupe: Annotated[
        bool, option("send equal requests of the job once, and answer all of them", group="Input and output", main=False)
    ] = False
    cache: Annotated[
        str,
        option(
            "keep answers in this folder, and take from it those of requests that are answered alike each time",
            group="Input and output",
            metavar="DIR",
            main=False,
        ),
    ] = ""
    cache_size: Annotated[
        int,
        option(
            "largest cache; the oldest answers leave it", group="Input and output", metavar="SIZE", unit="bytes", main=False, ge=1
        ),
    ] = 1024 * 1024 * 1024
    cache_all: Annotated[
        bool,
        option("take any answer from the cache, also at a temperature above 0", group="Input and output", main=False),
    ] = False


class _Asked(Struct, array_like=True):
    """What makes two requests equal."""

    salt: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


_packed = msgspec.msgpack.Encoder().encode


class Reuse:
    """Stands between source and engine. `salt` is whatever else must be equal; the caches are closed with it."""

    def __init__(self, policy: Reusing, shared: "Cache | None", own: "Cache | None", salt: str, redact: Redact | None) -> None:
        self._policy = policy
        self._salt = salt
        self._redact = redact
        self._shared = shared
        self._own = own
        self._keys: dict[int, bytes] = {}  # of the requests that were sent, by line
        self._twins: dict[bytes, list[Request]] = {}  # those that wait for the one that was sent
        self._held = 0
        self._fewer = asyncio.Event()

    async def admit(self, request: Request) -> Request | Result | None:
        """The request, if it must be sent; its result, if that is known; None: it waits for an equal one."""
        key = sha256(_packed(_Asked(self._salt, request.method, request.path, request.headers, request.body))).digest()
        if known := self._known(key, request):
            return known
        if self._own and key in self._twins:
            await self._hold(key, request)
            return None
        self._keys[request.line] = key
        self._twins[key] = []
        return request

    def answer(self, result: Result) -> Sequence[Result]:
        """A request has its final word: that of those that waited for it."""
        key = self._keys.pop(result.request.line, None)
        if key is None:
            return ()
        if result.ok:
            self._keep(key, result)
        twins = self._twins.pop(key, [])
        self._held -= len(twins)
        self._fewer.set()
        return [_same(result, twin) for twin in twins]

    async def flush(self) -> None:
        """Write down what is new."""
        for cache in self._caches:
            cache.flush()

    def close(self) -> None:
        """The run has ended."""
        for cache in self._caches:
            cache.close()

    @property
    def _caches(self) -> "list[Cache]":
        return [cache for cache in (self._own, self._shared) if cache]

    def _known(self, key: bytes, request: Request) -> Result | None:
        if self._own and (kept := self._own.find(key)):
            return _result(request, kept, TWIN)
        if self._shared and self._steady(request) and (kept := self._shared.find(key)):
            return _result(request, kept, CACHED)
        return None

    def _keep(self, key: bytes, result: Result) -> None:
        body = self._redact(result.body) if self._redact else result.body
        kept = (result.status, result.request_id, body)
        if self._own:
            self._own.keep(key, kept)
        if self._shared and self._steady(result.request):
            self._shared.keep(key, kept)

    def _steady(self, request: Request) -> bool:
        return self._policy.cache_all or request.route in _STEADY or (request.route in _TEXT and _cold(request.body))

    async def _hold(self, key: bytes, request: Request) -> None:
        self._twins[key].append(request)
        self._held += 1
        while self._held > HELD:
            self._fewer.clear()
            await self._fewer.wait()


def _cold(body: bytes) -> bool:
    """Whether a text is asked for at temperature 0."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    temperature = fields.get("temperature") if isinstance(fields, dict) else None
    return type(temperature) in (int, float) and temperature == 0


def _result(request: Request, kept: "Answer", flag: str) -> Result:
    """Nothing was sent for it, and nothing was spent."""
    status, request_id, body = kept
    return Result(request=request, kind=Kind.OK, status=status, body=body, request_id=request_id, flags=(flag,))


def _same(result: Result, twin: Request) -> Result:
    flags = (*result.flags, TWIN)
    return msgspec.structs.replace(result, request=twin, attempts=0, seconds=0.0, usage=None, maybe_billed=0, flags=flags)


def shared_cache(policy: Reusing) -> "Cache | None":
    """The cache of several jobs, open. UsageError E409: it cannot be used."""
    return _cache(Path(policy.cache), policy) if policy.cache else None


def reuse_of(policy: Reusing, shared: "Cache | None", folder: Path | None, salt: str, redact: Redact | None) -> Reuse | None:
    """None where nothing is used again. `folder` is that of the run, if it has one. UsageError E409."""
    if not (policy.dedupe or shared):
        return None
    return Reuse(policy, shared, _cache(folder, policy) if policy.dedupe else None, salt, redact)


def _cache(folder: Path | None, policy: Reusing) -> "Cache":
    from batchrunner.cache import Cache  # SQLite takes its time, which help and usage errors need not pay

    return Cache(folder, policy.cache_size)
