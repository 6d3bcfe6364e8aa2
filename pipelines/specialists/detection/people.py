"""Boxes of people by OpenCV's HOG detector (Dalal and Triggs, 2005): a `det` label that needs no download.

It finds standing people of about 100 px and more, misses portraits and crowds, and knows one class. It is there so
that a whole run works out of the box; a recipe that has a COCO detector should name it instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from ...reject import Reject
from ..base import ImageItem, Specialist

_WINDOW_WIDTH, _WINDOW_HEIGHT = 64, 128  # what the detector was trained on
_STRIDE = 8
_PYRAMID_SCALE = 1.05


class HogPeople(Specialist):
    """HOG windows over an image pyramid, scored, tightened, and thinned by non-maximum suppression.

    Score: the logistic function of the SVM's margin, so that 0.5 is the SVM's own decision and 0.6, where 4M starts to
    write boxes, is a margin of 0.41. Monotone, but no calibrated probability.
    """

    name: ClassVar[str] = "hog_people"
    label: ClassVar[str] = "det"

    working_size: int = Field(
        400,
        ge=_WINDOW_HEIGHT,
        le=4096,
        description="Images with a longer side are shrunk to it first, in pixels. Smaller ones are never enlarged.",
    )
    min_score: float = Field(0.5, gt=0, lt=1, description="Windows below this score are dropped.")
    max_overlap: float = Field(
        0.45,
        gt=0,
        le=1,
        description="Intersection over union above which the weaker of two boxes is dropped.",
    )
    padding: int = Field(
        16,
        ge=0,
        le=64,
        multiple_of=_STRIDE,
        description="How far a window may reach over the frame, in pixels. More finds people at the border, and more "
        "that are none.",
    )

    _hog: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_people(self) -> Self:
        if "person" not in self.class_names():
            raise ValueError("it finds the class person alone, and classes.det lacks it; name another specialist")
        return self

    def setup(self, device: str) -> None:
        """Load the detector that ships inside OpenCV; it runs on the CPU, whatever the device."""
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def __call__(self, items: Sequence[ImageItem]) -> list[list[dict[str, Any]] | Reject]:
        """Boxes for each item, best first: {"box": [xmin, ymin, xmax, ymax] in 0..1, "label": "person", "score"}."""
        assert self._hog is not None, "call setup first"
        return [self._detect(item.image) for item in items]

    def _detect(self, image: np.ndarray) -> list[dict[str, Any]]:
        image = _shrunk(image, self.working_size)
        height, width = image.shape[:2]
        # OpenCV 4 may crash on images smaller than the window
        right, bottom = max(0, _WINDOW_WIDTH - width), max(0, _WINDOW_HEIGHT - height)
        windows, margins = self._hog.detectMultiScale(
            cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE),
            hitThreshold=math.log(self.min_score / (1 - self.min_score)),
            winStride=(_STRIDE, _STRIDE),
            padding=(self.padding, self.padding),
            scale=_PYRAMID_SCALE,
            groupThreshold=0,
        )
        if not len(windows):
            return []
        boxes = _tightened(np.asarray(windows, np.float64)) / [width, height, width, height]
        scores = 1 / (1 + np.exp(-np.ravel(margins).astype(np.float64)))
        return _detections(boxes.clip(0, 1), scores, self.max_overlap)


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _tightened(windows: np.ndarray) -> np.ndarray:
    """(n, 4) x, y, width, height to xmin, ymin, xmax, ymax, less the margin that the windows have around people.

    The shares are those of OpenCV's peopledetect sample.
    """
    x, y, width, height = windows.T
    x, y = x + 0.1 * width, y + 0.07 * height
    return np.stack([x, y, x + 0.8 * width, y + 0.8 * height], axis=1)


def _detections(boxes: np.ndarray, scores: np.ndarray, max_overlap: float) -> list[dict[str, Any]]:
    """Greedy non-maximum suppression. OpenCV's threads find windows in any order, so ties are broken by position."""
    # Not by torchvision: its import costs 10.5 s of CPU and 770 MiB an actor that needs no
    # network (docs/decisions.md).
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # not those that padding put outside the frame
    boxes, scores = boxes[keep], scores[keep]
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores))
    boxes, scores = boxes[order], scores[order]
    overlap = _intersection_over_union(boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not np.any(overlap[i, kept] > max_overlap):
            kept.append(i)
    return [{"box": boxes[i].tolist(), "label": "person", "score": float(scores[i])} for i in kept]


def _intersection_over_union(boxes: np.ndarray) -> np.ndarray:
    """(n, n) of (n, 4) boxes that are not empty."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared: np.ndarray = np.prod(np.clip(high - low, 0, None), axis=2)
    area: np.ndarray = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / (area[:, None] + area[None, :] - shared)
