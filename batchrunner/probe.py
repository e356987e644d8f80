"""The way to an endpoint, step by step below HTTP: its name, a connection, TLS.

Rules:

1. Each step is timed and ends in words; none raises.
2. What a step found is what the next one uses: the connection goes to an address that the name was resolved to.
"""

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from batchrunner.network import Names

State = Literal["ok", "warn", "fail"]
SLOW = 1.0  # seconds to find a name or to connect that are worth a remark
EXPIRES = 14  # days before a certificate's end that are worth one


class Step(Struct, frozen=True, kw_only=True):
    """One step of an examination."""

    name: str
    state: State
    said: str
    seconds: float = 0.0
    remedy: str = ""  # what to type or to do next; empty where all is well


class Target(Struct, frozen=True, kw_only=True):
    """Where a connection goes: the endpoint itself, or the proxy before it."""

    host: str
    port: int
    secure: bool
    patience: float  # seconds that a connection may take
    trust: ssl.SSLContext | bool = True
    proxied: bool = False
    url: str = ""  # the endpoint's, to be said again

    @property
    def swapped(self) -> str:
        """The same URL with the other scheme."""
        scheme, _, rest = self.url.partition("://")
        return f"{'http' if scheme == 'https' else 'https'}://{rest}"


async def reach(target: Target) -> list[Step]:
    """Name, TCP and, where it is the endpoint's own, TLS; the last step is the one that failed, if one did."""
    named, address = await _named(target)
    if not address:
        return [named]
    connected = await _connected(target, address)
    if connected.state == "fail" or not target.secure or target.proxied:
        return [named, connected]
    return [named, connected, await _secured(target, address)]


async def _named(target: Target) -> tuple[Step, str]:
    what = f"proxy {target.host}" if target.proxied else target.host
    began = time.perf_counter()
    try:
        found = await Names().resolve(target.host, target.port)
        spent = time.perf_counter() - began
    except OSError as error:
        said = f"{what} cannot be resolved ({error.strerror or 'no address'})"
        remedy = "check the proxy's name: --proxy" if target.proxied else "check the spelling of --base-url, and the DNS or VPN"
        return Step(name="name", state="fail", said=said, seconds=time.perf_counter() - began, remedy=remedy), ""
    addresses = [entry["host"] for entry in found]
    if not addresses:
        return Step(name="name", state="fail", said=f"{what} has no address", remedy="check the spelling of --base-url"), ""
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    slow = spent > SLOW
    return Step(
        name="name",
        state="warn" if slow else "ok",
        said=f"{what} is an address" if addresses[0] == target.host else f"{what} is {addresses[0]}{more}",
        seconds=spent,
        remedy="the resolver is slow: look at /etc/resolv.conf" if slow else "",
    ), addresses[0]


async def _connected(target: Target, address: str) -> Step:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(target.patience):
            _, writer = await asyncio.open_connection(address, target.port)
    except TimeoutError:
        said = f"nobody answered on port {target.port} in {target.patience:g} s"
        remedy = "a firewall swallows it, or the address is wrong; a proxy may be needed: --proxy URL"
        return Step(name="TCP", state="fail", said=said, seconds=target.patience, remedy=remedy)
    except OSError as error:
        said = f"port {target.port} of {address}: {_why(error)}"
        return Step(
            name="TCP", state="fail", said=said, seconds=time.perf_counter() - began, remedy="start the server, or check the port"
        )
    spent = time.perf_counter() - began
    await _hang_up(writer)
    return Step(
        name="TCP",
        state="warn" if spent > SLOW else "ok",
        said=f"port {target.port} answers",
        seconds=spent,
        remedy="the way there is long or crowded: see --connect-timeout" if spent > SLOW else "",
    )


async def _secured(target: Target, address: str) -> Step:
    began = time.perf_counter()
    context = target.trust if isinstance(target.trust, ssl.SSLContext) else ssl.create_default_context()
    try:
        async with asyncio.timeout(target.patience):
            _, writer = await asyncio.open_connection(address, target.port, ssl=context, server_hostname=target.host)
    except ssl.SSLCertVerificationError as error:
        remedy = "name the authority: --ca-bundle FILE; or correct the host name or this machine's clock"
        return Step(name="TLS", state="fail", said=f"the certificate is not trusted: {error.verify_message}", remedy=remedy)
    except TimeoutError:
        said = f"no TLS in {target.patience:g} s: the server is stuck, or does not speak it on this port"
        remedy = f"without TLS, if the server has none: --base-url {target.swapped}"
        return Step(name="TLS", state="fail", said=said, seconds=target.patience, remedy=remedy)
    except (ssl.SSLError, OSError):
        said = "the server does not speak TLS on this port"
        remedy = f"without TLS, if the server has none: --base-url {target.swapped}"
        return Step(name="TLS", state="fail", said=said, seconds=time.perf_counter() - began, remedy=remedy)
    spent = time.perf_counter() - began
    session = writer.get_extra_info("ssl_object")
    await _hang_up(writer)
    days = _days(session.getpeercert() or {}) if session else None
    said = f"{session.version() if session else 'TLS'}{'' if days is None else f', certificate good for {days} days'}"
    old = days is not None and days < EXPIRES
    remedy = "the certificate expires soon" if old else ""
    return Step(name="TLS", state="warn" if old else "ok", said=said, seconds=spent, remedy=remedy)


def _days(certificate: dict[str, Any]) -> int | None:
    """Days until a certificate ends; None when it does not say."""
    end = certificate.get("notAfter")
    if not end:
        return None
    return int((ssl.cert_time_to_seconds(end) - datetime.now(UTC).timestamp()) // 86400)


def _why(error: OSError) -> str:
    return "connection refused" if isinstance(error, ConnectionRefusedError) else (error.strerror or "no connection").lower()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError, ssl.SSLError, socket.error):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
