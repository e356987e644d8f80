"""What a reply amounts to that is an error, by its status or within a 2xx.

Rules:

1. What the body says and the status are weighed in `core.verdicts`; here the headers have their say.
2. The server's own verdict (`x-should-retry`) goes before ours, except where the endpoint is of no use to anybody.
3. An error inside a 2xx is judged as if its own code had been the status; and it may be on the bill.

A wait in an outcome pauses the endpoint as well as the request, whatever the kind; but for a refusal by chance (`core.luck`).
"""

import re

from msgspec import structs

from batchrunner.core import verdicts, waits
from batchrunner.core.body import ANY, BLANKS, MESSAGE, kept, page_text, printable, read, value_of
from batchrunner.core.complaint import Complaint, complaint
from batchrunner.core.model import Attempt, Kind, Outcome, Reply
from batchrunner.core.naming import body_id, request_id, told_id
from batchrunner.core.stream import STREAMED
from batchrunner.core.treatment import REFUSED, TREATMENT
from batchrunner.core.verdicts import Verdict

PATIENCE = 900.0  # seconds; an endpoint that asks for more is parked
LOADING_PAUSE = 5.0  # seconds between two looks at a model that is being loaded

_UNREACHED = {503, 521, 522, 523, 525, 526, 527, 530}  # a gateway turned it away, or did not get through to the server
_ORIGIN_SILENT = 524
_PATIENT = frozenset(range(400, 500)) - {401, 407, 421, 429}  # a Retry-After makes these a throttle
_REPEATABLE = {kind for kind, treatment in TREATMENT.items() if not treatment.again or kind is Kind.CONFIG}
_SECRETIVE = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)  # where an address may hold what is not for a record
_DEMANDED = re.compile(r"only supports? stream|must (have|set|use|enable) .{0,20}stream|stream(ing)? is required|stream ?= ?true")


def errored(attempt: Attempt, reply: Reply) -> Outcome:
    """Any status that is no 2xx, with whatever its body says about it."""
    line, _, flags = read(reply.body, ANY)
    told = (line and complaint(value_of(line))) or Complaint(message=page_text(reply.body, line))
    advice = _misled(reply, told.message)
    if advice:
        told = structs.replace(told, message=f"{told.message[: MESSAGE // 2] or f'HTTP {reply.status}'}; {advice}")
    return structs.replace(complained(attempt, reply, told, reply.status, line, flags), advice=advice[:1].upper() + advice[1:])


def _misled(reply: Reply, message: str) -> str:
    """What is wrong with the address itself, when the answer shows it; empty when it does not."""
    if 300 <= reply.status < 400 and (place := reply.headers.get("location")):
        place = printable(_SECRETIVE.sub("", place), 200)
        to = f"this address leads to {place}, and redirects are not followed, for a key would go along"
        return f"{to}; if it is the right one, give it with --base-url, or in the line's url"
    if any(phrase in message[:MESSAGE].lower() for phrase in verdicts.WANTS_TLS):
        return "the address of a server with TLS begins with https://"
    return ""


def complained(attempt: Attempt, reply: Reply, told: Complaint, status: int, line: bytes, flags: tuple[str, ...]) -> Outcome:
    """An error with a status of its own or, inside a 2xx, with the one its words stand for."""
    page = not line and reply.body.strip(BLANKS).startswith(b"<")
    verdict = verdicts.judge(attempt.request.route, status, told, page, bool(reply.body.strip(BLANKS)) and not line)
    kind, wait = _weighed(attempt, reply, told, status, verdict)
    treatment = TREATMENT[kind]
    forbidden = reply.headers.get("x-should-retry", "").strip().lower() == "false" and treatment.again
    return Outcome(
        kind,
        reply.status,
        code=printable(told.code, 200),
        message=printable(told.message, MESSAGE) or f"HTTP {status}",
        wait=wait,
        body=line or kept(reply.body),
        request_id=request_id(reply.headers, body_id(line) or told_id(told.message)),
        flags=flags + verdict.flags,
        timing=reply.timing,
        billed=200 <= reply.status < 300 or _worked(kind, status),
        final=(forbidden and treatment.health not in REFUSED) or (status == _ORIGIN_SILENT and attempt.number > 2),
    )


def _weighed(attempt: Attempt, reply: Reply, told: Complaint, status: int, verdict: Verdict) -> tuple[Kind, float | None]:
    """The kind and the wait, after what the headers have to say."""
    kind, headers = Kind.UNSUPPORTED if _ours(attempt, told, verdict) else verdict.kind, reply.headers
    wait = waits.asked(headers, told.delays, told.message[:MESSAGE])
    if status in _PATIENT and (status == 402 or not verdict.by_words) and waits.retry_after(headers) is not None:
        kind = Kind.RATE_LIMITED
    if status < 500 and headers.get("x-should-retry", "").strip().lower() == "true" and kind in _REPEATABLE:
        kind = Kind.SERVER_ERROR
    if status == 408 and reply.timing.reused:
        kind = Kind.STALE  # the server gave up on an idle connection, not on this request
    if kind is Kind.LOADING:
        wait = wait or LOADING_PAUSE
    return _parked(reply, told, wait) if kind is Kind.RATE_LIMITED else (kind, wait)


def _parked(reply: Reply, told: Complaint, wait: float | None) -> tuple[Kind, float | None]:
    """A throttle, or the end of a longer period's budget."""
    if verdicts.names_day(reply.body):
        return Kind.QUOTA_WINDOW, None  # the delay given beside it is that of a minute's limit
    if wait is None:
        wait = waits.reset(reply.headers)
    if wait is None:
        return (Kind.QUOTA_WINDOW if verdicts.per_day(told) else Kind.RATE_LIMITED), None
    return (Kind.QUOTA_WINDOW if wait > PATIENCE else Kind.RATE_LIMITED), wait


def _ours(attempt: Attempt, told: Complaint, verdict: Verdict) -> bool:
    """Whether the endpoint objects to the stream, or to the want of one: which of them it is asked for is our choice."""
    if verdict.kind is not Kind.REJECTED or attempt.request.route not in STREAMED:
        return False
    message = told.message[:MESSAGE].lower()
    return ("stream" in message or "include_usage" in message) if attempt.stream else bool(_DEMANDED.search(message))


def _worked(kind: Kind, status: int) -> bool:
    """Whether a server that answered with this error may have worked on the request, and may charge for it."""
    if kind is Kind.STALE:
        return False
    return status in {408, 424, 499} or (status >= 500 and kind in {Kind.SERVER_ERROR, Kind.GATEWAY} and status not in _UNREACHED)
