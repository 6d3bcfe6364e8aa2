"""What fourmill's own specialists write with the models of `labellers.py`, against the truth of scenes.

A box is right at an IoU of 0.5 with a true one of its shape that no better box has. Truth are the things of which at
least LEAST_PIXELS show.

| label | measures |
|---|---|
| depth | `l1` of standardized inverse depth, 0 for the sky; `abs_rel` of depth after the best scale and shift of its \
inverse, where there is a surface not farther than FAR times the nearest |
| normal | `mean_degrees`, `median_degrees`, where there is a surface |
| semseg | `miou`, `accuracy` |
| det | `f1` of boxes with a score of 0.6, from which 4M writes them; `ap50`, the mean over shapes of the area below \
precision as a function of recall |
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from labeller_models import LEAST_PIXELS, inverse_depth
from labeller_scenes import SHAPES, Arrays

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.specialists.base import ImageItem, Specialist
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.specialists.detection.transformers import Boxes
from fourmill.tokenize.text.sentences import DEFAULT_SCORE
from fourmill.train.measures import forms

FAR = 10.0
SPECIALISTS: dict[str, type[Specialist]] = {"depth": Depth, "normal": Normals, "semseg": Panoptic, "det": Boxes}
CLASSES = {"semseg": kinds.CLASSES, "det": SHAPES}
Detection = dict[str, Any]


def labelled(label: str, folder: Path, images: np.ndarray, batch: int = 64) -> tuple[list[Any], float]:
    """The labels of uint8 images (n, H, W, 3), and how many images a second of CPU time that takes."""
    one = SPECIALISTS[label].model_validate({"weights": str(folder)}, context={"classes": CLASSES})
    one.setup("cpu")
    items = [ImageItem(str(i), image, None) for i, image in enumerate(images)]
    one(items[:2])
    begin = time.process_time()
    labels = [made for i in range(0, len(items), batch) for made in one(items[i : i + batch])]
    for made in labels:
        if isinstance(made, Reject):
            raise SystemExit(f"{label}: the model in {folder} makes no label of a scene: {made.reason}")
    return labels, len(items) / (time.process_time() - begin)


def measures(label: str, labels: list[Any], truth: Arrays) -> dict[str, float]:
    """The measures of a label, by name; see the head of this file."""
    if label == "depth":
        return _depth(labels, truth["depth"])
    if label == "det":
        return _boxes(labels, truth["boxes"])
    form = {"normal": "normals", "semseg": "classes"}[label]
    pairs = zip(labels, truth[label], strict=True)
    total = forms.summary(form, forms.add([forms.sums(form, found, there) for found, there in pairs]))
    chosen = {"normal": ("mean_degrees", "median_degrees"), "semseg": ("miou", "accuracy")}[label]
    return {name: float(total[name]) for name in chosen}


def _depth(labels: list[np.ndarray], truth: np.ndarray) -> dict[str, float]:
    differences, errors = [], []
    for label, metres, near in zip(labels, truth, inverse_depth(truth), strict=True):
        found, metres = 1 - label.astype(np.float64), metres.astype(np.float64)
        differences.append(np.abs(forms.standardized(found.ravel()) - forms.standardized(near.ravel())).mean())
        surface = metres < FAR * np.nanmin(metres)  # not NaN, the sky
        aligned = forms.aligned_depth(found[surface], 1 / metres[surface]).clip(min=1 / (2 * FAR * np.nanmin(metres)))
        errors.append((np.abs(1 / aligned - metres[surface]) / metres[surface]).mean())
    return {"l1": float(np.mean(differences)), "abs_rel": float(np.mean(errors))}


def _boxes(labels: list[list[Detection]], truth: np.ndarray) -> dict[str, float]:
    hits: list[tuple[str, float, bool]] = []  # shape, score, whether it is right
    there: dict[str, int] = dict.fromkeys(SHAPES, 0)
    for found, rows in zip(labels, truth, strict=True):
        rows = rows[(rows[:, 4] >= 0) & (rows[:, 5] >= LEAST_PIXELS)]
        for row in rows:
            there[SHAPES[int(row[4])]] += 1
        hits += _matched(found, rows)
    sure = [right for _, score, right in hits if score >= DEFAULT_SCORE]
    precisions = [_average_precision([h[1:] for h in hits if h[0] == shape], n) for shape, n in there.items() if n]
    return {"f1": 2 * sum(sure) / (len(sure) + sum(there.values())), "ap50": float(np.mean(precisions))}


def _matched(found: list[Detection], rows: np.ndarray) -> list[tuple[str, float, bool]]:
    """Whether each box, best first, has one of the true ones (n, 6) that are left."""
    left, hits = np.ones(len(rows), bool), []
    for one in sorted(found, key=lambda box: -box["score"]):
        same = left & (rows[:, 4] == SHAPES.index(one["label"]))
        overlap = np.where(same, _overlap(np.array(one["box"]), rows[:, :4]), 0.0)
        right = bool(len(rows)) and overlap.max() >= 0.5
        if right:
            left[overlap.argmax()] = False
        hits.append((one["label"], one["score"], right))
    return hits


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU (n,) of a box (4,) with boxes (n, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared)


def _average_precision(hits: list[tuple[float, bool]], there: int) -> float:
    """Area under the precision that falls with recall, of boxes of one shape, of which `there` are true."""
    right = np.cumsum([right for _, right in sorted(hits, key=lambda hit: -hit[0])])
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * np.diff(right, prepend=0)).sum() / there)
