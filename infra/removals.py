"""What must not be in a root any more: keys and URLs of samples that were taken down.

    ROOT/removed/NAME.json    {"keys": [...], "urls": [...], "rows": {shard: [key, ...]}}

A removal writes its file first, and then reaches what is there; all that makes outputs reads these files, so
that nothing comes back. NAME follows from the contents: to ask for the same again writes nothing new, and several
people do not disturb each other. URLs are kept as SHA-256: they may say what was to be forgotten. `rows` are samples
that were found by their URL, which their shard may not name any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import storage
from .fingerprint import fingerprint

FOLDER = "removed"
REASON = "removed"  # of the null row of a sample that was taken down
URL = "url"  # the field of a sample's JSON, as img2dataset writes it


@dataclass(frozen=True)
class Removals:
    """keys: of samples of any shard. urls: SHA-256 of each. rows: shard -> keys that were found there by their URL."""

    keys: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    rows: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keys or self.urls or self.rows)

    def of_shard(self, shard: str) -> frozenset[str]:
        """The keys that are removed from a shard, as far as they are known without its samples."""
        return self.keys | self.rows.get(shard, frozenset())

    def names(self, info: Mapping[str, Any]) -> bool:
        """Whether a sample's JSON has a URL that is removed."""
        url = info.get(URL)
        return bool(self.urls) and isinstance(url, str) and digest(url) in self.urls


def digest(url: str) -> str:
    return hashlib.sha256(url.strip().encode("utf-8", "surrogatepass")).hexdigest()


def add(
    root: str, keys: Iterable[str] = (), urls: Iterable[str] = (), rows: Mapping[str, Iterable[str]] | None = None
) -> None:
    """Ask for a removal; `urls` as they are. Nothing is written if there is nothing to remove."""
    asked: dict[str, Any] = {
        "keys": sorted(set(keys)),
        "urls": sorted({digest(url) for url in urls}),
        "rows": {shard: sorted(set(of)) for shard, of in sorted((rows or {}).items()) if of},
    }
    if any(asked.values()):
        text = json.dumps(asked, indent=1, ensure_ascii=False)
        storage.put(storage.join(root, FOLDER, f"{fingerprint(asked)}.json"), text.encode("utf-8", "surrogatepass"))


def read(root: str) -> Removals:
    """All that was asked for of a root. ValueError if a file of it is damaged: it must not be taken for nothing."""
    keys, urls, rows = set[str](), set[str](), dict[str, set[str]]()
    for name in storage.list_names(storage.join(root, FOLDER)):
        url = storage.join(root, FOLDER, name)
        try:
            asked = json.loads(storage.read_bytes(url).decode("utf-8", "surrogatepass"))
            keys.update(asked["keys"])
            urls.update(asked["urls"])
            for shard, of_shard in asked["rows"].items():
                rows.setdefault(shard, set()).update(of_shard)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{url} is damaged ({error}); delete it, and ask for its removal again") from error
    return Removals(frozenset(keys), frozenset(urls), {shard: frozenset(of) for shard, of in rows.items()})
