"""What fetchers have in common: an event loop in a thread, and threads that look names up and decode."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from . import failures, pictures
from .failures import Failure
from .fetcher import Done, Row
from .settings import Download


class Looped:
    """Base of a fetcher. Subclasses say what is set up and taken down, in the loop.

    Args:
        max_pixels: of an image. user_agent: what servers are sent. threads: that decode. name: of the loop's thread.
    """

    def __init__(self, settings: Download, max_pixels: int, user_agent: str, threads: int, name: str) -> None:
        self._settings, self._max_pixels, self._user_agent = settings, max_pixels, user_agent
        self._agent = user_agent.partition("/")[0].strip().lower()  # by which robots.txt may speak to us
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._resolvers = ThreadPoolExecutor(settings.connections, "lookup")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._thread.start()

    async def _tear_down(self) -> None:
        """Before the loop ends."""
        raise NotImplementedError

    def close(self) -> None:
        self._call(self._tear_down()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for pool in (self._decoders, self._resolvers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Do something in the loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _keep(self, row: Row, data: bytes, done: Done) -> Failure | None:
        """Decode, in a thread; what fails by the image itself is returned."""
        settings = self._settings
        try:
            if len(data) > settings.max_mib * 2**20:
                raise Failure(failures.TOO_LARGE, f"{len(data):,} bytes")
            picture = pictures.make(data, settings.size, settings.min_size, settings.quality, self._max_pixels, row.sha)
        except Failure as failure:
            return failure
        done(row.index, picture)
        return None
