"""What a 2xx amounts to: an answer, if it is a whole one.

Rules:

1. HTTP 200 proves nothing: what a whole answer is stands in `core.complete`.
2. What was cut is evidence (`partial`), never an answer, and what came of it may be on the bill.
3. An error inside a 2xx is one (`core.errored`), whatever the status says.
"""

from collections.abc import Mapping

from msgspec import structs

from batchrunner.core import verdicts
from batchrunner.core.allowance import told
from batchrunner.core.body import ANY, BLANKS, evidence, kept, page_title, quoted, read, value_of
from batchrunner.core.complaint import Complaint, complaint
from batchrunner.core.complete import DECODERS, Answer, call_flags, unmarked
from batchrunner.core.errored import complained
from batchrunner.core.finish import COMPLETE, MISSING_FINISH, UNFINISHED
from batchrunner.core.model import Attempt, Kind, Outcome, Reply, Route
from batchrunner.core.naming import request_id
from batchrunner.core.verdicts import Verdict

_NOTHING = Verdict(Kind.GARBLED, "no_content", "the server answered without a body")
# 2xx that are no answer of a model: a job accepted, nothing at all, a part of something.
_UNEXPECTED: Mapping[int, Verdict] = {
    202: Verdict(Kind.REJECTED, "accepted", "the server only accepted the request; asynchronous jobs are not followed"),
    204: _NOTHING,
    205: _NOTHING,
    206: Verdict(Kind.REJECTED, "partial_content", "the server sent a part of an answer"),
}
_NESTED = {b"{", b"["}


def answered(attempt: Attempt, reply: Reply) -> Outcome:
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
        return complained(attempt, reply, told, told.status, line, flags)
    if verdict.code == UNFINISHED.code and answer and unmarked(line, attempt.request):
        verdict = _unmarked(attempt, answer)
    return _judged(reply, line, answer, flags, verdict)


def _unexpected(attempt: Attempt, status: int) -> Verdict | None:
    """What a 2xx amounts to that no answer has. An empty one may be chance once: whoever sends it may charge for it."""
    verdict = _UNEXPECTED.get(status)
    return structs.replace(_NOTHING, final=True) if verdict is _NOTHING and attempt.number > 1 else verdict


def _judged(reply: Reply, line: bytes, answer: Answer | None, flags: tuple[str, ...], verdict: Verdict) -> Outcome:
    """A 2xx by its verdict. What was cut is no body, but evidence."""
    held = line or kept(reply.body)
    cut = verdict.kind is Kind.TRUNCATED and not verdict.final  # what is final has to be acted upon by somebody who sees it
    return Outcome(
        verdict.kind,
        reply.status,
        code="" if verdict.kind is Kind.OK else verdict.code,
        message=verdict.message if verdict.kind is not Kind.GARBLED else page_title(reply.body) or verdict.message,
        body=b"" if cut else held,
        partial=held if cut else b"",
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
        outcome = complained(attempt, reply, told, verdicts.inner_status(told, True), line, reply.flags + flags)
        return structs.replace(outcome, partial=evidence(reply.partial))
    if reply.done:
        whole = structs.replace(reply, body=reply.partial, missing="", partial=b"")
        outcome = answered(attempt, whole)
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
        partial=evidence(reply.partial),
    )


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
