"""Where samples of shards lie: their JSON says it, as `fourmill pack` writes it, or a GeoTIFF or FITS in them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ...infra import faults
from .. import source
from ..grouping import SourceSample
from ..reject import Reject
from ..sensors import geotiff, parallel
from ..source import Shard
from . import fits, georeference, rasters
from .georeference import Located

logger = logging.getLogger(__name__)

_TIFF, _FITS = ("tif", "tiff"), ("fits", "fit", "fts")


def of_info(info: Mapping[str, Any]) -> Located | None:
    """What a sample's JSON says; None if it says nothing. ValueError if it says half of it."""
    if found := georeference.described(info):
        return Located(found[1], found[0])
    window = info.get("window")
    if isinstance(info.get("wcs"), str) and isinstance(window, list) and len(window) == 4:
        return Located((window[2], window[3]), wcs=fits.shifted(info["wcs"], window[0], window[1]))
    return None


def of_file(name: str, data: bytes) -> Located | None:
    """What a GeoTIFF or FITS says of itself; None for any other file, and where its reader is not installed,
    which is said."""
    ending = name.rpartition(".")[2].lower()
    if ending in _TIFF:
        if georeference.has_rasterio():
            return rasters.located(data)
        if geotiff.said(data).is_placed:
            logger.warning("%s: where it lies is not read: that %s", name, georeference.NEEDS_RASTERIO)
    if ending in _FITS:
        return fits.located(data)
    return None


def of_samples(places: Mapping[str, str], samples: Sequence[tuple[str, str, int]]) -> list[Located | None]:
    """Where samples lie, (shard, key, row) each; None where nothing says it, or a shard cannot be read any more.

    Args:
        places: of the shards, by name.
    """
    found: dict[tuple[str, str], Located | None] = {}
    by_shard: dict[str, list[str]] = defaultdict(list)
    for name, key, _ in samples:
        by_shard[name].append(key)
    for name, keys in by_shard.items():
        if name not in places:
            continue
        try:
            with parallel.open_shard(places[name], source.scratch_folder(), every_key=True) as shard:
                entries = {entry.key: entry for entry in shard.samples}
                found |= {(name, key): _of_entry(shard, entries[key]) for key in keys if key in entries}
        except Exception as error:  # what was generated can be kept without it
            if not isinstance(error, OSError | ValueError) and not faults.of_place(error):
                raise
            logger.warning("shard %s: nothing says where its samples lie: %s", name, faults.sentence(error))
    return [found.get((name, key)) for name, key, _ in samples]


def _of_entry(shard: Shard, entry: SourceSample) -> Located | None:
    try:
        if one := of_info(shard.info(entry)):
            return one
        for name in (*entry.members, *entry.others):
            if name.rpartition(".")[2] in (*_TIFF, *_FITS) and (one := of_file(name, shard.member_bytes(entry, name))):
                return one
    except (Reject, ValueError) as error:
        logger.warning("%s: nothing says where it lies: %s", entry.key, error)
    return None
