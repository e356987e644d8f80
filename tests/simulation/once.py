"""What those meet whose requests are asked once: each attempt that is given up in vain loses an answer for good.

Rules: those of `scenarios`. What hangs is lost, and nothing else may be; nobody waits for it until `max_timeout`.
"""

from collections.abc import Mapping

from tests.simulation.servers import Nature, Weather, listed
from tests.simulation.world import Run, Stage
from tests.virtual import chat

MOST = 256
ONCE: Mapping[str, int | str] = {"max_concurrency": MOST, "max_attempts": 1}
NEVER: Mapping[str, int | str] = {"max_concurrency": MOST, "retry_ambiguous": "never"}
STALL = 30.0


def hangs(rows: int, seed: int, hung: float = 0.01, options: Mapping[str, int | str] = ONCE) -> Stage:
    weather = Weather(rows, seed, median=0.3, sigma=0.8, hangs=hung)
    return Stage([chat(line) for line in range(rows)], {"a": Nature(weather)}, listed(rows, MOST, weather.calm), options)


def stalled(rows: int, seed: int) -> Stage:
    """In the middle of the job everything that is sent is kept waiting for half a minute, and then answered."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)

    def work(line: int, sending: int, _answered: int) -> float:
        return weather.seconds(line, sending) + (STALL if 0 <= line - rows // 2 < MOST and sending == 1 else 0.0)

    return Stage([chat(line) for line in range(rows)], {"a": Nature(work)}, listed(rows, MOST, weather.calm) + STALL, ONCE)


def held(run: Run) -> float:
    """The longest that a hung row was waited for, in seconds."""
    return max((sent.ended - sent.began for sent in run.those("killed")), default=0.0)


def wronged(run: Run) -> float:
    """Good attempts that were given up."""
    return len(run.those("wronged"))
