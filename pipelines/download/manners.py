"""What a site asks of robots: robots.txt before a request (RFC 9309), headers of the answer after it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import httpx2
from protego import Protego

from . import failures
from .connections import Connections, parsed, read
from .failures import Failure

MAX_ROBOTS = 500 << 10  # bytes that are read of a robots.txt, as RFC 9309 says
REDIRECTS = 5  # of a robots.txt, as RFC 9309 says
MOST = 20_000  # hosts that are remembered

_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

Rules = Protego | bool | Failure


class Robots:
    """The rules of sites, each asked for once.

    Args:
        timeout: seconds for one request. agent: by which robots.txt may speak to us.
    """

    def __init__(self, connections: Connections, timeout: float, agent: str) -> None:
        self._connections, self._timeout, self._agent = connections, timeout, agent
        self._rules: OrderedDict[str, asyncio.Future[Rules]] = OrderedDict()

    async def check(self, url: httpx2.URL) -> None:
        """Failure if the site does not want this URL to be fetched, or does not say what it wants."""
        site = f"{url.scheme}://{url.netloc.decode('ascii')}"
        if site not in self._rules:
            self._rules[site] = asyncio.ensure_future(self._ask(url.join("/robots.txt")))
            while len(self._rules) > MOST:
                self._rules.popitem(last=False)
        rules = await asyncio.shield(self._rules[site])
        if isinstance(rules, Failure):
            self._rules.pop(site, None)  # the next URL of the site asks again
            raise Failure(rules.kind, rules.said, rules.wait)
        allowed = rules if isinstance(rules, bool) else rules.can_fetch(str(url), self._agent)
        if not allowed:
            raise Failure(failures.ROBOTS, f"{site}/robots.txt disallows it")

    async def _ask(self, url: httpx2.URL) -> Rules:
        """4xx means that there are no rules; a site that cannot say what its rules are is left alone."""
        try:
            status, body = await self._fetch(url)
        except Failure as failure:
            if failure.kind == failures.REDIRECTS:
                return True
            of_host = failure.kind in (failures.DNS, failures.REFUSED)
            return Failure(failure.kind, failure.said if of_host else f"robots.txt: {failure.said}", failure.wait)
        except Exception as error:  # whatever a server can do to the libraries below
            return Failure(failures.CONNECTION, f"robots.txt: {type(error).__name__}: {error}")
        if status == 429 or status >= 500:
            return Failure(f"http-{status}", f"robots.txt: HTTP status {status}")
        if status >= 400 or not body:
            return True
        try:
            return Protego.parse(body.decode("utf-8", "replace"))
        except Exception as error:  # of a file that anybody may have written
            return Failure(failures.ROBOTS, f"robots.txt cannot be understood: {type(error).__name__}")

    async def _fetch(self, url: httpx2.URL) -> tuple[int, bytes]:
        """Status and body, after redirects."""
        for _ in range(REDIRECTS + 1):
            try:
                async with asyncio.timeout(self._timeout), self._connections.get(url) as (head, response):
                    if not head.location:
                        return head.status, await read(head, response, MAX_ROBOTS, cut=True)
                    url = parsed(str(url.join(head.location)))
            except TimeoutError:
                raise Failure(failures.TIMEOUT, "no answer") from None
        raise Failure(failures.REDIRECTS, f"more than {REDIRECTS} redirects")


def check_headers(headers: Mapping[str, tuple[str, ...]], directives: Sequence[str], agent: str) -> None:
    """Failure if headers of an answer say that it is not to be used.

    Args:
        directives: of X-Robots-Tag, and tdm-reservation, which is a header of its own (W3C TDMRep).
    """
    if "tdm-reservation" in directives and "1" in {one.strip() for one in headers.get("tdm-reservation", ())}:
        raise Failure(failures.NO_AI, "tdm-reservation: 1")
    said = set(_directives(headers.get("x-robots-tag", ()), agent))
    if "none" in said:  # in short for noindex and nofollow
        said.add("noindex")
    if against := [one for one in directives if one in said]:
        raise Failure(failures.NO_AI, f"X-Robots-Tag: {', '.join(against)}")


def _directives(values: Iterable[str], agent: str) -> Iterable[str]:
    """Those of X-Robots-Tag that are for everybody, or for us: "noai, otherbot: noindex"."""
    for value in values:
        heard = True
        for part in value.lower().split(","):
            name, colon, rest = part.partition(":")
            # A name before a colon is a robot's, but for the few directives that have values.
            if colon and name.strip() not in _WITH_VALUES:
                heard, part = name.strip() in (agent, "*"), rest
            if heard:
                yield part.strip()
