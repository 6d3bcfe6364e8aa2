"""The files of one place, by extension, as those who have such instruments keep them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from PIL import Image

from ....tokenize.labels import encode_array
from . import clues, instruments
from .ground import CLASSES, Place, ground, place

VERSION = 2  # raise it when the same options give other bytes
SPLITS = ("train", "val")
# Sets of tars beside each other, and the extensions of each.
SETS = {
    "S2": ("s2.npy",), "S1": ("s1.npy",), "DEM": ("dem.tif",), "REST": ("lulc.npy", "ndvi.npy", "spectrum.npy", "json"),
}  # fmt: skip
_LACK = {"s1.npy": 0.04, "spectrum.npy": 0.03, "ndvi.npy": 0.02}  # how often an instrument was not there
# As a recipe's `sensors` says it.
SENSORS: dict[str, dict[str, Any]] = {
    "s2": {"member": "s2.npy", "bands": list(instruments.BANDS), "nodata": instruments.NO_REFLECTANCE, "scale": 1e-4,
           "unit": "1", "show": ["B04", "B03", "B02"]},
    "s1": {"member": "s1.npy", "bands": list(instruments.POLARIZATIONS), "unit": "dB", "show": ["VH"]},
    "dem": {"member": "dem.tif", "nodata": instruments.NO_HEIGHT, "unit": "m"},
    "lulc": {"member": "lulc.npy", "classes": list(CLASSES)},
    "ndvi": {"member": "ndvi.npy", "kind": "series", "length": instruments.WEEKS, "unit": "1"},
    "spectrum": {"member": "spectrum.npy", "kind": "series", "length": len(instruments.WAVELENGTHS), "unit": "1"},
    "agb": {"member": "json", "field": "biomass_mg_ha", "unit": "Mg/ha"},
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a place depends on beside its split and index: `size` in pixels.

    parallel: whether each instrument has tars of its own.
    """

    seed: int
    size: int = 64
    parallel: bool = False

    record = "landscape.json"
    unit = "tiles"

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        return SETS if self.parallel else {}

    def check(self) -> None:
        """Nothing beside what every writer of samples checks."""

    def stated(self) -> dict[str, Any]:
        """What may not differ within a folder."""
        return {**asdict(self), "version": VERSION}

    def about(self) -> dict[str, Any]:
        """What the folder's record says of all samples."""
        return {
            "sensors": SENSORS,
            "wavelengths_nm": [round(float(one), 3) for one in instruments.WAVELENGTHS],
            "biomass": " ".join((instruments.expected_biomass.__doc__ or "").split()),
            "signs": list(clues.SIGNS),
            "noise": f"biomass_mg_ha is that times exp({instruments.NOISE} z - {instruments.NOISE**2 / 2:g}), z normal",
        }

    def files(self, split: str, index: int) -> tuple[str, dict[str, bytes]]:
        """The key of a sample, and its files by extension."""
        return files(self, split, index)

    def sums(self, samples: Sequence[dict[str, bytes]]) -> dict[str, Any]:
        """Of the places of a shard, what the shares of explainable variance are computed of."""
        expected = [json.loads(one["json"])["expected_mg_ha"] for one in samples]
        heights = clues.added([_products(one) for one in samples])
        return {
            "places": len(expected), "expected": sum(expected), "squares": sum(one**2 for one in expected),
            "heights": heights[np.triu_indices(len(heights))].tolist(),
        }  # fmt: skip


def _products(sample: dict[str, bytes]) -> np.ndarray | None:
    """See `clues.products`; None of a place that no radar saw."""
    if "s1.npy" not in sample:
        return None
    heights = np.asarray(Image.open(io.BytesIO(sample["dem.tif"])))
    bands, radar = (np.load(io.BytesIO(sample[name]), allow_pickle=False) for name in ("s2.npy", "s1.npy"))
    return clues.products(bands, radar, heights)


def explained_heights(sums: Sequence[dict[str, Any]]) -> float | None:
    """The share of the variance of places' mean heights that a fit on signs in bands and radar explains, so that a
    model can know at least so much; None if there are too few places to say.
    """
    side = len(clues.SIGNS) + 2
    whole = np.zeros((side, side))
    whole[np.triu_indices(side)] = np.sum([one["heights"] for one in sums], axis=0)
    return clues.explained(np.triu(whole) + np.triu(whole, 1).T)


def explainable(sums: Sequence[dict[str, Any]]) -> float:
    """The share of the variance of biomass that rasters explain, over the places of some shards."""
    return instruments.explainable(
        int(sum(one["places"] for one in sums)),
        sum(one["expected"] for one in sums),
        sum(one["squares"] for one in sums),
    )


def files(options: Options, split: str, index: int) -> tuple[str, dict[str, bytes]]:
    """The key of a sample, and its files by extension."""
    rng = np.random.default_rng((options.seed, SPLITS.index(split), index))
    where = place(rng, split)
    there = ground(rng, where, options.size)
    bands, radar, heights = (of(rng, there) for of in (instruments.bands, instruments.radar, instruments.heights))
    expected = instruments.expected_biomass(bands, radar, heights)
    key = f"{split}-{options.seed}-{index:07d}"
    found = {
        "s2.npy": encode_array(bands),
        "s1.npy": encode_array(radar),
        "dem.tif": _tif(heights),
        "lulc.npy": encode_array(there.cover),
        "ndvi.npy": encode_array(instruments.year(rng, there, where)),
        "spectrum.npy": encode_array(instruments.spectrum(rng, there)),
        "json": json.dumps(_record(key, where, expected, instruments.biomass(rng, expected))).encode(),
    }
    lacking = {name for name, share in _LACK.items() if rng.uniform() < share}
    return key, {name: data for name, data in found.items() if name not in lacking}


def _record(key: str, where: Place, expected: float, found: float) -> dict[str, Any]:
    """The JSON of a sample."""
    seen = date(2025, 1, 1) + timedelta(days=where.day - 1)
    return {
        "key": key, "biomass_mg_ha": round(found, 3), "expected_mg_ha": round(expected, 6), "lon": where.lon,
        "lat": where.lat, "date": seen.isoformat(), "day_of_year": where.day,
    }  # fmt: skip


def _tif(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "TIFF")
    return sink.getvalue()
