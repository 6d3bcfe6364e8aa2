"""URLs fetched in this process, and small tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fourmill.pipelines.download.failures import Failure
from fourmill.pipelines.download.fetcher import Row
from fourmill.pipelines.download.limits import Limiter
from fourmill.pipelines.download.own import OwnFetcher
from fourmill.pipelines.download.pictures import Picture
from fourmill.pipelines.download.settings import Download

LOOPBACK = ["127.0.0.0/8"]


def settings(**changes: Any) -> Download:
    given = {"table": "table.tsv", "out": "out", "allow": LOOPBACK, "timeout": 10.0, "retries": 0, "per_host": None}
    return Download.model_validate(given | changes)


@contextmanager
def fetcher(
    limiter: Limiter | None = None, name: str = "one", lookup: Any = None, **changes: Any
) -> Iterator[OwnFetcher]:
    """The fetcher with these settings, until the end."""
    asked = settings(**changes)
    limiter = limiter or Limiter(asked.per_host, asked.host_interval)
    extra = {"lookup": lookup} if lookup else {}
    made = OwnFetcher(asked, 1_000_000, partial(limiter.ask, name), "fourmill/0 (+tests)", 2, **extra)
    try:
        yield made
    finally:
        made.close()


def fetch(urls: Sequence[str], by: OwnFetcher, shas: Sequence[str] = ()) -> list[Picture | Failure]:
    """What becomes of URLs, in their order. Each is done once."""
    results: dict[int, Picture | Failure] = {}
    sums = list(shas) or [""] * len(urls)

    def done(index: int, result: Picture | Failure) -> None:
        assert index not in results
        results[index] = result

    by.fetch([Row(i, url, sums[i]) for i, url in enumerate(urls)], done)
    return [results[i] for i in range(len(urls))]


def kinds(results: Sequence[Picture | Failure]) -> list[str]:
    """The class of each, "" of a picture."""
    return [result.kind if isinstance(result, Failure) else "" for result in results]


def write_tsv(path: Path, urls: Sequence[str]) -> Path:
    """As CC12M's: no header, URL and caption."""
    path.write_text("".join(f'{url}\tCaption {i} of a "photo\n' for i, url in enumerate(urls)))
    return path
