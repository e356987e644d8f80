"""An endpoint's first requests in a run: whether the lines are wrong, or the way they are sent.

Rules:

1. A debut lasts until the first good answer, or until two requests have failed for good in different ways. Then the endpoint
   serves, and a failure is the line's own.
2. What fails for good meanwhile is held back (`core.withheld`): nothing that a wrong setting may explain is recorded as
   failed, and after the setting is corrected the same command asks it again.
3. When so many different lines have failed alike, nothing more is sent until what is under way has ended: slow good answers
   come after quick refusals. If still none has come, the endpoint is out of use.
4. Alike are two failures of one kind, status and code whose messages differ in nothing but words that hold a digit: ids,
   counts, times. What is sent again in another form says nothing yet.
"""

import re

from batchrunner.core.model import Kind, Outcome

CODE = "E307"
_SUSPECT = frozenset({Kind.REJECTED, Kind.GARBLED, Kind.TOO_LARGE})  # and whatever else the server says is final
_TO_DO = {Kind.TOO_LARGE: "raise the limit of the server, or of a proxy before it, or shorten the lines,"}
_VARYING = re.compile(r"[\w.-]*\d[\w.-]*")
_COMPARED = 300  # characters of a message
_SHOWN = 200


class Debut:
    """The debut of one endpoint. `most` lines that fail alike end it; 0: it has none."""

    __slots__ = ("_lines", "_said", "_to_do", "_why", "full", "most", "over")

    def __init__(self, most: int = 0) -> None:
        self.over = not most
        self.full = False  # enough have failed alike: only what is under way can still tell that they were the lines' fault
        self.most = most
        self._lines: set[int] = set()
        self._said: tuple[Kind, int, str, str] | None = None
        self._why = self._to_do = ""

    def take(self, line: int, outcome: Outcome, ended: bool) -> bool:
        """Take in an attempt; `ended`: its request has failed for good, or succeeded. Whether that is held back."""
        if self.over:
            return False
        if outcome.kind is Kind.OK:
            self._end()
            return False
        if outcome.instead and not ended:
            return False
        if not (outcome.final or outcome.kind in _SUSPECT):
            return self._differs() if ended else False
        said = (outcome.kind, outcome.status, outcome.code, _VARYING.sub("#", outcome.message[:_COMPARED].lower()))
        if self._said not in {None, said}:
            return self._differs() if ended else False
        self._note(line, said, outcome.message)
        return ended

    def verdict(self, name: str) -> str:
        """Why the endpoint of this name is out of use, and what to do."""
        return (
            f"{name}: the first {len(self._lines)} requests all failed alike: {self._why}. This looks like configuration: "
            f"{self._to_do} and run the same command, which asks them all again; if they are meant so, --max-alike 0 [{CODE}]"
        )

    def _note(self, line: int, said: tuple[Kind, int, str, str], message: str) -> None:
        self._said = said
        self._to_do = _TO_DO.get(said[0], "correct it")
        self._why = self._why or message[:_SHOWN].rstrip(".")
        if not self.full:
            self._lines.add(line)
            self.full = len(self._lines) >= self.most

    def _differs(self) -> bool:
        self._end()
        return False

    def _end(self) -> None:
        self.over, self.full = True, False
        self._lines.clear()
