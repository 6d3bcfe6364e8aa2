"""The frame that crops of a label are drawn in, with an image and without."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.worker.sample import LabelledSample
from fourmill.tokenize.sensors.raster import Drawing

VALUES = {
    "depth": np.zeros((6, 9), np.float16), "clip": np.zeros((3, 4, 8), np.float16),
    "dinov2_global": np.zeros(5, np.float16), "det": [], "t5_caption": np.zeros((2, 4), np.float16),
}  # fmt: skip


@pytest.mark.parametrize(
    ("label", "alone"),
    [("depth", (9, 6)), ("clip", (4, 3)), ("dinov2_global", (1, 1)), ("det", (0, 0)), ("t5_caption", (0, 0))],
)
def test_frames_with_an_image_and_without(label: str, alone: tuple[int, int]) -> None:
    item = Item("0", None, None, labels={label: VALUES[label]})
    drawing = Drawing(0, 3, (0.5, 1.0), 0.5)
    sample = LabelledSample(item)
    assert sample.frame(label) == alone
    assert len(sample.crops_of(label, drawing)) == (3 if alone != (0, 0) else 0)
    item.image = np.zeros((20, 30, 3), np.uint8)
    assert sample.frame(label) == (30, 20)
