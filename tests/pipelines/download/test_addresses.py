"""Which addresses may be asked."""

from __future__ import annotations

import asyncio
import ipaddress
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fourmill.pipelines.download import addresses, failures
from fourmill.pipelines.download.addresses import Addresses, is_public
from fourmill.pipelines.download.failures import Failure

REFUSED = (
    "127.0.0.1", "127.255.0.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "fe80::1",
    "fc00::1", "fd12::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1",
    "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "2001:0:0:0:0:0:80ff:fffe",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def of(host: str, answers: list[str] | Exception, allow: list[str], calls: list[str] | None = None) -> list[str]:
    def lookup(name: str, *_: Any, **__: Any) -> list[Any]:
        if calls is not None:
            calls.append(name)
        if isinstance(answers, Exception):
            raise answers
        return [(0, 0, 0, "", (answer, 0)) for answer in answers]

    async def ask() -> list[str]:
        with ThreadPoolExecutor(2) as threads:
            known = Addresses(allow, threads, lookup)
            first, *_ = await asyncio.gather(known.of(host), known.of(host.upper() + "."))
            assert await known.of(host) == first
            return first

    return asyncio.run(ask())


def test_a_name_is_looked_up_once() -> None:
    calls: list[str] = []
    assert of("example.org", ["8.8.8.8", "2606:4700::1111"], [], calls) == ["8.8.8.8", "2606:4700::1111"]
    assert calls == ["example.org"]


@pytest.mark.parametrize(
    ("answers", "allow"),
    [
        (["10.0.0.1"], ["10.0.0.0/8"]),
        (["10.0.0.1"], ["10.0.0.1"]),
        (["::ffff:10.0.0.1"], ["10.0.0.0/8"]),
        (["10.0.0.1", "8.8.8.8"], ["Images.Local."]),
    ],
)
def test_what_is_allowed_may_be_private(answers: list[str], allow: list[str]) -> None:
    assert of("images.local", answers, allow)


@pytest.mark.parametrize(
    ("answers", "allow"),
    [(["10.0.0.1"], []), (["8.8.8.8", "10.0.0.1"], []), (["10.0.0.1"], ["10.0.0.2"]), (["fe80::1%eth0"], ["local"])],
)
def test_one_private_address_refuses_a_name(answers: list[str], allow: list[str]) -> None:
    with pytest.raises(Failure) as raised:
        of("images.local", answers, allow)
    assert raised.value.kind == failures.REFUSED and "download.allow" in str(raised.value)


@pytest.mark.parametrize("error", [OSError(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_is_not_found(error: Exception) -> None:
    with pytest.raises(Failure) as raised:
        of("images.local", error, [])
    assert raised.value.kind == failures.DNS


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST", 3)

    async def ask() -> int:
        with ThreadPoolExecutor(2) as threads:
            known = Addresses([], threads, lambda *_, **__: [(0, 0, 0, "", ("8.8.8.8", 0))])
            for i in range(10):
                await known.of(f"host{i}")
            return len(known._known)

    assert asyncio.run(ask()) == 3
