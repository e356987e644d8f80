"""What is left of an endpoint's own allowances of requests and tokens, as the headers of its answers tell it.

Rules:

1. What remains was told when the answer's request was let in. It is carried on from there: it fills (`core.filling`), and what
   was sent since is gone. Each answer to a later request corrects it: downwards at once, upwards when others agree. For requests
   overtake one another on their way, and the first that is let in tells of what is not yet gone for those that were sent before.
2. As long as enough remains nothing waits; then requests go out as fast as it fills. Thus a limit that is told is kept without a
   single refusal, and an allowance that is full is used up first.
3. Others may use the same allowance, and the endpoint may count otherwise than we do: how much is gone for each unit of ours is
   learned.
4. Only what fills like a bucket within minutes is heeded. Of a window that opens anew, of a day, of nonsense we know too little.
5. A hint only ever holds back. What refusals teach (`core.rate`) holds beside it, and a number of the user's replaces it.

Sources: the pages on rate limits of OpenAI, Anthropic, Groq and others, which name these headers.
"""

from collections.abc import Mapping
from math import inf

from batchrunner.core.filling import Filling
from batchrunner.core.model import Left
from batchrunner.core.waits import moment

_NAMES = (
    *((name, "x-ratelimit-{}-" + name) for name in ("requests", "tokens")),
    *((name, f"anthropic-ratelimit-{name}-{{}}") for name in ("requests", "tokens", "input-tokens", "output-tokens")),
)
_HEADERS = tuple((name, each.format("remaining"), each.format("reset")) for name, each in _NAMES)
_FIRST = tuple(dict.fromkeys(each[1] for each in _HEADERS))
SEVERAL = 3.0  # times the mean of what a request takes must be left, where they differ
MARGIN = 0.05  # seconds' worth that is left for requests that overtake one another
SHARE = 0.1  # of a bucket that this may be at most
LATELY = 0.5  # seconds of sending whose answers must agree that more remains
LEARN, LEARN_UNIT = 0.3, 0.05  # weight of a second in what is gone for each unit of ours, of a request in their mean
FEWEST, MOST = 0.01, 100.0  # and what it may be: a request is one at least
SUDDEN = 2.0  # times what was known of it that is believed at once: what runs over in a pause seems to be gone as well
FULL = 0.9  # of it, above which it may have run over
HIT = 1e-3  # units by which less may be left than a request needs: floats do not meet
REGARD = 1.0  # seconds between two looks at that


def told(headers: Mapping[str, str]) -> tuple[Left, ...]:
    """What an answer says of its endpoint's allowances; most answers say nothing."""
    for header in _FIRST:
        if header in headers:
            return tuple(left for names in _HEADERS if names[1] in headers and (left := _left(headers, *names)))
    return ()


def _left(headers: Mapping[str, str], allowance: str, remaining: str, reset: str) -> Left | None:
    seconds = moment(headers.get(reset, ""), headers.get("date", ""))
    try:
        left = float(headers[remaining])
    except ValueError:
        return None
    return Left(allowance, left, seconds) if seconds is not None and 0.0 <= left < inf else None


class Allowance:
    """One of them: of requests, which are `counted`, or of tokens. A request that goes out is known by its line."""

    __slots__ = (
        "_at",
        "_carried",
        "_fewest",
        "_filling",
        "_gone",
        "_heard",
        "_lately",
        "_learn",
        "_level",
        "_mark",
        "_sent",
        "_several",
        "_turn",
        "_unit",
        "_used",
        "holds",
    )

    def __init__(self, counted: bool = True) -> None:
        self.holds = False  # requests have had to wait for it of late
        self._several, self._learn, self._fewest = (1.0, LEARN, 1.0) if counted else (SEVERAL, 1.0, FEWEST)
        self._filling = Filling()
        self._sent: dict[int, tuple[int, float, float]] = {}  # line → its turn, what was used and the level after it
        self._turn = 0
        self._used = 0.0  # units of ours so far, but for what was refused
        self._level = 0.0  # what they and the filling have made of it, counted from where it stood at first
        self._at = 0.0  # as of then
        self._heard = -1  # the turn of the last of the requests that have told what remains
        self._carried = inf  # how much more remained than that level, at least, as the answers of late have it
        self._lately = (-inf, inf, inf)  # since when they are, the least of those before, and theirs
        self._gone = 1.0  # of the endpoint's units, for one of ours
        self._unit = 1.0  # what a request of ours takes, on the mean
        self._mark = (0.0, 0.0, 0.0)  # moment, units used and left, since when `_gone` is looked at

    @property
    def rate(self) -> float:
        """Requests a second that go out while it holds them back; inf: it does not."""
        return self._filling.slope / (self._gone * self._unit) if self.holds and self._filling.known else inf

    def wait(self, now: float) -> float:
        """Seconds until a request may go out."""
        rate = self._filling.rate
        if not rate:
            return 0.0
        short = self._least(rate) - self._carried - self._level - (now - self._at) * rate
        if short <= HIT:
            return 0.0
        self.holds = True
        return short / rate

    def take(self, units: float, line: int, now: float) -> None:
        """A request goes out, of so many units."""
        filling = self._filling
        level = self._level + (now - self._at) * filling.rate
        most = filling.size - self._carried
        self._level = level = (level if level < most or not filling.rate else most) - self._gone * units
        self._at = now
        self._unit += (LEARN_UNIT if self._turn else 1.0) * (units - self._unit)
        self._used += units
        self._turn += 1
        self._sent[line] = self._turn, self._used, level

    def hear(self, line: int, started: float, left: Left) -> None:
        """The request of this line, which was sent then, has been answered, and this is what the answer tells."""
        turn, used, level = self._sent.pop(line, (0, 0.0, 0.0))
        self._filling.hear(left.remaining, left.reset)
        if turn >= self._heard:
            self._heard = turn
            self._carry(left.remaining - level, started)
            self._regard(used, left.remaining, started)
            self.holds = self.holds and left.remaining < self._filling.size / 2.0

    def drop(self, line: int, refused: bool = False) -> None:
        """It has ended otherwise; `refused`: it was not let in."""
        if self._sent.pop(line, None) and refused:
            self._used -= self._unit

    def _least(self, rate: float) -> float:
        """What must be left for a request to go out."""
        size = self._filling.size
        return min(self._several * self._gone * self._unit + min(MARGIN * rate, SHARE * size), size / 2.0)

    def _carry(self, carried: float, started: float) -> None:
        """By the answer to a request that was sent then so much more remained than the level."""
        since, before, least = self._lately
        if started < since + LATELY:
            self._lately = since, before, min(least, carried)
        else:
            self._lately = started, least, carried
        self._carried = min(self._lately[1:])

    def _regard(self, used: float, left: float, started: float) -> None:
        """Compare what we have used with what is gone."""
        since, before, was = self._mark
        if started - since < REGARD * LEARN / self._learn or used <= before:
            return
        self._mark = started, used, left
        filling = self._filling
        if not (before and filling.known):
            return
        gone = (filling.slope * (started - since) + was - left) / (used - before)
        if gone > self._gone and min(left, was) > FULL * filling.size:
            return  # some of what came back may have run over
        most = MOST if self._learn > LEARN else min(MOST, SUDDEN * self._gone)
        self._gone += self._learn * (min(most, max(self._fewest, gone)) - self._gone)
        self._learn = max(LEARN, self._learn / 2.0)
