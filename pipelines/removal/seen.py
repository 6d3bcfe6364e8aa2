"""Which shards a tokenizer or a run has seen, for those who take samples out of a root.

A run says it in RUN/shards.json when it begins, the record of a tokenizer in its `identity`. Those of older releases
say nothing. A run also learns from what its tokenizers have seen.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from ...infra import ledger, side_files, storage, sums

logger = logging.getLogger(__name__)

FILE = "shards.json"  # of a run's folder
_TOKENIZERS = "tokenizers.json"  # of a run's folder: the fingerprints of those whose ids it learns


@dataclass
class Models:
    """Tokenizers and runs of a root that have seen some of its shards, and those of which that is not known."""

    saw: list[str] = field(default_factory=list)
    may_have_seen: list[str] = field(default_factory=list)


def note(folder: str, shards: Iterable[str]) -> None:
    """Write down which shards of its root the run of a folder reads."""
    storage.put(storage.join(folder, FILE), sums.text({"shards": sorted(set(shards))}))


def read(folder: str) -> list[str] | None:
    """The shards that the run of a folder reads; None if it does not say. ValueError if the file is damaged."""
    url = storage.join(folder, FILE)
    try:
        shards: list[str] = sums.whole(storage.read_bytes(url))["shards"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{url} is damaged ({error})") from None
    return shards


def models(root: str, shards: Collection[str]) -> Models:
    """The tokenizers and runs of a root, by what they say of these shards."""
    found, learned = Models(), dict[str, str]()
    for name in storage.list_names(storage.join(root, "tokenizers")):
        record = ledger.read(root, "tokenizers", name)
        identity = {} if record is None else record.identity
        if identity.get("settings", {}).get("weights") is not None:
            continue  # brought from elsewhere, and fitted on nothing of this root
        said = identity.get("shards")
        _sort(found, f"tokenizers/{name}", said, _has(said, shards))
        if record is not None and _has(said, shards):
            learned[record.sha256] = name
    for name, print_ in _runs(root):
        folder = storage.join(root, "runs", name, print_)
        try:
            said = read(folder)
        except ValueError as error:
            logger.warning("%s; it counts as missing", error)
            said = None
        own = side_files.read_object(storage.join(folder, _TOKENIZERS)) or {}
        by = sorted({learned[one] for one in own.values() if one in learned})
        saw = _has(said, shards)
        through = f" (by the tokens of {', '.join(by)})" if by and not saw else ""
        _sort(found, f"runs/{name}/{print_}{through}", said, saw or bool(by))
    return found


def _runs(root: str) -> Iterator[tuple[str, str]]:
    for name in storage.list_names(runs := storage.join(root, "runs")):
        for print_ in storage.list_names(storage.join(runs, name)):
            yield name, print_


def _has(said: object, shards: Collection[str]) -> bool:
    return isinstance(said, list) and not set(shards).isdisjoint(said)


def _sort(found: Models, what: str, said: object, saw: bool) -> None:
    if saw:
        found.saw.append(what)
    elif not isinstance(said, list):
        found.may_have_seen.append(what)
