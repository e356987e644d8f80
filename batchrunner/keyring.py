"""Which endpoints are used, and what opens each of them.

Rules:

1. A key is known by the name of its environment variable; its value goes into one endpoint's headers and nowhere else.
2. Which variables may open an endpoint stands in `core.providers`: OPENAI_API_KEY never goes to another known provider,
   unless the user names it (`--api-key-env`). The embedded endpoint never gets a key.
3. Nothing secret travels in clear: plain http to another machine is refused while there is a key.
4. A header or a query that holds a key by its name is as secret as the key.
5. Endpoints and keys are refused here, before anything is sent.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct, structs

from batchrunner.core.address import spelled
from batchrunner.core.providers import AUTH, BY_NAME, Provider, recognised
from batchrunner.core.service import EndpointRow, Service
from batchrunner.errors import UsageError
from batchrunner.network import is_loopback
from batchrunner.secret import Secret

OPENAI = "openai"
SIMULATED = "simulated"
IDENTITY = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key", "proxy-authorization"})
TELLING = re.compile(r"auth|key|token|secret|passw|credential|cookie|session|\bsig", re.IGNORECASE)


class Door(Struct, frozen=True):
    """One endpoint and what opens it."""

    name: str  # the host, as results and reports show it
    base_url: str
    headers: Mapping[str, str]  # sent with every request; may hold secrets of the user's own
    provider: Provider
    secret: Secret | None = None
    auth: str = "bearer"
    hidden: tuple[Secret, ...] = ()  # whatever else must not be shown
    row: EndpointRow = EndpointRow(base_url="")  # what else was said of it

    def __repr__(self) -> str:
        return f"Door({self.name!r}, {self.provider.name}, {'with' if self.secret else 'without'} key)"

    @property
    def opening(self) -> dict[str, str]:
        """The header that holds the key."""
        name, form = AUTH[self.auth]
        return {name: form.format(_carried(self.auth, self.secret))} if self.secret else {}

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Everything that must appear in no text, as it is and as it travels."""
        travels = (Secret(_carried(self.auth, self.secret)),) if self.secret and self.auth == "basic" else ()
        return (*((self.secret,) if self.secret else ()), *travels, *self.hidden)

    @property
    def simulated(self) -> bool:
        """Whether the embedded endpoint answers here."""
        return _simulated(self.base_url)


def doors(service: Service, environ: Mapping[str, str]) -> list[Door]:
    """The endpoints to use, in order of preference. Raises UsageError E002, E003, E101, E102 or E103."""
    if service.provider not in {"auto", *BY_NAME}:
        raise UsageError("E002", f"--provider {service.provider!r} is not known", f"one of: auto, {', '.join(BY_NAME)}")
    rows = service.endpoints or tuple(EndpointRow(base_url=url) for url in service.base_url or (_home(service, environ),))
    rows = tuple(structs.replace(row, base_url=row.base_url.strip()) for row in rows)
    if len(service.api_key_env) not in {0, 1, len(rows)}:
        message = f"{len(service.api_key_env)} key variables for {len(rows)} endpoints"
        raise UsageError("E003", message, "--api-key-env once for all of them, or once for each --base-url, in the same order")
    names = service.api_key_env * len(rows) if len(service.api_key_env) == 1 else service.api_key_env or (None,) * len(rows)
    made: list[Door] = []
    for row, name in zip(rows, names, strict=True):
        door = _door_of(row, row.api_key_env if row.api_key_env is not None else name, service, environ)
        twins = sum(other.name.split("#")[0] == door.name for other in made)
        made.append(structs.replace(door, name=f"{door.name}#{twins + 1}") if twins else door)
    return made


def _door_of(row: EndpointRow, name: str | None, service: Service, environ: Mapping[str, str]) -> Door:
    """The door of one row; `name` is the variable of its key, None: one of its provider's."""
    if row.provider not in {None, "auto", *BY_NAME}:
        raise UsageError(
            "E002", f"endpoint {row.base_url}: provider {row.provider!r} is not known", f"one of: {', '.join(BY_NAME)}"
        )
    headers = {**extra_headers(service.header), **extra_headers(tuple(row.header))}
    if _simulated(row.base_url):
        return Door(SIMULATED, row.base_url, headers, BY_NAME["compatible"], row=row)
    own = structs.replace(service, provider=row.provider or service.provider, auth=row.auth or service.auth)
    return structs.replace(_door(row.base_url, headers, name, own, environ), row=row)


def extra_headers(pairs: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` settings as headers; E002 for what is no header, or one that holds the key."""
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        token = name.strip().replace("-", "").replace("_", "")
        if not equals or not token.isascii() or not token.isalnum() or not value.isprintable() or not value.isascii():
            raise UsageError("E002", f"--header {name!r} is not NAME=VALUE in printable ASCII", "--header X-Team=research")
        if name.strip().lower() in IDENTITY:
            hint = "a command line is no place for a key: put it into a variable, --api-key-env NAME and, if need be, --auth FORM"
            raise UsageError("E002", f"--header may not set {name.strip()}", hint)
        headers[name.strip()] = value.strip()
    return headers


def _simulated(url: str) -> bool:
    return url.split(":")[0] == SIMULATED


def _home(service: Service, environ: Mapping[str, str]) -> str:
    """The base URL where none is given: that of the provider named, or OpenAI's when there is a key for it."""
    if service.provider == "auto":
        provider = BY_NAME[OPENAI]
        name = service.api_key_env[0] if service.api_key_env else _held(provider, environ)
        if name and environ.get(name, "").strip():
            return provider.base
        raise _homeless(name or provider.keys[0], environ)
    provider = BY_NAME[service.provider]
    if url := provider.base or environ.get(provider.home, "").strip():
        return url
    wanted = f"{provider.home} is not set" if provider.home else "it has no address of its own"
    raise UsageError("E101", f"no --base-url was given for {provider.name}, and {wanted}", "give its address: --base-url URL")


def _homeless(variable: str, environ: Mapping[str, str]) -> UsageError:
    others = (each for each in BY_NAME.values() if each.base and each.name != OPENAI and _held(each, environ))
    return UsageError(
        "E101",
        f"no endpoint and no key: no --base-url was given and {variable} is not set",
        "a server of your own:      --base-url http://localhost:8000/v1\n"
        f"OpenAI:                    export {variable}=…\n"
        + "".join(f"there is a key for:        --provider {each.name}\n" for each in others)
        + "to try it without either:  --base-url simulated",
    )


def _held(provider: Provider, environ: Mapping[str, str]) -> str:
    """The first of the provider's variables that holds something."""
    return next((name for name in provider.keys if environ.get(name, "").strip()), "")


def _door(url: str, headers: Mapping[str, str], name: str | None, service: Service, environ: Mapping[str, str]) -> Door:
    url = _spelled(url)
    host = urlsplit(url).hostname or ""
    provider = recognised(url) if service.provider == "auto" else BY_NAME[service.provider]
    chosen = _held(provider, environ) if name is None else name
    key = environ.get(chosen, "").strip() if chosen else ""
    if not key and (chosen or (name is None and provider.hosted)):
        wanted = chosen or provider.keys[0]
        hint = f'export {wanted}=…\nanother variable: --api-key-env NAME\nno key at all:    --api-key-env ""'
        raise UsageError("E101", f"no key for {host}: {wanted} is not set", hint)
    auth = provider.auth if service.auth == "auto" else service.auth
    _refuse_unsendable(chosen, key, encoded=auth == "basic")
    door = Door(
        urlsplit(url).netloc,
        _versioned(url, provider, environ),
        {**provider.headers, **dict(_told(provider, environ)), **headers},
        provider,
        Secret(key) if key else None,
        auth,
        tuple(map(Secret, _telling(url, headers))),
    )
    _refuse_clear(door, chosen, host, service)
    return door


def _spelled(url: str) -> str:
    """A base URL as it is sent. E102: it is none."""
    try:
        base, named = spelled(url), "@" in urlsplit(url).netloc
    except ValueError:
        shown = "the base URL" if "@" in url or "?" in url else repr(url)
        raise UsageError(
            "E102", f"{shown} is no base URL", "it looks like https://api.example.com/v1 or http://localhost:8000/v1"
        ) from None
    if named:
        raise UsageError(
            "E102", "a base URL must not hold a user name or password", "put the key into a variable: --api-key-env NAME"
        )
    return base


def _told(provider: Provider, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, header in provider.told.items():
        if value := environ.get(variable, "").strip():
            _refuse_unsendable(variable, value)
            yield header, value


def _refuse_unsendable(variable: str, value: str, encoded: bool = False) -> None:
    if not value.isprintable() or not (encoded or value.isascii()):
        hint = f"set it again, without line breaks and letters outside ASCII:  export {variable}=…"
        raise UsageError("E002", f"{variable} holds a character that no header may hold", hint)


def _versioned(url: str, provider: Provider, environ: Mapping[str, str]) -> str:
    """Azure's addresses with a deployment need an api-version; its variable gives one where the URL has none."""
    version = environ.get(provider.version, "").strip() if provider.version else ""
    if not version or "/deployments/" not in url or "api-version=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}api-version={version}"


def _telling(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Values that their names betray as secrets, in the query of a base URL and in the user's own headers."""
    for name, value in (*parse_qsl(urlsplit(url).query), *headers.items()):
        if TELLING.search(name) and value:
            yield value


def _refuse_clear(door: Door, variable: str, host: str, service: Service) -> None:
    what = variable if door.secret else "a secret in the address or a header" if door.hidden else ""
    if what and door.base_url.lower().startswith("http:") and not is_loopback(host) and not service.allow_insecure:
        hint = 'use https, or send no key: --api-key-env "", or accept it: --allow-insecure'
        raise UsageError("E103", f"{what} would travel in clear to {host}", hint)


def _carried(auth: str, secret: Secret) -> str:
    value = secret.reveal()
    return b64encode(value.encode()).decode() if auth == "basic" else value
