"""Whether an endpoint that refuses somebody refuses everybody: a wrong key, a wrong address, or only one line of many.

Rules:

1. The doubt begins with a refusal, and ends with an answer to what was sent since.
2. What was refused keeps its slot meanwhile, so that a revoked key costs what may be in flight. When no slot is left, others are
   asked one by one, from the far end of what waits, since lines that are alike often stand together.
3. If so many of these are refused too as `certain` asks for, everybody is. The more lines have turned out to be to blame
   themselves, the more it takes.
"""

from math import inf

OTHERS = 2  # that are refused one by one
MOST_OTHERS = 20


class Doubt:
    """Of one endpoint. `held` is how many refusals no answer has followed yet."""

    __slots__ = ("_full", "_models", "_others", "_since", "held", "known", "proven")

    def __init__(self) -> None:
        self.held = 0
        self.known = False  # it has answered in this run, or a former one
        self.proven = 0  # lines that were to blame
        self._since = inf
        self._full = inf  # when no slot was left
        self._others = 0
        self._models: set[str] = set()  # that were answered for in this run

    def answer(self, started: float, model: str) -> None:
        """An answer has come to what was sent then."""
        self.known = True
        self._models.add(model)
        if started >= self._since:
            self._since, self._full, self._others, self.held = inf, inf, 0, 0

    def refuse(self, started: float, now: float, another: bool, slots: int) -> None:
        """A refusal has come. `another`: this line was not refused here before; the endpoint has so many `slots`."""
        self._others += another and started >= self._full
        self._since = min(self._since, now)
        self.held += 1
        if self.held >= slots:
            self._full = min(self._full, now)

    @property
    def answered(self) -> bool:
        """Whether it has answered in this run."""
        return bool(self._models)

    @property
    def growing(self) -> bool:
        """Whether another was refused as well."""
        return self._others > 0

    @property
    def certain(self) -> bool:
        """Whether enough others were."""
        return self._others >= min(OTHERS + self.proven, MOST_OTHERS)

    def trusted(self, lines: int) -> bool:
        """Whether so many lines may be to blame with nobody left to ask: few, if it was a former run that was answered."""
        return self.answered or (self.known and lines <= OTHERS)

    def knows_others(self, model: str) -> bool:
        """Whether it has answered for another model in this run: it knows us, if not this one."""
        return len(self._models) > (model in self._models)
