"""run(): the only wiring.

    settings ─► job (lock, repair, what is done) ─► doors (addresses, keys) ─► engine ─► summary

Rules:

1. Rooms meet only here: each gets what it needs as an argument.
2. Everything that can refuse does so before the first request is sent, and in this order: input and output, then endpoints.
   Only then does the job `begin`: until it does, nothing has changed.
3. However a run ends, the journal is closed, and the counts add up: those of a run that fails in the middle go with the error.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, structs

from batchrunner import simulator
from batchrunner.caps import capped
from batchrunner.carriers import Transport
from batchrunner.channel import Opening
from batchrunner.core.cost import Prices, price_table
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Limit
from batchrunner.core.model import Request, Result
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.service import as_said
from batchrunner.core.stopping import alike
from batchrunner.core.trail import Moment
from batchrunner.crew import BALANCE_EVERY, TEND_EVERY, Crew
from batchrunner.engine import Chore, Engine
from batchrunner.errors import BatchError
from batchrunner.expectation import judge_of, seal
from batchrunner.filing import FileJob
from batchrunner.hooks import Hooks
from batchrunner.job import Job
from batchrunner.keyring import Door
from batchrunner.learned import Memory
from batchrunner.listed import load, price_of
from batchrunner.looking import at_hand, failures, kind_named, standing_of
from batchrunner.meter import Gauges, Meter, Snapshot
from batchrunner.network import fitted
from batchrunner.outbox import Deliver, Listener, Sink
from batchrunner.passing import STDOUT, PipeJob
from batchrunner.paths import PAGE
from batchrunner.pilot import Pilot
from batchrunner.reopening import Reopen
from batchrunner.replay import last_moment
from batchrunner.reuse import reuse_of, shared_cache
from batchrunner.settings import Settings
from batchrunner.slimming import Slimmer, slimmer_of
from batchrunner.spooling import as_lines
from batchrunner.summary import Report, summarise
from batchrunner.trail import Trail
from batchrunner.view import Run as Run
from batchrunner.ways import Ways

if TYPE_CHECKING:
    from batchrunner.cache import Cache

OPEN_PER_SLOT = 4  # requests read ahead for each one that may be in flight
LEAST_OPEN = 1000
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
    """Bring a job to its end, or as far as it goes.

    Raises BatchError when it cannot begin, or something of ours fails: then with the report of how far it came.
    """
    job = job or (PipeJob(settings) if settings.output == STDOUT else FileJob(settings, reopen))
    meter = Meter(asyncio.get_running_loop().time())
    ending: Report | None = None
    trail: Trail | None = None
    failure: BatchError | None = None
    try:
        async with AsyncExitStack() as stack:
            hooks, slimmer = _judging(settings, hooks, stack)
            await job.open(meter)
            ways = Ways(settings.service, settings.connection, environ)
            job.redact = ways.redact
            settings, fit = _fitted(settings, ways.doors)
            lanes = await _lanes(ways, settings, environ, stack)
            prices, simulated = _prices(settings, ways.doors), any(door.simulated for door in ways.doors)
            await asyncio.to_thread(load, [door.base_url for door in ways.doors])
            shared = shared_cache(settings.reusing)
            await job.begin()
            note, room = "\n".join(filter(None, (job.note, fit))), settings.concurrency.max_concurrency if fit else 0
            view = Run(job, meter, lanes.endpoints, settings, prices, simulated, note, room)
            trail = view.leave_trail(origins)
            hooks, reusing = _reusing(settings, job, shared, ways.doors, hooks, stack)
            hooks, piloting = _piloting(settings, prices, ways.doors, hooks)
            sink, told = trail.vitals.clocked(job), [*trail.listeners(), *listeners, *piloting]
            engine = view.engine = _engine(settings, job, meter, lanes, hooks, told, deliver, sink, slimmer)
            learning = _remembering(settings, job, ways.doors, engine.scheduler, stack)
            chores = [*job.chores(), *reusing, *learning, *trail.chores(), *_tending(lanes.crew, trail)]
            caps = capped(settings, engine, meter, prices)
            try:
                await engine.run([*chores, *caps, *watch(view)])
            except BatchError as error:
                failure = error
            except asyncio.CancelledError:
                trail.take()  # no ending will say what it has cost
                raise
            ending = _ending(view, failure)
    finally:  # the connections have gone: their descriptors may be needed for the files
        await _close(job, trail, ending, failure)
    return ending


def status(settings: Settings) -> Report:
    """How a job stands, from its files alone. Exit code 0 when all is done well, 1 with failures, 3 while something is to do."""
    with at_hand(settings) as paths:
        standing = standing_of(as_lines(settings), paths)
    meter = Meter(0.0, standing.total)
    meter.resume(standing.succeeded, failures(standing))
    meter.duplicates, moment = standing.repeated, last_moment(paths)
    snapshot = _as_run(meter.snapshot(0.0), moment) if moment else meter.snapshot(0.0)
    summary = summarise(snapshot, settings.input, exit_code=3 if standing.pending else 0)
    page = str(paths.report) if paths.report.exists() else ""
    results, errors, undecided = str(paths.results), str(paths.errors), standing.undecided(settings.changed)
    return Report(summary, snapshot, results, errors, page=page, counted=moment is not None, undecided=undecided)


def _as_run(standing: Snapshot, moment: Moment) -> Snapshot:
    """Lines as they stand, with what the run of this moment has counted beside them."""
    names = ("attempts", "retries", "recovered", "maybe_billed", "untold", "tokens_in", "tokens_out")
    counts = {name: getattr(moment, name) for name in names}
    kinds = {kind_named(name): count for name, count in moment.kinds.items()}
    return structs.replace(standing, seconds=moment.at, kinds=kinds, gauges=Gauges(cost=moment.cost), **counts)


def _judging(settings: Settings, hooks: Hooks, stack: AsyncExitStack) -> tuple[Hooks, Slimmer | None]:
    """The hooks with all that judges an answer, the user's own, what it must look like and whether its images were too large."""
    hooks = structs.replace(hooks, judge=judge_of(settings.expectation, hooks.judge))
    slimmer = slimmer_of(settings.slimming)
    if slimmer:
        stack.callback(slimmer.close)
        hooks = structs.replace(hooks, judge=slimmer.judge(hooks.judge))
    return hooks, slimmer


def _fitted(settings: Settings, ways: Sequence[Door]) -> tuple[Settings, str]:
    """No more in flight than this process may have open, and what to say of it."""
    limits, fit = fitted(settings.concurrency, len(ways))
    return structs.replace(settings, concurrency=limits), fit


async def _address(door: Door, stack: AsyncExitStack) -> str:
    """Where the endpoint is; the embedded one is started."""
    if not door.simulated:
        return door.base_url
    return (await stack.enter_async_context(simulator.Simulator(simulator.profile_named(door.base_url)))).url


def _endpoint(door: Door, url: str, settings: Settings) -> Endpoint:
    """The endpoint behind a door, with what its row says otherwise than the settings."""
    row, alike_ = door.row, alike(settings.stopping)
    limit, pacing = Limit(as_said(settings.concurrency, row)), as_said(settings.pacing, row)
    return Endpoint(door.name, url, limit, alike_, models=row.models, weight=row.weight, pacing=pacing)


class _Lanes(Struct, frozen=True):
    """Where requests go, and what sends them there."""

    endpoints: Sequence[Endpoint]
    transports: Mapping[str, Transport]
    crew: Crew | None


async def _lanes(ways: Ways, settings: Settings, environ: Mapping[str, str], stack: AsyncExitStack) -> _Lanes:
    """All endpoints, and what sends to each, open: transports of our own, and for all of them a crew of workers."""
    urls = {door.name: await _address(door, stack) for door in ways.doors}
    endpoints = [_endpoint(door, urls[door.name], settings) for door in ways.doors]
    ours = {name: await stack.enter_async_context(transport) for name, transport in ways.transports(urls).items()}
    if settings.processes.workers == 1:
        return _Lanes(endpoints, ours, None)
    crew = Crew(settings.processes.workers - 1, Opening(settings.service, settings.connection, urls), environ)
    return _Lanes(endpoints, ours, await stack.enter_async_context(crew))


def _tending(crew: Crew | None, trail: Trail) -> list[Chore]:
    """Workers are looked after, and their vitals are shown with ours."""
    if not crew:
        return []
    trail.vitals.others = crew.vitals
    return [Chore(TEND_EVERY, crew.tend), Chore(BALANCE_EVERY, crew.balance)]


def _engine(
    settings: Settings,
    job: Job,
    meter: Meter,
    lanes: _Lanes,
    hooks: Hooks,
    listeners: Sequence[Listener],
    deliver: Deliver | None,
    sink: Sink | None = None,
    slimmer: Slimmer | None = None,
) -> Engine:
    endpoints = lanes.endpoints
    slots = sum(endpoint.limit.most for endpoint in endpoints)
    most_open = max(LEAST_OPEN, OPEN_PER_SLOT * slots)
    scheduler = Scheduler(
        endpoints, settings.retries, settings.timeouts, most_open, settings.streaming, settings.hedging, meter.left
    )
    source = job.source([endpoint.base_url for endpoint in endpoints], settings.service.model)
    return Engine(
        source=slimmer.blocks(source) if slimmer else source,
        scheduler=scheduler,
        transports=lanes.transports,
        workers=lanes.crew,
        sink=sink or job,
        deliver=deliver,
        listeners=[meter, *listeners],
        hooks=hooks,
        grace=settings.stopping.grace,
    )


def _reusing(
    settings: Settings, job: Job, shared: "Cache | None", ways: Sequence[Door], hooks: Hooks, stack: AsyncExitStack
) -> tuple[Hooks, list[Chore]]:
    """Answers are used again where the user wants it. They are only alike from the same endpoints, under the same rules."""
    salt = "\n".join([*(way.base_url for way in ways), "judged" if hooks.judge else "", seal(settings.expectation)])
    reuse = reuse_of(settings.reusing, shared, job.folder, salt, job.redact)
    if not reuse:
        return hooks, []
    stack.callback(reuse.close)
    return structs.replace(hooks, admit=reuse.admit, echo=reuse.answer), [Chore(FLUSH_EVERY, reuse.flush)]


def _remembering(settings: Settings, job: Job, ways: Sequence[Door], scheduler: Scheduler, stack: AsyncExitStack) -> list[Chore]:
    """Begin with what the last run has learned of these endpoints, and leave what this one learns."""
    memory = Memory(job.folder, settings.service.model, {door.name: door.base_url for door in ways})
    memory.recall(scheduler)
    stack.callback(memory.keep, scheduler)
    return memory.chores(scheduler)


def _prices(settings: Settings, doors: Sequence[Door]) -> Prices:
    """What tokens cost: by the user's own table, else by the list prices of whoever answers at an endpoint."""
    urls = {door.name: door.base_url for door in doors}
    return Prices(price_table(settings.spending.price), lambda endpoint, model: price_of(urls[endpoint], model))


def _piloting(settings: Settings, prices: Prices, doors: Sequence[Door], hooks: Hooks) -> tuple[Hooks, list[Listener]]:
    """With a cap on money the first request of a model without a price goes ahead alone."""
    if not settings.spending.max_cost:
        return hooks, []
    pilot, before = Pilot(lambda model: all(prices.of(door.name, model) for door in doors)), hooks.admit

    async def admit(request: Request) -> Request | Result | None:
        admitted = await before(request) if before else request
        return await pilot.admit(admitted) if isinstance(admitted, Request) else admitted

    return structs.replace(hooks, admit=admit), [pilot]


def _ending(view: Run, failure: BatchError | None) -> Report:
    """The end in figures. A run whose last request ended while it was being stopped has simply ended."""
    job, stopped = view.job, view.engine.stopping
    if not view.engine.scheduler.open and view.engine.feeder.fed:
        view.meter.total, stopped = view.meter.total or view.snapshot().done, ""
    exit_code = 128 + view.signal if stopped and view.signal else 0
    view.trail.take()
    snapshot = view.snapshot()
    summary = summarise(snapshot, job.name, stopped, exit_code)
    if failure:
        summary = failure.ended(summary)
    page = str(job.folder / PAGE) if job.folder else ""
    return Report(summary, snapshot, job.results, job.errors, tuple(view.diagnose()), page)


async def _close(job: Job, trail: Trail | None, ending: Report | None, failure: BatchError | None) -> None:
    """Let the files go. What has failed, in the run or here, is raised with the report of how far the run came."""
    summary = ending.summary if ending else None
    if trail:
        trail.close(summary, ending.findings if ending else ())
    try:
        await job.close(summary)
        if failure:
            raise failure
    except BatchError as error:
        error.report = ending and structs.replace(ending, summary=error.ended(ending.summary))
        raise
