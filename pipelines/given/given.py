"""Reading what a person gives: files of bytes, text, JSON and arrays, and pictures; and what comes of it."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...infra import storage
from .. import images
from ..geo.georeference import Located

TEXT_FILES = (".txt",)


class Mistake(ValueError):
    """An input that cannot be used; its text says why, and what to do."""


@dataclass(frozen=True)
class Given:
    """A label that a person gave.

    value: as `modalities.Form` says, in its own frame.
    size: (width, height) of its frame in pixels; None if it says nothing of pixels.
    notes: what was done to it.
    known: where a picture is not transparent, bool (H, W); None if all of it is known.
    place: where its frame lies, None if its file does not say it.
    """

    value: Any
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    known: np.ndarray | None = None
    place: Located | None = None


def is_path(given: Any) -> bool:
    return isinstance(given, str | os.PathLike)


def file_bytes(given: str | os.PathLike[str]) -> bytes:
    """The content of a file. Mistake if there is none."""
    url = os.fspath(given)
    try:
        return storage.read_bytes(url)
    except FileNotFoundError:
        raise Mistake(f"there is no file {url}; check the path") from None
    except IsADirectoryError:
        raise Mistake(f"{url} is a folder; name a file in it") from None


def file_text(given: str | os.PathLike[str]) -> str:
    try:
        return file_bytes(given).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Mistake(f"byte {error.start} of {os.fspath(given)} is not UTF-8; save it as UTF-8 text") from None


def file_json(given: str | os.PathLike[str]) -> Any:
    text = file_text(given)
    try:
        return json.loads(text)
    except ValueError as error:
        raise Mistake(f"{os.fspath(given)} is no JSON ({error}); correct it there") from None


def array(given: Any) -> np.ndarray:
    """An array of numbers, from memory or a .npy file."""
    if is_path(given):
        try:
            values = np.load(io.BytesIO(file_bytes(given)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise Mistake(f"{os.fspath(given)} is no .npy file of numbers ({error}); write it by numpy.save") from None
        if not isinstance(values, np.ndarray):
            raise Mistake(f"{os.fspath(given)} holds several arrays; write one by numpy.save")
    else:
        values = np.asarray(given)
    if values.dtype.kind not in "uifb":
        raise Mistake(f"got an array of {values.dtype}; expected numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Mistake("the array holds NaN or infinite numbers; replace them")
    return values


def is_array(given: Any) -> bool:
    """Whether something is an array, or the path of one."""
    return os.fspath(given).endswith(".npy") if is_path(given) else isinstance(given, np.ndarray)


def pixels(given: Any, max_pixels: int) -> np.ndarray:
    """A picture's own numbers, see `images.decode_values`."""
    if is_path(given):
        return images.decode_values(file_bytes(given), max_pixels)
    return images.decode_values(_png(given), max_pixels)


def opaque(given: Any, max_pixels: int) -> np.ndarray | None:
    """Where a picture is not transparent, bool (H, W); None if none of it is. Mistake if all of it is."""
    if isinstance(given, np.ndarray) and given.shape[2:] != (4,):
        return None
    alpha = images.decode_alpha(file_bytes(given) if is_path(given) else _png(given), max_pixels)
    known: np.ndarray = alpha >= 128
    if known.all():
        return None
    if not known.any():
        raise Mistake("the picture is transparent all over; leave it out, or paint what is known")
    return known


def photo(given: Any, max_pixels: int) -> np.ndarray:
    """A picture as upright RGB, see `images.decode`."""
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return given
    return images.decode(file_bytes(given) if is_path(given) else _png(given), max_pixels)


def _png(given: Any) -> bytes:
    """A picture in memory as a file, so that there is one way to read it."""
    from PIL import Image

    if isinstance(given, np.ndarray):
        try:
            given = Image.fromarray(given)
        except (TypeError, ValueError):
            raise Mistake(
                f"got an array {given.dtype} {given.shape}; expected uint8 (H, W, 3), or uint8 or uint16 (H, W)"
            ) from None
    if not isinstance(given, Image.Image):
        raise Mistake(f"got {type(given).__name__}; expected a picture: a path, an array or a PIL image")
    buffer = io.BytesIO()
    given.save(buffer, "PNG")
    return buffer.getvalue()
