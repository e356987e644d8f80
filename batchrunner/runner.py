"""The library: the same engine for Python, with results as values and hooks as plain functions.

Rules:

1. No exception per row: a request that fails is a `Result` with an `error`. What stops a whole run is a `BatchError`.
2. Options have the names of the command line (`--max-time` is `max_time`), and what is not given comes from the same places.
3. Nothing is printed unless `display` is given. Closing, cancelling or leaving a stream ends its run in order.
"""

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from batchrunner import origins, roster
from batchrunner.arrivals import Arrivals, Task
from batchrunner.core.model import Result
from batchrunner.engine import end
from batchrunner.errors import BatchError, StopError, UsageError
from batchrunner.export import Exported, export
from batchrunner.filing import FileJob
from batchrunner.foreground import present
from batchrunner.hooking import Classify, OnEvent, Prepare, Validate, hooks_of, reading
from batchrunner.job import Job
from batchrunner.looking import paths_of
from batchrunner.loop import run_loop
from batchrunner.options import Options
from batchrunner.ordering import InOrder
from batchrunner.outbox import Deliver
from batchrunner.passing import STDOUT, MemoryJob
from batchrunner.reopening import Reopen, named, promising
from batchrunner.settings import Settings
from batchrunner.source import Row
from batchrunner.spooling import STDIN
from batchrunner.summary import Report

T = TypeVar("T")
Requests = str | os.PathLike[str] | Iterable[Row] | AsyncIterable[Row]


class Runner:
    """Runs requests with one set of options and hooks. Safe to use for several jobs at once, in any running loop.

    The hooks are plain functions, sync or async:

    - `prepare(request) -> Request`: before a request is first sent, what to send in its place, such as
      `msgspec.structs.replace(request, body=b"...")`. Its `line`, `id` and `digest` stay. Anything else fails the line (E501).
    - `validate(result) -> bool`: of a good answer; False or an exception makes it `invalid_output`, which is asked again
      (`reask` times). Or a type that its text must be, as JSON: a pydantic model, or anything that msgspec reads.
    - `classify(attempt, outcome) -> Kind | None`: another verdict on an attempt, by the name of a kind; None keeps ours.
    - `on_event(event)`: after each settled attempt. Its exceptions are ignored.

    `endpoints` are base URLs, or tables as `[[endpoint]]` in a configuration file has them (`core.service.EndpointRow`), in
    order of preference. Raises UsageError (E001, E002) for an option that does not exist or fit.
    """

    def __init__(
        self,
        *,
        endpoints: Iterable[str | Mapping[str, Any]] = (),
        prepare: Prepare | None = None,
        validate: Validate | type | None = None,
        classify: Classify | None = None,
        on_event: OnEvent | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._options: dict[str, Any] = {**options}
        if rows := list(endpoints):
            self._options[roster.NAME] = rows
        self._hooks = hooks_of(prepare, reading(validate), classify, on_event)
        self._runs: set[Task] = set()  # of streams, while they go on
        self._settings("")  # a bad option is refused here, not at the first request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await end([*self._runs])

    async def run(self, input: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Report:  # noqa: A002
        """Run a file to its end, as the command line does: results beside it or in `output`, the same call again continues.

        Raises BatchError: UsageError before anything is sent, FileError when a file of ours fails; how far a run came that had
        begun is the `report` of the error. Cancelling flushes first.
        """
        found = self._resolved(input, output)
        return await present(found.settings, hooks=self._hooks, origins=found.origins)

    async def retry(
        self,
        input: str | os.PathLike[str],  # noqa: A002
        output: str | os.PathLike[str] | None = None,
        *,
        kinds: Iterable[str] | None = None,
        done: Iterable[str | os.PathLike[str]] = (),
    ) -> Report:
        """Ask again what failed: those that can succeed, or the `kinds` named (`["timeout_total"]`; `list(Kind)` is all).

        `done` are output and error files of a failed or expired batch of a provider's or vLLM's: what they answer is taken over,
        what they lack is sent. Raises BatchError like `run`; E002 for a kind that does not exist, E207 when they answer none of
        the input's requests.
        """
        reopen = Reopen(promising if kinds is None else named(kinds), [Path(path) for path in done])
        found = self._resolved(input, output)
        return await present(found.settings, reopen=reopen, hooks=self._hooks, origins=found.origins)

    def stream(self, requests: Requests, output: str | os.PathLike[str] | None = None) -> Arrivals:
        """Results as they arrive; with the option `ordered` in the order of the requests.

        `requests` is the path of a file, or an iterable or async iterable of input lines: dicts, raw bytes or `Request`s.
        With `output`, here or as the option, they are also kept there, and the same call again yields only what is missing;
        without it nothing is kept. A slow reader slows the run. Raises BatchError like `run`, and after the last result
        StopError when the run was stopped before its end.

        `break` ends the run: nothing more is sent, what is under way stays pending, and up to a few hundred answers that had come
        and were not read are in `output`, if there is one. Whoever holds the stream in a name ends it by `await stream.aclose()`,
        which returns when the run has ended; leaving the runner does so for all, and who still reads gets a StopError. So does
        who reads on after a wait of his was cancelled (`asyncio.wait_for(anext(stream), 5)`): that ends the run as well.
        """
        return self._arrivals(*self._asked(requests, output))

    def _asked(self, requests: Requests, output: str | os.PathLike[str] | None) -> tuple[Settings, FileJob | MemoryJob]:
        """What a call asks for. UsageError E003: it does not go with results for the caller, as they come."""
        settings = self._settings(requests if isinstance(requests, str | os.PathLike) else STDIN, output)
        if settings.service.via == "batch":
            raise UsageError(
                "E003", "a batch service takes files, and answers within a day", 'Runner(via="batch").run(FILE), or retry'
            )
        if settings.output == STDOUT:
            raise UsageError("E003", "the results go to the caller, not to stdout", "name a file as output, or leave it out")
        if not settings.output:
            return settings, MemoryJob(requests, settings)
        return settings, FileJob(settings, rows=None if isinstance(requests, str | os.PathLike) else requests)

    def _arrivals(self, settings: Settings, job: Job) -> Arrivals:
        """The results of a job, as they come."""
        order = job.order = InOrder() if settings.records.ordered else None

        async def start(deliver: Deliver) -> None:
            ending = await present(settings, job, hooks=self._hooks, deliver=order.deliver(deliver) if order else deliver)
            for result in order.rest() if order else ():
                await deliver(result)
            _whole(ending)

        return Arrivals(start, self._runs, job.folder)

    async def gather(self, requests: Requests, output: str | os.PathLike[str] | None = None) -> list[Result]:
        """All results as a list in the order of the requests. A BatchError, such as StopError, holds those that had come.

        With `output` only what is missing there is sent, and the list holds what earlier calls have kept as well, failures too:
        its answer, attempts and seconds as they were, its request as the line has it. `retry` asks again what failed; rows are
        kept for it as a file, of `out.jsonl` as `out.run/input.jsonl`.
        """
        settings, job = self._asked(requests, output)
        results: list[Result] = []
        broken: BatchError | None = None
        try:
            async for result in self._arrivals(settings, job):
                results.append(result)  # noqa: PERF401 - a comprehension would lose them when it is stopped
        except BatchError as error:
            broken = error
        if isinstance(job, FileJob) and (broken is None or isinstance(broken, StopError)):
            results += await job.earlier({result.request.line for result in results})
        results.sort(key=lambda result: result.request.line)
        if broken:
            broken.results = results
            raise broken
        return results

    def export(
        self,
        input: str | os.PathLike[str],  # noqa: A002  the option's name
        file: str | os.PathLike[str],
        columns: Iterable[str] = (),
        output: str | os.PathLike[str] | None = None,
    ) -> Exported:
        """Write the results of a job as a table: `file` ends in .csv, .tsv, .md, .txt or .parquet.

        `columns` are places in a record (`batchrunner.columns`), by default custom_id, text and error. Returns the number of
        records, the columns, and those that are empty. Raises UsageError E2xx, E003; FileError E404.
        """
        return export(paths_of(self._settings(input, output)), os.fspath(file), ",".join(columns))

    def _settings(self, requests: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Settings:
        return self._resolved(requests, output).settings

    def _resolved(self, requests: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> origins.Resolved:
        given: dict[str, Any] = {"display": "none", **self._options, "input": requests}
        if output is not None:
            given["output"] = output
        return origins.resolve(given, os.environ, Path(), origins.user_file(os.environ), origins.ARGUMENT)


async def run(input: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Report:  # noqa: A002
    """Run a file of requests to its end. See `Runner.run`; options are those of the command line."""
    return await Runner(**options).run(input, output)


async def gather(requests: Requests, output: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> list[Result]:
    """Send all requests and return their results in the same order: `Runner.gather`, with the options of the command line."""
    return await Runner(**options).gather(requests, output)


def run_sync(input: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Report:  # noqa: A002
    """`run` for code that is not async. Works where a loop is running already, as in a notebook: then in a thread of its own."""
    runner = Runner(**options)

    def work() -> Report:
        return run_loop(runner.run(input, output))

    return _in_thread(work) if _in_loop() else work()


def chat(text: str, *, model: str, id: str | None = None, **body: Any) -> dict[str, Any]:  # noqa: A002 - the field's word
    """An input line that asks a chat model one question; `body` adds fields of the API, such as `temperature`."""
    messages = [{"role": "user", "content": text}]
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {"model": model, "messages": messages, **body}}
    return line if id is None else {"custom_id": id, **line}


def _whole(report: Report) -> None:
    """StopError when the run was stopped before its end: results that are missing must not go unnoticed."""
    if stopped := report.summary.stopped:
        code = _CODE.search(stopped)
        name = code[1] if code else "E303"
        raise StopError(name, _CODE.sub("", stopped), f"what has come is good; what to do: batchrunner explain {name}")


_CODE = re.compile(r" ?\[(E[0-9]{3})\]")


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(work: Callable[[], T]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=target, name="batchrunner")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
