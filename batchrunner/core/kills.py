"""How many attempts may be ended by our own deadlines: a budget, since whoever is ended might have answered.

Rules:

1. A kill costs a token. Answers and time bring a few: that bounds the share of good attempts that can ever be killed.
2. A kill proves right when the next attempt answers sooner than the killed one had waited. It brings its token back and half
   of another: where rows truly hang, and however many do, the budget grows with the need. The first wrong one ends that credit.
3. Nobody kills on credit: when no token is left it may be the endpoint that is slow, and the attempt goes on.
4. A kill that ends its request is proven by nobody. What it needs instead stands in `core.deadlines`.
"""

from math import inf

FIRST = 4.0  # tokens before the first answer
MOST = 16.0  # at hand once evidence is full: what a stall of the endpoint can cost
PROVEN = 64.0  # at hand where kills prove right
PER_ANSWER = 0.003  # tokens an answer brings: bounds wrong kills
REFUND = 1.5  # tokens a kill that proved right brings: faster growth would spend on the unproven what the proven have earned
PER_SECOND = 0.1  # tokens time brings, so that an endpoint gone silent is not waited for without end


class Kills:
    """The budget of one endpoint, model and form of answer."""

    __slots__ = ("_ages", "_filled", "_most", "_proven", "_tokens", "earned")

    def __init__(self) -> None:
        self._tokens = self._most = FIRST
        self._proven = 0.0
        self._filled = 0.0
        self.earned = 0.0  # tokens that answers have brought and that are not filled in yet
        self._ages: dict[int, float] = {}  # line → age of its last attempt that we ended; finished lines leave

    def weigh(self, evidence: float) -> None:
        """Evidence, as a share of all that counts, has grown: grant more."""
        self._most = max(FIRST, MOST * evidence)

    def fill(self, now: float) -> None:
        """Let time and answers bring tokens."""
        self._add((now - self._filled) * PER_SECOND + self.earned)
        self._filled, self.earned = now, 0.0

    def spend(self, price: float = 1.0) -> bool:
        """Take a token, or as many as a kill costs; False when there are too few."""
        if self._tokens < price:
            return False
        self._tokens -= price
        return True

    def note(self, line: int, age: float) -> None:
        """What an attempt had waited when our own deadline ended it."""
        self._ages[line] = age

    def answered(self, line: int, slowest: float) -> None:
        """The line was answered, and `slowest` is the longest that a deadline had to wait for it."""
        age = self._ages.pop(line, None)
        if age is None:
            return
        if slowest > age:
            self._proven = 0.0
            return
        self._proven = min(PROVEN, self._proven + 1.0)
        self._add(REFUND)

    def forget(self, line: int, seconds: float = inf) -> None:
        """The line is finished for good, here or elsewhere: answered after so many seconds, or inf: it was not."""
        if seconds < inf:
            self.answered(line, seconds)
        self._ages.pop(line, None)

    def _add(self, tokens: float) -> None:
        self._tokens = min(max(self._most, self._proven), self._tokens + tokens)
