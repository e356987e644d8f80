"""What the lines of an input add up to: what is wrong with them, and what they will use, cost and take.

Rules:

1. Problems of one kind stand together with all their line numbers; memory is bounded by the number of kinds, not of lines.
2. Tokens are guessed from bytes, by the ratio that the last run has counted where there was one. Every guess says how
   good it is.
3. Only what is still to do is estimated. What nobody knows is None: unknown is never 0.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from operator import add

from msgspec import Struct

from batchrunner.core.cost import Prices
from batchrunner.core.model import Kind, Request, Result
from batchrunner.core.pace import Pacing, least
from batchrunner.core.service import as_said
from batchrunner.core.trail import AttemptLine, Moment
from batchrunner.core.wording import WORDS
from batchrunner.glance import Plain
from batchrunner.listed import context_of, wanted
from batchrunner.report.preview import CheckReport, ModelUse, Problem
from batchrunner.settings import Settings
from batchrunner.standing import Standing

Item = tuple[int, Plain | Request | Result]
KINDS = 1000  # of problems that are told apart
RANGES = 200  # of line numbers for each of them
MODELS = 200
GUESSED = 0.3  # how far bytes / 4 may be off: 10 % for English and Chinese prose, more for code, numbers and Cyrillic
ENOUGH = 20  # counted answers that make a ratio


class _Numbers:
    """Line numbers in ascending order, as ranges."""

    __slots__ = ("_ranges", "count")

    def __init__(self) -> None:
        self.count = 0
        self._ranges: list[list[int]] = []

    def add(self, line: int) -> None:
        self.count += 1
        if self._ranges and line == self._ranges[-1][1] + 1:
            self._ranges[-1][1] = line
        elif len(self._ranges) < RANGES:
            self._ranges.append([line, line])

    @property
    def first(self) -> int:
        return self._ranges[0][0] if self._ranges else 0

    def __str__(self) -> str:
        """`3, 5, 7–9`, with an ellipsis where there are more than we keep."""
        told = sum(last - first + 1 for first, last in self._ranges)
        shown = [str(first) if first == last else f"{first}–{last}" for first, last in self._ranges]
        return ", ".join([*shown, *(["…"] if told < self.count else [])])


class _Use(Struct):
    context: int  # tokens that the model can hold; 0 where nobody knows
    requests: int = 0
    tokens_in: float = 0.0
    tokens_out_most: int = 0
    open_ended: int = 0  # requests that set no cap on their answer


class Estimate:
    """What the lines add up to."""

    def __init__(self, settings: Settings, ratio: float, urls: Sequence[str]) -> None:
        self.standing: Standing | None = None  # None: nothing is done, as far as anybody knows
        self._settings = settings
        self._ratio = ratio
        self._url = urls[0] if urls else ""
        self._requests = self._problems = self._to_go = 0
        self._kinds: dict[tuple[str, str], _Numbers] = {}
        self._uses: dict[str, _Use] = {}
        self._most = settings.intake.limit or sys.maxsize
        self._long = _Numbers()

    def pass_over(self, count: int) -> None:
        """So many lines are answered, and not looked at again."""
        self._requests += count

    def take(self, items: Iterable[Item]) -> None:
        """Count these lines."""
        for line, item in items:
            self._requests += 1
            if isinstance(item, Result):
                self._refused(line, item)
            elif self._to_go < self._most and not (self.standing and self.standing.is_done(line)):
                self._to_go += 1
                self._measure([line], [item], item.model)

    def take_plain(self, first: int, plain: Sequence[Plain]) -> None:
        """Count so many lines from this one on."""
        models = {each.model for each in plain}
        done = self.standing.done_of(first, len(plain)) if self.standing else 0
        if done or len(models) > 1 or self._to_go + len(plain) > self._most:
            self.take(enumerate(plain, first))
            return
        self._requests += len(plain)
        self._to_go += len(plain)
        self._measure(range(first, first + len(plain)), plain, models.pop())

    def _refused(self, line: int, result: Result) -> None:
        if self.standing and self.standing.done_of(line, 1, refused=False):
            return  # what is asked of prompts now was not asked when it was answered
        self._problems += 1
        if result.error:
            why = WORDS[Kind.CONTEXT] if result.kind is Kind.CONTEXT else result.error.message  # which tells the length of each
            self._wrong(line, why, result.error.hint)

    def _measure(self, lines: Sequence[int], requests: Sequence[Plain | Request], model: str) -> None:
        """What these requests to one model will use."""
        use = self._uses.get(model) or self._use_of(model)
        tokens = [each.prompt_tokens * self._ratio for each in requests]
        most = [each.max_tokens for each in requests]
        use.requests += len(tokens)
        use.tokens_in += sum(tokens)
        use.tokens_out_most += sum([each.max_tokens * (each.choices or 1) for each in requests])
        use.open_ended += most.count(0)
        if use.context:
            for line, together in zip(lines, map(add, tokens, most), strict=True):
                if together > use.context:
                    self._long.add(line)

    def _use_of(self, model: str) -> _Use:
        """That of a model which comes for the first time; beyond `MODELS` they share one."""
        name = model if len(self._uses) < MODELS else ""
        return self._uses.get(name) or self._uses.setdefault(name, _Use(context_of(self._url, name)))

    def _wrong(self, line: int, message: str, hint: str) -> None:
        key = (message, hint)
        if key in self._kinds or len(self._kinds) < KINDS:
            self._kinds.setdefault(key, _Numbers()).add(line)

    def report(self, spread: float, moments: Sequence[Moment], prices: Prices) -> CheckReport:
        """Everything together."""
        uses, standing = self._uses.values(), self.standing
        assert standing, "the survey is over"
        for twin in standing.twins:
            self._wrong(twin.line, f"custom_id {twin.id!r} is already on line {twin.first}", "")
        answer, rate = _answer(moments), _rate(moments)
        unpriced = tuple(name for name in self._uses if prices.of(self._url, name) is None)
        return CheckReport(
            input=self._settings.input,
            requests=self._requests,
            problems=self._problems + standing.duplicates,
            examples=tuple(self._examples()),
            tokens_in=round(sum(use.tokens_in for use in uses)),
            tokens_out_most=sum(use.tokens_out_most for use in uses),
            done=standing.succeeded + standing.failed + standing.invalid,
            to_go=self._to_go,
            undecided=standing.undecided(self._settings.changed),
            uncertainty=round(spread, 3),
            tokens_out=None if answer is None else round(answer * self._to_go),
            models=tuple(self._models()),
            cost=None if answer is None else self._cost(prices, lambda use: answer * use.requests),
            cost_most=None if any(use.open_ended for use in uses) else self._cost(prices, lambda use: use.tokens_out_most),
            cost_least=self._cost(prices, lambda use: 0),
            unpriced=unpriced,
            extra=bool(unpriced) and wanted(self._url),
            rate=rate,
            seconds=self._to_go / rate if rate else None,
            seconds_least=self._seconds_least(answer or 0.0),
            too_long=self._long.count,
            too_long_lines=str(self._long),
        )

    def _examples(self) -> list[Problem]:
        found = [
            Problem(numbers.first, message, hint, numbers.count, str(numbers)) for (message, hint), numbers in self._kinds.items()
        ]
        return sorted(found, key=lambda problem: problem.line)

    def _models(self) -> list[ModelUse]:
        return [
            ModelUse(name, use.requests, round(use.tokens_in), use.tokens_out_most, use.context)
            for name, use in sorted(self._uses.items(), key=lambda pair: -pair[1].requests)
        ]

    def _seconds_least(self, answer: float) -> float:
        """At the user's own paces, if answers have so many tokens."""
        paces = _paces(self._settings)
        tokens = ((use.requests, use.tokens_in + answer * use.requests) for use in self._uses.values())
        return max((least(paces, requests, together) for requests, together in tokens), default=0.0)

    def _cost(self, prices: Prices, answered: Callable[[_Use], float]) -> float | None:
        rows = [(prices.of(self._url, name), use) for name, use in self._uses.items()]
        known = [price.of(use.tokens_in, answered(use)) for price, use in rows if price]
        return sum(known) if rows and len(known) == len(rows) else None


def learned(lines: Iterable[AttemptLine]) -> tuple[float, float]:
    """Counted tokens for each guessed one, and how far that may be off; (1.0, `GUESSED`) when too little was counted."""
    ratios: list[float] = []
    for line in lines:
        if line.prompt and line.tokens_in:
            ratios.append(line.tokens_in / line.prompt)
            del ratios[:-1000]
    if len(ratios) < ENOUGH:
        return 1.0, GUESSED
    ratios.sort()
    middle, low, high = (ratios[int(share * (len(ratios) - 1))] for share in (0.5, 0.1, 0.9))
    return middle, max(0.01, max(high - middle, middle - low) / middle)


def _paces(settings: Settings) -> Sequence[Pacing]:
    """How fast the user lets requests go out, for each endpoint."""
    service = settings.service
    return [as_said(settings.pacing, row) for row in service.endpoints] or [settings.pacing] * max(1, len(service.base_url))


def _answer(moments: Sequence[Moment]) -> float | None:
    """Tokens of an answer, as the last run has counted them; None when it has not."""
    spend = moments[-1].spend if moments else []
    counted = sum(each.requests for each in spend)
    return sum(each.output for each in spend) / counted if counted >= ENOUGH else None


def _rate(moments: Sequence[Moment]) -> float | None:
    """Lines a second of the last run; None when there was none worth the name."""
    if not moments:
        return None
    last = moments[-1]
    return last.asked / last.at if last.asked >= ENOUGH and last.at > 0 else None
