"""What a run costs: sums of tokens per endpoint and model, times a price.

Rules:

1. A price comes from the user's own table; else the provider's own figure in its answers counts; else from whoever knows
   the list prices. Where none of them says anything the cost is unknown, and unknown is None, never 0.
2. Prices are per million tokens. Sums are multiplied, never rows.
3. A cap counts what is in flight as well, at the mean of what has been answered; so too an answer that does not say what it
   used, and where that is the first one the cap cannot be kept. It stops softly: what is in flight ends.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

from msgspec import UNSET, Struct

from batchrunner.core.model import Attempt, Event, Kind, Usage
from batchrunner.core.policy import option
from batchrunner.core.route import Route
from batchrunner.core.trail import Spend
from batchrunner.core.wording import plural

ANY = "*"
MILLION = 1_000_000
MOST = 1e9  # that a million tokens may cost


class Spending(Struct, frozen=True, kw_only=True):
    """What tokens cost, and how much may be spent."""

    price: Annotated[
        tuple[str, ...],
        option(
            "price of a model per million tokens, input and output; in a file: the table prices",
            group="Stop",
            metavar="MODEL=IN/OUT",
            main=False,
        ),
    ] = ()
    max_cost: Annotated[float, option("stop when this run has cost so much; 0 is never", group="Stop", metavar="X", ge=0)] = 0.0
    max_tokens_total: Annotated[
        int,
        option(
            "stop when this run has used so many tokens, in and out; 0 is never",
            group="Stop",
            metavar="N",
            unit="count",
            main=False,
            ge=0,
        ),
    ] = 0


class Price(Struct, frozen=True):
    """Of a million tokens."""

    input: float
    output: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """What these tokens cost."""
        return (tokens_in * self.input + tokens_out * self.output) / MILLION


def untold(event: Event) -> bool:
    """Whether an answer was paid for that does not say what it used. A moderation is free."""
    attempt, outcome = event.attempt, event.outcome
    if attempt is None or outcome is None or outcome.usage is not None:
        return False
    return outcome.kind in (Kind.OK, Kind.INVALID_OUTPUT) and attempt.request.route is not Route.MODERATIONS


PriceOf = Callable[[str, str], Price | None]
"""(endpoint, model) → its price; None: not known."""


def price_table(items: Iterable[str]) -> dict[str, Price]:
    """`MODEL=IN/OUT` settings as prices by model. `*` is every other model. Raises ValueError with the end of a sentence."""
    table = {}
    for item in items:
        model, equals, told = item.rpartition("=")
        first, slash, second = told.partition("/")
        try:
            price = Price(float(first), float(second))
        except ValueError:
            raise ValueError("is not MODEL=IN/OUT, two prices per million tokens") from None
        if not (equals and slash and model.strip()) or not (0 <= price.input < MOST and 0 <= price.output < MOST):
            raise ValueError("is not MODEL=IN/OUT, two prices per million tokens")
        table[model.strip()] = price
    return table


class Prices:
    """The user's table first, then `listed`; asked once for each endpoint and model."""

    def __init__(self, table: Mapping[str, Price], listed: PriceOf = lambda endpoint, model: None) -> None:
        self._table = table
        self._listed = listed
        self._known: dict[tuple[str, str], Price | None] = {}

    def own(self, model: str) -> Price | None:
        """What the user's table says."""
        return self._table.get(model) or self._table.get(ANY)

    def listing(self, endpoint: str, model: str) -> Price | None:
        """What the list prices say."""
        key = (endpoint, model)
        if key not in self._known:
            self._known[key] = self._listed(endpoint, model)
        return self._known[key]

    def of(self, endpoint: str, model: str) -> Price | None:
        """The price of a model there, whoever knows it."""
        return self.own(model) or self.listing(endpoint, model)

    def cost(self, spend: Iterable[Spend]) -> float | None:
        """What all of this costs; None when some of it is not known, or nothing has been used."""
        costs = [self.priced(each)[0] for each in spend if each.requests]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if costs and len(known) == len(costs) else None

    def priced(self, spend: Spend) -> tuple[float | None, str]:
        """What these tokens cost, None when that is not known, and who says so."""
        price = self.own(spend.model)
        if price is None and spend.told is not None:
            return spend.told, "the provider"
        source = "your prices" if price else "list price"
        price = price or self.listing(spend.endpoint, spend.model)
        return (price.of(spend.input, spend.output), source) if price else (None, "")


class Budget:
    """Listens to a run; `over` says in words why it must stop, "" to go on. `sent` says how many attempts there were so far."""

    def __init__(self, spending: Spending, prices: Prices, sent: Callable[[], int]) -> None:
        self._spending = spending
        self._prices = prices
        self._sent = sent
        self._ended = 0
        self._spent = 0.0
        self._tokens = 0
        self._answers = 0
        self._untold = 0  # beside those
        self.over = ""

    def __call__(self, event: Event) -> None:
        """Count one attempt."""
        attempt, outcome = event.attempt, event.outcome
        if attempt is None or outcome is None or self.over:
            return
        if untold(event):
            self._untold += 1
        else:
            self._ended += 1
        if outcome.usage is not None:
            self._take(attempt, outcome.usage)
        elif self._untold and not self._answers:
            self.over = self._unkept("an answer does not say how many tokens it used", ": --limit N bounds a run instead")
        if self._answers and not self.over:
            self._judge()

    def _take(self, attempt: Attempt, usage: Usage) -> None:
        self._answers += 1
        self._tokens += usage.input + usage.output
        if self._spending.max_cost:
            self._pay(attempt, usage)

    def _pay(self, attempt: Attempt, usage: Usage) -> None:
        told, model = None if usage.cost is UNSET else usage.cost, attempt.request.model
        spend = Spend(endpoint=attempt.endpoint, model=model, requests=1, input=usage.input, output=usage.output, told=told)
        cost = self._prices.cost([spend])
        if cost is None:
            self.over = self._unkept(f"the price of {model or 'the model'} is not known", ": --price MODEL=IN/OUT")
        else:
            self._spent += cost

    def _unkept(self, why: str, remedy: str = "") -> str:
        cap = "--max-cost" if self._spending.max_cost else "--max-tokens-total"
        return f"{why}, so {cap} cannot be kept{remedy} [E303]"

    def _judge(self) -> None:
        share = 1.0 + (self._sent() - self._ended) / self._answers
        silent = f" and {plural(self._untold, 'answer')} without a count" if self._untold else ""
        beside = f"with what is in flight{silent} about"
        most, most_tokens = self._spending.max_cost, self._spending.max_tokens_total
        if most and self._spent * share >= most:
            self.over = f"{self._spent:.4g} spent, {beside} {self._spent * share:.4g} (max_cost {most:g}) [E303]"
        elif most_tokens and self._tokens * share >= most_tokens:
            counted = f"{self._tokens:,} tokens used, {beside} {self._tokens * share:,.0f}"
            self.over = f"{counted} (max_tokens_total {most_tokens:,}) [E303]"
