"""A job by way of a batch service: its open lines are uploaded in parts, and what comes back is adopted (`adoption`).

    open lines ──► part files ──► upload ──► create ──► look … look ──► download ──► retry --done

Rules:

1. What is under way stands in `X.run/batches/state.json`, written after each step. A killed command goes on from there; the
   batches themselves go on anyway. Deleted, it costs money, never results.
2. A part holds one url and one model, as the services want it, and is bounded in lines and bytes; one is in memory at a time.
3. Only lines of an API's routes go into a part. All else, and whatever the batches leave open, is sent by ordinary calls then.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from secrets import token_hex

import msgspec
from msgspec import Raw, Struct, structs

from batchrunner import simulator
from batchrunner.batch_api import ENDED, Batch, BatchApi, Pause
from batchrunner.core.address import NO_PROXY
from batchrunner.core.asking import asking
from batchrunner.core.model import Request, Result, Route
from batchrunner.core.service import as_said
from batchrunner.core.wording import plural, seconds
from batchrunner.disk import replace
from batchrunner.errors import FileError, StopError, UsageError
from batchrunner.filing import FileJob
from batchrunner.keyring import Door, doors
from batchrunner.meter import Meter
from batchrunner.network import proxy_for, proxy_secrets
from batchrunner.passing import STDOUT
from batchrunner.reopening import Reopen
from batchrunner.secret import redactor
from batchrunner.settings import Settings
from batchrunner.spooling import STDIN
from batchrunner.transport import Transport

MOST_LINES = 10_000  # of a part: the services take 50,000, but an answer must come down again in one piece
MOST_BYTES = 32 * 1024 * 1024  # they take 200 MB
MOST_OPEN = 32  # parts that are filled at the same time
FIRST_LOOK, LONGEST_LOOK = 2.0, 60.0  # seconds between two looks
STATE = "state.json"
Note = Callable[[str], None]


class Part(Struct):
    """One part, and how far it is. `status` is the service's own word for the batch, or empty."""

    name: str
    url: str
    mark: str
    lines: int = 0
    file_id: str = ""
    batch_id: str = ""
    status: str = ""
    fetched: bool = False


class State(Struct):
    """All that is under way."""

    v: int
    base_url: str
    parts: list[Part]


class _Line(Struct):
    custom_id: str
    method: str
    url: str
    body: Raw


async def submit(
    settings: Settings,
    note: Note,
    reopen: Reopen | None = None,
    environ: Mapping[str, str] = os.environ,
    pause: Pause = asyncio.sleep,
) -> list[Path]:
    """Have the open lines of a job answered by the first endpoint's batch service, however long that takes; the files it gave.

    `note` is told each step, `reopen` says which failures are asked again. UsageError: as for a run; E003 where there
    is no file to go on from. StopError E301, E302, E303, E308.
    """
    if settings.input == STDIN or settings.output == STDOUT:
        message = "a batch takes hours, and is gone on with: --via batch needs a file, and one to write to"
        raise UsageError("E003", message, "save what is piped in a file first, and name -o FILE")
    job = FileJob(settings, reopen)
    await job.open(Meter(0.0))
    try:
        door = doors(settings.service, environ)[0]
        async with _service(door, settings, environ, pause) as api:
            shelf = Shelf(job.paths.batches, door.base_url)
            await job.begin()
            if not shelf.state.parts:
                await _fill(shelf, job.source([door.base_url], settings.service.model))
            async with asyncio.timeout(settings.stopping.max_time or None):
                await _Submission(api, shelf, note, pause).run()
            return shelf.fetched()
    except TimeoutError:
        message = f"the time allowed is over (max_time {seconds(settings.stopping.max_time)}); the batches go on without us"
        raise StopError("E303", message, "the same command goes on with them") from None
    finally:
        await job.close(None)


@asynccontextmanager
async def _service(door: Door, settings: Settings, environ: Mapping[str, str], pause: Pause) -> AsyncIterator[BatchApi]:
    async with AsyncExitStack() as stack:
        url = door.base_url
        if door.simulated:
            url = (await stack.enter_async_context(simulator.Simulator(simulator.profile_named(url)))).url
        proxy = proxy_for(door.base_url, settings.connection.proxy, environ)
        transport = Transport(
            door.name,
            url,
            structs.replace(settings.connection, proxy=proxy or NO_PROXY),
            headers=door.headers,
            secret=door.opening,
            redact=redactor(list(chain(door.secrets, proxy_secrets(proxy)))),
            ids=door.provider.ids,
        )
        await stack.enter_async_context(transport)
        rpm = as_said(settings.pacing, door.row).rpm
        yield BatchApi(transport, settings.timeouts, settings.retries, rpm, pause)


class Shelf:
    """The folder of what is under way."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        folder.mkdir(0o700, exist_ok=True)
        self.state = self._read(base_url)

    def save(self) -> None:
        """Write the state down, in one step."""
        replace(self.folder / STATE, msgspec.json.format(msgspec.json.encode(self.state)) + b"\n")

    def drop(self, part: Part) -> None:
        """Forget a part: its lines are open again."""
        self.state.parts.remove(part)
        self.save()

    def fetched(self) -> list[Path]:
        """What has come back, as far as it is there."""
        files = (self.folder / f"{part.name}.{kind}.jsonl" for part in self.state.parts for kind in ("output", "errors"))
        return [path for path in files if path.exists() and path.stat().st_size]

    def _read(self, base_url: str) -> State:
        path = self.folder / STATE
        try:
            state = msgspec.json.decode(path.read_bytes(), type=State)
        except FileNotFoundError:
            return State(1, base_url, [])
        except (OSError, msgspec.MsgspecError) as error:
            hint = f"its batches may still be running at {base_url}; to give them up:  rm -r {self.folder}"
            raise FileError("E404", f"{path} cannot be read: {error}", hint) from None
        if state.base_url != base_url and state.parts:
            hint = f"go on there: --base-url {state.base_url}\nor give them up: rm -r {self.folder}"
            raise UsageError("E003", f"batches of this job are under way at {state.base_url}", hint)
        return state


# ---- parts ----


async def _fill(shelf: Shelf, source: AsyncIterator[list[Request | Result]]) -> None:
    """Write the open lines into part files, and note them all at once: before that, nothing has been begun."""
    filling = _Filling(shelf.folder)
    async for block in source:
        for item in block:
            if isinstance(item, Request) and item.route is not Route.HTTP:
                filling.add(item)
    shelf.state.parts = filling.finished()
    shelf.save()


class _Filling:
    """Part files while they are filled: at any time one for each path and model, as far as there is room for them in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[Part] = []
        self._open: OrderedDict[tuple[str, str], tuple[Part, bytearray]] = OrderedDict()

    def add(self, request: Request) -> None:
        """Put the line of a request into the part where it belongs."""
        key = (request.path, request.model)
        part, content = self._open.get(key) or self._begin(key)
        content += _line_of(request)
        part.lines += 1
        if part.lines >= MOST_LINES or len(content) >= MOST_BYTES:
            self._finish(key)
        elif len(self._open) > MOST_OPEN or sum(len(held) for _, held in self._open.values()) > MOST_BYTES:
            self._finish(next(iter(self._open)))

    def finished(self) -> list[Part]:
        """All of them, in the order they were begun."""
        for key in list(self._open):
            self._finish(key)
        return self._parts

    def _begin(self, key: tuple[str, str]) -> tuple[Part, bytearray]:
        self._parts.append(Part(f"part-{len(self._parts) + 1:04}", key[0], token_hex(8)))
        return self._open.setdefault(key, (self._parts[-1], bytearray()))

    def _finish(self, key: tuple[str, str]) -> None:
        part, content = self._open.pop(key)
        replace(self._folder / f"{part.name}.jsonl", bytes(content))


def _line_of(request: Request) -> bytes:
    body = asking(request.body, stream=False) if request.stream else request.body
    return msgspec.json.encode(_Line(request.id, "POST", request.path, Raw(body))) + b"\n"


# ---- the way ----


class _Submission:
    """The parts on their way."""

    def __init__(self, api: BatchApi, shelf: Shelf, note: Note, pause: Pause) -> None:
        self._api = api
        self._shelf = shelf
        self._note = note
        self._pause = pause
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Return when every batch has ended and is here."""
        for part in self._shelf.state.parts:
            await self._begin(part)
        wait = FIRST_LOOK
        while open_parts := [part for part in self._shelf.state.parts if not part.fetched]:
            for part in open_parts:
                await self._look(part)
            if any(not part.fetched for part in self._shelf.state.parts):
                await self._pause(wait)
                wait = min(LONGEST_LOOK, 1.5 * wait)

    async def _begin(self, part: Part) -> None:
        if part.batch_id:
            return
        resumed = bool(part.file_id)
        if not part.file_id:
            content = await asyncio.to_thread((self._shelf.folder / f"{part.name}.jsonl").read_bytes)
            part.file_id = await self._api.upload(f"{part.name}.jsonl", content, part.mark)
            self._shelf.save()
        found = await self._api.find(part.mark) if resumed else None
        batch = found or await self._api.create(part.file_id, part.url, part.mark)
        part.batch_id, part.status = batch.id, batch.status
        self._shelf.save()
        asked = plural(part.lines, "request")
        self._note(f"batch {batch.id}: {asked} to {part.url}; Ctrl-C is safe, the same command goes on with it")

    async def _look(self, part: Part) -> None:
        batch = await self._api.look(part.batch_id)
        self._tell(batch)
        part.status = batch.status
        if batch.status in ENDED:
            await self._fetch(part, batch)
            part.fetched = True
            self._shelf.save()
            self._refuse(part, batch)

    async def _fetch(self, part: Part, batch: Batch) -> None:
        for kind, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
            if file_id:
                content = await self._api.content(file_id)
                await asyncio.to_thread(replace, self._shelf.folder / f"{part.name}.{kind}.jsonl", content)

    def _refuse(self, part: Part, batch: Batch) -> None:
        """A batch that was refused as a whole has cost nothing, and says something that the user must know."""
        if batch.status != "failed":
            return
        self._shelf.drop(part)
        flaws = (batch.errors.data if batch.errors else None) or []
        told = "; ".join(map(str, flaws[:3])) or "without a reason"
        hint = "correct the lines and run the same command again, or send them one by one: --via calls"
        raise StopError("E308", f"the service has refused batch {batch.id}: {told}", hint)

    def _tell(self, batch: Batch) -> None:
        counts = batch.request_counts
        told = batch.status + (f", {counts.completed + counts.failed:,} of {counts.total:,}" if counts and counts.total else "")
        if self._said.get(batch.id) != told:
            self._said[batch.id] = told
            self._note(f"batch {batch.id}: {told}")
