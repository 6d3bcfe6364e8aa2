"""Connections of a worker: to the address that was checked, kept for the next request to the same host, and one request
with all that is bounded about it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import anyio._backends._asyncio  # noqa: F401  (else the first connection imports it, within the time limit of a URL)
import httpcore2
import httpx2

from . import failures
from .addresses import Addresses
from .failures import Failure

CONNECT_SECONDS = 10.0  # for one address
IDLE_SECONDS = 15.0  # that a connection is kept
TRIED = 3  # addresses of one host
_GZIP = 31  # zlib's number for gzip


class _Backend(httpcore2.AsyncNetworkBackend):
    """Opens connections to addresses that were checked. Names of certificates stay those of the hosts."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses, self._network = addresses, httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        said = ""
        for address in (await self._addresses.of(host))[:TRIED]:
            try:
                return await self._network.connect_tcp(address, port, CONNECT_SECONDS)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                slow = isinstance(error, httpcore2.ConnectTimeout)
                said = f"{host} at {address}, port {port}: {'no answer' if slow else error}"
        raise Failure(failures.CONNECTION, said)


@dataclass(frozen=True)
class Response:
    """headers: by their names in lower case; several of one name in order. location: where it redirects to, or ""."""

    status: int
    headers: Mapping[str, tuple[str, ...]]
    location: str = ""

    def wait(self) -> float:
        """Seconds that Retry-After asks for, 0 for none."""
        return _seconds(next(iter(self.headers.get("retry-after", ())), ""))


class Budget:
    """Bytes that responses may take at a time; who comes late waits."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.changed = asyncio.Condition()


class Share:
    """What one response takes of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._taken = budget, 0

    async def take(self, count: int) -> None:
        """All at once and only once: nobody waits with a part in hand."""
        count = min(count, self._budget.size)
        async with self._budget.changed:
            await self._budget.changed.wait_for(lambda: self._budget.free >= count)
            self._budget.free -= count
            self._taken = count

    async def give_back(self) -> None:
        if self._taken:
            async with self._budget.changed:
                self._budget.free += self._taken
                self._taken = 0
                self._budget.changed.notify_all()


class Connections:
    """To be made and used within one event loop. httpcore's own pool looks at every idle connection at each request.

    Args:
        most: idle connections that are kept. user_agent: what servers are sent. verify: certificates that are trusted,
            None for the machine's.
    """

    def __init__(self, addresses: Addresses, most: int, user_agent: str, verify: ssl.SSLContext | None = None) -> None:
        self._backend, self._most = _Backend(addresses), most
        self._verify = verify or httpcore2.default_ssl_context()
        self._idle: OrderedDict[httpcore2.AsyncHTTPConnection, str] = OrderedDict()  # the oldest first
        self._of: dict[str, list[httpcore2.AsyncHTTPConnection]] = {}  # the same by what they lead to
        # Compressed bytes of an image gain nothing, and may be a bomb.
        self._headers = [("User-Agent", user_agent), ("Accept", "image/*,*/*;q=0.5"), ("Accept-Encoding", "identity")]

    async def close(self) -> None:
        for connection in list(self._idle):
            self._forget(connection)
            await _close(connection)

    async def _take(self, origin: httpcore2.Origin) -> httpcore2.AsyncHTTPConnection:
        """An idle connection that its server has not closed, or a new one."""
        while waiting := self._of.get(str(origin)):
            connection = waiting[-1]
            self._forget(connection)
            if connection.is_available() and not connection.has_expired():
                return connection
            await _close(connection)
        return httpcore2.AsyncHTTPConnection(
            origin, self._verify, keepalive_expiry=IDLE_SECONDS, network_backend=self._backend
        )

    async def _give(self, origin: str, connection: httpcore2.AsyncHTTPConnection) -> None:
        if not connection.is_idle() or connection.is_closed():
            await _close(connection)
            return
        self._idle[connection] = origin
        self._of.setdefault(origin, []).append(connection)
        if len(self._idle) > self._most:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            await _close(oldest)

    def _forget(self, connection: httpcore2.AsyncHTTPConnection) -> None:
        origin = self._idle.pop(connection)
        self._of[origin].remove(connection)
        if not self._of[origin]:
            del self._of[origin]

    @asynccontextmanager
    async def get(self, url: httpx2.URL) -> AsyncIterator[tuple[Response, httpcore2.Response]]:
        """The head of one response, and what its body is read from.

        Raises:
            Failure: for whatever goes wrong on the way.
        """
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [("Host", url.netloc.decode("ascii")), *self._headers]
        connection = await self._take(target.origin)
        try:
            with _said():
                response = await connection.handle_async_request(httpcore2.Request("GET", target, headers=headers))
        except BaseException:
            await _close(connection)
            raise
        try:
            found: dict[str, tuple[str, ...]] = {}
            for name, value in response.headers:
                key = name.decode("latin-1").lower()
                found[key] = (*found.get(key, ()), value.decode("latin-1"))
            is_elsewhere = response.status in (301, 302, 303, 307, 308)
            location = next(iter(found.get("location", ())), "") if is_elsewhere else ""
            yield Response(response.status, found, location=location), response
        finally:
            # A connection whose body was not read to its end cannot be used again, and is closed.
            with contextlib.suppress(Exception):
                await response.aclose()
            await self._give(str(target.origin), connection)


async def _close(connection: httpcore2.AsyncHTTPConnection) -> None:
    with contextlib.suppress(Exception):
        await connection.aclose()


async def read(head: Response, response: httpcore2.Response, most: int, cut: bool = False) -> bytes:
    """The body, of at most so many bytes. Failure if there are more (with `cut` they are left out), or none come."""
    encoding = ",".join(head.headers.get("content-encoding", ())).strip().lower()
    if encoding in ("", "identity"):
        inflate = None
    elif encoding in ("gzip", "x-gzip", "deflate"):
        inflate = zlib.decompressobj(_GZIP if "gzip" in encoding else zlib.MAX_WBITS)
    else:
        raise Failure(failures.UNDECODABLE, f"content-encoding {encoding[:40]!r}, which was not asked for")
    body = bytearray()
    with _said():
        async for part in response.aiter_stream():
            try:
                body += inflate.decompress(part, most + 1 - len(body)) if inflate else part
            except zlib.error as error:
                raise Failure(failures.UNDECODABLE, f"content-encoding {encoding}: {error}") from None
            if len(body) > most and cut:
                return bytes(body[:most])
            if len(body) > most:
                raise Failure(failures.TOO_LARGE, f"more than {most:,} bytes")
    return bytes(body)


def length(head: Response, most: int) -> int:
    """Bytes that a body may have. Failure if it says that there are more than `most`."""
    stated = next(iter(head.headers.get("content-length", ())), "")
    if not stated.isdecimal() or "content-encoding" in head.headers:
        return most
    if int(stated) > most:
        raise Failure(failures.TOO_LARGE, f"{int(stated):,} bytes, at most {most:,} are read (download.max_mib)")
    return int(stated)


@contextlib.contextmanager
def _said() -> Any:
    """Errors of a connection as failures with their class."""
    try:
        yield
    except (httpcore2.TimeoutException, TimeoutError) as error:
        raise Failure(failures.TIMEOUT, str(error)) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        cause = error.__cause__ or error.__context__ or error
        kind = failures.TLS if isinstance(cause, ssl.SSLError) else failures.CONNECTION
        raise Failure(kind, str(error) or str(cause) or type(cause).__name__) from None


def _seconds(text: str) -> float:
    """Of Retry-After: a number, or a date."""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def parsed(url: str) -> httpx2.URL:
    """Failure if it is no URL of the web."""
    try:
        parsed = httpx2.URL(url.strip())
        host = parsed.raw_host
    except Exception as error:  # of strange hosts also UnicodeError and idna's
        raise Failure(failures.BAD_URL, str(error)[:200]) from None
    if parsed.scheme not in ("http", "https"):
        said = f"scheme {parsed.scheme[:20]!r}" if parsed.scheme else "no scheme"
        raise Failure(failures.BAD_URL, f"{said}, expected http or https")
    if not host:
        raise Failure(failures.BAD_URL, "no host")
    if parsed.port is not None and not 0 < parsed.port < 1 << 16:
        raise Failure(failures.BAD_URL, f"port {parsed.port}, expected 1 to 65535")
    return parsed
