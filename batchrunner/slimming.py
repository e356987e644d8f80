"""Requests made smaller before they are sent: inline images shrunk, prompts cut to a number of tokens.

    source ──blocks──► Slimmer ──the same blocks, slimmer──► engine

Rules:

1. Off, it is not there. On, it looks only at requests that hold an inline image or may be too long; the others pass untouched.
2. How an image gets smaller is told in `images`, what is cut from a prompt in `core.cutting`.
3. The work is done in threads, a few blocks ahead, in order; memory is bounded by them. Nothing is ever fetched.
4. Ids and digests stay those of the line. What was changed stands in the record, as `batchrunner.slimmed`.
5. Too large for the endpoint all the same (413): the request goes out once more with images of half the size.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Self

import msgspec
from msgspec import Struct, structs

from batchrunner.core.cutting import APART, FIELDS, Overflow, cut, places
from batchrunner.core.model import Error, Kind, Outcome, Request, Result, Slimmed
from batchrunner.core.policy import option
from batchrunner.dialects import read_entries, write
from batchrunner.hooks import Judge
from batchrunner.images import UnsafeImage, images, pillow, shrink
from batchrunner.source import Block, Source

THREADS = min(8, os.cpu_count() or 1)
HARDER = 60  # quality of the second try


class Slimming(Struct, frozen=True, kw_only=True):
    """What is made smaller."""

    max_image_px: Annotated[
        int,
        option(
            "shrink inline images to this longest side; 0 leaves them", group="Input and output", metavar="N", main=False, ge=0
        ),
    ] = 0
    image_quality: Annotated[
        int,
        option(
            "quality of JPEG and WebP images that were shrunk", group="Input and output", metavar="1..95", main=False, ge=1, le=95
        ),
    ] = 85
    max_prompt_tokens: Annotated[
        int,
        option(
            "longest prompt, in tokens as they are guessed; 0 is any", group="Input and output", metavar="N", main=False, ge=0
        ),
    ] = 0
    overflow: Annotated[
        Overflow,
        option(
            "what becomes of a longer one: it fails, or its texts lose their beginning or their middle",
            group="Input and output",
            metavar="fail|truncate-head|truncate-middle",
            main=False,
        ),
    ] = "fail"


class Slimmer:
    """Makes requests smaller, in threads of its own. UsageError E206: Pillow is missing."""

    def __init__(self, policy: Slimming) -> None:
        if policy.max_image_px:
            pillow()
        self._policy = policy
        self._pool = ThreadPoolExecutor(THREADS, "batchrunner-slimming")

    def blocks(self, source: AsyncIterator[Block]) -> AsyncIterator[Block]:
        """The blocks of a source, slimmer. Of a file some are worked on ahead; rows that come one by one are not waited for."""
        return _Blocks(source, self._begun, THREADS if isinstance(source, Source) else 1)

    def _begun(self, item: Request | Result) -> "Item":
        """The item, or the work on it."""
        if isinstance(item, Result) or not concerned(item, self._policy):
            return item
        return asyncio.get_running_loop().run_in_executor(self._pool, slim, item, self._policy)

    def judge(self, judge: Judge | None) -> Judge | None:
        """The hook that has what was too large sent once more, smaller, after what `judge` says."""
        if not self._policy.max_image_px:
            return judge
        harder = structs.replace(
            self._policy,
            max_image_px=max(1, self._policy.max_image_px // 2),
            image_quality=min(self._policy.image_quality, HARDER),
        )

        async def judged(attempt: Any, outcome: Outcome) -> Outcome:
            if judge:
                outcome = await judge(attempt, outcome)
            if outcome.kind is Kind.TOO_LARGE and concerned(attempt.request, harder):
                again = await asyncio.get_running_loop().run_in_executor(self._pool, slim, attempt.request, harder)
                if isinstance(again, Request) and again is not attempt.request:
                    return structs.replace(outcome, instead=again)
            return outcome

        return judged

    def close(self) -> None:
        """Nobody waits any more for what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)


Item = Request | Result | asyncio.Future[Request | Result]


class _Blocks:
    def __init__(self, source: AsyncIterator[Block], begin: Callable[[Request | Result], Item], most: int) -> None:
        self._source = source
        self._begin = begin
        self._most = most
        self._ahead: deque[list[Item]] = deque()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        while not self._ended and len(self._ahead) < self._most:
            block = await anext(self._source, None)
            self._ended = block is None
            if block is not None:
                self._ahead.append(list(map(self._begin, block)))
        if not self._ahead:
            raise StopAsyncIteration
        return [await item if isinstance(item, asyncio.Future) else item for item in self._ahead.popleft()]


def slimmer_of(policy: Slimming) -> Slimmer | None:
    """None where nothing is to be made smaller."""
    return Slimmer(policy) if policy.max_image_px or policy.max_prompt_tokens else None


def concerned(request: Request, policy: Slimming) -> bool:
    """Whether the request may have to be changed."""
    long = bool(policy.max_prompt_tokens) and request.prompt_tokens > policy.max_prompt_tokens
    return request.route in FIELDS and (long or (bool(policy.max_image_px) and b"base64" in request.body))


def slim(request: Request, policy: Slimming) -> Request | Result:
    """The request made smaller; itself, when there is nothing to do; its failure, when it cannot be sent like that."""
    field = FIELDS[request.route]
    try:
        fields = read_entries(request.body)
        holder: dict[str, Any] = {field: msgspec.json.decode(fields[field])}
    except (KeyError, ValueError, RecursionError):
        return request  # the endpoint will say what is wrong with it
    before = request.slimmed or Slimmed()
    try:
        tokens = _tokens(request, holder[field])
        facts = _shrunk(holder[field], policy, before) if policy.max_image_px else before
        facts = _cut(request, holder, tokens, policy, facts) if policy.max_prompt_tokens else facts
    except _Refused as why:
        return Result(request=request, kind=why.kind, error=Error(why.kind, "E203", str(why), why.hint))
    if facts == before:
        return request
    return structs.replace(request, body=write({**fields, field: holder[field]}), slimmed=facts)


class _Refused(Exception):  # noqa: N818  a fact about a request
    def __init__(self, kind: Kind, why: str, hint: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.hint = hint


# ---- prompts ----


_SHORTER = (
    "Raise --max-prompt-tokens, or let it be cut: --overflow truncate-middle",
    "Raise --max-prompt-tokens: what is never cut (system prompts, images, the rest of the body) is longer",
)


def _cut(request: Request, holder: dict[str, Any], tokens: float, policy: Slimming, facts: Slimmed) -> Slimmed:
    most, texts = policy.max_prompt_tokens, list(places(holder, FIELDS[request.route]))
    apart = request.route in APART
    lots = [([place], len(place.text.encode()) / 4) for place in texts] if apart else [(texts, tokens)]
    spared = 0
    for lot, long in lots:
        if long <= most:
            continue
        if policy.overflow == "fail" or not cut(lot, int(4 * (long - most)) + 1, policy.overflow):
            raise _Refused(
                Kind.CONTEXT,
                f"the prompt has about {long:,.0f} tokens; at most {most:,} are wanted",
                _SHORTER[policy.overflow != "fail"],
            )
        spared += round(long - most)
    return structs.replace(facts, tokens_cut=facts.tokens_cut + spared)


def _tokens(request: Request, prompt: Any) -> float:
    """As `Request.prompt_tokens` guesses them, but for the bytes of images, of which nobody counts tokens like that."""
    return request.prompt_tokens - sum(len(image.encoded) for image in images(prompt)) / 4


# ---- images ----


def _shrunk(turns: Any, policy: Slimming, facts: Slimmed) -> Slimmed:
    for image in images(turns):
        try:
            smaller = shrink(image.encoded, policy.max_image_px, policy.image_quality)
        except UnsafeImage as why:
            raise _Refused(Kind.INVALID, str(why), "Shrink it by hand, if it is what it says.") from None
        if smaller:
            image.holder[image.key] = image.lead + smaller
            facts = structs.replace(
                facts,
                images=facts.images + 1,
                bytes_before=facts.bytes_before + len(image.encoded),
                bytes_after=facts.bytes_after + len(smaller),
            )
    return facts
