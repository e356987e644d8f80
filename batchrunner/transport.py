"""One attempt over aiohttp: a `Reply` or a `Fault`, never an exception.

Rules:

1. One session per endpoint, and its headers are built once. A request leaves for the endpoint's own origin or not at all;
   redirects are answers, not orders.
2. Whatever goes wrong with an attempt is a `Fault`. Only cancellation from outside, which says in which phase it came, and
   mistakes of ours are raised.
3. Nothing is read without a cap; a body that broke off is kept as evidence, never as an answer.
4. A key is in no repr, no detail, no message; and what the endpoint quotes of it is taken out of the answer.
5. Each sending carries an id of ours, made here and never from the line: a call that died without an answer can be found
   in the server's log by it.
"""

import asyncio
import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from secrets import token_hex
from types import TracebackType
from typing import Self

import aiohttp
from msgspec import Struct, structs
from multidict import CIMultiDict, istr
from yarl import URL

from batchrunner.core.address import address
from batchrunner.core.model import Attempt, Cause, Fault, Phase, Reply
from batchrunner.core.naming import named
from batchrunner.core.providers import OURS
from batchrunner.core.service import Connection as Connection
from batchrunner.core.streaming import wire_body
from batchrunner.core.whole import Whole
from batchrunner.errors import UsageError
from batchrunner.faults import FAILURES, explain, overdue
from batchrunner.network import proxy_for, trust
from batchrunner.pool import Pool, open_session
from batchrunner.posting import LARGEST, WITHOUT_BODY, Post, message, opening
from batchrunner.reception import accept, broken, receive
from batchrunner.secret import Redact, Text
from batchrunner.wire import EXCHANGE, Exchange, Review

_LARGE = 1024 * 1024  # aiohttp wants a larger body as a file, and sends it in pieces
_FAREWELL = 2.0  # seconds that closing may take at most
_NAMELESS = "\0"  # where the id of a sending is to stand
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[ -~\t]*")
_PLACE = re.compile(r"[!-~]+")
_LIKE = "Write it like https://api.example.com/v1."
# Framing and connection belong to the wire, identity to the endpoint: no line of the input sets these.
_FENCED = frozenset(
    [
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "x-goog-api-key",
    ]
)


class Transport:
    """One endpoint on the wire. `async with` opens its connections, `send` makes one attempt.

    `headers` go with every request; `secret` too, but they are the endpoint's identity. Neither is ever shown. `redact`
    clears what comes back. `ids` are the headers that carry our own id of a sending.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        connection: Connection,
        *,
        headers: Mapping[str, str] = {},
        secret: Mapping[str, str] = {},
        redact: Redact | None = None,
        ids: Sequence[str] = OURS,
    ) -> None:
        self.name = name
        self._base_url = base_url
        self._connection = connection
        self._origin = _origin(base_url)
        self._secure = self._origin.scheme == "https"
        self._spoken = False  # it has answered in HTTP
        self._host = self._origin.authority
        if flaw := self._find_address("/")[1]:  # of every line: then it is none of theirs
            raise UsageError("E102", f"No request can be sent to {name}: {flaw}.", _LIKE)
        self._trust = trust(connection.ca_bundle, os.environ if self._secure else {})
        self._proxy = proxy_for(base_url, connection.proxy, {})
        self._headers = _sets_of_headers({**headers, **secret}, ids)
        self._redact = redact
        self._ids = tuple(map(istr, ids))
        self._naming = "".join(f"{header}: {_NAMELESS}\r\n" for header in ids)
        self._run = f"br-{token_hex(5)}"
        self._sendings = count(1)
        self._place = lru_cache(256)(self._find_place)
        self._session: aiohttp.ClientSession | None = None
        self._pool: Pool
        self._post: Post

    def __repr__(self) -> str:
        return f"Transport({self.name!r}, {str(self._origin)!r})"

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        pool = Pool(self._connection.keepalive, self._trust)
        self._session = open_session(pool, self._proxy)
        self._pool, self._post = pool, Post(self._origin, self._session, pool, self._loop)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await session.close()

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault:
        """Make one attempt: its answer, whatever the status, or the fault that ended it.

        `review(attempt, phase, age)` is asked when a deadline has passed, `age` seconds after that wait began;
        it returns how many seconds more to wait, 0.0 to give up.
        """
        request = attempt.request
        place = self._place(request.method, request.path, attempt.plain, attempt.stream)
        if flaw := place.flaw or (request.headers and next(filter(None, map(_flaw, request.headers)), "")):
            return Fault(Cause.INVALID, Phase.CONNECT, flaw)
        name = f"{self._run}-{request.line}-{next(self._sendings)}"
        return self._cleared(await self._attempt(place, name, Exchange(attempt, review, self._loop)), attempt, name)

    async def _attempt(self, place: "_Place", name: str, exchange: Exchange) -> Reply | Fault:
        try:
            body = wire_body(exchange.attempt)
            way = self._by_session if self._proxy or len(body) > LARGEST else self._by_post
            reply = await way(place, name, body, exchange)
            self._spoken = True
            return reply
        except asyncio.CancelledError:
            if not exchange.stop():
                raise asyncio.CancelledError(exchange.phase) from None
            return broken(overdue(exchange, self._secure), exchange)
        except FAILURES as error:
            fault = explain(error, exchange, self._host, self._secure, bool(self._proxy), self._spoken)
            if fault.cause is Cause.STALE:
                self._pool.outlived(exchange)
            return broken(fault, exchange)
        finally:
            exchange.stop()

    async def _by_post(self, place: "_Place", name: str, body: bytes, exchange: Exchange) -> Reply:
        """The short way."""
        attempt, method = exchange.attempt, exchange.attempt.request.method
        if attempt.request.headers:
            head = opening(method, place.url, self._dress(attempt, name))
        else:
            head = place.opening + self._naming.replace(_NAMELESS, name).encode()
        response = await self._post.send(message(head, method, body), exchange, method in WITHOUT_BODY)
        if isinstance(response, Whole):
            return accept(response, exchange, self._connection.max_response)
        return await self._received(response, exchange)

    async def _by_session(self, place: "_Place", name: str, body: bytes, exchange: Exchange) -> Reply:
        """The long way, aiohttp's own, for what is large or goes through a proxy."""
        session, attempt = self._session, exchange.attempt
        assert session is not None, "the transport is not open"
        sent = io.BytesIO(body) if len(body) > _LARGE else body
        headers = self._dress(attempt, name)
        token = EXCHANGE.set(exchange)
        try:
            response = await session.request(attempt.request.method, place.url, data=sent, headers=headers, allow_redirects=False)
        finally:
            EXCHANGE.reset(token)
        return await self._received(response, exchange)

    async def _received(self, response: aiohttp.ClientResponse, exchange: Exchange) -> Reply:
        try:
            return await receive(response, exchange, self._connection.max_response)
        except BaseException:
            response.close()
            raise

    def _cleared(self, answer: Reply | Fault, attempt: Attempt, name: str) -> Reply | Fault:
        """The answer without our keys in it. One that may be a failure also says what we called the request."""
        if isinstance(answer, Reply) and answer.status < 300:
            if self._redact is None:
                return answer
            body, partial = self._redact(answer.body), self._redact(answer.partial)
            told = named(answer.headers)
            if body is answer.body and partial is answer.partial and self._redact(told) is told:
                return answer
        sent = self._dress(attempt, name).get(OURS[0], "")
        return _redacted(answer, self._redact or _as_it_is, {OURS[0].lower(): sent})

    def _dress(self, attempt: Attempt, name: str) -> "CIMultiDict[str]":
        """The headers of this attempt: one of four ready sets, an id of its own, and what the line itself asks for."""
        dressed = self._headers[attempt.plain, attempt.stream].copy()
        dressed.update(dict.fromkeys(self._ids, name))
        dressed.update(attempt.request.headers)
        return dressed

    def _find_place(self, method: str, path: str, plain: bool, stream: bool) -> "_Place":
        url, flaw = self._find_address(path)
        if not (method == "POST" or _NAME.fullmatch(method)):
            flaw = flaw or "the method is no word"
        return _Place(url, flaw) if flaw else _Place(url, "", opening(method, url, self._headers[plain, stream]))

    def _find_address(self, path: str) -> tuple[URL, str]:
        """The URL of a line's path, and what is wrong with it."""
        try:
            joined = address(self._base_url, path)
            url = URL(joined, encoded=True)
            inside = url.origin() == self._origin
        except ValueError:
            return self._origin, "the address is not valid"
        if not _PLACE.fullmatch(joined):
            return self._origin, "the address holds a character that no address may hold"
        return (url, "") if inside else (self._origin, "the address leaves the endpoint")


class _Place(Struct, frozen=True):
    """Where requests of one form go: the beginning of their heads, or what is wrong with their address."""

    url: URL
    flaw: str
    opening: bytes = b""


def _as_it_is(text: Text) -> Text:
    return text


def _redacted(answer: Reply | Fault, redact: Redact, more: Mapping[str, str]) -> Reply | Fault:
    """The answer with `more` headers, and all its texts cleared."""
    headers = {name.lower(): redact(value) for name, value in (*answer.headers.items(), *more.items())}
    if isinstance(answer, Fault):
        return structs.replace(answer, headers=headers, detail=redact(answer.detail), partial=redact(answer.partial))
    return structs.replace(answer, headers=headers, body=redact(answer.body), partial=redact(answer.partial))


def _flaw(header: tuple[str, str]) -> str:
    """Why a line may not set this header; empty when it may."""
    name, value = header
    if name.lower() in _FENCED:
        return f"a line may not set the header {name}"
    return "" if _sound(name, value) else "a header of the line cannot be put on the wire"


def _sound(name: str, value: str) -> bool:
    return bool(_NAME.fullmatch(name) and _VALUE.fullmatch(value))


def _origin(base_url: str) -> URL:
    try:
        return URL(base_url).origin()
    except ValueError:
        raise UsageError("E102", "The base URL is not an address.", _LIKE) from None


def _sets_of_headers(own: Mapping[str, str], ids: Sequence[str]) -> "dict[tuple[bool, bool], CIMultiDict[str]]":
    """The headers for each (plain, stream), without `ids`. What the user sets wins."""
    for name, value in own.items():
        if not _sound(name, value):
            raise UsageError("E002", "A header for the endpoint has a name or value that cannot be sent.", "Use printable ASCII.")
    own = {name: value for name, value in own.items() if name.lower() not in map(str.lower, ids)}
    return {(plain, stream): _headers(own, plain, stream) for plain in (False, True) for stream in (False, True)}


def _headers(own: Mapping[str, str], plain: bool, stream: bool) -> "CIMultiDict[str]":
    headers = CIMultiDict(
        {
            "Accept": "text/event-stream" if stream else "*/*",
            "Accept-Encoding": "identity" if plain else "gzip, deflate",
            "Content-Type": "application/json",
            "User-Agent": "batchrunner",
        }
    )
    headers.update(own)
    return headers
