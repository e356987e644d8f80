"""Where requests go: addresses, the fence round them, and the health of each.

Rules:

1. An address is an endpoint's base URL and a line's path, joined once, whatever prefix either of them carries.
2. No line chooses where it is sent: what could lead away from the endpoint's origin is refused, not repaired.
3. A gate is a pause the endpoint asked for; a breaker is one we impose after failures in a row. Neither ever shortens the other.
4. After an outage a few probes go first; what happened to attempts from before the outage no longer counts.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from math import inf
from typing import Annotated, Literal
from urllib.parse import unquote

from msgspec import Struct

from batchrunner.core.limit import Limit
from batchrunner.core.model import Kind, Outcome
from batchrunner.core.policy import option
from batchrunner.core.providers import root_of


class Service(Struct, frozen=True, kw_only=True):
    """Which endpoints answer, and how they are addressed. The key itself is never a setting."""

    base_url: Annotated[
        tuple[str, ...],
        option(
            "address of the API; repeat it for failover, in order of preference; simulated answers by itself",
            group="Endpoint",
            metavar="URL",
        ),
    ] = ()
    provider: Annotated[
        str,
        option(
            "who answers there, where the URL does not tell: openai, azure, anthropic, groq, vllm, …",
            group="Endpoint",
            metavar="auto|NAME",
            main=False,
        ),
    ] = "auto"
    api_key_env: Annotated[
        tuple[str, ...],
        option(
            "environment variable that holds the key",
            group="Endpoint",
            metavar="NAME",
        ),
    ] = ()
    auth: Annotated[
        Literal["auto", "bearer", "basic", "api-key", "x-api-key", "x-goog-api-key"],
        option("how the key is sent, by default as the provider wants it", group="Endpoint", metavar="FORM", main=False),
    ] = "auto"
    model: Annotated[str, option("model for every request, in place of the line's own", group="Endpoint", metavar="NAME")] = ""
    header: Annotated[tuple[str, ...], option("extra header for every request", group="Endpoint", metavar="NAME=VALUE")] = ()
    allow_insecure: Annotated[bool, option("allow a key over plain http to another machine", group="Endpoint", main=False)] = (
        False
    )


class Connection(Struct, frozen=True, kw_only=True):
    """How connections are made."""

    proxy: Annotated[str, option("HTTP proxy; none ignores HTTPS_PROXY and its like", group="Endpoint", metavar="URL")] = ""
    ca_bundle: Annotated[
        str,
        option(
            "PEM file of certificate authorities to trust instead of the system's, or of SSL_CERT_FILE's",
            group="Endpoint",
            metavar="FILE",
            main=False,
        ),
    ] = ""
    keepalive: Annotated[
        float,
        option(
            "reuse a connection idle for at most so long; stay below the server's own limit",
            group="Endpoint",
            metavar="T",
            unit="seconds",
            main=False,
        ),
    ] = 4.0
    max_response: Annotated[
        int, option("largest answer to accept", group="Endpoint", metavar="SIZE", unit="bytes", main=False, ge=1024)
    ] = 256 * 1024 * 1024


LONGEST_WAIT = 900.0  # a batch is patient, but an endpoint that asks for more than 15 minutes is out of use


class Gate:
    """A pause of a whole endpoint, only ever at its own explicit request."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = -inf

    def throttled(self, wait: float | None, now: float) -> bool:
        """The endpoint asked for a pause of `wait` seconds. False: longer than we honour, so fail over or park."""
        if wait is None or wait <= 0.0:
            return True
        self.until = max(self.until, now + min(wait, LONGEST_WAIT))
        return wait <= LONGEST_WAIT


FAILURES_IN_A_ROW = 10  # or a quarter of the limit, if that is more
FIRST_REST = 2.0  # seconds; doubles with every opening
LONGEST_REST = 4.0  # a probe costs next to nothing, and every second of rest after the outage is lost
GOOD_PROBES = 8


class Breaker:
    """Keeps an endpoint that only fails from being tried by everybody: closed → resting → probing → closed."""

    __slots__ = ("_good", "_limit", "_opened", "_openings", "_probes", "_probing", "_row", "_until", "open")

    def __init__(self, limit: Limit) -> None:
        self.open = False  # resting or probing: failures speak of the endpoint, not of the requests
        self._limit = limit
        self._probing = False
        self._row = 0
        self._openings = 0  # since it was last closed
        self._opened = -inf
        self._until = -inf
        self._probes = 0  # in flight
        self._good = 0

    def wait(self, now: float) -> float | None:
        """0.0: send; seconds: not before; None: enough probes are out, ask again when one has come back."""
        if not self.open:
            return 0.0
        if not self._probing:
            if now < self._until:
                return self._until - now
            self._probing, self._probes, self._good = True, 0, 0
        return 0.0 if self._probes < max(1, 2 * self._good) else None

    def sent(self, now: float) -> None:
        """An attempt has gone out, after `wait` has allowed it."""
        if self._probing:
            self._probes += 1

    def ok(self, started: float, now: float) -> None:
        """An attempt showed the endpoint alive, whatever became of the request."""
        if started <= self._opened:
            return
        self._row = 0
        if self._probing:
            self._probes -= 1
            self._good += 1
            if self._good >= GOOD_PROBES:
                self.open, self._probing, self._openings = False, False, 0

    def fail(self, started: float, now: float, u: float) -> None:
        """An attempt failed in a way that speaks against the endpoint; `u` in [0, 1) spreads the rest."""
        if started <= self._opened:
            return
        self._row += 1
        if self._probing or (not self.open and self._row >= max(FAILURES_IN_A_ROW, self._limit.size // 4)):
            rest = min(LONGEST_REST, FIRST_REST * 2.0**self._openings)
            self._opened, self._until = now, now + rest * (0.75 + u / 2.0)
            self._openings = min(self._openings + 1, 16)
            self.open, self._probing, self._row = True, False, 0

    def void(self, started: float) -> None:
        """An attempt ended and says nothing about the endpoint: its place among the probes is free."""
        if self._probing and started > self._opened:
            self._probes -= 1


CODES = {Kind.DENIED: "E301", Kind.QUOTA: "E302", Kind.QUOTA_WINDOW: "E302", Kind.CONFIG: "E304"}
"""What a refusal that stops an endpoint is called (`batchrunner explain`)."""
RECHECK = 5.0  # seconds until an endpoint that has served is asked whether it really means its refusal


class Endpoint:
    """One endpoint: who it is, and how it is. `stopped` says in words why it is out of use; empty while it is in use."""

    __slots__ = ("_doubted", "_served", "base_url", "breaker", "gate", "inflight", "limit", "name", "stopped")

    def __init__(self, name: str, base_url: str, limit: Limit) -> None:
        self.name = name
        self.base_url = base_url
        self.limit = limit
        self.gate = Gate()
        self.breaker = Breaker(limit)
        self.inflight = 0
        self.stopped = ""
        self._served = False
        self._doubted = inf  # when it first refused us after having served

    def ready(self, now: float) -> float | None:
        """0.0: send; seconds: not before; None: when something in flight here has ended, or never, if it is stopped."""
        if self.stopped or self.inflight >= self.limit.size:
            return None
        rest = self.breaker.wait(now)
        return None if rest is None else max(rest, self.gate.until - now, 0.0)

    def serves(self, now: float) -> bool:
        """Whether requests should wait for this endpoint rather than go to the next: it is up, if perhaps full."""
        return not (self.stopped or self.breaker.open or self.gate.until > now)

    def learn(self, health: str, started: float, outcome: Outcome, now: float, u: float) -> None:
        """Take in what an attempt says about the endpoint: `up`, `down`, `stop`; every other word says nothing of its health."""
        if health == "up" or outcome.kind is Kind.RATE_LIMITED:  # one that throttles is alive
            self.breaker.ok(started, now)
        elif health == "down":
            self.breaker.fail(started, now, u)
        else:
            self.breaker.void(started)
        if outcome.kind is Kind.OK:
            self._served = True
            self._doubted = inf if started > self._doubted else self._doubted
        elif health == "stop":
            self._refused(started, outcome, now)
        if not self.gate.throttled(outcome.wait, now):
            self.stopped = self.stopped or f"{self.name} asks for a pause of {outcome.wait:.0f} s [E305]"

    def _refused(self, started: float, outcome: Outcome, now: float) -> None:
        """A refusal stops the endpoint; one that has served is asked again first, for gateways err."""
        if self._served and started <= self._doubted:
            self._doubted = min(self._doubted, now)
            self.gate.throttled(RECHECK, now)
        else:
            self.stopped = self.stopped or f"{self.name}: {outcome.message or outcome.kind} [{CODES[outcome.kind]}]"


# What the routes are called below an API's base, which by custom holds the version: `.../v1` + `/chat/completions`.
_ROUTES = (
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/moderations",
    "/images/generations",
    "/images/edits",
    "/messages",
)
_VERSION = re.compile(r"/v\d+\w*")


@lru_cache(maxsize=1024)
def address(base_url: str, path: str) -> str:
    """The URL of a line's path at an endpoint, joined once.

    `http://h` and `http://h/v1` both turn `/v1/chat/completions` into `http://h/v1/chat/completions`. A base with another
    prefix stands in place of the route's `/v1`, as `OPENAI_BASE_URL` does in the providers' own libraries. A base that holds
    the whole route is taken at its word. A base without a path means the place where its provider keeps the API
    (`core.providers`). The query of the base stays; that of the path follows.
    """
    base, _, query = base_url.partition("?")
    scheme, _, rest = base.partition("://")
    host, _, prefix = rest.partition("/")
    prefix = f"/{prefix}".rstrip("/")
    path, _, own_query = path.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    pairs += [pair for pair in own_query.split("&") if pair and pair not in pairs]
    tail = _joined(_rooted(host, prefix, path), path)
    return f"{scheme}://{host}{tail}?{'&'.join(pairs)}" if pairs else f"{scheme}://{host}{tail}"


def _rooted(host: str, prefix: str, path: str) -> str:
    """The prefix, or what none at all means to this host's provider. What is not of the API's routes stays where it says."""
    root = root_of(host)
    api = path.removeprefix("/v1") in _ROUTES or (path.startswith("/v1/") and root.endswith("/v1"))
    return root if api and prefix in {"", root.removesuffix("/v1")} else prefix


def _joined(prefix: str, path: str) -> str:
    if not prefix or path == prefix or path.startswith(f"{prefix}/"):
        return path
    route = path.removeprefix("/v1")
    if route in _ROUTES:
        held = next((known for known in _ROUTES if prefix.endswith(known)), "")
        return prefix.removesuffix(held) + route
    version = _VERSION.match(path)
    return prefix + (path.removeprefix(version[0]) if version and prefix.endswith(version[0]) else path)


_ABSOLUTE = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?(?=[/?]|\Z)",
    re.IGNORECASE | re.ASCII,  # without ASCII the Kelvin sign is a k, and a dotless ı an i
)
_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = (
    (re.compile(r"[\x00-\x20\x7f]"), "holds a control character or a space"),
    (re.compile(r"[^\x00-\x7f]"), "holds a character outside ASCII; write it percent-encoded"),
    (re.compile(r"\\"), "holds a backslash"),
    (re.compile(r"#"), "holds a fragment"),
    (re.compile(r"%(?![0-9A-Fa-f]{2})"), "holds a percent sign without two hexadecimal digits"),
    (re.compile(r"^//"), "names a host without a scheme"),
)


def fenced(path: str, origins: Collection[str]) -> str:
    """The path and query of a line's url, safe to join to a base (`address`). ValueError says why there is none.

    An absolute URL passes only when its origin is one of `origins` (`https://api.openai.com`; a longer URL counts by its
    origin), and is cut down to its path. Nothing that a client, a proxy or a server might read as another place passes.
    """
    return _sound(path if path.startswith("/") else _within(path, origins))


@lru_cache(maxsize=1024)
def _sound(path: str) -> str:
    for pattern, flaw in _FORBIDDEN:
        if pattern.search(path):
            raise ValueError(f"the url {flaw}")
    _climb(path.partition("?")[0])
    return path


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, in one spelling."""
    found = _ABSOLUTE.match(url)
    if not found:
        return None
    scheme = found["scheme"].lower()
    return scheme, found["host"].lower(), int(found["port"] or _PORTS[scheme])


def _within(url: str, origins: Collection[str]) -> str:
    found = _ABSOLUTE.match(url)
    if not found:
        raise ValueError("the url is neither a path beginning with / nor a plain http address")
    if _origin(url) not in {_origin(allowed) for allowed in origins}:
        raise ValueError("the url leads to another origin than the endpoint's")
    path = url[found.end() :]
    return path if path.startswith("/") else f"/{path}"


def _climb(path: str) -> None:
    """Refuse dot segments and hidden control characters, however often they are percent-encoded."""
    while True:
        if any(segment.partition(";")[0] in {".", ".."} for segment in re.split(r"[/\\]", path)):
            raise ValueError("the url holds a dot segment")
        if re.search(r"[\x00-\x1f\x7f\\]", path):
            raise ValueError("the url hides a control character or a backslash behind percent signs")
        plain = unquote(path)
        if plain == path:
            return
        path = plain
