"""`diagnose --base-url URL`: one look at each endpoint, step by step, as a good doctor takes it.

    address → name → TCP → TLS → models → answer → stream → limits

Rules:

1. Each step says what it saw, how long it took, and, where it is not well, what to type next. After a step without which
   the next ones make no sense, it stops.
2. It sends what a run would send, by the same transport: a list of models is asked for, and two answers of a few words.
3. No answer and no key is shown: whatever comes back has been cleared of keys by the transport.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from batchrunner import simulator
from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Fault, Kind, Outcome, Reply, Request, Route
from batchrunner.core.treatment import TREATMENT
from batchrunner.core.wording import WORDS, seconds, visible
from batchrunner.keyring import Door, doors
from batchrunner.network import NONE, proxy_for, proxy_secrets, trust
from batchrunner.probe import Step, Target, reach
from batchrunner.report.layout import WIDTH, fold
from batchrunner.secret import redactor
from batchrunner.settings import Settings
from batchrunner.transport import Transport

PATIENCE = 120.0  # seconds that a few words may take, unless the user has said so
SHOWN = 5  # models
WORKS = "It works."
ROOTS = ("/v1", "", "/api/v1", "/openai/v1")  # where an API may be, when it is not where it was said to be


class Visit(Struct, frozen=True, kw_only=True):
    """What was seen at one endpoint."""

    endpoint: str
    url: str
    steps: tuple[Step, ...]

    @property
    def verdict(self) -> str:
        """What it comes to; it works when it has answered."""
        if any(step.state == "fail" for step in self.steps):
            return "It does not work yet; see the arrow."
        answered = any(step.name == "answer" and step.state == "ok" for step in self.steps)
        return WORKS if answered else "It is there; whether it answers is not known: see the arrow."

    @property
    def exit_code(self) -> int:
        """0 when it works."""
        return int(self.verdict != WORKS)


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


async def examine(settings: Settings, environ: Mapping[str, str]) -> list[Visit]:
    """Look at every endpoint of the settings. UsageError E1xx when there is none that could be looked at."""
    visits = []
    for door in doors(settings.service, environ):
        async with AsyncExitStack() as stack:
            url = door.base_url
            if door.simulated:
                url = (await stack.enter_async_context(simulator.Simulator(simulator.profile_named(url)))).url
            doctor = _Doctor(door, url, settings, environ)
            visits.append(
                Visit(endpoint=door.name, url=visible(_shown(door.base_url)), steps=tuple([s async for s in doctor.look()]))
            )
    return visits


def told(visits: Sequence[Visit], width: int = WIDTH) -> str:
    """The visits in words, with the first thing to do at the end of each."""
    return "\n\n".join(_told(visit, width) for visit in visits)


_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def _told(visit: Visit, width: int) -> str:
    lines = [f"{visible(visit.endpoint)}  {visit.url}"]
    for step in visit.steps:
        spent = seconds(step.seconds) if step.seconds else ""
        said = fold(visible(step.said), width, 23)
        lines.append(f"  {_MARKS[step.state]} {step.name:<8} {spent:>8}  {said[0].lstrip()}")
        lines += [*said[1:], *(fold(f"→ {visible(step.remedy)}", width, 23) if step.remedy else [])]
    return "\n".join([*lines, f"  {visit.verdict}"])


class _Doctor:
    """One visit to one endpoint."""

    def __init__(self, door: Door, url: str, settings: Settings, environ: Mapping[str, str]) -> None:
        self._door = door
        self._url = url
        self._settings = settings
        self._proxy = proxy_for(url, settings.connection.proxy, environ)
        self._redact = redactor([*door.secrets, *proxy_secrets(self._proxy)])
        self._environ = environ
        self._model = settings.service.model
        self._route = Route.MESSAGES if door.provider.name == "anthropic" else Route.CHAT

    async def look(self) -> AsyncIterator[Step]:
        """The steps, as they are taken."""
        yield self._opening()
        steps = await reach(self._target())
        for step in steps:
            yield step
        if steps[-1].state == "fail":
            return
        async with self._transport(self._url) as transport:
            models = await self._send(transport, _listing())
            step = await self._models(models)
            yield step
            if step.state == "fail":
                return
            if not self._model:
                yield Step(name="answer", state="warn", said="not asked: no model is known", remedy="name one: --model NAME")
                return
            async for step in self._answers(transport):
                yield step

    async def _answers(self, transport: Transport) -> AsyncIterator[Step]:
        plain = await self._send(transport, self._question())
        yield self._answer("answer", plain)
        if plain.outcome.kind is not Kind.OK:
            return
        stream = await self._send(transport, self._question(), stream=True)
        yield self._answer("stream", stream)
        yield _usage(plain.outcome, stream.outcome)
        yield _limits(plain.headers)

    def _opening(self) -> Step:
        door, parts = self._door, urlsplit(self._url)
        key = "with a key" if door.secret else "without a key"
        way = f", by the proxy {urlsplit(self._proxy).hostname}" if self._proxy else ""
        simulated = "; its answers are simulated" if door.simulated else ""
        said = f"{parts.scheme}, {door.provider.name}, {key}{way}{simulated}"
        return Step(name="address", state="ok", said=said)

    def _target(self) -> Target:
        parts = urlsplit(self._proxy or self._url)
        secure = parts.scheme == "https"
        return Target(
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            secure=secure,
            patience=self._settings.timeouts.connect_timeout,
            trust=trust(self._settings.connection.ca_bundle, self._environ) if secure else True,
            proxied=bool(self._proxy),
            url=_shown(self._url),
        )

    def _transport(self, url: str) -> Transport:
        door = self._door
        connection = structs.replace(self._settings.connection, proxy=self._proxy or NONE)
        return Transport(
            door.name, url, connection, headers=door.headers, secret=door.opening, redact=self._redact, ids=door.provider.ids
        )

    async def _send(self, transport: Transport, request: Request, stream: bool = False) -> Sent:
        timeouts = self._settings.timeouts
        whole = PATIENCE if timeouts.timeout == "auto" else timeouts.timeout
        deadlines = Deadlines(timeouts.connect_timeout, whole, whole, whole)
        attempt = Attempt(request, self._door.name, 1, 0.0, deadlines, stream=stream, usage=stream)
        answer = await transport.send(attempt, lambda attempt, phase, age: 0.0)
        return Sent(answer, classify(attempt, answer))

    # ---- models ----

    async def _models(self, sent: Sent) -> Step:
        """The list of models: also the first sign of whether address and key are right. Not every server has one."""
        outcome, names = sent.outcome, _names(sent.answer)
        if names:
            self._model = self._model or names[0]
            shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
            if self._model not in names:
                return Step(
                    name="models",
                    state="warn",
                    said=f"{len(names)} models, {self._model} not among them: {shown}",
                    seconds=sent.spent,
                    remedy=f"take one of these: --model {names[0]}",
                )
            return Step(name="models", state="ok", said=f"{len(names)}: {shown}", seconds=sent.spent)
        if outcome.kind in (Kind.DENIED, Kind.QUOTA) or isinstance(sent.answer, Fault) or _page(sent.answer):
            return self._ill("models", sent)
        if other := await self._elsewhere():
            status = f" ({outcome.status})" if outcome.status != 200 else ""
            said = f"there is no API here{status}, but there is one at {_shown(other)}"
            return Step(name="models", state="fail", said=said, seconds=sent.spent, remedy=f"--base-url {_shown(other)}")
        return Step(
            name="models",
            state="warn",
            said=f"no list of models ({outcome.status})",
            seconds=sent.spent,
            remedy="" if self._model else "name a model: --model NAME",
        )

    async def _elsewhere(self) -> str:
        """Where else on this host a list of models is; "" when nowhere."""
        parts = urlsplit(self._url)
        for root in ROOTS:
            url = f"{parts.scheme}://{parts.netloc}{root}"
            if url == self._url.rstrip("/"):
                continue
            async with self._transport(url) as transport:
                if _names((await self._send(transport, _listing())).answer):
                    return url
        return ""

    # ---- answers ----

    def _question(self) -> Request:
        body: dict[str, Any] = {"model": self._model, "messages": [{"role": "user", "content": "Say: ok"}], "max_tokens": 16}
        path = "/v1/messages" if self._route is Route.MESSAGES else "/v1/chat/completions"
        raw = msgspec.json.encode(body)
        return Request(line=1, id="diagnose", digest="", route=self._route, path=path, body=raw, model=self._model, max_tokens=16)

    def _answer(self, name: str, sent: Sent) -> Step:
        if sent.outcome.kind is not Kind.OK:
            return self._ill(name, sent)
        timing = sent.answer.timing
        said = f"{self._model} answered whole, first byte after {seconds(timing.first_byte)}"
        flags = f" ({', '.join(sent.outcome.flags)})" if sent.outcome.flags else ""
        return Step(name=name, state="ok", said=f"{said}{flags}", seconds=sent.spent)

    def _ill(self, name: str, sent: Sent) -> Step:
        outcome = sent.outcome
        status = f" ({outcome.status})" if outcome.status else ""
        message = f": {outcome.message}" if outcome.message else ""
        said = f"{WORDS[outcome.kind]}{status}{message}"[:300]
        return Step(name=name, state="fail", said=said, seconds=sent.spent, remedy=self._remedy(sent))

    def _remedy(self, sent: Sent) -> str:
        outcome = sent.outcome
        if outcome.kind is Kind.DENIED:
            if self._door.secret:
                return "check the key; another variable: --api-key-env NAME; another form: --auth FORM"
            return f"no key was sent: export {self._door.provider.keys[0]}=…, or --api-key-env NAME"
        if outcome.kind is Kind.CONFIG and outcome.status == 404:
            return "check the path of --base-url (most end in /v1), and the model: --model NAME"
        if _page(sent.answer):
            return (
                "a page for people, no API: check --base-url, sign in to the network or VPN, or go without a proxy: --proxy none"
            )
        if "https://" in outcome.message:
            return f"--base-url {self._target().swapped}"
        return TREATMENT[outcome.kind].hint


def _listing() -> Request:
    return Request(line=1, id="models", digest="", route=Route.HTTP, method="GET", path="/v1/models")


def _usage(plain: Outcome, stream: Outcome) -> Step:
    counted = [name for name, outcome in (("answer", plain), ("stream", stream)) if outcome.usage]
    if plain.usage and stream.usage:
        return Step(name="usage", state="ok", said=f"{plain.usage.input} tokens in, {plain.usage.output} out")
    said = f"tokens are counted only in the {counted[0]}" if counted else "tokens are not counted"
    return Step(name="usage", state="warn", said=said, remedy="cost and tokens of a run will be unknown there")


def _limits(headers: Mapping[str, str]) -> Step:
    """What the server says of its limits; most of one's own say nothing."""
    found = [f"{name} {value}" for name, value in headers.items() if "ratelimit" in name or name == "retry-after"]
    said = visible(", ".join(found)[:300]) if found else "none told: how much is allowed is found out by trying"
    return Step(name="limits", state="ok", said=said)


class _Model(Struct):
    id: str = ""


class _Models(Struct):
    data: list[_Model] | None = None
    models: list[_Model] | None = None


def _names(answer: Reply | Fault) -> list[str]:
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


def _shown(url: str) -> str:
    """An address without what may hide a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else url.partition("?")[0]
