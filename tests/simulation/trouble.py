"""Troubles that the issue does not name and users meet: how each is set up, and what is looked at.

Rules: those of `scenarios`. Bounds are the issue's for the nearest of kin: an outage, a limit, two endpoints, a hang.
"""

from collections.abc import Callable, Mapping
from math import ceil, inf
from random import Random

from msgspec.structs import replace

from batchrunner.core.model import Request
from batchrunner.core.retry import FLOOR, SHARE
from tests.simulation.servers import Bucket, Nature, Weather, listed, steps
from tests.simulation.world import Run, Stage
from tests.virtual import chat

MOST: Mapping[str, int | str] = {"max_concurrency": 256}


def _requests(rows: int, model: Callable[[int], str] = lambda _: "m") -> list[Request]:
    return [chat(line, model=model(line)) for line in range(rows)]


def _ahead(seconds: float) -> str:
    return str(max(1, round(seconds)))


def lottery(rows: int, seed: int, share: float, status: int = 503, middle: float = 2.0, told: bool = False) -> Stage:
    """Some share of all sendings is turned away at once, however many are in flight. The ideal knows nothing of that."""
    weather, chance = Weather(rows, seed, median=middle, sigma=0.5), Random(seed)
    drawn = [chance.random() < share for _ in range(100_003)]

    def fails(line: int, sending: int, now: float) -> int:
        return status if drawn[(line * 31 + sending * 7919) % len(drawn)] else 0

    nature = Nature(weather, fails=fails, told=_ahead if told else None)
    return Stage(_requests(rows), {"a": nature}, listed(rows, 256, weather.calm), MOST)


def paced_lottery(rows: int, seed: int, rpm: int = 6000) -> Stage:
    """The same with a number of the user's, which the service allows: it is to be used."""
    stage = lottery(rows, seed, share=0.03, status=429, middle=0.05, told=True)
    return replace(stage, ideal=60.0 * rows / rpm, options={**MOST, "rpm": rpm})


# --- services that come and go ----------------------------------------------------------------------------------------

UP = DOWN = 5.0


def flapping(rows: int, seed: int) -> Stage:
    """There for five seconds, gone for five, over and over. The ideal loses nothing but the time when nobody is there."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)
    gone = tuple(((UP + DOWN) * n + UP, (UP + DOWN) * (n + 1)) for n in range(1000))
    needed = listed(rows, 256, weather.calm)
    return Stage(_requests(rows), {"a": Nature(weather, outages=gone)}, needed + DOWN * (needed // UP), MOST)


def nearly(run: Run) -> float:
    """When 99 of 100 lines had been answered, as a multiple of the ideal: the very last ones may meet any number of absences."""
    ends = sorted(sent.ended for sent in run.those("answered"))
    return ends[ceil(0.99 * run.rows) - 1] / run.stage.ideal if len(ends) >= 0.99 * run.rows else inf


def unexplained(run: Run) -> float:
    """Sendings beyond one a line, as a share, but for those that the service cut off as it went away."""
    return run.extra - len(run.those("cut")) / run.rows


def _every_other(seed: int, until: float) -> Callable[[int, int, float], int]:
    chance = Random(seed)
    coins = [chance.random() < 0.5 for _ in range(100_003)]
    return lambda line, sending, now: 500 * (now < until and coins[(line * 31 + sending * 7919) % len(coins)])


def errors(rows: int, seed: int, ambiguous: str = "always") -> Stage:
    """For 300 seconds every other sending is answered with 500 at once."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    nature = Nature(weather, fails=_every_other(seed, 300.0))
    options: Mapping[str, int | str] = {"concurrency": 64, "retry_ambiguous": ambiguous}
    return Stage(_requests(rows), {"a": nature}, listed(rows, 64, weather.calm), options)


def given_up(run: Run) -> float:
    """Lines that are recorded as failed, as a share: by chance one in 256 fails eight times where every other sending does."""
    return sum(not result.ok for result in run.results) / run.rows


def unaffordable(run: Run) -> float:
    """Sendings beyond one a line that the answers have not earned, nor what is granted before them."""
    again = len(run.sent) - len({sent.line for sent in run.sent})
    return again - FLOOR - SHARE * len(run.those("answered"))


def black_hole(rows: int, seed: int) -> Stage:
    """For five minutes everything is accepted and nothing answered; each of these calls may be on the bill."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)
    ideal = listed(rows, 256, weather.calm) + 300.0
    return Stage(_requests(rows), {"a": Nature(weather, hole=(6.0, 306.0))}, ideal, MOST)


def after_the_hole(run: Run) -> float:
    """Seconds from the end of the hole until 100 lines have been answered."""
    back = run.stage.servers["a"].hole[1]
    ends = sorted(sent.ended for sent in run.those("answered") if sent.ended >= back)
    return ends[99] - back if len(ends) > 99 else inf


def stalls(rows: int, seed: int) -> Stage:
    """Streams, one in fifty of which falls silent in the middle, and one in a hundred before its first word."""
    weather, chance = Weather(rows, seed, median=3.0, sigma=0.5, hangs=0.01), Random(seed + 7)
    stalled = [chance.random() < 0.02 for _ in range(rows)]

    def silent(line: int, sending: int) -> float:
        return weather.seconds(line) / 2.0 if sending == 1 and stalled[line] else inf

    nature = Nature(weather, stalls=silent)
    return Stage(_requests(rows), {"a": nature}, listed(rows, 256, weather.calm), {**MOST, "stream": "on"})


def held(run: Run) -> float:
    """The longest that a stream which had ended in silence was held, in seconds of its life; after a tenth of the job's time."""
    return max((sent.ended - sent.began for sent in run.those("killed") if sent.began > run.makespan / 10), default=0.0)


def swallowed(rows: int, seed: int) -> Stage:
    """100 at once each; ten seconds from the start the first of two begins to take everything and answers nothing any more."""
    weather = Weather(rows, seed, median=1.0, sigma=0.5)
    mean = sum(weather.seconds(line) for line in range(rows)) / rows
    servers = {
        "a": Nature(weather, slots=steps(100), refusal=429, hole=(10.0, inf)),
        "b": Nature(weather, slots=steps(100), refusal=429),
    }
    return Stage(_requests(rows), servers, 10.0 + (rows * mean - 2_000.0) / 100, MOST)


def half(rows: int, seed: int) -> Stage:
    """100 at once each; the first of two answers every other sending with 500. The ideal leaves it alone."""
    weather = Weather(rows, seed, median=1.0, sigma=0.5)
    servers = {
        "a": Nature(weather, slots=steps(100), refusal=429, fails=_every_other(seed, inf)),
        "b": Nature(weather, slots=steps(100), refusal=429),
    }
    return Stage(_requests(rows), servers, listed(rows, 100, weather.calm), MOST)


# --- limits that are not what one starts with -------------------------------------------------------------------------


def crawl(rows: int, seed: int) -> Stage:
    """One request in two seconds, five at once, and 429 says when the next may come."""
    weather, rate = Weather(rows, seed, median=0.3, sigma=0.8), steps(0.5)
    nature = Nature(weather, quota=Bucket(rate, 10.0), told=_ahead)
    return Stage(_requests(rows), {"a": nature}, (rows - 5) / 0.5, MOST)


def told_cap(rows: int, seed: int, status: int) -> Stage:
    """100 at once; whoever comes too many is refused and told to come back in a second."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    nature = Nature(weather, slots=steps(100), refusal=status, told=_ahead)
    return Stage(_requests(rows), {"a": nature}, listed(rows, 100, weather.calm), MOST)


# --- several endpoints ------------------------------------------------------------------------------------------------

MODELS = {"a": {"x": "x-at-a", "z": "z"}, "b": {"y": "y-at-b", "z": "z"}}
ASKED = "xxyyz"


def maps(rows: int, seed: int) -> Stage:
    """100 at once each; a model that only the first serves, one that only the second does, and one that both do."""
    weather = Weather(rows, seed, median=1.0, sigma=0.5)
    servers = {name: Nature(weather, slots=steps(100), refusal=429) for name in MODELS}
    asked = _requests(rows, lambda line: ASKED[line % len(ASKED)])
    return Stage(asked, servers, listed(rows, 200, weather.calm), MOST, MODELS)


def astray(run: Run) -> float:
    """Sendings to an endpoint that does not serve the model."""
    return sum(ASKED[sent.line % len(ASKED)] not in MODELS[sent.server] for sent in run.sent)
