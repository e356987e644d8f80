"""What an endpoint has taught, as plain values that the next run can begin with.

Rules:

1. A room that learns says what it knows with `learned` and takes it in with `recall`; what the values mean is its own affair.
2. Everything has a default: an empty lesson is a cold start. A lesson saves time; nothing depends on it.
3. A lesson is thinner than the knowledge it comes from, so that what has changed since is found out quickly.
"""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from batchrunner.core.deadlines import Latencies
from batchrunner.core.streaming import Facts

Passed = tuple[Annotated[float, Meta(ge=0.0, le=1e6)], Annotated[int, Meta(ge=0, le=10**12)]]
"""Seconds ago, and how many requests passed from then on (`bucket.Day`)."""


class Answers(Struct, frozen=True, omit_defaults=True):
    """How long one model took in one form of answer."""

    model: str
    route: str
    stream: bool
    latencies: Latencies


class Lessons(Struct, frozen=True, omit_defaults=True):
    """What one endpoint taught."""

    facts: Facts = Facts()
    limit: Annotated[int, Meta(ge=0, le=10**6)] = 0  # requests in flight that it sustained
    rates: Mapping[str, Annotated[float, Meta(gt=0.0, le=1e9)]] = {}  # requests a second that it let in, by model
    days: Mapping[str, tuple[Passed, ...]] = {}  # what went out of late, by model
    answers: tuple[Answers, ...] = ()
