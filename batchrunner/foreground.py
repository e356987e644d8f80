"""A run in a terminal or a job scheduler: signals, progress.

Rules:

1. The first SIGINT, SIGTERM or SIGHUP drains, the second drops, the third exits at once. What has no result stays pending.
   Before the run begins nothing is under way, and any of them ends the process.
2. A SIGHUP that was ignored when we started (nohup) stays ignored. SIGUSR1 prints one status block, however quiet the run is.
3. Progress goes to stderr; nothing here writes to stdout.
"""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from msgspec import structs

from batchrunner import batch, retyped
from batchrunner.audience import Audience
from batchrunner.batch import Run
from batchrunner.containment import interruptible
from batchrunner.engine import Chore
from batchrunner.errors import UsageError
from batchrunner.hooks import Hooks
from batchrunner.job import Job
from batchrunner.looking import paths_of
from batchrunner.loop import run_loop, tune
from batchrunner.outbox import Deliver
from batchrunner.reopening import Reopen, promising
from batchrunner.report import status, text
from batchrunner.report.invocation import Invocation
from batchrunner.settings import Settings, values
from batchrunner.summary import Report

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def execute(
    settings: Settings, *, reopen: Reopen | None = None, origins: Mapping[str, str] = {}, said: Invocation | None = None
) -> Report:
    """Run a job to its end in the foreground. Raises BatchError; a signal is an ending with exit code 128 + its number."""
    tune()
    with _killable():
        return run_loop(present(settings, reopen=reopen, signals=True, origins=origins, said=said))


@contextmanager
def _killable() -> Iterator[None]:
    """Until the ladder stands, Ctrl-C kills: Python's own way waits for threads, and one that reads stdin may never end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Ladder:
    """Three steps down, one for each signal."""

    def __init__(self, run: Run, grace: float, audience: Audience) -> None:
        self._run = run
        self._grace = grace
        self._audience = audience

    def step(self, number: int) -> None:
        """A signal has come."""
        engine = self._run.engine
        if not self._run.signal:
            self._run.signal = number
            self._audience.progress.note(text.stopping(engine.scheduler.in_flight, self._grace))
            engine.drain(signal.Signals(number).name)
        elif not engine.dropped:
            engine.drop()
        else:
            os._exit(128 + number)

    def attach(self) -> None:
        """Listen to the signals of this process; a loop outside the main thread hears none."""
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError, RuntimeError, ValueError):
            for number in SIGNALS:
                if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN:
                    loop.add_signal_handler(number, self.step, number)
            loop.add_signal_handler(signal.SIGUSR1, lambda: self._audience.insist(status.block(self._run.snapshot())))


async def present(
    settings: Settings,
    job: Job | None = None,
    *,
    reopen: Reopen | None = None,
    hooks: Hooks = Hooks(),
    deliver: Deliver | None = None,
    signals: bool = False,
    origins: Mapping[str, str] = {},
    said: Invocation | None = None,
) -> Report:
    """Run a job and show it as `settings.display` says; with `signals` obey those of the process.

    `origins` tells where each setting comes from, `said` what the next command to type must say again, if one was typed.
    UsageError E003: what failed is to be asked again, and all is to be forgotten.
    """
    if reopen and settings.fresh:
        hint = "For a new start: batchrunner run INPUT --fresh"
        raise UsageError("E003", "retry keeps earlier results; --fresh drops them.", hint)
    async with Audience(settings, said or _said(settings, origins, reopen)) as audience:

        def watch(run: Run) -> Sequence[Chore]:
            if signals:
                Ladder(run, settings.stopping.grace, audience).attach()
            return audience.watch(run)

        batched = settings.service.via == "batch" and job is None
        if batched:
            reopen = await _submitted(settings, reopen, audience.progress.note)
            settings = structs.replace(settings, fresh=False)  # which it was
        run = batch.run(
            settings, job, reopen=reopen, hooks=hooks, listeners=audience.listeners, deliver=deliver, watch=watch, origins=origins
        )
        ending = await interruptible(run)
        if batched:
            shutil.rmtree(paths_of(settings).batches, ignore_errors=True)  # what came back has been adopted
        return await audience.leave(ending)


def _said(settings: Settings, origins: Mapping[str, str], reopen: Reopen | None) -> Invocation:
    """The command that does what a program does."""
    output = {"output": settings.output} if settings.output else {}
    given = output | retyped.by_hand(values(settings), origins)
    verb, own = ("retry", reopen.words) if reopen else ("", ())
    return Invocation(input=settings.input, options=retyped.words(given), hides=retyped.hides(given), verb=verb, own=own)


async def _submitted(settings: Settings, reopen: Reopen | None, note: Callable[[str], None]) -> Reopen:
    """What a batch service has answered, to be adopted by a run that sends the rest."""
    from batchrunner import submission  # few jobs go by batch

    reopen = reopen or Reopen(promising)
    done = await submission.submit(settings, note, reopen)
    return Reopen(reopen.kinds, done, ours=True)
