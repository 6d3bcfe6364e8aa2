"""A real browser for the tests of the pages.

Chromium is driven through its debugging pipe (file descriptors 3 and 4, JSON ended by NUL), so that no driver and no
WebSocket library is needed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()


class Browser:
    """One headless Chromium with one page; `problems` collects console errors, exceptions and policy violations."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        commands, answers = os.pipe(), os.pipe()
        # The shell moves our ends of the pipes to the numbers that Chromium expects, whatever they are here.
        script = f'exec "$@" 3<&{commands[0]} 4>&{answers[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands[0], answers[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        self.write, self.read, self.buffer, self.last = commands[1], answers[0], b"", 0
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.last += 1
        message = {
            "id": self.last,
            "method": method,
            "params": params,
            **({"sessionId": self.session} if self.session else {}),
        }
        os.write(self.write, json.dumps(message).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.last)["result"]

    def wait(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while b"\0" in self.buffer:
                raw, self.buffer = self.buffer.split(b"\0", 1)
                message = json.loads(raw)
                self.note(message)
                if wanted(message):
                    assert "error" not in message, message
                    return message
            if select.select([self.read], [], [], 0.5)[0]:
                chunk = os.read(self.read, 1 << 20)
                assert chunk, "the browser ended"
                self.buffer += chunk
        raise TimeoutError("no answer from the browser")

    def note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])

    def open(self, path: Path, fragment: str = "") -> None:
        # A blank page between: a change of the fragment alone would not load anything.
        for url in ("about:blank", path.as_uri() + fragment):
            self.call("Page.navigate", url=url)
            self.wait(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        os.close(self.write)
        os.close(self.read)
