"""Maps that come with the data, in the form of their label. What is wrong with one is a ValueError, in words.

| form | a file may hold |
|---|---|
| depth | integers or floats (H, W): distance, disparity, or relative depth |
| normals | floats (H, W, 3) in -1..1; int8, int16 (v / largest); uint8, uint16 (v / largest x 2 - 1) |
| classes | integers or bool (H, W): ids; 255, and 65535 of uint16, for none |
| edges | bool or integers (H, W): 0, and 1 or 255 |
| colours | uint8 (H, W, 3) |
| features, vector, sequence | floats (h, w, C), (D,), (n, D) |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np

from ....modalities import NO_CLASS, Form
from ....tokenize import frames
from ...borders.window import Window
from ..dense.depth import relative_depth
from ..dense.framed import unit_vectors

Invalid = Literal["set", "fill", "reject"]

_AXES = {Form.FEATURES: 3, Form.VECTOR: 1, Form.SEQUENCE: 2}
_ROUNDING = 1e-3  # by which a value may leave its range
_SHORTEST, _LONGEST = 0.5, 1.5  # of a unit vector in integers; (0, 0, 0) of a picture is (-1, -1, -1), no direction
_SHOWN = 5  # ids that a reason names


def in_frame(value: Any, size: tuple[int, ...], resize: bool, window: Window | None = None) -> np.ndarray:
    """A map at the height and width of its image; an axis of one channel is dropped.

    Args:
        window: that was cut out of the image; a map may be of the whole image, and follows, or of the window.
        resize: enlarge or shrink one of the image's aspect, by nearest pixels: values are never mixed.
    """
    array = _array(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"{array.shape}, expected (H, W) or (H, W, C)")
    (rows, columns), (height, width) = array.shape[:2], size
    if (rows, columns) == (height, width):
        return array
    if window is not None and (
        (rows, columns) == window.image_size or (resize and _same_aspect((rows, columns), window.image_size))
    ):
        return window.cut(in_frame(array, window.image_size, resize))
    if resize and _same_aspect((rows, columns), (height, width)):
        down = ((np.arange(height) + 0.5) * rows / height).astype(np.int64)
        across = ((np.arange(width) + 0.5) * columns / width).astype(np.int64)
        return array[down[:, None], across]
    turned = " (a quarter turn: images are turned by their EXIF orientation, members are not)"
    why = turned if (columns, rows) == (height, width) else " (see resize)" if not resize else ""
    raise ValueError(f"{(rows, columns)}, expected the image's frame, {(height, width)}{why}")


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are one, resized; a side may be rounded by one pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(other)


def depth(array: np.ndarray, holds: str, scale: float | None, far: float | None, invalid: Invalid) -> np.ndarray:
    """float16 (H, W) in [0, 1], 0 nearest.

    Distance and disparity are scaled from their smallest to their largest value, as by the specialist of depth; what is
    invalid has no part in that.
    """
    _expect(array, 2, "biuf")
    largest = float(np.iinfo(array.dtype).max) if holds == "relative" and array.dtype.kind in "iu" else 1.0
    with np.errstate(over="ignore"):
        values = array.astype(np.float32) * np.float32(scale or 1 / largest)
    valid = np.isfinite(values) & ((values > 0) | (holds == "relative"))
    if not valid.any():
        raise ValueError("no pixel has a value")
    known = values[valid]
    if holds == "relative":
        _in_range(known, 0, 1, "a relative depth; see holds and scale")
        share = known.clip(0, 1).astype(np.float16)
    else:
        relative = relative_depth(known if far is None else known.clip(max=far), holds == "inverse_depth")
        if relative is None:
            raise ValueError(f"the same everywhere ({float(known[0]):.4g})")
        share = relative
    out = np.ones(array.shape, np.float16)
    out[valid] = share
    return _completed(out, valid, invalid)


def distances(array: np.ndarray, scale: float | None, invalid: Invalid) -> np.ndarray:
    """float16 (H, W), metres; those that are set are as far as the farthest."""
    _expect(array, 2, "biuf")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32) * np.float32(scale or 1)
    valid = np.isfinite(values) & (values > 0)
    if not valid.any():
        raise ValueError("no pixel has a value")
    farthest = float(values[valid].max())
    if farthest > float(np.finfo(np.float16).max):
        raise ValueError(f"distances up to {farthest:.4g}, expected metres; see scale")
    return _completed(np.where(valid, values, farthest).astype(np.float16), valid, invalid)


def normals(array: np.ndarray, frame: str, invalid: Invalid) -> np.ndarray:
    """float16 (H, W, 3), unit vectors in the declared frame, of those in `frame`."""
    _expect(array, 3, "iuf")
    if array.shape[2] != 3:
        raise ValueError(f"{array.shape}, expected (H, W, 3)")
    values = array.astype(np.float32)
    if array.dtype.kind in "iu":
        values /= np.iinfo(array.dtype).max
    if array.dtype.kind == "u":
        values = values * 2 - 1
    finite = np.isfinite(values).all(axis=2)
    _in_range(values[finite], -1 if array.dtype.kind != "i" else -1.01, 1, "components of unit vectors")
    values[~finite] = 0
    length = np.linalg.norm(values, axis=2)
    valid = (length > _SHORTEST) & (length < _LONGEST)
    values[~valid] = 0  # `unit_vectors` turns these toward the viewer
    unit = unit_vectors(frames.turn(values, frame))
    if unit is None:
        raise ValueError("no pixel has a direction")
    return _completed(unit, valid, invalid)


def classes(array: np.ndarray, table: Mapping[int, int] | None, count: int) -> np.ndarray:
    """uint8 (H, W).

    Args:
        table: the label's class by the file's id, NO_CLASS for none; None if they are the same.
        count: how many classes the label has.
    """
    _expect(array, 2, "biu")
    largest = int(array.max())
    if array.min() < 0 or largest > 0xFFFF:
        raise ValueError(f"ids of {array.min()} to {largest}, expected 0 to {0xFFFF}")
    ids = array.astype(np.uint16)
    if table is None:
        table = {**{i: i for i in range(count)}, NO_CLASS: NO_CLASS}
        expected = f"0 to {count - 1}, or {NO_CLASS} for none; see classes"
    else:
        expected = "those of classes"
    if array.dtype == np.uint16:
        table = {0xFFFF: NO_CLASS, **table}
    there = np.flatnonzero(np.bincount(ids.reshape(-1)))
    if unknown := [int(i) for i in there if int(i) not in table]:
        shown = ", ".join(map(str, unknown[:_SHOWN])) + ("..." if len(unknown) > _SHOWN else "")
        raise ValueError(f"the ids {shown}, expected {expected}")
    lookup = np.full(largest + 1, NO_CLASS, np.uint8)
    for i in there:
        lookup[i] = table[int(i)]
    return lookup[ids]


def edges(array: np.ndarray) -> np.ndarray:
    """uint8 (H, W), 0 or 255."""
    _expect(array, 2, "biu")
    there = {int(value) for value in np.unique(array)}
    if not (there <= {0, 1} or there <= {0, 255}):
        raise ValueError(f"values of {min(there)} to {max(there)}, expected 0, and 1 or 255")
    return np.where(array > 0, np.uint8(255), np.uint8(0))


def colours(array: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3)."""
    if array.dtype != np.uint8 or array.shape[2:] != (3,):
        raise ValueError(f"{array.dtype} {array.shape}, expected uint8 (H, W, 3)")
    return array


def floats(value: Any, form: Form) -> np.ndarray:
    """float16 with the axes of features, a vector or a sequence."""
    array = _array(value)
    _expect(array, _AXES[form], "f")
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError("NaN, or values beyond 65504, the largest of float16")
    return half


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{type(value).__name__}, expected an array: .npy, .png, ...")
    return value


def _expect(array: np.ndarray, axes: int, kinds: str) -> None:
    if array.ndim != axes or array.dtype.kind not in kinds:
        numbers = {"f": "floats", "biu": "integers"}.get(kinds, "integers or floats")
        raise ValueError(f"{array.dtype} {array.shape}, expected {numbers} with {axes} axes")


def _in_range(values: np.ndarray, low: float, high: float, of: str) -> None:
    if values.size and (values.min() < low - _ROUNDING or values.max() > high + _ROUNDING):
        raise ValueError(f"values of {values.min():.4g} to {values.max():.4g}, expected {low} to {high}, {of}")


def _completed(values: np.ndarray, valid: np.ndarray, invalid: Invalid) -> np.ndarray:
    """The map with its invalid pixels as they are set, or as the nearest valid one."""
    if invalid == "set" or valid.all():
        return values
    if invalid == "reject":
        raise ValueError(f"{valid.size - np.count_nonzero(valid)} pixels without a value; see invalid")
    return values.reshape(valid.size, -1)[_nearest(valid)].reshape(values.shape)


def _nearest(valid: np.ndarray) -> np.ndarray:
    """For each pixel, flat, the number of the valid pixel that is nearest to it."""
    holes = (~valid).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(holes, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    numbers = np.zeros(int(labels.max()) + 1, np.int64)
    numbers[labels[valid]] = np.flatnonzero(valid)
    return numbers[labels.reshape(-1)]
