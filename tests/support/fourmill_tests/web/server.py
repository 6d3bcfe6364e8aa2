"""A web server of this machine that misbehaves, by the first part of a path. Hosts are addresses of the loopback
network: 127.0.0.1, 127.0.0.2, ... are all this server's."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from .. import data

PIECE = b"x" * (1 << 16)


@cache
def jpeg(index: int, width: int = 120, height: int = 96) -> bytes:
    return data.encode(data.picture(index, width, height), quality=90)


def bomb() -> bytes:
    """A PNG of a few kilobytes whose header says 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4096))
        + chunk(b"IEND", b"")
    )


@dataclass
class Web:
    """port: of the server. seen: requests by (host, path). most: at a time, by host. agents: who has asked.

    robots: what robots.txt says, by host; 404 unless it is there. busy: how many more requests of /busy/ are answered
    429, and asked to come back as `retry_after` says.
    """

    port: int = 0
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    agents: set[str] = field(default_factory=set)
    robots: dict[str, str] = field(default_factory=dict)
    busy: int = 0
    retry_after: str = "1"
    _now: Counter[str] = field(default_factory=Counter)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    def asked(self, path: str) -> int:
        return sum(count for (_, one), count in self.seen.items() if one == f"/{path}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = lines[0].split(" ")[1]
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
                host = headers["host"].rpartition(":")[0]
                self.seen[host, path] += 1
                self.agents.add(headers.get("user-agent", ""))
                self._now[host] += 1
                self.most[host] = max(self.most[host], self._now[host])
                try:
                    goes_on = await self._answer(writer, host, path)
                finally:
                    self._now[host] -= 1
                if not goes_on:
                    break
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, host: str, path: str) -> bool:
        """Answer one request; whether the connection may be used again."""
        kind, _, rest = path.lstrip("/").partition("/")
        number = int(rest) if rest.isdecimal() else 0
        if path == "/robots.txt":
            rules = self.robots.get(host)
            return _send(writer, 200, rules.encode()) if rules is not None else _send(writer, 404)
        if kind == "image":
            await asyncio.sleep(0)  # others of the same host are seen to be there
            return _send(writer, 200, jpeg(number))
        if kind == "large":
            return _send(writer, 200, jpeg(number, 800, 600))
        if kind == "status":
            return _send(writer, number)
        if kind == "busy":
            if self.busy > 0:
                self.busy -= 1
                return _send(writer, 429, headers={"Retry-After": self.retry_after})
            return _send(writer, 200, jpeg(number))
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "slow":  # a byte now and then, for ever
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        if kind == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + PIECE + b"\r\n")
                await writer.drain()
        if kind == "huge":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
            return False
        if kind == "circle":
            return _send(writer, 302, headers={"Location": f"/circle/{(number + 1) % 3}"})
        if kind == "chain":
            return _send(writer, 301, headers={"Location": f"/chain/{number + 1}"})
        if kind == "to":
            return _send(writer, 302, headers={"Location": rest if "://" in rest else f"/{rest}"})
        if kind == "lie":
            return _send(writer, 200, b"<html>no image</html>", {"Content-Type": "image/jpeg"})
        if kind == "plain":
            return _send(writer, 200, jpeg(number), {"Content-Type": "text/plain"})
        if kind == "broken":
            return _send(writer, 200, jpeg(number)[:-900] + b"\xff\xd9")
        if kind == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
            return False
        if kind == "bomb":
            return _send(writer, 200, bomb())
        if kind == "gzip-bomb":
            return _send(writer, 200, gzip.compress(b"\0" * (8 << 20)), {"Content-Encoding": "gzip"})
        if kind == "noise":
            writer.write(b"\x00\xffthis is no HTTP\r\n\r\n")
            return False
        if kind == "header":  # /header/X-Robots-Tag=noai
            name, _, value = rest.partition("=")
            return _send(writer, 200, jpeg(0), {name: value.replace("_", " ")})
        return _send(writer, 404)


def _send(writer: asyncio.StreamWriter, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{n}: {v}" for n, v in (headers or {}).items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    return True


@contextmanager
def serve() -> Iterator[Web]:
    """A server in a thread of its own, until the end."""
    web, loop, started = Web(), asyncio.new_event_loop(), threading.Event()
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await web.serve(reader, writer)
        except asyncio.CancelledError:  # the end: asyncio would print it
            writer.close()
        finally:
            connections.discard(task)

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(accept, "0.0.0.0", 0, backlog=1024)
        web.port = server.sockets[0].getsockname()[1]
        started.set()
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    started.wait()
    try:
        yield web
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
