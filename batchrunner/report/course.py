"""The course of a job over its sessions: a trail read chapter by chapter, and drawn on one axis of running time.

Rules:

1. Sessions follow one another in running time. Counters begin anew with each, so that only their differences are added.
2. Bounded: of a long session several moments become one while it is read, and at most `POINTS` are drawn.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from batchrunner.core.buckets import merged, quantile
from batchrunner.core.model import Kind
from batchrunner.core.trail import End, Moment, Start, TrailLine, joined
from batchrunner.report import story as page
from batchrunner.report.svg import POINTS

LONGEST = 120  # letters of a name or a value
KEPT = 4 * POINTS  # moments of a session that are held while a trail is read


class Chapter(Struct, frozen=True):
    """One session of a job as its trail tells it. `start` is missing where the file's beginning has been dropped."""

    start: Start | None
    moments: tuple[Moment, ...]
    end: End | None

    @property
    def session(self) -> int:
        """Its number, from 1."""
        return next((line.session for line in (self.start, self.end, *self.moments) if line), 0)

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end.at if self.end else self.moments[-1].at if self.moments else 0.0


def chapters(lines: Iterable[TrailLine]) -> list[Chapter]:
    """The sessions of a trail, in order. Of a long one several moments become one, so that memory has a bound."""
    starts: dict[int, Start] = {}
    ends: dict[int, End] = {}
    moments: dict[int, list[Moment]] = {}
    for line in lines:
        kept = moments.setdefault(line.session, [])
        if isinstance(line, Start):
            starts[line.session] = line
        elif isinstance(line, End):
            ends[line.session] = line
        else:
            kept.append(line)
            if len(kept) > KEPT:
                kept[:] = folded(kept, KEPT // 2)
    return [Chapter(starts.get(name), tuple(moments[name]), ends.get(name)) for name in sorted(moments)]


def course(told: Sequence[Chapter]) -> Iterable[page.Moment]:
    """All sessions on one axis, in at most `POINTS` steps."""
    whole = sum(len(chapter.moments) for chapter in told)
    offset = 0.0
    for chapter in told:
        room = max(2, POINTS * len(chapter.moments) // max(1, whole))
        before: Mapping[str, int] = {}
        for moment in folded(chapter.moments, room):
            yield _step(moment, before, offset)
            before = moment.kinds
        offset += chapter.seconds


def folded(moments: Sequence[Moment], most: int) -> list[Moment]:
    """At most so many moments, each of which may stand for several."""
    kept = list(moments)
    while len(kept) > most:
        pairs = zip(kept[::2], kept[1::2], strict=False)
        kept = [*(joined(first, second) for first, second in pairs), *kept[len(kept) // 2 * 2 :]]
    return kept


def _step(moment: Moment, before: Mapping[str, int], offset: float) -> page.Moment:
    total = merged(lane.phases.get("total", {}) for lane in moment.lanes)
    counts = dict.fromkeys(page.GROUPS, 0)
    for kind, n in moment.kinds.items():
        counts[group_of(kind)] += n - before.get(kind, 0)
    return page.Moment(
        at=offset + moment.at,
        span=moment.span,
        counts=tuple(counts.values()),
        p50=quantile(total, 0.5),
        p95=quantile(total, 0.95),
        timeout=max((lane.deadline for lane in moment.lanes), default=0.0),
        in_flight=moment.in_flight,
        limit=moment.limit,
    )


def group_of(kind: str) -> str:
    """The group of a kind by name; one that a newer program wrote counts as broken."""
    return page.GROUP_OF[Kind(kind)] if kind in KINDS else "broken"


KINDS = frozenset(kind.value for kind in Kind)


def sessions(told: Sequence[Chapter], running: bool) -> Iterable[page.Session]:
    """When each began and how it ended."""
    offset = 0.0
    for chapter in told:
        last = chapter.moments[-1] if chapter.moments else None
        now = running and chapter is told[-1]
        ended = (chapter.end.stopped or "finished") if chapter.end else "running" if now else "killed"
        yield page.Session(
            began=chapter.start.wall.replace("T", " ").partition(".")[0] if chapter.start else "",
            at=offset,
            seconds=chapter.seconds,
            settled=last.done - last.resumed if last else 0,
            ended=shortened(ended),
        )
        offset += chapter.seconds


def shortened(text: str) -> str:
    """A name or a value that has a length."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
