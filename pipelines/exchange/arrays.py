"""Arrays of apple/ml-4m as .npy: ids of tokens (crops, tokens), crop settings (crops, 5); no pickle is ever read."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from ...infra.formats import npy

_MOST = 2**26  # bytes of an array in an archive: T5-XXL's of 256 tokens are 4 MB
SETTINGS = ("top", "left", "height", "width", "flip")


def vectors(data: bytes) -> np.ndarray:
    """The vectors of the first caption of an .npz with `emb` (captions, n, D) and `mask_valid` (captions, n): (n, D).

    ValueError if it is damaged, or of another form.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in ("emb.npy", "mask_valid.npy"):
                if archive.getinfo(name).file_size > _MOST:
                    raise ValueError(f"{name} has {archive.getinfo(name).file_size:,} bytes")
            emb, valid = (npy.read(archive.read(name)) for name in ("emb.npy", "mask_valid.npy"))
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"no .npz of `emb` and `mask_valid`, or a damaged one: {error}") from None
    if emb.dtype.kind != "f" or emb.ndim != 3 or not len(emb) or valid.shape != emb.shape[:2]:
        raise ValueError(
            f"got emb {emb.dtype} {emb.shape} and mask_valid {valid.shape}, expected floats (captions, n, D) and "
            "(captions, n)"
        )
    found: np.ndarray = emb[0][valid[0].astype(bool)]
    return found


def packed(emb: np.ndarray) -> bytes:
    """The inverse: vectors (n, D) as the only caption."""
    file = io.BytesIO()
    np.savez(file, emb=emb[None], mask_valid=np.ones((1, len(emb)), bool))
    return file.getvalue()


def ids(array: np.ndarray, crops: int, tokens: int) -> np.ndarray:
    """Ids as the store has them, uint16 (crops, tokens). ValueError if they are of another form."""
    if array.dtype.kind not in "iu" or array.ndim != 2:
        raise ValueError(f"got {array.dtype} {array.shape}, expected integers (crops, tokens)")
    if array.shape != (crops, tokens):
        raise ValueError(f"got {array.shape[0]} crops of {array.shape[1]} tokens, expected {crops} of {tokens}")
    if array.size and (array.min() < 0 or array.max() >= 2**16):
        raise ValueError(f"got ids from {array.min()} to {array.max()}, expected 0 to {2**16 - 1}")
    return array.astype(np.uint16)


def settings(array: np.ndarray, crops: int) -> list[list[Any]]:
    """Crop settings as lists of numbers. ValueError if they are of another form."""
    if array.ndim != 2 or array.shape[1] != len(SETTINGS) or array.dtype.kind not in "iuf":
        raise ValueError(f"got {array.dtype} {array.shape}, expected numbers (crops, {len(SETTINGS)}): {SETTINGS}")
    if len(array) != crops:
        raise ValueError(f"got settings of {len(array)} crops, expected {crops}")
    if not np.isfinite(array).all():
        raise ValueError("got settings that are not finite")
    values: list[list[Any]] = array.tolist()
    return values


def dump(array: np.ndarray) -> bytes:
    """As numpy.save writes it."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
