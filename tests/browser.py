"""Headless Chromium that looks at a page, on disk or served: its size, its script's answers, complaints, a picture.

Speaks the DevTools protocol over pipes (`--remote-debugging-pipe`), which needs nothing but Chromium itself.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "no chromium on PATH (Debian: apt-get install chromium)"
PATIENCE_S = 60
ON_THREE_AND_FOUR = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts a program that reads commands from its file 3 and answers on 4."""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions")


class Tab:
    """A tab of the browser.

    Args:
        process: Chromium.
        to, back: ends of the pipes to it and from it.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.process, self.to, self.back = process, to, back
        self.number, self.rest = 0, b""
        self.events: list[dict[str, Any]] = []
        self.session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self.number:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]
            self.events.append(found)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium says nothing"
            part = os.read(self.back, 1 << 20)
            assert part, "Chromium has ended"
            self.rest += part
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def open(self, page: Path | str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a page, a file or an address, in a window of a size, and wait until it is drawn."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """What an expression, or a promise, comes to in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(expression):
            assert time.monotonic() < end, f"{expression} stays false"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click on what a selector finds first, once it is there: a page that draws itself anew lacks it a while."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} !== null && ({found}.click(), true)")

    def fill(self, selector: str, text: str) -> None:
        """Put a text in the place of what a field holds, as if typed."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{found}.focus(), {found}.select()")
        self.press("Delete")
        if text:
            self.ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key and let it go, where the focus is."""
        codes = {"Enter": 13, "Delete": 46, "Backspace": 8, "ArrowLeft": 37}
        said = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        said |= {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, **said)

    def complaints(self) -> list[str]:
        """What the page's console said of errors and warnings, and what was thrown."""
        found = []
        for event in self.events:
            said = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(str(said["args"]))
            elif event["method"] == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
        return found

    def requested(self) -> set[str]:
        """Addresses that the page asked for, besides those of what it holds itself."""
        asked = {e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"}
        return {url for url in asked if not url.startswith("data:")}

    def screenshot(self, path: Path) -> bytes:
        """A picture of the whole page, as a PNG file."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        data = base64.b64decode(answer["data"])
        path.write_bytes(data)
        return data


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Chromium with a profile of its own, and a tab in it."""
    assert CHROMIUM is not None, WITHOUT
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_THREE_AND_FOUR, str(theirs_in), str(theirs_out), *command],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Tab(process, to, back)
    finally:
        os.close(to)
        os.close(back)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
