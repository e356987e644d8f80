"""The page: one offline HTML file, under 150 KB, that explains a run.

Rules:

1. A pure function from a `Story` to text. The same page is shown live: `body` is what changes in it.
2. It needs no script, no network and no fonts; it follows the reader's light or dark, and prints.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from batchrunner.core.wording import amount, number
from batchrunner.core.wording import seconds as lasting
from batchrunner.report.charts import deaths, over_time, slowest
from batchrunner.report.parts import prose, section, shown, table, typed
from batchrunner.report.story import Story, Value

MARKS: Final = {"yes": "yes", "no": "no", "open": "cannot tell"}


@cache
def style() -> str:
    """The style sheet."""
    return files(__package__).joinpath("page.css").read_text("utf-8")


GENERATOR = '<meta name="generator" content="batchrunner'
"""By which a page of ours is known, in its first `HEAD` bytes."""
HEAD = 1024


def page(story: Story) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="generator" content="{shown(story.program)}">'
        f"<title>{shown(story.job)} · {shown(story.verdict)}</title><style>{style()}</style></head>\n"
        f"<body><main>{body(story)}</main></body></html>\n"
    )


def body(story: Story) -> str:
    """What stands in the page, section by section; what has nothing to say is left out."""
    return "\n".join(part for part in (said(story) for said in SECTIONS) if part)


# ---- sections ----


def _head(story: Story) -> str:
    command = f'<p class="next"><code>{typed(story.next)}</code> {prose(story.why)}</p>' if story.next else ""
    share = "" if story.share is None else _share(story.share)
    made = " · ".join(part for part in (story.job, story.made, story.program) if part)
    return (
        f'<header class="{shown(story.state)}"><h1>{shown(story.verdict)}</h1>{command}'
        f'<p class="soft">{shown(made)}</p>{share}</header>'
    )


def _share(share: float) -> str:
    done = f'<rect class="area flight" width="{100 * share:.2f}" height="1"/>'
    drawing = f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">{done}</svg>'
    return f'<div class="share" role="progressbar" aria-valuenow="{100 * share:.0f}">{drawing}</div>'


def _tiles(story: Story) -> str:
    tiles = (
        f"<div><dt>{shown(tile.name)}</dt><dd>{shown(tile.value)}<small>{prose(tile.note)}</small></dd></div>"
        for tile in story.tiles
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if story.tiles else ""


def _findings(story: Story) -> str:
    rows = [
        (
            shown(each.question),
            f'<span class="sign {each.mark}">{MARKS[each.mark]}</span>',
            prose(each.number),
            prose(each.remedy),
        )
        for each in story.findings
    ]
    return (
        section("Diagnosis", table(("question", "answer", "evidence", "what to do"), rows, "wsww"), "diagnosis") if rows else ""
    )


def _troubles(story: Story) -> str:
    rows = [
        (shown(each.what), number(each.attempts), number(each.failed) if each.failed else "–", prose(each.remedy))
        for each in story.troubles
    ]
    heads = ("", "attempts", "failed for good", "what to do")
    return section("What went wrong, and what to do", table(heads, rows, "wnnw"), "troubles") if rows else ""


def _endpoints(story: Story) -> str:
    rows = [
        (
            shown(each.name),
            number(each.attempts),
            f"{100 * each.good / each.attempts:.1f} %" if each.attempts else "–",
            *map(shown, (each.p50, each.p95, each.connect, each.timeout, each.in_flight, each.state)),
        )
        for each in story.endpoints
    ]
    heads = ("endpoint", "attempts", "good", "p50", "p95", "connect p95", "timeout", "in flight", "state")
    return section("Endpoints", table(heads, rows, "wnnnnnnnw"), "endpoints") if rows else ""


def _cost(story: Story) -> str:
    rows = [
        (shown(each.model), amount(each.tokens_in), amount(each.tokens_out), shown(each.cost), shown(each.source))
        for each in story.prices
    ]
    note = f"<p>{shown(story.cost)}</p>" if story.cost else ""
    sums = table(("model", "tokens in", "tokens out", "cost", "price from"), rows, "wnnnw") if rows else ""
    return section("Cost", sums + note, "cost") if rows or note else ""


def _sessions(story: Story) -> str:
    rows = [(shown(each.began), lasting(each.seconds), number(each.settled), shown(each.ended)) for each in story.sessions]
    heads = ("begun (UTC)", "lasted", "lines settled", "ended")
    return section("Sessions", table(heads, rows, "wnnw"), "sessions") if rows else ""


def _settings(story: Story) -> str:
    given = [value for value in story.settings if value.given]
    rest = [value for value in story.settings if not value.given]
    if not story.settings:
        return ""
    first = _values(given) if given else "<p>Everything is at its default.</p>"
    more = f"<details><summary>{len(rest)} at their defaults</summary>{_values(rest)}</details>" if rest else ""
    return section("Settings", first + more, "settings")


def _values(values: Sequence[Value]) -> str:
    rows = [(shown(each.name), f"<code>{shown(each.value)}</code>", shown(each.origin)) for each in values]
    return table(("option", "value", "from"), rows, "www")


def _files(story: Story) -> str:
    rows = [(shown(what), f"<code>{shown(path)}</code>") for what, path in story.files]
    return section("Files", table(("", ""), rows, "sw"), "files") if rows else ""


SECTIONS: Final = (
    _head,
    _tiles,
    _findings,
    _troubles,
    over_time,
    deaths,
    _endpoints,
    slowest,
    _cost,
    _sessions,
    _settings,
    _files,
)
