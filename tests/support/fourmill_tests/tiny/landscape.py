"""A small landscape of sensors without photos: bands, elevation, land cover and biomass that depend on each other."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fourmill import modalities
from fourmill.sensors import declared

BANDS = ["B02", "B03", "B04", "B08"]
CLASSES = ["water", "trees", "grass", "bare"]
SIDE = 32
GAP = 3  # every so many samples one lacks its elevation

SENSORS: dict[str, Any] = {
    "s2": {"member": "s2.npy", "bands": BANDS, "use": ["B04", "B08"], "nodata": 0, "scale": 1e-4},
    "dem": {"member": "tif", "unit": "m", "nodata": -9999},
    "lulc": {"member": "lulc.npy", "classes": CLASSES},
    "ndvi": {"member": "ndvi.npy", "kind": "series", "length": 24, "bands": ["mean", "spread"], "unit": "1"},
    "agb": {"member": "json", "field": "biomass.mg_ha", "unit": "Mg/ha"},
}
MODALITIES = ["s2", "tok_s2", "tok_dem", "tok_lulc", "tok_ndvi", "agb"]
TINY = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """No sensor is declared within at first, and what is declared there is not known afterwards: other tests look at
    all that there is."""
    tables: list[dict[str, Any]] = [declared.SENSORS, modalities.LABELS, modalities.MODALITIES, modalities.TOKENIZERS]
    before = [dict(table) for table in tables]
    for name in list(declared.SENSORS):
        declared.forget(name)
    try:
        yield
    finally:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table.update(kept)


def scene(number: int) -> dict[str, Any]:
    """The members of one sample, as arrays and objects."""
    rng = np.random.default_rng(number)
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slope, height = rng.uniform(-1, 1, 2), rng.uniform(100, 900)
    dem = (height + 200 * (slope[0] * down + slope[1] * across) + rng.normal(0, 2, (SIDE, SIDE))).astype(np.float32)
    lulc = np.digitize(dem, [250, 500, 750]).astype(np.uint8)
    reflectance = np.array([[3, 2, 1, 5], [4, 6, 7, 6], [2, 5, 8, 9], [1, 40, 30, 20]], np.float32)[:, lulc] * 100
    s2 = (reflectance + rng.normal(0, 20, reflectance.shape)).clip(1, 10_000).astype(np.uint16)
    s2[:, :2, :3] = 0  # no data
    dem[-2:, -4:] = -9999
    season = np.sin(np.arange(24) / 24 * 2 * np.pi) * (lulc == 1).mean()
    ndvi = np.stack([0.4 + 0.3 * season, 0.1 + 0 * season]).astype(np.float32) + rng.normal(0, 0.01, (2, 24)).astype(
        np.float32
    )
    ndvi[0, 5] = np.nan  # a cloud
    return {
        "s2": s2,
        "dem": dem,
        "lulc": lulc,
        "ndvi": ndvi.astype(np.float32),
        "biomass": float((lulc == 1).mean() * 300 + 5),
    }


def place(number: int) -> dict[str, Any]:
    """Where a sample lies, as `fourmill pack` writes it: side by side."""
    return {"crs": "EPSG:32633", "transform": [10.0, 0.0, 500_000 + 320.0 * number, 0.0, -10.0, 5_300_040.0],
            "size": [SIDE, SIDE]}  # fmt: skip


def members(number: int) -> dict[str, bytes]:
    """By what follows the key."""
    import tifffile

    one, tif = scene(number), io.BytesIO()
    tifffile.imwrite(tif, one["dem"])
    found = {
        "s2.npy": npy(one["s2"]),
        "lulc.npy": npy(one["lulc"]),
        "ndvi.npy": npy(one["ndvi"]),
        "json": json.dumps({"biomass": {"mg_ha": one["biomass"]}, **place(number)}).encode(),
    }
    return found if number % GAP == 2 else {**found, "tif": tif.getvalue()}


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def write(path: Path, numbers: range, *names: str) -> str:
    """A tar of these samples, of all members or of those that are named; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for name, data in members(number).items():
                if names and name not in names:
                    continue
                entry = tarfile.TarInfo(f"{number:06d}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return str(path)


def recipe(folder: Path, train: list[str], val: list[str], **changes: Any) -> dict[str, Any]:
    """A recipe for fits and training of seconds."""
    fit = {**TINY, "decoder": "vit", "latent_dim": 8, "steps": 20, "batch_size": 8, "base_lr": 0.03, "warmup_steps": 0,
           "samples": 64, "validation_samples": 8, "codebook_size": 32, "precision": "fp32", "loss": "mse",
           "average": 0.0, "norm_latents": True}  # fmt: skip
    train_ = {"steps": 6, "batch_size": 8, "precision": "fp32", "input_tokens": 16, "target_tokens": 16,
              "checkpoint_every": 6, "model": TINY}  # fmt: skip
    return {
        "root": str(folder / "out"), "samples": {"train": train, "val": val}, "sensors": SENSORS,
        "images": {"size": SIDE, "patch_size": 8, "crops": 1}, "modalities": MODALITIES,
        "tokenizers": {"common": fit, "each": {"tok_lulc": {"class_dim": 8}}}, "train": train_,
        "generate": {"samples": 2, "chains": [{"inputs": ["s2"], "to": ["tok_lulc", "tok_ndvi", "agb"]}]},
        **changes,
    }  # fmt: skip
