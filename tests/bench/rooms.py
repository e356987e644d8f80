"""Where the engine's time goes, by room: a sampled profile of the command itself.

    python -m tests.bench.rooms INPUT [options]      the command, and then one JSON line: {room: CPU seconds}

Rules:

1. A sample is taken every `EVERY` seconds of CPU. It counts for the innermost function of ours, and so for the room that
   called aiohttp, msgspec or the kernel; outside of all rooms for the loop.
2. A thread of ours is a room of its own, by its clock: samples are of the main thread only.
3. Imports count as `start`, whoever asks for them.
"""

import json
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import batchrunner
from batchrunner.cli import main

EVERY = 0.001
HOME = str(Path(batchrunner.__file__).parent)
ROOMS = {  # a module that is not named here counts under its own name
    "transport": "transport wire channel crew connections pool posting reception faults network probe ways "
    "core/whole core/sse core/stream core/blocks core/delta core/refrain",
    "scheduler": "core/scheduler core/queue core/limit core/waits core/deadlines core/kills core/quantile core/retry core/span "
    "core/shape core/health core/endpoints core/service core/spread core/stopping core/streaming core/hedging core/experience "
    "core/chances core/pace core/rate core/second core/window core/crowding core/bucket core/knee core/debut core/treatment "
    "core/claims core/flight core/stragglers core/held core/withheld core/doubt core/refusals core/luck core/allowance "
    "core/filling core/lessons",
    "classify": "core/classify core/answered core/errored core/verdicts core/complaint core/complete core/finish core/body "
    "core/choices core/naming",
    "journal": "job filing passing journal records disk repair standing checkpoint foreign secret spill",
    "meter": "meter core/tally core/histogram core/buckets trail core/trail attempts vitals progress bars audience",
    "engine": "engine feeder hooks outbox core/model core/route",
    "source": "source lines landmarks identity formats glance dialects selecting looking resume joining replay "
    "reader numbers spooling",
}
_ROOM_OF = {module: room for room, modules in ROOMS.items() for module in modules.split()}


class Sampler:
    """Counts where the main thread is. `seconds` afterwards."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.threads: dict[str, float] = {}

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self.sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    def sample(self, _number: int, frame: FrameType | None) -> None:
        self.seen[_room(frame)] += 1
        if sum(self.seen.values()) % 16 == 0:
            self.look()

    def look(self) -> None:
        """At the clocks of our threads, while they are there."""
        for thread in threading.enumerate():
            if thread.ident and thread is not threading.main_thread():
                clock = time.pthread_getcpuclockid(thread.ident)
                self.threads[thread.name.partition("_")[0]] = time.clock_gettime(clock)

    def seconds(self) -> dict[str, float]:
        signal.setitimer(signal.ITIMER_PROF, 0)
        own = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) / max(1, sum(self.seen.values()))
        threads = {name.removeprefix("batchrunner-"): spent for name, spent in self.threads.items()}
        found = Counter({room: count * own for room, count in self.seen.items()})
        found.update({f"{name} thread": spent for name, spent in threads.items()})
        return dict(found)


def _room(frame: FrameType | None) -> str:
    while frame:
        code = frame.f_code
        if code.co_filename.startswith(HOME):
            module = code.co_filename[len(HOME) + 1 : -3]
            return _ROOM_OF.get(module, module)
        if code.co_name in {"_find_and_load", "exec_module"}:
            return "start"
        frame = frame.f_back
    return "loop"


if __name__ == "__main__":
    sampler = Sampler()
    sampler.start()
    code = main(sys.argv[1:])
    print(json.dumps(sampler.seconds()))
    sys.exit(code)
