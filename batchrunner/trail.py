"""The trail of a run: `events.jsonl` and `attempts.jsonl` in its folder, and its last moments in memory.

    Event ──► tally ──┐
    meter ──snapshot──┼──► moment ──► events.jsonl · recent moments (diagnosis, dashboard)
    vitals ───────────┘
    Event ──► attempts.jsonl

Rules:

1. The trail is never worth a run: a file that cannot be written falls silent with one note (`scroll`).
2. A moment is taken every half to five seconds, less often in a long run: about 2,000 of them in a month.
   In memory the last moments are kept; when there are too many, two become one.
3. The records are those of `core.trail`; no prompt, answer or key is in them.
"""

import asyncio
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from batchrunner.attempts import Attempts, Keeping
from batchrunner.core.model import Event
from batchrunner.core.tally import LaneTally, Tables, Tally
from batchrunner.core.trail import End, Finding, LaneMoment, Moment, Ourselves, Start, TrailLine, joined
from batchrunner.engine import Chore
from batchrunner.meter import Snapshot
from batchrunner.records import written_out
from batchrunner.scroll import Scroll
from batchrunner.summary import Summary
from batchrunner.vitals import Vitals

TICK = 0.25
WRITE_EVERY = 1.0
FIRST_EVERY, EVERY = 0.5, 5.0  # seconds between two moments: at the start, and later
PER_RUN = 250  # and longer in a long run: its age divided by this
RECENT = 400  # moments in memory
EVENTS_SIZE = 64 * 2**20
LIBRARIES = ("aiohttp", "aiolimiter", "genai-prices", "msgspec", "orjson", "tqdm", "uvloop")


class Sight(Struct, frozen=True, kw_only=True):
    """What is so at this moment, as whoever runs the requests sees it."""

    snapshot: Snapshot
    lanes: Sequence[LaneMoment]  # without what the tally knows
    oldest: float = 0.0
    cost: float | None = None


class Opening(Struct, frozen=True, kw_only=True):
    """What the first line of a session says, besides what the machine says of itself."""

    version: str
    input: str
    total: int | None = None
    resumed: int = 0
    endpoints: Sequence[str] = ()
    simulated: bool = False
    settings: Mapping[str, object] = {}
    origins: Mapping[str, str] = {}


class Trail:
    """The trail of one run: its `listeners` hear every event, its `chores` are done while the run goes on, then `close`.

    `folder` is where the files are kept, None for nowhere; `look` says how things stand; `note` is told, once, of a file
    that has failed.
    """

    def __init__(
        self,
        folder: Path | None,
        opening: Opening,
        look: Callable[[], Sight],
        note: Callable[[str], None],
        keeping: Keeping,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._began = self._taken_at = self._clock()
        self._look = look
        self._events = Scroll(folder / "events.jsonl", EVENTS_SIZE, note) if folder else None
        self.start = _start(opening, _session_of(self._events.last()) + 1 if self._events else 1)
        self._attempts: Attempts | None = None
        if folder:
            scroll = Scroll(folder / "attempts.jsonl", keeping.log_size, note)
            self._attempts = Attempts(scroll, keeping, self.start.session, self._began, self.start.wall)
        self.tally = Tally()
        self.vitals = Vitals(self._clock, TICK)
        self.recent: list[Moment] = []
        self._write(self.start)

    def listeners(self) -> list[Callable[[Event], None]]:
        """Who must hear of every event."""
        return [self.tally, *([self._attempts] if self._attempts else [])]

    def chores(self) -> list[Chore]:
        """A tick four times a second, and the writing once a second."""
        return [Chore(TICK, self._tick), *([Chore(WRITE_EVERY, self._flush)] if self._attempts else [])]

    def take(self) -> Moment:
        """Take a moment of now, keep it and write it."""
        now = self._clock()
        moment = self._moment(now, self.vitals.taken(), LaneTally.taken)
        span, self._taken_at = now - self._taken_at, now
        self.tally.adapt(span)
        if self._attempts:
            self._attempts.know(moment)
        self._write(moment)
        self.recent.append(moment)
        if len(self.recent) > RECENT:
            self.recent = thinned(self.recent)
        return moment

    def glance(self) -> Moment:
        """A moment of now that is not kept: what it counts, the next one that is taken counts as well."""
        return self._moment(self._clock(), self.recent[-1].us if self.recent else Ourselves(), LaneTally.tables)

    def close(self, summary: Summary | None, findings: Sequence[Finding] = ()) -> None:
        """Write the end, and let the files go. `summary` is None when the run did not get to have one."""
        if summary is not None:
            end = End(
                session=self.start.session,
                at=round(self._clock() - self._began, 3),
                wall=_wall(),
                stopped=summary.stopped,
                exit_code=summary.exit_code,
                summary=msgspec.to_builtins(summary),
                findings=list(findings),
            )
            self._write(end)
        if self._events:
            self._events.close()
        if self._attempts:
            self._attempts.scroll.close()

    def _moment(self, now: float, us: Ourselves, tables: Callable[[LaneTally], Tables]) -> Moment:
        at, span = now - self._began, now - self._taken_at
        return _moment(self.start.session, at, span, self._look(), self.tally, us, tables)

    async def _tick(self) -> None:
        self.vitals.tick()
        now = self._clock()
        age = now - self._began
        if now - self._taken_at >= pause(age) - TICK / 2:
            self.take()

    async def _flush(self) -> None:
        assert self._attempts is not None
        self._attempts.scroll.flush()

    def _write(self, record: TrailLine) -> None:
        if self._events:
            self._events.add(written_out(record))  # a path may hold anything
            self._events.flush()


def pause(age: float) -> float:
    """Seconds between two moments in a run of this age."""
    return max(min(max(age / 4, FIRST_EVERY), EVERY), age / PER_RUN)


def thinned(moments: Sequence[Moment]) -> list[Moment]:
    """Half as many moments, each of which stands for two."""
    pairs = zip(moments[::2], moments[1::2], strict=False)
    return [*(joined(first, second) for first, second in pairs), *moments[len(moments) // 2 * 2 :]]


def _moment(
    session: int, at: float, span: float, sight: Sight, tally: Tally, us: Ourselves, tables: Callable[[LaneTally], Tables]
) -> Moment:
    seen = sight.snapshot
    return Moment(
        session=session,
        at=round(at, 3),
        span=round(span, 3),
        total=seen.total,
        done=seen.done,
        succeeded=seen.succeeded,
        failed=seen.failed,
        invalid=seen.invalid,
        resumed=seen.resumed,
        attempts=seen.attempts,
        retries=seen.retries,
        recovered=seen.recovered,
        unsent=seen.unsent,
        untold=seen.untold,
        room=seen.gauges.room,
        maybe_billed=seen.maybe_billed,
        tokens_in=seen.tokens_in,
        tokens_out=seen.tokens_out,
        cost=sight.cost,
        kinds={kind.value: count for kind, count in seen.kinds.items()},
        failures={kind.value: count for kind, count in seen.failures.items()},
        causes=dict(tally.causes),
        in_flight=seen.gauges.in_flight,
        limit=seen.gauges.limit,
        retrying=seen.gauges.retrying,
        oldest=round(sight.oldest, 3),
        lanes=[_lane(lane, tally, tables) for lane in sight.lanes],
        us=us,
        spend=tally.spend(),
        prompts=tally.prompts(),
        answers=tally.answers(),
        judged=tally.judged(),
    )


def _lane(lane: LaneMoment, tally: Tally, tables: Callable[[LaneTally], Tables]) -> LaneMoment:
    counted = tally.lanes.get(lane.name)
    if counted is None:
        return lane
    phases, deaths, kills = tables(counted)
    return structs.replace(
        lane,
        attempts=counted.attempts,
        succeeded=counted.succeeded,
        pushed_back=counted.pushed_back,
        phases=phases,
        deaths=deaths,
        kills=kills,
    )


class _Numbered(Struct):
    session: int = 0


def _session_of(line: bytes) -> int:
    """The session that an earlier run's last line belongs to; 0 when there is none to be read."""
    try:
        return msgspec.json.decode(line, type=_Numbered).session if line else 0
    except msgspec.MsgspecError:
        return 0


def _start(opening: Opening, session: int) -> Start:
    return Start(
        session=session,
        wall=_wall(),
        version=opening.version,
        python=platform.python_version(),
        platform=platform.platform(),
        libraries={name: version for name in LIBRARIES if (version := _version(name))},
        pid=os.getpid(),
        input=opening.input,
        total=opening.total,
        resumed=opening.resumed,
        endpoints=list(opening.endpoints),
        simulated=opening.simulated,
        settings=dict(opening.settings),
        origins=dict(opening.origins),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _wall() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
