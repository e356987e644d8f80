"""The nouns of the engine: what travels between its rooms.

Rules:

1. Values only: every struct here is frozen, knows no room but `core.route`, and does no I/O.
2. A `Request` is one input line; an `Attempt` is one sending of it; a `Reply` or a `Fault` is what came back;
   an `Outcome` is what that means; `Again` or `Result` is what follows from it.
3. Seconds are floats on a monotonic clock; sizes are bytes; header names are lower case.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from batchrunner.core.route import Route as Route
from batchrunner.core.route import answer_text


class Phase(StrEnum):
    """Where in its life an attempt was when something happened to it."""

    CONNECT = "connect"
    WRITE = "write"
    FIRST_BYTE = "first_byte"
    BODY = "body"


class Cause(StrEnum):
    """What went wrong on the wire: the transport's vocabulary, one word per thing that can be told apart there."""

    INVALID = "invalid"  # the request could not be put on the wire at all
    DNS = "dns"
    REFUSED = "refused"  # refused or unreachable
    CERTIFICATE = "certificate"
    TLS = "tls"
    PROXY = "proxy"
    LOCAL = "local"  # our own limits: file descriptors, ports, buffers
    STALE = "stale"  # a kept-alive connection was closed under us before any reply byte
    DISCONNECTED = "disconnected"  # closed or reset before the reply head was complete
    RESET = "reset"  # lost while writing, or with an error of the socket
    TIMEOUT = "timeout"  # our own deadline; the phase says which
    TRUNCATED = "truncated"  # the body ended before its declared end
    PROTOCOL = "protocol"  # bytes that are not HTTP
    MALFORMED = "malformed"  # HTTP that breaks its own rules, or our limits
    ENCODING = "encoding"  # the body's compression is broken
    TOO_LARGE = "too_large"  # the answer passed our cap


class Kind(StrEnum):
    """What an attempt amounts to. `core.treatment.TREATMENT` says what each kind entails."""

    OK = "ok"
    # the endpoint is busy
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    LOADING = "loading"  # the model is being loaded: seconds to minutes, and nobody's fault
    # the endpoint or the way to it is broken
    SERVER_ERROR = "server_error"
    GATEWAY = "gateway"
    CONNECT = "connect"
    NETWORK = "network"
    TLS = "tls"
    STALE = "stale"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    PROTOCOL = "protocol"
    # an answer that is not one
    TRUNCATED = "truncated"
    GARBLED = "garbled"
    # the request itself
    UNSUPPORTED = "unsupported"  # an option of ours, not the line's, was refused: again without it
    REJECTED = "rejected"
    CONTEXT = "context"
    POLICY = "policy"
    TOO_LARGE = "too_large"
    RESPONSE_TOO_LARGE = "response_too_large"
    INVALID = "invalid"
    INVALID_OUTPUT = "invalid_output"
    # the endpoint will not serve us until somebody acts
    DENIED = "denied"
    QUOTA = "quota"
    QUOTA_WINDOW = "quota_window"
    CONFIG = "config"
    # ourselves
    LOCAL = "local"
    CRASHED = "crashed"  # the worker process that made the attempt has died
    HOOK = "hook"
    CANCELLED = "cancelled"


class Slimmed(Struct, frozen=True, omit_defaults=True, gc=False):
    """How a request was made smaller than its line."""

    images: int = 0  # that were shrunk
    bytes_before: int = 0  # of these images, in base64
    bytes_after: int = 0
    tokens_cut: int = 0  # of the prompt, as they are guessed


class Request(Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One line of the input, ready to be sent. `body` is forwarded byte for byte."""

    line: int
    id: str
    digest: str
    route: Route
    method: str = "POST"
    path: str
    body: bytes = b""
    model: str = ""
    max_tokens: int = 0  # 0: the line does not say
    choices: int = 1  # answers the line asks for: `n` of a chat, inputs of an embedding; 0: cannot be told
    images: int = 0
    stream: bool = False  # the line itself asks for a stream
    headers: tuple[tuple[str, str], ...] = ()
    metadata: bytes = b""  # of a cookbook line, as one JSON value: it stays here and returns with the result
    slimmed: Slimmed | None = None  # what was changed before the sending

    @property
    def prompt_tokens(self) -> float:
        """First guess of the prompt's size in tokens: UTF-8 bytes / 4, an image as 765 tokens."""
        return len(self.body) / 4 + 765 * self.images


class Deadlines(Struct, frozen=True, array_like=True, gc=False):
    """How long each phase of an attempt may take before it is looked at, in seconds."""

    connect: float
    first_byte: float  # from the request written to the first byte of the answer
    idle: float  # between two signs of progress in the body
    total: float  # from the connection to the end of the body


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """One sending of a request to one endpoint."""

    request: Request
    endpoint: str
    number: int  # 1 for the first sending
    started: float
    deadlines: Deadlines
    kills: int = 0  # earlier attempts of this request that our own deadline ended
    fresh: bool = False  # use a new connection: an old one has just failed this request
    stream: bool = False  # ask for a stream on the wire
    usage: bool = False  # and for its tokens, which most servers count in a stream only when asked
    unmarked: Literal["", "counted", "any"] = ""  # whole answers without a finish reason that are taken: `core.streaming`
    plain: bool = False  # ask for an unencoded body: compression has just failed this request
    queued: float = 0.0  # seconds it waited for a place after it was due again
    twin: bool = False  # sent beside one that is still under way (`core.hedging`)
    model: str = ""  # what the endpoint calls the model, where that is not what the request calls it
    beside: int = 0  # other attempts in flight at its endpoint when it was sent
    sending: int = 0  # which of all to its endpoint it is, where refusals move the limit there
    booked: float = 0.0  # tokens that its endpoint's pace counts for it until its answer tells
    last: bool = False  # giving it up ends its request, outages aside


class Timing(Struct, frozen=True, array_like=True, gc=False):
    """What an attempt spent where, in seconds since its start."""

    connect: float = 0.0  # until a connection was there; 0 on a reused one
    first_byte: float = 0.0  # until the reply head; of a stream, until its first sign of progress: many heads come at once
    total: float = 0.0  # until the end of the answer, not of the connection
    gap: float = 0.0  # the longest silence inside the body; in a stream, without anything said
    reused: bool = False


class Reply(Struct, frozen=True, gc=False):
    """A complete HTTP answer, as far as HTTP can tell.

    A stream has been put together: `body` is the ordinary one if it is complete. If not, `missing` says why, `partial` holds
    what had come, and `body` is the error that the stream ended with, or empty.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    timing: Timing = Timing()
    flags: tuple[str, ...] = ()
    missing: str = ""
    partial: bytes = b""
    done: bool = False  # the stream said [DONE] and ended in order


class Fault(Struct, frozen=True, gc=False):
    """An attempt that ended without an HTTP answer."""

    cause: Cause
    phase: Phase
    detail: str
    timing: Timing = Timing()
    status: int = 0  # when the reply head had already come
    headers: Mapping[str, str] = {}
    partial: bytes = b""  # what had come of the body: its bytes, or of a stream the ordinary body so far

    @property
    def sent(self) -> bool:
        """Whether the server may have seen the request, so that it may have been billed."""
        return self.phase is not Phase.CONNECT


class Usage(Struct, frozen=True, gc=False):
    """Tokens as the provider counted them."""

    input: int = 0
    output: int = 0
    cost: float | UnsetType = UNSET  # what the provider says it costs, in its own currency; most say nothing


class Left(Struct, frozen=True, array_like=True, gc=False):
    """What is left of an allowance of the endpoint's, by its own headers, when the request was let in."""

    allowance: str  # "requests", "tokens" and the like
    remaining: float
    reset: float  # seconds until it is full again


class Outcome(Struct, frozen=True, array_like=True, gc=False):
    """What an attempt amounts to, in our own words."""

    kind: Kind
    status: int = 0
    code: str = ""  # the provider's own code or type of error
    message: str = ""
    wait: float | None = None  # the server asked us to wait so long
    body: bytes = b""  # one JSON value without line breaks; empty: there was no answer
    request_id: str = ""
    usage: Usage | None = None
    flags: tuple[str, ...] = ()
    timing: Timing = Timing()
    billed: bool = False  # the attempt failed and may still be on the bill
    final: bool = False  # not sent again, although its kind would be: the server forbids it, or it would be waste
    partial: bytes = b""  # what came of an answer that was cut, as one JSON value: evidence, never an answer
    instead: Request | None = None  # the form in which the request is sent the next time; None: as it was
    left: tuple[Left, ...] = ()  # of the endpoint's allowances, if a good answer says so
    advice: str = ""  # what to do about this failure, where its own answer shows that


class Again(Struct, frozen=True, gc=False):
    """The request stays open and is sent again, not before `at`."""

    at: float
    why: str = ""


class Wait(Struct, frozen=True, gc=False):
    """There is nothing to send now. `until` is when to ask again; None: when something has happened."""

    until: float | None = None


class Error(Struct, frozen=True, gc=False):
    """Why a request has no good answer. `hint` says what to do about it."""

    kind: Kind
    code: str
    message: str
    hint: str = ""


class Result(Struct, frozen=True, kw_only=True, gc=False):
    """The final word on one request.

    `body` is the answer's JSON as bytes, exactly as the provider sent it (but for what `core.body` must mend);
    empty when no answer came. `attempts` counts sendings; `seconds` runs from the first sending to the last answer.
    """

    request: Request
    kind: Kind
    status: int = 0
    body: bytes = b""
    request_id: str = ""
    error: Error | None = None
    attempts: int = 0
    seconds: float = 0.0
    endpoint: str = ""
    usage: Usage | None = None
    flags: tuple[str, ...] = ()
    maybe_billed: int = 0  # failed attempts that the provider may charge for
    partial: bytes = b""  # of a failure, when asked for: what its last cut answer held, as one JSON value

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return self.kind is Kind.OK

    @property
    def id(self) -> str:
        """The line's `custom_id`, or the one made for it."""
        return self.request.id

    @property
    def text(self) -> str:
        """The answer's text: the first choice of a chat or completion, the output of a response or message; else the body."""
        return answer_text(self.request.route, self.body)

    def json(self) -> Any:
        """The answer's body as Python objects; None when there is none."""
        return msgspec.json.decode(self.body) if self.body else None


class Event(Struct, frozen=True, gc=False):
    """Something settled, for listeners: an attempt (`result` is None: its request is sent again), or a line that needed none.

    `notice` is a line for people, when something about an endpoint has just been learned. `why` says where the deadline came
    from, if it was one of ours that ended the attempt.
    """

    at: float
    attempt: Attempt | None
    outcome: Outcome | None
    result: Result | None = None
    notice: str = ""
    why: str = ""
