"""What the embedded endpoint is like: how fast, how roomy, how ill. And the dice that decide for each sending.

Rules:

1. A share may name one fault (`cut.gzip`) or a family (`cut`); a family's share is split evenly between its members
   that fit the request: some faults exist only in streams, some only in plain answers.
2. A draw is a function of seed, request and sending, and of nothing else.
"""

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate
from math import exp
from statistics import NormalDist
from typing import Literal

from msgspec import Struct

from batchrunner.errors import UsageError

Where = Literal["any", "plain", "stream"]

FAULTS: Mapping[str, tuple[Where, str]] = {
    "throttle.seconds": ("any", "429, retry-after in whole seconds"),
    "throttle.float": ("any", "429, retry-after in fractions of a second"),
    "throttle.date": ("any", "429, retry-after as an HTTP-date"),
    "throttle.ms": ("any", "429, retry-after-ms"),
    "throttle.reset": ("any", "429, x-ratelimit-reset-requests"),
    "throttle.google": ("any", "429, the wait in a RetryInfo of the body"),
    "throttle.prose": ("any", "429, the wait in the message"),
    "throttle.bare": ("any", "429, no word about the wait"),
    "throttle.empty": ("any", "429, no body at all"),
    "error.500": ("any", "500 with a JSON error"),
    "error.502": ("any", "502 with a gateway's HTML page"),
    "error.503": ("any", "503, overloaded"),
    "error.529": ("any", "529, overloaded in Anthropic's words"),
    "hang": ("any", "the request is read and never answered"),
    "stall": ("any", "half of the body, then silence"),
    "cut.length": ("plain", "the body ends before its Content-Length"),
    "cut.chunked": ("any", "a chunked body ends without the last chunk"),
    "cut.unframed": ("any", "a body without framing ends early; HTTP cannot tell"),
    "cut.gzip": ("plain", "a gzip body ends early inside correct framing"),
    "cut.finish": ("stream", "a well-framed stream without finish_reason"),
    "cut.done": ("stream", "a well-framed stream with [DONE] and without finish_reason"),
    "odd.empty": ("any", "200 with an empty body"),
    "odd.error": ("any", "200 with an error object; in a stream, as an event in its middle"),
    "odd.html": ("any", "200 with a login page"),
    "reset.before": ("any", "connection reset before any byte of the reply"),
    "reset.head": ("any", "connection reset inside the reply head"),
    "reset.body": ("any", "connection reset inside the body"),
    "slow.head": ("any", "the reply head comes in pieces; the answer is good"),
    "drip.some": ("any", "blank lines or comments before a good answer"),
    "drip.endless": ("any", "blank lines or comments for ever"),
}


def _members(name: str) -> list[str]:
    return [fault for fault in FAULTS if fault == name or fault.startswith(f"{name}.")]


class Profile(Struct, frozen=True, kw_only=True):
    """One kind of server. Times in seconds; `faults` maps a fault or a family of `FAULTS` to its share in [0, 1]."""

    seed: int = 1
    median: float = 0.0  # of the time to the first byte
    sigma: float = 0.0  # of its logarithm; 0: always the median
    per_token: float = 0.0  # added for every token of the answer
    faults: Mapping[str, float] = {}
    wait: float = 0.2  # what a 429 asks for; forms that know only whole seconds round up
    gap: float = 0.05  # between the pieces of a slow head, a drip
    max_concurrent: int = 0  # served at once; 0: any number
    queue: int = 0  # how many more may wait for a place; the others get 503
    rate: float = 0.0  # requests per second, in bursts of at most one second's worth; the others get 429; 0: any number
    keep_alive: float = 0.0  # an idle connection is closed after so long; 0: never

    def __post_init__(self) -> None:
        unknown = [name for name in self.faults if not _members(name)]
        if unknown or sum(self.faults.values()) > 1 + 1e-9 or min(self.faults.values(), default=0) < 0:
            raise ValueError(f"shares must name faults of FAULTS and add up to at most 1; unknown: {unknown}")


PROFILES: Mapping[str, Profile] = {
    "calm": Profile(median=0.02, sigma=0.4),
    "flaky": Profile(
        median=0.05,
        sigma=0.6,
        keep_alive=5.0,
        faults={
            "throttle": 0.03,
            "error": 0.03,
            "hang": 0.005,
            "stall": 0.005,
            "cut": 0.02,
            "odd": 0.01,
            "reset": 0.01,
            "slow": 0.01,
            "drip.some": 0.01,
            "drip.endless": 0.002,
        },
    ),
    "storm": Profile(
        median=0.1,
        sigma=0.9,
        keep_alive=1.0,
        wait=0.5,
        max_concurrent=64,
        queue=64,
        rate=400,
        faults={
            "throttle": 0.1,
            "error": 0.1,
            "hang": 0.02,
            "stall": 0.02,
            "cut": 0.06,
            "odd": 0.03,
            "reset": 0.05,
            "slow": 0.03,
            "drip.some": 0.03,
            "drip.endless": 0.01,
        },
    ),
}


def profile_named(name: str) -> Profile:
    """The profile of `simulated`, `simulated:NAME` or plain `NAME`. UsageError E102 when there is no such one."""
    wanted = name.removeprefix("simulated").removeprefix(":") or "calm"
    if wanted not in PROFILES:
        known = ", ".join(f"simulated:{known}" for known in PROFILES)
        raise UsageError("E102", f"there is no simulated endpoint named {wanted!r}", f"choose one of {known}")
    return PROFILES[wanted]


class Draw(Struct, frozen=True, gc=False):
    """What one sending shall meet: the name of a fault, or "" for a good answer, after `latency` seconds."""

    fault: str
    latency: float


class Dice:
    """Draws for one profile."""

    def __init__(self, profile: Profile) -> None:
        self._seed = str(profile.seed).encode()[:64]
        self._median, self._sigma = profile.median, profile.sigma
        self._tables = {streamed: _table(profile.faults, streamed) for streamed in (False, True)}

    def throw(self, key: bytes, sending: int, streamed: bool) -> Draw:
        """The draw for the `sending`-th time (from 1) that the request `key` comes."""
        chance = blake2b(key + sending.to_bytes(4, "little"), key=self._seed, digest_size=16).digest()
        bounds, names = self._tables[streamed]
        fault = names[bisect_right(bounds, _unit(chance[:8]))] if bounds else ""
        return Draw(fault, self._latency(_unit(chance[8:])))

    def _latency(self, u: float) -> float:
        return self._median * exp(self._sigma * _NORMAL.inv_cdf(u)) if self._sigma else self._median


_NORMAL = NormalDist()


def _unit(raw: bytes) -> float:
    """Eight bytes as a number strictly between 0 and 1."""
    return ((int.from_bytes(raw, "little") >> 12) + 0.5) / (1 << 52)


def _table(faults: Mapping[str, float], streamed: bool) -> tuple[list[float], list[str]]:
    """Upper bounds of the slices of [0, 1), and the fault of each slice; the last one is the good answer."""
    slices: list[tuple[float, str]] = []
    for name, share in faults.items():
        fitting = [fault for fault in _members(name) if FAULTS[fault][0] in ("any", "stream" if streamed else "plain")]
        slices += [(share / len(fitting), fault) for fault in fitting]
    return list(accumulate(width for width, _ in slices)), [*(fault for _, fault in slices), ""]
