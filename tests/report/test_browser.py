"""The pages in a real browser: they load, nothing is fetched, nothing of a caption runs, filter and pager work.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourmill.report.gallery import Gallery, GallerySample, render_gallery

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


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
        message = {"id": self.last, "method": method, "params": params, **({"sessionId": self.session} if self.session else {})}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.last)["result"]

    def wait(self, wanted: Any, seconds: float = 30.0) -> dict[str, Any]:
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
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        os.close(self.write)
        os.close(self.read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.full((8, 12, 3), 90, np.uint8)
    samples = [
        GallerySample(f"{i:03d}", "00000", image, f"photo number {i} {ATTACK if i == 2 else ''}", rejects={"labels/det": ATTACK} if i % 5 == 2 else {})
        for i in range(10)
    ]
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    path.write_text(render_gallery(Gallery("ten samples", samples, page_size=4)), "utf-8")
    return path


VISIBLE = "Array.from(document.querySelectorAll('.sample:not([hidden]) .key'), (key) => key.textContent).join(' ')"


def test_gallery_loads_quietly_and_runs_nothing_of_its_data(browser: Browser, gallery: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(gallery)
    assert browser.value(VISIBLE) == "000 001 002 003"
    assert browser.value("document.title") == "ten samples"
    assert browser.value("document.querySelectorAll('script').length") == 1
    assert browser.value("document.querySelector('[src=x]')") is None
    assert browser.value("document.querySelectorAll('.caption')[2].textContent").strip().endswith(ATTACK)
    assert browser.problems == []
    assert browser.requests == [gallery.as_uri()]


def test_the_policy_stops_what_escaping_might_let_through(browser: Browser, gallery: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.html"
    page = gallery.read_text("utf-8")
    raw.write_text(page.replace("photo number 0", ATTACK), "utf-8")
    browser.problems.clear()
    browser.open(raw)
    assert browser.value("document.title") == "ten samples"
    assert any("Content Security Policy" in problem for problem in browser.problems)
    assert browser.value(VISIBLE) == "000 001 002 003"


def test_filter_and_pager(browser: Browser, gallery: Path) -> None:
    browser.open(gallery, "#rejects=1")
    assert browser.value(VISIBLE) == "002 007"
    browser.open(gallery, "#page=3")
    assert browser.value(VISIBLE) == "008 009"
    browser.value("find('query').value = 'NUMBER 7'; find('query').dispatchEvent(new Event('input'))")
    assert browser.value(VISIBLE) == "007"
    assert browser.value("location.hash") == "#q=NUMBER+7"
    browser.value("find('query').value = 'absent'; find('query').dispatchEvent(new Event('input'))")
    assert browser.value(VISIBLE) == ""
    assert browser.value("find('nothing').hidden") is False
    browser.value("find('query').value = ''; find('query').dispatchEvent(new Event('input')); find('next').click()")
    assert browser.value(VISIBLE) == "004 005 006 007"


def test_nothing_overflows_on_a_telephone(browser: Browser, gallery: Path) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    browser.open(gallery)
    width = browser.value("document.documentElement.scrollWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert width <= 400
