"""`diagnose --base-url URL`: one look at each endpoint, step by step, as a good doctor takes it.

    address → name → TCP → TLS → models → answer → stream → limits

Rules:

1. Each step says what it saw (`probe`, `symptoms`) and how long it took. After a step without which the next ones make no
   sense, it stops.
2. It sends what a run would send, by the same transport: a list of models is asked for, and two answers of a few words.
3. No answer and no key is shown: whatever comes back has been cleared of keys by the transport.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from batchrunner import simulator, symptoms
from batchrunner.core.address import NO_PROXY
from batchrunner.core.classify import classify
from batchrunner.core.model import Attempt, Deadlines, Kind, Request, Route
from batchrunner.core.wording import visible
from batchrunner.keyring import Door, doors
from batchrunner.network import proxy_for, proxy_secrets, trust
from batchrunner.probe import Step, Target, reach
from batchrunner.report.visit import Visit
from batchrunner.secret import redactor
from batchrunner.settings import Settings
from batchrunner.symptoms import Sent
from batchrunner.transport import Transport

PATIENCE = 120.0  # seconds that a few words may take, unless the user has said so
ROOTS = ("/v1", "", "/api/v1", "/openai/v1")  # where an API may be, when it is not where it was said to be


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
            step = await self._models(await self._send(transport, _listing()))
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
        yield symptoms.usage(plain.outcome, stream.outcome)
        yield symptoms.limits(plain.headers)

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
        connection = structs.replace(self._settings.connection, proxy=self._proxy or NO_PROXY)
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

    async def _models(self, sent: Sent) -> Step:
        """The list of models: also the first sign of whether address and key are right. Not every server has one."""
        if names := symptoms.listed(sent.answer):
            self._model = self._model or names[0]
            return symptoms.models(names, self._model, sent.spent)
        if symptoms.is_hopeless(sent):
            return self._ill("models", sent)
        if other := await self._elsewhere():
            return symptoms.elsewhere(sent, _shown(other))
        return symptoms.unlisted(sent, self._model)

    async def _elsewhere(self) -> str:
        """Where else on this host a list of models is; "" when nowhere."""
        parts = urlsplit(self._url)
        for root in ROOTS:
            url = f"{parts.scheme}://{parts.netloc}{root}"
            if url == self._url.rstrip("/"):
                continue
            async with self._transport(url) as transport:
                if symptoms.listed((await self._send(transport, _listing())).answer):
                    return url
        return ""

    def _question(self) -> Request:
        body: dict[str, Any] = {"model": self._model, "messages": [{"role": "user", "content": "Say: ok"}], "max_tokens": 16}
        path = "/v1/messages" if self._route is Route.MESSAGES else "/v1/chat/completions"
        raw = msgspec.json.encode(body)
        return Request(line=1, id="diagnose", digest="", route=self._route, path=path, body=raw, model=self._model, max_tokens=16)

    def _answer(self, name: str, sent: Sent) -> Step:
        return symptoms.answered(name, sent, self._model) if sent.outcome.kind is Kind.OK else self._ill(name, sent)

    def _ill(self, name: str, sent: Sent) -> Step:
        return symptoms.ill(name, sent, self._door, self._target().swapped)


def _listing() -> Request:
    return Request(line=1, id="models", digest="", route=Route.HTTP, method="GET", path="/v1/models")


def _shown(url: str) -> str:
    """An address without what may hide a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else url.partition("?")[0]
