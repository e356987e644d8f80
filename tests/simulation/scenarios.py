"""The proof points of the adaptive rules as scenarios: what is set up, what is measured, and what it must come to.

Rules:

1. A stage is a function of (rows, seed). Nothing is told to the engine that a user with the defaults would not tell it.
2. Ideals are computed from the model: every slot the service has is full all the time, and nothing is ever lost.
3. A bound is the issue's own; where the issue leaves a word open, the scenario says how it is read.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil, exp, inf
from random import Random
from statistics import fmean, median
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from batchrunner.core.model import Request
from tests.simulation import once, told, trouble
from tests.simulation.servers import Bucket, Nature, Quota, Steps, Weather, Window, listed, plateau, steps
from tests.simulation.world import Run, Stage
from tests.virtual import chat

MOST = 256  # the default ceiling of concurrency, said aloud so that ideals do not move with it
DEFAULTS: Mapping[str, int | str] = {"max_concurrency": MOST}


class Check(Struct):
    """One figure and its bound."""

    name: str
    measure: Callable[[Run], float]
    bound: float
    least: bool = False  # the bound is a least, not a most

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


class Scenario(Struct):
    """One proof point, or something to tune by."""

    about: str
    rows: int
    stage: Callable[[int, int], Stage]
    checks: list[Check]


def requests(rows: int, **changes: Any) -> list[Request]:
    return [chat(line, **changes) for line in range(rows)]


def at_most(name: str, measure: Callable[[Run], float], bound: float) -> Check:
    return Check(name, measure, bound)


def at_least(name: str, measure: Callable[[Run], float], bound: float) -> Check:
    return Check(name, measure, bound, least=True)


LOST = at_most("lines lost or twice", lambda run: run.lost, 0)
SLOWER = "makespan / ideal"
YIELD = "share of the attainable"


def slower(run: Run) -> float:
    return run.slower


def attained(run: Run) -> float:
    return 1.0 / run.slower


def in_service(run: Run) -> float:
    """Little's law is about what is in the system: it does not count what a command takes to start and to end."""
    return run.stage.ideal / run.busy


# --- timeouts ---------------------------------------------------------------------------------------------------------


def hangs(rows: int, seed: int) -> Stage:
    weather = Weather(rows, seed, median=0.3, sigma=0.8, hangs=0.01)
    return Stage(requests(rows), {"a": Nature(weather)}, listed(rows, MOST, weather.calm), DEFAULTS)


def slowdown(rows: int, seed: int) -> Stage:
    """Five times slower while the second third of the answers is being given."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)

    def work(line: int, sending: int, answered: int) -> float:
        return weather.seconds(line, sending) * (5.0 if rows <= 3 * answered < 2 * rows else 1.0)

    ideal = listed(rows, MOST, lambda line, answered: work(line, 1, answered))
    return Stage(requests(rows), {"a": Nature(work)}, ideal, DEFAULTS)


LARGE = 10  # every tenth line is large
SMALL_MEDIAN, SMALL_SIGMA = 1.0, 0.3
SMALL_P99 = SMALL_MEDIAN * exp(2.326 * SMALL_SIGMA)


def _sized(rows: int, seed: int, small: dict[str, Any], large: dict[str, Any]) -> Stage:
    weather = Weather(rows, seed, median=SMALL_MEDIAN, sigma=SMALL_SIGMA, hangs=0.01)
    factors = [1.0 if line % LARGE else 20.0 for line in range(rows)]

    def work(line: int, sending: int, answered: int) -> float:
        return weather(line, sending, answered) * factors[line]

    asked = [chat(line, **(small if line % LARGE else large)) for line in range(rows)]
    ideal = listed(rows, MOST, lambda line, _: weather.seconds(line) * factors[line])
    return Stage(asked, {"a": Nature(work)}, ideal, DEFAULTS)


def sizes(rows: int, seed: int) -> Stage:
    """What tells a large row is its max_tokens."""
    return _sized(rows, seed, {"max_tokens": 50}, {"max_tokens": 1000})


def bodies(rows: int, seed: int) -> Stage:
    """What tells a large row is the length of its body."""
    return _sized(rows, seed, {"body": b"x" * 500}, {"body": b"x" * 10_000})


def large_wronged(run: Run) -> float:
    return sum(sent.line % LARGE == 0 for sent in run.those("wronged")) / ceil(run.rows / LARGE)


def small_hung(run: Run) -> float:
    """The longest that a hung small row was waited for, in p99s of small rows, after the first tenth of the job's time."""
    ages = [sent.ended - sent.began for sent in run.those("killed") if sent.line % LARGE and sent.began > run.makespan / 10]
    return max(ages, default=0.0) / SMALL_P99


FALSE_KILLS = at_most("false kills", lambda run: run.wronged, 0.005)
SOON = at_most("longest wait for a hung row, seconds", lambda run: longest_held(run), 15.0)
SIZED = [
    at_most("false kills of large rows", large_wronged, 0.01),
    at_most("false kills", lambda run: run.wronged, 0.005),
    at_most("hung small rows die within (× their p99)", small_hung, 3.0),
    LOST,
]


def _hanging(rows: int, seed: int, asked: list[Request], weather: Weather, calm: Callable[[int, int], float]) -> Stage:
    """What every line takes is `calm`; those that the weather says hang on their first sending."""

    def work(line: int, sending: int, answered: int) -> float:
        return inf if sending == 1 and weather.hung[line] else calm(line, answered)

    return Stage(asked, {"a": Nature(work)}, listed(rows, MOST, calm), DEFAULTS)


def meaningless(rows: int, seed: int) -> Stage:
    """Bodies from a line to a book and three words on how long the answer may be, none of which says how long it takes."""
    weather, chance = Weather(rows, seed, median=0.3, sigma=0.8, hangs=0.01), Random(seed + 100)
    lengths = (int(min(40_000.0, 800 * exp(chance.gauss(0.0, 1.2)))) for _ in range(rows))
    asked = [
        chat(line, body=b"x" * length, max_tokens=(0, 256, 1000)[chance.randrange(3)]) for line, length in enumerate(lengths)
    ]
    return _hanging(rows, seed, asked, weather, weather.calm)


def sizes_slowdown(rows: int, seed: int) -> Stage:
    """Large rows take 20 times as long, and everything five times longer for the middle third."""
    weather = Weather(rows, seed, median=SMALL_MEDIAN / 4, sigma=SMALL_SIGMA, hangs=0.01)

    def calm(line: int, answered: int) -> float:
        return weather.seconds(line) * (1.0 if line % LARGE else 20.0) * (5.0 if rows <= 3 * answered < 2 * rows else 1.0)

    asked = [chat(line, max_tokens=50 if line % LARGE else 1000) for line in range(rows)]
    return _hanging(rows, seed, asked, weather, calm)


def bimodal(rows: int, seed: int) -> Stage:
    """Nine of ten answers come from a cache in 50 ms, and nothing tells which; the others take 20 s."""
    weather, chance = Weather(rows, seed, median=1.0, sigma=0.3, hangs=0.01), Random(seed)
    medians = [20.0 if chance.random() < 0.1 else 0.05 for _ in range(rows)]
    return _hanging(rows, seed, requests(rows), weather, lambda line, _: weather.seconds(line) * medians[line])


def tenth(rows: int, seed: int) -> Stage:
    weather = Weather(rows, seed, median=0.3, sigma=0.8, hangs=0.1)
    return _hanging(rows, seed, requests(rows), weather, weather.calm)


def stubborn(rows: int, seed: int) -> Stage:
    """Every twentieth sending hangs, the second and third of a line too."""
    weather, chance = Weather(rows, seed, median=0.3, sigma=0.8), Random(seed + 200)
    hung = [{sending for sending in range(1, 9) if chance.random() < 0.05} for _ in range(rows)]

    def work(line: int, sending: int, answered: int) -> float:
        return inf if sending in hung[line] else weather.calm(line, answered)

    return Stage(requests(rows), {"a": Nature(work)}, listed(rows, MOST, weather.calm), DEFAULTS)


RARE = 0.002


def rarities(rows: int, seed: int) -> Stage:
    """A few lines take from half a minute to five, and nothing tells which."""
    weather, chance = Weather(rows, seed, median=0.3, sigma=0.8), Random(seed + 300)
    rare = {line: chance.uniform(30.0, 300.0) for line in range(rows) if chance.random() < RARE}

    def calm(line: int, answered: int) -> float:
        return rare.get(line) or weather.calm(line, answered)

    return Stage(
        requests(rows), {"a": Nature(lambda line, _, answered: calm(line, answered))}, listed(rows, MOST, calm), DEFAULTS
    )


def generated(rows: int, seed: int) -> Stage:
    """Half a second and 10 ms a token, of which answers use some share of what is allowed: 64 to 8,192."""
    weather, chance = Weather(rows, seed, median=1.0, sigma=0.2), Random(seed)
    allowed = [2 ** chance.randrange(6, 14) for _ in range(rows)]
    work = [weather.seconds(line) * (0.5 + 0.01 * allowed[line] * chance.uniform(0.3, 1.0)) for line in range(rows)]
    asked = [chat(line, max_tokens=allowed[line]) for line in range(rows)]
    nature = Nature(lambda line, _sending, _answered: work[line])
    return Stage(asked, {"a": nature}, max(sum(work) / 64, max(work)), {"concurrency": 64, "stream": "off"})


def longest_held(run: Run) -> float:
    """The longest that a hung row was waited for, in seconds."""
    return max((sent.ended - sent.began for sent in run.those("killed")), default=0.0)


# --- limits -----------------------------------------------------------------------------------------------------------


def _throttled(rows: int, seed: int, rate: Steps, quota: Quota, told: Callable[[float], str] | None) -> Stage:
    """The ideal lets lines in at the very rate, in order, and ends when the last of them has been answered."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)
    ideal, now, room = 0.0, 0.0, 0.0
    for line in range(rows):
        while room < 1.0:
            room += rate(now) * 0.001
            now += 0.001
        room -= 1.0
        ideal = max(ideal, now + weather.seconds(line))
    return Stage(requests(rows), {"a": Nature(weather, quota=quota, told=told)}, ideal, DEFAULTS)


def whole_seconds(early: float) -> str:
    return str(ceil(early))


STEADY, CHANGING = steps(400), steps(400, (20, 200), (40, 400))
THROTTLED = [at_most("429s after two seconds", lambda run: run.throttled(2.0), 0.02), LOST]


def rate_window(rows: int, seed: int) -> Stage:
    """400 in each second of the clock; Retry-After in whole seconds."""
    return _throttled(rows, seed, STEADY, Window(STEADY), whole_seconds)


def rate_bucket(rows: int, seed: int) -> Stage:
    """A bucket of one second's worth; 429s say nothing about when."""
    return _throttled(rows, seed, STEADY, Bucket(STEADY), None)


def change_window(rows: int, seed: int) -> Stage:
    return _throttled(rows, seed, CHANGING, Window(CHANGING), whole_seconds)


def change_bucket(rows: int, seed: int) -> Stage:
    return _throttled(rows, seed, CHANGING, Bucket(CHANGING), None)


def cap(rows: int, seed: int, most: int = 100) -> Stage:
    """A hosted service that serves so many at once and answers 429 to the others."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    nature = Nature(weather, slots=steps(most), refusal=429)
    return Stage(requests(rows), {"a": nature}, listed(rows, most, weather.calm), DEFAULTS)


def cap_change(rows: int, seed: int) -> Stage:
    """The same with 503, and only 50 at once between seconds 60 and 120."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    work = sum(weather.seconds(line) for line in range(rows))
    ideal = work / 100 + 30.0  # half of the minute is missing
    return Stage(requests(rows), {"a": Nature(weather, slots=steps(100, (60, 50), (120, 100)))}, ideal, DEFAULTS)


KNEE = 64


def saturated(rows: int, seed: int, median: float = 2.0) -> Stage:
    """Processor sharing: up to 64 sequences each at full speed, beyond that the same throughput shared by more."""
    weather = Weather(rows, seed, median=median, sigma=0.5)
    return Stage(requests(rows), {"a": Nature(weather, speed=plateau(KNEE))}, listed(rows, KNEE, weather.calm), DEFAULTS)


def over_the_knee(run: Run) -> float:
    """The median over what it is at the knee, where each answer takes its work alone."""
    work = run.stage.servers["a"].work
    return run.latency(0.5) / median(work(line, 1, 0) for line in range(run.rows))


def overload(rows: int, seed: int) -> Stage:
    """The same with room for 32, on a server that works on after its client has left: impatience feeds itself."""
    weather = Weather(rows, seed, median=2.0, sigma=0.5)
    nature = Nature(weather, speed=plateau(KNEE // 2), zombies=True)
    return Stage(requests(rows), {"a": nature}, listed(rows, KNEE // 2, weather.calm), DEFAULTS)


# --- outages and endpoints --------------------------------------------------------------------------------------------


def outage(rows: int, seed: int, out: float = 6.0, back: float = 126.0) -> Stage:
    """For two minutes nobody listens; what was in service when it began is cut off."""
    weather = Weather(rows, seed, median=0.3, sigma=0.8)
    ideal = listed(rows, MOST, weather.calm) + back - out
    return Stage(requests(rows), {"a": Nature(weather, outages=((out, back),))}, ideal, DEFAULTS)


def recovery(run: Run) -> float:
    """Seconds from the service's return until as much was delivered in one second as half of a second's mean before."""
    ((out, back),) = run.stage.servers["a"].outages
    ends = sorted(sent.ended for sent in run.those("answered"))
    before = sum(out / 2 <= end < out for end in ends) / (out / 2)
    after = [end for end in ends if end >= back]
    need = int(before / 2)
    return next((after[at + need] - back for at in range(len(after) - need) if after[at + need] - after[at] <= 1.0), 1e9)


def _two(rows: int, seed: int, factor: float) -> tuple[Mapping[str, Nature], float]:
    weather = Weather(rows, seed, median=1.0, sigma=0.5)
    third = rows // 3

    def ill(line: int, sending: int, answered: int) -> float:
        """Slower from a sixth of the rows on: when it has given that many answers, so has the other, and a third is done."""
        return weather.seconds(line, sending) * (factor if answered >= third // 2 else 1.0)

    mean = fmean(weather.seconds(line) for line in range(rows))
    ideal = third * mean / 200 + (rows - third) * mean / 100
    return {"a": Nature(ill, slots=steps(100), refusal=429), "b": Nature(weather, slots=steps(100), refusal=429)}, ideal


def dead_first(rows: int, seed: int) -> Stage:
    """Nobody ever listens at the first of two."""
    weather = Weather(rows, seed, median=0.5, sigma=0.5)
    servers = {"a": Nature(weather, outages=((0.0, inf),)), "b": Nature(weather, slots=steps(100), refusal=429)}
    return Stage(requests(rows), servers, listed(rows, 100, weather.calm), DEFAULTS)


def both_throttled(rows: int, seed: int) -> Stage:
    """100 and 25 at once, then 429."""
    weather = Weather(rows, seed, median=1.0, sigma=0.5)
    servers = {name: Nature(weather, slots=steps(most), refusal=429) for name, most in (("a", 100), ("b", 25))}
    return Stage(requests(rows), servers, listed(rows, 125, weather.calm), DEFAULTS)


def two_slow(rows: int, seed: int) -> Stage:
    """Two services of 100 at once each; the first becomes ten times slower after a third of the job.

    The healthy capacity, which the ideal has, is both of them first, and then the second alone: what the ill one still does
    is worth less than its last answer may cost.
    """
    servers, ideal = _two(rows, seed, 10.0)
    return Stage(requests(rows), servers, ideal, DEFAULTS)


def fixed(rows: int, seed: int) -> Stage:
    return Stage(requests(rows), {"a": Nature(Weather(rows, seed, median=0.2))}, ceil(rows / 1000) * 0.2, {"concurrency": 1000})


CONTENDERS: Mapping[str, Mapping[str, int | str]] = {
    "defaults": {},
    "--timeout 60 -c 128": {"timeout": 60, "concurrency": 128},
    "--timeout 600 -c 128": {"timeout": 600, "concurrency": 128},
    "--timeout 60 -c 512": {"timeout": 60, "concurrency": 512},
}

TOLD = [at_least(YIELD, attained, 0.95), at_most("429s", told.refused, 0.001), LOST]
ONCE = [at_most("longest wait for a hung row, seconds", once.held, 120.0), at_most("good answers lost", once.wronged, 0)]
TOLD_TOKENS = [at_least(YIELD, attained, 0.95), at_most("429s", told.refused, 0.005), LOST]  # their sizes are not told

SCENARIOS: Mapping[str, Scenario] = {
    "hangs": Scenario(
        "1 % hangs, lognormal latency (median 0.3 s, sigma 0.8)",
        10_000,
        hangs,
        [at_most(SLOWER, slower, 1.5), at_most("false kills", lambda run: run.wronged, 0.005), LOST],
    ),
    "slowdown": Scenario(
        "latency × 5 for the middle third",
        10_000,
        slowdown,
        [at_most(SLOWER, slower, 1.3), at_most("false kills", lambda run: run.wronged, 0.02), LOST],
    ),
    "sizes": Scenario("large rows take 20 times as long; max_tokens tells", 10_000, sizes, SIZED),
    "sizes-body": Scenario("large rows take 20 times as long; the body's length tells", 10_000, bodies, SIZED),
    "meaningless": Scenario(
        "1 % hangs, rows of all sizes, which say nothing of their latency",
        10_000,
        meaningless,
        [at_most(SLOWER, slower, 1.6), FALSE_KILLS, LOST],  # 1.4 on average; the last hang decides
    ),
    "sizes-slowdown": Scenario(
        "large rows take 20 times as long, and all × 5 for the middle third",
        5_000,
        sizes_slowdown,
        [at_most("false kills", lambda run: run.wronged, 0.02), at_most("false kills of large rows", large_wronged, 0.02), LOST],
    ),
    "bimodal": Scenario(
        "a tenth of the answers takes 400 times as long, and nothing tells which", 3_000, bimodal, [FALSE_KILLS, LOST]
    ),
    "tenth": Scenario("10 % hangs", 5_000, tenth, [SOON, at_most(SLOWER, slower, 2.5), FALSE_KILLS, LOST]),
    "stubborn": Scenario(
        "every twentieth sending hangs, the second and third of a line too",
        10_000,
        stubborn,
        [at_most("longest wait for a hung row, seconds", lambda run: longest_held(run), 65.0), FALSE_KILLS, LOST],
    ),
    "rarities": Scenario(
        "one line in 500 takes a hundred times as long and more",
        10_000,
        rarities,
        [at_most("false kills", lambda run: run.wronged, 3 * RARE), at_most(SLOWER, slower, 2.5), LOST],
    ),
    "generated": Scenario("answers of 64 to 8,192 tokens, 64 at once", 2_000, generated, [at_most(SLOWER, slower, 1.1), LOST]),
    "once": Scenario("1 % hangs, and each line may fail once", 10_000, once.hangs, ONCE),
    "once-together": Scenario("20 % of what goes out in one go, likewise", 100, partial(once.hangs, hung=0.2), ONCE),
    "once-billed": Scenario(
        "1 %, and nothing is asked twice that may be billed", 3_000, partial(once.hangs, options=once.NEVER), ONCE
    ),
    "once-stalled": Scenario("each line may fail once, and all are kept waiting for a while", 6_000, once.stalled, ONCE),
    "once-slow": Scenario(
        "a tenth of the answers takes 400 times as long, and each line may fail once",
        3_000,
        lambda rows, seed: replace(bimodal(rows, seed), options=once.ONCE),
        [at_most("good answers lost", once.wronged, 0)],
    ),
    "tiny": Scenario("300 rows, 1 % hangs", 300, hangs, [SOON, FALSE_KILLS, LOST]),
    "rate-window": Scenario(
        "unknown limit of 400 a second by the clock", 24_000, rate_window, [at_least(YIELD, attained, 0.95), *THROTTLED]
    ),
    "rate-bucket": Scenario(
        "unknown limit of 400 a second by a bucket, no Retry-After",
        24_000,
        rate_bucket,
        [at_least(YIELD, attained, 0.95), *THROTTLED],
    ),
    "change-window": Scenario("the limit 400, 200, 400 a second", 20_000, change_window, [at_least(YIELD, attained, 0.9), LOST]),
    "change-bucket": Scenario(
        "the same by a bucket, no Retry-After", 20_000, change_bucket, [at_least(YIELD, attained, 0.9), LOST]
    ),
    "told": Scenario("a bucket of 400 a second, told by headers", 8_000, told.bucket, TOLD),
    "told-burst": Scenario("the same, which holds five seconds' worth", 8_000, partial(told.bucket, seconds=5.0), TOLD),
    "told-shared": Scenario("the same, of which others take 150 for ten seconds", 8_000, told.shared, TOLD),
    "told-overtaken": Scenario("150 a second, and requests overtake one another", 2_500, told.overtaken, TOLD),
    "told-tokens": Scenario("a bucket of tokens, told by headers", 2_500, told.tokens, TOLD_TOKENS),
    "cap": Scenario("100 at once, then 429", 10_000, cap, [at_least(YIELD, attained, 0.9), *THROTTLED]),
    "cap-small": Scenario("3 at once, then 429", 1_500, partial(cap, most=3), [at_least(YIELD, attained, 0.9), *THROTTLED]),
    "cap-change": Scenario("100, 50, 100 at once, then 503", 10_000, cap_change, [at_least(YIELD, attained, 0.9), LOST]),
    "plateau": Scenario(
        f"throughput saturates at {KNEE} sequences",
        10_000,
        saturated,
        [at_least(YIELD, attained, 0.95), at_most("p50 / p50 at the knee", over_the_knee, 1.5), LOST],
    ),
    "overload": Scenario(
        "room for 32, and what is given up is worked on unseen",
        5_000,
        overload,
        [at_least(YIELD, attained, 0.95), at_most("false kills", lambda run: run.wronged, 0.02), LOST],
    ),
    "outage": Scenario(
        "nobody listens for two minutes",
        20_000,
        outage,
        [
            at_most("extra sendings", lambda run: run.extra, 0.03),
            at_most("recovery, seconds", recovery, 5.0),
            LOST,
        ],
    ),
    "two": Scenario("two endpoints, the first gets ten times slower", 10_000, two_slow, [at_least(YIELD, attained, 0.95), LOST]),
    "dead": Scenario(
        "two endpoints, the first never there",
        10_000,
        dead_first,
        [at_least(YIELD, attained, 0.9), at_most("extra sendings", lambda run: run.extra, 0.03), LOST],
    ),
    "throttled": Scenario(
        "two endpoints, 100 and 25 at once, then 429", 10_000, both_throttled, [at_least(YIELD, attained, 0.9), *THROTTLED]
    ),
    "flapping": Scenario(
        "there for five seconds, gone for five",
        5_000,
        trouble.flapping,
        [
            at_most("99 % of the lines / ideal", trouble.nearly, 2.0),
            at_most("extra sendings but those cut off", trouble.unexplained, 0.05),
            LOST,
        ],
    ),
    "errors": Scenario(
        "every other sending fails with 500 for 300 s",
        6_000,
        trouble.errors,
        [
            at_most("99 % of the lines / ideal", trouble.nearly, 1.3),
            at_most("extra sendings", lambda run: run.extra, 1.1),
            at_most("lines given up", trouble.given_up, 0.008),
        ],
    ),
    "errors-budget": Scenario(
        "the same with the budget for what may have been billed",
        6_000,
        partial(trouble.errors, ambiguous="budget"),
        [
            at_most("sendings that nothing has earned", trouble.unaffordable, 0),
            at_most("lines given up", trouble.given_up, 0.008),
        ],
    ),
    "hole": Scenario(
        "for five minutes nothing that is accepted is answered",
        12_000,
        trouble.black_hole,
        [
            at_most("extra sendings", lambda run: run.extra, 0.03),
            at_most("sendings that nothing has earned", trouble.unaffordable, 0),
            at_most("recovery, seconds", trouble.after_the_hole, 15),
            LOST,
        ],
    ),
    "swallowed": Scenario(
        "two endpoints, the first of which begins to take everything and to answer nothing",
        6_000,
        trouble.swallowed,
        [at_least(YIELD, attained, 0.8), at_most("extra sendings", lambda run: run.extra, 0.05), LOST],
    ),
    "half": Scenario(
        "two endpoints, the first of which fails every other time",
        6_000,
        trouble.half,
        [at_least(YIELD, attained, 0.9), at_most("extra sendings", lambda run: run.extra, 0.03), LOST],
    ),
    "stalls": Scenario(
        "2 % of the streams fall silent in the middle, 1 % before they begin",
        5_000,
        trouble.stalls,
        [
            at_most(SLOWER, slower, 1.5),
            at_most("longest life of a stalled stream, seconds", trouble.held, 20),
            FALSE_KILLS,
            LOST,
        ],
    ),
    "sheds": Scenario(
        "one request in fifty is turned away (503), whatever is in flight",
        10_000,
        partial(trouble.lottery, share=0.02),
        [at_least(YIELD, attained, 0.6), LOST],  # 0.12 where each refusal is believed; the ideal has 256 slots from the start
    ),
    "sheds-much": Scenario("one in seven", 10_000, partial(trouble.lottery, share=0.15), [at_least(YIELD, attained, 0.6), LOST]),
    "luck": Scenario(
        "one request in 33 is refused (429), whatever is in flight",
        10_000,
        partial(trouble.lottery, share=0.03, status=429, middle=0.3),
        [at_least(YIELD, attained, 0.4), LOST],  # 0.09 where each refusal is believed
    ),
    "luck-told": Scenario(
        "the same, and Retry-After says a second",
        10_000,
        partial(trouble.lottery, share=0.03, status=429, middle=0.3, told=True),
        [at_least(YIELD, attained, 0.2), LOST],  # 0.03
    ),
    "luck-rare": Scenario(
        "one in a hundred, likewise, of requests that take two seconds",
        6_000,
        partial(trouble.lottery, share=0.01, status=429, told=True),
        [at_least(YIELD, attained, 0.15), LOST],  # 0.06
    ),
    "luck-slow": Scenario(
        "one in 33 of those",
        6_000,
        partial(trouble.lottery, share=0.03, status=429, told=True),
        [at_least(YIELD, attained, 0.15), LOST],  # 0.07 where a crawl that is refused goes down a little each time
    ),
    "luck-quick": Scenario(
        "one in ten, likewise, of requests that take 50 ms",
        10_000,
        partial(trouble.lottery, share=0.1, status=429, middle=0.05, told=True),
        [at_least(YIELD, attained, 0.08), LOST],  # 0.04 where a burst's refusals count as a row; 0.35 if it were known at once
    ),
    "luck-paced": Scenario(
        "one in 33, where --rpm says what the service allows",
        6_000,
        trouble.paced_lottery,
        [at_least(YIELD, attained, 0.1), LOST],  # 0.0003 where each refusal is believed; 0.25 with every pause that is asked for
    ),
    "crawl": Scenario(
        "one request in two seconds",
        200,
        trouble.crawl,
        [at_least(YIELD, attained, 0.9), at_most("429s after a minute", lambda run: run.throttled(60.0), 0.02), LOST],
    ),
    "cap-told": Scenario(
        "100 at once, then 429 with Retry-After",
        10_000,
        partial(trouble.told_cap, status=429),
        [at_least(YIELD, attained, 0.9), *THROTTLED],
    ),
    "cap-told-503": Scenario(
        "100 at once, then 503 with Retry-After",
        6_000,
        partial(trouble.told_cap, status=503),
        [at_least(YIELD, attained, 0.9), LOST],
    ),
    "maps": Scenario(
        "two endpoints, each with a model of its own and one in common",
        6_000,
        trouble.maps,
        [at_least(YIELD, attained, 0.9), at_most("astray", trouble.astray, 0), *THROTTLED],
    ),
    "fixed": Scenario("200 ms at concurrency 1,000", 20_000, fixed, [at_least("share of Little's law", in_service, 0.95), LOST]),
}
