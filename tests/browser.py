"""Chromium without a window, driven by the DevTools protocol through a pipe: no driver and no websocket is needed."""

from __future__ import annotations

import base64
import functools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 40.0  # seconds for whatever is awaited; a loaded machine starts a browser in several


@functools.cache
def why_no_browser() -> str:
    """Empty where Chromium is there and starts; otherwise the reason for skipping."""
    if os.name != "posix":
        return "the pipe to Chromium is tested on POSIX systems only"
    return "" if executable() else f"no browser was found (one of {', '.join(NAMES)}; or set ONELOOK_BROWSER)"


def executable() -> str | None:
    return os.environ.get("ONELOOK_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())


class CommandError(RuntimeError):
    """The browser refused a command, such as one that came while another document was being loaded."""


class Browser:
    """A running Chromium; `tab` opens a page in a profile of its own."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._buffer = b""
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Sends one command and returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + TIMEOUT
        while self._number not in self._answers:
            self.receive(end - time.monotonic())
        answer = self._answers.pop(self._number)
        if "error" in answer:
            raise CommandError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def receive(self, seconds: float) -> None:
        """Reads what the browser has sent, up to the next messages or the time given."""
        if seconds <= 0:
            raise TimeoutError(f"the browser did not answer within {TIMEOUT:g} s")
        if not select.select([self._read], [], [], seconds)[0]:
            return
        received = os.read(self._read, 1 << 20)
        if not received:
            raise RuntimeError(f"the browser ended with status {self._process.poll()}")
        *messages, self._buffer = (self._buffer + received).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self.events.append(message)

    def tab(self) -> Tab:
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, session, context)


class Tab:
    """One page: what it shows, what it requested, and the messages of its console."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.browser, self.session, self.context = browser, session, context
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **arguments)

    def events(self, method: str) -> list[dict[str, Any]]:
        own = [one for one in self.browser.events if one.get("sessionId") == self.session]
        return [one["params"] for one in own if one["method"] == method]

    def requests(self) -> list[str]:
        """The addresses that the page has requested so far, without those of its own memory (blob:, data:)."""
        self.evaluate("0")  # events before this answer have arrived
        urls = [one["request"]["url"] for one in self.events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("blob:", "data:"))]

    def problems(self) -> list[str]:
        """Uncaught errors, and what the browser logged as errors: blocked code, failed requests."""
        self.evaluate("0")
        thrown = [str(one["exceptionDetails"]) for one in self.events("Runtime.exceptionThrown")]
        logged = [one["entry"] for one in self.events("Log.entryAdded")]
        return thrown + [f"{one['text']} {one.get('url', '')}" for one in logged if one["level"] == "error"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Returns when an expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self._is_true(expression):
            if time.monotonic() > end:
                text = self.evaluate("document.body.innerText")
                raise TimeoutError(f"never true: {expression}\nproblems: {self.problems()}\nthe page says: {text}")
            time.sleep(0.02)

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.evaluate(expression))
        except CommandError:  # the document is being replaced
            return False

    def choose_file(self, selector: str, *paths: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def key(self, key: str, *, shift: bool = False) -> None:
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        name = " " if key == "Space" else key
        common = {"key": name, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """kind: mouseMoved, mousePressed or mouseReleased; x, y: CSS pixels of the window."""
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=int(button == "left"))

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def theme(self, name: str) -> None:
        """name: "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
        self.browser.events = [one for one in self.browser.events if one.get("sessionId") != self.session]


def above_nine(descriptor: int) -> int:
    """The same pipe under a number that is not 3 or 4, which the browser's own have."""
    import fcntl  # POSIX only, as `why_no_browser` says

    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return copy


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Starts Chromium with a camera that shows a test image, and without any way to another host."""
    path = executable()
    assert path is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        command_read, answer_write = above_nine(command_read), above_nine(answer_write)
        # The browser reads commands from descriptor 3 and writes answers to 4.
        descriptors = f'exec "$@" 3<&{command_read} 4>&{answer_write}'
        arguments = [
            path,
            "--headless=new",
            "--no-sandbox",  # of containers and root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--use-fake-device-for-media-stream",
            "--lang=en",
        ]
        process = subprocess.Popen(
            ["bash", "-c", descriptors, "bash", *arguments],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        try:
            yield Browser(process, command_write, answer_read)
        finally:
            os.close(command_write)  # which ends the browser
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(answer_read)
