"""The JSON in a model's answer.

Rules:

1. An answer counts as JSON when it is JSON as a whole, or when it is one code fence with JSON in it: models put one round it
   although they were asked not to. Blanks around either do not count.
2. Words before or behind are not cut away: whoever asked for JSON and gets a letter about it has not got JSON.
"""

import re

_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*[\w+.-]*[ \t]*\n(.*?)\n?[ \t]*\1", re.DOTALL)


def unfenced(text: str) -> str:
    """The text without blanks around it, and without the one code fence that it may stand in."""
    bare = text.strip()
    fence = _FENCE.fullmatch(bare)
    return fence[2].strip() if fence and fence[1] not in fence[2] else bare
