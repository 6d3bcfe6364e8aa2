"""What fourmill's own specialists write with the models of `labellers.py`, against the truth of scenes.

A box is right at an IoU of 0.5 with a true one of its shape that no better box has. Truth are the things of which at
least LEAST_PIXELS show.

| label | measures |
|---|---|
| depth | `l1` of standardized inverse depth, 0 for the sky; `abs_rel` of depth after the best scale and shift of its \
inverse, where there is a surface not farther than FAR times the nearest |
| normal | `mean_degrees`, `median_degrees`, where there is a surface |
| semseg | `miou`, `accuracy` |
| det | `f1` of boxes with a score of 0.6, from which 4M writes them; `ap50`, as COCO's |
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from labelling.models import LEAST_PIXELS, SIDE, inverse_depth
from labelling.scenes import SHAPES, Arrays

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.specialists.base import ImageItem, Specialist
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.specialists.detection.transformers import Boxes
from fourmill.tokenize.frames import DECLARED
from fourmill.tokenize.text.sentences import DEFAULT_SCORE
from fourmill.train.downstream.evaluation.records import box_iou
from fourmill.train.measures import forms
from fourmill.train.measures.detections import Found, average_precision

FAR = 10.0
SPECIALISTS: dict[str, type[Specialist]] = {"depth": Depth, "normal": Normals, "semseg": Panoptic, "det": Boxes}
CLASSES = {"semseg": kinds.CLASSES, "det": SHAPES}
STATED = {"depth": {"predicts": "inverse_depth"}, "normal": {"frame": DECLARED}}  # as they are trained
Detection = dict[str, Any]


def labelled(label: str, folder: Path, images: np.ndarray, batch: int = 64) -> tuple[list[Any], float]:
    """The labels of uint8 images (n, H, W, 3), and how many images a second of CPU time that takes."""
    one = SPECIALISTS[label].model_validate(
        {"weights": str(folder)} | STATED.get(label, {}), context={"classes": CLASSES}
    )
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
    there = [rows[(rows[:, 4] >= 0) & (rows[:, 5] >= LEAST_PIXELS)] for rows in truth]
    sure = [[one for one in found if one["score"] >= DEFAULT_SCORE] for found in labels]
    hits = sum(_hits(found, rows) for found, rows in zip(sure, there, strict=True))
    said = [[_found(one["label"], one["box"], one["score"]) for one in found] for found in labels]
    true = [[_found(SHAPES[int(row[4])], row[:4]) for row in rows] for rows in there]
    precision = average_precision(said, true, "bbox")(np.ones((1, len(true)), np.int64))
    return {"f1": 2 * hits / (sum(map(len, sure)) + sum(map(len, there))), "ap50": float(precision["ap50"][0])}


def _found(name: str, box: Any, score: float = 1.0) -> Found:
    return Found(name, tuple(float(edge) * SIDE for edge in box), score)


def _hits(found: list[Detection], rows: np.ndarray) -> int:
    """How many boxes, best first, have one of the true ones (n, 6) that are left."""
    left, hits = list(rows), 0
    for one in sorted(found, key=lambda box: -box["score"]):
        overlaps = [
            box_iou(np.array(one["box"]), row[:4]) if SHAPES[int(row[4])] == one["label"] else 0.0 for row in left
        ]
        if overlaps and max(overlaps) >= 0.5:
            del left[int(np.argmax(overlaps))]
            hits += 1
    return hits
