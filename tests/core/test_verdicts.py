"""Error bodies in every shape, and every word of the lists."""

import json

import pytest

from batchrunner.core.classify import classify
from batchrunner.core.complaint import complaint
from batchrunner.core.model import Kind, Route
from tests.core.answers import attempt, error, outcome, reply

GOOGLE = [
    {"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
]


@pytest.mark.parametrize(
    ("value", "code", "message", "status"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "c", "m", 0),
        ({"error": {"message": "m", "type": "throttling_error", "code": "429"}}, "throttling_error", "m", 429),
        ({"error": {"message": "m", "code": 429}}, "429", "m", 429),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "r"}, "overloaded_error", "m", 0),
        (GOOGLE, "INVALID_ARGUMENT", "bad key", 400),
        ({"error": {"message": json.dumps(GOOGLE), "code": None}}, "INVALID_ARGUMENT", "bad key", 400),
        ({"error": "m"}, "", "m", 0),
        ({"error": "m", "error_type": "overloaded"}, "overloaded", "m", 0),
        ({"object": "error", "message": "m", "type": "t", "code": None}, "t", "m", 0),
        ({"detail": "m"}, "", "m", 0),
        ({"detail": [{"loc": ["body", "n"], "msg": "m", "type": "missing"}]}, "missing", "body.n: m", 0),
        ({"message": "m"}, "", "m", 0),
        ({"msg": "m"}, "", "m", 0),
        ({"err": "m"}, "", "m", 0),
        ({"error_msg": "m", "error_code": "18"}, "", "m", 0),
        ({"header": {"message": "m"}}, "", "m", 0),
        ({"response": {"error": {"message": "m"}}}, "", "m", 0),
        ({"errors": [{"message": "m", "code": 1000}]}, "", "m", 0),
        ({"__type": "com.aws#ThrottlingException", "message": "m"}, "com.aws#ThrottlingException", "m", 0),
        ({"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "m"}}]}, "502", "m", 502),
    ],
)
def test_shapes(value: object, code: str, message: str, status: int) -> None:
    told = complaint(value)
    assert told is not None
    assert (told.code, told.message, told.status) == (code, message, status)


@pytest.mark.parametrize(
    "value", [{}, [], None, 1, True, [1], ["x"], {"error": None}, {"error": {}}, {"message": {"role": "user"}}]
)
def test_what_is_no_error(value: object) -> None:
    assert complaint(value) is None


def test_shapes_within_shapes_have_an_end() -> None:
    deep: object = {"message": "m"}
    for _ in range(50):
        deep = {"error": deep}
    assert complaint(deep) is None


@pytest.mark.parametrize("body", [b"Too big", b"<html><head><title>Too big</title></head></html>", b""])
def test_texts_pages_and_nothing(body: bytes) -> None:
    got = outcome(500, body)
    assert got.kind is Kind.SERVER_ERROR
    assert got.message == ("Too big" if body else "HTTP 500")


QUOTA = {
    429: (
        "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded"
        " organization_usage_limit_exceeded billing_hard_limit_reached billing_error billing_not_active"
        " enforced_spend_limit_reached budget_exceeded team_spend_limit_exceeded"
    ),
    403: "insufficient_user_quota pre_consume_token_quota_failed",
    400: "budget_exceeded billing_error",
}
WORDS = [
    *((status, word, Kind.QUOTA) for status, words in QUOTA.items() for word in words.split()),
    *((400, word, Kind.DENIED) for word in ("invalid_api_key", "authentication_error", "API_KEY_INVALID", "account_deactivated")),
    *((404, word, Kind.CONFIG) for word in ("model_not_found", "DeploymentNotFound")),
    *((400, word, Kind.CONTEXT) for word in ("context_length_exceeded", "exceed_context_size_error")),
    *((400, word, Kind.POLICY) for word in ("content_filter", "content_policy_violation", "invalid_prompt", "moderation")),
    (403, "ResponsibleAIPolicyViolation", Kind.POLICY),
    (529, "overloaded_error", Kind.OVERLOADED),
    (503, "server_is_overloaded", Kind.OVERLOADED),
    (500, "engine_overloaded", Kind.OVERLOADED),
    (498, "capacity_exceeded", Kind.OVERLOADED),
    (503, "service_tier_capacity_exceeded", Kind.OVERLOADED),
    (503, "resource_exhausted", Kind.OVERLOADED),
    (424, "overloaded", Kind.OVERLOADED),
    (429, "slow_down", Kind.RATE_LIMITED),
    (429, "resource_exhausted", Kind.RATE_LIMITED),
]


@pytest.mark.parametrize(("status", "word", "kind"), WORDS)
def test_codes_and_types(status: int, word: str, kind: Kind) -> None:
    assert outcome(status, error(code=word)).kind is kind
    assert outcome(status, error(kind=word.upper())).kind is kind
    assert outcome(200, {"error": {"message": "m", "code": word}}).kind in {kind, Kind.OVERLOADED}


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (429, "You exceeded your current quota, please check your plan", Kind.QUOTA),
        (400, "Your credit balance is too low to access the API", Kind.QUOTA),
        (402, "Insufficient Balance", Kind.QUOTA),
        (400, "You have reached your specified API usage limits.", Kind.QUOTA),
        (403, "用户余额不足", Kind.QUOTA),
        (429, "额度不足", Kind.QUOTA),
        (503, "账户已欠费", Kind.QUOTA),
        (403, "IP not authorized", Kind.DENIED),
        (403, "Country, region, or territory not supported", Kind.DENIED),
        (400, "User location is not supported for the API use.", Kind.DENIED),
        (403, "该令牌无权使用模型 gpt-4", Kind.DENIED),
        (401, "用户已被封禁", Kind.DENIED),
        (404, 'model "x" not found, try pulling it first', Kind.CONFIG),
        (400, "This model's maximum context length is 8192 tokens", Kind.CONTEXT),
        (400, "input exceeds the maximum number of tokens allowed", Kind.CONTEXT),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096", Kind.CONTEXT),
        (400, "prompt is too long: 210000 tokens", Kind.CONTEXT),
        (400, "Input tokens exceed the configured limit", Kind.CONTEXT),
        (400, "Your request was rejected by our safety system", Kind.POLICY),
        (403, "your input was flagged", Kind.POLICY),
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30,000, Requested 50000.", Kind.TOO_LARGE),
        (413, "Request too large for model: Limit 6000, Requested 9000", Kind.TOO_LARGE),
        (429, "Request too large for model on TPM", Kind.TOO_LARGE),
        (429, "Request too large: Limit 30000, Used 29000, Requested 2000", Kind.RATE_LIMITED),
        (503, "无可用渠道", Kind.OVERLOADED),
        (503, "当前分组上游负载已饱和", Kind.OVERLOADED),
        (429, "当前分组上游负载已饱和", Kind.RATE_LIMITED),
        (503, "server busy, please try again. maximum pending requests exceeded", Kind.OVERLOADED),
        (503, "Loading model", Kind.LOADING),
        (500, "error loading model", Kind.SERVER_ERROR),
    ],
)
def test_phrases(status: int, message: str, kind: Kind) -> None:
    assert outcome(status, error(message)).kind is kind


def test_money_goes_before_everything() -> None:
    body = {"error": {"type": "rate_limit_error", "message": "m", "details": {"error_code": "enforced_spend_limit_reached"}}}
    assert outcome(429, body, {"retry-after": "3"}).kind is Kind.QUOTA
    assert outcome(429, error(code="slow_down", kind="insufficient_quota")).kind is Kind.QUOTA


def test_a_relays_own_words_count_beside_its_upstreams() -> None:
    upstream = json.dumps({"error": {"message": "try later", "code": "server_busy"}})
    got = outcome(429, error(upstream, "insufficient_user_quota"))
    assert (got.kind, got.code, got.message) == (Kind.QUOTA, "server_busy", "try later")


def test_google_says_quota_of_a_minute_too() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]
    body = {
        "error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED", "details": details}
    }
    got = outcome(429, body)
    assert (got.kind, got.wait) == (Kind.RATE_LIMITED, 34.0)


def test_a_prompt_echoed_at_the_end_of_a_message_decides_nothing() -> None:
    assert outcome(400, error("bad field: " + "x" * 700 + " insufficient balance")).kind is Kind.REJECTED


def test_plain_http_knows_no_words() -> None:
    got = classify(attempt(Route.HTTP), reply(400, error("insufficient balance", "insufficient_quota")))
    assert got.kind is Kind.REJECTED
