"""Specialists on 1,000 images of eight shapes, or 1,000 captions, as the engine calls them on a GPU: tiny networks of
their architectures, batches of 32, windows of 4.

- waits: of the host for the device, for each pass of the network.
- waits an image: the same, for each image.
- passes: of the network.
- passes, over the fewest: over what would do if all had the same size.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fourmill_tests.counted.labelling import counting, label
from fourmill_tests.tiny import dense, detectors, features, sam, t5

from fourmill.pipelines.specialists.base import ImageItem, Item, Specialist
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.specialists.detection.transformers import Boxes
from fourmill.pipelines.specialists.features.features import Clip, Dino
from fourmill.pipelines.specialists.instances.sam import SamInstances
from fourmill.pipelines.specialists.text import t5 as text

TITLE = "Specialists on 1,000 images, or captions"
COUNT = 1000
SHAPES = ((48, 64), (64, 48), (48, 48), (48, 96), (96, 48), (40, 60), (64, 64), (60, 45))


def images(count: int) -> list[Item]:
    random = np.random.default_rng(0)
    chosen = random.integers(len(SHAPES), size=count)
    return [
        ImageItem(str(i), random.integers(0, 256, (*SHAPES[shape], 3), dtype=np.uint8), None)
        for i, shape in enumerate(chosen)
    ]


def captions(count: int) -> list[Item]:
    """Of 3 to some 40 words, 12 on average, as short descriptions of images are."""
    random = np.random.default_rng(0)
    words = 3 + random.gamma(2.0, 4.5, count).astype(int)
    return [Item(str(i), None, " ".join(random.choice(["a", "cat", "dog"], n))) for i, n in enumerate(words)]


def of_images(make: Callable[[Path], Specialist], network: Callable[[Any], Any], count: int) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        specialist = make(Path(folder) / "weights")
        specialist.setup("cpu")
        items = images(count)
        with counting(specialist, network(specialist)) as counted:
            labels = label(specialist, items)
    assert not any(isinstance(one, str) for one in labels), labels
    fewest = -(-count // specialist.batch_size)
    return {
        "waits": counted.waits / counted.passes,
        "waits an image": counted.waits / count,
        "passes": counted.passes,
        "passes, over the fewest": counted.passes / fewest,
    }


def of_captions(count: int) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        specialist = text.T5Embeddings(weights=str(t5.t5(Path(folder) / "weights")))
        specialist.setup("cpu")
        specialist._multiple = text.ON_GPU  # as `setup` does there
        with counting(specialist, specialist._model) as counted:
            labels = label(specialist, captions(count))
    assert all(isinstance(one, np.ndarray) for one in labels)
    return {"waits": counted.waits / counted.passes, "passes": counted.passes}


OF_IMAGES: dict[str, tuple[Callable[[Path], Specialist], Callable[[Any], Any]]] = {
    "depth": (lambda path: Depth(weights=str(dense.depth_anything(path))), lambda s: s._model),
    "semseg": (lambda path: Panoptic(weights=str(dense.mask2former(path)), min_score=0.02), lambda s: s._model),
    "clip": (lambda path: Clip(weights=str(features.clip(path))), lambda s: s._backbone.model),
    "dinov2": (lambda path: Dino(weights=str(features.dinov2(path))), lambda s: s._backbone.model),
    "det": (lambda path: Boxes(weights=str(detectors.dfine(path))), lambda s: s._model),
}


def of_sam(make: Callable[[Path], Path], name: str) -> Mapping[str, float]:
    """On 4 images: its grid asks at 1,024 points of each."""
    with tempfile.TemporaryDirectory() as folder:
        specialist = SamInstances(weights=str(make(Path(folder) / name)), pred_iou_thresh=0)
        specialist.setup("cpu")
        items = images(4)
        with counting(specialist) as counted:
            labels = label(specialist, items)
    assert all(isinstance(one, list) for one in labels)
    return {"waits an image": counted.waits / len(items)}


ROWS: dict[str, Callable[[], Mapping[str, float]]] = {
    **{name: functools.partial(of_images, *how, COUNT) for name, how in OF_IMAGES.items()},
    "sam_instance": functools.partial(of_sam, sam.sam, "sam"),
    "sam_instance, sam2": functools.partial(of_sam, sam.sam2, "sam2"),
    "sam_instance, published": functools.partial(of_sam, sam.segment_anything, "sam.safetensors"),
    "t5_caption": functools.partial(of_captions, COUNT),
}
