"""What tokenizers read and write: windows of labels, as compact arrays and as tensors, and back.

    label (source frame) -> `window` (crop's frame) -> `examples` (as stored while fitting) -> `to_input` (tensor)
    reconstruction (tensor) -> `to_label` (crop's frame, like `window`)

Decisions:
- RGB and edges are scaled to [-1, 1] by x / 127.5 - 1: 4M's tokenizers were trained with a mean and deviation of 0.5
  (not ImageNet's).
- Depth has no unit: each crop is standardized by what lies between its 10th and 90th percentile (4M).
- A tokenizer of normals may have a frame of its own; labels have the declared one, and are turned where tokens are made
  and read.
- The horizontal component of a normal changes its sign in a mirrored crop.
- Bands of a sensor are standardized by the statistics that the tokenizer was fitted with; pixels without a value become
  0, their mean, and have no weight in the losses.
- Feature maps are coarser than the image: a crop reads them by bilinear interpolation, so that the whole frame at the
  map's own size is the map itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..modalities import BODY_POSE, LABELS, NO_CLASS, OF_NO_PLACE, SAM_MASK, TOKENIZERS, Form, Size, height_width
from ..sensors.declared import SENSORS
from . import frames
from .crops import Crop, Resample, apply
from .sensors import raster
from .sensors.statistics import Statistics
from .text import sensor_sentences
from .text.instance_sentences import instance_masks
from .text.pose_sentences import body_poses, humans_in_crop

_TRUNCATED = 0.1  # share of the depth values at each end that do not count for mean and deviation
_RESAMPLE = {Form.COLORS: Resample.IMAGE, Form.EDGES: Resample.EDGES, Form.CLASSES: Resample.LABELS}


def window(label: str, value: np.ndarray, crop: Crop, size: Size, frame: tuple[int, int]) -> np.ndarray:
    """A label in the frame of a crop.

    Args:
        label: a key of LABELS of any form but RECORD and SEQUENCE.
        value: in the frame of the whole image, as `Form` says.
        size: along one side of the result, or its height and width: pixels, or cells of a feature map.
        frame: width and height of the image, in pixels; of what the crop is drawn in, for a sensor.

    Returns:
        uint8 (h, w[, 3]) of pictures and class maps; float32 (h, w) of depth, (h, w, 3) of normals (unit vectors),
        (h, w, C) of features, and of rasters with NaN where there is no value; vectors, series and numbers as they are,
        float32.
    """
    form = LABELS[label].form
    if form is Form.RASTER:
        return raster.window(value, crop, size)
    if form in _RESAMPLE:
        return apply(crop, value, size, _RESAMPLE[form])
    if form is Form.DEPTH:
        return apply(crop, value, size, Resample.LINEAR)
    if form is Form.NORMALS:
        normals = apply(crop, value, size, Resample.LINEAR)
        if crop.flip:
            normals[..., 0] *= -1
        return unit(normals)
    if form is Form.FEATURES:
        return _feature_window(np.asarray(value, np.float32), crop, size, frame)
    assert form in OF_NO_PLACE, (label, form)
    return np.asarray(value, np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis at length 1. Opposite normals may average to 0; those stay 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-6)


def _feature_window(features: np.ndarray, crop: Crop, size: Size, frame: tuple[int, int]) -> np.ndarray:
    """Cells of a crop, (h, w, C) of that size, of a map (H, W, C) over the whole frame."""
    height, width = features.shape[:2]
    # Bilinear weights are separable: rows and columns one after the other.
    tall, wide = height_width(size)
    rows = _interpolation(crop.top, crop.height, frame[1], height, tall)
    columns = _interpolation(crop.left, crop.width, frame[0], width, wide)
    if crop.flip:
        columns = columns[::-1]
    across = np.einsum("cw,hwd->hcd", columns, features, optimize=True)
    return np.einsum("rh,hcd->rcd", rows, across, optimize=True)


def _interpolation(start: int, length: int, pixels: int, cells: int, size: int) -> np.ndarray:
    """Weights (size, cells) that read `size` cells of a window from `cells` cells that cover `pixels`, bilinearly."""
    # Centres of the cells that are asked for, in cells of the map, whose own centres lie at 0, 1, ...
    centres = (start + (np.arange(size) + 0.5) * length / size) / pixels * cells - 0.5
    centres = centres.clip(0, cells - 1)  # beyond the outermost centres the map is constant
    below = np.minimum(centres.astype(np.int64), cells - 1)
    share = (centres - below).astype(np.float32)
    weights = np.zeros((size, cells), np.float32)
    np.add.at(weights, (np.arange(size), below), 1 - share)
    np.add.at(weights, (np.arange(size), np.minimum(below + 1, cells - 1)), share)
    return weights


def examples(tokenizer: str, value: Any, crop: Crop, size: Size, frame: tuple[int, int]) -> np.ndarray:
    """What one crop of a sample gives a tokenizer to encode, one row for each code grid.

    Args:
        tokenizer: a key of TOKENIZERS.
        value: the label in the frame of the image.
        size: as in `window`; tokenizers with an `image_size` of their own do not look at it.

    Returns:
        (n, ...): n is 1 but for records, which give one row for each instance or person in the crop, or each row of
        a catalogue, with NaN where there is no value. uint8 of pictures
        and class maps, float32 of rasters, series and numbers, which keep their unit; float16 otherwise.

    Raises:
        ValueError: values are not finite, or too large for float16; no pixel of a raster has a value, or it lies on its
            side.
    """
    if tokenizer == SAM_MASK:
        return instance_masks(value, *frame, crop, height_width(TOKENIZERS[SAM_MASK].image_size)[0])
    if tokenizer == BODY_POSE:
        return _half(tokenizer, body_poses(humans_in_crop(value, *frame, crop)))
    if LABELS[label := TOKENIZERS[tokenizer].label].form is Form.CATALOGUE:
        return sensor_sentences.table_of(value, SENSORS[label].names)
    if label in SENSORS and TOKENIZERS[tokenizer].form in (Form.RASTER, Form.CLASSES):
        raster.check_upright(tokenizer, value, size)
    rows = window(label, value, crop, size, frame)[None]
    if (form := TOKENIZERS[tokenizer].form) in (Form.RASTER, Form.NUMBERS, Form.SERIES):
        if form is not Form.SERIES:
            raster.check_some(tokenizer, rows)
        return rows  # in a unit of its own, which may need more digits; NaN where nothing is known
    # Half precision halves the cache of a fit; pictures and class maps stay as they are.
    return rows if rows.dtype == np.uint8 else _half(tokenizer, rows)


def _half(tokenizer: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # the check below says it, with the tokenizer's name
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{tokenizer}: got values that are not finite or beyond 65504, the largest of float16")
    return half


def to_input(
    tokenizer: str,
    rows: np.ndarray,
    frame: str | None = None,
    device: str | torch.device = "cpu",
    statistics: Statistics | None = None,
) -> torch.Tensor:
    """Rows of `examples` as a tokenizer's input on a device: float32 (n, C, H, W), (n, C, L) or (n, D), or class ids
    int64 (n, H, W).

    Args:
        frame: of the normals that the tokenizer reads and gives, see frames.py; None for the declared one.
        statistics: of a sensor's bands, by which they are standardized.

    ValueError if the rows are not what the tokenizer reads.
    """
    return from_stored(tokenizer, stored(tokenizer, rows, frame).to(device), statistics)


def stored(tokenizer: str, rows: np.ndarray, frame: str | None = None) -> torch.Tensor:
    """Rows of `examples`, checked, as a tensor of their own dtype: what goes to a device, a byte for each value of a
    picture where its input has four. Arguments and errors as in `to_input`."""
    form = _known(tokenizer).form
    if form in (Form.CLASSES, Form.COLORS, Form.EDGES):
        _expect(tokenizer, rows, np.uint8, 4 if form is Form.COLORS else 3)
    else:
        _expect(tokenizer, rows, None, {Form.VECTOR: 2, Form.NUMBERS: 2, Form.DEPTH: 3, Form.SERIES: 3}.get(form, 4))
    if frame is not None and form is Form.NORMALS:
        rows = frames.turn(rows, frames.DECLARED, frame)
    return torch.from_numpy(np.ascontiguousarray(rows))


def from_stored(tokenizer: str, rows: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    """What `stored` gives, on any device, as the tokenizer's input there."""
    form = _known(tokenizer).form
    if statistics is not None and form in (Form.RASTER, Form.SERIES):
        return statistics.standardized(rows).movedim(-1, 1).contiguous()
    if form is Form.CLASSES:
        ids = rows.long()
        # 4M: class c is c + 1, and no class is 0. Masks are 0 and 1 already.
        return ids if tokenizer == SAM_MASK else (ids + 1) % (NO_CLASS + 1)
    if form in (Form.COLORS, Form.EDGES):
        pixels = rows if form is Form.COLORS else rows[..., None]
        return pixels.movedim(-1, 1).to(torch.float32).div_(127.5).sub_(1).contiguous()
    values = rows.float()
    if form in (Form.VECTOR, Form.NUMBERS):
        return values
    if form is Form.SERIES:
        return values.nan_to_num().movedim(-1, 1).contiguous()
    if form is Form.DEPTH:
        return standardize_depth(values)[:, None]
    return values.movedim(-1, 1).contiguous()


def channels_first(tokenizer: str, rows: torch.Tensor) -> torch.Tensor:
    """What has the shape of rows in the shape of a tokenizer's input: its channels behind the batch."""
    form = _known(tokenizer).form
    if form in (Form.VECTOR, Form.CLASSES):
        return rows
    return rows[:, None] if form in (Form.DEPTH, Form.EDGES) else rows.movedim(-1, 1)


def _known(tokenizer: str) -> Any:
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"got the tokenizer {tokenizer!r}; expected one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[tokenizer]


def _expect(tokenizer: str, rows: np.ndarray, dtype: type | None, axes: int) -> None:
    """ValueError unless rows have a dtype (None: any floating point type) and so many axes."""
    kind = "uint8" if dtype is np.uint8 else "floating point"
    fits = rows.dtype == dtype if dtype is not None else np.issubdtype(rows.dtype, np.floating)
    channels = TOKENIZERS[tokenizer].form in (Form.COLORS, Form.NORMALS)
    if not fits or rows.ndim != axes or (channels and rows.shape[-1] != 3):
        raise ValueError(
            f"{tokenizer}: got {rows.dtype} {rows.shape}; expected {kind} with {axes} axes"
            + (", the last of 3 channels" if channels else "")
        )


def standardize_depth(depth: torch.Tensor) -> torch.Tensor:
    """4M's robust standardization of maps (B, H, W): (depth - mean) / deviation.

    Mean and deviation are those of each map's values between its 10th and 90th percentile.
    """
    values = depth.flatten(1).sort(dim=1).values
    count = values.shape[1]
    # The nearest and farthest tenth are often outliers: the sky, or a hand before the lens.
    kept = values[:, int(_TRUNCATED * count) : int((1 - _TRUNCATED) * count)]
    mean = kept.mean(dim=1)[:, None, None]
    # The variance of fewer than two values is NaN.
    variance = kept.var(dim=1) if kept.shape[1] > 1 else kept.new_zeros(len(depth))
    return (depth - mean) / (variance[:, None, None] + 1e-6).sqrt()


def to_label(
    tokenizer: str, recon: torch.Tensor, frame: str | None = None, statistics: Statistics | None = None
) -> np.ndarray:
    """Reconstructions as labels in the frame of their crop.

    Args:
        recon: what the tokenizer's `decode` returns.
        frame, statistics: as in `to_input`.

    Returns:
        uint8 (n, H, W, 3) of colours, (n, H, W) of edges (any grey) and of classes (255 is none, masks are 0 and 1);
        float32 (n, H, W) of depth, scaled to [0, 1] for each map; (n, H, W, 3) of normals; (n, h, w, C) of features;
        (n, H, W, C) of rasters and (n, L, C) of series, in their unit; (n, D) of vectors and numbers.
    """
    values = to_values(tokenizer, recon, frame, statistics)
    if _known(tokenizer).form in (Form.COLORS, Form.EDGES):
        # Rounded before the cast, which cuts: half a grey level of bias otherwise.
        return values.round().clip(0, 255).astype(np.uint8)
    return values


def to_values(
    tokenizer: str, recon: torch.Tensor, frame: str | None = None, statistics: Statistics | None = None
) -> np.ndarray:
    """`to_label` before pictures are rounded: their values are float32, and may leave 0..255."""
    form = _known(tokenizer).form
    recon = recon.detach().float().cpu()
    if form is Form.CLASSES:
        ids = recon.argmax(1)
        # The inverse of `to_input`: 0 becomes 255, no class.
        return (ids if tokenizer == SAM_MASK else (ids - 1) % (NO_CLASS + 1)).to(torch.uint8).numpy()
    if form in (Form.COLORS, Form.EDGES):
        pixels = recon.add(1).mul(127.5).movedim(1, -1).contiguous().numpy()
        return pixels if form is Form.COLORS else pixels[..., 0]
    if form in (Form.VECTOR, Form.NUMBERS):
        return recon.numpy()
    if statistics is not None and form in (Form.RASTER, Form.SERIES):
        return statistics.restored(recon.movedim(1, -1)).contiguous().numpy()
    if form is Form.DEPTH:
        depth = recon[:, 0]
        # Standardized depth has lost its unit; [0, 1] is what a depth label is.
        low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
        return ((depth - low) / (high - low).clamp(min=1e-6)).numpy()
    values = recon.movedim(1, -1)
    if form is not Form.NORMALS:
        return values.contiguous().numpy()
    normals: np.ndarray = F.normalize(values, dim=-1).contiguous().numpy()
    return normals if frame is None else frames.turn(normals, frame)
