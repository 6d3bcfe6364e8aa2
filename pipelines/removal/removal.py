"""`fourmill remove`: samples are taken out of a root for good.

What is removed is written down first (infra/removals.py), and every later step can be done again: a removal that was
stopped goes on where it was, by the same command or by one without keys. In this order:

1. the list, which all that makes outputs reads;
2. samples of the URLs, looked for in the shards that can be read;
3. tars that lie in the root: members of these samples become empty;
4. columns, labels, records and their indexes: rows become null, with the reason "removed"; chunks that have some
   are deleted;
5. pages, generations and measures that show them are deleted; their verbs make them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...infra import removals, storage
from ...infra.index import index
from ...infra.ledger import Source
from ...infra.removals import Removals
from .. import patterns
from . import beside, outputs, seen, tars


@dataclass
class Outcome:
    """What a removal has reached, and what it has not.

    found: shard -> removed keys that it has. tars: in the root that hold some, without their contents now. deleted:
    pages, generations and measures. unknown: keys that no shard has. elsewhere: shards outside the root that hold some.
    unread: shards that could not be looked at for URLs, with the reason. problems: files that could not be written.
    naming: other files of the root in which a key or a URL stands. models: tokenizers and runs that have seen shards of
    these samples, or may have.
    versioned: whether older versions of files are kept by the bucket: None if that is not known.
    """

    found: dict[str, set[str]] = field(default_factory=dict)
    tars: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    naming: list[str] = field(default_factory=list)
    models: seen.Models = field(default_factory=seen.Models)
    versioned: bool | None = False


def run(
    root: str,
    keys: Iterable[str],
    urls: Iterable[str],
    shards: Mapping[str, str],
    scratch: str,
    keyed: tuple[bool, str] = (False, ""),
) -> Outcome:
    """Remove samples by their keys and URLs, and all that was asked for before.

    Args:
        shards: name in the root -> URL of the source shards that are known. keyed: which keys their samples have, as
            `Recipe.keys` says.

    ValueError if the list of what was removed is damaged; OSError if it cannot be written: then nothing was done.
    """
    asked, links = set(keys), set(urls)
    removals.add(root, asked, links)
    outcome, removed = Outcome(), removals.read(root)
    if not removed:
        return outcome
    if removed.urls:
        removals.add(root, rows=_by_url(removed, shards, scratch, outcome, keyed))
        removed = removals.read(root)
    sources = _tars(root, removed, shards, outcome)
    outcome.found, problems = outputs.reach(root, removed, sources)
    outcome.problems += problems
    for name, of_chunks in outputs.delete_chunks(root, removed, outcome.problems).items():
        outcome.found.setdefault(name, set()).update(of_chunks)
    for name, of_shard in removed.rows.items():
        outcome.found.setdefault(name, set()).update(of_shard)
    if outcome.found or outcome.tars:
        index.renew(root)
        outcome.deleted = beside.clear(root, outcome.found)
        outcome.models = seen.models(root, outcome.found)
    outcome.naming = beside.named_still(root, outcome.found, links)
    outcome.unknown = sorted(asked - set().union(*outcome.found.values(), ()))
    inside = storage.join(root, "")
    outcome.elsewhere = [shards[name] for name in outcome.found if not shards.get(name, inside).startswith(inside)]
    outcome.versioned = _is_versioned(root)
    return outcome


def _by_url(
    removed: Removals, shards: Mapping[str, str], scratch: str, outcome: Outcome, keyed: tuple[bool, str]
) -> dict[str, set[str]]:
    """Keys of samples that have one of the URLs, by shard. They are kept, since their JSON may be gone later."""
    rows = {}
    for name, url in shards.items():
        try:
            rows[name] = tars.find(url, removed, name, scratch, *keyed) - removed.keys
        except (OSError, ValueError) as error:
            outcome.unread[name] = str(error)
    return rows


def _tars(root: str, removed: Removals, shards: Mapping[str, str], outcome: Outcome) -> dict[str, Source]:
    """Write the tars of the root again; what records say of them from now on, by shard."""
    names, sources = {url: name for name, url in shards.items()}, {}
    for url in filter(tars.is_tar, storage.list_below(root)):
        name = names.get(url, patterns.TAR_SUFFIX.sub("", url.rpartition("/")[2]))
        try:
            source = tars.rewrite(url, removed.of_shard(name))
        except (OSError, ValueError) as error:
            outcome.problems.append(f"{url}: {error}")
            continue
        if source is not None:
            sources[name] = source
            outcome.tars.append(url)
    return sources


def _is_versioned(root: str) -> bool | None:
    if storage.is_local(root):
        return False
    fs, path = storage.filesystem(root)
    try:
        state = fs.call_s3("get_bucket_versioning", Bucket=path.partition("/")[0])
    except Exception:  # of another kind of storage, or not allowed: it is said that it is not known
        return None
    return state.get("Status") in ("Enabled", "Suspended")
