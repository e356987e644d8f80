"""How much longer a request takes for its size: learned apart from how long requests take at all.

Rules:

1. Requests are kin when their prompts, and the answers they allow, are within a factor of two of each other.
2. The level is everybody's and moves fast; the lean of a kin from it is its own and moves slowly. When a service slows
   down the level goes up and the leans stay, so that rare sizes profit at once from what frequent ones teach.
3. Work grows at most in proportion to size. Hence a kin of which nothing is known is granted so much more than a smaller
   one that is known, and no more than a larger one; the grant is shed as its own answers come in.
4. Where sizes tell nothing the leans come out alike, and nothing has been lost but that patience with the first of each.
"""

from collections.abc import Callable, Sequence
from math import exp, inf, log, sqrt
from typing import Annotated

from msgspec import Meta, Struct

from batchrunner.core.model import Request

KNOWN = 8  # answers after which others are judged by a kin
GRANTED = 4.0  # answers that weigh as much as what is granted without any
LEVEL = 32  # answers that the level remembers
LEAN = 200  # answers of its own that a kin remembers
UNSAID = 16  # a line that does not say how long its answer may be may get any: as if it allowed 2**16 tokens
INSTANT = 1e-6  # seconds: logarithms need some

Measure = Callable[[Request], tuple[int, int, float]]
"""Sizes of prompt and allowed answer, each as a power of two, and how much longer a request is expected to take for them."""


def _prompt(request: Request) -> int:
    """`request.prompt_tokens` in whole ones: half of the time here would go into the property."""
    return (len(request.body) >> 2) + 765 * request.images


def whole(request: Request) -> tuple[int, int, float]:
    """For a whole answer. The root fits chat, embeddings and images without being told which it is."""
    prompt, answer = _prompt(request), request.max_tokens
    return prompt.bit_length(), answer.bit_length() if answer else UNSAID, sqrt(1.0 + prompt / 4000.0 + answer / 100.0)


def opening(request: Request) -> tuple[int, int, float]:
    """For the beginning of an answer, which only the prompt makes later."""
    prompt = _prompt(request)
    return prompt.bit_length(), 0, sqrt(1.0 + prompt / 4000.0)


def alike(_request: Request) -> tuple[int, int, float]:
    """For what has nothing to do with size."""
    return 0, 0, 1.0


class Sized(Struct, frozen=True, array_like=True):
    """What is kept of a kin for the next run."""

    prompt: Annotated[int, Meta(ge=0, le=64)]
    answer: Annotated[int, Meta(ge=0, le=64)]
    expected: Annotated[float, Meta(gt=0.0, le=1e9)]
    answers: Annotated[int, Meta(ge=1, le=2**53)]
    lean: Annotated[float, Meta(ge=-50.0, le=50.0)]


class Kin:
    """Requests of like size. `granted` is the logarithm of how much longer they may take than is expected of their size."""

    __slots__ = ("answer", "answers", "bound", "expected", "granted", "lean", "prompt")

    def __init__(self, prompt: int, answer: int, expected: float) -> None:
        self.prompt = prompt
        self.answer = answer
        self.expected = expected  # of the first one that came
        self.answers = 0
        self.lean = 0.0  # logarithms, as is the bound
        self.bound = -inf
        self.granted = 0.0

    def bind(self, bound: float) -> None:
        """What others grant; all that is known while there are no answers."""
        self.bound = bound
        if not self.answers and bound > -inf:
            self.lean = bound
        self.fit()

    def fit(self) -> None:
        """Weigh what is known against what is granted."""
        self.granted = self.lean + max(0.0, self.bound - self.lean) * GRANTED / (GRANTED + self.answers)

    def grants(self, other: "Kin") -> float:
        """The most that another kin may lean, judged by this one."""
        growth = max(0, other.prompt - self.prompt, other.answer - self.answer)
        return self.lean + log(self.expected / other.expected) + growth * log(2.0)


class Shape:
    """The kin of one duration, and the level they share."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._kin: dict[tuple[int, int], Kin] = {}
        self._level = 0.0
        self._drift = 0.0  # what all leans have in common belongs to the level
        self._answers = 0

    def of(self, request: Request) -> tuple[Kin, float]:
        """The request's kin, and how much longer than the level it may take for its size."""
        kin, expected = self._find(request)
        return kin, expected * exp(kin.granted - self._drift)

    def learn(self, request: Request, seconds: float) -> float:
        """Take in how long a request took; what that is in the unit of the level."""
        kin, expected = self._find(request)
        taken = log(max(INSTANT, seconds / expected))
        self._answers += 1
        if kin.answers or self._answers == 1:
            self._level += (taken - kin.lean - self._level) / min(self._answers, LEVEL)
        kin.answers += 1
        step = (taken - self._level - kin.lean) / min(kin.answers, LEAN)
        kin.lean += step
        if kin.answers > 1:
            self._drift += step * kin.answers / self._answers
        if kin.answers >= KNOWN and kin.answers.bit_count() == 1:
            for other in self._kin.values():
                self._bind(other)
        else:
            kin.fit()
        return seconds / (expected * exp(kin.granted - self._drift))

    def expects(self, request: Request) -> float:
        """Seconds that a request may well take; before the first answer merely in proportion to others."""
        kin, expected = self._find(request)
        return expected * exp(self._level + kin.granted)

    def learned(self) -> tuple[float, tuple[Sized, ...]]:
        """Level and kin, for the next run."""
        seen = [kin for kin in self._kin.values() if kin.answers]
        sizes = [
            Sized(kin.prompt, kin.answer, round(kin.expected, 4), (kin.answers + 1) // 2, round(kin.lean - self._drift, 4))
            for kin in seen
        ]
        return round(self._level + self._drift, 4), tuple(sizes)

    def recall(self, level: float, sizes: Sequence[Sized]) -> None:
        """Begin with what an earlier run learned."""
        self._level, self._answers = level, sum(known.answers for known in sizes)
        for known in sizes:
            kin = self._kin[known.prompt, known.answer] = Kin(known.prompt, known.answer, known.expected)
            kin.answers, kin.lean = known.answers, known.lean
        for kin in self._kin.values():
            self._bind(kin)

    def _find(self, request: Request) -> tuple[Kin, float]:
        prompt, answer, expected = self._measure(request)
        kin = self._kin.get((prompt, answer))
        if kin is None:
            kin = self._kin[prompt, answer] = Kin(prompt, answer, expected)
            self._bind(kin)
        return kin, expected

    def _bind(self, kin: Kin) -> None:
        """Judge a kin by the others."""
        known = (other.grants(kin) for other in self._kin.values() if other is not kin and other.answers >= KNOWN)
        kin.bind(min(known, default=-inf))
