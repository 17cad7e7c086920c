"""A headless Chromium, told what to do over a pipe (DevTools protocol), with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_DEADLINE_S = 60.0


def find() -> str:
    """Path of the browser; empty if there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), "")


@dataclass(frozen=True)
class Seen:
    """What a page did at one width.

    Attributes:
        complaints: console messages, exceptions, refused or failed loads.
        fetched: addresses asked for beside the page itself; data: is none.
        width: of the document in px; beyond that of the window it scrolls sideways.
        overflowing: tags and texts of elements that stick out and are in no scrolling box.
        screenshot: PNG of the whole page.
        pdf: the page as printed.
        missing_alt: pictures without a text.
        broken: pictures that do not show.
    """

    complaints: list[str]
    fetched: list[str]
    width: int
    overflowing: list[str]
    screenshot: bytes
    pdf: bytes
    missing_alt: int
    broken: int


class Browser:
    """One page of a running browser."""

    def __init__(self, to: int, back: int):
        self._to, self._back = to, back
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def look(self, path: Path, width: int, height: int = 900) -> Seen:
        """Open a file in a window of a width and say what it did."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self._events.clear()
        address = path.absolute().as_uri()
        self.call("Page.navigate", url=address)
        self._wait_for("Page.loadEventFired")
        told = self.ask(_LOOK)
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        printed = self.call("Page.printToPDF", printBackground=True)
        return Seen(
            complaints=[text for event in self._events for text in _complaint(event)],
            fetched=[url for url in self._requests() if url != address and not url.startswith("data:")],
            width=told["width"],
            overflowing=told["overflowing"],
            screenshot=base64.b64decode(shot["data"]),
            pdf=base64.b64decode(printed["data"]),
            missing_alt=told["missing_alt"],
            broken=told["broken"],
        )

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"]["value"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._read())

    def _requests(self) -> list[str]:
        sent = [e["params"] for e in self._events if e.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + _DEADLINE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._back, 1 << 20)
            if not part:
                raise EOFError("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser for a while; it reaches no network, and what it writes is deleted."""
    here_in, there_out = (_high(fd) for fd in os.pipe())
    there_in, here_out = (_high(fd) for fd in os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        flags += ["--disable-background-networking", "--proxy-server=127.0.0.1:9", "--remote-debugging-pipe"]
        line = f'exec "$@" 3<&{there_in} 4>&{there_out}'
        process = subprocess.Popen(
            ["bash", "-c", line, "bash", find(), *flags, f"--user-data-dir={profile}"],
            pass_fds=(there_in, there_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_in)
        os.close(there_out)
        try:
            yield Browser(here_out, here_in)
        finally:
            process.terminate()
            process.wait(20)
            os.close(here_in)
            os.close(here_out)


def _high(fd: int) -> int:
    """The same end of a pipe under a number above those the browser wants."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50)
    os.close(fd)
    return moved


def _complaint(event: dict[str, Any]) -> list[str]:
    params = event.get("params", {})
    if event.get("method") == "Log.entryAdded":
        return [params["entry"]["text"]]
    if event.get("method") == "Runtime.exceptionThrown":
        return [params["exceptionDetails"]["text"]]
    if event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return [str(params["args"])]
    if event.get("method") == "Network.loadingFailed":
        return [params["errorText"]]
    return []


_LOOK = """
Promise.all([...document.images].map(i => i.decode().catch(() => null))).then(() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const wide = document.documentElement.clientWidth;
  const boxed = e => { for (let p = e; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== 'visible') return true; return false; };
  const out = [...document.body.querySelectorAll('*')].filter(
    e => e.getBoundingClientRect().right > wide + 1 && !boxed(e));
  return {
    width: document.documentElement.scrollWidth,
    overflowing: out.slice(0, 5).map(e => e.tagName + ' ' + e.textContent.slice(0, 60)),
    missing_alt: [...document.images].filter(i => !i.alt).length,
    broken: [...document.images].filter(i => !i.naturalWidth).length,
  };
})
"""
