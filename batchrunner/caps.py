"""What ends a run before its input does: the caps of its user, and endpoints that nobody answers at.

Rules:

1. What is too much is decided by `core.stopping` and `core.cost`. Here they are asked as soon as there is something to ask about:
   failures, money and tokens with every result, time when it is over, silence each second.
2. A reason to stop drains the run: what is under way may end, the rest stays pending, and the same command continues.
3. A cap that nobody has set costs nothing.
"""

import asyncio

from batchrunner.core.cost import Budget, Prices
from batchrunner.core.model import Event
from batchrunner.core.stopping import FEW, Silence, outage, reason_to_stop
from batchrunner.engine import Chore, Engine
from batchrunner.meter import Meter
from batchrunner.settings import Settings

LISTEN_EVERY = 1.0


def capped(settings: Settings, engine: Engine, meter: Meter, prices: Prices) -> list[Chore]:
    """Let all caps that are set listen to the run; what must be done for them at intervals."""
    _watch_failures(settings, engine, meter)
    _watch_budget(settings, engine, prices)
    return [*_watch_time(settings, engine), *_watch_silence(settings, engine)]


def _watch_failures(settings: Settings, engine: Engine, meter: Meter) -> None:
    def judge(event: Event) -> None:
        if event.result and not event.result.ok:
            engine.drain_if(reason_to_stop(settings.stopping, meter.succeeded, meter.failed, 0.0))

    if settings.stopping.max_failures:
        engine.outbox.listeners.append(judge)


def _watch_budget(settings: Settings, engine: Engine, prices: Prices) -> None:
    spending = settings.spending
    if not (spending.max_cost or spending.max_tokens_total):
        return
    budget = Budget(spending, prices, lambda: engine.scheduler.sent)

    def judge(event: Event) -> None:
        budget(event)
        engine.drain_if(budget.over)

    engine.outbox.listeners.append(judge)


def _watch_time(settings: Settings, engine: Engine) -> list[Chore]:
    most = settings.stopping.max_time

    async def over() -> None:
        engine.drain_if(reason_to_stop(settings.stopping, 0, 0, most))

    return [Chore(most, over)] if most else []


def _watch_silence(settings: Settings, engine: Engine) -> list[Chore]:
    """Whether anybody answers at all. While an attempt is under way there may yet be an answer."""
    silence, scheduler = Silence(settings.timeouts), engine.scheduler

    async def judge() -> None:
        if not (scheduler.in_flight or scheduler.paused):
            now = asyncio.get_running_loop().time()
            few = scheduler.last and scheduler.open <= FEW
            engine.drain_if(outage(settings.stopping, silence, scheduler.awaited, scheduler.lost, now, few))

    if not settings.stopping.max_outage:
        return []
    engine.outbox.listeners.append(silence)
    return [Chore(LISTEN_EVERY, judge)]
