"""A few galaxies in Parquet as the Multimodal Universe has them: a row an object, images and spectra as lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BANDS = ["DES-G", "DES-R", "DES-I", "DES-Z"]
SIDE, LENGTH = 24, 96
GAP = 4  # every so many objects one has no spectrum

SENSORS: dict[str, Any] = {
    "image": {"column": "image.flux", "bands": BANDS, "unit": "nanomaggy", "transform": "arcsinh", "softening": 0.1},
    "spectrum": {"column": "spectrum.flux", "kind": "series", "length": LENGTH},
    "redshift": {"column": "Z", "kind": "scalar", "unit": "1"},
}

_ARRAY = pa.list_(pa.list_(pa.list_(pa.float32())))
_LINE = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("object_id", pa.string()),
        ("image", pa.struct([("band", pa.list_(pa.string())), ("flux", _ARRAY), ("ivar", _ARRAY)])),
        ("spectrum", pa.struct([("flux", _LINE), ("ivar", _LINE), ("lambda", _LINE)])),
        ("Z", pa.float32()),
        ("ZWARN", pa.bool_()),
        ("TYPE", pa.string()),
    ]
)


def galaxy(number: int) -> dict[str, Any]:
    """A row, as plain values and arrays."""
    rng = np.random.default_rng(number)
    redshift = rng.uniform(0.05, 0.5)
    down, across = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2 + 0.5
    light = np.exp(-np.hypot(down, across) / 4)
    colours = np.array([1, 1 + redshift, 1 + 2 * redshift, 1 + 3 * redshift])
    flux = (colours[:, None, None] * light + rng.normal(0, 0.02, (4, SIDE, SIDE))).astype(np.float32)
    wave = np.linspace(3600, 9800, LENGTH)
    lines = 1 + 3 * np.exp(-(((wave - 5007 * (1 + redshift)) / 80) ** 2))
    spectrum = {
        "flux": (lines + rng.normal(0, 0.05, LENGTH)).astype(np.float32),
        "ivar": np.full(LENGTH, 400, np.float32),
        "lambda": wave.astype(np.float32),
    }
    spectrum["ivar"][:5] = 0
    return {
        "object_id": f"39{number:06d}",
        "image": {"band": BANDS, "flux": flux, "ivar": np.full(flux.shape, 2500, np.float32)},
        "spectrum": None if number % GAP == 3 else spectrum,
        "Z": np.float32(redshift),
        "ZWARN": False,
        "TYPE": "EXP",
    }


def plain(value: Any) -> Any:
    """Lists in place of arrays."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def write(path: Path, numbers: Sequence[int], **options: Any) -> str:
    """A file of these objects, two row groups or what `options` of pyarrow say; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([plain(galaxy(number)) for number in numbers], SCHEMA)
    pq.write_table(table, path, **{"row_group_size": max(1, len(numbers) // 2), **options})
    return str(path)
