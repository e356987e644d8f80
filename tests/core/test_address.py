"""Addresses, and the fence round them."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from batchrunner.core.address import address, fenced

CHAT = "/v1/chat/completions"
AZURE = "https://res.openai.azure.com"

ADDRESSES = [
    ("http://h", CHAT, "http://h/v1/chat/completions"),
    ("http://h/", CHAT, "http://h/v1/chat/completions"),
    ("http://h/v1", CHAT, "http://h/v1/chat/completions"),
    ("http://h/v1/", CHAT, "http://h/v1/chat/completions"),
    ("http://h:8000/v1", "/v1/embeddings", "http://h:8000/v1/embeddings"),
    ("http://[::1]:8000/v1", CHAT, "http://[::1]:8000/v1/chat/completions"),
    ("http://h", "/chat/completions", "http://h/chat/completions"),
    ("http://h/v1", "/chat/completions", "http://h/v1/chat/completions"),
    ("https://api.openai.com/v1", "/v1/responses", "https://api.openai.com/v1/responses"),
    ("https://api.openai.com/v1", "/v1/images/generations", "https://api.openai.com/v1/images/generations"),
    ("https://api.anthropic.com", "/v1/messages", "https://api.anthropic.com/v1/messages"),
    ("https://api.anthropic.com/v1", "/v1/messages", "https://api.anthropic.com/v1/messages"),
    ("https://api.groq.com/openai/v1", CHAT, "https://api.groq.com/openai/v1/chat/completions"),
    ("https://api.groq.com/openai/v1", "/openai/v1/chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
    ("https://openrouter.ai/api/v1", CHAT, "https://openrouter.ai/api/v1/chat/completions"),
    ("https://openrouter.ai/api/v1/", "/api/v1/chat/completions", "https://openrouter.ai/api/v1/chat/completions"),
    ("https://api.fireworks.ai/inference/v1", CHAT, "https://api.fireworks.ai/inference/v1/chat/completions"),
    (
        "https://generativelanguage.googleapis.com/v1beta/openai",
        CHAT,
        "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
    ),
    ("https://ark.example.com/api/v3", CHAT, "https://ark.example.com/api/v3/chat/completions"),
    (
        "https://gateway.example.com/v1/account/gate/openai",
        CHAT,
        "https://gateway.example.com/v1/account/gate/openai/chat/completions",
    ),
    # Azure: a deployment, the v1 API, and the bare resource that means it
    (f"{AZURE}/openai/deployments/DEP", "/chat/completions", f"{AZURE}/openai/deployments/DEP/chat/completions"),
    (f"{AZURE}/openai/deployments/DEP", CHAT, f"{AZURE}/openai/deployments/DEP/chat/completions"),
    (
        f"{AZURE}/openai/deployments/DEP/?api-version=2024-10-21",
        "/chat/completions",
        f"{AZURE}/openai/deployments/DEP/chat/completions?api-version=2024-10-21",
    ),
    (f"{AZURE}/openai/v1", CHAT, f"{AZURE}/openai/v1/chat/completions"),
    (f"{AZURE}/openai/v1/", "/chat/completions", f"{AZURE}/openai/v1/chat/completions"),
    (f"{AZURE}/openai", CHAT, f"{AZURE}/openai/v1/chat/completions"),
    (f"{AZURE}/", CHAT, f"{AZURE}/openai/v1/chat/completions"),
    (f"{AZURE}", "/chat/completions", f"{AZURE}/openai/v1/chat/completions"),
    # the base holds the route already
    ("http://h/v1/chat/completions", CHAT, "http://h/v1/chat/completions"),
    ("https://openrouter.ai/api/v1/chat/completions", CHAT, "https://openrouter.ai/api/v1/chat/completions"),
    ("https://openrouter.ai/api/v1/chat/completions", "/v1/embeddings", "https://openrouter.ai/api/v1/embeddings"),
    ("https://api.perplexity.ai/chat/completions", CHAT, "https://api.perplexity.ai/chat/completions"),
    # plain HTTP: a path that is no route of ours is left alone
    ("http://h", "/score", "http://h/score"),
    ("http://h/api", "/v1/things", "http://h/api/v1/things"),
    ("http://h/api", "/api/things", "http://h/api/things"),
    ("http://h/api/v1", "/v1/things", "http://h/api/v1/things"),
    ("http://h/v1", "/v1things", "http://h/v1/v1things"),
    ("http://h/v1", "/v12/things", "http://h/v1/v12/things"),
    ("http://h/api", "/", "http://h/api/"),
    # queries
    ("http://h/v1?a=1", "/v1/things?b=2", "http://h/v1/things?a=1&b=2"),
    ("http://h/v1?a=1", "/v1/things?a=1", "http://h/v1/things?a=1"),
    ("http://h?", "/x?", "http://h/x"),
    ("http://h/v1", "/v1/things?next=http://other/v1", "http://h/v1/things?next=http://other/v1"),
]


@pytest.mark.parametrize(("base", "path", "joined"), ADDRESSES)
def test_base_and_path_are_joined_once(base: str, path: str, joined: str) -> None:
    assert address(base, path) == joined


# The fence

ORIGINS = ("https://api.openai.com/v1", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (CHAT, CHAT),
        ("/", "/"),
        ("/v1/models/a:generate?alt=sse&x=%0A", "/v1/models/a:generate?alt=sse&x=%0A"),
        ("/v1/models/org%2Fname", "/v1/models/org%2Fname"),
        ("/v1/a..b/...", "/v1/a..b/..."),
        ("/v1/x?path=../y", "/v1/x?path=../y"),
        ("https://api.openai.com/v1/chat/completions", CHAT),
        ("HTTPS://API.OpenAI.com:443/v1/chat/completions", CHAT),
        ("https://api.openai.com", "/"),
        ("https://api.openai.com?x=1", "/?x=1"),
        ("http://127.0.0.1:8000/v1/embeddings", "/v1/embeddings"),
    ],
)
def test_a_path_inside_the_fence_passes(url: str, path: str) -> None:
    assert fenced(url, ORIGINS) == path


OUTSIDE = [
    ("https://evil/v1/chat/completions", "another origin"),
    ("https://api.openai.com.evil/v1", "another origin"),
    ("https://api.openai.com./v1", "another origin"),
    ("https://evil.api.openai.com/v1", "another origin"),
    ("http://api.openai.com/v1/chat/completions", "another origin"),
    ("https://api.openai.com:8443/v1", "another origin"),
    ("http://127.0.0.1/v1", "another origin"),
    ("//evil/v1/chat/completions", "without a scheme"),
    ("///evil/v1", "without a scheme"),
    ("https://api.openai.com//evil/v1", "without a scheme"),
    ("http:evil", "neither"),
    ("http:/evil", "neither"),
    ("https:///api.openai.com/v1", "neither"),
    ("ftp://api.openai.com/v1", "neither"),
    ("file:///etc/passwd", "neither"),
    ("javascript:alert(1)", "neither"),
    ("https://u:p@api.openai.com/v1", "neither"),
    ("https://api.openai.com@evil/v1", "neither"),
    ("https://api.openai.com:443@evil/v1", "neither"),
    ("https://api.openai.com:99999999/v1", "neither"),
    ("https://api.openai.com:٤٤٣/v1", "neither"),
    ("https://api.openai.com:/v1", "neither"),
    ("https://api.openai.com%2f@evil/v1", "neither"),
    ("https://api.openaı.com/v1", "neither"),
    ("https://api。openai.com/v1", "neither"),
    ("https://api.openai.com\n.evil/v1", "neither"),
    ("https://api.openai.com\n", "neither"),
    ("https://api.openai.com/\n", "control character"),
    ("https://api.openai.com/v1#x", "fragment"),
    ("httpſ://api.openai.com/v1", "neither"),
    ("https://api.openai.com\\@evil/v1", "neither"),
    ("\\\\evil\\v1", "neither"),
    ("/\\evil/v1", "backslash"),
    ("/v1\\..\\x", "backslash"),
    ("/v1/%5c..%5cx", "dot segment"),
    ("/v1/a%5cb", "behind percent signs"),
    ("/v1/../../x", "dot segment"),
    ("/v1/..", "dot segment"),
    ("/./v1", "dot segment"),
    ("/v1/%2e%2e/x", "dot segment"),
    ("/v1/%2E./x", "dot segment"),
    ("/v1/.%2e/x", "dot segment"),
    ("/v1/..%2fx", "dot segment"),
    ("/v1/%252e%252e/x", "dot segment"),
    ("/v1/..;a=b/x", "dot segment"),
    ("https://api.openai.com/v1/../admin", "dot segment"),
    ("/v1/chat\r\nHost: evil", "control character"),
    ("/v1/chat\ncompletions", "control character"),
    ("/v1/chat completions", "control character"),
    ("/v1/\x00", "control character"),
    ("/v1/\x7f", "control character"),
    ("/v1/%0d%0aHost:%20evil", "behind percent signs"),
    ("/v1/%00", "behind percent signs"),
    ("/v1/%2500", "behind percent signs"),
    ("/v1/chat/completions#x", "fragment"),
    ("/v1/%zz", "percent sign"),
    ("/v1/%", "percent sign"),
    ("/v1/модели", "outside ASCII"),
    ("／／evil/v1", "neither"),
    ("v1/chat/completions", "neither"),
    ("@evil/v1", "neither"),
    ("?x=1", "neither"),
    (" /v1", "neither"),
    ("", "neither"),
]


@pytest.mark.parametrize(("url", "reason"), OUTSIDE)
def test_what_leads_outside_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fenced(url, ORIGINS)


def test_without_origins_every_absolute_url_is_refused() -> None:
    with pytest.raises(ValueError, match="another origin"):
        fenced("https://api.openai.com/v1", ())


SHARDS = (
    "/ // \\ . .. %2e %2E%2e %2f %5c %25 %0a @ : ? # ; & = é 。 http: https:// u:p@ :443 [::1] v1 evil "
    "api.openai.com chat/completions openai"
)
PIECES = st.sampled_from([*SHARDS.split(" "), " ", "\r", "\n", "\t", "\x00"]) | st.text(string.printable, max_size=3)
BASES = [
    "https://api.openai.com",
    "https://api.openai.com/v1",
    "http://127.0.0.1:8000/v1/",
    "https://res.openai.azure.com/openai/deployments/DEP?api-version=1",
    "https://res.openai.azure.com",
    "https://h/v1/chat/completions",
]


@settings(max_examples=600, deadline=None)
@given(
    st.lists(PIECES, max_size=8).map("".join) | st.lists(PIECES, max_size=6).map("".join).map("/".__add__), st.sampled_from(BASES)
)
@example("https://api.openai.com@evil/", "https://api.openai.com")
@example("/v1//evil/x", "https://api.openai.com/v1")
@example("/v1/chat/completions/../..", "https://h/v1/chat/completions")
def test_whatever_passes_the_fence_stays_at_the_endpoint(url: str, base: str) -> None:
    try:
        path = fenced(url, ORIGINS)
    except ValueError:
        return
    assert path.startswith("/")
    joined = address(base, path)
    for encoded in (True, False):
        there = URL(joined, encoded=encoded)
        assert there.origin() == URL(base).origin()
        assert there.raw_user is None
        assert not there.raw_fragment
    prefix = URL(base).path.rstrip("/").removesuffix("/chat/completions")
    assert there.path.startswith(prefix), "it cannot climb above the base"
