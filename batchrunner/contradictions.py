"""Settings that cannot hold together, though each by itself is well.

Rules:

1. One table says what contradicts what, another which option does nothing without which; whoever resolves settings has them
   looked at as a whole.
2. A contradiction is an error (E003): none of the two is silently preferred.
3. An option that does nothing is one only where it was given by hand, for what it was to do will not be done. In a file or a
   variable it may wait for the other.
"""

from collections.abc import Callable, Collection
from functools import partial

from batchrunner.core.deadlines import Timeouts
from batchrunner.core.service import as_said
from batchrunner.errors import UsageError
from batchrunner.settings import OPTIONS, Settings, values

Found = Callable[[Settings], bool]
_USUAL = Timeouts()


def _outlasts(name: str, settings: Settings) -> bool:
    timeouts = settings.timeouts
    whole = timeouts.max_timeout if timeouts.timeout == "auto" else timeouts.timeout
    part = getattr(timeouts, name)
    return part not in {"auto", getattr(_USUAL, name)} and part > whole


def _grows(settings: Settings) -> bool:
    limits = settings.concurrency
    own = [as_said(limits, row).concurrency for row in settings.service.endpoints]
    return "auto" in (own or [limits.concurrency])


def _judges(settings: Settings) -> bool:
    return settings.expectation.expect != "any" or bool(settings.expectation.schema)


_CONTRADICTIONS: tuple[tuple[Found, str], ...] = (
    *(
        (
            partial(_outlasts, name),
            f"{name} is longer than timeout, or max_timeout for auto, which is for a whole attempt.",
        )
        for name in ("connect_timeout", "first_byte_timeout", "idle_timeout")
    ),
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
_USES: dict[str, tuple[Found, str]] = {
    "cache_all": (lambda each: bool(each.reusing.cache), "--cache DIR"),
    "cache_size": (lambda each: bool(each.reusing.cache or each.reusing.dedupe), "--cache DIR or --dedupe"),
    "feedback": (_judges, "--expect json or --schema FILE"),
    "image_quality": (lambda each: bool(each.slimming.max_image_px), "--max-image-px N"),
    "max_concurrency": (_grows, "--concurrency auto"),
    "max_timeout": (lambda each: each.timeouts.timeout == "auto", "--timeout auto"),
    "overflow": (lambda each: bool(each.slimming.max_prompt_tokens), "--max-prompt-tokens N"),
    "reask": (_judges, "--expect json or --schema FILE"),
}
"""Where an option has a use, and what gives it one."""
HOOKS = frozenset({"feedback", "reask"})  # which a function of the library's user gives a use as well


def refuse_contradictions(settings: Settings, given: Collection[str]) -> None:
    """Raises UsageError E003 for the first one found. `given` are the options that were given by hand."""
    for found, message in _CONTRADICTIONS:
        if found(settings):
            raise UsageError("E003", message, "Where each comes from: batchrunner config show --origin")
    for name, (used, wanted) in _USES.items():
        if name in given and values(settings)[name] != OPTIONS[name].default and not used(settings):
            raise UsageError("E003", f"{OPTIONS[name].flags[-1]} does nothing without {wanted}.", "Add that, or leave it out.")
