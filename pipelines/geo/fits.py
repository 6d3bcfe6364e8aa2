"""Maps as FITS, with the world coordinates (WCS) of the file that they were made from; by astropy."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .georeference import Located


def has_astropy() -> bool:
    return importlib.util.find_spec("astropy") is not None


def cards(header: Any) -> str:
    """A header as text, one card a line."""
    return str(header.tostring(sep="\n", endcard=False, padding=False))


def shifted(wcs: str, col: float, row: float) -> str:
    """The WCS of a window that begins at this pixel."""
    from astropy.io.fits import Header

    header = Header.fromstring(wcs, sep="\n")
    for axis, start in (("1", col), ("2", row)):
        if f"CRPIX{axis}" in header:
            header[f"CRPIX{axis}"] -= start
    return cards(header)


def located(data: bytes) -> Located | None:
    """Of the first image of a FITS that has a WCS; None if none has one, or astropy is not installed."""
    if not has_astropy():
        return None
    from astropy.io import fits

    with fits.open(io.BytesIO(data)) as file:
        for image in file:
            if image.is_image and image.header.get("NAXIS", 0) > 1 and "CTYPE1" in image.header:
                size = int(image.header["NAXIS1"]), int(image.header["NAXIS2"])
                return Located(size, wcs=cards(image.header))
    return None


def encode(
    images: Mapping[str, np.ndarray], wcs: str, window: tuple[float, float, float, float], unit: str,
    names: Sequence[str], tags: Mapping[str, str],
) -> bytes:  # fmt: skip
    """A FITS of images (bands, rows, columns) or (rows, columns), by name; the first one is the primary.

    Args:
        wcs: of the frame that they are a part of. window: of the frame: left, top, width and height in its pixels.
        names: of the bands of the first one.
    """
    from astropy.io import fits

    first, *others = images.items()
    header = _header(wcs, window, first[1].shape[-2:])
    primary = fits.PrimaryHDU(np.ascontiguousarray(first[1]), header)
    if unit:
        primary.header["BUNIT"] = unit
    for number, name in enumerate(names, 1):
        if name:
            primary.header[f"BAND{number}"] = name
    for name, text in tags.items():
        primary.header[name] = text
    parts = [fits.ImageHDU(np.ascontiguousarray(image), header, name=name.upper()) for name, image in others]
    sink = io.BytesIO()
    fits.HDUList([primary, *parts]).writeto(sink)
    return sink.getvalue()


def _header(wcs: str, window: tuple[float, float, float, float], shape: Sequence[int]) -> Any:
    """The header of an image that shows a window of a frame, with other pixels."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS, FITSFixedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        world = WCS(Header.fromstring(wcs, sep="\n"), naxis=2)
    left, top, width, height = window
    across, down = width / shape[1], height / shape[0]
    world.wcs.crpix = (world.wcs.crpix - np.array([left, top]) - 0.5) / np.array([across, down]) + 0.5
    if world.wcs.has_cd():
        world.wcs.cd = world.wcs.cd @ np.diag([across, down])
    else:
        world.wcs.pc = world.wcs.get_pc() @ np.diag([across, down])
    return world.to_header(relax=across == down == 1)  # polynomials of distortion are of the file's own pixels
