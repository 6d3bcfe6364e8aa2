"""Files of the ground, by rasterio: bands at 10 m, radar at 20 m, classes at 30 m in UTM, elevation in degrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine, from_origin, xy
from rasterio.warp import transform, transform_bounds

UTM = "EPSG:32633"
X, Y = 500_000.0, 5_300_040.0  # of the upper left corner
SIDE = 480  # pixels of 10 m
TILE = 48


def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Metres at places of the ground in UTM: smooth, so that resampling it is right to centimetres."""
    made: np.ndarray = 500 + 100 * np.sin((x - X) / 1700) + 60 * np.cos((Y - y) / 1300)
    return made


def raster(path: Path, pixels: np.ndarray, place: Affine, crs: str | None = UTM, **profile: Any) -> Path:
    """A GeoTIFF of (bands, rows, columns)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, rows, cols = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=rows, width=cols, dtype=pixels.dtype, crs=crs,
        transform=place, **profile,
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def write(folder: Path, seed: int = 0) -> dict[str, Path]:
    """The files of one piece of ground, by layer."""
    rng = np.random.default_rng(seed)
    at = {step: from_origin(X, Y, step, step) for step in (10, 20, 30)}
    s2 = rng.integers(1, 10_000, (4, SIDE, SIDE)).astype(np.uint16)
    s2[:, :, 400:] = 0  # outside of the swath
    s1 = rng.normal(-12, 3, (2, SIDE // 2, SIDE // 2)).astype(np.float32)
    lulc = rng.integers(0, 5, (1, SIDE // 3, SIDE // 3)).astype(np.uint8)
    west, south, east, north = transform_bounds(UTM, "EPSG:4326", X, Y - 10 * SIDE, X + 10 * SIDE, Y)
    step = 1 / 3600
    cols, rows = int((east - west) / step) + 20, int((north - south) / step) + 20
    place = from_origin(west - 10 * step, north + 10 * step, step, step)
    down, across = np.mgrid[0:rows, 0:cols].reshape(2, -1)
    x, y = transform("EPSG:4326", UTM, *xy(place, down, across))
    dem = height(np.array(x), np.array(y)).reshape(1, rows, cols).astype(np.float32)
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    return {
        "s2": raster(folder / "s2_A_20200601T101010.tif", s2, at[10], nodata=0, **tiled),
        "s1": raster(folder / "s1.tif", s1, at[20], nodata=-9999),
        "lulc": raster(folder / "lulc.tif", lulc, at[30]),
        "dem": raster(folder / "dem.tif", dem, place, "EPSG:4326", nodata=-9999),
    }


def description(folder: Path, **changes: Any) -> dict[str, Any]:
    """What packs the files of a folder."""
    layers = {
        "s2": {"files": str(folder / "s2_*.tif"), "bands": ["B02", "B03", "B04", "B08"], "time": r"_(\d{8}T\d{6})"},
        "s1": {"files": str(folder / "s1.tif"), "bands": ["VV", "VH"], "unit": "dB"},
        "lulc": {"files": str(folder / "lulc.tif"), "classes": ["water", "trees", "grass", "crops", "built"]},
        "dem": {"files": str(folder / "dem.tif"), "unit": "m"},
    }
    return {
        "out": str(folder / "tiles"), "layers": layers, "size": TILE, "licence": "CC-BY-4.0",
        "split": {"val": 0.2, "block": 2, "guard": 1}, **changes,
    }  # fmt: skip
