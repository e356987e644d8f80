"""Prices, sums and caps."""

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from batchrunner.core.cost import Budget, Price, Prices, Spending, price_table
from batchrunner.core.model import Attempt, Deadlines, Event, Kind, Outcome, Usage
from batchrunner.core.route import Route
from batchrunner.core.trail import Spend
from tests.virtual import chat


def spend(model: str = "m", **changes: Any) -> Spend:
    return Spend(**{"endpoint": "a", "model": model, "requests": 2, "input": 1_000_000, "output": 500_000} | changes)


def test_a_table_of_prices() -> None:
    assert price_table(["m=0.15/0.6", "org/x=y=1/2", "*=3/4"]) == {
        "m": Price(0.15, 0.6),
        "org/x=y": Price(1, 2),
        "*": Price(3, 4),
    }


@pytest.mark.parametrize("item", ["m", "m=1", "m=a/b", "=1/2", "m=-1/2", "m=1/nan", "m=1/inf", "m=1/2/3", ""])
def test_what_is_no_price(item: str) -> None:
    with pytest.raises(ValueError, match="MODEL=IN/OUT"):
        price_table([item])


def test_the_users_table_goes_before_the_provider_and_the_list() -> None:
    asked = []

    def listed(endpoint: str, model: str) -> Price | None:
        asked.append((endpoint, model))
        return Price(10, 10) if model == "known" else None

    prices = Prices({"m": Price(1, 2)}, listed)
    assert prices.priced(spend("m", told=99.0)) == (2.0, "your prices")
    assert prices.priced(spend("other", told=99.0)) == (99.0, "the provider")
    assert prices.priced(spend("known")) == (15.0, "list price")
    assert prices.priced(spend("nobody")) == (None, "")
    prices.cost([spend("known"), spend("known")])
    assert asked == [("a", "known"), ("a", "nobody")]  # once each


def test_unknown_is_never_nothing() -> None:
    prices = Prices({"m": Price(1, 2)})
    assert prices.cost([]) is None
    assert prices.cost([spend("m"), spend("other")]) is None
    assert prices.cost([spend("m"), spend("m")]) == 4.0
    assert prices.cost([spend("m", requests=0), spend("m")]) == 2.0
    assert Prices({"*": Price(1, 2)}).cost([spend("anything")]) == 2.0
    assert Prices({}).cost([spend("m", told=0.0)]) == 0.0  # a free one said so itself


def answered(
    tokens_in: int, tokens_out: int, cost: Any = UNSET, usage: bool = True, kind: Kind = Kind.OK, route: Route = Route.CHAT
) -> Event:
    counted = Usage(tokens_in, tokens_out, cost) if usage else None
    request = replace(chat(1), route=route)
    return Event(1.0, Attempt(request, "a", 1, 0.0, Deadlines(1, 1, 1, 1)), Outcome(kind, 200, usage=counted))


def test_a_cap_on_money_counts_what_is_in_flight() -> None:
    budget = Budget(Spending(max_cost=1.0), Prices({"m": Price(100_000, 0)}), lambda: 5)
    budget(answered(1, 0))  # 0.1 each; four more are under way: about 0.5
    assert budget.over == ""
    budget = Budget(Spending(max_cost=0.5), Prices({"m": Price(100_000, 0)}), lambda: 5)
    budget(answered(1, 0))
    assert "0.1 spent, with what is in flight about 0.5 (max_cost 0.5) [E303]" in budget.over


def test_a_failed_attempt_is_in_flight_no_longer() -> None:
    budget = Budget(Spending(max_cost=0.5), Prices({"m": Price(100_000, 0)}), lambda: 5)
    for _ in range(3):
        budget(answered(0, 0, usage=False, kind=Kind.GATEWAY))
    budget(answered(1, 0))
    assert budget.over == ""  # 0.1, and one more under way


def test_a_cap_on_tokens() -> None:
    sent = [1]
    budget = Budget(Spending(max_tokens_total=100), Prices({}), lambda: sent[0])
    budget(answered(60, 30))
    assert budget.over == ""
    sent[0] = 2
    budget(answered(5, 5))
    assert "max_tokens_total 100" in budget.over


def test_a_cap_that_cannot_be_kept_stops_at_once_and_says_why() -> None:
    budget = Budget(Spending(max_cost=5), Prices({}), lambda: 2)
    budget(answered(1, 1, 0.25))
    assert budget.over == ""  # the provider said what it costs
    budget(answered(1, 1))
    assert "the price of m is not known" in budget.over


@pytest.mark.parametrize("cap", ["max-cost", "max-tokens-total"])
def test_a_cap_on_what_no_answer_says_stops_at_once(cap: str) -> None:
    spending = Spending(**{cap.replace("-", "_"): 5})
    budget = Budget(spending, Prices({"m": Price(1, 1)}), lambda: 1)
    budget(answered(0, 0, usage=False, route=Route.MODERATIONS))  # free
    assert budget.over == ""
    budget(answered(0, 0, usage=False))
    said = f"so --{cap} cannot be kept: --limit N bounds a run instead [E303]"
    assert budget.over == f"an answer does not say how many tokens it used, {said}"


def test_among_others_an_answer_that_does_not_say_counts_as_the_mean() -> None:
    sent = [4]
    budget = Budget(Spending(max_cost=0.5), Prices({"m": Price(100_000, 0)}), lambda: sent[0])
    budget(answered(1, 0))
    for _ in range(3):
        budget(answered(0, 0, usage=False))
    assert budget.over == ""  # 0.1 each
    sent[0] = 5
    budget(answered(1, 0))
    assert "0.2 spent, with what is in flight and 3 answers without a count about 0.5 " in budget.over


def test_nor_is_a_cap_passed_where_no_answer_says_any_more_what_it_used() -> None:
    sent = [1]
    budget = Budget(Spending(max_tokens_total=100), Prices({}), lambda: sent[0])
    budget(answered(20, 5))
    for sent[0] in (2, 3):
        budget(answered(0, 0, usage=False))
        assert budget.over == ""
    sent[0] = 4
    budget(answered(0, 0, usage=False))
    assert "25 tokens used, with what is in flight and 3 answers without a count about 100 (" in budget.over
