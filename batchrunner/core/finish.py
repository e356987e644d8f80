"""What a finish or stop reason says of an answer, whoever's word it is.

Rules:

1. Cut by its own token budget is complete, with a flag: sending it again buys the same again.
2. Filtered is final and no success; what came stays with the record.
3. A reason nobody has heard of is complete, with a flag: no text is dropped for a new word.
"""

from collections.abc import Mapping

from batchrunner.core.model import Kind
from batchrunner.core.verdicts import Verdict

MISSING_FINISH = "missing_finish"  # the flag of an answer accepted without a finish reason
AT_ITS_LIMIT = "hit_token_limit"  # that of one that is whole as it came, and ends where the model had to stop
COMPLETE = Verdict(Kind.OK)
_CALLED = Verdict(Kind.OK, "tool_calls")  # complete, and its arguments are worth a look
LIMITED = Verdict(Kind.OK, flags=(AT_ITS_LIMIT,))
FILTERED = Verdict(Kind.POLICY, "content_filter", "the provider's content filter withheld or cut the answer")
REFUSAL = Verdict(Kind.POLICY, "refusal", "the model refused to answer")
_LOOPED = Verdict(Kind.OK, flags=("repetition",))
UNFINISHED = Verdict(Kind.TRUNCATED, "no_finish_reason", "the answer does not say that it is finished")
BROKEN = Verdict(Kind.SERVER_ERROR, "error", "the server reports that it failed while generating")
ABORTED = Verdict(Kind.TRUNCATED, "abort", "the server aborted the generation")
_STARVED = Verdict(Kind.OVERLOADED, "insufficient_system_resource", "the server ran out of resources while generating")
_PAUSED = Verdict(
    Kind.TRUNCATED,
    "pause_turn",
    "the model paused a long turn; a new request has to continue it with this answer",
    final=True,
)

# Finish and stop reasons of all providers, in lower case.
FINISH: Mapping[str, Verdict] = {
    **dict.fromkeys(["stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_use", "complete"], COMPLETE),
    **dict.fromkeys(("tool_calls", "function_call"), _CALLED),
    **dict.fromkeys(
        ["length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"],
        LIMITED,
    ),
    **dict.fromkeys(
        [
            "content_filter",
            "content_filtered",
            "guardrail_intervened",
            "safety",
            "recitation",
            "prohibited_content",
            "blocklist",
            "spii",
            "image_safety",
            "sensitive",  # GLM
        ],
        FILTERED,
    ),
    **dict.fromkeys(
        [
            "error",
            "failed",
            "timeout",
            "network_error",  # GLM
            "malformed_function_call",  # Gemini, as the next
            "function_call_filter",
            "unexpected_tool_call",
            "other",
        ],
        BROKEN,
    ),
    **dict.fromkeys(["abort", "aborted", "cancelled", "canceled"], ABORTED),
    **dict.fromkeys(["null", "none"], UNFINISHED),  # DashScope says it in words
    "refusal": REFUSAL,
    "pause_turn": _PAUSED,
    "repetition": _LOOPED,
    "insufficient_system_resource": _STARVED,
}


def ended(reason: str | None) -> Verdict:
    """What a finish or stop reason says."""
    if not reason:
        return UNFINISHED
    known = FINISH.get(reason) or FINISH.get(reason.partition(":")[0].strip().lower())
    return known or Verdict(Kind.OK, flags=("unknown_finish_reason",))
