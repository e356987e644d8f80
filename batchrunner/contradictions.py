"""Settings that cannot hold together, though each by itself is well.

Rules:

1. One table says what contradicts what, and why; whoever resolves settings has them looked at as a whole.
2. A contradiction is an error (E003): none of the two is silently preferred.
"""

from collections.abc import Callable

from batchrunner.errors import UsageError
from batchrunner.settings import Settings


def _outlasts(settings: Settings) -> bool:
    whole, first = settings.timeouts.timeout, settings.timeouts.first_byte_timeout
    return isinstance(whole, float) and isinstance(first, float) and first > whole


_CONTRADICTIONS: tuple[tuple[Callable[[Settings], bool], str], ...] = (
    (_outlasts, "first_byte_timeout is longer than timeout, which is for a whole attempt."),
    (lambda each: each.display.quiet and each.display.verbose, "quiet and verbose exclude each other."),
    (
        lambda each: each.records.strict_openai and each.records.output_format == "cookbook",
        "strict_openai leaves out what output_format cookbook needs to find a line again.",
    ),
    (
        lambda each: each.display.json and each.output == "-",
        "stdout can carry the results (output -) or the summary (json), not both.",
    ),
    (
        lambda each: each.service.via == "batch" and bool(each.slimming.max_image_px or each.slimming.max_prompt_tokens),
        "a batch service (via batch) gets the lines as they are: max_image_px and max_prompt_tokens are for calls.",
    ),
    (
        lambda each: each.service.via == "batch" and bool(each.spending.max_cost or each.spending.max_tokens_total),
        "a batch (via batch) is paid for as a whole: max_cost and max_tokens_total are for calls; to spend step by step: limit.",
    ),
)


def refuse_contradictions(settings: Settings) -> None:
    """Raises UsageError E003 for the first one found."""
    for found, message in _CONTRADICTIONS:
        if found(settings):
            raise UsageError("E003", message, "Where each comes from: batchrunner config show --origin")
