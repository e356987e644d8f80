"""What `check` found, as values and in words. Nothing has been sent.

Rules:

1. Every guess says how good it is; what nobody knows is `unknown`, never 0.
2. Problems are named with the numbers of all their lines, as far as they are kept.
"""

from msgspec import Struct

from batchrunner.core.wording import amount, money, number, plural, rate, seconds, visible
from batchrunner.records import written_out
from batchrunner.report.invocation import Invocation
from batchrunner.report.layout import WIDTH, Fact, block, fold, type_in
from batchrunner.report.text import EMPTY, decisions


class Problem(Struct, frozen=True):
    """What `check` found wrong with one line."""

    line: int
    message: str
    hint: str = ""
    count: int = 1  # lines with this problem
    lines: str = ""  # all of them: "3, 5, 7–9"


class ModelUse(Struct, frozen=True):
    """What the lines for one model ask for. Tokens are guessed."""

    model: str
    requests: int
    tokens_in: int
    tokens_out_most: int
    context: int = 0  # what the model can take at once; 0: not known


class CheckReport(Struct, frozen=True, kw_only=True):
    """What `check` found, without sending anything."""

    input: str
    requests: int
    problems: int = 0
    examples: tuple[Problem, ...] = ()  # one for each kind, with the numbers of all its lines
    tokens_in: int = 0  # guessed: bytes / 4, or as the last run has counted them; of what is to do
    tokens_out_most: int = 0  # by max_tokens; 0: no line says
    done: int = 0  # lines that an earlier run has finished
    to_go: int = 0
    undecided: tuple[int, int] = (0, 0)  # lines with an answer to another text, answers to moved lines: a run would refuse them
    uncertainty: float = 0.0  # of tokens_in: 0.3 is give or take 30 %
    tokens_out: int | None = None  # as many as answers had in the last run; None: there was none
    models: tuple[ModelUse, ...] = ()
    cost: float | None = None  # None: not known
    cost_most: float | None = None  # if every answer were as long as it may be; None: not known, or some may be of any length
    cost_least: float | None = None  # of the prompts alone; None: not known
    unpriced: tuple[str, ...] = ()  # models without a price
    extra: bool = False  # whether list prices might help, were they installed
    rate: float | None = None  # lines a second in the last run
    seconds: float | None = None  # expected at that rate
    seconds_least: float = 0.0  # that --rpm, --tpm and --rpd make it take; answers count as far as they are known
    too_long: int = 0  # prompts that look longer than their model's context
    too_long_lines: str = ""

    @property
    def exit_code(self) -> int:
        """2 when a line cannot be sent as it is."""
        return 2 if self.problems else 0

    def to_json(self) -> bytes:
        """One line of JSON, without its line ending."""
        return written_out(self)


# ---- in words ----


def check(found: CheckReport, typed: Invocation, width: int = WIDTH) -> str:
    """What `check` has found. Ends by saying that nothing was sent."""
    if not found.requests:
        return f"{'no line fits --where' if typed.chooses else EMPTY}\nNothing was sent. exit {found.exit_code}"
    head = f"{plural(found.requests, 'request')}, {plural(found.problems, 'problem') if found.problems else 'no problems'}"
    lines = [f"{head}, {number(found.done)} done before" if found.done else head]
    lines += [line for problem in found.examples for line in _problem(problem, width)]
    told = sum(problem.count for problem in found.examples)
    if found.problems > told:
        lines.append(f"  and {number(found.problems - told)} more")
    if found.to_go or not found.done:
        lines += block([("tokens", _tokens(found)), *_outlook(found)], width)
    if found.too_long:
        long, where = plural(found.too_long, "prompt"), f"line{'s' if found.too_long > 1 else ''} {found.too_long_lines}"
        lines += fold(f"{long} too long for the model, it seems; they will fail: {where}", width)
    return "\n".join(
        [*lines, f"Nothing was sent. exit {found.exit_code}", *([] if found.problems else _ways(found, typed, width))]
    )


def _ways(found: CheckReport, typed: Invocation, width: int) -> list[str]:
    """What to type to run what was checked."""
    if found.done and not found.to_go:
        return ["All is done: there is nothing left to run."]
    ways = decisions(typed, *found.undecided) or [typed.step("")]
    lines = [line for way in ways for line in type_in(way, width, len(_RUN))]
    return [f"{_RUN}{lines[0].lstrip()}", *lines[1:]]


_RUN = "To run it: "


def _problem(problem: Problem, width: int) -> list[str]:
    """`  line 33900   what is wrong  → what to do`, folded below itself."""
    where = f"  line{'s' if problem.count > 1 else ''} {problem.lines or problem.line}"
    hint = f"  → {visible(problem.hint)}" if problem.hint else ""
    said = fold(f"{visible(problem.message)}{hint}", width, 15)
    if len(where) > 14:
        return [*fold(where.strip(), width, 2), *said]
    return [f"{where:<15}{said[0].lstrip()}", *said[1:]]


def _tokens(found: CheckReport) -> str:
    how = "as counted by the last run" if found.tokens_out is not None else "bytes / 4"
    spread = f"; ± {100 * found.uncertainty:.0f} %" if found.uncertainty else ""
    expected = f", ≈ {amount(found.tokens_out)} out" if found.tokens_out is not None else ""
    most = f", ≤ {amount(found.tokens_out_most)} out by max_tokens" if found.tokens_out_most else ""
    return f"≈ {amount(found.tokens_in)} in ({how}{spread}){expected}{most}"


def _outlook(found: CheckReport) -> list[Fact]:
    """What it will cost and how long it will take, as far as anybody knows."""
    if not found.to_go:
        return []
    expected = [f"≈ {money(found.cost)}"] if found.cost is not None else []
    most = [f"at most {money(found.cost_most)}"] if found.cost_most is not None else []
    least = [f"at least {money(found.cost_least)}, for the prompts alone"] if found.cost_least and not expected else []
    cost = ", ".join([*expected, *least, *most]) or "unknown"
    names = ", ".join(visible(name) or "lines without a model" for name in found.unpriced[:3])
    lists = "; list prices: pip install 'batchrunner[cost]'" if found.extra else ""
    missing = f" (no price of {names}: --price MODEL=IN/OUT{lists})" if found.unpriced else ""
    return [("cost", f"{cost}{missing}"), ("time", _time(found))]


def _time(found: CheckReport) -> str:
    if found.seconds_least > (found.seconds or 0.0):
        return f"at least {seconds(found.seconds_least)}, as --rpm, --tpm or --rpd let requests pass"
    return f"≈ {seconds(found.seconds)} at {rate(found.rate)} (last run)" if found.seconds and found.rate else ""
