"""A run under way, as those who look on see it.

Rules:

1. Whatever is shown of a run is asked for here; nothing here changes how it goes.
2. What the tally, the meter and the endpoints know separately is put together only when somebody asks.
"""

import asyncio
from collections.abc import Mapping, Sequence
from math import inf

from batchrunner import __version__
from batchrunner.core.cost import Prices
from batchrunner.core.diagnosis import diagnose
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.model import Event
from batchrunner.core.trail import Finding, LaneMoment, Moment
from batchrunner.engine import Engine
from batchrunner.job import Job
from batchrunner.masking import masked
from batchrunner.meter import Gauges, Meter, Snapshot
from batchrunner.settings import Settings, values
from batchrunner.trail import Opening, Sight, Trail


class Run:
    """What may be seen of a run, and through `engine` how it is stopped."""

    engine: Engine
    trail: Trail

    def __init__(
        self,
        job: Job,
        meter: Meter,
        endpoints: Sequence[Endpoint],
        settings: Settings,
        prices: Prices,
        simulated: bool,
        note: str = "",
        room: int = 0,
    ) -> None:
        self.job = job
        self.meter = meter
        self.prices = prices
        self.simulated = simulated
        self.note = note  # what the user should know before it starts; empty for nothing
        self.signal = 0  # the one that stopped it
        self._room = room  # in flight at each endpoint that open files leave; 0: for as many as are wanted
        self._settings = settings
        self._endpoints = endpoints

    @property
    def endpoints(self) -> list[str]:
        """Their names, in order of preference."""
        return [endpoint.name for endpoint in self._endpoints]

    def snapshot(self) -> Snapshot:
        """All figures of this moment."""
        scheduler = self.engine.scheduler
        timeouts = {name: whole for name in self.endpoints if (whole := self._in_force(name)[1])}
        gauges = Gauges(
            in_flight=scheduler.in_flight,
            limit=sum(endpoint.limit.size for endpoint in self._endpoints if not endpoint.stopped),
            room=self._room,
            retrying=scheduler.retrying,
            timeout=max(timeouts.values(), default=0.0),
            timeouts=timeouts,
            oldest=self._oldest(),
            paused=scheduler.paused,
            cost=None if self.meter.unpriced else self.prices.cost(self.trail.tally.spend()),
        )
        return self.meter.snapshot(_now(), gauges)

    def moments(self) -> list[Moment]:
        """The moments of this run so far; in a long one several have become one."""
        return list(self.trail.recent)

    def glance(self) -> Moment:
        """What has been counted since the last of them, and what is so now."""
        return self.trail.glance()

    def diagnose(self) -> list[Finding]:
        """What the diagnosis says by now."""
        return diagnose(self.moments())

    def leave_trail(self, origins: Mapping[str, str]) -> Trail:
        """Begin the trail of this run."""
        shown = {name: masked(name, value) for name, value in values(self._settings).items()}
        opening = Opening(
            version=__version__,
            input=self.job.name,
            total=self.meter.total,
            resumed=self.meter.snapshot(_now()).resumed,
            endpoints=self.endpoints,
            simulated=self.simulated,
            settings=shown,
            origins=origins,
        )
        self.trail = Trail(self.job.folder, opening, self._sight, self._say, self._settings.keeping)
        return self.trail

    def _say(self, line: str) -> None:
        """A line for people: with the events once the run is under way, before that with its opening."""
        if hasattr(self, "engine"):
            self.engine.outbox.post(Event(_now(), None, None, None, line))
        else:
            self.note = f"{self.note}\n{line}".strip()

    def _sight(self) -> Sight:
        snapshot = self.snapshot()
        return Sight(
            snapshot=snapshot,
            lanes=[self._lane(endpoint) for endpoint in self._endpoints],
            oldest=snapshot.gauges.oldest,
            cost=snapshot.gauges.cost,
        )

    def _oldest(self) -> float:
        began = self.engine.scheduler.oldest()
        return 0.0 if began is None else _now() - began

    def _in_force(self, name: str) -> tuple[float, float, str]:
        """The deadlines of what is waited for at an endpoint, else of what ended there last, and why; 0.0: not known."""
        scheduler, counted = self.engine.scheduler, self.trail.tally.lanes.get(name)
        last = counted.last if counted else None
        return scheduler.eldest(name, _now()) or (scheduler.in_force(last) if last else (0.0, 0.0, ""))

    def _lane(self, endpoint: Endpoint) -> LaneMoment:
        first_byte, whole, why = self._in_force(endpoint.name)
        return LaneMoment(
            name=endpoint.name,
            by_chance=endpoint.by_chance,
            in_flight=endpoint.inflight,
            limit=endpoint.limit.size,
            state=_state(endpoint),
            stopped=endpoint.stopped,
            rate=round(endpoint.rate, 3) if endpoint.rate < inf else 0.0,
            own=endpoint.told,
            deadline=round(whole, 3),
            first_byte_deadline=round(first_byte, 3),
            why=why,
        )


def _state(endpoint: Endpoint) -> str:
    if endpoint.stopped:
        return "stopped"
    if endpoint.breaker.open:
        return "resting"
    return "paused" if endpoint.gate.until > _now() else "up"


def _now() -> float:
    return asyncio.get_running_loop().time()
