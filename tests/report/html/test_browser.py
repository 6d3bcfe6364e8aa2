"""The pages in a real browser: they load, nothing is fetched, nothing of a caption runs, filter and pager work.

Chromium is driven through its debugging pipe (file descriptors 3 and 4, JSON ended by NUL), so that no driver and no
WebSocket library is needed.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourmill.report.html.chart import Series
from fourmill.report.html.gallery import Gallery, GallerySample, render_gallery
from fourmill.report.html.report import (
    Column,
    Curve,
    Fact,
    GenerationGrid,
    GenerationRow,
    Photo,
    ReportData,
    render_report,
)

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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, sample: GallerySample) -> Path:
    """Ten samples in pages of four: 000 to 009, of which 002 and 007 have rejects and 002 is hostile."""
    assert sample.image is not None
    image = sample.image.repeat(2, axis=0).repeat(2, axis=1)  # wider than a telephone
    samples = [
        replace(
            sample,
            image=image,
            key=f"{i:03d}",
            caption=f"photo number {i} {ATTACK if i == 2 else ''} {'w' * 200 if i == 1 else 'long ' * 200 * (i == 3)}",
            rejects={"labels/det": ATTACK} if i % 5 == 2 else {},
        )
        for i in range(10)
    ]
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    path.write_text(render_gallery(Gallery("ten samples", samples, page_size=4)), "utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, sample: GallerySample) -> Path:
    image = sample.image
    assert image is not None
    columns = [Column("rgb", "given"), *(Column(label, "generated") for label in ("canny_edge", "det", "caption") * 3)]
    cells = [image, *[sample.labels["canny_edge"], sample.labels["det"], ATTACK] * 3]
    data = ReportData(
        title="a run",
        facts=[Fact("samples", "1,200")] * 7,
        photos=[Photo("coffee", image, ATTACK, "CC0", "scikit-image " * 5, "train")],
        samples=[sample],
        curves=[Curve("RGB tokens", Series("train", range(50), np.linspace(7, 3, 50)), chance=6.9)],
        generations=[GenerationGrid("all", columns, [GenerationRow("k", cells, image)])],
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(data), "utf-8")
    return path


# Pictures load when they are scrolled to; a test does not scroll.
DECODES = "(image) => { image.loading = 'eager'; return image.decode().then(() => true, () => false); }"
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


def test_report_loads_quietly(browser: Browser, report: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report)
    assert browser.value("document.title") == "a run"
    assert browser.value(f"Promise.all(Array.from(document.images, {DECODES})).then((all) => all.every(Boolean))")
    # The line of the chart is as wide as its plot: SVG and style sheet work together.
    assert browser.value("document.querySelector('polyline').getBoundingClientRect().width") > 200
    assert browser.problems == []
    assert browser.requests == [report.as_uri()]


# The element that reaches farthest to the right; what scrolls by itself may.
WIDEST = """Array.from(document.querySelectorAll("body *"))
  .filter((element) => !element.closest(".wide, nav, .skip, svg"))
  .map((element) => [element, element.getBoundingClientRect()])
  .map(([element, box]) => [Math.max(box.right, box.left + element.scrollWidth), element.outerHTML.slice(0, 90)])
  .reduce((widest, other) => (other[0] > widest[0] ? other : widest))"""


@pytest.mark.parametrize("name", ["gallery", "report"])
def test_nothing_overflows_on_a_telephone(browser: Browser, name: str, request: pytest.FixtureRequest) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    browser.open(request.getfixturevalue(name))
    page_width = browser.value("document.documentElement.scrollWidth")
    right, element = browser.value(WIDEST)
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert page_width == 400
    assert right <= 400.5, element


@pytest.mark.parametrize("name", ["gallery", "report"])
def test_dark_mode_follows_the_reader(browser: Browser, name: str, request: pytest.FixtureRequest) -> None:
    brightness = []
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(request.getfixturevalue(name))
        color = browser.value("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(int(part) for part in re.findall(r"\d+", color)[:3]))
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert brightness[0] > 700
    assert brightness[1] < 150
