"""Average precision of boxes and of masks, as COCO measures it: pycocotools matches, the rest is a sum over samples.

pycocotools matches what was found to what is there, in each image, at ten overlaps (0.5 to 0.95). Precision over recall
follows from the matches of all images by sorting; it is computed here, so that an image may count as often as a draw of
the bootstrap has it. A test compares both.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .resample import Statistic

OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_BLOCK = 64  # draws at a time: arrays of draws, overlaps and all that was found of a class
MOST = 100  # of one class in an image; those with the best scores count


@dataclass(frozen=True)
class Found:
    """One thing in an image: its class, where it is, and how sure that is.

    where: of boxes xmin, ymin, xmax, ymax in pixels; of masks a bool (H, W).
    """

    name: str
    where: Any
    score: float = 1.0


@dataclass(frozen=True)
class _Matches:
    """What was found of one class, the best score first.

    image: int64 (D,). hit: bool (T, D) by overlap. true: int64 (n,), how many there are in each image.
    """

    image: np.ndarray
    hit: np.ndarray
    true: np.ndarray


def average_precision(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], kind: Literal["bbox", "segm"]
) -> Statistic:
    """`ap`, `ap50` and `ap75`, means over the classes that occur among the true ones; NaN if nothing is there.

    Args:
        predicted, true: of each sample; samples of both in the same order.
    """
    matches = _matches(predicted, true, kind)

    def statistic(counts: np.ndarray) -> dict[str, np.ndarray]:
        if not matches:
            return dict.fromkeys(("ap", "ap50", "ap75"), np.full(len(counts), np.nan))
        # (draws, classes, overlaps); NaN where a draw has nothing of a class.
        blocks = [counts[start : start + _BLOCK] for start in range(0, len(counts), _BLOCK)]
        precision = np.concatenate([np.stack([_precision(one, some) for one in matches], 1) for some in blocks])
        by_class = {"ap": precision.mean(2), "ap50": precision[..., 0], "ap75": precision[..., 5]}
        return {name: _mean(values) for name, values in by_class.items()}

    return statistic


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def _precision(one: _Matches, weights: np.ndarray) -> np.ndarray:
    """Mean precision over recall at each overlap, (draws, T), where image i counts weights[:, i] times."""
    total = (weights @ one.true)[:, None, None]
    each = weights[:, one.image][:, None]
    hits, misses = np.cumsum(one.hit * each, 2), np.cumsum(~one.hit * each, 2)
    precision = hits / np.maximum(hits + misses, 1)
    # The best precision at this recall or above.
    precision = np.maximum.accumulate(precision[..., ::-1], 2)[..., ::-1]
    # How many of the recalls each thing that was found is the first to reach.
    reached = np.diff(np.searchsorted(_RECALLS, hits / np.maximum(total, 1), "right"), axis=2, prepend=0)
    return np.where(total[..., 0] > 0, (precision * reached).sum(2) / len(_RECALLS), np.nan)


def _matches(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], kind: Literal["bbox", "segm"]
) -> list[_Matches]:
    names = sorted({one.name for found in (*predicted, *true) for one in found})
    if not names or not any(map(len, true)):
        return []
    evaluation = _evaluate(predicted, true, names, kind)
    images, matches = len(true), []
    for number, _ in enumerate(names):
        of_class = evaluation.evalImgs[number * images : (number + 1) * images]
        parts = [(i, one) for i, one in enumerate(of_class) if one is not None]
        scores = np.concatenate([one["dtScores"] for _, one in parts]) if parts else np.empty(0)
        order = np.argsort(-scores, kind="stable")
        image = np.repeat([i for i, _ in parts], [len(one["dtScores"]) for _, one in parts]).astype(np.int64)
        hit = np.concatenate([one["dtMatches"] for _, one in parts], 1) > 0 if parts else np.zeros((10, 0), bool)
        there = np.zeros(images, np.int64)
        for i, one in parts:
            there[i] = len(one["gtIds"])
        matches.append(_Matches(image[order], hit[:, order], there))
    return matches


def _evaluate(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], names: Sequence[str], kind: str
) -> Any:
    """COCOeval with its matches; images are numbered from 0, classes from 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    category = {name: number for number, name in enumerate(names, 1)}
    ids = iter(range(1, 1 << 62))
    annotations = [
        _annotation(one, i, category) | {"id": next(ids), "iscrowd": 0} for i, found in enumerate(true) for one in found
    ]
    results = [
        _annotation(one, i, category) | {"score": one.score} for i, found in enumerate(predicted) for one in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it says how long it took
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, **_size(found)} for i, found in enumerate(true)],
            "categories": [{"id": number, "name": name} for name, number in category.items()],
            "annotations": annotations,
        }
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
    return evaluation


def _size(found: Sequence[Found]) -> dict[str, int]:
    """Of an image with masks, which pycocotools asks for."""
    shapes = [one.where.shape for one in found if isinstance(one.where, np.ndarray)]
    return dict(zip(("height", "width"), shapes[0], strict=True)) if shapes else {}


def _annotation(one: Found, image: int, category: dict[str, int]) -> dict[str, Any]:
    start = {"image_id": image, "category_id": category[one.name]}
    if isinstance(one.where, np.ndarray):
        from pycocotools import mask

        code = mask.encode(np.asfortranarray(one.where, np.uint8))
        return start | {"segmentation": code, "area": float(mask.area(code))}
    xmin, ymin, xmax, ymax = one.where
    return start | {"bbox": [xmin, ymin, xmax - xmin, ymax - ymin], "area": (xmax - xmin) * (ymax - ymin)}
