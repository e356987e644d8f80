"""Addresses, the fence round them, and the health of an endpoint."""

import string
from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from batchrunner.core.endpoints import Breaker, Endpoint, Gate, address, fenced
from batchrunner.core.limit import Concurrency, Limit
from batchrunner.core.model import Kind, Outcome

CHAT = "/v1/chat/completions"
AZURE = "https://res.openai.azure.com"


def slots(number: int) -> Limit:
    return Limit(Concurrency(concurrency=number))


# The gate


def test_a_gate_never_shortens_and_never_closes_by_itself() -> None:
    gate = Gate()
    assert gate.throttled(None, 90.0)
    assert gate.throttled(0.0, 90.0)
    assert gate.until == -inf
    assert gate.throttled(30.0, 100.0)
    assert gate.throttled(1.0, 101.0)
    assert gate.until == 130.0


def test_a_pause_above_a_quarter_of_an_hour_is_refused() -> None:
    gate = Gate()
    assert gate.throttled(900.0, 0.0)
    assert not gate.throttled(900.1, 0.0)
    assert not gate.throttled(1e9, 5.0)
    assert gate.until == 905.0


# The breaker


def opened(at: float = 10.0, u: float = 0.5) -> Breaker:
    breaker = Breaker(slots(4))
    for _ in range(10):
        breaker.fail(at, at, u)
    return breaker


def test_ten_failures_in_a_row_open_and_nine_with_an_answer_do_not() -> None:
    breaker = Breaker(slots(4))
    for n in range(100):
        if n % 10 == 9:
            breaker.ok(float(n), float(n))
        else:
            breaker.fail(float(n), float(n), 0.5)
    assert not breaker.open
    assert breaker.wait(100.0) == 0.0
    assert opened().open


@pytest.mark.parametrize(("concurrency", "row"), [(1, 10), (40, 10), (256, 64)])
def test_a_wide_lane_needs_more_failures(concurrency: int, row: int) -> None:
    breaker = Breaker(slots(concurrency))
    for _ in range(row - 1):
        breaker.fail(1.0, 1.0, 0.5)
    assert not breaker.open
    breaker.fail(1.0, 1.0, 0.5)
    assert breaker.open


@pytest.mark.parametrize(("u", "rest"), [(0.0, 1.5), (0.5, 2.0), (0.999, 2.499)])
def test_the_first_rest_is_two_seconds_more_or_less(u: float, rest: float) -> None:
    assert opened(10.0, u).wait(10.0) == pytest.approx(rest)


def test_rests_double_and_stay_short() -> None:
    breaker, now, rests = opened(10.0), 10.0, []
    for _ in range(6):
        rest = breaker.wait(now)
        assert rest
        rests.append(rest)
        now += rest
        assert breaker.wait(now) == 0.0
        breaker.sent(now)
        breaker.fail(now + 0.1, now + 0.1, 0.5)
        now += 0.1
    assert rests == pytest.approx([2.0, 4.0, 4.0, 4.0, 4.0, 4.0])


def test_outcomes_from_before_the_opening_change_nothing() -> None:
    breaker = opened(10.0)
    breaker.ok(10.0, 11.0)
    breaker.fail(5.0, 11.0, 0.5)
    assert breaker.wait(11.0) == pytest.approx(1.0)
    assert breaker.wait(20.0) == 0.0
    breaker.sent(20.0)
    breaker.fail(9.0, 20.5, 0.5)
    breaker.ok(9.0, 20.5)
    assert breaker.wait(21.0) is None, "the probe is still out, and alone"


def test_probes_double_and_eight_good_ones_close() -> None:
    breaker, now, out, most = opened(10.0), 20.0, 0, 0
    for _ in range(8):
        while breaker.wait(now) == 0.0 and breaker.open:
            breaker.sent(now)
            out += 1
        assert breaker.wait(now) is None
        most = max(most, out)
        now += 1.0
        breaker.ok(now - 0.5, now)
        out -= 1
    assert not breaker.open
    assert 8 < most <= 14
    assert breaker.wait(now) == 0.0
    for _ in range(10):
        breaker.fail(now, now, 0.5)
    assert breaker.wait(now) == pytest.approx(2.0), "rests begin anew"


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    breaker = opened(10.0)
    assert breaker.wait(20.0) == 0.0
    breaker.sent(20.0)
    assert breaker.wait(20.0) is None
    breaker.void(9.0)
    assert breaker.wait(20.0) is None, "that one was no probe"
    breaker.void(20.0)
    assert breaker.wait(20.0) == 0.0
    assert breaker.open


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["send", "ok", "fail", "void"]), st.floats(0, 8), st.floats(0, 0.99)), max_size=200))
def test_a_breaker_never_jams(story: list[tuple[str, float, float]]) -> None:
    """Whatever happened: when nothing is in flight, waiting long enough lets something through."""
    breaker, now = Breaker(slots(4)), 0.0
    flying: list[float] = []
    for verb, pause, u in story:
        now += pause
        if verb == "send":
            if breaker.wait(now) == 0.0:
                breaker.sent(now)
                flying.append(now)
        elif flying:
            started = flying.pop(0)
            if verb == "ok":
                breaker.ok(started, now)
            elif verb == "fail":
                breaker.fail(started, now, u)
            else:
                breaker.void(started)
    for started in flying:
        breaker.void(started)
    assert breaker.wait(now + 60.0) == 0.0


# The endpoint


def endpoint(concurrency: int = 2) -> Endpoint:
    return Endpoint("a", "http://a/v1", slots(concurrency))


def test_an_endpoint_is_ready_when_nothing_holds_it() -> None:
    lane = endpoint()
    assert lane.ready(0.0) == 0.0
    lane.inflight = 2
    assert lane.ready(0.0) is None
    assert lane.serves(0.0), "full is not down"
    lane.inflight = 1
    lane.gate.throttled(10.0, 0.0)
    assert lane.ready(4.0) == 6.0
    assert not lane.serves(4.0)
    assert lane.ready(10.0) == 0.0
    lane.stopped = "no money"
    assert lane.ready(99.0) is None
    assert not lane.serves(99.0)


def test_the_longer_of_gate_and_breaker_counts() -> None:
    lane = endpoint()
    for _ in range(10):
        lane.learn("down", 1.0, Outcome(Kind.CONNECT), 1.0, 0.5)
    assert lane.ready(1.0) == pytest.approx(2.0)
    assert not lane.serves(1.0)
    lane.gate.throttled(10.0, 1.0)
    assert lane.ready(1.0) == pytest.approx(10.0)
    assert lane.ready(11.0) == 0.0
    lane.breaker.sent(11.0)
    assert lane.ready(11.0) is None


def test_a_wait_closes_the_gate_and_an_absurd_one_the_endpoint() -> None:
    lane = endpoint()
    lane.learn("pause", 0.0, Outcome(Kind.RATE_LIMITED, 429, wait=20.0), 1.0, 0.5)
    assert lane.ready(1.0) == 20.0
    assert not lane.stopped
    lane.learn("up", 0.0, Outcome(Kind.RATE_LIMITED, 429, wait=86400.0), 1.0, 0.5)
    assert lane.stopped == "a asks for a pause of 86400 s [E305]"


def test_an_endpoint_that_throttles_is_alive_and_one_that_loads_says_nothing() -> None:
    for kind, closes in ((Kind.RATE_LIMITED, True), (Kind.LOADING, False)):
        lane = endpoint()
        for _ in range(10):
            lane.learn("down", 1.0, Outcome(Kind.CONNECT), 1.0, 0.5)
        for n in range(8):
            assert lane.ready(10.0 + n) == 0.0
            lane.breaker.sent(10.0 + n)
            lane.learn("pause", 10.0 + n, Outcome(kind), 10.5 + n, 0.5)
        assert lane.breaker.open is not closes


def test_a_refusal_stops_an_endpoint_that_has_never_served() -> None:
    lane = endpoint()
    lane.learn("stop", 0.0, Outcome(Kind.DENIED, 401, message="bad key"), 1.0, 0.5)
    assert lane.stopped == "a: bad key [E301]"


def test_one_that_has_served_is_asked_again() -> None:
    lane = endpoint()
    denied = Outcome(Kind.DENIED, 401)
    lane.learn("up", 0.0, Outcome(Kind.OK), 1.0, 0.5)
    lane.learn("stop", 1.0, denied, 2.0, 0.5)
    lane.learn("stop", 1.5, denied, 3.0, 0.5)
    lane.learn("up", 1.6, Outcome(Kind.OK), 3.0, 0.5)
    assert not lane.stopped, "all of these were sent before the doubt arose"
    assert lane.ready(3.0) == 5.0
    lane.learn("stop", 8.0, denied, 8.5, 0.5)
    assert lane.stopped == "a: denied [E301]"


def test_an_answer_after_the_doubt_dispels_it() -> None:
    lane = endpoint()
    denied = Outcome(Kind.DENIED, 401)
    lane.learn("up", 0.0, Outcome(Kind.OK), 1.0, 0.5)
    lane.learn("stop", 1.0, denied, 2.0, 0.5)
    lane.learn("up", 7.0, Outcome(Kind.OK), 8.0, 0.5)
    lane.learn("stop", 9.0, denied, 10.0, 0.5)
    assert not lane.stopped


# Addresses

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
