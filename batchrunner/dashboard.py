"""The page of a run while it goes on, at 127.0.0.1: the report live, figures for machines, and a few controls.

    GET  /              the page                      token      POST /pause /resume          token
    GET  /stream        its changes (EventSource)     token      POST /concurrency n=N        token
    GET  /status.json   figures                       open       POST /rate n=N a minute      token
    GET  /metrics       Prometheus                    open

Rules:

1. It listens on 127.0.0.1 only, and answers only to that name: a page of somebody else's cannot reach it by another (DNS
   rebinding). What changes the run or names requests wants the token, which stands in the address printed at the start.
2. What is open holds counts only: no id, no path but the input's name, no setting.
3. A page is drawn at most once a second, however many look on, and never when nobody does. It is never worth a run.
"""

import asyncio
import hmac
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from html import escape
from importlib.resources import files
from typing import Self
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from batchrunner import __version__
from batchrunner.core.trail import Moment
from batchrunner.core.wording import plural, visible
from batchrunner.meter import Snapshot
from batchrunner.pages import Pages
from batchrunner.report import html
from batchrunner.report.metrics import exposition
from batchrunner.summary import Report
from batchrunner.view import Run

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost", "[::1]"})  # a forwarded port is reached by these as well
PERIOD = 1.0  # seconds between two drawings
MOST_SLOTS = 10_000
MOST_RPM = 10_000_000
FAREWELL = 2.0  # seconds in which the last page must have gone out

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """Shows one run. `await open(port)`, then `watch` a run, and `close` with its ending."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(18)
        self.port = 0
        self._run: Run | None = None
        self._pages: Pages | None = None
        self._body = "<p>The run is about to begin.</p>"
        self._drawn = 0.0
        self._drawing = asyncio.Lock()
        self._over = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        """Listen on this port, or on any other when it is taken. OSError when there is none."""
        self = cls()
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=FAREWELL)
        await self._runner.setup()
        await web.SockSite(self._runner, _listening(port)).start()
        self.port = self._runner.addresses[0][1]
        return self

    @property
    def url(self) -> str:
        """Where a browser finds it; it holds the token."""
        return f"http://{HOST}:{self.port}/?{urlencode({'token': self.token})}"

    def watch(self, run: Run, pages: Pages) -> None:
        """Show this run."""
        self._run, self._pages = run, pages

    async def close(self, ending: Report | None = None) -> None:
        """Show the end to those who look on, and stop listening."""
        assert self._runner is not None
        async with self._drawing:  # what is still being drawn is older than the end, and must not come after it
            if ending and self._pages:
                self._body = html.body(await self._pages.story(ending))
            self._over.set()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._fenced], client_max_size=4096)
        app.router.add_get("/", self._page)
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/pause", self._pause)
        app.router.add_post("/resume", self._resume)
        app.router.add_post("/concurrency", self._concurrency)
        app.router.add_post("/rate", self._rate)
        return app

    @web.middleware
    async def _fenced(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        """Only by our own name, and with the token where it matters."""
        if request.host.rpartition(":")[0].lower() not in NAMES and request.host.lower() not in NAMES:
            raise web.HTTPForbidden(text="this is not my name\n")
        if request.path not in {"/status.json", "/metrics"}:
            told = request.headers.get("X-Token") or request.query.get("token", "")
            if not hmac.compare_digest(told.encode("utf-8", "surrogatepass"), self.token.encode()):
                raise web.HTTPForbidden(text="use the address that was printed at the start: it holds the token\n")
        return await handler(request)

    # ---- to be looked at ----

    async def _page(self, _request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(12)
        fence = (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": fence, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        title = escape(visible(self._run.job.name)) if self._run else "batchrunner"
        return web.Response(text=_shell(title, await self._current(), nonce), content_type="text/html", headers=headers)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        try:
            while not self._over.is_set():
                await stream.write(_event(await self._current()))
                try:
                    await asyncio.wait_for(self._over.wait(), PERIOD)
                except TimeoutError:
                    continue
            await stream.write(_event(self._body, "end"))
        except ConnectionError:
            pass  # the onlooker has gone
        return stream

    async def _current(self) -> str:
        """What the page shows, drawn anew when it is older than a second."""
        async with self._drawing:
            if self._pages and not self._over.is_set() and time.monotonic() - self._drawn >= PERIOD * 0.9:
                self._drawn = time.monotonic()
                story = await self._pages.story()
                self._body = await asyncio.to_thread(html.body, story)
        return self._body

    async def _status(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(_figures(self._seen())) + b"\n", content_type="application/json")

    async def _metrics(self, _request: web.Request) -> web.Response:
        run = self._seen()
        said = exposition(run.snapshot(), [*run.moments(), run.glance()], __version__, run.engine.scheduler.paused)
        return web.Response(body=said.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def _seen(self) -> Run:
        if self._run is None:
            raise web.HTTPServiceUnavailable(text="the run has not begun yet\n")
        return self._run

    # ---- to be told ----

    async def _pause(self, _request: web.Request) -> web.Response:
        self._seen().engine.pause(True)
        return web.Response(text="paused: nothing new is sent; what is in flight ends\n")

    async def _resume(self, _request: web.Request) -> web.Response:
        self._seen().engine.pause(False)
        return web.Response(text="resumed\n")

    async def _concurrency(self, request: web.Request) -> web.Response:
        slots = _whole((await request.post()).get("n"), 1, MOST_SLOTS)
        self._seen().engine.refit(slots)
        return web.Response(text=f"{slots} in flight at each endpoint from now on\n")

    async def _rate(self, request: web.Request) -> web.Response:
        rpm = _whole((await request.post()).get("n"), 0, MOST_RPM)
        self._seen().engine.repace(rpm)
        said = f"{plural(rpm, 'request')} a minute for each model at each endpoint" if rpm else "as many requests as are let in"
        return web.Response(text=f"{said} from now on\n")


def _whole(said: object, least: int, most: int) -> int:
    text = said if isinstance(said, str) else ""
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= most):
        raise web.HTTPBadRequest(text=f"n must be a whole number from {least} to {most}\n")
    return int(text)


def _event(body: str, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {msgspec.json.encode(body).decode()}\n\n".encode()


def _shell(title: str, body: str, nonce: str) -> str:
    """The page round what changes in it."""
    script = files("batchrunner.report").joinpath("live.js").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · live</title><style>{html.style()}</style></head>\n"
        '<body><div id="controls"><button id="pause">Pause</button><button id="resume">Resume</button>'
        '<form action="/concurrency"><label>in flight at each endpoint '
        f'<input name="n" type="number" min="1" max="{MOST_SLOTS}" required></label> <button>Set</button></form>'
        '<form action="/rate"><label>requests a minute, 0: no limit '
        f'<input name="n" type="number" min="0" max="{MOST_RPM}" required></label> <button>Set</button></form>'
        '<span id="state" role="status"></span><span id="said" role="status"></span></div>'
        f'<main>{body}</main><script nonce="{nonce}">{script}</script></body></html>\n'
    )


def _figures(run: Run) -> dict[str, object]:
    """`/status.json`: the counts of `summary.json` under their names, and what is so now."""
    snapshot = run.snapshot()
    stopping, paused = run.engine.stopping, run.engine.scheduler.paused
    return {
        "v": 1,
        "version": __version__,
        "input": run.job.name,
        "state": "stopping" if stopping else "paused" if paused else "running",
        **_counted(snapshot),
        **_measured(snapshot),
        "kinds": {kind.value: count for kind, count in snapshot.kinds.items()},
        "endpoints": _endpoints(snapshot, run.glance()),
        "findings": [{"code": each.code, "verdict": each.verdict} for each in run.diagnose()],
    }


def _counted(snapshot: Snapshot) -> dict[str, object]:
    """What has been so far."""
    return {
        "seconds": round(snapshot.seconds, 3),
        "total": snapshot.total,
        "done": snapshot.done,
        "succeeded": snapshot.succeeded,
        "failed": snapshot.failed,
        "invalid": snapshot.invalid,
        "pending": snapshot.pending,
        "resumed": snapshot.resumed,
        "attempts": snapshot.attempts,
        "retries": snapshot.retries,
        "rate_limited": snapshot.rate_limited,
        "timeouts": snapshot.timeouts,
        "truncated": snapshot.truncated,
        "maybe_billed": snapshot.maybe_billed,
        "tokens": {"input": snapshot.tokens_in, "output": snapshot.tokens_out},
        "cost": snapshot.gauges.cost,
        "cost_expected": snapshot.cost_expected,
    }


def _measured(snapshot: Snapshot) -> dict[str, object]:
    """What is so at this moment, and how long things take."""
    gauges = snapshot.gauges
    return {
        "rate": round(snapshot.rate, 3),
        "token_rate": round(snapshot.token_rate, 1),
        "eta_seconds": None if snapshot.eta is None else round(snapshot.eta, 1),
        "in_flight": gauges.in_flight,
        "limit": gauges.limit,
        "retrying": gauges.retrying,
        "timeout": round(gauges.timeout, 3),
        "p50": round(snapshot.p50, 4),
        "p95": round(snapshot.p95, 4),
    }


def _endpoints(snapshot: Snapshot, moment: Moment) -> list[dict[str, object]]:
    """Each endpoint as it is now."""
    lanes = {lane.name: lane for lane in snapshot.lanes}
    return [
        {
            "name": lane.name,
            "attempts": lane.attempts,
            "succeeded": lane.succeeded,
            "p50": round(lanes[lane.name].p50, 4) if lane.name in lanes else None,
            "p95": round(lanes[lane.name].p95, 4) if lane.name in lanes else None,
            "in_flight": lane.in_flight,
            "limit": lane.limit,
            "rate": lane.rate or None,
            "state": lane.state,
            "timeout": lane.deadline,
        }
        for lane in moment.lanes
    ]


def _listening(port: int) -> socket.socket:
    """Bound and listening at once: of two runs that begin in one moment uvloop would let both have the port, one broken."""
    try:
        return socket.create_server((HOST, port))
    except OSError:
        return socket.create_server((HOST, 0))
