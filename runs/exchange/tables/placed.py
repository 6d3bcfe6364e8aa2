"""Where the samples of an export lie on the ground: a column, as the JSON of their source says it.

A store holds crops and no places; the source shards say them, as `fourmill pack` writes them, or a GeoTIFF or FITS in
them. They are read where they are on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ....infra import storage
from ....pipelines import source
from ....pipelines.geo import located
from ....pipelines.geo.georeference import Located
from ....pipelines.sensors import parallel, places

COLUMN = "georeference"
LOOKED_AT = 4  # samples of a shard that say whether it has places


def known(urls: Iterable[str]) -> bool:
    """Whether the first samples of the first source shard that can be read here say where they lie."""
    found = (of_shard(url, LOOKED_AT) for url in urls)
    return bool(next((one for one in found if one is not None), None))


def of_shard(url: str, most: int | None = None) -> dict[str, str] | None:
    """Where samples lie, by key, as JSON, without those of which nothing says it; None if the shard is not here.

    Args:
        url: of the source shard. most: samples that are looked at, from the first one on; None for all.
    """
    if not _is_here(url):
        return None
    try:
        with parallel.open_shard(url, source.scratch_folder(), every_key=True) as shard:
            keys = [sample.key for sample in shard.samples[:most]]
    except (OSError, ValueError):  # what was made of it can be exported without it
        return None
    found = located.of_samples({"": url}, [("", key, 0) for key in keys])
    return {key: _text(one) for key, one in zip(keys, found, strict=True) if one is not None}


def _is_here(url: str) -> bool:
    return bool(url) and all(storage.is_local(one) for one in places.parts(url).values())


def _text(one: Located) -> str:
    said: dict[str, object] = {"size": list(one.size)}
    if one.georeference is None:
        return json.dumps({"wcs": one.wcs, **said})
    return json.dumps({"crs": one.georeference.crs, "transform": list(one.georeference.transform), **said})
