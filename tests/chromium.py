"""Drives a real headless Chromium over the DevTools protocol on a pipe: no further package, no port, no network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run", "--remote-debugging-pipe")
PATIENCE = 60.0  # seconds for one answer, on a machine that does other things too


def found() -> str | None:
    """The program, if this machine has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `errors` holds whatever the console or the log called an error or a warning, and exceptions."""

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session
        self.errors: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def open(self, file: Path) -> None:
        """Show a file, and wait until it has loaded."""
        self.browser.loaded.discard(self.session)
        self.send("Page.navigate", url=file.resolve().as_uri())
        self.browser.wait(lambda: self.session in self.browser.loaded)

    def eval(self, script: str) -> Any:
        """The value of an expression, as JSON can hold it."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"]["exception"].get("description", found))
        return found["result"].get("value")

    def size(self, width: int, height: int = 900) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def scheme(self, name: str) -> None:
        """Prefer "dark" or "light"."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, as a hand would."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, file: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **({"clip": self._whole()} if whole else {}))
        file.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self) -> dict[str, float]:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


class Browser:
    """A browser that was started, and the two ends of its pipe."""

    def __init__(self, out: int, into: int):
        self.out, self.into = out, into
        self.rest, self.last = b"", 0
        self.answers: dict[int, dict[str, Any]] = {}
        self.pages: dict[str, Page] = {}
        self.loaded: set[str] = set()

    def page(self) -> Page:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        self.pages[page.session] = page
        for domain in ("Page", "Runtime", "Log"):
            page.send(f"{domain}.enable")
        return page

    def send(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        self.last += 1
        mine = self.last
        message = {"id": mine, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        self.wait(lambda: mine in self.answers)
        answer = self.answers.pop(mine)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, done: Any) -> None:
        """Read messages until `done()`."""
        end = time.monotonic() + PATIENCE
        while not done():
            ready, _, _ = select.select([self.into], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.into, 1 << 20)
            assert more, "the browser ended"
            *whole, self.rest = (self.rest + more).split(b"\0")
            for message in whole:
                self._hear(json.loads(message))

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self.answers[message["id"]] = message
            return
        name, params, session = message["method"], message["params"], message.get("sessionId", "")
        page = self.pages.get(session)
        if name == "Page.loadEventFired":
            self.loaded.add(session)
        elif page and name == "Runtime.exceptionThrown":
            page.errors.append(str(params["exceptionDetails"]))
        elif page and name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            page.errors.append(params["entry"]["text"])
        elif page and name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            page.errors.append(str(params["args"]))


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """Start the program; it ends with the block. Chromium reads its messages from descriptor 3 and answers on 4."""
    (theirs, out), (into, answers) = os.pipe(), os.pipe()

    def place() -> None:
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, answers)]  # either may have the number of the other's place
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=place, close_fds=False, **quiet)  # what is not placed closes itself
    os.close(theirs)
    os.close(answers)
    try:
        yield Browser(out, into)
    finally:
        os.close(out)  # it ends by itself where its pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(into)
