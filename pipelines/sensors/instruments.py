"""HDF5 and FITS: arrays by the name of a dataset, or of an extension and a column of its table.

Values that lie in other files (external links and storage, virtual datasets) are not read.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np

from ...sensors.reading import Reading
from . import checks


def hdf5(data: bytes, reading: Reading) -> checks.Found:
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset):
            found[name] = one

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)  # by hard links alone, which lead to no other file
            name = checks.named(found, reading.array and reading.array.strip("/"), "it")
            dataset = found[name]
            if dataset.external or dataset.is_virtual:
                raise ValueError(f"{name}: its values lie in other files, which are not read")
            if dataset.shape is None:
                raise ValueError(f"{name}: it is empty")
            checks.size(dataset.shape, dataset.dtype)
            if dataset.chunks:
                pairs = zip(dataset.shape, dataset.chunks, strict=True)
                total = math.prod(-(-size // chunk) for size, chunk in pairs)
                checks.chunks(total - dataset.id.get_num_chunks(), total, dataset.fillvalue, reading)
            return checks.Found(np.asarray(dataset[()]), _text(dataset.attrs.get("units", dataset.attrs.get("unit"))))
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"not HDF5 that can be read ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error


def fits(data: bytes, reading: Reading) -> checks.Found:
    from astropy.io import fits as files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that are not to the letter of the standard
        try:
            with files.open(io.BytesIO(data), memmap=False, lazy_load_hdus=False) as file:
                return _table(file, reading) if reading.field else _image(file, reading)
        except (OSError, TypeError, IndexError, KeyError, AttributeError, UnicodeError) as error:
            raise ValueError(f"not FITS that can be read ({error})") from error


def _image(file: Any, reading: Reading) -> checks.Found:
    hdu = _asked(file, reading.array, [i for i, one in enumerate(file) if one.is_image and one.header.get("NAXIS")])
    checks.size(hdu.shape, np.dtype(np.float64))  # what scaled values become
    blank, values = hdu.header.get("BLANK"), hdu.data
    if blank is not None and values.dtype.kind in "iu":
        values = np.where(values == blank, np.nan, values.astype(np.float64))
    return checks.Found(np.asarray(values), _text(hdu.header.get("BUNIT")))


def _table(file: Any, reading: Reading) -> checks.Found:
    hdu = _asked(file, reading.array, [i for i, one in enumerate(file) if hasattr(one, "columns")])
    checks.size((hdu.header["NAXIS1"], hdu.header["NAXIS2"] or 0), np.dtype(np.uint8))
    columns = {column.name: column for column in hdu.columns}
    column = columns[checks.named(columns, reading.field, "the table", "column", "field")]
    if str(column.format).lstrip("0123456789")[:1] in "PQ":
        raise ValueError(f"{column.name}: arrays of different lengths, which are not read")
    values = np.asarray(hdu.data[column.name])
    return checks.Found(values[0] if len(values) == 1 and values.ndim > 1 else values, _text(column.unit))


def _asked(file: Any, asked: str | None, numbers: list[int]) -> Any:
    """The extension that is asked for by its name or number, among those of these numbers."""
    names = {f"{i}" if not file[i].name else f"{i} {file[i].name}": i for i in numbers}
    if asked is not None:
        named = [i for i in numbers if asked.casefold() in (str(i), file[i].name.casefold())]
        if len(named) != 1:
            shown = ", ".join(names) or "none"
            raise ValueError(f"it has {len(named)} extensions {asked!r}, but {shown}; name one by its number (array)")
        return file[named[0]]
    if len(numbers) != 1:
        raise ValueError(f"it holds the extensions {', '.join(names) or 'none'}; say which one (array)")
    return file[numbers[0]]


def _text(unit: Any) -> str:
    return unit.decode("utf-8", "replace") if isinstance(unit, bytes) else "" if unit is None else str(unit)
