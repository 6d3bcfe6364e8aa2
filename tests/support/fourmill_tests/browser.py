"""A real browser for the tests of the pages: Playwright drives the Chromium that is installed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# As root in a container: no sandbox, no GPU, little shared memory; and nothing is fetched in the background.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]


class Browser:
    """One headless Chromium with one page.

    problems: console errors and warnings, exceptions, violations of the page's policy. requests: URLs that pages asked
    for, data: aside.
    """

    def __init__(self) -> None:
        # A loop of its own, which runs only within a call: Playwright's own synchronous API leaves one running in this
        # thread, and then no other test of the session could call asyncio.run.
        self._loop = asyncio.new_event_loop()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._run(self._start())

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(steps)

    async def _start(self) -> None:
        from playwright.async_api import async_playwright

        self._playwright = await async_playwright().start()
        self._chromium = await self._playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self.page = await self._chromium.new_page()
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.problems.append(line.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda one: one.url.startswith("data:") or self.requests.append(one.url))

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a page and wait for it."""
        # A blank page between: a change of the fragment alone would not load anything.
        self._run(self.page.goto("about:blank"))
        self._run(self.page.goto(path.as_uri() + fragment))

    def value(self, expression: str) -> Any:
        """What an expression (or its promise) yields in the page."""
        return self._run(self.page.evaluate(expression))

    def resize(self, width: int, height: int) -> None:
        self._run(self.page.set_viewport_size({"width": width, "height": height}))

    def prefer(self, scheme: Any) -> None:
        """Set the reader's colour scheme, "light" or "dark"; None is the browser's own."""
        self._run(self.page.emulate_media(color_scheme=scheme or "null"))

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        self._run(self.page.screenshot(path=path, full_page=True))

    def close(self) -> None:
        self._run(self._chromium.close())
        self._run(self._playwright.stop())
        self._loop.close()
