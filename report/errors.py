"""How far a reconstruction is from its label, for people: one number in the unit that the field uses for that label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..modalities import LABELS, NO_CLASS, Form
from ..tokenize import masks
from ..tokenize.text import smpl
from ..train.tokenizers import measures


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
    # float64: the square of float32's rounding shows in angles near 0.
    value = array_measure(*(torch.from_numpy(array.astype(np.float64)) for array in (decoded, truth)))
    return (name, value) if math.isfinite(value) else None


def _psnr(predicted: torch.Tensor, true: torch.Tensor) -> float:
    return measures.psnr(predicted[None], true[None], peak=255.0).item()


def _edges(predicted: torch.Tensor, true: torch.Tensor) -> float:
    return _iou(predicted > 127, true > 127)


def _iou(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Of two masks; 1 if both are empty."""
    hits, union = measures.overlap(predicted[None], true[None])
    return (hits / union).item() if union else 1.0


def _classes(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Mean IoU over the classes that occur in either; pixels whose true class is unknown do not count."""
    known = true != NO_CLASS
    hits, union = measures.class_overlap(predicted[known].long(), true[known].long(), NO_CLASS + 1)
    union[NO_CLASS] = 0
    return measures.mean_iou(hits, union).item()


def _depth(predicted: torch.Tensor, true: torch.Tensor) -> float:
    predicted, true = predicted.reshape(1, -1), true.reshape(1, -1)
    return measures.depth_error(measures.aligned_depth(predicted, true), true).item()


def _degrees(predicted: torch.Tensor, true: torch.Tensor) -> float:
    return measures.degrees(predicted, true, dim=-1).mean().item()


def _cosine(predicted: torch.Tensor, true: torch.Tensor) -> float:
    return F.cosine_similarity(predicted, true, dim=-1).mean().item()


# Functions of what was decoded and of the truth.
_ARRAYS: dict[Form, tuple[str, Callable[[torch.Tensor, torch.Tensor], float]]] = {
    Form.COLORS: ("PSNR, dB", _psnr),
    Form.EDGES: ("IoU", _edges),
    Form.CLASSES: ("mIoU", _classes),
    Form.DEPTH: ("relative error", _depth),
    Form.NORMALS: ("degrees", _degrees),
    Form.FEATURES: ("cosine", _cosine),
    Form.VECTOR: ("cosine", _cosine),
}


def _instances(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean IoU of each true mask with the best of those decoded, at the size of the true masks."""
    predicted, true = ([torch.from_numpy(masks.decode(one["mask"]) > 0) for one in side] for side in (decoded, truth))
    if any(mask.shape != true[0].shape for mask in (*true, *predicted)):
        return None
    return "IoU", float(np.mean([max(_iou(other, mask) for other in predicted) for mask in true]))


def _poses(truth: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Mean angle between the rotations of 24 joints, of people in the order in which they are said."""
    pairs = [(a, b) for a, b in zip(truth, decoded, strict=False) if {"global_orient", "body_pose"} <= b.keys()]
    if not pairs:
        return None
    true, predicted = (np.concatenate([smpl.rotations(pair[i]) for pair in pairs]) for i in (0, 1))
    return "degrees", measures.rotation_degrees(predicted, true).mean().item()


_RECORDS: dict[str, Callable[[Any, Any], tuple[str, float] | None]] = {
    "sam_instance": _instances,
    "human_poses": _poses,
}
