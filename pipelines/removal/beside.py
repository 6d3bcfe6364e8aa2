"""A removal beside the columns and labels of a root: pages, generations, measures; and what names a sample still."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Iterable, Mapping

from ...infra import ledger, storage
from ...tokenize import table_file

logger = logging.getLogger(__name__)

# With pictures of samples, or what was counted of them; verbs write them again.
PAGES = ("gallery.html", "report.html", "ledger/report", "duplicates.html", "stats.html", "stats/stats.json")
# Folders that are looked at elsewhere, or hold no samples.
_KNOWN = ("tokens", "labels", "ledger", "removed", "tokenizers", "chunks", "weights")
_TEXTS = (".json", ".jsonl", ".csv", ".txt", ".md", ".html", ".parquet")
_LONGEST = 1 << 28  # bytes of a file that is searched
_SHORTEST = 4  # characters of a key that is searched for: "1" is in every file


def clear(root: str, found: Mapping[str, Iterable[str]]) -> list[str]:
    """Delete pages, and generations and measures that show some of these keys, by shard; what was deleted.

    All of them are made again by their verbs, without what was removed.
    """
    deleted = []
    for page in PAGES:
        if storage.exists(url := storage.join(root, page)):
            storage.delete(url)
            deleted.append(url)
    keys = {shard: set(of) for shard, of in found.items()}
    for run, folder, print_ in _generations(root):
        if _shows(folder, keys):
            # Without its record first, it is nothing, wherever this is stopped.
            storage.delete(ledger.record_url(root, f"generated/{run}", print_))
            for url in storage.list_below(folder):
                storage.delete(url)
            deleted.append(folder)
    answers = [
        url for url in storage.list_below(storage.join(root, "runs")) if "/evaluation/" in url and _answers(url, keys)
    ]
    for url in answers:
        storage.delete(url)
    quoted = [
        json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass") for of in keys.values() for key in of
    ]
    for name in storage.list_names(reports := storage.join(root, "reports")):
        url = storage.join(reports, name)
        if name.endswith(".html") or any(key in storage.read_bytes(url) for key in quoted):
            storage.delete(url)
            deleted.append(url)
    return deleted + answers


def _generations(root: str) -> list[tuple[str, str, str]]:
    """(name of the run, folder, fingerprint) of what was generated."""
    found = []
    for name in storage.list_names(runs := storage.join(root, "runs")):
        for run in storage.list_names(storage.join(runs, name)):
            folder = storage.join(runs, name, run, "generated")
            found += [(name, storage.join(folder, print_), print_) for print_ in storage.list_names(folder)]
    return found


def _shows(folder: str, keys: Mapping[str, set[str]]) -> bool:
    for chain in storage.list_names(folder):
        try:
            samples = json.loads(storage.read_bytes(storage.join(folder, chain, "samples.json")))["samples"]
            if any(one["key"] in keys.get(one["shard"], ()) for one in samples):
                return True
        except (OSError, ValueError, LookupError, TypeError):
            return True  # it cannot be said that it shows none
    return False


def _answers(url: str, keys: Mapping[str, set[str]]) -> bool:
    """Whether a file of an evaluation has an answer of one of these samples; its keys are SHARD/KEY or SHARD/KEY/N."""
    if not url.endswith(".parquet"):
        return False
    try:
        listed = table_file.keys(url)
    except (OSError, ValueError):
        return True  # it cannot be said that it has none, and is made again
    names = {f"{shard}/{key}" for shard, of in keys.items() for key in of}
    return any(key in names or key.rpartition("/")[0] in names for key in listed)


def named_still(root: str, found: Mapping[str, Iterable[str]], urls: Iterable[str]) -> list[str]:
    """Other files of a root in which a key or a URL stands: tables of a download, notes, exports."""
    words = [key.encode("utf-8", "surrogatepass") for of in found.values() for key in of if len(key) >= _SHORTEST]
    words += [url.encode("utf-8", "surrogatepass") for url in urls]
    naming = []
    for url in storage.list_below(root) if words else ():
        inner = url[len(root.rstrip("/")) + 1 :]
        if inner.partition("/")[0] in _KNOWN or posixpath.splitext(url)[1] not in _TEXTS:
            continue
        stat = storage.stat(url)
        if stat is not None and stat.size <= _LONGEST and any(word in storage.read_bytes(url) for word in words):
            naming.append(url)
    return naming
