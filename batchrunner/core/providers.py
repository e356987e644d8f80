"""Who answers at an address, and what each of them wants: one table, facts only.

Rules:

1. A provider is known by the host of a URL, or by the port its server listens on by custom. A port is a guess, and decides
   nothing but which variables may hold the key and which header names a request.
2. Each row names the variables that may hold its key, in order. No other variable's value is ever sent there unasked.
3. `base` is where the API lives. Its path is also what a base URL without one means (`root`).

Sources: the providers' API references and SDKs.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

OURS = ("X-Client-Request-Id",)  # OpenAI logs it (platform.openai.com/docs/api-reference/debugging-requests); others ignore it
OPENAI_KEY = ("OPENAI_API_KEY",)


class Provider(Struct, frozen=True, kw_only=True):
    """One provider, or one kind of server."""

    name: str
    base: str = ""
    hosts: tuple[str, ...] = ()  # besides that of `base`: whole names, or ends of names that begin with a dot
    ports: tuple[int, ...] = ()
    root: str = ""  # path of the API where a base URL has none
    auth: str = "bearer"  # a row of `AUTH`
    keys: tuple[str, ...] = OPENAI_KEY
    headers: Mapping[str, str] = {}  # sent with every request
    told: Mapping[str, str] = {}  # variable → header it fills
    home: str = ""  # variable that holds the base URL
    version: str = ""  # variable that holds the query's api-version
    ids: tuple[str, ...] = OURS  # headers that carry our own id of a request

    @property
    def hosted(self) -> bool:
        """Whether it is a service, known by its host, that answers nobody without a key of its own."""
        return bool(self.base or self.hosts)


AUTH: Mapping[str, tuple[str, str]] = {
    "bearer": ("Authorization", "Bearer {}"),
    "basic": ("Authorization", "Basic {}"),  # the variable holds user:password
    "api-key": ("api-key", "{}"),
    "x-api-key": ("x-api-key", "{}"),
    "x-goog-api-key": ("x-goog-api-key", "{}"),
}
"""How a key travels."""

COMPATIBLE = Provider(name="compatible")
"""Anything else that speaks OpenAI's API."""

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="openai",
        base="https://api.openai.com/v1",
        told={"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"},
    ),
    Provider(
        name="azure",
        hosts=tuple(
            f".{end}"
            for name in ("openai", "services.ai", "cognitiveservices")
            for end in (f"{name}.azure.com", f"{name}.azure.us", f"{name}.azure.cn")
        ),
        root="/openai/v1",
        auth="api-key",
        keys=("AZURE_OPENAI_API_KEY",),
        home="AZURE_OPENAI_ENDPOINT",
        version="OPENAI_API_VERSION",
    ),
    Provider(
        name="anthropic",
        base="https://api.anthropic.com/v1",
        auth="x-api-key",
        keys=("ANTHROPIC_API_KEY",),
        headers={"anthropic-version": "2023-06-01"},
    ),
    Provider(
        name="gemini",
        base="https://generativelanguage.googleapis.com/v1beta/openai",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    Provider(name="groq", base="https://api.groq.com/openai/v1", keys=("GROQ_API_KEY",)),
    Provider(name="mistral", base="https://api.mistral.ai/v1", keys=("MISTRAL_API_KEY",)),
    Provider(name="deepseek", base="https://api.deepseek.com/v1", keys=("DEEPSEEK_API_KEY",)),
    Provider(name="openrouter", base="https://openrouter.ai/api/v1", keys=("OPENROUTER_API_KEY",)),
    Provider(name="together", base="https://api.together.xyz/v1", hosts=("api.together.ai",), keys=("TOGETHER_API_KEY",)),
    Provider(name="fireworks", base="https://api.fireworks.ai/inference/v1", keys=("FIREWORKS_API_KEY",)),
    Provider(name="vllm", ports=(8000,), keys=("VLLM_API_KEY", *OPENAI_KEY), ids=(*OURS, "X-Request-Id")),
    Provider(name="sglang", ports=(30000,), keys=("SGLANG_API_KEY", *OPENAI_KEY)),
    Provider(name="tgi", hosts=(".endpoints.huggingface.cloud",), root="/v1", keys=("HF_TOKEN",)),
    Provider(name="llama.cpp", ports=(8080,), keys=("LLAMA_API_KEY", *OPENAI_KEY)),
    Provider(name="ollama", ports=(11434,), keys=("OLLAMA_API_KEY",)),
    Provider(name="litellm", ports=(4000,), keys=("LITELLM_API_KEY", *OPENAI_KEY)),
    Provider(name="one-api", ports=(3000,)),
)
BY_NAME: Mapping[str, Provider] = {each.name: each for each in (*PROVIDERS, COMPATIBLE)}
_HOSTS = {(urlsplit(each.base).hostname or ""): each for each in PROVIDERS if each.base}
_HOSTS |= {host: each for each in PROVIDERS for host in each.hosts if host[0] != "."}
_ENDS = [(f".{host}", each) for host, each in _HOSTS.items()]
_ENDS += [(end, each) for each in PROVIDERS for end in each.hosts if end[0] == "."]
_PORTS = {port: each for each in PROVIDERS for port in each.ports}


def by_host(host: str) -> Provider | None:
    """The service that owns this host; None when it belongs to nobody we know."""
    host = host.lower().rstrip(".")
    return _HOSTS.get(host) or next((each for end, each in _ENDS if host.endswith(end)), None)


def recognised(base_url: str) -> Provider:
    """The provider that a base URL leads to, by host, else by port, else `COMPATIBLE`."""
    parts = urlsplit(base_url)
    return by_host(parts.hostname or "") or _PORTS.get(parts.port or 0, COMPATIBLE)


def root_of(host: str) -> str:
    """The path under which the API of this host (with or without a port) lives, where a base URL names none."""
    found = by_host(host.partition(":")[0])
    return (found.root or urlsplit(found.base).path) if found else ""
