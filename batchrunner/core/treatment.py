"""What follows from each kind of outcome: one table.

Rules:

1. What a kind entails stands here and nowhere else; whoever obeys it only looks it up.
2. Waiting spends nothing, and neither does what no request can help: a stale connection, a refused key, our own machine.
3. What every request would meet again stops the endpoint; the request is not to blame, and may go elsewhere. What looks like that
   and may be about this request alone raises a doubt first (`core.refusals`).
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from batchrunner.core.model import Error, Kind, Outcome, Request, Result

Signal = Literal["", "success", "pushback", "crowded"]
Health = Literal["", "up", "down", "pause", "doubt", "stop"]


class Treatment(Struct, frozen=True, gc=False):
    """What a kind of outcome entails."""

    again: bool  # the request may be sent again; where health is in REFUSED, elsewhere or in another run
    spends: bool  # one of the request's counted attempts
    limit: Signal  # what the concurrency limit hears
    health: Health  # what the endpoint's health hears: "pause" as long as it asks, "stop" for this run, "doubt" perhaps
    sample: bool  # the latency teaches the deadlines
    fresh: bool  # the next sending goes over a new connection
    at_once: bool  # and without a pause
    cap: int  # repeats of this kind per request; 0: the general rule
    hint: str  # what to do next, for the record of a request that failed


YES, NO = True, False
# fmt: off
_ROWS: Mapping[Kind, tuple[bool, bool, Signal, Health, bool, bool, bool, int]] = {
    #                        again spends limit      health   sample fresh at_once cap
    Kind.OK:                 (NO,  NO,  "success",  "up",     YES,  NO,   NO,   0),
    Kind.RATE_LIMITED:       (YES, NO,  "pushback", "pause",  NO,   NO,   NO,   0),
    Kind.OVERLOADED:         (YES, YES, "pushback", "down",   NO,   NO,   NO,   0),
    Kind.LOADING:            (YES, NO,  "",         "pause",  NO,   NO,   NO,   0),
    Kind.SERVER_ERROR:       (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.GATEWAY:            (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.CONNECT:            (YES, YES, "",         "down",   NO,   YES,  NO,   0),
    Kind.NETWORK:            (YES, YES, "",         "down",   NO,   YES,  NO,   0),
    Kind.TLS:                (YES, YES, "",         "down",   NO,   YES,  NO,   2),
    Kind.STALE:              (YES, NO,  "",         "",       NO,   YES,  YES,  2),
    Kind.TIMEOUT_CONNECT:    (YES, YES, "",         "down",   NO,   YES,  NO,   0),
    Kind.TIMEOUT_FIRST_BYTE: (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.TIMEOUT_IDLE:       (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.TIMEOUT_TOTAL:      (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.PROTOCOL:           (YES, YES, "",         "down",   NO,   YES,  YES,  2),
    Kind.TRUNCATED:          (YES, YES, "",         "down",   NO,   NO,   NO,   0),
    Kind.GARBLED:            (YES, YES, "",         "down",   NO,   NO,   NO,   2),
    Kind.UNSUPPORTED:        (YES, NO,  "",         "up",     NO,   NO,   YES,  2),
    Kind.REJECTED:           (NO,  YES, "",         "up",     NO,   NO,   NO,   0),
    Kind.CONTEXT:            (NO,  YES, "",         "up",     NO,   NO,   NO,   0),
    Kind.POLICY:             (NO,  YES, "",         "up",     NO,   NO,   NO,   0),
    Kind.TOO_LARGE:          (NO,  YES, "",         "up",     NO,   NO,   NO,   0),
    Kind.RESPONSE_TOO_LARGE: (NO,  YES, "",         "up",     NO,   NO,   NO,   0),
    Kind.INVALID:            (NO,  NO,  "",         "",       NO,   NO,   NO,   0),
    Kind.INVALID_OUTPUT:     (YES, NO,  "success",  "up",     YES,  NO,   YES,  0),
    Kind.DENIED:             (YES, NO,  "",         "doubt",  NO,   NO,   NO,   0),
    Kind.QUOTA:              (YES, NO,  "",         "stop",   NO,   NO,   NO,   0),
    Kind.QUOTA_WINDOW:       (YES, NO,  "",         "stop",   NO,   NO,   NO,   0),
    Kind.CONFIG:             (YES, NO,  "",         "doubt",  NO,   YES,  NO,   0),
    Kind.LOCAL:              (YES, NO,  "crowded",  "",       NO,   NO,   NO,   0),
    Kind.CRASHED:            (YES, NO,  "",         "",       NO,   NO,   NO,   4),
    Kind.HOOK:               (NO,  NO,  "",         "",       NO,   NO,   NO,   0),
    Kind.CANCELLED:          (YES, NO,  "",         "",       NO,   NO,   NO,   0),
}
# fmt: on
_HINTS: Mapping[Kind, str] = {
    Kind.OK: "",
    Kind.RATE_LIMITED: "The endpoint throttles this account: ask for less with --rpm or --max-concurrency, or wait; then retry.",
    Kind.OVERLOADED: "The endpoint was overloaded: retry later, or add another endpoint with --base-url.",
    Kind.LOADING: "The server is still loading the model: wait until it is ready, then retry.",
    Kind.SERVER_ERROR: "The server failed on this request: retry; if only this line fails, look at its content.",
    Kind.GATEWAY: "A proxy before the server gave up: retry; if it always takes the same number of seconds, use --stream on.",
    Kind.CONNECT: "No connection could be made: check the address, the port, DNS, and that the server runs; then retry.",
    Kind.NETWORK: "The connection broke before an answer came: check the network and the server's log, then retry.",
    Kind.TLS: "The TLS handshake failed: check https or http, the port, and any proxy that inspects TLS.",
    Kind.STALE: "The server closed connections as they were used: retry, with --keepalive 0 if it does so often.",
    Kind.TIMEOUT_CONNECT: "No connection in time: check the address and the network, or raise --connect-timeout; then retry.",
    Kind.TIMEOUT_FIRST_BYTE: "No answer began in time: retry with a higher --max-timeout (or --timeout, --first-byte-timeout, "
    "if you set one), or with --stream on.",
    Kind.TIMEOUT_IDLE: "The answer stopped in the middle: look for a stalled server, or allow more with --idle-timeout; then "
    "retry.",
    Kind.TIMEOUT_TOTAL: "The answer was not finished in time: retry with a higher --max-timeout (or --timeout, if you set it), "
    "or ask for fewer tokens.",
    Kind.PROTOCOL: "What came back is not HTTP as it should be: check http or https, the port, and any proxy on the way; then "
    "retry.",
    Kind.TRUNCATED: "The answer was cut off: retry; if long answers are always cut, use --stream on or ask for fewer tokens; if "
    "the endpoint never says why it stops, use --missing-finish accept.",
    Kind.GARBLED: "Something other than the API answered, perhaps a proxy, a firewall or a login page: check --base-url.",
    Kind.UNSUPPORTED: "The endpoint refuses how the answer was asked for: use --stream off, or on where it demands a stream.",
    Kind.REJECTED: "The endpoint refuses this request as it is: correct the line; sending it again changes nothing.",
    Kind.CONTEXT: "The prompt does not fit the model's context: shorten it, let --max-prompt-tokens cut it, or take a model "
    "with a larger one; then retry --kind context.",
    Kind.POLICY: "The provider's policy forbids the prompt or the answer: change the line; sending it again changes nothing.",
    Kind.TOO_LARGE: "The request is larger than the server, or a proxy before it, takes: shorten the line, or raise that limit, "
    "then retry --kind too_large.",
    Kind.RESPONSE_TOO_LARGE: "The answer is larger than the cap on answers: ask for less, or raise --max-response, then retry "
    "--kind response_too_large.",
    Kind.INVALID: "The line cannot be sent as it is: correct it.",
    Kind.INVALID_OUTPUT: "No answer ever fitted: look at the last one and at the rule; --reask N asks more, --feedback says why.",
    Kind.DENIED: "The endpoint refuses the key, or this access: check the key, its permissions and the region; if only this "
    "line, look at its content and model.",
    Kind.QUOTA: "The account has no money or quota left: top it up or raise its limit, then run the same command again.",
    Kind.QUOTA_WINDOW: "The budget of a longer period is used up: run the same command again when it has been renewed.",
    Kind.CONFIG: "The endpoint does not know this address, route or model, or will not be asked in this way: check what it "
    "says, --base-url, the line's url and its model.",
    Kind.LOCAL: "This machine ran out of connections or file descriptors: lower --max-concurrency, or raise ulimit -n; then "
    "retry.",
    Kind.CRASHED: "The worker process that sent this request died, each time: look for a lack of memory, then retry.",
    Kind.HOOK: "A function of yours failed: correct it, then ask the line again with Runner.retry.",
    Kind.CANCELLED: "The run ended before an answer came: run the same command again.",
}
_EMPTY = "Whoever answered had nothing to say to this (HTTP 204 or 205), as no API does: check the line's url, and --base-url."
_BEHIND = "The server behind the gateway has no valid certificate: tell whoever runs it."
HINTS_OF_STATUS: Mapping[int, str] = {
    202: "The server takes this as a job and answers later (HTTP 202), which is not followed: ask for an answer at once, "
    "by the line's url or body; asking again would start, and perhaps pay, the job once more.",
    204: _EMPTY,
    205: _EMPTY,
    206: "The server sent a part of something (HTTP 206): look at the line's url and headers, and at caches on the way.",
    407: "The proxy wants to know who you are: put http://USER:PASSWORD@HOST:PORT into HTTPS_PROXY (HTTP_PROXY for plain http), "
    "or go without it: --proxy none.",
    421: "The address belongs to another host than the one that answered: check --base-url, --proxy and the host's name.",
    431: "The headers of the request are too large: look at --header, the line's own headers and the length of the key.",
    511: "A login page of the network answered: sign in to the network, or to its VPN, first.",
    525: _BEHIND,
    526: _BEHIND,
}
"""Where a status says more than its kind, if that is one of `_BY_STATUS`: an error inside a 202 is that error."""
_BY_STATUS = frozenset({Kind.CONFIG, Kind.REJECTED, Kind.GARBLED})
TREATMENT: Mapping[Kind, Treatment] = {kind: Treatment(*row, _HINTS[kind]) for kind, row in _ROWS.items()}
KILLS = frozenset({Kind.TIMEOUT_FIRST_BYTE, Kind.TIMEOUT_IDLE, Kind.TIMEOUT_TOTAL})
"""Attempts that our own deadline ended."""
UNANSWERED = frozenset({Kind.CONNECT, Kind.NETWORK, Kind.TLS, Kind.TIMEOUT_CONNECT, Kind.PROTOCOL})
"""Attempts that something else ended before an answer began."""
REFUSED = frozenset({"doubt", "stop"})
"""What an endpoint's health hears when it will not serve us, or not this request."""
FLED = REFUSED | {"down"}
"""What it hears when its failed requests are better sent elsewhere."""
HOPELESS = frozenset({Kind.REJECTED, Kind.CONTEXT, Kind.POLICY, Kind.TOO_LARGE, Kind.RESPONSE_TOO_LARGE, Kind.INVALID})
"""Kinds that the same request would meet again: a retry leaves them unless told otherwise."""

DROPPED = "dropped as the run ended"
"""What is said of an attempt that was under way when its run ended."""


def heard(outcome: Outcome) -> bool:
    """Whether somebody has answered, if only by an error. A page of somebody else's is no answer."""
    return outcome.kind is Kind.OK or (outcome.status > 0 and outcome.kind is not Kind.GARBLED)


def hint(outcome: Outcome) -> str:
    """What to do next about a failure."""
    by_status = HINTS_OF_STATUS.get(outcome.status) if outcome.kind in _BY_STATUS else None
    return outcome.advice or by_status or TREATMENT[outcome.kind].hint


def ended(request: Request, outcome: Outcome, why: str = "", **more: Any) -> Result:
    """The result of a request that ends with this. `why` it is not sent again, if it might have been; `more`: other fields."""
    failed = outcome.kind is not Kind.OK
    message = f"{outcome.message} (gave up after {why})" if why else outcome.message
    return Result(
        request=request,
        kind=outcome.kind,
        status=outcome.status,
        body=outcome.body,
        request_id=outcome.request_id,
        error=Error(outcome.kind, outcome.code, message, hint(outcome)) if failed else None,
        usage=outcome.usage,
        **more,
    )
