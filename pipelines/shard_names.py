"""The names of shards, under which all their outputs are filed: given at first sight, kept in the root, never changed.

ROOT/ledger/shards/000001.json, 000002.json, ... each hold names that a stage has given, with the place of the shard and
its size: {"NAME": {"url": ..., "size": ...}}. A file is put only where there is none (`storage.put(if_absent=True)`),
so that two jobs that name shards at the same time never name two shards alike.

A new shard is named by its file's stem, with as many folders before it (FOLDER-STEM) as tell it from the others. One
that was moved is known by its file's name and its size. Roots of older releases have records and no such files: there a
name belongs to the shard that its record was made of.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..infra import ledger, storage, sums
from ..infra.index import index
from ..infra.index.listing import stats_of
from . import patterns

logger = logging.getLogger(__name__)

FOLDER = "shards"


@dataclass(frozen=True)
class Named:
    """Where a shard was when it got its name, without what signs a URL, and its size (-1 if it could not be seen)."""

    url: str
    size: int


def read(root: str) -> dict[str, Named]:
    """The names that a root has given. A damaged file is passed over, with a warning: records still know the names."""
    folder = storage.join(root, "ledger", FOLDER)
    names: dict[str, Named] = {}
    for file in storage.list_names(folder):
        url = storage.join(folder, file)
        try:
            content = sums.opened(json.loads(storage.read_bytes(url)))
            names |= {name: Named(str(one["url"]), int(one["size"])) for name, one in content["names"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s is damaged (%s); its names are taken from the ledger's records", url, error)
    return names


def keep(root: str, names: Mapping[str, str], before: Mapping[str, Named], size: Callable[[str], int]) -> None:
    """Keep the names that the root does not know yet, and the new places of shards that were moved.

    Args:
        names: name -> URL, as of `assign`. before: what the root knew then. size: of a shard by its name, -1 if it
            cannot be seen.

    Raises:
        ValueError: another job has named shards otherwise meanwhile.
    """
    folder = storage.join(root, "ledger", FOLDER)
    places = {name: _plain(url) for name, url in names.items()}
    for _ in range(ledger.ATTEMPTS):
        known = read(root)
        _compare(places, before, known)
        new = [name for name, place in places.items() if name not in known or known[name].url != place]
        if not new:
            return
        entries = {name: {"url": places[name], "size": size(name)} for name in new}
        files = storage.list_names(folder)
        number = max((int(stem) for file in files if (stem := file.removesuffix(".json")).isdigit()), default=0) + 1
        data = (json.dumps(sums.sealed({"names": entries}), indent=1, ensure_ascii=False) + "\n").encode()
        if storage.put(storage.join(folder, f"{number:06d}.json"), data, if_absent=True):
            return
    raise OSError(f"{root}: other jobs keep naming shards; run the same command again")


def _compare(places: Mapping[str, str], before: Mapping[str, Named], known: Mapping[str, Named]) -> None:
    names = {one.url: name for name, one in known.items()}
    for name, place in places.items():
        other = names.get(place, name) != name
        if other or (name in known and known[name] != before.get(name) and known[name].url != place):
            raise ValueError(
                f"shards: another job has named {place!r} or {name!r} meanwhile; run the same command again"
            )


def assign(urls: Sequence[str], root: str = "", known: Mapping[str, Named] | None = None) -> dict[str, str]:
    """Name shards: as the root knows them, and new ones so that no known name is taken twice.

    Args:
        root: whose records are looked at; "" for none. known: the names that it has given.

    Returns: name -> URL, in order, each URL once.

    Raises:
        ValueError: the whole path of one is taken as well (both URLs are named), or a stem is empty.
    """
    urls = list(dict.fromkeys(urls))  # named twice, by a glob and by itself, it is still one shard
    chains = {url: _chain(url) for url in urls}
    known = known or {}
    by_place = {one.url: name for name, one in known.items()}
    names = {url: by_place[_plain(url)] for url in urls if _plain(url) in by_place}
    names |= _moved([url for url in urls if url not in names], known, set(names.values()))
    left = [url for url in urls if url not in names]
    if root and left:
        names |= _recorded(root, left, chains, {*known, *names.values()})
    taken = {*known, *names.values()}
    for url in urls:
        if url not in names:
            name = next((one for one in chains[url] if one not in taken), None)
            if name is None:
                last = chains[url][-1]
                other = next(
                    (u for u, n in names.items() if n == last), known[last].url if last in known else "another"
                )
                raise ValueError(f"shards: {url!r} and {other!r} would both be called {last!r}; rename one")
            names[url] = name
            taken.add(name)
    return {names[url]: url for url in urls}


def _plain(url: str) -> str:
    """A URL as it may be written down: without what signs it, and without a password."""
    bare = patterns.without_query(url)
    scheme, found, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if found else bare


def _chain(url: str) -> list[str]:
    """The names that a shard may have: STEM, FOLDER-STEM, ... ValueError if it has no stem."""
    folder, _ = posixpath.split(patterns.without_query(url))
    names = [patterns.stem(url)]
    if not names[0]:
        raise ValueError(f"shards: {url!r} has no file name to call the shard by")
    while True:
        folder, parent = posixpath.split(folder)
        if not parent or parent.endswith(":"):
            return names
        names.append(f"{parent}-{names[-1]}")


def _stats(urls: Iterable[str]) -> dict[str, storage.Stat | None]:
    """Size and version of each, None of those that cannot be seen: the stage reports these where it reads them."""
    found = stats_of(list(urls))
    return {url: None if isinstance(stat, Exception) else stat for url, stat in found.items()}


def _moved(urls: Sequence[str], known: Mapping[str, Named], taken: set[str]) -> dict[str, str]:
    """URL -> name of shards that are not where they were: by the name of the file and its size, and if several are
    equal in both, by the most folders that are equal from the file up. What is in them the plan compares."""
    vacant: dict[str, list[str]] = defaultdict(list)
    for name, one in known.items():
        if name not in taken:
            vacant[posixpath.basename(one.url)].append(name)
    candidates = {url: vacant.get(posixpath.basename(patterns.without_query(url)), []) for url in urls}
    stats = _stats(url for url in urls if candidates[url])
    pairs = [
        (_common(url, known[name].url), url, name)
        for url, now in stats.items()
        for name in candidates[url]
        if now is not None and now.size == known[name].size
    ]
    found: dict[str, str] = {}
    given: set[str] = set()
    for _, url, name in sorted(pairs, key=lambda pair: -pair[0]):  # a stable sort: ties in the recipe's order
        if url not in found and name not in given:
            found[url] = name
            given.add(name)
    return found


def _common(url: str, other: str) -> int:
    """How many parts of two paths are equal, from their ends."""
    parts = zip(reversed(patterns.without_query(url).split("/")), reversed(other.split("/")), strict=False)
    count = 0
    for one, two in parts:
        if one != two:
            break
        count += 1
    return count


def _recorded(root: str, urls: Sequence[str], chains: Mapping[str, Sequence[str]], taken: set[str]) -> dict[str, str]:
    """URL -> name of shards that records were made of, where several may have a name: by size and version."""
    rivals: dict[str, list[str]] = defaultdict(list)
    for url in urls:
        for name in chains[url]:
            rivals[name].append(url)
    contested = {name for name, of in rivals.items() if len(of) > 1 and name not in taken}
    # Beside the stem itself the longer names of those who share it: one of them may be recorded as well.
    shared = {url for name in contested for url in rivals[name]}
    contested |= {name for url in shared for name in chains[url] if name not in taken}
    sources = _sources(root, contested) if contested else {}
    stats = _stats(shared) if sources else {}
    found: dict[str, str] = {}
    for exact in (True, False):  # touched, but of the same size, is better than nothing
        for name in sources.keys() - found.values():
            for url in rivals[name]:
                if url not in found and _is_of(stats[url], sources[name], exact):
                    found[url] = name
                    break
    return found


def _is_of(now: storage.Stat | None, origin: ledger.Source, exact: bool) -> bool:
    """Whether a record was made of a shard, by its size and, if `exact`, its version on storage."""
    return now is not None and now.size == origin.size and (not exact or now.version == origin.version)


def _sources(root: str, names: set[str]) -> dict[str, ledger.Source]:
    """What records of these names were made of, of those that have any."""
    places = storage.join(root, "ledger")
    found: dict[str, ledger.Source] = {}
    for output in (ledger.SAMPLES, *ledger.outputs(root)):
        there = {file.removesuffix(".json") for file in storage.list_names(storage.join(places, output))}
        records = index.read_many(root, [output], sorted((names & there) - found.keys())).entries
        found |= {name: record.source for (_, name), record in records.items()}
        if not names - found.keys():
            break
    return found
