"""Headless Chromium, driven over its DevTools protocol, for the tests of what people look at.

Rules:

1. Nothing polls and nothing sleeps: a condition is looked at again whenever the document changes or has been read.
2. Whatever a page asked for, and whatever it complained of or put up as a dialogue, is written down.
3. A tab has cookies, cache and storage of its own, and is gone after its test.
"""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new --hide-scrollbars --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--remote-debugging-port=0"
)

UNTIL = """new Promise((resolve) => {
  const look = () => { if (%s) { seen.disconnect(); resolve(true); } };
  document.addEventListener("readystatechange", look);  // the end of a document is no change in it
  const seen = new MutationObserver(look);
  seen.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
  look();
})"""

UNFIT = """(() => {
  const words = (each) => (each.id || each.className || each.tagName) + ": " + each.textContent.trim().slice(0, 40);
  const scrolls = (each) => each && (getComputedStyle(each).overflowX === "auto" || scrolls(each.parentElement));
  const seen = [...document.body.querySelectorAll("*")].filter((each) => each.checkVisibility() && !each.closest("svg"));
  const wide = document.documentElement.clientWidth;
  const out = seen.filter((each) => {
    const box = each.getBoundingClientRect();
    return box.width && (box.left < -0.5 || box.right > wide + 0.5) && !scrolls(each.parentElement);
  });
  const cut = seen.filter((each) => getComputedStyle(each).overflowX === "hidden" && each.scrollWidth > each.clientWidth);
  const labels = [...document.querySelectorAll(".up span, .across span")].filter((each) => each.checkVisibility());
  const meet = (one, other) => {
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  };
  const astray = labels.filter((each) => {
    const [a, b] = [each, each.closest("section")].map((one) => one.getBoundingClientRect());
    return a.left < b.left + 1 || a.right > b.right - 1;
  });
  const met = labels.flatMap((one, place) => labels.slice(place + 1).filter((other) => meet(one, other)).map(() => one));
  return [
    ...(document.documentElement.scrollWidth > wide ? ["the page scrolls sideways"] : []),
    ...out.map((each) => "outside " + words(each)),
    ...cut.map((each) => "cut off " + words(each)),
    ...astray.map((each) => "outside its card " + words(each)),
    ...met.map((each) => "overlapping " + words(each)),
  ];
})()"""
"""What leaves the window, is cut off, or stands on a neighbour; what may be scrolled by itself is in order."""

FAINT = """(() => {
  const parts = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (each) => {
    const colour = each ? getComputedStyle(each).backgroundColor : "rgb(255, 255, 255)";
    return parts(colour).length === 4 && parts(colour)[3] === 0 ? ground(each.parentElement) : colour;
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walk.nextNode()) {
    const each = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !each.checkVisibility() || each.closest("script, svg")) continue;
    const [ink, paper] = [light(getComputedStyle(each).color), light(ground(each))];
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) found.push(contrast.toFixed(1) + " " + (each.className || each.tagName) + ": " + walk.currentNode.data);
  }
  return found;
})()"""
"""Words with less contrast than WCAG 2 asks of text (AA, 4.5 to 1)."""


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """A browser, at this address of its protocol."""
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on "))
        finally:
            Thread(target=deque, args=(process.stderr, 0)).start()
            process.terminate()
            process.wait()


class Tab:
    """One page. `asked` holds every address it asked for, `complaints` its errors, `dialogues` what it put up."""

    def __init__(self, wire: aiohttp.ClientWebSocketResponse) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.dialogues: list[str] = []
        self._wire = wire
        self._session: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def call(self, method: str, **given: Any) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        await self._wire.send_str(json.dumps({"id": number, "method": method, "params": given, **self._session}))
        return await answer

    async def attach(self, target: str) -> None:
        """Speak to this target from now on."""
        answer = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": answer["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def listen(self) -> None:
        """Hear answers and events, until the wire is closed."""
        async for message in self._wire:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._open.pop(told["id"])
                if "error" in told:
                    answer.set_exception(AssertionError(told["error"]))
                else:
                    answer.set_result(told["result"])
            else:
                await self._heard(told["method"], told["params"])

    async def _heard(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Log.entryAdded" if told["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if told["type"] in {"error", "warning", "assert"}:
                self.complaints.append(str(told["args"]))
            case "Page.javascriptDialogOpening":
                self.dialogues.append(told["message"])

    # ---- what a person does and sees ----

    async def go(self, url: str) -> None:
        """Open a page, and wait until it is there."""
        await self.call("Page.navigate", url=url)
        await self.until(f"document.URL === {json.dumps(url)} && document.readyState !== 'loading'")

    async def value(self, script: str) -> Any:
        """What an expression is worth there, waited for."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until this holds."""
        assert await self.value(UNTIL % condition)

    async def says(self, words: str) -> None:
        """Wait until these words can be read."""
        await self.until(f"document.body.innerText.includes({json.dumps(words)})")

    async def click(self, selector: str) -> None:
        """Press what stands there."""
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def resize(self, width: int, height: int = 900) -> None:
        """A window of so many pixels."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def look(self, medium: str = "screen", scheme: str = "light") -> None:
        """On screen or on paper, in light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    async def picture(self, place: Path) -> None:
        """The whole page as a PNG file."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        place.write_bytes(base64.b64decode(answer["data"]))

    async def paper(self) -> bytes:
        """The page as a PDF file."""
        return base64.b64decode((await self.call("Page.printToPDF", preferCSSPageSize=True))["data"])


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Tab]:
    """A new tab in the browser at this address."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as wire:
        tab = Tab(wire)
        listening = asyncio.ensure_future(tab.listen())
        context = (await tab.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
        target = await tab.call("Target.createTarget", url="about:blank", browserContextId=context)
        await tab.attach(target["targetId"])
        try:
            yield tab
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
