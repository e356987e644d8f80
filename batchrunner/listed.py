"""List prices and context sizes, from the package genai-prices where it is installed (extra `cost`).

Rules:

1. Nothing is fetched: the package brings its tables along. It is imported when the first price is asked for (0.3 s).
2. A model is looked up at the provider that its endpoint's address belongs to. A server of one's own may call its model
   anything, and a gateway charges what it likes: their prices are not known.
"""

from collections.abc import Callable
from typing import Any

from batchrunner.core.cost import MILLION, Price


def price_of(base_url: str, model: str) -> Price | None:
    """The list price of a model at this address, of a million tokens in US dollars; None when it is not known."""
    found = _looked_up(base_url, model)
    return Price(float(found.input_price), float(found.output_price)) if found else None


def context_of(base_url: str, model: str) -> int:
    """How many tokens the model can take at once; 0 when it is not known."""
    found = _looked_up(base_url, model)
    return int(found.model.context_window or 0) if found else 0


def _looked_up(base_url: str, model: str) -> Any:
    if not model or not base_url.startswith("http"):
        return None
    try:
        reckon, usage = _package()
        return reckon(usage(input_tokens=MILLION, output_tokens=MILLION), model_ref=model, provider_api_url=base_url)
    except Exception:  # noqa: BLE001 - not installed, not known, or another version: each time there is no price
        return None


def _package() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from genai_prices import Usage, calc_price  # type: ignore[import-not-found,unused-ignore]

    return calc_price, Usage
