"""A headless Chromium driven over its DevTools pipe: no driver package, no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. ``with Browser(1600, 1000) as page: page.open(url)``."""

    def __init__(self, width: int, height: int) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        program = find()
        assert program, "no Chromium"
        command = [
            program,
            *FLAGS,
            f"--user-data-dir={self._profile}",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        low_read, self._out = os.pipe()
        self._in, low_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4: out of the way of those first.
        from_us, to_us = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (low_read, low_write))
        os.close(low_read)
        os.close(low_write)
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "chromium", *command],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        self._buffer = b""
        self._ids = itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._call("Network.enable")
        self._call("Runtime.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", metrics)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str) -> None:
        self._call("Page.navigate", {"url": url})

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> Any:
        """The expression's value as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.3)
        raise AssertionError(
            f"not true within {seconds} s: {script}; the page says: {self.run('document.body?.innerText')}"
        )

    def hover(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def press(self, words: str, seconds: float = 60) -> None:
        """Click the last button or label whose text ends with these words, once it can be clicked."""
        ends = f"one.innerText.trim().endsWith({json.dumps(words)})"
        last = f"[...document.querySelectorAll('button, label')].filter(one => {ends}).at(-1)"
        self.wait_for(f"(one => one && !one.disabled)({last})", seconds)
        self.run(f"{last}.click()")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def drop(self, x: float, y: float, *paths: Path) -> None:
        """Drop files or folders of this machine on the page."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    def tick(self, number: int, seconds: float = 90) -> None:
        """Tick an image of FiftyOne's grid, which moves while it loads."""
        grid = "[...document.querySelectorAll('[data-cy=looker]')]"
        box = f"(one => one && [one.x, one.y])({grid}[{number}]?.getBoundingClientRect())"
        ticked = f"{grid}[{number}]?.querySelector('input[type=checkbox]')?.checked"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            place = self.run(box)
            if place:
                self.hover(place[0] + 40, place[1] + 40)
                time.sleep(1)
                if self.run(ticked):
                    return
                if self.run(box) == place:
                    self.click(place[0] + 18, place[1] + 18)
            time.sleep(1)
            if self.run(ticked):
                return
        raise AssertionError(f"image {number} of the grid could not be ticked within {seconds} s")

    def emulate(self, medium: str = "screen", scheme: str = "light") -> None:
        """Show pages as on a screen or in print, in the light or the dark scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", {"media": medium, "features": features})

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", {"preferCSSPageSize": True})["data"])

    def tap(self, x: float, y: float) -> None:
        """Touch the page, as on a phone."""
        self._call("Emulation.setTouchEmulationEnabled", {"enabled": True})
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self._call("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def screenshot(self, path: Path) -> None:
        data = self._call("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, params: dict[str, Any] | None = None, seconds: float = 60) -> dict[str, Any]:
        message: dict[str, Any] = {"id": next(self._ids), "method": method, "params": params or {}}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self._next(end)
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"):
                self.complaints.append(json.dumps(answer["params"])[:2000])
        raise AssertionError(f"Chromium did not answer {method} within {seconds} s")

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                return {}
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)
