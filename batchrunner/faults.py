"""What the exceptions of aiohttp mean: each becomes one `Fault`.

Rules:

1. The first row of the table that fits gives the cause; what the exchange knows may refine it.
2. The words are our own: the text of an exception may hold a key, a query, or an answer.
"""

import os
import socket
import ssl
from collections.abc import Mapping
from errno import EADDRNOTAVAIL, ECONNABORTED, ECONNRESET, EMFILE, ENFILE, ENOBUFS, EPIPE

import aiohttp
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadStatusLine,
    ContentEncodingError,
    ContentLengthError,
    HttpProcessingError,
    InvalidHeader,
    LineTooLong,
    TransferEncodingError,
)

from batchrunner.connections import SIZES
from batchrunner.core.model import Cause, Fault, Phase
from batchrunner.wire import Exchange, plain

_KEPT = 64 * 1024  # of a body that broke off, as evidence
_STALE = 2.0  # seconds: an old connection that was closed under us says so within a round trip, a proxy's limit does not


class OversizeError(Exception):
    """The answer passed our cap."""


_LOCAL = {EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS}
_DROPPED = {None, ECONNRESET, EPIPE, ECONNABORTED}
_OF_THE_PARSER: Mapping[type[Exception], str] = {
    LineTooLong: f"a line of more than {SIZES['max_line_size'] // 1024} KiB",
    BadStatusLine: "the first line is none of HTTP/1.1",
    InvalidHeader: "an invalid field",
    TransferEncodingError: "its chunks do not come to an end",
    ContentLengthError: "it is shorter than its head says",
    ContentEncodingError: "it cannot be undone",
}
_LOST = {Cause.DISCONNECTED, Cause.RESET}
_MEANING: tuple[tuple[type[Exception], Cause, str], ...] = (
    (OversizeError, Cause.TOO_LARGE, "the answer is larger than max_response"),
    (aiohttp.ClientConnectorDNSError, Cause.DNS, "the name of {host} cannot be resolved"),
    (aiohttp.ClientConnectorCertificateError, Cause.CERTIFICATE, "the certificate of {host} is not trusted"),
    (aiohttp.ServerFingerprintMismatch, Cause.CERTIFICATE, "the certificate of {host} is not the expected one"),
    (aiohttp.ClientSSLError, Cause.TLS, "no TLS connection to {host}"),
    (aiohttp.ClientProxyConnectionError, Cause.PROXY, "the proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, Cause.PROXY, "the proxy refused to connect to {host}"),
    (aiohttp.ClientConnectorError, Cause.REFUSED, "no connection to {host}"),
    (aiohttp.ClientPayloadError, Cause.TRUNCATED, "the body broke off"),
    (aiohttp.ServerDisconnectedError, Cause.DISCONNECTED, "{host} closed the connection before its answer"),
    (aiohttp.ClientResponseError, Cause.PROTOCOL, "{host} answered with bytes that are not HTTP"),
    (HttpProcessingError, Cause.PROTOCOL, "{host} answered with bytes that are not HTTP"),
    (aiohttp.InvalidURL, Cause.INVALID, "the address is not valid"),
    (aiohttp.NonHttpUrlClientError, Cause.INVALID, "the address is not http or https"),
    (aiohttp.ClientError, Cause.RESET, "the connection to {host} was lost"),
    (OSError, Cause.RESET, "the connection to {host} was lost"),
    (ValueError, Cause.INVALID, "the request cannot be put on the wire"),
)
_REFINED: Mapping[Cause, str] = {
    Cause.MALFORMED: "{host} answered in HTTP that breaks the rules",
    Cause.ENCODING: "the compression of the answer is broken",
}
FAILURES = tuple(kind for kind, _, _ in _MEANING)


def _roots(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__
    return found


def _why(error: BaseException) -> str:
    """The reason in words that come from this machine, never from the peer."""
    for root in reversed(_roots(error)):
        if isinstance(root, ssl.SSLCertVerificationError):
            return root.verify_message or "verification failed"
        if isinstance(root, ssl.SSLError):
            return root.reason or "handshake failed"
        if isinstance(root, socket.gaierror):
            return root.strerror or ""
        if isinstance(root, OSError) and root.errno:
            return os.strerror(root.errno)
        if isinstance(root, HttpProcessingError):
            return _wrong(root)
    return ""


def _wrong(root: HttpProcessingError) -> str:
    """What the parser found wrong, without what the peer sent: that stands behind a blank line, and in other exceptions."""
    if type(root) is BadHttpMessage:
        return root.message.partition("\n\n")[0].rstrip(":")
    return _OF_THE_PARSER.get(type(root), type(root).__name__)


def _malformed(roots: list[BaseException], exchange: Exchange) -> bool:
    """Whether this began as HTTP at least."""
    strange = any(isinstance(root, BadStatusLine) and "'HTTP/" not in root.message for root in roots)
    return exchange.phase is Phase.BODY or (not strange and any(isinstance(root, BadHttpMessage) for root in roots))


def _cause(error: Exception, cause: Cause, exchange: Exchange, proxied: bool) -> Cause:
    """The cause of the table, refined by what this exchange knows."""
    roots = _roots(error)
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return Cause.LOCAL
    if any(isinstance(root, ContentEncodingError) for root in roots):
        return Cause.ENCODING
    if exchange.phase is Phase.CONNECT and cause in (Cause.DISCONNECTED, Cause.RESET, Cause.PROTOCOL) and proxied:
        return Cause.PROXY
    if cause is Cause.REFUSED and any(isinstance(root, ConnectionResetError | ConnectionAbortedError) for root in roots):
        return Cause.TLS  # TCP was there; the handshake was not
    if cause is Cause.PROTOCOL and _malformed(roots, exchange):
        return Cause.MALFORMED
    dropped = getattr(error, "errno", None) in _DROPPED and not _heard(error)
    if cause in _LOST and exchange.reused and dropped and exchange.timing().total < _STALE:
        return Cause.STALE
    return cause


def _heard(error: Exception) -> bool:
    """Whether a part of a reply head had come."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)


def _phase(error: Exception, cause: Cause, exchange: Exchange) -> Phase:
    if cause is Cause.INVALID:
        return Phase.CONNECT
    writing = isinstance(error, aiohttp.ClientConnectionResetError) or getattr(error, "errno", None) == EPIPE
    return Phase.WRITE if writing and exchange.phase is Phase.FIRST_BYTE else exchange.phase


def explain(error: Exception, exchange: Exchange, host: str, secure: bool, proxied: bool, spoken: bool = False) -> Fault:
    """The fault that an exception of aiohttp stands for. Who has `spoken` HTTP before is no server of another scheme."""
    cause, words = next((cause, words) for kind, cause, words in _MEANING if isinstance(error, kind))
    if proxied and cause is Cause.DNS:  # no other name is looked up here
        cause, words = Cause.PROXY, "the name of the proxy cannot be resolved"
    cause = _cause(error, cause, exchange, proxied)
    detail = _REFINED.get(cause, words).format(host=host)
    if why := _why(error):
        detail = f"{detail} ({why})"
    if hint := "" if spoken else _mixed_up(cause, exchange, secure):
        detail = f"{detail}; {hint}"
    status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else 0
    return fault(exchange, cause, _phase(error, cause, exchange), detail, status)


def _mixed_up(cause: Cause, exchange: Exchange, secure: bool) -> str:
    if secure:
        return "a server without TLS has an address that begins with http://" if cause is Cause.TLS else ""
    spoke_strangely = cause in (Cause.DISCONNECTED, Cause.PROTOCOL) and not exchange.reused and exchange.response is None
    return "a server with TLS has an address that begins with https://" if spoke_strangely else ""


def overdue(exchange: Exchange, secure: bool) -> Fault:
    """The fault of an attempt that our own deadline ended."""
    waited = exchange.timing().total
    detail = f"{exchange.late}: given up {waited:.3g} s after the start"
    if secure and exchange.phase is Phase.CONNECT:
        detail += "; a server without TLS has an address that begins with http://"
    return fault(exchange, Cause.TIMEOUT, exchange.phase, detail)


def fault(exchange: Exchange, cause: Cause, phase: Phase, detail: str, status: int = 0) -> Fault:
    """A fault with everything the exchange knows."""
    response = exchange.response
    if response is None:
        return Fault(cause, phase, detail, exchange.timing(), status)
    return Fault(
        cause, phase, detail, exchange.timing(), response.status, plain(response.headers), bytes((exchange.body or b"")[:_KEPT])
    )
