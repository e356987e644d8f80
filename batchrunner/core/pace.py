"""How fast requests go out, for each endpoint and model: the user's numbers, and what refusals teach.

Rules:

1. Waiting for a turn is never an attempt and never a failure, and a request that waits holds no slot: it stays in the queue.
2. Tokens are booked by a guess when a request goes out and settled when its answer tells: bytes / 4, corrected by what answers
   have shown, and for the answer the mean of late, at most `max_tokens`.
3. Where there is a pace, refusals for their rate are its business and not the concurrency limit's: one rule for one signal.
4. What the endpoint's own headers say of its allowances (`core.allowance`) holds requests back as well, where the user gives no
   number.
5. A number of the user's that one request exceeds by itself holds all the same: it is said, once.
6. The pause that an endpoint asks for holds the pace of every model there; it is never shortened.

Buckets of our own and not aiolimiter's: one such limiter cannot change its rate, which here follows refusals four times a second,
cannot take back what was not used, and tells nobody how long to wait, which endpoints that share work have to know. It paces
what is asked of a batch service, one request after the other (`batch_api`).
"""

from collections.abc import Sequence
from math import inf
from typing import Annotated

from msgspec import Struct

from batchrunner.core.allowance import Allowance
from batchrunner.core.bucket import DAY, Bucket, Day
from batchrunner.core.model import Attempt, Kind, Outcome, Request, Usage
from batchrunner.core.policy import option
from batchrunner.core.rate import Rate
from batchrunner.core.wording import seconds


class Pacing(Struct, frozen=True, kw_only=True):
    """How many requests and tokens may go out, for each endpoint and model. 0: no number; a limit is found when it refuses."""

    rpm: Annotated[
        int, option("requests a minute for each model at each endpoint", group="Speed", metavar="N", unit="count", ge=0)
    ] = 0
    tpm: Annotated[
        int, option("tokens a minute likewise, of prompts and answers", group="Speed", metavar="N", unit="count", ge=0)
    ] = 0
    rpd: Annotated[int, option("requests a day likewise", group="Speed", metavar="N", unit="count", ge=0, main=False)] = 0


def least(pacings: Sequence[Pacing], requests: int, tokens: float) -> float:
    """Seconds that requests of one model take at least at endpoints of these paces together; the first does not wait."""
    rpm, tpm, rpd = (sum(each) if all(each) else inf for each in zip(*((p.rpm, p.tpm, p.rpd) for p in pacings), strict=True))
    behind = max(0, requests - 1)
    minutes = max(behind / rpm, tokens * behind / max(1, requests) / tpm)
    return max(60.0 * minutes, DAY * (behind // rpd))


FIRST_ANSWER = 500.0  # tokens, until answers have told
REQUESTS = "requests"  # the allowance of them; all others are of tokens
LEARN = 0.05  # weight of an answer in the means


class Pace:
    """The pace of one model at one endpoint."""

    __slots__ = ("_allowances", "_answer", "_prompt", "_requests", "_said", "_tokens", "_unpaced", "day", "rate")

    def __init__(self, pacing: Pacing) -> None:
        self.rate = Rate(_rate(pacing.rpm))
        self._requests = Bucket(self.rate.value)
        self._tokens = Bucket(_rate(pacing.tpm))
        self.day = Day(pacing.rpd) if pacing.rpd else None
        self._unpaced = not (pacing.rpm or pacing.tpm or pacing.rpd)
        self._prompt = 1.0  # tokens of a prompt, as a multiple of the guess
        self._answer = FIRST_ANSWER
        self._allowances: dict[str, Allowance] = {}  # the endpoint's own, as it tells them
        self._said = False

    @property
    def value(self) -> float:
        """Requests a second in force; inf: no pace."""
        return min(self.rate.value, self.told)

    @property
    def told(self) -> float:
        """Requests a second by the endpoint's own headers, while these hold requests back; inf: they do not."""
        return min((allowance.rate for allowance in self._allowances.values()), default=inf)

    @property
    def found(self) -> float:
        """Requests a second that refusals have taught; 0.0: none have, or it is the user's number."""
        return self.rate.found if self.rate.known and self.rate.most == inf else 0.0

    def warm(self, value: float) -> None:
        """Begin with what an earlier run found."""
        self.rate.warm(value)
        self._follow()

    def fix(self, rpm: int) -> None:
        """The user's word while the run goes on; 0: none, so that a limit is found when it refuses."""
        self.rate.fix(_rate(rpm))
        if rpm:
            self._allowances.pop(REQUESTS, None)
        self._follow()

    def wait(self, now: float) -> float:
        """Seconds until a request may go out."""
        if self._unpaced and not self._allowances:
            return 0.0
        wait = max(self._requests.wait(now), self._tokens.wait(now))
        for allowance in self._allowances.values():
            wait = max(wait, allowance.wait(now))
        return max(wait, self.day.wait(now)) if self.day else wait

    def take(self, request: Request, now: float) -> float:
        """A request goes out. The tokens booked for it, for `settle`."""
        if self.rate.sent(now):
            self._requests.turn(now)
        for name, allowance in self._allowances.items():
            allowance.take(1.0 if name == REQUESTS else _tokens(request), request.line, now)
        if self._unpaced:
            return 0.0
        self._follow()
        self._requests.take(1.0, now)
        if self.day:
            self.day.take(now)
        if self._tokens.rate == inf:
            return 0.0
        booked = self._prompt * request.prompt_tokens + min(self._answer, request.max_tokens or inf) * max(1, request.choices)
        self._tokens.take(booked, now)
        return booked

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """An attempt ended. True: it was refused for its rate, and that is the business of this pace."""
        if attempt.booked:
            self._settle_tokens(attempt.request, attempt.booked, outcome.usage)
        if outcome.left or self._allowances:
            self._settle_allowances(attempt, outcome)
        if outcome.kind is not Kind.RATE_LIMITED:
            self.rate.answered(attempt.beside)
            return False
        wait = outcome.wait or 0.0
        self.rate.refused(attempt.started, attempt.beside, wait, now)
        self._follow()
        if wait and self.rate.known:
            self._requests.hold(self.rate.resume, self.rate.credit)
        return not self._unpaced or self.told < inf

    def exceeded(self, usage: Usage | None) -> str:
        """What is to be said, once, of an answer that took more tokens than the user's number lets pass in a minute."""
        used, a_minute = usage.input + usage.output if usage else 0, 60.0 * self._tokens.rate
        if self._said or used <= a_minute:
            return ""
        self._said = True
        pause = seconds(used / self._tokens.rate)
        return f"--tpm {a_minute:.0f} is less than the {used:,} tokens of one answered request: the next goes out in {pause}"

    def _settle_tokens(self, request: Request, booked: float, usage: Usage | None) -> None:
        self._tokens.pour_back(booked - (usage.input + usage.output if usage else 0))
        if usage:
            self._prompt += LEARN * (usage.input / max(1.0, request.prompt_tokens) - self._prompt)
            self._answer += LEARN * (usage.output / max(1, request.choices) - self._answer)

    def _settle_allowances(self, attempt: Attempt, outcome: Outcome) -> None:
        line = attempt.request.line
        for left in outcome.left:
            if allowance := self._allowances.get(left.allowance) or self._heed(left.allowance):
                allowance.hear(line, attempt.started, left)
        if len(outcome.left) < len(self._allowances):
            for allowance in self._allowances.values():
                allowance.drop(line, refused=outcome.kind is Kind.RATE_LIMITED)

    def _heed(self, name: str) -> Allowance | None:
        """An allowance that an answer is the first to speak of; None where the user has given a number."""
        if (self.rate.most if name == REQUESTS else self._tokens.rate) < inf:
            return None
        allowance = self._allowances[name] = Allowance(counted=name == REQUESTS)
        return allowance

    def _follow(self) -> None:
        self._requests.rate = self.rate.value
        self._unpaced = self.rate.value == inf and self._tokens.rate == inf and not self.day


def _rate(per_minute: int) -> float:
    return per_minute / 60.0 if per_minute else inf


def _tokens(request: Request) -> float:
    """What a provider may book for it before it is answered, as far as its line tells."""
    return request.prompt_tokens + (request.max_tokens or FIRST_ANSWER) * max(1, request.choices)
