"""Every signal an endpoint, a proxy or the wire can give, and what it amounts to.

The cases named `row-N` are one table, a row for each signal: what the wire, a proxy, a server or a provider may say.
"""

import json
from collections.abc import Callable, Mapping

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.classify import classify
from batchrunner.core.model import Cause, Fault, Kind, Outcome, Phase, Reply, Route
from batchrunner.core.naming import REQUEST_IDS
from batchrunner.core.treatment import HOPELESS, REFUSED, TREATMENT, hint
from batchrunner.errors import FileError
from tests.core.answers import CHAT, WHOLE, attempt, chat, error, outcome, reply

K = Kind
PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>"
RESET = {"retry-after": "7"}


def fault(cause: Cause, phase: Phase, detail: str = "x", status: int = 0, **more: object) -> Fault:
    return Fault(cause, phase, detail, status=status, **more)  # type: ignore[arg-type]


def by_fault(cause: Cause, phase: Phase, detail: str = "x", status: int = 0) -> Callable[[], Outcome]:
    return lambda: classify(attempt(), fault(cause, phase, detail, status))


def by_reply(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> Callable[[], Outcome]:
    return lambda: outcome(status, body, headers)


def streamed(status: int, body: object) -> Callable[[], Outcome]:
    return lambda: classify(attempt(stream=True), reply(status, body))


CONNECT, WRITE, FIRST, BODY = Phase.CONNECT, Phase.WRITE, Phase.FIRST_BYTE, Phase.BODY
STREAM_OPTIONS = error("Unrecognized request argument: stream_options", kind="invalid_request_error")
TOO_LARGE = error("Request too large for m on TPM: Limit 30000, Requested 50000", "rate_limit_exceeded", "tokens")
# Of each row: what came, what it amounts to, and any facts beside the kind.
ROWS: list[tuple[int, Callable[[], Outcome], Kind, dict[str, object]]] = [
    (1, by_fault(Cause.INVALID, CONNECT), K.INVALID, {"billed": False}),
    (2, by_fault(Cause.DNS, CONNECT), K.CONNECT, {"billed": False}),
    (3, by_fault(Cause.REFUSED, CONNECT), K.CONNECT, {"billed": False}),
    (4, by_fault(Cause.LOCAL, CONNECT, "errno 24"), K.LOCAL, {"billed": False}),
    (5, by_fault(Cause.LOCAL, CONNECT, "errno 99"), K.LOCAL, {}),
    (6, by_fault(Cause.TIMEOUT, CONNECT), K.TIMEOUT_CONNECT, {"billed": False}),
    (7, by_fault(Cause.CERTIFICATE, CONNECT), K.CONFIG, {}),
    (8, by_fault(Cause.TLS, CONNECT), K.TLS, {}),
    (9, by_fault(Cause.PROXY, CONNECT), K.CONNECT, {}),
    (9, by_fault(Cause.PROXY, CONNECT, status=502), K.CONNECT, {}),
    (9, by_fault(Cause.PROXY, CONNECT, status=407), K.CONFIG, {}),
    (10, by_fault(Cause.STALE, FIRST), K.STALE, {}),
    (11, by_fault(Cause.DISCONNECTED, FIRST), K.NETWORK, {"billed": True}),
    (12, by_fault(Cause.RESET, WRITE), K.NETWORK, {"billed": True}),
    (12, by_fault(Cause.TIMEOUT, WRITE), K.NETWORK, {"billed": True}),
    (13, by_fault(Cause.TIMEOUT, FIRST, "total: 60 s"), K.TIMEOUT_FIRST_BYTE, {"billed": True}),
    (14, by_fault(Cause.TIMEOUT, BODY, "idle: 30 s"), K.TIMEOUT_IDLE, {"billed": True}),
    (15, by_fault(Cause.TIMEOUT, BODY, "idle: only keep-alives"), K.TIMEOUT_IDLE, {"billed": True}),
    (16, by_fault(Cause.TIMEOUT, BODY, "total: 600 s"), K.TIMEOUT_TOTAL, {"billed": True}),
    (17, by_fault(Cause.TRUNCATED, BODY, status=200), K.TRUNCATED, {"billed": True}),
    (18, by_fault(Cause.PROTOCOL, FIRST), K.PROTOCOL, {}),
    (18, by_fault(Cause.PROTOCOL, BODY, status=400), K.PROTOCOL, {}),
    (18, by_fault(Cause.MALFORMED, FIRST), K.PROTOCOL, {"billed": True}),
    (18, by_fault(Cause.MALFORMED, BODY, status=400), K.PROTOCOL, {}),
    (19, by_fault(Cause.ENCODING, BODY, status=200), K.PROTOCOL, {"flags": ("encoding",)}),
    (20, by_fault(Cause.TOO_LARGE, BODY, status=200), K.RESPONSE_TOO_LARGE, {"billed": True}),
    (21, by_reply(200, CHAT), K.OK, {"billed": False}),
    (22, by_reply(200, chat("length")), K.OK, {"flags": ("hit_token_limit",)}),
    (23, by_reply(200, chat("content_filter")), K.POLICY, {"billed": True}),
    (24, by_reply(200, error(code=429)), K.RATE_LIMITED, {"status": 200, "billed": True}),
    (24, by_reply(200, error(code="503")), K.OVERLOADED, {}),
    (24, by_reply(200, error(code="insufficient_quota")), K.QUOTA, {}),
    (24, by_reply(200, error("who knows")), K.SERVER_ERROR, {}),
    (24, by_reply(200, error(code=429), RESET), K.RATE_LIMITED, {"wait": 7.0}),
    (25, by_reply(200, b'{"choices":[{"mess'), K.TRUNCATED, {"billed": True}),
    (25, by_reply(200, b""), K.TRUNCATED, {}),
    (25, by_reply(200, b"\n\n \r\n"), K.TRUNCATED, {}),
    (25, by_reply(200, PAGE), K.GARBLED, {"flags": ("html",), "message": "502 Bad Gateway"}),
    (25, by_reply(200, {"hello": "world"}), K.GARBLED, {}),
    (25, by_reply(200, {"message": "Welcome", "status": "ok"}), K.GARBLED, {}),
    (26, by_reply(200, {**CHAT, "choices": []}), K.TRUNCATED, {}),
    (26, by_reply(200, chat(None)), K.TRUNCATED, {}),
    (27, streamed(200, error(code="overloaded_error")), K.OVERLOADED, {"billed": True}),
    (28, streamed(200, chat(None)), K.TRUNCATED, {"billed": True}),
    (29, by_reply(201, CHAT), K.OK, {}),
    (29, by_reply(202, {"id": "job"}), K.REJECTED, {"code": "accepted", "billed": True}),
    (29, by_reply(204), K.GARBLED, {"final": False}),
    (29, by_reply(206, CHAT), K.REJECTED, {"code": "partial_content", "billed": True}),
    (30, by_reply(103), K.PROTOCOL, {}),
    (31, by_reply(301), K.CONFIG, {}),
    (31, by_reply(308), K.CONFIG, {}),
    (32, by_reply(400, error()), K.REJECTED, {"billed": False}),
    (33, by_reply(400, error(code="API_KEY_INVALID")), K.DENIED, {}),
    (33, by_reply(400, error("You have reached your specified API usage limits.")), K.QUOTA, {}),
    (33, by_reply(400, error("User location is not supported for the API use.")), K.DENIED, {}),
    (34, by_reply(400, error(code="context_length_exceeded")), K.CONTEXT, {}),
    (35, by_reply(400, error(code="content_policy_violation")), K.POLICY, {"billed": False}),
    (35, by_reply(403, error("flagged", "content_filter")), K.POLICY, {}),
    (36, streamed(400, STREAM_OPTIONS), K.UNSUPPORTED, {}),
    (36, by_reply(400, STREAM_OPTIONS), K.REJECTED, {}),
    (37, by_reply(400, PAGE), K.GARBLED, {"flags": ("html",)}),
    (38, by_reply(401, error()), K.DENIED, {}),
    (39, by_reply(402, error("insufficient balance"), RESET), K.RATE_LIMITED, {"wait": 7.0}),
    (40, by_reply(402, error()), K.QUOTA, {}),
    (41, by_reply(403, error(kind="permission_error")), K.DENIED, {}),
    (42, by_reply(403, PAGE), K.GARBLED, {"flags": ("html",)}),
    (43, by_reply(404, error("The model `x` does not exist")), K.CONFIG, {"flags": ("model",)}),
    (43, by_reply(404, PAGE), K.CONFIG, {}),
    *((44, by_reply(status), K.CONFIG, {}) for status in (405, 406, 410, 415, 426, 501, 505)),
    (44, by_reply(421), K.CONFIG, {}),
    (45, by_reply(407), K.CONFIG, {}),
    (46, by_reply(408), K.GATEWAY, {}),
    (46, lambda: classify(attempt(), reply(408, reused=True)), K.STALE, {}),
    (47, by_reply(409, error()), K.SERVER_ERROR, {"billed": False}),
    (48, by_reply(412, error()), K.QUOTA, {}),
    (49, by_reply(413, PAGE), K.TOO_LARGE, {}),
    (50, by_reply(414), K.TOO_LARGE, {}),
    (50, by_reply(431), K.CONFIG, {}),
    *((51, by_reply(status), K.REJECTED, {}) for status in (418, 420, 430, 439, 440, 449, 450)),
    *((51, by_reply(status, b"", RESET), K.RATE_LIMITED, {"wait": 7.0}) for status in (418, 420, 430, 439, 440, 449, 450)),
    (52, by_reply(422, {"detail": [{"loc": ["body"], "msg": "m", "type": "t"}]}), K.REJECTED, {"message": "body: m"}),
    (53, by_reply(424, {"error": "x", "error_type": "generation"}), K.SERVER_ERROR, {"billed": True}),
    (54, by_reply(425), K.NETWORK, {}),
    (55, by_reply(429, error(), RESET), K.RATE_LIMITED, {"wait": 7.0, "billed": False}),
    (55, by_reply(429, error(), {"retry-after-ms": "1500"}), K.RATE_LIMITED, {"wait": 1.5}),
    (56, by_reply(429), K.RATE_LIMITED, {"wait": None}),
    (57, by_reply(429, error(code="insufficient_quota"), RESET), K.QUOTA, {}),
    (58, by_reply(429, error(), {"x-ratelimit-reset-requests": "5h", "x-ratelimit-remaining-requests": "0"}), K.QUOTA_WINDOW, {}),
    (58, by_reply(429, error(), {"retry-after": "18000"}), K.QUOTA_WINDOW, {"wait": 18000.0}),
    (58, by_reply(429, error("Rate limit: tokens per day (TPD)")), K.QUOTA_WINDOW, {"wait": None}),
    (58, by_reply(429, error("tokens per day (TPD). Please try again in 8m24s")), K.RATE_LIMITED, {"wait": 504.0}),
    (
        58,
        by_reply(429, {"error": {"message": "m", "details": [{"quotaId": "RequestsPerDay"}, {"retryDelay": "3s"}]}}),
        K.QUOTA_WINDOW,
        {},
    ),
    (59, by_reply(429, TOO_LARGE, RESET), K.TOO_LARGE, {}),
    (59, by_reply(413, TOO_LARGE), K.TOO_LARGE, {}),
    (60, by_reply(429, error(code="slow_down")), K.RATE_LIMITED, {"flags": ("slow_down",)}),
    (60, by_reply(429, error("would exceed your maximum usage increase rate")), K.RATE_LIMITED, {"flags": ("slow_down",)}),
    (61, by_reply(451), K.REJECTED, {}),
    (62, by_reply(498, error(code="capacity_exceeded")), K.OVERLOADED, {}),
    (63, by_reply(499), K.GATEWAY, {"billed": True}),
    (64, by_reply(500, error()), K.SERVER_ERROR, {"billed": True}),
    (65, by_reply(502, error()), K.GATEWAY, {"billed": True}),
    (65, by_reply(504, error()), K.GATEWAY, {"billed": True}),
    *((66, by_reply(status, PAGE), K.GATEWAY, {"flags": ("html",)}) for status in (502, 503, 504)),
    (66, by_reply(503, b"Service Unavailable"), K.GATEWAY, {"message": "Service Unavailable"}),
    (67, by_reply(503, error("Loading model", 503, "unavailable_error")), K.LOADING, {"wait": 5.0}),
    (67, by_reply(503, error("queue full"), RESET), K.OVERLOADED, {"wait": 7.0, "billed": False}),
    (68, by_reply(503, error("当前分组 default 下对于模型 x 无可用渠道")), K.OVERLOADED, {"flags": ("no_channel",)}),
    *((69, by_reply(status), K.SERVER_ERROR, {}) for status in (507, 508, 510)),
    (69, by_reply(511, PAGE), K.CONFIG, {}),
    *((70, by_reply(status, PAGE), K.GATEWAY, {}) for status in (520, 521, 522, 523, 527, 530)),
    *((70, by_reply(status, PAGE), K.CONFIG, {}) for status in (525, 526)),
    (71, by_reply(524, PAGE), K.GATEWAY, {"billed": True, "final": False}),
    (71, lambda: classify(attempt(number=3), reply(524, PAGE)), K.GATEWAY, {"final": True}),
    (72, by_reply(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), K.OVERLOADED, {}),
    (73, by_reply(599), K.GATEWAY, {}),
    (73, by_reply(561), K.SERVER_ERROR, {}),
    (73, by_reply(999), K.SERVER_ERROR, {}),
    (73, by_reply(499 - 11), K.REJECTED, {}),
    (74, by_reply(500, error(), {"x-should-retry": "false"}), K.SERVER_ERROR, {"final": True}),
    (74, by_reply(429, error(), {"x-should-retry": "false"}), K.RATE_LIMITED, {"final": True}),
    (74, by_reply(401, error(), {"x-should-retry": "false"}), K.DENIED, {"final": False}),
    (75, by_reply(400, error(), {"x-should-retry": "true"}), K.SERVER_ERROR, {"final": False, "billed": False}),
    (75, by_reply(401, error(), {"x-should-retry": "true"}), K.DENIED, {}),
    (75, by_reply(429, error(code="insufficient_quota"), {"x-should-retry": "true"}), K.QUOTA, {}),
    (76, by_reply(403, error(), RESET), K.RATE_LIMITED, {"wait": 7.0}),
    (76, by_reply(500, error(), RESET), K.SERVER_ERROR, {"wait": 7.0}),
    (76, by_reply(401, error(), RESET), K.DENIED, {}),
]


@pytest.mark.parametrize(("_row", "come", "kind", "facts"), ROWS, ids=[f"row-{row[0]}" for row in ROWS])
def test_signals(_row: int, come: Callable[[], Outcome], kind: Kind, facts: dict[str, object]) -> None:
    got = come()
    assert got.kind is kind
    assert {name: getattr(got, name) for name in facts} == facts
    assert got.kind is K.OK or got.message


@pytest.mark.parametrize("kind", [pytest.param(K.CANCELLED, id="row-77")])
def test_a_shutdown_charges_nothing(kind: Kind) -> None:
    treatment = TREATMENT[kind]
    assert (treatment.again, treatment.spends, treatment.limit, treatment.health) == (True, False, "", "")


@pytest.mark.parametrize("error_", [pytest.param(FileError("E404", "disk full"), id="row-78")])
def test_a_full_disk_is_no_outcome_but_ends_the_run(error_: FileError) -> None:
    assert error_.exit_code == 4
    assert TREATMENT[K.LOCAL].health == ""


def test_every_row_has_a_case() -> None:
    assert {row for row, *_ in ROWS} | {77, 78} == set(range(1, 79))


def test_every_kind_has_a_treatment_and_says_what_to_do() -> None:
    assert set(TREATMENT) == set(Kind)
    assert [kind for kind in Kind if not TREATMENT[kind].hint and kind is not K.OK] == []
    assert all(treatment.hint.endswith(".") for kind, treatment in TREATMENT.items() if kind is not K.OK)


def test_what_costs_no_attempt() -> None:
    """Waiting never does, nor a connection that went stale, nor an endpoint or a machine that is of no use just now."""
    free = {K.RATE_LIMITED, K.LOADING, K.STALE, K.UNSUPPORTED, K.DENIED, K.QUOTA, K.QUOTA_WINDOW, K.CONFIG}
    free |= {K.LOCAL, K.CRASHED, K.CANCELLED, K.INVALID_OUTPUT}  # whose budget is its own: `Retries.reask`
    assert {kind for kind, treatment in TREATMENT.items() if treatment.again and not treatment.spends} == free


def test_the_table_is_coherent() -> None:
    for kind, treatment in TREATMENT.items():
        if treatment.health in REFUSED:
            assert (treatment.again, treatment.spends) == (True, False), kind  # the request is not to blame
        if treatment.at_once or treatment.cap:
            assert treatment.again, kind
        counted_elsewhere = kind in {K.LOCAL, K.CANCELLED, K.INVALID_OUTPUT}
        if not treatment.spends and treatment.again and treatment.health in {"", "up"} and not counted_elsewhere:
            assert treatment.cap, f"{kind} could go on for ever"
    assert [kind for kind in Kind if TREATMENT[kind].limit == "success"] == [K.OK, K.INVALID_OUTPUT]
    assert {kind for kind in Kind if TREATMENT[kind].health == "stop"} == {K.QUOTA, K.QUOTA_WINDOW}
    assert {kind for kind in Kind if TREATMENT[kind].health == "doubt"} == {K.DENIED, K.CONFIG}


@pytest.mark.parametrize(("cause", "phase"), [(cause, phase) for cause in Cause for phase in Phase])
def test_every_fault_is_known(cause: Cause, phase: Phase) -> None:
    got = classify(attempt(), fault(cause, phase, "a\x1bb"))
    assert got.kind is not K.OK
    assert (got.code, got.message) == (cause.value, "a\\x1bb")
    assert not (got.billed and phase is CONNECT)


@pytest.mark.parametrize("cause", [Cause.TRUNCATED, Cause.TIMEOUT, Cause.RESET, Cause.ENCODING, Cause.TOO_LARGE])
def test_an_error_whose_body_never_ended_is_still_that_error(cause: Cause) -> None:
    got = classify(attempt(), Fault(cause, BODY, "idle", status=429, headers=RESET, partial=b'{"error":{"mess'))
    assert (got.kind, got.status, got.wait) == (K.RATE_LIMITED, 429, 7.0)


# Bodies


@pytest.mark.parametrize("status", [200, 201, 202, 204, 205, 299])
@pytest.mark.parametrize("body", [b"", b"{}", b"plain", PAGE, b"\xff\x00", json.dumps(error()).encode()])
def test_a_plain_http_line_is_good_with_any_2xx(status: int, body: bytes) -> None:
    got = outcome(status, body, route=Route.HTTP)
    assert got.kind is K.OK
    assert got.flags == (() if body[:1] == b"{" or not body else ("not_json",))
    if body == b"plain":
        assert got.body == b'"plain"'


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, K.CONFIG),
        (401, K.DENIED),
        (403, K.REJECTED),
        (404, K.REJECTED),
        (405, K.REJECTED),
        (429, K.RATE_LIMITED),
        (500, K.SERVER_ERROR),
        (503, K.OVERLOADED),
    ],
)
def test_a_plain_http_line_is_judged_by_its_status(status: int, kind: Kind) -> None:
    assert outcome(status, PAGE, route=Route.HTTP).kind is kind


@pytest.mark.parametrize(("status", "billed"), [(502, True), (520, True), (521, False), (522, False), (523, False), (530, False)])
def test_what_never_reached_the_server_is_not_on_the_bill(status: int, billed: bool) -> None:
    assert outcome(status, PAGE).billed is billed


@pytest.mark.parametrize("route", list(WHOLE))
def test_an_error_beside_a_whole_answer_is_an_error(route: Route) -> None:
    got = outcome(200, {**WHOLE[route], **error("it broke", 502)}, route=route)
    assert (got.kind, got.message, got.billed) == (K.GATEWAY, "it broke", True)


def test_an_error_beside_a_finished_choice_is_an_error() -> None:
    choice = {"finish_reason": "stop", "error": {"code": 502, "message": "it broke"}}
    assert outcome(200, {"choices": [choice]}).kind is K.GATEWAY


def test_a_lone_carriage_return_is_a_line_break_too() -> None:
    assert outcome(200, b'{"choices":\r[{"message":{},"finish_reason":"stop"}]}').body == (
        b'{"choices": [{"message":{},"finish_reason":"stop"}]}'
    )


def test_a_pretty_answer_becomes_one_line_and_keeps_its_numbers() -> None:
    body = (
        b'\n\n{"choices": [\r\n {"message": {}, "finish_reason": "stop", "logprob": -1.50e-0, "n": 123456789012345678901}\n]}\n'
    )
    got = outcome(200, body)
    assert got.kind is K.OK
    assert (
        got.body
        == b'{"choices": [   {"message": {}, "finish_reason": "stop", "logprob": -1.50e-0, "n": 123456789012345678901} ]}'
    )


def test_half_a_surrogate_pair_spoils_no_answer() -> None:
    got = outcome(200, json.dumps(chat("stop", text="\ud83d"), ensure_ascii=True).encode())
    assert (got.kind, got.flags) == (K.OK, ("lone_surrogate",))
    assert b"\\ufffd" in got.body
    assert orjson.loads(got.body), "the strictest of readers takes it"


def test_bytes_that_are_no_text_are_replaced_in_an_answer() -> None:
    got = outcome(200, json.dumps(chat("stop")).encode().replace(b'"x"', b'"\xff"'))
    assert (got.kind, got.flags) == (K.OK, ("invalid_utf8",))


def test_an_error_that_is_no_json_is_kept_in_part() -> None:
    got = outcome(502, b"<html>" + b"x" * 50_000)
    assert len(json.loads(got.body)) == 16384
    assert outcome(502).body == b""
    assert outcome(500, b'{"error":\n"x"}').body == b'{"error": "x"}'


def test_messages_are_cut_and_made_safe() -> None:
    got = outcome(400, error("\x1b[31m" + "é" * 5000 + "\ud83d"))
    assert len(got.message) == 2000
    assert got.message.startswith("\\x1b[31mé")


def test_a_message_never_holds_a_header() -> None:
    got = outcome(500, b"", {"authorization": "Bearer secret", "x-y": "secret"})
    assert "secret" not in repr(got)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"x","estimated_time":' + b"9" * 400 + b"}}",
        b'{"id":' + b"9" * 5000 + b',"choices":[{"finish_reason":"stop"}]}',
        b'{"id":' + b"[" * 900 + b"]" * 900 + b',"error":"x"}',
        b'{"detail":[{"msg":"x","loc":' + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"error":{"message":"{not json"}}',
        b'{"error":{"message":"' + b"[" * 5000 + b'"}}',
        b"[" * 5000,
        b'{"choices":[{"finish_reason":"stop"}],"x":"' + b'\\"' * 50_000,
    ],
)
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("route", [Route.CHAT, Route.HTTP])
def test_hostile_bodies(body: bytes, status: int, route: Route) -> None:
    got = outcome(status, body, route=route)
    assert got.kind is not K.OK or route is Route.HTTP or b'"stop"}]}' in body
    assert b"\n" not in got.body


def test_an_empty_body_leaves_nothing() -> None:
    assert outcome(200, b" \n").body == outcome(500, b" \n").body == outcome(204, route=Route.HTTP).body == b""


def test_a_model_that_is_being_loaded_says_how_long() -> None:
    got = outcome(503, {"error": "Model x is currently loading", "estimated_time": 20.0})
    assert (got.kind, got.wait) == (K.LOADING, 20.0)
    assert outcome(503, {"error": "Model x is currently loading"}, headers={"retry-after": "0"}).wait == 5.0


# Headers


@pytest.mark.parametrize("name", REQUEST_IDS)
@pytest.mark.parametrize(("status", "body"), [(200, CHAT), (500, error())])
def test_request_ids(name: str, status: int, body: object) -> None:
    assert outcome(status, body, {name: "req-7"}).request_id == "req-7"


def test_request_ids_in_order_and_in_the_body() -> None:
    assert outcome(200, CHAT, {"cf-ray": "b", "x-request-id": "a"}).request_id == "a"
    assert outcome(200, CHAT).request_id == "chatcmpl-1"
    assert outcome(529, {"type": "error", "error": {"message": "m"}, "request_id": "req_9"}).request_id == "req_9"
    assert outcome(200, CHAT, {"x-request-id": "a\x1b\ud83d" + "b" * 900}).request_id[:11] == "a\\x1b\\ud83d"
    assert len(outcome(200, CHAT, {"x-request-id": "b" * 900}).request_id) == 200
    assert classify(attempt(), Fault(Cause.TRUNCATED, BODY, "x", status=200, headers={"x-request-id": "f"})).request_id == "f"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html><head><title>400 Bad Request: you're speaking plain HTTP to an SSL-enabled server port.</title></head></html>",
    ],
)
def test_a8_a_server_with_tls_that_is_spoken_to_in_clear(body: bytes) -> None:
    got = classify(attempt(), Reply(400, {}, body))
    assert got.kind is K.CONFIG
    assert got.message.endswith("begins with https://")
    assert hint(got) == "The address of a server with TLS begins with https://"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("litellm.ContextWindowExceededError: litellm.BadRequestError: too much", K.CONTEXT),
        ("/chat/completions: Invalid model name passed in model=nosuch. Call `/v1/models` to view available models", K.CONFIG),
    ],
)
def test_what_the_litellm_proxy_says(message: str, kind: Kind) -> None:
    """Seen from a LiteLLM proxy with mock_response, 2026-11."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "400"}}
    assert outcome(400, body).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(202, {"id": "job"}, "answers later"), (204, b"", "nothing to say"), (206, CHAT, "a part"), (205, b"", "nothing to say")],
)
def test_a_good_status_without_an_answer_says_what_that_means(status: int, body: object, words: str) -> None:
    assert words in hint(outcome(status, body))
    assert words not in hint(outcome(status, error(code=429))), "an error inside is that error"


@pytest.mark.parametrize("status", [204, 205])
def test_nothing_at_all_is_asked_for_once_more(status: int) -> None:
    assert [classify(attempt(number=number), reply(status)).final for number in (1, 2, 3)] == [False, True, True]


def test_a_job_that_was_only_accepted_is_not_asked_for_again_by_a_retry() -> None:
    assert {outcome(202, {"id": "job"}).kind, outcome(206, CHAT).kind} <= HOPELESS


def test_a_redirect_says_where_it_leads() -> None:
    got = outcome(301, b"", {"location": "https://h.example/v1/chat/completions?key=x"})
    assert got.kind is K.CONFIG
    assert "leads to https://h.example/v1/chat/completions, and redirects are not followed" in got.message
    assert hint(got) in got.message.replace("this address", "This address"), "a record shows the hint only"
    assert "\x1b" not in outcome(308, b"", {"location": "\x1b[2J"}).message
    assert outcome(304, b"").message == "HTTP 304"


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("https://u:key@h.example/v1", "to https://h.example/v1,"),
        ("//key@h.example/v1#key", "to //h.example/v1,"),
        ("/v2/chat?a=b\n&t=key", "to /v2/chat,"),
        ("https://h.example?key", "to https://h.example,"),
        ("https://key", "to https://key,"),
        ("/@me/x", "to /@me/x,"),
    ],
)
def test_a_redirect_shows_no_part_of_an_address_that_may_be_a_secret(place: str, shown: str) -> None:
    got = outcome(307, b"", {"location": place})
    assert shown in got.message
    assert shown in hint(got)


def test_request_ids_that_only_a_body_or_we_know() -> None:
    assert outcome(200, CHAT | {"x_groq": {"id": "req_01"}}).request_id == "req_01"
    assert outcome(200, CHAT | {"x_groq": None}).request_id == "chatcmpl-1"
    assert outcome(500, error("bad (request id: 20260101abcdef)")).request_id == "20260101abcdef"
    assert outcome(500, error(), {"x-client-request-id": "br-1"}).request_id == "br-1"
    assert outcome(500, error(), {"x-client-request-id": "br-1", "cf-ray": "c"}).request_id == "c"
    silent = Fault(Cause.TIMEOUT, Phase.FIRST_BYTE, "first byte: 3 s", headers={"x-client-request-id": "br-1"})
    assert classify(attempt(), silent).request_id == "br-1"


def test_a_wait_is_only_read_beside_an_error() -> None:
    assert outcome(200, CHAT, RESET).wait is None
    assert outcome(429, error("try again in 20s"), {"retry-after": "3"}).wait == 20.0
    assert outcome(429, error(), {"retry-after": "3", "x-ratelimit-reset-requests": "5h"}).wait == 3.0


# Anything at all

LINES = st.sampled_from([json.dumps(whole).encode() for whole in WHOLE.values()] + [json.dumps(error(code=429)).encode(), PAGE])
FIELDS = ["error", "code", "type", "message", "detail", "choices", "finish_reason", "status", "data", "usage", "id", "details"]
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["stop", "error", "429"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
BODIES = (
    st.binary()
    | LINES
    | JSONS
    | st.tuples(LINES, st.integers(0, 400), st.binary(max_size=4)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :])
)
NAMES = st.sampled_from(
    ["retry-after", "retry-after-ms", "date", "x-should-retry", "x-request-id", "x-ratelimit-reset-tokens", "x"]
)
HEADERS = st.dictionaries(
    NAMES, st.text() | st.sampled_from(["true", "false", "7", "inf", "1e9", "Sun, 06 Nov 1994 08:49:37 GMT"]), max_size=4
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(Route), st.integers(-5, 1100) | st.just(200) | st.just(429), HEADERS, BODIES, st.booleans())
def test_anything_is_classified_and_leaves_one_line(
    route: Route, status: int, headers: dict[str, str], body: bytes, stream: bool
) -> None:
    got = classify(attempt(route, stream=stream), Reply(status, headers, body))
    accept(got)
    if got.kind is K.OK:
        assert 200 <= status < 300
        assert got.body or route is Route.HTTP


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(Cause), st.sampled_from(Phase), st.text(), st.integers(0, 1100), HEADERS, BODIES)
def test_any_fault_is_classified(
    cause: Cause, phase: Phase, detail: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    got = classify(attempt(), Fault(cause, phase, detail, status=status, headers=headers, partial=body))
    accept(got)
    assert got.kind is not K.OK


def accept(got: Outcome) -> None:
    """What every outcome has to hold, whatever came."""
    assert b"\n" not in got.body
    assert b"\r" not in got.body
    if got.body:
        json.loads(got.body.decode())
    for text in (got.message, got.code, got.request_id):
        text.encode()
        assert not set(text) & set("\n\r\x1b\x00")
    assert got.wait is None or 0.0 <= got.wait < 1e7
    assert len(got.message) <= 2000
