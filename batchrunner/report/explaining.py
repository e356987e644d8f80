"""The long answer of `batchrunner explain` to a code, a kind of failure or a topic.

Rules:

1. What is said of a code stands in `report.codes`, of a topic in `report.topics`.
2. A kind of failure, as in an error record, is explained from the table that decides about it (`core.treatment`).
"""

import textwrap
from typing import Final

from batchrunner.core.model import Kind
from batchrunner.core.treatment import TREATMENT, Treatment
from batchrunner.core.wording import WORDS
from batchrunner.report.codes import CODES
from batchrunner.report.topics import TOPICS

KNOWN: Final = (*CODES, *Kind, *TOPICS)
"""What can be explained."""


def listing() -> str:
    """Every code, kind and topic, one a line."""
    topics = (f"  {topic:<20} {about}" for topic, (about, _) in TOPICS.items())
    codes = (f"  {code:<20} {each.means}" for code, each in CODES.items())
    kinds = (f"  {kind:<20} {WORDS[kind]}" for kind in Kind if kind is not Kind.OK)
    return "\n".join(["topics", *topics, "", "codes", *codes, "", "kinds of failure, as in error records", *kinds])


def explained(word: str, width: int = 96) -> str:
    """The long answer to a code, a kind or a topic; "" for none of them."""
    if word.lower() in TOPICS:
        return TOPICS[word.lower()][1]
    code = CODES.get(word.upper())
    if code:
        return "\n".join([f"{word.upper()}  {code.means}", "", *_block(code.why, width), "", *_steps(code.steps, width)])
    if word.lower() in list(Kind):
        return _kind(Kind(word.lower()), width)
    return ""


def _kind(kind: Kind, width: int) -> str:
    treatment = TREATMENT[kind]
    facts = [f"{name:<22}{said}" for name, said in _facts(treatment)]
    hint = _block(treatment.hint, width)
    return "\n".join([f"{kind}  {WORDS[kind]}", "", *hint, "", *(f"  {fact}" for fact in facts)])


def _facts(treatment: Treatment) -> list[tuple[str, str]]:
    """What the table of treatments says, in words."""
    often = f", at most {treatment.cap} times" if treatment.cap else ""
    elsewhere = {"stop": "by another endpoint, or by the next run", "doubt": "once, when others have been answered"}
    again = elsewhere.get(treatment.health, f"yes{often}" if treatment.again else "no")
    effect = {
        "stop": "out of use for the rest of the run",
        "doubt": "out of use for the rest of the run, if it refuses others as well",
        "down": "after several in a row it rests",
        "pause": "pauses if it asks to",
    }
    limit = {"pushback": "lowers it", "crowded": "lowers it", "success": "may raise it"}
    return [
        ("sent again", again),
        ("uses up an attempt", "yes" if treatment.spends else "no"),
        ("the endpoint", effect.get(treatment.health, "counts as alive" if treatment.health == "up" else "hears nothing of it")),
        ("the concurrency limit", limit.get(treatment.limit, "hears nothing of it")),
    ]


def _block(said: str, width: int) -> list[str]:
    return textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _steps(steps: tuple[str, ...], width: int) -> list[str]:
    return [
        line
        for step in steps
        for line in textwrap.wrap(step, width, initial_indent="  → ", subsequent_indent="    ", break_on_hyphens=False)
    ]
