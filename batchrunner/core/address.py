"""Where a request goes: the address of a line at an endpoint, and the fence round it.

Rules:

1. An address is an endpoint's base URL and a line's path, joined once, whatever prefix either of them carries.
2. No line chooses where it is sent: what could lead away from the endpoint's origin is refused, not repaired.
3. A proxy on the way is named with its port.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from batchrunner.core.providers import root_of

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


_NO_BASE = re.compile(r"[\x00-\x20\x7f\\#]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_GRAPHIC = "".join(map(chr, range(0x21, 0x7F)))


def spelled(text: str) -> str:
    """A base URL as it is sent: its host in small letters and ASCII, its port without zeros. ValueError: it is none.

    Lines and redirects are held to its origin, so that nothing else may stand for it.
    """
    url = text.strip()
    parts = urlsplit(url)
    if _NO_BASE.search(url) or parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(text)
    port = "" if parts.port is None else f":{parts.port}"
    rest = url.partition("://")[2][len(parts.netloc) :]
    return f"{parts.scheme}://{_host(parts.hostname)}{port}{quote(rest, safe=_GRAPHIC)}"


def _host(name: str) -> str:
    if ":" in name:
        return f"[{name}]"
    host = name if name.isascii() else name.encode("idna").decode()
    labels = host.removesuffix(".").split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(name)
        label.encode().decode("idna")  # what says it is encoded must be
    return host


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


def check_route(url: str) -> None:
    """That it may be the url of a line. Raises ValueError with the end of a sentence."""
    try:
        fenced(url or "/", (url,))
    except ValueError as error:
        raise ValueError(f"is no route: {error}") from None


NO_PROXY = "none"
"""The word for no proxy at all."""


def proxy_address(text: str) -> str:
    """The whole address of a proxy, with its scheme. Raises ValueError with the end of a sentence: it is none.

    A name alone is a slip: no proxy listens where its port is not said, and curl and browsers would each guess another one.
    """
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        sound = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or whole == text)
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("is no address of a proxy: http://host:port; SOCKS is not spoken")
    return whole


def check_proxy(text: str) -> None:
    """That it is the address of a proxy, or the word for none. Raises ValueError with the end of a sentence."""
    if text not in {"", NO_PROXY}:
        proxy_address(text)


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
