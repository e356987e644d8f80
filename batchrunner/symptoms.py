"""What an endpoint's answers at a doctor's visit say, each as a step of the examination.

Rules:

1. Where something is not well, the step names what to type next.
2. Whatever came from outside is short and visible; keys have been taken out of it by the transport.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec
from msgspec import Struct

from batchrunner.core.model import Fault, Kind, Outcome, Reply
from batchrunner.core.treatment import hint
from batchrunner.core.wording import WORDS, seconds, visible
from batchrunner.keyring import Door
from batchrunner.probe import Step

SHOWN = 5  # models


class Sent(Struct, frozen=True):
    """An answer, and what it amounts to."""

    answer: Reply | Fault
    outcome: Outcome

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the reply."""
        return self.answer.headers

    @property
    def spent(self) -> float:
        """Seconds."""
        return self.answer.timing.total


def models(names: Sequence[str], model: str, spent: float) -> Step:
    """The models that an endpoint lists, and whether the one to be asked is among them."""
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    if model in names:
        return Step(name="models", state="ok", said=f"{len(names)}: {shown}", seconds=spent)
    said = f"{len(names)} models, {model} not among them: {shown}"
    return Step(name="models", state="warn", said=said, seconds=spent, remedy=f"take one of these: --model {names[0]}")


def is_hopeless(sent: Sent) -> bool:
    """Whether there is no use in going on: no access, no answer, or one that is not an API's."""
    return sent.outcome.kind in (Kind.DENIED, Kind.QUOTA) or isinstance(sent.answer, Fault) or _page(sent.answer)


def elsewhere(sent: Sent, url: str) -> Step:
    """A list of models is at another address."""
    status = f" ({sent.outcome.status})" if sent.outcome.status != 200 else ""
    said = f"there is no API here{status}, but there is one at {url}"
    return Step(name="models", state="fail", said=said, seconds=sent.spent, remedy=f"--base-url {url}")


def unlisted(sent: Sent, model: str) -> Step:
    """A list of models is nowhere."""
    remedy = "" if model else "name a model: --model NAME"
    said = f"no list of models ({sent.outcome.status})"
    return Step(name="models", state="warn", said=said, seconds=sent.spent, remedy=remedy)


def answered(name: str, sent: Sent, model: str) -> Step:
    """A good answer."""
    first = sent.answer.timing.first_byte
    flags = f" ({', '.join(sent.outcome.flags)})" if sent.outcome.flags else ""
    said = f"{model} answered whole, first byte after {seconds(first)}{flags}"
    return Step(name=name, state="ok", said=said, seconds=sent.spent)


def ill(name: str, sent: Sent, door: Door, swapped: str) -> Step:
    """A bad answer, or none. `swapped` is the address with the other scheme."""
    outcome = sent.outcome
    status = f" ({outcome.status})" if outcome.status else ""
    message = f": {outcome.message}" if outcome.message else ""
    said = f"{WORDS[outcome.kind]}{status}{message}"[:300]
    return Step(name=name, state="fail", said=said, seconds=sent.spent, remedy=_remedy(sent, door, swapped))


def _remedy(sent: Sent, door: Door, swapped: str) -> str:
    outcome = sent.outcome
    if outcome.kind is Kind.DENIED:
        if door.secret:
            return "check the key; another variable: --api-key-env NAME; another form: --auth FORM"
        return f"no key was sent: export {door.provider.keys[0]}=…, or --api-key-env NAME"
    if outcome.kind is Kind.CONFIG and outcome.status == 404:
        return "check the path of --base-url (most end in /v1), and the model: --model NAME"
    if _page(sent.answer):
        return "a page for people, no API: check --base-url, sign in to the network or VPN, or go without a proxy: --proxy none"
    if "https://" in outcome.message:
        return f"--base-url {swapped}"
    return hint(outcome)


def usage(plain: Outcome, stream: Outcome) -> Step:
    """Whether tokens are counted, in a whole answer and in a streamed one."""
    counted = [name for name, outcome in (("answer", plain), ("stream", stream)) if outcome.usage]
    if plain.usage and stream.usage:
        return Step(name="usage", state="ok", said=f"{plain.usage.input} tokens in, {plain.usage.output} out")
    said = f"tokens are counted only in the {counted[0]}" if counted else "tokens are not counted"
    return Step(name="usage", state="warn", said=said, remedy="cost and tokens of a run will be unknown there")


def limits(headers: Mapping[str, str]) -> Step:
    """What the server says of its limits; most of one's own say nothing."""
    found = [f"{name} {value}" for name, value in headers.items() if "ratelimit" in name or name == "retry-after"]
    said = visible(", ".join(found)[:300]) if found else "none told: how much is allowed is found out by trying"
    return Step(name="limits", state="ok", said=said)


class _Model(Struct):
    id: str = ""


class _Models(Struct):
    data: list[_Model] | None = None
    models: list[_Model] | None = None


def listed(answer: Reply | Fault) -> list[str]:
    """The models in a list of models; empty when it is none."""
    if isinstance(answer, Fault) or answer.status != 200:
        return []
    try:
        listed = msgspec.json.decode(answer.body, type=_Models)
    except msgspec.MsgspecError:
        return []
    return [visible(model.id) for model in chain(listed.data or (), listed.models or ()) if model.id]


def _page(answer: Reply | Fault) -> bool:
    """Whether a page for people came instead of an API's answer."""
    return isinstance(answer, Reply) and answer.body.lstrip()[:1] == b"<"
