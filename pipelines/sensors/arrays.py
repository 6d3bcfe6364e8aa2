"""The arrays of a file that holds several, by name: for `fourmill init`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...sensors.reading import Reading
from . import checks, readers


@dataclass
class Held:
    """An array of a file: its values, or texts, or why it cannot be read. where: the settings of a sensor that say
    which one it is. unit: as the file says it."""

    where: dict[str, str]
    values: np.ndarray | None = None
    words: tuple[str, ...] = ()
    unit: str = ""
    problem: str = ""


def of_file(data: bytes, member: str) -> dict[str, Held]:
    """The arrays of a file by name. ValueError if it cannot be read at all."""
    if member.endswith("zarr.zip"):
        return {name: _zarr(name, one, member) for name, one in readers.zarr_arrays(data).items()}
    if member.endswith("npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        return {name: _held({"array": name}, data, member) for name in names}
    if member.endswith(("h5", "hdf5")):
        return {name: _held({"array": name}, data, member) for name in _datasets(data)}
    return {name: _held(where, data, member) for name, where in _extensions(data)}


def _held(where: dict[str, str], data: bytes, member: str) -> Held:
    return _tried(where, lambda: readers.found(data, Reading.model_validate({"member": member, **where})))


def _tried(where: dict[str, str], read: Callable[[], Any]) -> Held:
    try:
        found = read()
    except ValueError as error:
        return Held(where, problem=str(error))
    unit, values = (found.unit, found.values) if isinstance(found, checks.Found) else ("", found)
    return Held(where, np.asarray(values), unit=unit)


def _zarr(name: str, array: Any, member: str) -> Held:
    where = {"array": name}
    if np.dtype(array.dtype).kind in "OTU" and array.size <= checks.MAX_BYTES // 64:
        try:
            return Held(where, words=tuple(map(str, np.atleast_1d(array[...]).tolist())))
        except (ValueError, TypeError, OSError) as error:
            return Held(where, problem=f"texts that cannot be read ({type(error).__name__})")
    return _tried(where, lambda: readers.zarr_values(array, Reading(member=member)))


def _datasets(data: bytes) -> list[str]:
    import h5py

    names: list[str] = []
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError("not HDF5 that can be read") from error
    return names


def _extensions(data: bytes) -> list[tuple[str, dict[str, str]]]:
    """Images and columns of tables of a FITS: a name, and how a sensor says it."""
    from astropy.io import fits

    found: list[tuple[str, dict[str, str]]] = []
    try:
        with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=False) as file:
            for number, one in enumerate(file):
                where = {"array": str(number)}
                if hasattr(one, "columns"):
                    found += [(f"{number}.{c.name}", {**where, "field": c.name}) for c in one.columns]
                elif one.header.get("NAXIS"):
                    found.append((one.name or str(number), where))
    except (OSError, TypeError, IndexError, KeyError, AttributeError, UnicodeError) as error:
        raise ValueError(f"not FITS that can be read ({error})") from error
    return found
