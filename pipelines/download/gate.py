"""A proxy of this machine for a fetcher that is not ours: what leaves through it keeps to the recipe's rules.

Hosts get as many connections as they have permits, names are looked up once and connected to where they were checked,
and no connection takes more bytes or time than one URL may. What goes wrong is said in the status line, as
`470 CLASS`, which the fetcher repeats in its errors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from . import failures
from .addresses import Addresses
from .connections import CONNECT_SECONDS, TRIED
from .failures import Failure
from .fetcher import Ask
from .settings import Download

STATUS = 470  # that no server uses
ASK_SECONDS = 0.05  # from one question for permits to the next
LOOKED_AT = 512  # hosts at one time
QUIET_SECONDS = 20.0  # after which the limiter hears again what is held
_HEAD = 1 << 16
_PIECE = 1 << 16
_MIB = 2**20
_HOP_BY_HOP = ("proxy-connection", "connection", "keep-alive", "proxy-authorization", "user-agent")


class Permits:
    """Permits of hosts, waited for. To be used within one event loop."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._thread = ask, ThreadPoolExecutor(1, "permits")
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._wake = asyncio.Event()

    async def take(self, host: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(host, deque()).append(future)
        self._wake.set()
        await future

    def give(self, host: str) -> None:
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]
        self._wake.set()

    async def run(self) -> None:
        """Ask for what is waited for, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            wanted = {host: len(futures) for host, futures in list(self._waiting.items())[:LOOKED_AT]}
            granted, _ = await loop.run_in_executor(self._thread, self._ask, dict(self._held), wanted, {})
            for host in wanted:
                self._grant(host, granted.get(host, 0))
            await asyncio.sleep(ASK_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS if self._waiting else QUIET_SECONDS):
                    await self._wake.wait()

    def _grant(self, host: str, count: int) -> None:
        futures = self._waiting[host]
        while futures and (count or futures[0].done()):
            future = futures.popleft()
            if not future.done():  # else nobody waits any more
                self._held[host] += 1
                count -= 1
                future.set_result(None)
        self._waiting.move_to_end(host)
        if not futures:
            del self._waiting[host]


class Gate:
    """The proxy. `start` and `close` are called in its event loop."""

    def __init__(self, settings: Download, addresses: Addresses, ask: Ask, user_agent: str) -> None:
        self._settings, self._addresses, self._user_agent = settings, addresses, user_agent
        self._ask = ask
        self._most = int(settings.max_mib * _MIB)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> int:
        """The port of this machine that it listens to."""
        self._permits = Permits(self._ask)
        self._asking = asyncio.get_running_loop().create_task(self._permits.run())
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        for task in (self._asking, *self._tasks):
            task.cancel()
        await asyncio.gather(self._asking, *self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:  # the end
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, *_ = head[0].split(" ")
        try:
            url = httpx2.URL(f"https://{target}" if method == "CONNECT" else target)
            if method not in ("CONNECT", "GET") or url.scheme not in ("http", "https") or not url.host:
                raise Failure(failures.BAD_URL)
            await self._permits.take(url.host)
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await self._pass(method, url, head, reader, writer)
            finally:
                self._permits.give(url.host)
        except TimeoutError:
            _refuse(writer, failures.TIMEOUT)
        except Failure as failure:
            _refuse(writer, failure.kind)
        except httpx2.InvalidURL:
            _refuse(writer, failures.BAD_URL)

    async def _pass(
        self, method: str, url: httpx2.URL, head: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, to = await self._connect(url.host, url.port or (443 if url.scheme == "https" else 80))
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in head[1:-2] if line.partition(":")[0].lower() not in _HOP_BY_HOP]
                lines = [f"GET {url.raw_path.decode('ascii')} HTTP/1.1", *kept, f"User-Agent: {self._user_agent}"]
                to.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
            down = asyncio.ensure_future(_copy(there, writer, self._most + _HEAD))
            up = asyncio.ensure_future(_copy(reader, to, _HEAD * 4))  # ends when the fetcher has what it wants
            try:
                await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
            finally:
                down.cancel()
                up.cancel()
                await asyncio.gather(down, up, return_exceptions=True)
        finally:
            to.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for address in (await self._addresses.of(host))[:TRIED]:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(address, port)
        raise Failure(failures.CONNECTION)


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter, most: int) -> None:
    """What comes, up to so many bytes; then the connection is cut."""
    while most > 0 and (piece := await source.read(min(_PIECE, most))):
        most -= len(piece)
        to.write(piece)
        await to.drain()


def _refuse(writer: asyncio.StreamWriter, kind: str) -> None:
    writer.write(f"HTTP/1.1 {STATUS} {kind}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
