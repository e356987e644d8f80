"""Which endpoints are opened with what: every provider, every variable, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.address import address
from batchrunner.core.providers import AUTH, BY_NAME, PROVIDERS, recognised
from batchrunner.core.service import Connection, Service
from batchrunner.errors import UsageError
from batchrunner.keyring import Door, doors
from batchrunner.transport import Transport

KEY = "sk-canary-0123456789abcdef"
EVERY_KEY = {name: f"{name.lower()}-0123456789" for each in PROVIDERS for name in each.keys}


def one(*urls: str, environ: dict[str, str] | None = None, **service: object) -> Door:
    (door,) = doors(Service(base_url=urls, **service), EVERY_KEY if environ is None else environ)  # type: ignore[arg-type]
    return door


def refused(*urls: str, environ: dict[str, str] | None = None, **service: object) -> UsageError:
    with pytest.raises(UsageError) as error:
        doors(Service(base_url=urls, **service), environ or {})  # type: ignore[arg-type]
    assert KEY not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("url", "name", "variable", "header"),
    [
        ("https://api.openai.com/v1", "openai", "OPENAI_API_KEY", "Authorization"),
        ("https://eu.api.openai.com/v1", "openai", "OPENAI_API_KEY", "Authorization"),
        ("https://res.openai.azure.com", "azure", "AZURE_OPENAI_API_KEY", "api-key"),
        ("https://res.openai.azure.com/openai/v1", "azure", "AZURE_OPENAI_API_KEY", "api-key"),
        ("https://res.openai.azure.us/openai/deployments/D?api-version=1", "azure", "AZURE_OPENAI_API_KEY", "api-key"),
        ("https://res.services.ai.azure.com", "azure", "AZURE_OPENAI_API_KEY", "api-key"),
        ("https://res.cognitiveservices.azure.com", "azure", "AZURE_OPENAI_API_KEY", "api-key"),
        ("https://api.anthropic.com", "anthropic", "ANTHROPIC_API_KEY", "x-api-key"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini", "GEMINI_API_KEY", "Authorization"),
        ("https://api.groq.com/openai/v1", "groq", "GROQ_API_KEY", "Authorization"),
        ("https://api.mistral.ai/v1", "mistral", "MISTRAL_API_KEY", "Authorization"),
        ("https://api.deepseek.com", "deepseek", "DEEPSEEK_API_KEY", "Authorization"),
        ("https://openrouter.ai/api/v1", "openrouter", "OPENROUTER_API_KEY", "Authorization"),
        ("https://api.together.xyz/v1", "together", "TOGETHER_API_KEY", "Authorization"),
        ("https://api.together.ai/v1", "together", "TOGETHER_API_KEY", "Authorization"),
        ("https://api.fireworks.ai/inference/v1", "fireworks", "FIREWORKS_API_KEY", "Authorization"),
        ("https://x.eu-west-1.aws.endpoints.huggingface.cloud/v1", "tgi", "HF_TOKEN", "Authorization"),
        ("http://localhost:8000/v1", "vllm", "VLLM_API_KEY", "Authorization"),
        ("http://localhost:30000/v1", "sglang", "SGLANG_API_KEY", "Authorization"),
        ("http://localhost:8080/v1", "llama.cpp", "LLAMA_API_KEY", "Authorization"),
        ("http://localhost:11434/v1", "ollama", "OLLAMA_API_KEY", "Authorization"),
        ("http://localhost:4000", "litellm", "LITELLM_API_KEY", "Authorization"),
        ("http://localhost:3000/v1", "one-api", "OPENAI_API_KEY", "Authorization"),
        ("https://relay.example/v1", "compatible", "OPENAI_API_KEY", "Authorization"),
        ("https://API.OpenAI.com./v1", "openai", "OPENAI_API_KEY", "Authorization"),
    ],
)
def test_the_url_tells_who_answers_and_which_key_opens(url: str, name: str, variable: str, header: str) -> None:
    door = one(url)
    form = "Bearer {}" if header == "Authorization" else "{}"
    assert (door.provider.name, door.opening) == (name, {header: form.format(EVERY_KEY[variable])})


@pytest.mark.parametrize(
    "url", ["https://api.openai.com.evil.example/v1", "https://evilopenai.azure.com.example", "https://xapi.groq.com"]
)
def test_a_host_that_only_looks_like_a_providers_is_none(url: str) -> None:
    assert recognised(url).name == "compatible"


@pytest.mark.parametrize(
    "each", [each for each in PROVIDERS if each.hosted and each.name != "openai"], ids=lambda each: each.name
)
def test_p7_no_provider_is_sent_the_key_of_another(each: object) -> None:
    provider = BY_NAME[each.name]  # type: ignore[attr-defined]
    url = provider.base or f"https://res{provider.hosts[0]}"
    error = refused(url, environ={"OPENAI_API_KEY": KEY, "OPENAI_ORG_ID": "org-1"})
    assert error.code == "E101"
    assert provider.keys[0] in error.message
    named = one(url, environ={"OPENAI_API_KEY": KEY}, api_key_env=("OPENAI_API_KEY",))
    assert KEY in str(named.opening)


def test_organisation_and_project_go_to_openai_alone() -> None:
    environ = {**EVERY_KEY, "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-1"}
    assert one("https://api.openai.com/v1", environ=environ).headers == {
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj-1",
    }
    for url in ("https://relay.example/v1", "https://api.groq.com/openai/v1", "http://localhost:8000"):
        assert one(url, environ=environ).headers == {}


def test_anthropic_is_told_its_version_and_the_user_may_tell_another() -> None:
    assert one("https://api.anthropic.com").headers == {"anthropic-version": "2023-06-01"}
    assert one("https://api.anthropic.com", header=("anthropic-version=2024-01-01",)).headers["anthropic-version"] == "2024-01-01"


@pytest.mark.parametrize(
    ("url", "version", "joined"),
    [
        ("https://r.openai.azure.com", "2024-10-21", "https://r.openai.azure.com/openai/v1/chat/completions"),
        ("https://r.openai.azure.com/openai", "2024-10-21", "https://r.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://r.openai.azure.com/openai/deployments/D",
            "2024-10-21",
            "https://r.openai.azure.com/openai/deployments/D/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/D?api-version=1",
            "2024-10-21",
            "https://r.openai.azure.com/openai/deployments/D/chat/completions?api-version=1",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/D?x=1",
            "2",
            "https://r.openai.azure.com/openai/deployments/D/chat/completions?x=1&api-version=2",
        ),
    ],
)
def test_both_forms_of_azures_addresses(url: str, version: str, joined: str) -> None:
    environ = {"AZURE_OPENAI_API_KEY": KEY, "OPENAI_API_VERSION": version}
    for path in ("/v1/chat/completions", "/chat/completions"):
        assert address(one(url, environ=environ).base_url, path) == joined
    assert one("https://relay.example/openai/deployments/D", environ={"OPENAI_API_VERSION": "2"}).base_url.endswith("/D")


def test_azures_own_paths_stay_at_the_root() -> None:
    path = "/openai/deployments/d/chat/completions?api-version=1"
    assert address("https://r.openai.azure.com", path) == f"https://r.openai.azure.com{path}"
    assert address("https://r.openai.azure.com/openai", path) == f"https://r.openai.azure.com{path}"


@pytest.mark.parametrize(
    ("url", "joined"),
    [
        ("https://api.groq.com", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://api.groq.com/openai", "https://api.groq.com/openai/v1/chat/completions"),
        ("https://openrouter.ai/", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://api.fireworks.ai", "https://api.fireworks.ai/inference/v1/chat/completions"),
        ("https://generativelanguage.googleapis.com", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://relay.example", "https://relay.example/v1/chat/completions"),
    ],
)
def test_a_host_alone_means_the_place_of_its_api(url: str, joined: str) -> None:
    assert address(url, "/v1/chat/completions") == joined


def test_a_path_that_is_no_route_stays_where_it_says() -> None:
    path = "/v1beta/models/gemini:generateContent"
    assert address("https://generativelanguage.googleapis.com", path) == f"https://generativelanguage.googleapis.com{path}"


# The user's word.


def test_a_provider_by_name_brings_its_address() -> None:
    assert one(provider="groq").base_url == "https://api.groq.com/openai/v1"
    azure = one(provider="azure", environ={"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"})
    assert azure.base_url == "https://r.openai.azure.com"
    assert "AZURE_OPENAI_ENDPOINT" in refused(provider="azure").message
    assert "address" in refused(provider="vllm").message


def test_a_provider_by_name_decides_how_an_unknown_host_is_opened() -> None:
    door = one("https://gateway.example/anthropic", provider="anthropic")
    assert door.opening == {"x-api-key": EVERY_KEY["ANTHROPIC_API_KEY"]}
    assert "anthropic-version" in door.headers


@pytest.mark.parametrize("auth", AUTH)
def test_the_form_of_the_key_can_be_set(auth: str) -> None:
    door = one("https://res.openai.azure.com", environ={"AZURE_OPENAI_API_KEY": "me:pass-0123"}, auth=auth)
    ((name, value),) = door.opening.items()
    assert name == AUTH[auth][0]
    assert value.split()[-1] == ("bWU6cGFzcy0wMTIz" if auth == "basic" else "me:pass-0123")
    assert all(value.split()[-1] not in secret.redact(value) for secret in door.secrets[-1:])


def test_one_variable_for_all_endpoints_or_one_for_each() -> None:
    urls = ("https://a.example/v1", "https://b.example/v1")
    environ = {"A": "key-of-a-0123", "B": "key-of-b-0123", "OPENAI_API_KEY": KEY}
    both = doors(Service(base_url=urls, api_key_env=("A",)), environ)
    assert [door.opening["Authorization"] for door in both] == ["Bearer key-of-a-0123"] * 2
    each = doors(Service(base_url=urls, api_key_env=("A", "B")), environ)
    assert [door.opening["Authorization"] for door in each] == ["Bearer key-of-a-0123", "Bearer key-of-b-0123"]
    assert doors(Service(base_url=urls, api_key_env=("", "B")), environ)[0].opening == {}
    assert refused(*urls, "https://c.example", api_key_env=("A", "B"), environ=environ).code == "E003"


def test_keyless_servers_need_none() -> None:
    for url in ("http://localhost:8000", "http://127.0.0.1:11434/v1", "http://[::1]:8080", "http://gpu-3:8000/v1"):
        assert one(url, environ={}).opening == {}
    assert one("http://localhost:11434/v1", environ={"OPENAI_API_KEY": KEY}).opening == {}
    assert one("https://api.groq.com", environ={"GROQ_API_KEY": KEY}, api_key_env=("",)).opening == {}


def test_the_simulated_endpoint_never_gets_a_key() -> None:
    door = one("simulated:flaky")
    assert (door.simulated, door.opening, door.secrets) == (True, {}, ())


def test_twins_are_told_apart() -> None:
    made = doors(Service(base_url=("http://localhost:8000/a", "http://localhost:8000/b", "https://c.example")), {})
    assert [door.name for door in made] == ["localhost:8000", "localhost:8000#2", "c.example"]


def test_nothing_given_names_the_ways_out() -> None:
    error = refused(environ={"GROQ_API_KEY": KEY})
    assert error.code == "E101"
    assert "OPENAI_API_KEY is not set" in error.message
    assert "--provider groq" in error.hint
    assert "simulated" in error.hint
    assert one(environ={"OPENAI_API_KEY": KEY}).base_url == "https://api.openai.com/v1"
    assert "MINE is not set" in refused("https://a.example", api_key_env=("MINE",)).message


# What is refused.


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://a.example", "E102"),
        ("a.example/v1", "E102"),
        ("https://", "E102"),
        ("http://a.example:99999", "E102"),
        ("http://[::1", "E102"),
        (f"https://user:{KEY}@a.example/v1", "E102"),
        ("https://user@a.example/v1", "E102"),
        ("https://@a.example/v1", "E102"),
        (f"nonsense?key={KEY}", "E102"),
        ("http://a b/v1", "E102"),
        ("http://a..example/v1", "E102"),
        ("http://-a.example/v1", "E102"),
        ("http://xn--a/v1", "E102"),
        (f"http://{'a' * 64}.example/v1", "E102"),
        ("http://a.example/v1#part", "E102"),
        ("http://a.example/v1 x", "E102"),
    ],
)
def test_what_is_no_base_url(url: str, code: str) -> None:
    assert refused(url).code == code


@pytest.mark.parametrize(
    ("url", "base", "name"),
    [
        ("HTTP://LocalHost:9701/V1", "http://localhost:9701/V1", "localhost:9701"),
        (" http://a.example/v1\n", "http://a.example/v1", "a.example"),
        ("http://127.0.0.1:09701/v1", "http://127.0.0.1:9701/v1", "127.0.0.1:9701"),
        ("http://bücher.example/é?a=ü%20", "http://xn--bcher-kva.example/%C3%A9?a=%C3%BC%20", "xn--bcher-kva.example"),
        ("http://my_service:80", "http://my_service:80", "my_service:80"),
        ("http://A.example.:8000/", "http://a.example.:8000/", "a.example.:8000"),
        ("http://[2001:DB8::1]:8000/v1", "http://[2001:db8::1]:8000/v1", "[2001:db8::1]:8000"),
    ],
)
async def test_a_base_url_is_spelled_as_it_is_sent(url: str, base: str, name: str) -> None:
    """Or every line would seem to lead elsewhere, and to be at fault."""
    door = one(url, environ={})
    assert (door.base_url, door.name) == (base, name)
    async with Transport(door.name, door.base_url, Connection()) as transport:
        assert transport._find_address("/v1/chat/completions")[1] == ""


HOSTS = ["localhost", "A.Example", "☃.example", "xn--a", "xn--n3h", "a..b", "my_host", "[::1]", "[FE80::1%25e]", "℀", "ß", "-"]
PIECES = st.sampled_from([*'/\\#?&=%é。@;[]<"^`{| \n\0\u200b', "//", "%zz", "%41", "/../", "v1"])


@given(
    st.sampled_from(["http://", "HTTPS://", "http:", " http://"]),
    st.sampled_from(HOSTS) | st.text(max_size=4),
    st.sampled_from(["", ":", ":80", ":08000", ":0", ":+1", ":٣", ":99999", "/"]),
    st.lists(PIECES, max_size=5).map("".join),
)
def test_what_is_no_base_url_is_refused_here_and_not_in_every_line(scheme: str, host: str, port: str, rest: str) -> None:
    try:
        door = one(f"{scheme}{host}{port}/{rest}", api_key_env=("",))
    except UsageError:
        return
    Transport(door.name, door.base_url, Connection())
    assert one(door.base_url, api_key_env=("",)).base_url == door.base_url, "and what has been spelled stays as it is"


@pytest.mark.parametrize("url", ["http://a.example/v1", "HTTP://10.0.0.7:8000", "http://[2001:db8::1]/v1", "http://0.0.0.0:8000"])
def test_g11_nothing_secret_travels_in_clear(url: str) -> None:
    assert refused(url, environ={"OPENAI_API_KEY": KEY}).code == "E103"
    assert refused(f"{url}?key={KEY}").code == "E103"
    assert refused(url, header=(f"X-Token={KEY}",)).code == "E103"
    assert one(url, environ={"OPENAI_API_KEY": KEY}, allow_insecure=True).opening
    assert one(url, environ={"OPENAI_API_KEY": KEY}, api_key_env=("",)).opening == {}


@pytest.mark.parametrize("name", ["Authorization", "api-key", "X-API-Key", "x-goog-api-key", "Proxy-Authorization"])
def test_g8_no_key_on_the_command_line(name: str) -> None:
    error = refused("https://a.example", header=(f"{name}={KEY}",))
    assert error.code == "E002"
    assert "--api-key-env" in error.hint


def test_unknown_provider() -> None:
    error = refused("https://a.example", provider="opnai")
    assert error.code == "E002"
    assert "openai" in error.hint


@pytest.mark.parametrize("flaw", ["a\nb", "a\rb", "clé", "a\udcff", "a\0b"])
def test_what_cannot_be_sent_of_a_variable_is_refused_with_its_name(flaw: str) -> None:
    azure, openai = "https://res.openai.azure.com", "https://api.openai.com/v1"
    for url, variable in ((azure, "AZURE_OPENAI_API_KEY"), (openai, "OPENAI_API_KEY"), (openai, "OPENAI_ORG_ID")):
        error = refused(url, environ={"OPENAI_API_KEY": KEY, variable: flaw})
        assert (error.code, error.message) == ("E002", f"{variable} holds a character that no header may hold")
        assert flaw not in str(error)
    assert one(openai, environ={"OPENAI_API_KEY": "me:clé"}, auth="basic").opening == {"Authorization": "Basic bWU6Y2zDqQ=="}


def test_g8_a_door_shows_no_key() -> None:
    door = one(f"https://a.example/v1?api_key={KEY}", environ={"OPENAI_API_KEY": KEY}, header=(f"X-Session={KEY}",))
    assert KEY not in f"{door!r} {door}"
    assert {secret.reveal() for secret in door.secrets} == {KEY}
