"""How far a reconstruction is from its label, for people: one number in the unit that the field uses for that label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..modalities import LABELS, Form
from ..sensors.declared import SENSORS
from ..tokenize import masks
from ..tokenize.text import smpl
from ..train.measures import forms, sentences


def error_of(label: str, truth: Any, decoded: Any) -> tuple[str, float] | None:
    """The name and value of the error of a reconstruction.

    Args:
        label: a key of `modalities.LABELS`.
        truth, decoded: the label in the frame of a crop, and what its tokens give back, in the same form.

    Returns:
        Colours PSNR; edges and masks IoU; classes mIoU; depth the mean error as a share of the depth's range, after the
        best scale and shift; normals and poses degrees; features and vectors cosine; rasters and numbers of
        sensors RMSE in their unit; coordinates a distance, times days, catalogues F1 of their rows. None where
        there is no measure, or nothing to measure.
    """
    form = LABELS[label].form
    if (sensor := SENSORS.get(label)) is not None and form.is_record:
        return sentences.error(sensor, truth, decoded) if truth and decoded else None
    if form.is_record:
        measure = _RECORDS.get(label)
        return measure(truth, decoded) if measure is not None and truth and decoded else None
    arrays = isinstance(truth, np.ndarray) and isinstance(decoded, np.ndarray)
    if form not in _ARRAYS or not arrays or truth.shape != decoded.shape or not truth.size:
        return None
    name, key = _ARRAYS[form]
    value = float(forms.summary(form.value, forms.sums(form.value, decoded, truth))[key])
    return (name, value) if math.isfinite(value) else None


# What people call a measure, and what `forms.summary` does.
_ARRAYS = {
    Form.COLORS: ("PSNR, dB", "psnr"),
    Form.EDGES: ("IoU", "iou"),
    Form.CLASSES: ("mIoU", "miou"),
    Form.DEPTH: ("relative error", "mae"),
    Form.NORMALS: ("degrees", "mean_degrees"),
    Form.FEATURES: ("cosine", "cosine"),
    Form.VECTOR: ("cosine", "cosine"),
    Form.RASTER: ("RMSE", "rmse"),
    Form.NUMBERS: ("RMSE", "rmse"),
    Form.SERIES: ("RMSE", "rmse"),
}


def _instances(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean IoU of each true mask with the best of those decoded, at the size of the true masks."""
    predicted, true = ([masks.decode(one["mask"]) > 0 for one in side] for side in (decoded, truth))
    if any(mask.shape != true[0].shape for mask in (*true, *predicted)):
        return None
    return "IoU", float(np.mean([max(forms.iou(other, mask) for other in predicted) for mask in true]))


def _poses(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean angle between the rotations of 24 joints, of people in the order in which they are said."""
    pairs = [(a, b) for a, b in zip(truth, decoded, strict=False) if {"global_orient", "body_pose"} <= b.keys()]
    if not pairs:
        return None
    true, predicted = (np.concatenate([smpl.rotations(pair[i]) for pair in pairs]) for i in (0, 1))
    return "degrees", float(forms.rotation_degrees(predicted, true).mean())


_RECORDS: dict[str, Callable[[Any, Any], tuple[str, float] | None]] = {
    "sam_instance": _instances,
    "human_poses": _poses,
}
