"""What the doctor saw at an endpoint, as values and in words.

Rules:

1. An endpoint works when it has answered; that every step so far was well is not enough.
2. A step that is not well is followed by what to type next.
"""

from collections.abc import Sequence

from msgspec import Struct

from batchrunner.core.wording import seconds, visible
from batchrunner.probe import Step
from batchrunner.report.layout import WIDTH, fold

WORKS = "It works."


class Visit(Struct, frozen=True, kw_only=True):
    """What was seen at one endpoint."""

    endpoint: str
    url: str
    steps: tuple[Step, ...]

    @property
    def verdict(self) -> str:
        """What it comes to; it works when it has answered."""
        if any(step.state == "fail" for step in self.steps):
            return "It does not work yet; see the arrow."
        answered = any(step.name == "answer" and step.state == "ok" for step in self.steps)
        return WORKS if answered else "It is there; whether it answers is not known: see the arrow."

    @property
    def exit_code(self) -> int:
        """0 when it works."""
        return int(self.verdict != WORKS)


def told(visits: Sequence[Visit], width: int = WIDTH) -> str:
    """The visits in words, with the first thing to do at the end of each."""
    return "\n\n".join(_told(visit, width) for visit in visits)


_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def _told(visit: Visit, width: int) -> str:
    lines = [f"{visible(visit.endpoint)}  {visit.url}"]
    for step in visit.steps:
        spent = seconds(step.seconds) if step.seconds else ""
        said = fold(visible(step.said), width, 23)
        lines.append(f"  {_MARKS[step.state]} {step.name:<8} {spent:>8}  {said[0].lstrip()}")
        lines += [*said[1:], *(fold(f"→ {visible(step.remedy)}", width, 23) if step.remedy else [])]
    return "\n".join([*lines, f"  {visit.verdict}"])
