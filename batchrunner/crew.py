"""The workers of a run: processes that hold its connections, so that it can use more than one core.

    engine ──attempt──► crew ──► the worker with the least in flight (`worker`) ──► endpoint
           ◄──outcome──      ◄──
           ──► or the run's own connections, for its share ───────────────────────► endpoint

Rules:

1. Everything is decided and kept in one place, the run: one scheduler, one limit and pace for each endpoint, one journal.
   What is spread over processes is the wire: connections, TLS, HTTP, streams, and the judging of answers. Thus nothing has
   to be divided among workers, and nothing that they hold is worth keeping.
2. A worker that dies takes no result with it: what it had under way is sent again, spends nothing of its request, and may
   be on the bill. It is replaced; one place in the crew where worker after worker dies ends the run, in order (E407).
   One that falls silent is ended, for the deadlines of its attempts stand still with it.
3. When the run dies, the workers see the end of their pair and end too.
4. The run is one of the workers: it makes attempts itself until the first of the others is ready, and then such a share of
   them that it is as busy as they are. Who waits for a core is busy: somebody else may be on it, such as the server.
   What the run makes itself costs no message. Where each of them can have a core, none is on the run's.
5. They start a few at a time: a hundred that import together would leave no core to the run for a minute.
"""

import asyncio
from collections.abc import Callable, Mapping
from math import sqrt
from types import TracebackType
from typing import Annotated, Any, Self

from msgspec import Struct

from batchrunner.beside import Process, apart, cores, started
from batchrunner.carriers import Ended
from batchrunner.channel import FROM_WORKER, Answered, Asked, Cancel, Channel, Granted, Opening, Pulse, Ready, Send
from batchrunner.core.model import Attempt, Kind, Outcome, Timing
from batchrunner.core.policy import option
from batchrunner.core.trail import Ourselves
from batchrunner.core.wording import plural
from batchrunner.errors import FileError
from batchrunner.vitals import Demand
from batchrunner.wire import Review

WORKER = "batchrunner.worker"  # the room of a worker
TEND_EVERY = 0.25
BALANCE_EVERY = 0.25  # as often as the workers say how busy they are
DEATHS = 3  # in one place of the crew without an answer between them: the next one would fare no better
AT_ONCE = 4  # workers that may start together on fewer cores: more would hold up each other, and the run
SHARE = 8.0  # in flight in each worker for one of the run's own, to begin with: deciding and keeping is half of its work
SHARES = (1.0, 64.0)
SILENT = 40  # looks without a word from a worker, which speaks at each of them: it is stopped or stuck, and so is what it holds


class Processes(Struct, frozen=True, kw_only=True):
    """How the work is spread over this machine."""

    workers: Annotated[
        int,
        option(
            "processes that hold connections, this one included: more than one core for TLS, streams and high rates",
            group="Speed",
            metavar="N",
            main=False,
            ge=1,
            le=256,
        ),
    ] = 1


class Place:
    """One place in the crew, and the worker that fills it. `changed` is called when it can send, or no longer."""

    review: Review
    ended: Ended

    def __init__(self, opening: Opening, environ: Mapping[str, str], changed: Callable[[], None]) -> None:
        self.ready = False
        self.deaths = 0  # since the last answer
        self.errands: dict[int, Attempt] = {}  # what the worker has under way
        self.us, self.busy = Ourselves(), 0.0  # as the worker last said
        self._silent = 0  # looks since then
        self._opening = opening
        self._environ = environ
        self._changed = changed
        self._channel: Channel | None = None
        self._process: Process | None = None
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._answers: Mapping[type, Callable[[Any], None]] = {
            Answered: self._answered,
            Asked: self._asked,
            Pulse: self._pulse,
            Ready: self._begin,
        }

    @property
    def empty(self) -> bool:
        """Whether a worker is wanted here."""
        return self._channel is None

    async def fill(self) -> None:
        """Start a worker. FileError E407 when too many have died here, or the system has no room for one."""
        if self.deaths >= DEATHS:
            message = f"{self.deaths} worker processes have died one after the other, the last ones without an answer"
            hint = "look for a lack of memory, then run the same command again; or do without workers: --workers 1"
            raise FileError("E407", message, hint)
        if self._process:
            await _farewell(self._process)
        try:
            end, self._process = started(WORKER, environ=self._environ)
        except OSError as error:
            raise FileError("E407", f"no worker process can be started: {error.strerror}", "ask for fewer: --workers N") from None
        self._silent = 0
        self._channel = await Channel.over(end, FROM_WORKER, self._hear, self._lost)
        self._channel.say(self._opening)

    def send(self, attempt: Attempt) -> None:
        """Have the worker make this attempt."""
        assert self._channel
        self._number = number = self._number + 1
        self.errands[number] = attempt
        self._channel.say(Send(number, attempt))

    def drop(self, number: int) -> Attempt:
        """Have the worker make this attempt no longer."""
        assert self._channel
        self._channel.say(Cancel(number))
        return self.errands.pop(number)

    def look(self) -> None:
        """End a worker that has not said a word for too many looks. They are counted, not timed: we may have been held up."""
        self._silent += 1
        if self._silent > SILENT and self._process:
            self._process.kill()

    def settle(self) -> None:
        """Let the worker run on any core but ours."""
        if self._process:
            apart(self._process)

    async def close(self) -> None:
        """Let the worker go; whatever it has under way is given up."""
        if self._channel:
            self._channel.close()
        if self._process:
            await _farewell(self._process)

    def _hear(self, message: Any) -> None:
        self._answers[type(message)](message)

    def _answered(self, message: Answered) -> None:
        self.deaths = 0
        attempt = self.errands.pop(message.number, None)
        if attempt:
            self.ended(attempt, message.outcome)

    def _pulse(self, message: Pulse) -> None:
        self.us, self.busy, self._silent = message.us, message.busy, 0

    def _begin(self, _message: Ready) -> None:
        self.ready = True
        self._changed()

    def _asked(self, message: Asked) -> None:
        attempt = self.errands.get(message.number)
        if attempt and self._channel:
            self._channel.say(Granted(message.number, self.review(attempt, message.phase, message.age)))

    def _lost(self) -> None:
        """The worker has died: what it had under way is lost, and may be on the bill."""
        self.ready, self._channel = False, None
        self.deaths += 1
        self._changed()
        now, errands = self._loop.time(), self.errands
        self.errands = {}
        for attempt in errands.values():
            self.ended(attempt, _crashed(now - attempt.started))


class Crew:
    """The workers of a run. `async with` starts the first of them, `tend` the others.

    They are the `Workers` of an engine. `count` of them are processes of their own; the run is one more.
    """

    def __init__(self, count: int, opening: Opening, environ: Mapping[str, str]) -> None:
        self._places = [Place(opening, environ, self._look) for _ in range(count)]
        self._up: list[Place] = []
        self._share = SHARE
        self._demand = Demand(asyncio.get_running_loop().time)

    async def __aenter__(self) -> Self:
        try:
            await self._fill()
        except BaseException:
            await self._dismiss()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._dismiss()

    async def _fill(self) -> None:
        """Start those who are missing, some at a time."""
        begun = sum(not place.empty and not place.ready for place in self._places)
        for place in [place for place in self._places if place.empty][: starting(len(self._places)) - begun]:
            await place.fill()

    async def _dismiss(self) -> None:
        await asyncio.gather(*(place.close() for place in self._places))

    def serve(self, review: Review, ended: Ended) -> None:
        """From now on ask `review` for more time, and tell `ended` what became of each attempt taken, unless it was dropped."""
        for place in self._places:
            place.review, place.ended = review, ended

    def take(self, attempt: Attempt, in_flight: int) -> bool:
        """Make this attempt, one of so many in flight, where the least are; False: the run has less than its share."""
        if not self._up:
            return False
        least = min(self._up, key=_load)
        if (in_flight - self._held()) * self._share <= len(least.errands):
            return False
        least.send(attempt)
        return True

    def _held(self) -> int:
        return sum(map(_load, self._up))

    def drop(self, line: int, number: int) -> Attempt | None:
        """Make this attempt no longer; None: it is not under way here."""
        for place in self._up:
            for name, attempt in place.errands.items():
                if attempt.request.line == line and attempt.number == number:
                    return place.drop(name)
        return None

    def drop_all(self) -> list[Attempt]:
        """Make none of them any longer."""
        return [place.drop(name) for place in self._up for name in list(place.errands)]

    def vitals(self) -> list[Ourselves]:
        """How the workers are doing."""
        return [place.us for place in self._up]

    async def tend(self) -> None:
        """Replace those who have died. FileError E407 where one after the other dies, or none can be started."""
        for place in self._places:
            if not place.empty:
                place.look()
        await self._fill()

    async def balance(self) -> None:
        """Take more or less of the work on, as this process was less or more busy than the others since the last time."""
        if len(self._places) < cores():
            for place in self._up:  # of one that has ended the number may be another's
                place.settle()
        ours, theirs = self._demand.taken(), [place.busy for place in self._up if place.busy]
        if ours and theirs:
            self._share = shared(self._share, ours, sum(theirs) / len(theirs))

    def _look(self) -> None:
        self._up = [place for place in self._places if place.ready]


def starting(count: int) -> int:
    """How many of so many workers may be about to start at any time."""
    return min(count, max(AT_ONCE, cores()))


def crowded(policy: Processes) -> str:
    """What to say of more processes than there are cores for them; "" of no more."""
    there = cores()
    said = f"--workers {policy.workers}: more than the {plural(there, 'core')} that there are for them make a run no faster"
    return said if policy.workers > there else ""


def shared(share: float, ours: float, theirs: float) -> float:
    """How many attempts in a worker stand against one of the run's own, after a time when they were busy like this.

    By the root: what is known of the others may be as old as the last step.
    """
    least, most = SHARES
    return min(most, max(least, share * min(2.0, max(0.5, sqrt(ours / theirs)))))


def _load(place: Place) -> int:
    return len(place.errands)


def _crashed(seconds: float) -> Outcome:
    """The outcome of an attempt whose worker has died: it may have been sent."""
    message = "the worker process that made the attempt has died"
    return Outcome(Kind.CRASHED, message=message, timing=Timing(total=seconds), billed=True)


async def _farewell(process: Process) -> None:
    """End a process that holds nothing worth keeping."""
    process.kill()
    await asyncio.to_thread(process.wait)
