"""Lines whose model no endpoint has on its map: a mistake of theirs, or one of the map.

Rules:

1. While no line is served the map may be wrong, and none of them has failed: they are held back. So many of them end the run, and
   after the correction the same command asks them all (`core.debut` has the same rule for what an endpoint says).
2. Once a line is served, or the input is over, each fails by itself.
"""

from collections.abc import Sequence

from batchrunner.core.debut import CODE
from batchrunner.core.model import Result


class Unplaced:
    """Those of one run. `most` of them end it; 0: any number fails."""

    __slots__ = ("_held", "_most", "stopped")

    def __init__(self, most: int) -> None:
        self.stopped = ""  # why the run ends
        self._most = most
        self._held: list[Result] = []

    def take(self, result: Result, served: bool) -> Sequence[Result]:
        """One more, with how it fails; `served`: some line is. Those that have failed for good by now."""
        self._held.append(result)
        if served or not self._most:
            return self.rest()
        if len(self._held) >= self._most:
            first = self._held[0].request.model[:80]
            self.stopped = (
                f"the first {len(self._held)} lines ask for models that no endpoint serves, such as {first!r}: correct --model "
                f"or the models of the [[endpoint]] tables and run the same command, which asks them all; if they are meant so, "
                f"--max-alike 0 [{CODE}]"
            )
        return ()

    def rest(self) -> Sequence[Result]:
        """What was held back fails: the input is over."""
        held, self._held = self._held, []
        return held
