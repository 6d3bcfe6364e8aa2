"""Readers of a sensor's files: from the bytes of a member to an array, one row of `READERS` a kind. Packages that not
everybody has are imported when a file is read.

Nothing is unpickled and no code of a file is run; what a file would need of memory is known, and limited, before it is
read. What is wrong with one is a ValueError, which becomes the sample's reject.

A user's own reader is a function: bytes -> array.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ...sensors.reading import FITS, SOUNDS, Reading, is_of
from .. import members
from . import checks, geotiff, instruments, sound

Reader = Callable[[bytes, Reading], Any]

_OF_SEVERAL = ("npz", "zarr.zip", "h5", "hdf5")  # that hold arrays by name
_NPY = b"\x93NUMPY"
_SHOWN = 32  # bytes of a text that an error shows


def read(data: bytes, reading: Reading, unit: str = "") -> Any:
    """What a member holds: an array of numbers, or of a JSON what its fields say; several arrays of a file by name,
    where the sensor asks for several.

    Args:
        unit: that the recipe says; a file that says another one is not read.

    Raises:
        ValueError: nothing reads such a file, or it is damaged, too large, or lacks what is asked for.
    """
    return with_unit(data, reading, unit).values


def with_unit(data: bytes, reading: Reading, unit: str = "") -> checks.Found:
    """The same, and the unit that the file says."""
    what = found(data, reading)
    if not isinstance(what, checks.Found):
        return checks.Found(what)
    checks.unit(what.unit, unit, reading)
    return what


def found(data: bytes, reading: Reading) -> Any:
    """The same, with the unit that the file says, where it is an array of a file that may say one: `checks.Found`."""
    if reading.reader:
        return own(reading.reader)(data)
    if reading.column and not reading.member:
        return _column(data, reading)
    kind = members.suffix(reading.member)
    if reading.member.endswith("zarr.zip"):
        kind = "zarr.zip"
    if kind not in READERS:
        raise ValueError(f"nothing reads .{kind}; expected one of {', '.join(READERS)}, or a reader of your own")
    if reading.fields and kind in _OF_SEVERAL:
        one = reading.model_copy(update={"fields": []})
        arrays = {name: READERS[kind](data, one.model_copy(update={"array": name})) for name in reading.fields}
        return {name: array.values if isinstance(array, checks.Found) else array for name, array in arrays.items()}
    return READERS[kind](data, reading)


def own(name: str) -> Callable[[bytes], Any]:
    """A reader of the user's own, "module:function". ValueError if it cannot be loaded."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reader {name!r} cannot be loaded: {error}; expected module:function, with PYTHONPATH at its folder"
        ) from None
    if not callable(found):
        raise ValueError(f"reader {name!r} is no function")
    made: Callable[[bytes], Any] = found
    return made


def missing_package(member: str) -> str:
    """Why members of a name cannot be read here, "" if they can: the sentence says what to install."""
    wanted = next((package for ending, package in _PACKAGES.items() if is_of(member, (ending,))), "")
    if not wanted or importlib.util.find_spec(wanted):
        return ""
    return f"reading .{member} needs the package {wanted}; run `pip install fourmill[sensors]`"


def _column(data: bytes, reading: Reading) -> Any:
    """Numbers of a column, a list of what is none, or the text of a time. ValueError if it holds something else."""
    if data.startswith(_NPY):
        return members.npy(data, checks.ARRAY_KINDS)
    if data.startswith((b"[", b"{")):
        return members.KINDS["json"].read(data)
    try:
        if reading.kind == "time":
            return data.decode()
        found = f"text such as {data[:_SHOWN].decode()!r}"
    except UnicodeDecodeError:
        found = "bytes"
    raise ValueError(f"the column holds {found}, expected numbers; if it holds files say which (member: png)")


def _npy(data: bytes, reading: Reading) -> Any:
    return members.npy(data, checks.ARRAY_KINDS)


def _parquet(data: bytes, reading: Reading) -> dict[str, Any]:
    """Columns of numbers or times by name."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        named = reading.fields or ([reading.field] if reading.field else [])
        if lacking := [name for name in named if name not in file.schema_arrow.names]:
            shown = ", ".join(file.schema_arrow.names[:8])
            raise ValueError(f"there is no column {lacking[0]}; it has {shown}")
        if file.metadata.num_rows * len(named) * 8 > checks.MAX_BYTES:
            raise ValueError(f"{file.metadata.num_rows} rows, expected at most {checks.MAX_BYTES} bytes of values")
        table = file.read(columns=named)
    except pa.ArrowException as error:
        raise ValueError(f"not a Parquet file that can be read ({error})") from None
    return {name: table.column(name).to_numpy() for name in named}


def _by_kind(data: bytes, reading: Reading) -> Any:
    return members.KINDS[members.suffix(reading.member)].read(data)


def _archive(data: bytes, what: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ValueError(f"not {what}") from error


def _npz(data: bytes, reading: Reading) -> np.ndarray:
    with _archive(data, "an archive of NumPy's .npz") as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        entry = entries[checks.named(entries, reading.array, "it")]
        if entry.file_size > checks.MAX_BYTES:
            raise ValueError(f"an array of {entry.file_size} bytes, expected at most {checks.MAX_BYTES}")
        try:
            with archive.open(entry) as file:
                content = file.read(entry.file_size + 1)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{entry.filename}: damaged ({error})") from error
    return members.npy(content, checks.ARRAY_KINDS)


def _tif(data: bytes, reading: Reading) -> checks.Found:
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            checks.size(tuple(series.shape), np.dtype(series.dtype or "V"))
            found: np.ndarray = series.asarray()
            # Bands last, as most writers of several samples a pixel have them; what they say goes before a guess.
            first = np.moveaxis(found, -1, 0) if series.axes.endswith("S") and found.ndim == 3 else found
            return checks.Found(first, geotiff.of_file(file).unit)
    except (tifffile.TiffFileError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"not a TIFF file that can be read ({error})") from error


def zarr_arrays(data: bytes) -> dict[str, Any]:
    """The arrays of a Zarr store in a .zip, by their paths in it; the one array of a store without groups is "". They
    are not read yet. ValueError if it is none."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    with _archive(data, "a Zarr store in a .zip") as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if (size := sum(entry.file_size for entry in entries)) > checks.MAX_BYTES:
            raise ValueError(f"a store of {size} bytes, expected at most {checks.MAX_BYTES}")
        make = default_buffer_prototype().buffer.from_bytes
        try:
            store = MemoryStore({entry.filename: make(archive.read(entry)) for entry in entries}, read_only=True)
            found = zarr.open(store, mode="r")
            if not isinstance(found, zarr.Group):
                return {"": found}
            return {name: one for name, one in found.members(max_depth=None) if isinstance(one, zarr.Array)}
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError) as error:  # texts hold addresses
            raise ValueError("not a Zarr store that can be read") from error


def zarr_values(array: Any, reading: Reading) -> checks.Found:
    """An array of a Zarr store. ValueError if it is none of numbers, too large, or lacks chunks."""
    checks.size(tuple(array.shape), np.dtype(array.dtype))
    checks.chunks(array.nchunks - array.nchunks_initialized, array.nchunks, array.fill_value, reading)
    said = array.attrs.get("units", array.attrs.get("unit", ""))
    return checks.Found(np.asarray(array[...]), said if isinstance(said, str) else "")


def _zarr(data: bytes, reading: Reading) -> checks.Found:
    arrays = zarr_arrays(data)
    name = "" if "" in arrays else checks.named(arrays, reading.array and reading.array.strip("/"), "it")
    return zarr_values(arrays[name], reading)


READERS: dict[str, Reader] = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "json"), _by_kind),
    "npy": _npy,
    "parquet": _parquet,
    "npz": _npz,
    **dict.fromkeys(("tif", "tiff"), _tif),
    "zarr.zip": _zarr,
    **dict.fromkeys(("h5", "hdf5"), instruments.hdf5),
    **dict.fromkeys(FITS, instruments.fits),
    **dict.fromkeys(SOUNDS, sound.sound),
}
_PACKAGES = {
    **dict.fromkeys(("tif", "tiff"), "tifffile"),
    "zarr.zip": "zarr",
    **dict.fromkeys(("h5", "hdf5"), "h5py"),
    **dict.fromkeys(FITS, "astropy"),
    **dict.fromkeys(SOUNDS, "soundfile"),
}
