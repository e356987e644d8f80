"""List prices and context sizes, from the package genai-prices where it is installed (extra `cost`).

Rules:

1. Nothing is fetched: the package brings its tables along. It is imported when the first price is asked for (0.3 s).
2. A model is looked up at the provider that its endpoint's address belongs to. A server of one's own may call its model
   anything, and a gateway charges what it likes: their prices are not known. For an address that cannot be a provider's
   the package is not even imported.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from batchrunner.core.cost import MILLION, Price
from batchrunner.network import is_loopback


def price_of(base_url: str, model: str) -> Price | None:
    """The list price of a model at this address, of a million tokens in US dollars; None when it is not known."""
    found = _looked_up(base_url, model)
    return Price(float(found.input_price), float(found.output_price)) if found else None


def context_of(base_url: str, model: str) -> int:
    """How many tokens the model can take at once; 0 when it is not known."""
    found = _looked_up(base_url, model)
    return int(found.model.context_window or 0) if found else 0


def wanted(base_url: str) -> bool:
    """Whether a price may be had for this address if the package were installed."""
    if not _public(base_url):
        return False
    try:
        _package()
    except Exception:  # noqa: BLE001 - not installed, or another version
        return True
    return False


def load(base_urls: Iterable[str]) -> None:
    """Import the tables now, if any of these addresses may need them: not in the middle of a run."""
    if any(map(_public, base_urls)):
        with suppress(Exception):
            _package()


def _public(base_url: str) -> bool:
    """Whether a provider may answer there: a name with a dot in it, and no number."""
    host = urlsplit(base_url).hostname or ""
    return "." in host and not host.rpartition(".")[2].isdigit() and not is_loopback(host)


def _looked_up(base_url: str, model: str) -> Any:
    if not model or not _public(base_url):
        return None
    try:
        reckon, usage = _package()
        return reckon(usage(input_tokens=MILLION, output_tokens=MILLION), model_ref=model, provider_api_url=base_url)
    except Exception:  # noqa: BLE001 - not installed, not known, or another version: each time there is no price
        return None


def _package() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from genai_prices import Usage, calc_price  # type: ignore[import-not-found,unused-ignore]

    return calc_price, Usage
