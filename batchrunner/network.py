"""What lies between us and an endpoint: proxies, authorities, names, and how many connections this process may have.

Rules:

1. All of it is settled once per endpoint, at the start: asking the environment at each request would cost more than the request.
2. The command line goes before the environment. From there only the proxy variables and SSL_CERT_FILE and SSL_CERT_DIR are
   heard; netrc never is. A loopback address is never sent through the environment's proxy.
3. A name is looked up in a thread that nobody waits for: a resolver that hangs delays neither a retry nor the exit.
"""

import asyncio
import ipaddress
import os
import resource
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import structs

from batchrunner.core.address import NO_PROXY, proxy_address
from batchrunner.core.limit import Concurrency
from batchrunner.core.wording import plural
from batchrunner.errors import UsageError
from batchrunner.secret import Secret

RESERVED = 64  # descriptors for all but connections: files, pipes, the loop, workers
LEAST_RESERVED = 32  # of few: a run without a connection has twenty-odd open
MOST = 1 << 20  # more descriptors than that are of no use to anybody
LOOKUP = 30.0  # seconds after which a lookup is given up; the next one has a thread of its own

# ---- proxies ----


def proxy_for(base_url: str, chosen: str, environ: Mapping[str, str]) -> str:
    """The proxy to take to an endpoint; empty for none. UsageError E002 for a kind that is not spoken.

    `chosen` is the user's own word, `none` included. The variables are those that curl and others read: HTTPS_PROXY,
    HTTP_PROXY, ALL_PROXY and NO_PROXY, in lower case first.
    """
    if chosen == NO_PROXY:
        return ""
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    name, proxy = ("--proxy", chosen) if chosen else _environment(parts.scheme, environ)
    if not proxy or (not chosen and (is_loopback(host) or bypassed(host, port, _told("no_proxy", environ)[1]))):
        return ""
    try:
        return proxy_address(proxy)
    except ValueError as error:
        raise UsageError("E002", f"What {name} names {error}.", f"Without any proxy: --proxy {NO_PROXY}") from None


def _environment(scheme: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that names a proxy for this scheme, and the proxy."""
    if scheme == "http" and "REQUEST_METHOD" in environ:  # a CGI script: HTTP_PROXY there is a header of the client's
        return "http_proxy", environ.get("http_proxy", "")
    found = _told(f"{scheme}_proxy", environ)
    return found if found[1] else _told("all_proxy", environ)


def _told(name: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name = name if environ.get(name) else name.upper()
    return name, environ.get(name, "").strip()


def bypassed(host: str, port: int, exceptions: str) -> bool:
    """Whether NO_PROXY excepts a host: by name, by the end of its name, by address or network, with or without a port."""
    return any(_fits(entry.strip().lower(), host.lower(), port) for entry in exceptions.split(","))


def _fits(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, only = entry.rpartition(":")
    if colon and only.isdigit() and (name.count(":") == 0 or name.endswith("]")):
        if int(only) != port:
            return False
        entry = name
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    end = entry.removeprefix("*").lstrip(".")
    return bool(end) and (host == end or host.endswith(f".{end}"))


def proxy_secrets(proxy: str) -> tuple[Secret, ...]:
    """The password in a proxy's address: as it stands there, as it is, and as it travels."""
    parts = urlsplit(proxy)
    if not parts.password:
        return ()
    plain = unquote(parts.password)
    travels = b64encode(f"{unquote(parts.username or '')}:{plain}".encode()).decode()
    return tuple(map(Secret, sorted({parts.password, plain, travels})))


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# ---- authorities ----


def trust(bundle: str, environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    """Whose certificates are believed. True: the system's. UsageError E002: a file that was named cannot be used."""
    named = [(name, environ[name]) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(name)]
    if not bundle and not named:
        return True
    for name, path in [] if bundle else named:
        if not os.access(path.split(os.pathsep)[0], os.R_OK):
            raise UsageError("E002", f"{name} names {path}, which cannot be read.", f"Correct it, or unset {name}.")
    try:
        return ssl.create_default_context(cafile=bundle or None)  # without one OpenSSL obeys the two variables itself
    except OSError as error:  # ssl.SSLError is one
        hint = "Name a PEM file with --ca-bundle."
        raise UsageError("E002", f"The certificates in {bundle} cannot be read ({type(error).__name__}).", hint) from None


# ---- names ----


class Names(AbstractResolver):
    """Host names to addresses, each lookup in a daemon thread: one that hangs dies with the process."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of a host. OSError: there are none, or none in time."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def look() -> None:
            answer: list[ResolveResult] | Exception
            try:
                answer = _looked_up(host, port, family)
            except Exception as error:  # noqa: BLE001 - raised where the name is waited for
                answer = error
            with suppress(RuntimeError):  # the loop has gone
                loop.call_soon_threadsafe(_deliver, found, answer)

        threading.Thread(target=look, name=f"lookup {host}", daemon=True).start()
        try:
            async with asyncio.timeout(LOOKUP):
                return await found
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer") from None

    async def close(self) -> None:
        """Nothing to close."""


def _deliver(found: "asyncio.Future[list[ResolveResult]]", answer: list[ResolveResult] | Exception) -> None:
    if found.done():
        return
    if isinstance(answer, Exception):
        found.set_exception(answer)
    else:
        found.set_result(answer)


def _looked_up(host: str, port: int, family: int) -> list[ResolveResult]:
    infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    numbers = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV  # keeps the zone of a link-local address
    return [
        ResolveResult(
            hostname=host, host=socket.getnameinfo(address, numbers)[0], port=address[1], family=kind, proto=proto, flags=flags
        )
        for kind, _, proto, _, address in infos
        if kind in (socket.AF_INET, socket.AF_INET6) and isinstance(address[1], int)
    ]


# ---- descriptors ----


def raise_descriptors() -> None:
    """Let this process open as many files as the system allows it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fitted(concurrency: Concurrency, endpoints: int) -> tuple[Concurrency, str]:
    """The limits that this process can hold with so many endpoints, and a line for the user when they had to be lowered.

    With workers it is the same: any of the processes may come to hold nearly all.
    UsageError E002: the user's own number needs more open files than there may be.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserved = min(RESERVED, max(LEAST_RESERVED, soft // 2))
    most = MOST if soft == resource.RLIM_INFINITY else max(1, (soft - reserved) // max(1, endpoints))
    fixed = concurrency.concurrency
    wanted = concurrency.max_concurrency if fixed == "auto" else fixed
    if wanted <= most:
        return concurrency, ""
    if fixed != "auto":
        message = f"--concurrency {fixed} needs more open files than the {soft} that this process may have"
        raise UsageError("E002", message, f"allow more:  ulimit -n {wanted * endpoints + RESERVED}\nask for less: -c {most}")
    note = f"at most {plural(most, 'request')} in flight: this process may have {soft} open files, see ulimit -n"
    return structs.replace(concurrency, max_concurrency=most), note
