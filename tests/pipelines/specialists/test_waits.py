"""The host waits for the device once or twice a batch, and networks run for full batches of equal sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests.counted.labelling import counting, label
from fourmill_tests.tiny import dense, detectors, features, sam

from fourmill.pipelines.specialists.base import ImageItem, Item
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.specialists.detection.transformers import Boxes
from fourmill.pipelines.specialists.features.features import Dino
from fourmill.pipelines.specialists.instances.sam import SamInstances

SHAPES = ((48, 64), (64, 48), (48, 48))
MADE: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Any]]] = {
    "depth": (lambda path: Depth(weights=str(dense.depth_anything(path))), lambda s: s._model),
    "normals": (
        lambda path: Normals(weights=str(dense.tipsv2(path)), frame="x right, y up, z toward the viewer"),
        lambda s: s._model.backbone.embeddings,
    ),
    "segments": (lambda path: Panoptic(weights=str(dense.mask2former(path)), min_score=0.02), lambda s: s._model),
    "classes": (lambda path: Panoptic(weights=str(dense.segformer(path))), lambda s: s._model),
    "boxes": (lambda path: Boxes(weights=str(detectors.dfine(path))), lambda s: s._model),
    "features": (lambda path: Dino(weights=str(features.dinov2(path))), lambda s: s._backbone.model),
}


def items(count: int) -> list[Item]:
    random = np.random.default_rng(0)
    return [
        ImageItem(str(i), random.integers(0, 256, (*SHAPES[i % len(SHAPES)], 3), dtype=np.uint8), None)
        for i in range(count)
    ]


@pytest.mark.parametrize("name", MADE)
def test_two_waits_a_batch(name: str, tmp_path: Path) -> None:
    make, network = MADE[name]
    specialist = make(tmp_path / "weights")
    specialist.setup("cpu")
    batches = [label(specialist, items(24), window=window, batch=8) for window in (1, 3)]
    with counting(specialist, network(specialist)) as counted:
        label(specialist, items(24), window=3, batch=8)
    sizes = 1 if name == "boxes" else len(SHAPES)  # D-FINE sees squares
    assert counted.passes == sizes * -(-24 // sizes // specialist.batch_size)
    assert 0 < counted.waits <= 2 * counted.passes
    for alone, together in zip(*batches, strict=True):
        if isinstance(alone, list):
            assert alone == together
        elif alone.dtype == np.uint8:
            assert (alone != together).mean() < 0.01
        else:
            np.testing.assert_allclose(alone.astype(np.float32), together.astype(np.float32), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("name", ["sam", "sam2", "sam.safetensors"])
def test_five_waits_an_image_of_sam(name: str, tmp_path: Path) -> None:
    make = {"sam": sam.sam, "sam2": sam.sam2}.get(name, sam.segment_anything)
    specialist = SamInstances(weights=str(make(tmp_path / name)), points_per_batch=32, pred_iou_thresh=0)
    specialist.setup("cpu")
    with counting(specialist) as counted:
        labels = label(specialist, items(2))
    assert all(isinstance(one, list) for one in labels) and 0 < counted.waits <= 5 * len(labels)
