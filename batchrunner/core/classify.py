"""What an attempt amounts to: one function.

Rules:

1. `classify` is pure and never raises, whatever the bytes and headers.
2. What follows from a kind stands in `core.treatment`.
3. A 2xx is judged in `core.answered`, every other reply in `core.errored`.
4. A fault after the reply head of an error is that error: what was to be known had already come.
5. The first word of a timeout's `Fault.detail` says which clock ran out in the body: "idle" or "total". The transport sets it.
"""

from collections.abc import Mapping

from batchrunner.core.answered import answered
from batchrunner.core.body import MESSAGE, evidence, printable
from batchrunner.core.errored import errored
from batchrunner.core.model import Attempt, Cause, Fault, Kind, Outcome, Phase, Reply
from batchrunner.core.naming import request_id

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
    Cause.CERTIFICATE: "Who signed it is not trusted here: check the address, or name the authority with --ca-bundle FILE.",
    Cause.ENCODING: "The compression of the answer is broken, by the server or a proxy before it: tell whoever runs it.",
    Cause.MALFORMED: "The server, or a proxy before it, breaks the rules of HTTP: tell whoever runs it what the message says.",
}
_TIMEOUTS: Mapping[Phase, Kind] = {
    Phase.CONNECT: Kind.TIMEOUT_CONNECT,
    Phase.WRITE: Kind.NETWORK,  # the server stopped reading
    Phase.FIRST_BYTE: Kind.TIMEOUT_FIRST_BYTE,
    Phase.BODY: Kind.TIMEOUT_IDLE,
}
_HTTP_ITSELF = {Cause.PROTOCOL, Cause.MALFORMED, Cause.PROXY, Cause.INVALID}  # a status seen beside these is not the endpoint's


def classify(attempt: Attempt, answer: Reply | Fault) -> Outcome:
    """What this attempt amounts to. Pure; never raises."""
    if isinstance(answer, Fault):
        return _faulted(attempt, answer)
    if 200 <= answer.status < 300:
        return answered(attempt, answer)
    return errored(attempt, answer)


_OURS = "A fault of batchrunner itself: retry, and please report it."


def broken_off(bug: Exception) -> Outcome:
    """The outcome of an attempt that a mistake of ours has ended."""
    return Outcome(Kind.LOCAL, message=f"internal error: {type(bug).__name__}", advice=_OURS)


def _faulted(attempt: Attempt, fault: Fault) -> Outcome:
    """No HTTP answer, or only the head of one."""
    if fault.status >= 400 and fault.phase is Phase.BODY and fault.cause not in _HTTP_ITSELF:
        return errored(attempt, Reply(fault.status, fault.headers, fault.partial, fault.timing))
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
        partial=evidence(fault.partial) if fault.partial else b"",
        advice=_ADVICE.get(fault.cause, ""),
    )


def _total(fault: Fault) -> bool:
    return fault.phase is Phase.BODY and fault.detail.startswith("total")
