"""How far a picture, map, vector or set of rotations is from the true one: what of a sample adds up, and what the sums
say.

The fit of a tokenizer, the report and the evaluation measure by these functions alone. `sums` looks at one sample;
`summary` turns sums over samples into measures: of all samples, of one, or of samples drawn again (`resample`).

| form | measures |
|---|---|
| colours | `psnr` in dB (peak of 255) |
| edges | `precision`, `recall`, `f1`, `iou` of pixels above the middle, `mse` on [0, 1] |
| depth | `l1` of maps standardized as Omnidata does; after the best scale and shift: `mae` (share of the true range), \
`abs_rel`, `delta1` |
| normals | `mean_degrees`, `median_degrees`, `below_11.25`, `below_22.5`, `below_30` between directions, over pixels |
| classes | `miou` over classes that occur, `accuracy`; pixels of no class do not count |
| masks | `iou` of the instance's pixels, mean over masks, `accuracy` |
| features, vectors | `cosine`, `mse` |
| rasters, numbers | `rmse` and `mae` in their unit, means over bands; `r2`; of several bands `rmse BAND` too |
| body poses | `mean_degrees`, `median_degrees`, ... between joint rotations, `cosine`, `mse` |

All: `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ...modalities import BODY_POSE, NO_CLASS, SAM_MASK, TOKENIZERS, Form
from ...tokenize.text import smpl

Sums = dict[str, np.ndarray]

MAX_PSNR = 100.0  # of equal pictures, dB
SHARES = (11.25, 22.5, 30.0)  # degrees; shares of angles below them
_BINS = 1_800  # of angles, 0.1 degrees each
DISTANCE = Form.DISTANCE.value  # depth whose unit is one of length, such as that of a laser scanner
# Relative errors of the nearest points of a depth label say nothing: 0 is the nearest of a map and no distance.
_NEAREST = {Form.DEPTH.value: 0.05, DISTANCE: 1e-3}


def form_of(tokenizer: str) -> str:
    """The kind of measure that a tokenizer's label has: a key of the table above."""
    return tokenizer if tokenizer in (SAM_MASK, BODY_POSE) else TOKENIZERS[tokenizer].form.value


def sums(form: str, predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None = None) -> Sums:
    """What of one sample adds up over samples.

    Args:
        form: a value of `Form`, or SAM_MASK, BODY_POSE, DISTANCE.
        predicted, true: the label in the frame of a crop, as `tokenize.inputs.window` gives it, of the same shape.
            Values that were not rounded yet will do: any float of a picture.
        valid: bool (H, W), pixels whose truth is known; all if None.

    Returns:
        Arrays of float64, of a shape that the form alone decides; all are 0 but `samples` where nothing is valid.
    """
    part = _SUMS[form](predicted, true, valid)
    return {name: np.asarray(value, np.float64) for name, value in part.items()} | {"samples": np.ones(())}


def summary(form: str, total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The measures that sums over samples give.

    Args:
        total: of `sums`, added up; each may have the same leading axes, such as one for draws.

    Returns:
        Arrays of those leading axes; NaN where there was nothing to measure.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return _SUMMARIES[form](total)


def add(parts: list[Sums]) -> Sums:
    """Sums of several samples, which must not be none."""
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def _chosen(array: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    return array.reshape(-1) if valid is None else array[valid]


def _colors(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    return {"psnr": psnr(predicted, true, 255.0)}


def psnr(predicted: np.ndarray, true: np.ndarray, peak: float) -> float:
    """Peak signal-to-noise ratio of two pictures whose values span `peak`; dB, at most `MAX_PSNR`."""
    error = np.square(predicted.astype(np.float64) - true).mean()
    return float(10 * np.log10(peak**2 / max(error, peak**2 * 10 ** (-MAX_PSNR / 10))))


def _edges(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    # 127.5 is the middle: a reconstruction is any grey.
    found, there = predicted > 127.5, true > 127.5
    return {
        "hits": (found & there).sum(), "predicted": found.sum(), "true": there.sum(), "pixels": there.size,
        "error": np.square((np.clip(predicted, 0, 255) - true.astype(np.float64)) / 255).sum(),
    }  # fmt: skip


def _depth(
    predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None, form: str = Form.DEPTH.value
) -> Mapping[str, object]:
    found, there = (_chosen(values, valid).astype(np.float64) for values in (predicted, true))
    if not there.size:
        return dict.fromkeys(("l1", "mae", "abs_rel", "delta1", "maps"), 0)
    aligned = aligned_depth(found, there)
    guess, distance = (values.clip(min=_NEAREST[form]) for values in (aligned, there))
    return {
        "l1": np.abs(standardized(found) - standardized(there)).mean(),
        "mae": np.abs(aligned - there).mean() / max(np.ptp(there), 1e-3),
        "abs_rel": (np.abs(guess - distance) / distance).mean(),
        "delta1": (np.maximum(guess / distance, distance / guess) < 1.25).mean(),
        "maps": 1,
    }


def standardized(depth: np.ndarray) -> np.ndarray:
    """Values (N,) less their median, by their mean absolute deviation from it: Omnidata's `masked_shift_and_scale`."""
    centred = depth - np.median(depth)
    return centred / max(np.abs(centred).mean(), 1e-6)


def aligned_depth(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """`predicted` (N,) after the least-squares scale and shift.

    A tokenizer sees depth standardized, so that it cannot know scale and shift.
    """
    centred = predicted - predicted.mean()
    return (centred @ true) / max(centred @ centred, 1e-12) * centred + true.mean()


def _normals(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    # A normal has length 1; where averaging cancelled it there is none.
    known = np.square(true.astype(np.float64)).sum(-1) > 0.25
    known = known if valid is None else known & valid
    return _angles(degrees(predicted[known], true[known]))


def degrees(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The angle between vectors (..., n), which need not be of length 1; 90 degrees from one of length 0."""
    a, b = predicted.astype(np.float64), true.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(((a * b).sum(-1) / np.maximum(lengths, 1e-12)).clip(-1, 1)))


def rotation_degrees(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The angle between the nearest rotations of matrices (n, 3, 3): float64 (n,), degrees.

    That of R^T S is acos((trace - 1) / 2).
    """
    turns = smpl.nearest(true.astype(np.float64)).swapaxes(1, 2) @ smpl.nearest(predicted.astype(np.float64))
    return np.degrees(np.arccos(((np.trace(turns, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))


def _angles(angles: np.ndarray) -> Mapping[str, object]:
    # A histogram adds up over samples, as the sorted angles of all pixels would not.
    histogram = np.histogram(angles, _BINS, (0, 180))[0]
    shares = {f"below_{limit:g}": (angles < limit).sum() for limit in SHARES}
    return {"degrees": angles.sum(), "histogram": histogram, "angles": angles.size, **shares}


def _classes(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    known = true != NO_CLASS
    known = known if valid is None else known & valid
    hits, union = class_overlap(predicted[known], true[known], NO_CLASS + 1)
    union[NO_CLASS] = 0  # a prediction of "no class" is a miss of the true one, and no class of its own
    return {"hits": hits, "union": union, "pixels": known.sum()}


def class_overlap(predicted: np.ndarray, true: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the intersection and the union of each class, of ids below `classes`, (n,): (classes,) each."""
    hits, there, found = (
        np.bincount(ids, minlength=classes) for ids in (true[predicted == true], true, predicted.astype(np.int64))
    )
    return hits, there + found - hits


def _masks(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    return {"iou": iou(predicted > 0, true > 0), "accuracy": ((predicted > 0) == (true > 0)).mean()}


def iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """Of two masks, bool; 1 if both are empty."""
    union = (predicted | true).sum()
    return float((predicted & true).sum() / union) if union else 1.0


def _features(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    a, b = predicted.astype(np.float64), true.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.maximum(lengths, 1e-8)
    return {"cosine": cosine.sum(), "vectors": cosine.size, "error": np.square(a - b).sum(), "values": a.size}


def _values(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    """Of each band, the last axis: errors of values that are there."""
    a, b = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (predicted, true))
    known = np.isfinite(b) if valid is None else np.isfinite(b) & valid.reshape(-1, 1)
    error, b = np.where(known, a - b, 0), np.where(known, b, 0)
    return {
        "squares": np.square(error).sum(0), "absolute": np.abs(error).sum(0), "known": known.sum(0),
        "sum": b.sum(0), "power": np.square(b).sum(0),
    }  # fmt: skip


def _poses(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray | None) -> Mapping[str, object]:
    turns = rotation_degrees(predicted.reshape(-1, 3, 3), true.reshape(-1, 3, 3))
    return {**_angles(turns), **_features(predicted, true, None)}


_SUMS: dict[str, Callable[..., Mapping[str, object]]] = {
    Form.COLORS.value: _colors, Form.EDGES.value: _edges, Form.DEPTH.value: _depth,
    DISTANCE: partial(_depth, form=DISTANCE), Form.NORMALS.value: _normals, Form.CLASSES.value: _classes,
    Form.RASTER.value: _values, Form.NUMBERS.value: _values,
    SAM_MASK: _masks, Form.FEATURES.value: _features, Form.VECTOR.value: _features,
    Form.SERIES.value: _values, BODY_POSE: _poses,
}  # fmt: skip


def _means(*names: str, of: str = "samples") -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda total: {name: total[name] / total[of] for name in names}


def _edge_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    hits, found, true = (total[name] for name in ("hits", "predicted", "true"))
    union = found + true - hits
    return {
        "precision": hits / np.maximum(found, 1), "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(found + true, 1), "iou": np.where(union > 0, hits / np.maximum(union, 1), 1.0),
        "mse": total["error"] / total["pixels"],
    }  # fmt: skip


def _angle_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = total["angles"]
    below = total["histogram"].cumsum(-1) >= 0.5 * total["histogram"].sum(-1, keepdims=True)
    median = (below.argmax(-1) + 0.5) * 180 / _BINS
    shares = {f"below_{limit:g}": total[f"below_{limit:g}"] / count for limit in SHARES}
    return {"mean_degrees": total["degrees"] / count, "median_degrees": np.where(count > 0, median, np.nan), **shares}


def _class_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Summed over all pictures before they are divided: classes are rare, and most pictures hold few of them.
    hits, union = total["hits"], total["union"]
    there = union > 0
    overlaps = np.where(there, hits / np.maximum(union, 1), 0).sum(-1)
    return {"accuracy": hits.sum(-1) / total["pixels"], "miou": overlaps / there.sum(-1)}


def _feature_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"cosine": total["cosine"] / total["vectors"], "mse": total["error"] / total["values"]}


def _value_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: _mean(values) for name, values in of_each(total).items()}


def of_each(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`rmse`, `mae` and `r2` of each band, the last axis, from the sums of rasters, series or numbers."""
    known = np.asarray(total["known"], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = total["power"] - np.square(total["sum"]) / known  # squares around the mean, which an answer must beat
        return {
            "rmse": np.sqrt(total["squares"] / known), "mae": total["absolute"] / known,
            "r2": 1 - total["squares"] / np.where(spread > 0, spread, np.nan),
        }  # fmt: skip


def _mean(values: np.ndarray) -> np.ndarray:
    """Along the last axis, of what is a number; NaN if nothing is."""
    known = np.isfinite(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def of_bands(form: str, total: Mapping[str, np.ndarray], bands: Sequence[str]) -> dict[str, np.ndarray]:
    """`rmse BAND` of each band in its unit, of several with a name."""
    if form not in (Form.RASTER.value, Form.NUMBERS.value) or len(bands) < 2 or not all(bands):
        return {}
    return {f"rmse {band}": error for band, error in zip(bands, of_each(total)["rmse"], strict=True)}


_SUMMARIES: dict[str, Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]] = {
    Form.COLORS.value: _means("psnr"),
    Form.EDGES.value: _edge_measures,
    **dict.fromkeys((Form.DEPTH.value, DISTANCE), _means("l1", "mae", "abs_rel", "delta1", of="maps")),
    Form.NORMALS.value: _angle_measures,
    Form.CLASSES.value: _class_measures,
    SAM_MASK: _means("iou", "accuracy"),
    Form.FEATURES.value: _feature_measures,
    Form.RASTER.value: _value_measures,
    Form.NUMBERS.value: _value_measures,
    Form.VECTOR.value: _feature_measures,
    Form.SERIES.value: _value_measures,
    BODY_POSE: lambda total: _angle_measures(total) | _feature_measures(total),
}
