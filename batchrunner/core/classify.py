"""What an attempt amounts to: one function.

Rules:

1. `classify` is pure and never raises, whatever the bytes and headers.
2. What follows from a kind stands in `core.treatment`.
3. An error inside a 2xx is judged as if its own code had been the status; and it may be on the bill.
4. The server's own verdict (`x-should-retry`) goes before ours, except where the endpoint is of no use to anybody.
5. A fault after the reply head of an error is that error: what was to be known had already come.
6. The first word of a timeout's `Fault.detail` says which clock ran out in the body: "idle" or "total". The transport sets it.

A wait in an outcome pauses the endpoint as well as the request, whatever the kind; but for a refusal by chance (`core.luck`).
"""

import re
from collections.abc import Mapping

from msgspec import structs

from batchrunner.core import verdicts, waits
from batchrunner.core.allowance import told
from batchrunner.core.body import ANY, BLANKS, excerpt, printable, quoted, read, value_of
from batchrunner.core.complaint import Complaint, complaint
from batchrunner.core.complete import DECODERS, Answer, call_flags, unmarked
from batchrunner.core.finish import COMPLETE, MISSING_FINISH, UNFINISHED
from batchrunner.core.model import Attempt, Cause, Fault, Kind, Outcome, Phase, Reply, Route
from batchrunner.core.naming import body_id, request_id, told_id
from batchrunner.core.stream import STREAMED
from batchrunner.core.treatment import REFUSED, TREATMENT
from batchrunner.core.verdicts import Verdict

PATIENCE = 900.0  # seconds; an endpoint that asks for more is parked
LOADING_PAUSE = 5.0  # seconds between two looks at a model that is being loaded
MESSAGE = 2000  # characters
EXCERPT = 16384  # bytes kept of an error that is no JSON
LONG_EVIDENCE = 1024 * 1024  # bytes of a cut answer that are kept whole

_NOTHING = Verdict(Kind.GARBLED, "no_content", "the server answered without a body")
# 2xx that are no answer of a model: a job accepted, nothing at all, a part of something.
_UNEXPECTED: Mapping[int, Verdict] = {
    202: Verdict(Kind.REJECTED, "accepted", "the server only accepted the request; asynchronous jobs are not followed"),
    204: _NOTHING,
    205: _NOTHING,
    206: Verdict(Kind.REJECTED, "partial_content", "the server sent a part of an answer"),
}
_FAULTS: Mapping[Cause, Kind] = {
    Cause.INVALID: Kind.INVALID,
    Cause.DNS: Kind.CONNECT,
    Cause.REFUSED: Kind.CONNECT,
    Cause.CERTIFICATE: Kind.CONFIG,
    Cause.TLS: Kind.TLS,
    Cause.PROXY: Kind.CONNECT,
    Cause.LOCAL: Kind.LOCAL,
    Cause.STALE: Kind.STALE,
    Cause.DISCONNECTED: Kind.NETWORK,
    Cause.RESET: Kind.NETWORK,
    Cause.TIMEOUT: Kind.TIMEOUT_TOTAL,
    Cause.TRUNCATED: Kind.TRUNCATED,
    Cause.PROTOCOL: Kind.PROTOCOL,
    Cause.MALFORMED: Kind.PROTOCOL,
    Cause.ENCODING: Kind.PROTOCOL,
    Cause.TOO_LARGE: Kind.RESPONSE_TOO_LARGE,
}
_ADVICE: Mapping[Cause, str] = {
    Cause.MALFORMED: "The server, or a proxy before it, breaks the rules of HTTP: tell whoever runs it what the message says.",
}
_TIMEOUTS: Mapping[Phase, Kind] = {
    Phase.CONNECT: Kind.TIMEOUT_CONNECT,
    Phase.WRITE: Kind.NETWORK,  # the server stopped reading
    Phase.FIRST_BYTE: Kind.TIMEOUT_FIRST_BYTE,
    Phase.BODY: Kind.TIMEOUT_IDLE,
}
_HTTP_ITSELF = {Cause.PROTOCOL, Cause.MALFORMED, Cause.PROXY, Cause.INVALID}  # a status seen beside these is not the endpoint's
_UNREACHED = {503, 521, 522, 523, 525, 526, 527, 530}  # a gateway turned it away, or did not get through to the server
_ORIGIN_SILENT = 524
_NESTED = {b"{", b"["}
_SECRETIVE = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)  # where an address may hold what is not for a record
_TITLE = re.compile(rb"<title[^>]{0,200}>\s*([^<]{1,300})", re.IGNORECASE)


def classify(attempt: Attempt, answer: Reply | Fault) -> Outcome:
    """What this attempt amounts to. Pure; never raises."""
    if isinstance(answer, Fault):
        return _faulted(attempt, answer)
    if 200 <= answer.status < 300:
        return _answered(attempt, answer)
    return _refused(attempt, answer)


def broken_off(bug: Exception) -> Outcome:
    """The outcome of an attempt that a mistake of ours has ended."""
    return Outcome(Kind.LOCAL, message=f"internal error: {type(bug).__name__}")


def _answered(attempt: Attempt, reply: Reply) -> Outcome:
    """A 2xx: the answer, if it is a whole one."""
    request = attempt.request
    if request.route is Route.HTTP:
        return _fetched(reply)
    if reply.missing:
        return _unfinished(attempt, reply)
    reading = read(reply.body, DECODERS[request.route])
    line, answer, flags = reading
    verdict = COMPLETE
    if reply.flags:
        flags = reply.flags + flags
    if answer is None or answer.error or reply.status in _UNEXPECTED or (verdict := answer.verdict(request)) is not COMPLETE:
        return _doubtful(attempt, reply, line, answer, flags, verdict)
    return Outcome(
        Kind.OK,
        reply.status,
        body=line,
        request_id=request_id(reply.headers, answer.name),
        usage=answer.tokens(),
        flags=flags,
        timing=reply.timing,
        left=told(reply.headers),
    )


def _fetched(reply: Reply) -> Outcome:
    """A 2xx of a plain HTTP line: good, whatever it holds, unless it is only a part of something."""
    reading = read(reply.body, ANY)
    line, value, flags = reading
    if reply.body and (value is None or "invalid_utf8" in flags):
        line, flags = quoted(reply.body), ("not_json",)
        if _torn(reply):
            verdict = _not_an_answer(reply.body, b"")
            return _part(reply, Verdict(Kind.TRUNCATED, verdict.code, verdict.message), line)
    if reply.status == 206:
        return _part(reply, _UNEXPECTED[206], line)
    return Outcome(
        Kind.OK,
        reply.status,
        body=line,
        request_id=request_id(reply.headers),
        flags=flags,
        timing=reply.timing,
        left=told(reply.headers),
    )


def _torn(reply: Reply) -> bool:
    """Whether what calls itself JSON, and is none, was cut: where the end of a body is not told, or not that of its contents."""
    headers = reply.headers
    told = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
    return "json" in headers.get("content-type", "").lower() and not (told and "content-encoding" not in headers)


def _part(reply: Reply, verdict: Verdict, line: bytes) -> Outcome:
    return Outcome(
        verdict.kind,
        reply.status,
        code=verdict.code,
        message=verdict.message,
        request_id=request_id(reply.headers),
        timing=reply.timing,
        billed=True,
        final=verdict.final,
        partial=line,
    )


def _doubtful(
    attempt: Attempt, reply: Reply, line: bytes, answer: Answer | None, flags: tuple[str, ...], verdict: Verdict
) -> Outcome:
    """A 2xx that is not simply good: odd, incomplete, filtered, an error in disguise, or no answer at all."""
    if answer is None or answer.error:
        verdict = _unexpected(attempt, reply.status) or _not_an_answer(reply.body, line)
    else:
        verdict = _unexpected(attempt, reply.status) or verdict
    if verdict.kind is Kind.OK:
        return _judged(reply, line, answer, flags + call_flags(line), verdict)
    if verdict.kind is not Kind.POLICY and (told := _disguised(line)):
        return _complained(attempt, reply, told, told.status, line, flags)
    if verdict.code == UNFINISHED.code and answer and unmarked(line, attempt.request):
        verdict = _unmarked(attempt, answer)
    return _judged(reply, line, answer, flags, verdict)


def _unexpected(attempt: Attempt, status: int) -> Verdict | None:
    """What a 2xx amounts to that no answer has. An empty one may be chance once: whoever sends it may charge for it."""
    verdict = _UNEXPECTED.get(status)
    return structs.replace(_NOTHING, final=True) if verdict is _NOTHING and attempt.number > 1 else verdict


def _judged(reply: Reply, line: bytes, answer: Answer | None, flags: tuple[str, ...], verdict: Verdict) -> Outcome:
    """A 2xx by its verdict. What was cut is no body, but evidence."""
    kept = line or _kept(reply.body)
    cut = verdict.kind is Kind.TRUNCATED and not verdict.final  # what is final has to be acted upon by somebody who sees it
    return Outcome(
        verdict.kind,
        reply.status,
        code="" if verdict.kind is Kind.OK else verdict.code,
        message=verdict.message if verdict.kind is not Kind.GARBLED else _page_title(reply.body) or verdict.message,
        body=b"" if cut else kept,
        partial=kept if cut else b"",
        request_id=request_id(reply.headers, answer and answer.name),
        usage=answer.tokens() if answer else None,
        flags=flags + verdict.flags,
        timing=reply.timing,
        billed=verdict.kind is not Kind.OK,
        final=verdict.final,
    )


def _unmarked(attempt: Attempt, answer: Answer) -> Verdict:
    """An answer that is whole but for its finish reason: taken only where the attempt says so (`core.streaming`)."""
    tokens = answer.tokens()
    counted = tokens is not None and tokens.output > 0
    if attempt.unmarked == "any" or (attempt.unmarked and counted):
        return Verdict(Kind.OK, flags=(MISSING_FINISH,))
    return structs.replace(UNFINISHED, flags=("unmarked",) if counted else ())


def _unfinished(attempt: Attempt, reply: Reply) -> Outcome:
    """A stream that ended with an error, or before its answer did."""
    line, _, flags = read(reply.body, ANY)
    if line:
        told = complaint(value_of(line)) or Complaint()
        outcome = _complained(attempt, reply, told, verdicts.inner_status(told, True), line, reply.flags + flags)
        return structs.replace(outcome, partial=_evidence(reply.partial))
    if reply.done:
        whole = structs.replace(reply, body=reply.partial, missing="", partial=b"")
        outcome = _answered(attempt, whole)
        if outcome.kind is Kind.TRUNCATED or MISSING_FINISH in outcome.flags:
            return outcome
    return Outcome(
        Kind.TRUNCATED,
        reply.status,
        code="incomplete_stream",
        message=f"the stream ended too early: {reply.missing}",
        request_id=request_id(reply.headers),
        flags=reply.flags,
        timing=reply.timing,
        billed=True,
        partial=_evidence(reply.partial),
    )


def _evidence(partial: bytes) -> bytes:
    """What had come of an answer, as one line of JSON: its beginning only, as a text, where it is none or very long."""
    line = read(partial, ANY)[0] if len(partial) <= LONG_EVIDENCE else b""
    return line or _kept(partial)


def _disguised(line: bytes) -> Complaint | None:
    """The error inside a 2xx, with the status it stands for; None: there is none."""
    told = complaint(value_of(line)) if line[:1] in _NESTED else None
    status = verdicts.inner_status(told, b'error"' in line) if told else 0
    return structs.replace(told, status=status) if told and status else None


def _not_an_answer(body: bytes, line: bytes) -> Verdict:
    """A 2xx body that could not be read as an answer: cut, or never one."""
    if line:
        return Verdict(Kind.GARBLED, "not_an_answer", "the body is JSON, but no answer of this route")
    start = body.strip(BLANKS)[:1]
    if not start:
        return Verdict(Kind.TRUNCATED, "empty_body", "the body is empty")
    if start in _NESTED:
        return Verdict(Kind.TRUNCATED, "invalid_json", "the body begins as JSON and does not end as JSON")
    return Verdict(Kind.GARBLED, "not_json", "the body is not JSON", flags=("html",) if start == b"<" else ())


def _refused(attempt: Attempt, reply: Reply) -> Outcome:
    """Any other status, with whatever its body says about it."""
    line, _, flags = read(reply.body, ANY)
    told = (line and complaint(value_of(line))) or Complaint(message=_page_text(reply.body, line))
    advice = _misled(reply, told.message)
    if advice:
        told = structs.replace(told, message=f"{told.message[: MESSAGE // 2] or f'HTTP {reply.status}'}; {advice}")
    return structs.replace(_complained(attempt, reply, told, reply.status, line, flags), advice=advice[:1].upper() + advice[1:])


def _misled(reply: Reply, message: str) -> str:
    """What is wrong with the address itself, when the answer shows it; empty when it does not."""
    if 300 <= reply.status < 400 and (place := reply.headers.get("location")):
        place = printable(_SECRETIVE.sub("", place), 200)
        to = f"this address leads to {place}, and redirects are not followed, for a key would go along"
        return f"{to}; if it is the right one, give it with --base-url, or in the line's url"
    if any(phrase in message[:MESSAGE].lower() for phrase in verdicts.WANTS_TLS):
        return "the address of a server with TLS begins with https://"
    return ""


def _complained(attempt: Attempt, reply: Reply, told: Complaint, status: int, line: bytes, flags: tuple[str, ...]) -> Outcome:
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
        body=line or _kept(reply.body),
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
        wait = LOADING_PAUSE if wait is None else wait
    return _parked(reply, told, wait) if kind is Kind.RATE_LIMITED else (kind, wait)


_PATIENT = frozenset(range(400, 500)) - {401, 407, 421, 429}  # a Retry-After makes these a throttle
_REPEATABLE = {kind for kind, treatment in TREATMENT.items() if not treatment.again or kind is Kind.CONFIG}


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


_DEMANDED = re.compile(r"only supports? stream|must (have|set|use|enable) .{0,20}stream|stream(ing)? is required|stream ?= ?true")


def _worked(kind: Kind, status: int) -> bool:
    """Whether a server that answered with this error may have worked on the request, and may charge for it."""
    if kind is Kind.STALE:
        return False
    return status in {408, 424, 499} or (status >= 500 and kind in {Kind.SERVER_ERROR, Kind.GATEWAY} and status not in _UNREACHED)


def _faulted(attempt: Attempt, fault: Fault) -> Outcome:
    """No HTTP answer, or only the head of one."""
    if fault.status >= 400 and fault.phase is Phase.BODY and fault.cause not in _HTTP_ITSELF:
        return _refused(attempt, Reply(fault.status, fault.headers, fault.partial, fault.timing))
    kind = _FAULTS[fault.cause]
    if fault.cause is Cause.TIMEOUT:
        kind = Kind.TIMEOUT_TOTAL if _total(fault) else _TIMEOUTS[fault.phase]
    if fault.cause is Cause.PROXY and 400 <= fault.status < 500:
        kind = Kind.CONFIG
    return Outcome(
        kind,
        fault.status,
        code=fault.cause.value,
        message=printable(fault.detail, MESSAGE) or fault.cause.value,
        request_id=request_id(fault.headers),
        flags=("encoding",) if fault.cause is Cause.ENCODING else (),
        timing=fault.timing,
        billed=fault.sent and kind not in {Kind.INVALID, Kind.LOCAL, Kind.CONFIG},
        partial=_evidence(fault.partial) if fault.partial else b"",
        advice=_ADVICE.get(fault.cause, ""),
    )


def _total(fault: Fault) -> bool:
    return fault.phase is Phase.BODY and fault.detail.startswith("total")


def _kept(body: bytes) -> bytes:
    """What is kept of a body that is no JSON: its beginning, as a string; empty when there is nothing to keep."""
    text = body.strip(BLANKS)
    return excerpt(text, EXCERPT) if text else b""


def _page_title(body: bytes) -> str:
    """The title of a page; empty: it has none, or is no page."""
    found = _TITLE.search(body[:4096]) if body.lstrip(BLANKS)[:1] == b"<" else None
    return printable(found[1].decode("utf-8", "replace").strip(), MESSAGE) if found else ""


def _page_text(body: bytes, line: bytes) -> str:
    """What a body that is no JSON error says: a page's title, or its text."""
    if title := _page_title(body):
        return title
    return "" if line or body.lstrip(BLANKS)[:1] == b"<" else body[:MESSAGE].decode("utf-8", "replace").strip()
