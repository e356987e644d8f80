"""Before a run: every line is looked at as a run would, and nothing is sent. What they add up to: `estimate`.

Rules:

1. Every line is read as a run would read it, and its prompt cut as there. A glance is enough where it tells the same.
2. A line that is answered is not looked at again.
3. That there is no key or no endpoint yet is no fault of the input.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import cast

from msgspec import structs

from batchrunner.core.cost import Prices, price_table
from batchrunner.core.model import Request, Result
from batchrunner.dialects import Dialect
from batchrunner.errors import UsageError
from batchrunner.estimate import Estimate, learned
from batchrunner.expectation import check_of
from batchrunner.formats import parse
from batchrunner.glance import GLANCED, Plain, glance
from batchrunner.keyring import doors
from batchrunner.lines import Line, blank, open_blocks, read_blocks
from batchrunner.listed import price_of
from batchrunner.looking import Look, at_hand, begun, forgotten, standing_of
from batchrunner.paths import Paths
from batchrunner.replay import attempts, last_moments
from batchrunner.report.preview import CheckReport
from batchrunner.selecting import of_shard, where
from batchrunner.settings import Settings
from batchrunner.slimming import concerned, slim
from batchrunner.source import dialect_of
from batchrunner.spooling import as_lines


def check(settings: Settings, environ: Mapping[str, str] = os.environ) -> CheckReport:
    """Read every line as a run would, and send nothing. UsageError E2xx."""
    check_of(settings.expectation)
    with at_hand(settings, wanted=True) as paths:
        return _checked(as_lines(settings), paths, environ)


def _checked(settings: Settings, paths: Paths, environ: Mapping[str, str]) -> CheckReport:
    urls = _urls(settings, environ)
    moments = last_moments(paths)
    ratio, spread = learned(attempts(paths))
    estimate = Estimate(settings, ratio, urls)
    look = _looking(settings, urls, dialect_of(paths.input, settings.intake), estimate)
    if settings.fresh:
        paths = forgotten(paths)
    if begun(paths):
        estimate.standing = standing_of(settings, paths)
        for first, lines in _unanswered(settings, paths, estimate):
            look(first, lines)
    else:
        estimate.standing = standing_of(settings, paths, look)
    return estimate.report(spread, moments, Prices(price_table(settings.spending.price), price_of))


def _unanswered(settings: Settings, paths: Paths, estimate: Estimate) -> Iterator[tuple[int, Sequence[Line]]]:
    """The lines without an answer, some at a time. Where not all are meant it takes a look to tell whether a line is."""
    intake, standing = settings.intake, estimate.standing
    if not standing or not intake.every:
        yield from read_blocks(paths.input, intake.max_line)
        return
    estimate.pass_over(standing.succeeded)
    for first, lines in open_blocks(paths.input, intake.max_line, partial(standing.begin, refused=False)):
        answered = standing.done_of(first, len(lines), refused=False)
        for stretch in re.finditer("0+", f"{answered:0{len(lines)}b}"[::-1]):
            yield first + stretch.start(), lines[stretch.start() : stretch.end()]


def _looking(settings: Settings, urls: Sequence[str], dialect: Dialect, estimate: Estimate) -> Look:
    """What looks at a block of lines: at a glance where that is enough, which also tells their ids, else as a run would."""
    origins, intake = tuple(urls), settings.intake
    read = partial(parse, origins=origins, model=settings.service.model, dialect=dialect)
    cutting = structs.replace(settings.slimming, max_image_px=0)  # of which nobody counts the bytes as tokens
    glanced = dialect.format in GLANCED and not (settings.service.model or cutting.max_prompt_tokens)

    def whole(raw: Line, line: int) -> Request | Result:
        item = read(raw, line)
        return slim(item, cutting) if isinstance(item, Request) and concerned(item, cutting) else item

    def look(first: int, lines: Sequence[Line]) -> Sequence[str] | None:
        seen = glance(lines, origins) if glanced else [None] * len(lines)
        if intake.every and all(seen):
            plain = cast(list[Plain], seen)
            estimate.take_plain(first, plain)
            return [each.id for each in plain]
        numbered = ((line, raw) for line, raw in enumerate(lines, first) if not blank(raw))
        asked = where(of_shard(numbered, intake.shard), intake.where)
        estimate.take((line, seen[line - first] or whole(raw, line)) for line, raw in asked)
        return None

    return look


def _urls(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Where the lines would be sent; that there is no key or no endpoint yet is no fault of the input."""
    try:
        return [way.base_url for way in doors(settings.service, environ)]
    except UsageError as error:
        if error.code != "E101":
            raise
        return list(settings.service.base_url)
