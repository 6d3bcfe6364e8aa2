"""How far a reconstruction is from its label, for people: one number in the unit that the field uses for that label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..modalities import LABELS, NO_CLASS, Form
from ..tokenize import masks
from ..tokenize.text import smpl


def error_of(label: str, truth: Any, decoded: Any) -> tuple[str, float] | None:
    """The name and value of the error of a reconstruction.

    Args:
        label: a key of `modalities.LABELS`.
        truth, decoded: the label in the frame of a crop, and what its tokens give back, in the same form.

    Returns:
        Colours PSNR; edges and masks IoU; classes mIoU; depth the mean error as a share of the depth's range, after the
        best scale and shift; normals and poses degrees; features and vectors cosine. None where there is no measure, or
        nothing to measure.
    """
    form = LABELS[label].form
    if form is Form.RECORD:
        measure = _RECORDS.get(label)
        return measure(truth, decoded) if measure is not None and truth and decoded else None
    arrays = isinstance(truth, np.ndarray) and isinstance(decoded, np.ndarray)
    if form not in _ARRAYS or not arrays or truth.shape != decoded.shape or not truth.size:
        return None
    name, array_measure = _ARRAYS[form]
    value = array_measure(truth, decoded)
    return (name, value) if math.isfinite(value) else None


def psnr(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, dB; 100 at most."""
    mse = float(np.mean((truth.astype(np.float64) - decoded) ** 2))
    return min(10 * math.log10(255**2 / max(mse, 1e-10)), 100.0)


def edge_iou(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Intersection over union of the pixels above the middle."""
    return _iou(truth > 127, decoded > 127)


def mean_iou(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Mean IoU over the classes that occur in either; pixels whose true class is unknown (255) do not count."""
    known = truth != NO_CLASS
    true, found = truth[known], decoded[known]
    classes = np.union1d(true, found[found != NO_CLASS])
    return float(np.mean([_iou(true == c, found == c) for c in classes])) if classes.size else math.nan


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def depth_error(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute error as a share of the true range, after the least-squares scale and shift of `decoded`."""
    true, found = truth.astype(np.float64).ravel(), decoded.astype(np.float64).ravel()
    spread = found - found.mean()
    scale = float(spread @ true) / max(float(spread @ spread), 1e-12)
    return float(np.abs(scale * spread + true.mean() - true).mean() / max(float(np.ptp(true)), 1e-6))


def mean_cosine(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Mean cosine between vectors along the last axis."""
    true, found = truth.astype(np.float64), decoded.astype(np.float64)
    lengths = np.linalg.norm(true, axis=-1) * np.linalg.norm(found, axis=-1)
    return float(np.mean((true * found).sum(axis=-1) / np.maximum(lengths, 1e-12)))


def mean_degrees(truth: np.ndarray, decoded: np.ndarray) -> float:
    """Mean angle between unit vectors along the last axis, degrees."""
    true, found = truth.astype(np.float64), decoded.astype(np.float64)
    across = np.linalg.norm(np.cross(true, found), axis=-1)  # exact near 0, where the arc cosine is not
    return float(np.degrees(np.arctan2(across, (true * found).sum(axis=-1))).mean())


_ARRAYS: dict[Form, tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    Form.COLORS: ("PSNR, dB", psnr),
    Form.EDGES: ("IoU", edge_iou),
    Form.CLASSES: ("mIoU", mean_iou),
    Form.DEPTH: ("relative error", depth_error),
    Form.NORMALS: ("degrees", mean_degrees),
    Form.FEATURES: ("cosine", mean_cosine),
    Form.VECTOR: ("cosine", mean_cosine),
}


def _instances(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean IoU of each true mask with the best of those decoded, at the size of the true masks."""
    found = [masks.decode(one["mask"]) > 0 for one in decoded]
    true = [masks.decode(one["mask"]) > 0 for one in truth]
    if any(mask.shape != true[0].shape for mask in (*true, *found)):
        return None
    return "IoU", float(np.mean([max(_iou(mask, other) for other in found) for mask in true]))


def _poses(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean angle between the rotations of 24 joints, of people in the order in which they are said."""
    pairs = [(a, b) for a, b in zip(truth, decoded, strict=False) if {"global_orient", "body_pose"} <= b.keys()]
    if not pairs:
        return None
    true, found = (np.concatenate([smpl.nearest(smpl.rotations(pair[i])) for pair in pairs]) for i in (0, 1))
    turns = true.swapaxes(1, 2) @ found
    cosine = (np.trace(turns, axis1=1, axis2=2) - 1) / 2
    return "degrees", float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


_RECORDS: dict[str, Callable[[Any, Any], tuple[str, float] | None]] = {
    "sam_instance": _instances,
    "human_poses": _poses,
}
