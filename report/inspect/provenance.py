"""From a key back to where its sample comes from: shard, members, URL, licence, as far as they are known and there."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ... import recipe
from ...infra import configuration, ledger, removals, storage
from ...pipelines import plan, shard_names, source
from ...pipelines.sensors import parallel
from ...tokenize import table_file
from .root import FAMILIES, gather
from .view import Inspection

THREADS = 8  # that wait for storage
# Fields of a sample's JSON that say where it comes from and who may use it: of img2dataset, of Flickr, of Wikimedia.
FIELDS = (
    "url", "source", "page", "page_url", "license", "licence", "license_url", "licence_url", "rights", "credit",
    "author", "creator", "artist", "owner", "attribution", "copyright", "sha256", "uid",
)  # fmt: skip
_LONGEST = 500  # characters of a field


def shards_of(root: str) -> dict[str, str]:
    """The source shards of a root, name -> URL: those that it has named, and those of its recipe, as far as they are
    there. None of the recipe's code is run."""
    known = {name: one.url for name, one in shard_names.read(root).items()}
    try:
        return known | plan.list_shards(_recipe(root).samples, root).urls
    except (OSError, ValueError):
        return known


def keys_of(root: str) -> tuple[bool, str]:
    """Which keys the samples of a root have, as `Recipe.keys` says; those of photos if it has no recipe."""
    try:
        return _recipe(root).keys
    except (OSError, ValueError):
        return False, ""


def _recipe(root: str) -> recipe.Recipe:
    data = configuration.parse_yaml(storage.read_bytes(storage.join(root, "recipe.yaml")))
    return recipe.parse(data, "recipe.yaml", trusted=False)


def inspect_key(path: str, root: str, key: str) -> Inspection:
    """Facts of one sample of a root, in every shard that has its key.

    ValueError if no shard has it.
    """
    places = find(root, key)
    if not places:
        raise ValueError(f"{path}: no column and no label of it has the key {key!r}; keys are compared as they are")
    shards = shards_of(root)
    notes = [f"{len(places)} shards have this key: crops are drawn alike, and verbs that take keys take all of them"]
    inspection = Inspection(
        {
            "path": path,
            "kind": "sample of a dataset",
            "key": key,
            "notes": notes if len(places) > 1 else [],
            "provenance": [_place(root, shard, row, key, shards.get(shard)) for shard, row in places],
            "sample": {"row": places[0][1], "key": key},
        }
    )
    inspection.gallery = gather(root, *places[0])
    return inspection


def find(root: str, key: str) -> list[tuple[str, int]]:
    """(shard, row) of every shard of a root that has a key, by one file of each."""
    files: dict[str, str] = {}
    for family in FAMILIES:
        for name in storage.list_names(storage.join(root, family)):
            for one in storage.list_names(storage.join(root, family, name)):
                if one.endswith(".parquet"):
                    files.setdefault(one.removesuffix(".parquet"), storage.join(root, family, name, one))

    def row_in(shard: str) -> int | None:
        keys = table_file.keys(files[shard])
        return keys.index(key) if key in keys else None

    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(row_in, files))
    return [(shard, row) for shard, row in zip(files, rows, strict=True) if row is not None]


def _place(root: str, shard: str, row: int, key: str, url: str | None) -> dict[str, Any]:
    """Where a sample comes from, by one of its shards."""
    record = next(filter(None, (ledger.read(root, output, shard) for output in _outputs(root))), None)
    place: dict[str, Any] = {"shard": shard, "row": row, "source": url}
    if record is not None:
        place |= {"source_bytes": record.source.size, "source_sha256": record.source.sha256}
    if url is None:
        return place | {"note": "where its source is, is not known: the root has no recipe that names it"}
    try:
        with parallel.open_shard(url, source.scratch_folder(), *keys_of(root)) as opened:
            opened.withhold(removals.read(root), shard)
            return place | _in_source(opened, key)
    except (OSError, ValueError) as error:
        return place | {"note": f"its source cannot be read: {error}"}


def _outputs(root: str) -> Iterable[str]:
    yield ledger.SAMPLES
    for family in FAMILIES:
        yield from (f"{family}/{name}" for name in storage.list_names(storage.join(root, family)))


def _in_source(shard: source.Shard, key: str) -> dict[str, Any]:
    sample = next((one for one in shard.samples if one.key == key), None)
    if sample is None:
        return {"note": "its source has no such key now"}
    if shard.is_removed(sample):
        return {"note": "it was removed"}
    members = [*sample.members.values(), *sample.others.values()]
    named = ", ".join(f"{member.name} ({member.size:,} bytes)" for member in dict.fromkeys(members))
    info = {str(name).lower(): value for name, value in shard.info(sample).items()}
    known = {name: str(info[name])[:_LONGEST] for name in FIELDS if info.get(name) not in (None, "")}
    return {"members": named, **known}
