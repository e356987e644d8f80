"""How each endpoint is asked: for a stream or for a whole answer, and what it has taught us about that.

Rules:

1. A stream shows life while the model works, so that a hang is known in seconds and no proxy takes silence for death.
   It costs CPU per token, so `auto` asks for one only where calls are long, or where silent ones die at a constant age.
2. What an endpoint refuses is not asked again: its options for the whole endpoint, streams for the model that refused them.
3. A finish reason is the proof that an answer is whole. An endpoint is believed without one only if it never gave any, and
   several different lines had answers whole in every other respect; one answer with a reason ends the belief for good.
4. Everything learned here is said once, in a line for people.
"""

from collections import deque
from typing import Annotated, Literal

from msgspec import Struct

from batchrunner.core.asking import asking, remodelled
from batchrunner.core.finish import MISSING_FINISH
from batchrunner.core.model import Attempt, Kind, Outcome, Request, Route
from batchrunner.core.policy import option
from batchrunner.core.stream import STREAMED


class Streaming(Struct, frozen=True, kw_only=True):
    """Whether answers are streamed on the wire. What is stored is the ordinary body in any case."""

    stream: Annotated[
        Literal["auto", "on", "off"],
        option(
            "stream answers on the wire; auto: where calls are long",
            group="Patience",
            metavar="auto|on|off",
        ),
    ] = "auto"
    missing_finish: Annotated[
        Literal["auto", "accept", "retry"],
        option(
            "an answer whole but for its finish reason: auto accepts it where the endpoint never gives one",
            group="Endpoint",
            metavar="auto|accept|retry",
            main=False,
        ),
    ] = "auto"
    keep_partial: Annotated[
        bool, option("keep in the error line what came of an answer that was always cut", group="Input and output", main=False)
    ] = False


LONG_ANSWER = 2000  # tokens that a line allows: at 50 a second, 40 seconds of silence
LONG_CALL = 30.0  # seconds
SOME_CALLS = 20  # answers before their p95 means anything
MANY_CALLS = 1000  # then old ones count half
YOUNG = 10.0  # seconds: who dies earlier does not die of silence
ALIKE = 0.02  # share by which two ages may differ and be the same limit
DEATHS = 3  # of one age, among twice as many
ORIGIN_SILENT = 524  # Cloudflare says it outright
WITHOUT_FINISH = 4  # lines
_SILENT_DEATHS = frozenset({Kind.GATEWAY, Kind.NETWORK})  # not our own deadlines: these are alike by nature
_MARKED = frozenset({Route.CHAT, Route.COMPLETIONS})  # finish reasons; and in a stream, tokens only when asked for
_OPTIONS = ("stream_options", "include_usage")


class Form(Struct, frozen=True, gc=False):
    """How an answer is asked for; the fields of `Attempt` by the same names."""

    stream: bool
    usage: bool
    unmarked: Literal["", "counted", "any"]


class Facts(Struct, frozen=True, omit_defaults=True):
    """What an endpoint taught about the form of its answers, for the next run."""

    always: bool = False  # silent calls are long, or die
    usage: bool = True  # stream_options are taken
    refusing: tuple[str, ...] = ()  # models
    marked: bool = False  # finish reasons are given


class Manner:
    """How one endpoint is asked. `form` says it for a request, `learn` takes in what became of an attempt.

    `whole` is the form of a request whose answer is not to be streamed.
    """

    def __init__(self, name: str, policy: Streaming) -> None:
        self._name = name
        self._policy = policy
        self._always = policy.stream == "on"
        self._never = policy.stream == "off"
        self._watching = policy.stream == "auto"  # whole answers, for signs that they should be streams
        self._usage = True
        self._unmarked: Literal["", "counted", "any"] = "any" if policy.missing_finish == "accept" else ""
        self._long = self._told_long = False  # lines that allow many tokens: met one, said so
        self._refusing: set[str] = set()  # models
        self._streaming: set[str] = set()  # models that have streamed an answer
        self._answers = self._slow = 0
        self._longest = 0.0
        self._ages: deque[float] = deque(maxlen=2 * DEATHS)
        self._marked = False  # a finish reason was seen here
        self._without: set[int] = set()  # lines whose answers were whole but for it
        self._shape()

    def form(self, request: Request) -> Form:
        """How to ask this request."""
        if self._never or request.route not in STREAMED or request.model in self._refusing:
            return self.whole
        if self._always or request.stream:
            return self._streamed
        if request.max_tokens < LONG_ANSWER:
            return self.whole
        self._long = True
        return self._streamed

    def learn(self, attempt: Attempt, outcome: Outcome) -> str:
        """What is to be said about it, if anything is new."""
        kind = outcome.kind
        if attempt.request.route not in STREAMED:
            return ""
        if kind is Kind.OK:
            return self._answered(attempt, outcome)
        if kind is Kind.UNSUPPORTED:
            return self._refused(attempt, outcome)
        if "unmarked" in outcome.flags:
            return self._unfinished(attempt.request.line)
        if kind in _SILENT_DEATHS and self._watching and not attempt.stream:
            return self._died(outcome)
        return ""

    def learned(self) -> Facts:
        """What the next run may begin with."""
        return Facts(self._always and self._policy.stream == "auto", self._usage, tuple(sorted(self._refusing)), self._marked)

    def recall(self, facts: Facts) -> None:
        """Begin with what an earlier run learned. That answers without a finish reason are whole is learned anew each time."""
        if facts.always and self._watching:
            self._always, self._watching = True, False
        self._usage = facts.usage
        self._refusing = set(facts.refusing)
        self._marked = facts.marked
        self._shape()

    def _shape(self) -> None:
        """Make the two forms anew, for they have just changed."""
        self.whole = Form(False, False, self._unmarked)
        self._streamed = Form(True, self._usage, self._unmarked)

    # -- what whole answers say

    def _answered(self, attempt: Attempt, outcome: Outcome) -> str:
        said = ""
        if attempt.stream:
            self._streaming.add(attempt.request.model)
        elif self._watching:
            said = self._took(outcome.timing.total - outcome.timing.connect)
        if not self._marked and attempt.request.route in _MARKED and MISSING_FINISH not in outcome.flags:
            said = self._finished() or said
        return said or (self._tell_long() if self._long and not self._told_long else "")

    def _took(self, seconds: float) -> str:
        if seconds > self._longest:
            self._longest = seconds
        self._answers += 1
        self._slow += seconds > LONG_CALL
        if self._answers >= MANY_CALLS:
            self._answers, self._slow = self._answers // 2, self._slow // 2
        if self._slow and self._answers >= SOME_CALLS and 20 * self._slow > self._answers:
            return self._turn_on(f"one answer in 20 takes more than {LONG_CALL:.0f} s;")
        return ""

    def _tell_long(self) -> str:
        self._told_long = True
        return f"{self._name}: answers to lines that allow {LONG_ANSWER:,} tokens or more are streamed (--stream off: never)"

    def _died(self, outcome: Outcome) -> str:
        """A silent call ended without an answer. As old as others did, and older than any answer ever got: then it is a rule."""
        age = outcome.timing.total - outcome.timing.connect
        if outcome.status == ORIGIN_SILENT:
            return self._turn_on(f"a proxy on the way gave up after {age:.0f} s of silence;")
        if age < YOUNG or self._longest > age * (1.0 + ALIKE):
            return ""
        self._ages.append(age)
        alike = sum(abs(other - age) <= ALIKE * age for other in self._ages)
        if alike < DEATHS:
            return ""
        return self._turn_on(f"{alike} silent calls died after {age:.0f} s, which is how proxies end them;")

    def _turn_on(self, why: str) -> str:
        if self._always:
            return ""
        self._always, self._watching = True, False
        return f"{self._name}: {why} answers are streamed from now on (--stream off: never)"

    # -- what refusals say

    def _refused(self, attempt: Attempt, outcome: Outcome) -> str:
        """A refusal of the options, or of streams for this model; or a stream is what was demanded."""
        model, message = attempt.request.model, outcome.message.lower()
        if not attempt.stream:
            return self._turn_on("only streams are served there;") if self._watching else ""
        if attempt.usage and any(name in message for name in _OPTIONS):
            first, self._usage = self._usage, False
            self._shape()
            return f"{self._name}: stream_options are refused; streams come without them, perhaps uncounted" if first else ""
        if model in self._refusing or model in self._streaming:
            return ""  # known; or it is this one request that cannot be streamed
        self._refusing.add(model)
        return f"{self._name}: streams are refused{f' for {model}' if model else ''}; whole answers are asked for"

    # -- what endings say

    def _finished(self) -> str:
        """A finish reason: who gives one here and none there has not finished there."""
        self._marked = True
        self._without.clear()
        if self._unmarked != "counted":
            return ""
        self._unmarked = ""
        self._shape()
        return f"{self._name}: finish reasons are given after all; answers without one are no longer accepted"

    def _unfinished(self, line: int) -> str:
        if self._marked or self._policy.missing_finish != "auto" or self._unmarked:
            return ""
        self._without.add(line)
        if len(self._without) < WITHOUT_FINISH:
            return ""
        self._unmarked = "counted"
        self._shape()
        return (
            f"{self._name}: {WITHOUT_FINISH} whole answers and no finish reason ever; such answers are accepted from now on, "
            f"flagged {MISSING_FINISH} (--missing-finish retry: never)"
        )


def wire_body(attempt: Attempt) -> bytes:
    """The request's body as this attempt sends it."""
    request = attempt.request
    body = remodelled(request.body, attempt.model) if attempt.model else request.body
    if request.route not in STREAMED or not (attempt.stream or request.stream):
        return body
    usage = attempt.usage and request.route in _MARKED
    return asking(body, stream=attempt.stream, usage=usage, options=attempt.usage)
