"""Files of rasters, opened: what they are like, and their pixels in windows. No file is ever read whole.

GeoTIFF, COG, JPEG 2000, NetCDF and whatever else rasterio reads, by rasterio; GeoTIFF by tifffile where rasterio is not
installed; npy, HDF5 datasets, arrays of a Zarr, and FITS images.
"""

from __future__ import annotations

import posixpath
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ...infra import scratch, storage
from ...infra.secrets import public
from ..geo import georeference
from ..geo.georeference import LONLAT, Georeference, Transform, Window
from ..sensors import checks
from .settings import Layer

OPEN_FILES = 32  # of a thread
_AXES = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"), ("easting", "northing"))
_REGULAR = 1e-3  # of a step, up to which coordinates are regular


@dataclass(frozen=True)
class Info:
    """What a file of a layer is like.

    shape: bands, rows, columns. nodata: of the file, None if it has none. names: of its bands, "" where it has none.
    wcs: the header of a FITS, as text.
    """

    url: str
    shape: tuple[int, int, int]
    dtype: str
    nodata: float | None = None
    georeference: Georeference | None = None
    scale: float = 1.0
    offset: float = 0.0
    names: tuple[str, ...] = ()
    time: str = ""
    wcs: str = ""


class Source(Protocol):
    """An open file."""

    info: Info

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """(bands, rows, columns) of a window that lies inside of it."""

    def mask(self, window: Window) -> np.ndarray | None:
        """Where its own mask says that there are values, bool (rows, columns); None if it has no mask."""

    def close(self) -> None: ...


def opened(url: str, layer: Layer) -> Source:
    """ValueError in a sentence, with the file's name, if it cannot be opened as a raster."""
    kind = "zarr" if url.rstrip("/").endswith((".zarr", ".zarr.zip")) else posixpath.splitext(url)[1].lower()[1:]
    open_ = _OPENERS.get(kind, _raster if georeference.has_rasterio() else _tiff if kind in ("tif", "tiff") else None)
    if open_ is None:
        raise ValueError(f"{public(url)}: reading .{kind} {georeference.NEEDS_RASTERIO}")
    try:
        return open_(url, layer)
    except ImportError as error:
        extra = "geo" if error.name == "rasterio" else "sensors"
        raise ValueError(f"{public(url)}: it {_needs(error.name or '', extra)}") from None
    except FileNotFoundError:
        raise ValueError(f"{public(url)}: there is no such file") from None
    except (ValueError, KeyError, OSError, TypeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{public(url)}: {said.removeprefix(url + ': ')}") from None


def _needs(package: str, extra: str) -> str:
    return f"needs the package {package}; run `pip install fourmill[{extra}]`"


class Opened:
    """Sources that are kept open, as many as `OPEN_FILES` in each thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, url: str, layer: Layer) -> Source:
        held: OrderedDict[tuple[str, str | None], Source] = self._local.__dict__.setdefault("held", OrderedDict())
        key = (url, layer.array)
        if key not in held:
            held[key] = opened(url, layer)
            if len(held) > OPEN_FILES:
                held.popitem(last=False)[1].close()
        held.move_to_end(key)
        return held[key]

    def close(self) -> None:
        """Those of the calling thread."""
        for source in self._local.__dict__.pop("held", {}).values():
            source.close()


class _Raster:
    """By rasterio."""

    def __init__(self, file: Any, url: str, layer: Layer) -> None:
        from rasterio.enums import MaskFlags

        self._file = file
        own = {MaskFlags.per_dataset, MaskFlags.alpha}
        self._has_mask = any(own & set(flags) for flags in file.mask_flag_enums)
        placed = file.crs is not None and not file.transform.is_identity
        transform = tuple(file.transform)[:6]
        crs = layer.crs and georeference.checked_crs(layer.crs)
        crs = crs or (georeference.crs_text(file.crs) if placed else "")
        if layer.transform:
            transform = tuple(layer.transform)
        placed = bool(crs) and (bool(layer.transform) or not file.transform.is_identity)
        scales, offsets = set(file.scales), set(file.offsets)
        self.info = Info(
            url, (file.count, file.height, file.width), np.dtype(file.dtypes[0]).name, file.nodata,
            Georeference(crs, transform) if placed else None,
            scales.pop() if len(scales) == 1 else 1.0, offsets.pop() if len(offsets) == 1 else 0.0,
            tuple(one or "" for one in file.descriptions), file.tags().get("TIFFTAG_DATETIME", ""),
        )  # fmt: skip

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        found: np.ndarray = self._file.read([band + 1 for band in bands], window=_of(window))
        return found

    def mask(self, window: Window) -> np.ndarray | None:
        if not self._has_mask:
            return None
        found: np.ndarray = self._file.dataset_mask(window=_of(window)) > 0
        return found

    def close(self) -> None:
        self._file.close()


def _of(window: Window) -> Any:
    from rasterio.windows import Window as RasterioWindow

    return RasterioWindow(*window)


def _raster(url: str, layer: Layer) -> Source:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    # A remote file is read in ranges, by the storage that reads everything else.
    place: Any = str(storage.local_path(url)) if storage.is_local(url) else storage.open_binary(url)
    if layer.array:
        if not storage.is_local(url):
            raise ValueError("arrays of NetCDF files are read from this machine alone; copy it here")
        place = f'netcdf:"{place}":{layer.array}'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            file = rasterio.open(place)
        except RasterioError as error:
            raise ValueError(f"rasterio does not open it ({str(error).splitlines()[0]})") from None
    if not file.count and file.subdatasets:
        arrays = ", ".join(one.rpartition(":")[2] for one in file.subdatasets[:8])
        raise ValueError(f"it holds the arrays {arrays}; say which one (array)")
    return _Raster(file, url, layer)


class Array:
    """An array that is read in slices: of NumPy (mapped), h5py, Zarr or astropy.

    Args:
        axes: where its bands are.
    """

    def __init__(self, array: Any, axes: str, info: Info, close: Callable[[], object] = lambda: None) -> None:
        self._array, self._axes, self.info, self._close = array, axes, info, close

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        col, row, width, height = window
        rows, cols = slice(row, row + height), slice(col, col + width)
        lead = (0,) * (self._array.ndim - len(self._axes))
        if self._axes == "hw":
            found = np.asarray(self._array[(*lead, rows, cols)])[None]
        elif self._axes == "chw":
            found = np.stack([np.asarray(self._array[(*lead, band, rows, cols)]) for band in bands])
        else:
            found = np.moveaxis(np.asarray(self._array[(*lead, rows, cols)]), -1, 0)[list(bands)]
        return np.ascontiguousarray(found, found.dtype.newbyteorder("="))

    def mask(self, window: Window) -> np.ndarray | None:
        return None

    def close(self) -> None:
        self._close()


def _array(
    array: Any, url: str, layer: Layer, coordinates: tuple[Georeference | None, float | None] = (None, None),
    close: Callable[[], object] = lambda: None, wcs: str = "",
) -> Array:  # fmt: skip
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype.name}, expected numbers")
    shape = tuple(array.shape)
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    axes = "hw" if len(shape) == 2 else layer.axes or _axes(shape, len(layer.bands))
    if len(shape) not in (2, 3) or not all(shape):
        raise ValueError(f"an array {tuple(array.shape)}, expected (rows, columns), with bands before or after them")
    sizes = {"hw": (1, *shape), "chw": shape, "hwc": (shape[-1], *shape[:2])}[axes]
    placed = coordinates[0]
    if layer.crs and layer.transform:
        placed = Georeference(georeference.checked_crs(layer.crs), tuple(layer.transform))  # type: ignore[arg-type]
    info = Info(url, sizes, dtype.newbyteorder("=").name, coordinates[1], placed, wcs=wcs)
    return Array(array, axes, info, close)


def _axes(shape: Sequence[int], bands: int) -> str:
    """Where the bands are: their number says it, if it is known; else before the rows."""
    if bands and shape[0] == bands == shape[-1]:
        raise ValueError(f"{tuple(shape)}: the bands may be the first or the last axis; say axes: chw, or hwc")
    return "hwc" if bands and shape[-1] == bands and shape[0] != bands else "chw"


def _npy(url: str, layer: Layer) -> Source:
    if storage.is_local(url):
        return _array(np.load(storage.local_path(url), mmap_mode="r", allow_pickle=False), url, layer)
    # Nothing reads a part of a remote one: a copy is kept as long as it is open.
    held = scratch.folder()
    path = f"{held.__enter__()}/array.npy"
    with open(path, "wb") as file:
        for block in storage.blocks(url):
            file.write(block)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _array(array, url, layer, close=partial(held.__exit__, None, None, None))


def _hdf5(url: str, layer: Layer) -> Source:
    import h5py

    file = h5py.File(str(storage.local_path(url)) if storage.is_local(url) else storage.open_binary(url), "r")
    arrays: dict[str, Any] = {}
    file.visititems(lambda name, one: arrays.setdefault(name, one) and None if isinstance(one, h5py.Dataset) else None)
    rasters = {name: one for name, one in arrays.items() if one.ndim > 1} if layer.array is None else arrays
    asked = layer.array.strip("/") if layer.array else None
    array = rasters[checks.named(rasters, asked, "it")]
    return _array(array, url, layer, _coordinates(array.parent, array, layer), file.close)


def _zarr(url: str, layer: Layer) -> Source:
    import zarr

    try:
        found: Any = zarr.open(str(storage.local_path(url)) if storage.is_local(url) else url, mode="r")
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, OSError) as error:
        raise ValueError("not a Zarr that can be read") from error
    if not isinstance(found, zarr.Group):
        return _array(found, url, layer, (None, _fill(found)))
    arrays: dict[str, Any] = dict(found.arrays())
    rasters = {name: one for name, one in arrays.items() if one.ndim > 1}
    if layer.array and "/" in layer.array:
        rasters[layer.array] = found[layer.array]
    array = rasters[checks.named(rasters, layer.array, "it")]
    parent = found[layer.array.rpartition("/")[0]] if layer.array and "/" in layer.array else found
    return _array(array, url, layer, _coordinates(parent, array, layer))


def _fits(url: str, layer: Layer) -> Source:
    from astropy.io import fits

    place: Any = str(storage.local_path(url)) if storage.is_local(url) else storage.open_binary(url)
    file = fits.open(place, memmap=storage.is_local(url), do_not_scale_image_data=True)
    images = {str(one.name or i): one for i, one in enumerate(file) if one.is_image and one.header.get("NAXIS", 0) > 1}
    image = images[checks.named(images, layer.array, "it")]
    header = image.header
    if "CTYPE1" not in header:
        return _array(image.data, url, layer, close=file.close)
    return _array(image.data, url, layer, close=file.close, wcs=header.tostring(sep="\n", endcard=False, padding=False))


def _coordinates(group: Any, array: Any, layer: Layer) -> tuple[Georeference | None, float | None]:
    """From one-dimensional arrays beside it, as xarray and the CF conventions have them; and its fill value."""
    rows, cols = [size for size in array.shape if size > 1][-2:] if array.ndim > 1 else (0, 0)
    for x, y in _AXES:
        if x not in group or y not in group or group[x].shape != (cols,) or group[y].shape != (rows,):
            continue
        transform = _regular(np.asarray(group[x][...], np.float64), np.asarray(group[y][...], np.float64))
        crs = layer.crs or _crs_of(group) or (LONLAT if x.startswith("lon") else "")
        if not crs:
            raise ValueError(f"it has {x} and {y}, and says no coordinate reference system; say crs")
        return Georeference(georeference.checked_crs(crs), transform), _fill(array)
    return None, _fill(array)


def _regular(x: np.ndarray, y: np.ndarray) -> Transform:
    if len(x) < 2 or len(y) < 2:
        raise ValueError("its coordinates are of one pixel; say crs and transform")
    steps = [(values[-1] - values[0]) / (len(values) - 1) for values in (x, y)]
    for values, step in zip((x, y), steps, strict=True):
        if not step or np.abs(np.diff(values) - step).max() > abs(step) * _REGULAR:
            raise ValueError("its coordinates are not regular; bring it onto a regular grid first")
    return (steps[0], 0.0, x[0] - steps[0] / 2, 0.0, steps[1], y[0] - steps[1] / 2)


def _crs_of(group: Any) -> str:
    for name in ("spatial_ref", "crs"):
        attributes: Mapping[str, Any] = group[name].attrs if name in group else {}
        for key in ("crs_wkt", "spatial_ref"):
            if key in attributes:
                value = attributes[key]
                return value.decode() if isinstance(value, bytes) else str(value)
    return ""


def _fill(array: Any) -> float | None:
    value = array.attrs.get("_FillValue", array.attrs.get("nodata"))
    return None if value is None else float(np.asarray(value).reshape(-1)[0])


def _tiff(url: str, layer: Layer) -> Source:
    """By tifffile: without rasterio."""
    import tifffile
    import zarr

    file = tifffile.TiffFile(str(storage.local_path(url)) if storage.is_local(url) else storage.open_binary(url))
    page = file.pages[0]
    assert isinstance(page, tifffile.TiffPage)
    array: Any = zarr.open(file.series[0].aszarr(), mode="r")
    array = array if isinstance(array, zarr.Array) else array["0"]
    if layer.axes is None and file.series[0].axes.endswith("S"):
        layer = layer.model_copy(update={"axes": "hwc"})
    placed = _geo_keys(page.geotiff_tags or {}) if layer.transform is None else None
    tag = page.tags.get("GDAL_NODATA")
    nodata = float(re.sub(r"[^\d.eEinfa+-]", "", str(tag.value))) if tag else None
    return _array(array, url, layer, (placed, nodata), file.close)


def _geo_keys(tags: Mapping[str, Any]) -> Georeference | None:
    """The georeference that the tags of a GeoTIFF say, of systems that have an EPSG number."""
    code = int(tags.get("ProjectedCSTypeGeoKey", 0)) or int(tags.get("GeographicTypeGeoKey", 0))
    if not 0 < code < 32767:
        return None
    half = 0.5 if int(tags.get("GTRasterTypeGeoKey", 1)) == 2 else 0.0  # places are centres of pixels
    if "ModelTransformation" in tags:
        a, b, _, c, d, e, _, f, *_ = np.asarray(tags["ModelTransformation"], np.float64).reshape(-1).tolist()
    elif "ModelPixelScale" in tags and "ModelTiepoint" in tags:
        across, down = tags["ModelPixelScale"][:2]
        col, row, _, x, y, _ = tags["ModelTiepoint"][:6]
        a, b, c, d, e, f = across, 0.0, x - col * across, 0.0, -down, y + row * down
    else:
        return None
    return Georeference(f"EPSG:{code}", (a, b, c, d, e, f)).window(-half, -half)


_OPENERS: dict[str, Callable[[str, Layer], Source]] = {
    "npy": _npy,
    **dict.fromkeys(("h5", "hdf5", "hdf", "he5"), _hdf5),
    "zarr": _zarr,
    **dict.fromkeys(("fits", "fit", "fts"), _fits),
}
