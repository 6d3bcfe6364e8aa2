"""Where a shard is: one URL, or one of each set of tars that lie beside each other, "optical", "radar", ...

Tasks, plans and actors name a shard by one text. That of several tars is the JSON of set -> URL, in the recipe's order.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Collection, Mapping, Sequence

from ...infra import storage
from ...infra.index.listing import stats_of
from .. import patterns

_NAMED = 3  # tars that an error names


def join(parts: Mapping[str, str]) -> str:
    """The place of a shard whose tars these are, by set."""
    return json.dumps(dict(parts), ensure_ascii=False)


def parts(place: str) -> dict[str, str]:
    """The tars of a shard by set; of one tar alone {"": URL}."""
    return dict(json.loads(place)) if place.startswith("{") else {"": place}


def first(place: str) -> str:
    """The URL of a shard's first tar, by which it is named and known."""
    return next(iter(parts(place).values()))


def stats(places: Collection[str]) -> dict[str, storage.Stat | Exception | None]:
    """Size and version of all tars of each shard together, None if one is missing, or why they cannot be looked at."""
    tars = {place: list(parts(place).values()) for place in places}
    found = stats_of([url for urls in tars.values() for url in urls])
    return {place: _together([found[url] for url in urls]) for place, urls in tars.items()}


def stat(place: str) -> storage.Stat | None:
    """The same of one shard; raises what the storage does."""
    found = _together([storage.stat(url) for url in parts(place).values()])
    assert not isinstance(found, Exception)
    return found


def _together(found: Sequence[storage.Stat | Exception | None]) -> storage.Stat | Exception | None:
    for one in found:
        if isinstance(one, Exception):
            return one
    there = [one for one in found if isinstance(one, storage.Stat)]
    if len(there) < len(found):
        return None
    return there[0] if len(there) == 1 else storage.Stat(sum(one.size for one in there), version(there))


def version(of: Sequence[storage.Stat]) -> str:
    """Of several tars together."""
    return "+".join(one.version for one in of)


def sha256(place: str) -> str:
    """Of the bytes of all tars of a shard."""
    digests = [storage.sha256(url) for url in parts(place).values()]
    return digests[0] if len(digests) == 1 else joined(digests)


def joined(digests: Sequence[str]) -> str:
    """One sum of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def aligned(sets: Mapping[str, Sequence[str]]) -> list[str]:
    """The places of shards from the tars of each set, in the order of the first one.

    Tars belong together that have the same file name, up to its kind; where names occur twice in a set (a/0.tar,
    b/0.tar) those at the same place of the lists.

    Raises:
        ValueError: a set lacks a tar that another one has, and names it.
    """
    head, *others = sets
    names = {name: [patterns.stem(url) for url in urls] for name, urls in sets.items()}
    unique = all(len(set(one)) == len(one) for one in names.values())
    if not unique:
        if len({len(one) for one in names.values()}) > 1:
            counts = ", ".join(f"{name} has {len(one)}" for name, one in names.items())
            raise ValueError(f"sets of tars must be equally many: {counts}")
        return [join(dict(zip(sets, row, strict=True))) for row in zip(*sets.values(), strict=True)]
    by_name = {name: dict(zip(names[name], urls, strict=True)) for name, urls in sets.items()}
    for name in others:
        for one, other in ((name, head), (head, name)):
            if lost := [tar for tar in names[other] if tar not in by_name[one]]:
                more = ", ..." if len(lost) > _NAMED else ""
                files = [posixpath.basename(patterns.without_query(by_name[other][tar])) for tar in lost[:_NAMED]]
                raise ValueError(
                    f"the set {one} lacks {len(lost)} tars that {other} has ({', '.join(files)}{more}); sets "
                    "of tars have the same file names"
                )
    return [join({name: by_name[name][tar] for name in sets}) for tar in names[head]]
