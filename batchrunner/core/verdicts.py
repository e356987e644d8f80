"""What an error means: the words and numbers that tell one kind from another.

Rules:

1. Words go before the status: a 429 is a throttle or an empty account, and only words tell which.
2. Of two words the one that stops more counts: money, then access, then the model, then the request itself.
3. A message may echo the prompt, so only its beginning is searched, and only for phrases nobody writes by chance.
4. Plain HTTP lines have no vocabulary: their status alone counts, and what it says concerns the line, not the endpoint.

Sources: the providers' pages on errors, their libraries; the code of vLLM, SGLang, llama.cpp, TGI, Ollama, LiteLLM, one-api.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from batchrunner.core.complaint import Complaint
from batchrunner.core.model import Kind, Route


class Verdict(Struct, frozen=True, gc=False):
    """What an answer amounts to."""

    kind: Kind
    code: str = ""
    message: str = ""
    flags: tuple[str, ...] = ()
    final: bool = False
    by_words: bool = False  # the body itself said so, not only the status


# Codes, types, statuses and reasons; and phrases of messages. In the order of rule 2.
CODES: Mapping[Kind, frozenset[str]] = {
    Kind.QUOTA: frozenset(
        {
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_error",
            "billing_not_active",
            "enforced_spend_limit_reached",
            "insufficient_user_quota",
            "pre_consume_token_quota_failed",
            "budget_exceeded",
        }
    ),
    Kind.DENIED: frozenset(
        {
            "invalid_api_key",
            "authentication_error",
            "api_key_invalid",
            "account_deactivated",
            "no_db_connection",  # LiteLLM without a database, to a key it does not know
        }
    ),
    Kind.CONFIG: frozenset({"model_not_found", "deploymentnotfound"}),
    Kind.CONTEXT: frozenset({"context_length_exceeded", "exceed_context_size_error"}),
    Kind.POLICY: frozenset(
        {
            "content_filter",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "invalid_prompt",
            "moderation",
            "moderation_blocked",
            "image_content_policy_violation",
        }
    ),
    Kind.TOO_LARGE: frozenset({"request_too_large"}),
    Kind.OVERLOADED: frozenset(
        {
            "overloaded_error",
            "overloaded",
            "server_is_overloaded",
            "slow_down",
            "engine_overloaded",
            "service_tier_capacity_exceeded",
            "resource_exhausted",
            "capacity_exceeded",
            "insufficient_system_resource",
        }
    ),
}
# nginx, Apache and Go's own server to a request in clear at a port with TLS.
WANTS_TLS = (
    "plain http request was sent to https port",
    "speaking plain http to an ssl-enabled server port",
    "sent an http request to an https server",
)
PHRASES: Mapping[Kind, tuple[str, ...]] = {
    Kind.QUOTA: (
        "exceeded your current quota",
        "credit balance is too low",
        "insufficient balance",
        "specified api usage limits",
        "余额不足",
        "额度不足",
        "欠费",
    ),
    Kind.DENIED: (
        "ip not authorized",
        "country, region, or territory not supported",
        "location is not supported",
        "api key not valid",
        "该令牌无权使用模型",
        "用户已被封禁",
    ),
    Kind.CONFIG: ("try pulling it first", "invalid model name passed in model=", *WANTS_TLS),
    Kind.CONTEXT: (
        "maximum context length",
        "exceeds the maximum number of tokens",
        "`inputs` tokens + `max_new_tokens`",
        "prompt is too long",
        "input tokens exceed",
        "contextwindowexceedederror",
    ),
    Kind.POLICY: ("safety system", "input was flagged", "moderation"),
    Kind.TOO_LARGE: ("request too large",),
    Kind.LOADING: ("loading model", "model is loading", "currently loading"),
    Kind.OVERLOADED: ("无可用渠道", "当前分组上游负载已饱和", "server busy"),
}
_MONEY = "_spend_limit_exceeded"
_RANK = {kind: rank for rank, kind in enumerate((*CODES, Kind.LOADING))}
_KIND_OF_CODE = {code: kind for kind, codes in CODES.items() for code in codes}
_SEARCHED = 600  # characters of a message
_HASTE = ("slow_down", "slow down", "acceleration", "usage increase rate")
_PER_DAY = ("per day", "perday", "(tpd)", "(rpd)", "daily")
_OVER = re.compile(r"limit:? *([\d,]+).{0,40}?requested:? *([\d,]+)", re.DOTALL)

# What an HTTP status says where nothing else does.
STATUS: Mapping[int, Kind] = {
    400: Kind.REJECTED,
    401: Kind.DENIED,
    402: Kind.QUOTA,
    403: Kind.DENIED,
    404: Kind.CONFIG,
    405: Kind.CONFIG,
    406: Kind.CONFIG,
    407: Kind.CONFIG,  # a proxy wants to know who we are
    408: Kind.GATEWAY,
    409: Kind.SERVER_ERROR,  # a lock; the providers' own libraries repeat it
    410: Kind.CONFIG,
    412: Kind.QUOTA,  # Fireworks: account suspended
    413: Kind.TOO_LARGE,
    414: Kind.TOO_LARGE,
    415: Kind.CONFIG,
    421: Kind.CONFIG,  # the address belongs to another host, or this connection leads to one
    422: Kind.REJECTED,
    424: Kind.SERVER_ERROR,
    425: Kind.NETWORK,
    426: Kind.CONFIG,
    429: Kind.RATE_LIMITED,
    431: Kind.CONFIG,  # the headers, which are the same for all lines
    498: Kind.OVERLOADED,
    499: Kind.GATEWAY,  # somebody on the way hung up
    501: Kind.CONFIG,
    502: Kind.GATEWAY,
    503: Kind.OVERLOADED,
    504: Kind.GATEWAY,
    505: Kind.CONFIG,
    511: Kind.CONFIG,  # a login page of the network
    520: Kind.GATEWAY,
    521: Kind.GATEWAY,
    522: Kind.GATEWAY,
    523: Kind.GATEWAY,
    524: Kind.GATEWAY,
    525: Kind.CONFIG,  # the origin's certificate
    526: Kind.CONFIG,
    527: Kind.GATEWAY,
    529: Kind.OVERLOADED,
    530: Kind.GATEWAY,
    598: Kind.GATEWAY,
    599: Kind.GATEWAY,
}
# A plain HTTP line has an address of its own: that one line is wrong, not the endpoint.
PLAIN_STATUS: Mapping[int, Kind] = dict.fromkeys((403, 404, 405, 406, 410, 412, 415, 421, 431, 501), Kind.REJECTED)
# What a page instead of JSON says: a proxy, a firewall or a login has answered, not the API.
PAGE_STATUS: Mapping[int, Kind] = {400: Kind.GARBLED, 403: Kind.GARBLED}

# Words that stand for a status, for errors inside a 200 that name none.
WORD_STATUS: Mapping[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    "throttlingexception": 429,
    "throttling_error": 429,
    "validation": 400,
    "failed_precondition": 400,
    "badrequesterror": 400,
    "not_found_error": 404,
    "not_found": 404,
    "permission_error": 403,
    "permission_denied": 403,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "vector_store_timeout": 504,
    "unavailable": 503,
    "service_unavailable": 503,
}


def inner_status(told: Complaint, said: bool) -> int:
    """The status an error inside a 200 stands for: the one it names, or the one its words mean, or 500.

    0: it may be no error at all; `said`: it calls itself one.
    """
    if told.status:
        return told.status
    for word in told.words:
        if status := WORD_STATUS.get(word):
            return status
        if word.startswith(("invalid_", "unsupported_")) or "image" in word:  # the Responses API's refusals
            return 400
    return 500 if said or _by_words(500, told) else 0


def judge(route: Route, status: int, told: Complaint, page: bool, text: bool) -> Verdict:
    """What an error amounts to. `page`: the body is HTML; `text`: it is not JSON."""
    if route is Route.HTTP:
        return Verdict(PLAIN_STATUS.get(status) or by_status(status))
    if verdict := _by_words(status, told):
        return verdict
    if page:
        return Verdict(PAGE_STATUS.get(status) or _by_text(status), flags=("html",))
    kind = _by_text(status) if text else by_status(status)
    return Verdict(kind, flags=("model",) if kind is Kind.CONFIG and "model" in told.message[:_SEARCHED].lower() else ())


def per_day(told: Complaint) -> bool:
    """Whether the message of a throttle speaks of a day's budget."""
    message = told.message[:_SEARCHED].lower()
    return any(phrase in message for phrase in _PER_DAY)


def names_day(body: bytes) -> bool:
    """Whether the body lists a limit per day by its name (Google's `quotaId`)."""
    return b"PerDay" in body[:16384]


def by_status(status: int) -> Kind:
    """What a status says by itself."""
    if kind := STATUS.get(status):
        return kind
    if status >= 500:
        return Kind.SERVER_ERROR
    if status >= 400:
        return Kind.REJECTED
    return Kind.CONFIG if status >= 300 else Kind.PROTOCOL


def _by_text(status: int) -> Kind:
    """A 503 in plain words comes from a gateway: the model servers speak JSON."""
    return Kind.GATEWAY if status == 503 else by_status(status)


def _by_words(status: int, told: Complaint) -> Verdict | None:
    message = told.message[:_SEARCHED].lower()
    found = {kind for word in told.words if (kind := _kind_of_word(word))}
    found |= {kind for kind, phrases in PHRASES.items() if any(phrase in message for phrase in phrases)}
    found -= _impossible(status, told, message)
    if status == 429 and any(phrase in message or phrase in told.words for phrase in _HASTE):
        found.discard(Kind.OVERLOADED)
        return Verdict(min(found, key=_RANK.__getitem__, default=Kind.RATE_LIMITED), flags=("slow_down",), by_words=True)
    if _exceeds_limit(message):
        found.add(Kind.TOO_LARGE)
    if not found:
        return None
    kind = min(found, key=_RANK.__getitem__)
    return Verdict(kind, flags=_word_flags(kind, message), by_words=True)


def _kind_of_word(word: str) -> Kind | None:
    return Kind.QUOTA if word.endswith(_MONEY) else _KIND_OF_CODE.get(word)


def _impossible(status: int, told: Complaint, message: str) -> set[Kind]:
    """What words cannot mean beside this status."""
    out = set()
    if status == 429:
        out |= {Kind.OVERLOADED, Kind.LOADING}  # a throttle all the same: it costs no attempt
    if status != 503:
        out.add(Kind.LOADING)  # elsewhere a failure to load
    if told.delays and not any(_kind_of_word(word) is Kind.QUOTA for word in told.words):
        out.add(Kind.QUOTA)  # Google says "current quota" of a minute's limit too, but then names a delay
    if (over := _OVER.search(message)) and not _exceeds(over):
        out.add(Kind.TOO_LARGE)  # it will fit as soon as the window has moved
    return out


def _exceeds_limit(message: str) -> bool:
    over = _OVER.search(message)
    return over is not None and _exceeds(over)


def _exceeds(over: re.Match[str]) -> bool:
    limit, requested = (int(number.replace(",", "") or 0) for number in over.groups())
    return requested > limit


def _word_flags(kind: Kind, message: str) -> tuple[str, ...]:
    if kind is Kind.CONFIG:
        return ("model",)
    return ("no_channel",) if kind is Kind.OVERLOADED and "无可用渠道" in message else ()
