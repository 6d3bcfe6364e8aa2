"""fourmill's own fetcher: one event loop for all slices of a worker, and threads that decode.

URLs wait by host; hosts take turns. A request begins when its host has a permit (`limits.py`), and a redirect to
another host waits for one of that host. Nothing waits for ever: a URL has a time limit, and so has a slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from . import connections, failures, manners
from .addresses import Addresses
from .connections import Budget, Connections, Share, parsed
from .failures import Failure
from .fetcher import Ask, Done, Row
from .loop import Looped
from .settings import Download

LOOKED_AT = 512  # hosts at one time
ASK_SECONDS = 0.01  # from one question for permits to the next
LOOK_SECONDS = 0.05  # the same while hosts have no permits left
QUIET_SECONDS = 20.0  # after which the limiter hears again what is held
MOST_WAITS = 20  # of one URL for a host that asks to be left alone; they are no tries
BACKOFF_SECONDS = 1.0  # before the first retry, twice as long before each other
_MIB = 2**20
_LATE = Failure(failures.DEADLINE, "its slice has taken too long")


@dataclass
class _Batch:
    """A slice that is fetched. left: rows without a result."""

    done: Done
    left: int
    finished: Future[None] = field(default_factory=Future)
    expired: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # whose bytes have not come yet


@dataclass
class _Item:
    """One row on its way. spent: seconds of its time limit. seen: URLs that have led here. waits: for its host."""

    batch: _Batch
    row: Row
    url: str
    host: str
    tries: int = 0
    spent: float = 0.0
    seen: list[str] = field(default_factory=list)
    waits: int = 0


class OwnFetcher(Looped):
    """Args: as of `Looped`. ask: for permits. lookup: of names, see `Addresses`."""

    def __init__(
        self, settings: Download, max_pixels: int, ask: Ask, user_agent: str, threads: int = 2, **lookup: Any
    ) -> None:
        super().__init__(settings, max_pixels, user_agent, threads, "fetch")
        self._ask, self._lookup = ask, lookup
        self._asking = ThreadPoolExecutor(1, "permits")
        self._pending: OrderedDict[str, deque[_Item]] = OrderedDict()  # by host; who has waited longest comes first
        self._held: Counter[str] = Counter()  # permits in use
        self._paused: dict[str, float] = {}  # host -> when it may be asked again
        self._news: dict[str, float] = {}  # pauses that the limiter does not know
        self._active = 0  # URLs that are fetched or decoded
        self._call(self._set_up()).result()

    def fetch(self, rows: Sequence[Row], done: Done) -> None:
        self._call(self._add(_Batch(done, len(rows)), rows)).result().result()

    def close(self) -> None:
        super().close()
        self._asking.shutdown(wait=False, cancel_futures=True)

    # All that follows runs in the loop.

    async def _set_up(self) -> None:
        settings = self._settings
        self._wake = asyncio.Event()
        self._budget = Budget(int(settings.buffer_mib * _MIB))
        addresses = Addresses(settings.allow, self._resolvers, **self._lookup)
        self._connections = Connections(addresses, settings.connections, self._user_agent)
        self._robots = manners.Robots(self._connections, settings.timeout, self._agent)
        self._scheduler = self._loop.create_task(self._schedule())

    async def _tear_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    async def _add(self, batch: _Batch, rows: Sequence[Row]) -> Future[None]:
        if not rows:
            batch.finished.set_result(None)
        for row in rows:
            try:
                self._queue(_Item(batch, row, row.url, parsed(row.url).host))
            except Failure as failure:
                self._fail(batch, row, failure)
        timer = self._loop.call_later(self._settings.slice_minutes * 60, self._expire, batch)
        batch.finished.add_done_callback(lambda _: self._loop.call_soon_threadsafe(timer.cancel))
        return batch.finished

    def _queue(self, item: _Item, first: bool = False) -> None:
        if item.batch.expired:
            self._fail(item.batch, item.row, _LATE)
            return
        waiting = self._pending.setdefault(item.host, deque())
        (waiting.appendleft if first else waiting.append)(item)
        self._wake.set()

    def _fail(self, batch: _Batch, row: Row, failure: Failure) -> None:
        try:
            batch.done(row.index, failure)
        except Exception as error:
            self._break(batch, error)
        self._count(batch)

    def _count(self, batch: _Batch) -> None:
        batch.left -= 1
        if not batch.left and not batch.finished.done():
            batch.finished.set_result(None)

    def _break(self, batch: _Batch, error: Exception) -> None:
        """Its results cannot be kept: the slice as a whole has failed."""
        if not batch.finished.done():
            batch.finished.set_exception(error)
        self._expire(batch)

    def _expire(self, batch: _Batch) -> None:
        """What is left of a slice has failed."""
        if batch.expired:
            return
        batch.expired = True
        for host in list(self._pending):
            late = [item for item in self._pending[host] if item.batch is batch]
            self._pending[host] = deque(item for item in self._pending[host] if item.batch is not batch)
            if not self._pending[host]:
                del self._pending[host]
            for item in late:
                self._fail(batch, item.row, _LATE)
        for task in list(batch.tasks):
            task.cancel()

    async def _schedule(self) -> None:
        """Ask for permits, for hosts in turn, and start what they are for."""
        while True:
            self._wake.clear()
            wanted, held, news = self._wanted(), dict(self._held), self._news
            self._news = {}
            granted, waiting = await self._loop.run_in_executor(self._asking, self._ask, held, wanted, news)
            now = time.monotonic()
            self._paused = {host: until for host, until in self._paused.items() if until > now}
            self._paused |= {host: now + seconds for host, seconds in waiting.items()}
            for host, seconds in waiting.items():
                if seconds > self._settings.longest_wait:
                    self._give_up_host(host, Failure("http-429", f"{host} asks to be left alone for {seconds:.0f} s"))
            for host, count in granted.items():
                for _ in range(count):
                    self._start(host)
            blocked = bool(self._pending) and self._active < self._settings.connections
            await asyncio.sleep(ASK_SECONDS)
            with contextlib.suppress(TimeoutError):
                # Not by wait_for, which loses a cancellation that comes in the same moment (Python 3.11).
                async with asyncio.timeout(LOOK_SECONDS if blocked else QUIET_SECONDS):
                    await self._wake.wait()

    def _wanted(self) -> dict[str, int]:
        """How many permits could be used now, by host: of the hosts that have waited longest."""
        free, most = self._settings.connections - self._active, self._settings.per_host
        wanted: dict[str, int] = {}
        now = time.monotonic()
        for host in list(itertools.islice(self._pending, LOOKED_AT)):
            if free <= 0:
                break
            self._pending.move_to_end(host)
            if now < self._paused.get(host, 0.0) <= now + self._settings.longest_wait:
                continue  # of those that ask for longer the limiter says so
            count = min(len(self._pending[host]), free)
            count = count if most is None else min(count, most - self._held[host])
            if count > 0:
                wanted[host] = count
                free -= count
        return wanted

    def _start(self, host: str) -> None:
        waiting = self._pending.get(host)
        if not waiting:
            return
        item = waiting.popleft()
        if not waiting:
            del self._pending[host]
        self._held[host] += 1
        self._active += 1
        task = self._loop.create_task(self._do(item))
        item.batch.tasks.add(task)
        task.add_done_callback(partial(self._ended, item.batch))

    def _ended(self, batch: _Batch, task: asyncio.Task[None]) -> None:
        batch.tasks.discard(task)
        self._active -= 1
        self._wake.set()

    async def _do(self, item: _Item) -> None:
        """One request of a row, and what follows from it."""
        batch, task = item.batch, asyncio.current_task()
        share = Share(self._budget)
        try:
            try:
                got = await self._request(item, share)
            finally:
                self._held[item.host] -= 1
                if not self._held[item.host]:
                    del self._held[item.host]
            if isinstance(got, str):
                self._follow(item, got)
                return
            batch.tasks.discard(cast("asyncio.Task[None]", task))  # a thread cannot be cancelled
            failure = await self._loop.run_in_executor(self._decoders, self._keep, item.row, got, batch.done)
            if failure:
                self._fail(batch, item.row, failure)
            else:
                self._count(batch)
        except Failure as failure:
            self._failed(item, failure)
        except asyncio.CancelledError:
            if not batch.expired:  # the fetcher is closed
                raise
            self._fail(batch, item.row, _LATE)
        except Exception as error:
            self._break(batch, error)
        finally:
            await share.give_back()

    async def _request(self, item: _Item, share: Share) -> bytes | str:
        """The bytes that came, or where the URL leads instead. Failure if neither."""
        url, settings = parsed(item.url), self._settings
        if settings.robots:
            await self._robots.check(url)
        began = time.monotonic()
        try:
            async with asyncio.timeout(settings.timeout - item.spent), self._connections.get(url) as (head, response):
                if head.location:
                    return str(url.join(head.location))
                if head.status != 200:
                    raise failures.of_status(head.status, head.wait())
                manners.check_headers(head.headers, settings.opt_out, self._agent)
                most = int(settings.max_mib * _MIB)
                await share.take(connections.length(head, most))
                return await connections.read(head, response, most)
        except TimeoutError:
            raise Failure(failures.TIMEOUT, f"not done within {settings.timeout:g} s") from None
        except (Failure, asyncio.CancelledError):
            raise
        except Exception as error:  # whatever a server can do to the libraries below
            raise Failure(failures.CONNECTION, f"{type(error).__name__}: {error}") from None
        finally:
            item.spent += time.monotonic() - began

    def _follow(self, item: _Item, to: str) -> None:
        try:
            host = parsed(to).host
            if to in (*item.seen, item.url):
                raise Failure(failures.REDIRECTS, f"in a circle, to {to[:500]}")
            if len(item.seen) >= self._settings.redirects:
                raise Failure(failures.REDIRECTS, f"more than {self._settings.redirects} redirects")
        except Failure as failure:
            self._fail(item.batch, item.row, failure)
            return
        item.seen.append(item.url)
        item.url, item.host = to, host
        self._queue(item, first=True)

    def _failed(self, item: _Item, failure: Failure) -> None:
        """Try again, now or when the host may be asked again, or let it be."""
        settings = self._settings
        may = failures.matches(failure.kind, settings.retry)
        busy = failure.kind == "http-429" or failure.wait > 0
        if busy:
            wait = failure.wait or BACKOFF_SECONDS * 2**item.waits
            if wait > settings.longest_wait:
                self._give_up_host(item.host, failure)
                may = False
            self._pause(item.host, wait)
            item.waits += 1
        if not may or (item.waits > MOST_WAITS if busy else item.tries >= settings.retries):
            self._fail(item.batch, item.row, failure)
            return
        item.spent = 0.0
        if busy:
            self._queue(item, first=True)
            return
        item.tries += 1
        self._loop.call_later(BACKOFF_SECONDS * 2 ** (item.tries - 1), self._queue, item)

    def _pause(self, host: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._paused.get(host, 0.0):
            self._paused[host] = until
            self._news[host] = seconds

    def _give_up_host(self, host: str, failure: Failure) -> None:
        """It asks to be left alone for longer than anybody waits."""
        for item in self._pending.pop(host, ()):
            self._fail(item.batch, item.row, failure)
