"""Which endpoints are used, and the headers that open them.

Rules:

1. A key is known by the name of its environment variable; its value goes into one endpoint's headers and nowhere else.
2. The embedded endpoint never gets a key, and is used only when it is asked for by name.
3. A key does not travel in clear: plain http to another machine is refused while a key is set.
4. Endpoints and keys are refused here, before anything is sent.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from batchrunner.core.endpoints import Service
from batchrunner.errors import UsageError
from batchrunner.transport import Secret

OPENAI = "https://api.openai.com/v1"
SIMULATED = "simulated"
# How a provider wants its key: by the end of the host's name. All others take `Authorization: Bearer`.
AUTH_FORMS: Mapping[str, tuple[str, str]] = {
    ".openai.azure.com": ("api-key", "{}"),  # learn.microsoft.com: Azure OpenAI REST reference, authentication
}
BEARER = ("Authorization", "Bearer {}")


class Door(Struct, frozen=True):
    """One endpoint and what opens it."""

    name: str  # the host, as results and reports show it
    base_url: str
    headers: Mapping[str, str]  # without secrets
    secret: Secret | None = None
    secret_form: tuple[str, str] = BEARER

    @property
    def opening(self) -> dict[str, str]:
        """The header that holds the key."""
        name, form = self.secret_form
        return {name: form.format(self.secret.reveal())} if self.secret else {}

    @property
    def simulated(self) -> bool:
        """Whether the embedded endpoint answers here."""
        return self.base_url.split(":")[0] == SIMULATED


def doors(service: Service, environ: Mapping[str, str]) -> list[Door]:
    """The endpoints to use, in order of preference. Raises UsageError E002, E101, E102 or E103."""
    key = environ.get(service.api_key_env, "").strip() if service.api_key_env else ""
    if not service.base_url and not key:
        raise UsageError(
            "E101",
            f"no endpoint and no key: no --base-url was given and {service.api_key_env or 'no key variable'} is not set",
            "a server of your own:      --base-url http://localhost:8000/v1\n"
            f"OpenAI:                    export {service.api_key_env or 'OPENAI_API_KEY'}=…\n"
            "to try it without either:  --base-url simulated",
        )
    headers = extra_headers(service.header)
    made: list[Door] = []
    for url in service.base_url or (OPENAI,):
        door = Door(SIMULATED, url, headers) if url.split(":")[0] == SIMULATED else _door(url, headers, key, service)
        twins = sum(other.name.split("#")[0] == door.name for other in made)
        made.append(Door(f"{door.name}#{twins + 1}", *_rest(door)) if twins else door)
    return made


def extra_headers(pairs: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` settings as headers; E002 for what is no header."""
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        token = name.strip().replace("-", "").replace("_", "")
        if not equals or not token.isascii() or not token.isalnum() or not value.isprintable() or not value.isascii():
            raise UsageError("E002", f"--header {name!r} is not NAME=VALUE in printable ASCII", "--header X-Team=research")
        headers[name.strip()] = value.strip()
    return headers


def _rest(door: Door) -> tuple[str, Mapping[str, str], Secret | None, tuple[str, str]]:
    return door.base_url, door.headers, door.secret, door.secret_form


def _door(url: str, headers: Mapping[str, str], key: str, service: Service) -> Door:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(
            "E102", f"{url!r} is no base URL", "it looks like https://api.example.com/v1 or http://localhost:8000/v1"
        )
    if parts.username or parts.password:
        raise UsageError(
            "E102", "a base URL must not hold a user name or password", "put the key into a variable: --api-key-env NAME"
        )
    if parts.scheme == "http" and key and not _is_loopback(host) and not service.allow_insecure:
        raise UsageError(
            "E103",
            f"{service.api_key_env} would travel in clear to {host}",
            'use https, or send no key: --api-key-env "", or accept it: --allow-insecure',
        )
    form = next((form for end, form in AUTH_FORMS.items() if host.endswith(end)), BEARER)
    return Door(parts.netloc, url, headers, Secret(key) if key else None, form)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
