"""Which addresses a host has, and which of them may be asked: URLs of a table are input from strangers.

A host is looked up here and the connection goes to the very address that was checked (`connections.py`), so that a name
that gives another address the next time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from . import failures
from .failures import Failure

KEPT_SECONDS = 600.0  # that an answer is used again
FAILED_SECONDS = 60.0  # the same of a host that was not found
MOST = 50_000  # hosts that are remembered
LOOKUP_SECONDS = 20.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL = ipaddress.ip_network("2000::/3")
_COMPATIBLE = ipaddress.ip_network("::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet; also of the IPv4 address that one of IPv6 stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which a packet to this one goes."""
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


class Addresses:
    """The addresses of hosts, looked up once. To be used within one event loop.

    Args:
        allow: hosts, addresses and networks that may be private, see `Download.allow`.
        threads: in which names are looked up.
        lookup: as `socket.getaddrinfo`.
    """

    def __init__(
        self, allow: Sequence[str], threads: Executor, lookup: Callable[..., list[Any]] = socket.getaddrinfo
    ) -> None:
        self._threads, self._lookup = threads, lookup
        self._networks, self._hosts = [], set[str]()
        for one in allow:
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                self._hosts.add(_plain(one))
        self._known: OrderedDict[str, tuple[float, list[Address] | Failure]] = OrderedDict()
        self._asked: dict[str, asyncio.Future[list[Address] | Failure]] = {}

    async def of(self, host: str) -> list[str]:
        """Addresses of a host that may be asked.

        Raises:
            Failure: it is not found, or one of its addresses is refused: then all of them are.
        """
        host = _plain(host)
        found = await self._found(host)
        if isinstance(found, Failure):
            raise Failure(found.kind, found.said)
        if host not in self._hosts:
            for address in found:
                if not self._may_ask(address):
                    raise Failure(failures.REFUSED, f"{host} is at {address}; download.allow may name it")
        return [str(address) for address in found]

    def _may_ask(self, address: Address) -> bool:
        inner = _inner(address) if isinstance(address, ipaddress.IPv6Address) else None
        if any(one in network for network in self._networks for one in (address, inner) if one is not None):
            return True
        return is_public(address)

    async def _found(self, host: str) -> list[Address] | Failure:
        known = self._known.get(host)
        if known and known[0] > time.monotonic():
            self._known.move_to_end(host)
            return known[1]
        if host not in self._asked:
            loop = asyncio.get_running_loop()
            self._asked[host] = task = loop.create_task(self._ask(host))
            task.add_done_callback(lambda _: self._asked.pop(host, None))
        # One caller that gives up does not take the answer from the others.
        return await asyncio.shield(self._asked[host])

    async def _ask(self, host: str) -> list[Address] | Failure:
        loop = asyncio.get_running_loop()
        found: list[Address] | Failure
        try:
            call = loop.run_in_executor(
                self._threads, lambda: self._lookup(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            )
            async with asyncio.timeout(LOOKUP_SECONDS):
                answers = await call
            texts = dict.fromkeys(str(one[4][0]).partition("%")[0] for one in answers)
            found = [ipaddress.ip_address(text) for text in texts]
            found.sort(key=lambda one: one.version)  # machines without IPv6 lose no time
        except TimeoutError:
            found = Failure(failures.DNS, f"no answer about {host} within {LOOKUP_SECONDS:.0f} s")
        except (OSError, ValueError) as error:  # of labels that are too long: UnicodeError
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            found = Failure(failures.DNS, f"{host}: {said}")
        seconds = FAILED_SECONDS if isinstance(found, Failure) else KEPT_SECONDS
        self._known[host] = time.monotonic() + seconds, found
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        return found


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
