"""run(): the only wiring.

    settings ─► job (lock, repair, what is done) ─► doors (addresses, keys) ─► engine ─► summary

Rules:

1. Rooms meet only here: each gets what it needs as an argument.
2. Everything that can refuse does so before the first request is sent, and in this order: input and output, then endpoints.
3. However a run ends, the journal is closed, and the counts add up.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import chain
from typing import Protocol

from msgspec import structs

from batchrunner import simulator
from batchrunner.core.cost import Budget, Prices, price_table
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Limit
from batchrunner.core.model import Event
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.stopping import Silence, Stopping, alike, outage, reason_to_stop
from batchrunner.engine import Chore, Engine, Hooks
from batchrunner.job import Job, Reopen, failures, job_for, paths_of, standing_of
from batchrunner.keyring import Door, doors
from batchrunner.learned import Memory
from batchrunner.listed import load, price_of
from batchrunner.meter import Meter
from batchrunner.network import NONE, fitted, proxy_for, proxy_secrets
from batchrunner.outbox import Deliver, Listener, Sink
from batchrunner.paths import PAGE
from batchrunner.reuse import Reuse, reuse_of
from batchrunner.secret import Redact, redactor
from batchrunner.settings import Settings
from batchrunner.summary import Report, summarise
from batchrunner.transport import Transport
from batchrunner.view import Run as Run

OPEN_PER_SLOT = 4  # requests read ahead for each one that may be in flight
LEAST_OPEN = 1000
LISTEN_EVERY = 1.0
FLUSH_EVERY = 1.0


class Watch(Protocol):
    """Somebody who looks on: told at the start, and asked for chores of his own."""

    def __call__(self, run: Run) -> Sequence[Chore]:
        """What must be done at intervals for the onlooker."""


async def run(
    settings: Settings,
    job: Job | None = None,
    *,
    reopen: Reopen | None = None,
    hooks: Hooks = Hooks(),
    listeners: Sequence[Listener] = (),
    deliver: Deliver | None = None,
    watch: Watch = lambda run: (),
    environ: Mapping[str, str] = os.environ,
    origins: Mapping[str, str] = {},
) -> Report:
    """Bring a job to its end, or as far as it goes. Raises BatchError when it cannot begin, or a file of ours fails."""
    job = job or job_for(settings, reopen)
    meter = Meter(asyncio.get_running_loop().time())
    ending: Report | None = None
    view: Run | None = None
    try:
        async with AsyncExitStack() as stack:
            await job.open(meter)
            ways = doors(settings.service, environ)
            limits, fit = fitted(settings.concurrency, len(ways))
            note = "\n".join(filter(None, (job.note, fit)))
            settings = structs.replace(settings, concurrency=limits)
            proxies = [proxy_for(way.base_url, settings.connection.proxy, environ) for way in ways]
            job.redact = redactor(
                [*chain.from_iterable(way.secrets for way in ways), *chain.from_iterable(map(proxy_secrets, proxies))]
            )
            endpoints, transports = await _open_endpoints(ways, proxies, settings, job.redact, stack)
            view = Run(job, meter, endpoints, settings, _prices(settings, ways), any(way.simulated for way in ways), note)
            await asyncio.to_thread(load, [way.base_url for way in ways])
            trail = view.leave_trail(origins)
            reuse = _reuse(settings, job, ways, hooks)
            if reuse:
                stack.callback(reuse.close)
                hooks = structs.replace(hooks, admit=reuse.admit, echo=reuse.answer)
            sink, told = trail.vitals.clocked(job), [*trail.listeners(), *listeners]
            engine = view.engine = _engine(settings, job, meter, endpoints, transports, hooks, told, deliver, sink)
            memory = Memory(job.folder, settings.service.model, {way.name: way.base_url for way in ways})
            memory.recall(engine.scheduler)
            stack.callback(memory.keep, engine.scheduler)
            caps = [*_caps(settings.stopping, meter, engine), *_outage(settings.stopping, engine), *_budget(settings, view)]
            kept = [Chore(FLUSH_EVERY, reuse.flush)] if reuse else []
            await engine.run([*job.chores(), *kept, *memory.chores(engine.scheduler), *trail.chores(), *caps, *watch(view)])
            ending = _ending(view)
    finally:  # the connections have gone: their descriptors may be needed for the files
        if view:
            view.trail.close(ending.summary if ending else None, ending.findings if ending else ())
        await job.close(ending.summary if ending else None)
    return ending


def status(settings: Settings) -> Report:
    """How a job stands, from its files alone. Exit code 0 when all is done well, 1 with failures, 3 while something is to do."""
    standing, paths = standing_of(settings), paths_of(settings)
    meter = Meter(0.0, standing.total)
    meter.resume(standing.succeeded, failures(standing))
    snapshot = meter.snapshot(0.0)
    summary = summarise(snapshot, settings.input, exit_code=3 if standing.pending else 0)
    page = str(paths.report) if paths.report.exists() else ""
    return Report(summary, snapshot, str(paths.results), str(paths.errors), page=page)


async def _open_endpoints(
    ways: Sequence[Door], proxies: Sequence[str], settings: Settings, redact: Redact | None, stack: AsyncExitStack
) -> tuple[list[Endpoint], dict[str, Transport]]:
    endpoints, transports = [], {}
    for way, proxy in zip(ways, proxies, strict=True):
        url = way.base_url
        if way.simulated:
            url = (await stack.enter_async_context(simulator.Simulator(simulator.profile_named(url)))).url
        transport = Transport(
            way.name,
            url,
            structs.replace(settings.connection, proxy=proxy or NONE),
            headers=way.headers,
            secret=way.opening,
            redact=redact,
            ids=way.provider.ids,
        )
        transports[way.name] = await stack.enter_async_context(transport)
        endpoints.append(Endpoint(way.name, url, Limit(settings.concurrency), alike(settings.stopping)))
    return endpoints, transports


def _engine(
    settings: Settings,
    job: Job,
    meter: Meter,
    endpoints: Sequence[Endpoint],
    transports: Mapping[str, Transport],
    hooks: Hooks,
    listeners: Sequence[Listener],
    deliver: Deliver | None,
    sink: Sink | None = None,
) -> Engine:
    slots = sum(endpoint.limit.most for endpoint in endpoints)
    most_open = max(LEAST_OPEN, OPEN_PER_SLOT * slots)
    scheduler = Scheduler(endpoints, settings.retries, settings.timeouts, most_open, settings.streaming)
    return Engine(
        source=job.source([endpoint.base_url for endpoint in endpoints], settings.service.model),
        scheduler=scheduler,
        transports=transports,
        sink=sink or job,
        deliver=deliver,
        listeners=[meter, *listeners],
        hooks=hooks,
        grace=settings.stopping.grace,
    )


def _reuse(settings: Settings, job: Job, ways: Sequence[Door], hooks: Hooks) -> Reuse | None:
    """What uses answers again. They are only alike when they come from the same endpoints, under the same rules."""
    salt = "\n".join([*(way.base_url for way in ways), "judged" if hooks.judge else ""])
    return reuse_of(settings.reusing, job.folder, salt, job.redact)


def _caps(stopping: Stopping, meter: Meter, engine: Engine) -> list[Chore]:
    """The user's own caps. Failures are judged as they happen, time when it is over."""

    def judge(event: Event) -> None:
        if event.result and not event.result.ok:
            engine.drain_if(reason_to_stop(stopping, meter.succeeded, meter.failed, 0.0))

    async def over() -> None:
        engine.drain_if(reason_to_stop(stopping, 0, 0, stopping.max_time))

    if stopping.max_failures:
        engine.outbox.listeners.append(judge)
    return [Chore(stopping.max_time, over)] if stopping.max_time else []


def _outage(stopping: Stopping, engine: Engine) -> list[Chore]:
    """Whether anybody answers at all, asked each second. While an attempt is under way there may yet be an answer."""
    silence = Silence()

    async def judge() -> None:
        if not (engine.scheduler.in_flight or engine.scheduler.paused):
            silent = silence.seconds(asyncio.get_running_loop().time())
            engine.drain_if(outage(stopping, silent, silence.ever, silence.said))

    if not stopping.max_outage:
        return []
    engine.outbox.listeners.append(silence)
    return [Chore(LISTEN_EVERY, judge)]


def _prices(settings: Settings, ways: Sequence[Door]) -> Prices:
    """What tokens cost: by the user's own table, else by the list prices of whoever answers at an endpoint."""
    urls = {way.name: way.base_url for way in ways}
    return Prices(price_table(settings.spending.price), lambda endpoint, model: price_of(urls[endpoint], model))


def _budget(settings: Settings, view: Run) -> list[Chore]:
    """The user's cap on money and tokens, judged with every answer."""
    spending = settings.spending
    if not (spending.max_cost or spending.max_tokens_total):
        return []
    budget = Budget(spending, view.prices, lambda: view.engine.scheduler.sent)

    def judge(event: Event) -> None:
        budget(event)
        view.engine.drain_if(budget.over)

    view.engine.outbox.listeners.append(judge)
    return []


def _ending(view: Run) -> Report:
    """The end in figures. A run whose last request ended while it was being stopped has simply ended."""
    job, stopped = view.job, view.engine.stopping
    if not view.engine.scheduler.open and view.engine.fed:
        view.meter.total, stopped = view.meter.total or view.snapshot().done, ""
    exit_code = 128 + view.signal if stopped and view.signal else 0
    view.trail.take()
    snapshot = view.snapshot()
    summary = summarise(snapshot, job.name, stopped, exit_code)
    page = str(job.folder / PAGE) if job.folder else ""
    return Report(summary, snapshot, job.results, job.errors, tuple(view.diagnose()), page)
