"""A job on disk, found and looked at: where its files lie, whether they can be read, what they say of each line.

Rules:

1. Nothing of a job is locked or changed here; what has to be made to look at it lies aside and goes away again.
2. Whoever opens a job for writing reads it by the same `evidence_of`.
3. Where that takes longer than two seconds, it is shown how far it has come.
"""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

from msgspec import MsgspecError, Struct, json, structs

from batchrunner import ahead
from batchrunner.core.model import Kind
from batchrunner.core.selection import piece
from batchrunner.core.wording import plural
from batchrunner.disk import special
from batchrunner.errors import UsageError
from batchrunner.foreign import read_record
from batchrunner.landmarks import Landmark
from batchrunner.lines import Line, is_packed, read_lines
from batchrunner.paths import PACKED, PAGE, Paths
from batchrunner.progress import PERIOD, Progress
from batchrunner.reader import Asked, Compared, Names, Reading, read
from batchrunner.records import read_successes
from batchrunner.replay import last_start
from batchrunner.resume import Evidence, Output, survey
from batchrunner.selecting import check_names, names_of_shard
from batchrunner.settings import OPTIONS, Settings, values
from batchrunner.source import Intake, refuse_shape
from batchrunner.spooling import KEPT, STDIN, is_kept, is_made, is_named, keep, made_of, render
from batchrunner.standing import Standing

KINDS = frozenset(Kind)
ASKING = ("model", "max_image_px", "image_quality", "max_prompt_tokens", "overflow")
"""Options that change what is sent for a line."""
SOON = 2.0  # seconds that nobody minds to wait
Look = Callable[[int, Sequence[Line]], Sequence[str] | None]


def paths_of(settings: Settings) -> Paths:
    """Where a job's files lie. What is no file of lines is kept as one in the run folder, so that it can be continued.

    UsageError E003: there is no name to call the results after, or something would be written over the job's own files.
    """
    if not settings.output and not is_named(settings):
        what = "stdin" if settings.input == STDIN else f"{settings.input!r}"
        raise UsageError("E003", f"{what} has no name to call the results after", "name them: -o FILE, or -o - for stdout")
    refuse_unfit("-o FILE", settings.output)
    paths = Paths.of(Path(settings.input), Path(settings.output) if settings.output else None, _ending(settings.intake.shard))
    return with_kept(settings, paths)


def with_kept(settings: Settings, paths: Paths) -> Paths:
    """The same paths, with the requests that are made of something else as the input. UsageError E003 as in `paths_of`."""
    render = settings.rendering.render
    refuse_own("--report FILE.html", settings.display.report, paths)
    if not is_kept(settings):
        return paths
    refuse_unfit("--render FILE", render)
    refuse_own("--render FILE", render, paths)
    return structs.replace(paths, input=Path(render) if render else paths.folder / KEPT)


def refuse_own(option: str, file: str, paths: Paths) -> None:
    """UsageError E003 when the file to be written is one that the job has already, whatever it is called here."""
    place, *own, folder = map(_real, (Path(file), paths.input, paths.results, paths.errors, paths.folder))
    if file and (place in own or (place.parent == folder and place.name != PAGE)):
        raise UsageError("E003", f"{file} is one of the job's own files", f"name another one: {option}")


def refuse_unfit(option: str, file: str) -> None:
    """UsageError E003 when the file to be written is a folder, or something else that no file may take the place of."""
    if file.endswith("/") or (file and Path(file).is_dir()):
        raise UsageError("E003", f"{file} is a folder, not a file to write to", f"name a file in it: {option}")
    if file and special(Path(file)):
        raise UsageError("E003", f"{file} is a device or a pipe, not a file to write to", f"name a file: {option}")


def _real(path: Path) -> Path:
    """Where a path leads; unlike `resolve` it takes links that lead in a circle."""
    return Path(os.path.realpath(path))


def _ending(shard: str) -> str:
    """What a shard's files have behind the name of the input: `.shard-3-of-8`."""
    mine = piece(shard)
    return f".shard-{mine[0]}-of-{mine[1]}" if mine else ""


@contextmanager
def at_hand(settings: Settings, wanted: bool = False) -> Iterator[Paths]:
    """The paths of a job that is only looked at. Rows are made into requests aside, or where `wanted` at the place of --render.

    What a run has kept stands for the input, where the options do not say how it came about. UsageError E2xx, FileError.
    """
    paths = paths_of(settings)
    kept = paths.folder / KEPT
    if not settings.rendering.prompt and kept.exists():
        yield structs.replace(paths, input=kept)
    elif settings.input == STDIN:
        hint = "A run reads it, and keeps it. To look first, write it to a file:  … > requests.jsonl"
        raise UsageError("E201", f"no run has kept what came by stdin: {kept} is not there", hint)
    elif (made := made_of(settings, paths)) is None:
        yield paths
    else:
        with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
            if wanted and settings.rendering.render:
                render(settings, made, paths)
            else:
                paths = structs.replace(paths, input=Path(folder) / KEPT)
                keep(made, paths.input)
            yield paths


def forgotten(paths: Paths) -> Paths:
    """The same paths, as if nothing had been done yet."""
    return structs.replace(paths, results=Path(os.devnull), errors=Path(os.devnull))


def begun(paths: Paths) -> bool:
    """Whether there are results or errors of the job."""
    return any(path.exists() and path.stat().st_size for path in (paths.results, paths.errors))


def standing_of(settings: Settings, paths: Paths, look: Look | None = None) -> Standing:
    """How a job stands on disk, without locking or changing anything; `paths` are those `at_hand`. UsageError E2xx, FileError.

    `look` gets each block of the input when it is first read: the number of its first line, and the lines. It may tell their ids.
    """
    check_input(paths.input, settings.intake)
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        return survey(evidence_of(Untouched(paths, Path(folder)), settings, look), None, settings.changed == "keep")


def _looked_at(look: Look, names: Names) -> Names:
    """The same names, of lines that are looked at when they are first asked for."""
    seen = 0

    def named(lines: Sequence[Line], first: int) -> Sequence[str]:
        nonlocal seen
        new, seen = first > seen, max(seen, first + len(lines) - 1)
        return (look(first, lines) if new else None) or names(lines, first)

    return named


class Untouched:
    """An output that is only looked at. What is not there reads as empty."""

    def __init__(self, paths: Paths, folder: Path) -> None:
        there = {
            name: path if path.exists() else Path(os.devnull)
            for name, path in (("results", paths.results), ("errors", paths.errors))
        }
        self.paths = structs.replace(paths, folder=folder, **there)

    def set_aside(self, path: Path, offset: int, raw: bytes) -> None:
        """Leave the line where it is."""

    def compact(self, ok: bool, keep: Callable[[int], bool]) -> int:
        """Never asked for."""
        raise NotImplementedError


def evidence_of(output: Output, settings: Settings, look: Look | None = None) -> Evidence:
    """What a survey of this output reads. Whoever is to `look` at the lines has them read here."""
    intake, marks = settings.intake, list[Landmark]()
    names = _looked_at(look, names_of_shard(intake.shard)) if look else None

    def blocks(compared: Compared) -> Generator[Asked, None, None]:
        reading = Reading(output.paths.input, intake.max_line, intake.shard)
        found = read(reading, marks, compared, names) if names else ahead.blocks(reading, marks, compared)
        return shown(found, Progress(settings.display, settings.input))

    return Evidence(blocks, read_successes, read_record, output, marks)


def shown(
    blocks: Generator[Asked, None, None], progress: Progress, clock: Callable[[], float] = monotonic
) -> Generator[Asked, None, None]:
    """The same blocks, and where they have come to, as soon as they take long."""
    began = clock()
    due = began + SOON
    with closing(progress), closing(blocks):
        for block in blocks:
            yield block
            if (now := clock()) >= due:
                due = now + PERIOD
                progress.count(block.last, now - began)


def check_input(path: Path, intake: Intake) -> None:
    """Refuse what cannot be read as lines: E201, E202, E204, E206; and what is packed by its name alone, and no JSON.

    E002: the lines have no such field as `where` names.
    """
    _, first = next(read_lines(path, 1 << 20), (0, b"{"))
    odd = isinstance(first, bytes) and not first.lstrip().startswith((b"{", b"["))
    if odd and path.name.lower().endswith(PACKED) and not is_packed(path):
        message = f"the input {path} is packed by its name, but it is neither gzip nor zstd, nor lines of JSON"
        raise UsageError("E204", message, f"Was it damaged on its way? Fetch it again. What it is: head -c 200 {path}")
    check_names(path, intake.max_line, intake.where)


def check_shape(settings: Settings, path: Path) -> None:
    """E203 as of `refuse_shape`, unless lines are chosen or made of rows, or may all fail alike."""
    if settings.intake.every and settings.stopping.max_alike and not is_made(settings):
        refuse_shape(path, settings.intake)


def refuse_duplicates(standing: Standing, name: str) -> None:
    """E205 when two lines have one id."""
    if not standing.duplicates:
        return
    shown = "\n".join(f"line {twin.line}: {twin.id!r} is already on line {twin.first}" for twin in standing.twins[:5])
    raise UsageError(
        "E205", f"{name}: {lines_have(standing.duplicates)} a custom_id that an earlier line has", f"{shown}\nnothing was sent"
    )


def refuse_edits(standing: Standing, name: str, decided: str) -> None:
    """E402 when answers are there to other texts than the lines have now, and nobody has `decided` what is to be done."""
    edited, moved = standing.undecided(decided)
    if edited:
        shown = ", ".join(f"{each!r} on line {line}" for each, line in standing.edits[:3])
        raise UsageError(
            "E402",
            f"{name} changed since the last run: {lines_have(edited)} a result for another text ({shown})",
            "ask them again:     --changed rerun\nkeep their results: --changed keep\nstart over:         --fresh",
        )
    if moved:
        raise UsageError(
            "E402",
            f"{name} changed since the last run: {moved:,} of its results are for lines without a `custom_id` "
            f"that stand elsewhere now, read otherwise or have gone; {standing.pending - standing.reopened:,} would be sent anew",
            "put the lines back, and new ones at the end; or give each a `custom_id`, by which it is known anywhere\n"
            "ask them again:     --changed rerun\nstart over:         --fresh",
        )


def damage(standing: Standing, paths: Paths) -> str:
    """What to say of lines of the output that are no records; "" when there are none."""
    count = standing.damaged
    lines = "1 damaged line stays" if count == 1 else f"{count} damaged lines stay"
    return f"{lines} in the output, passed over; copied to {paths.torn}." if count else ""


def vanished(paths: Paths) -> str:
    """What to say when the results are gone that the last run has left; "" when they are not, or nobody knows of them."""
    try:
        had = 0 if paths.results.stat().st_size else json.decode(paths.summary.read_bytes(), type=_Last).succeeded
    except (OSError, MsgspecError):
        return ""
    answers = f"{plural(had, 'answer')} of the last run {'is' if had == 1 else 'are'}"
    return f"{answers} gone from {paths.results}: all is asked anew. To keep them stop now and put the file back." if had else ""


class _Last(Struct):
    """What summary.json says, as far as it is wanted."""

    succeeded: int = 0


def asked_otherwise(settings: Settings, paths: Paths, answers: int) -> str:
    """What so many answers of earlier runs were asked with that is another now; a line's digest does not tell. "" for nothing."""
    if not (answers and (start := last_start(paths))):
        return ""
    before, now = start.settings, values(settings)
    told = [
        f"{OPTIONS[name].flags[-1]} {before[name] or 'not given'} then, {now[name] or 'not given'} now"
        for name in ASKING
        if before.get(name, now[name]) != now[name]
    ]
    return f"Answers of earlier runs ({answers:,}) stay as they are: {'; '.join(told)}. All anew: --fresh" if told else ""


def lines_have(count: int) -> str:
    """`1 line has`, `2 lines have`."""
    return f"{count} lines have" if count > 1 else "1 line has"


def failures(standing: Standing) -> dict[Kind, int]:
    """Failed and invalid lines by kind."""
    counts: dict[Kind, int] = {}
    for name, count in standing.kinds.items():
        kind = kind_named(name)
        counts[kind] = counts.get(kind, 0) + count
    return counts


def kind_named(name: str) -> Kind:
    """The kind of this name; one that a foreign or newer program wrote counts as rejected."""
    return Kind(name) if name in KINDS else Kind.REJECTED
