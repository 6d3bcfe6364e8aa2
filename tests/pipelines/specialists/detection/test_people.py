"""HOG people: what is found, in which frame, and that order, batches and sizes do not matter."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from skimage import data as photos

from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.detection.people import HogPeople, _detections


def detect(image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    specialist = HogPeople(**options)
    specialist.setup("cpu")
    (label,) = specialist([Item("k", image, None)])
    assert isinstance(label, list)
    return label


def walker(width: int, height: int, x: int, y: int, size: int) -> np.ndarray:
    """A dark standing figure, `size` px tall with its head's top at (x, y), before a bright, noisy wall."""
    image = np.full((height, width, 3), 200, np.uint8)
    unit, ink = size / 100, (40, 40, 60)

    def at(dx: float, dy: float) -> tuple[int, int]:
        return round(x + dx * unit), round(y + dy * unit)

    cv2.ellipse(image, at(0, 8), (round(6 * unit), round(8 * unit)), 0, 0, 360, ink, -1)
    cv2.ellipse(image, at(0, 33), (round(12 * unit), round(20 * unit)), 0, 0, 360, ink, -1)
    thick = max(1, round(8 * unit))
    for dx in (-1, 1):
        cv2.line(image, at(4 * dx, 50), at(8 * dx, 98), ink, thick)
        cv2.line(image, at(10 * dx, 22), at(15 * dx, 52), ink, max(1, thick * 2 // 3))
    image = cv2.GaussianBlur(image, (0, 0), 1)
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def test_a_standing_figure_is_found_where_it_stands() -> None:
    best = detect(walker(320, 256, x=200, y=50, size=160))[0]
    assert best["label"] == "person" and 0.6 <= best["score"] < 1
    xmin, ymin, xmax, ymax = np.array(best["box"]) * [320, 256, 320, 256]
    assert xmin < 200 < xmax and abs((xmin + xmax) / 2 - 200) < 16
    assert abs(ymin - 50) < 24 and abs(ymax - 210) < 24


def test_boxes_are_relative_to_the_source_frame() -> None:
    small = walker(320, 256, x=200, y=50, size=160)
    large = cv2.resize(small, (1600, 1280), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(detect(large, working_size=320)[0]["box"], detect(small)[0]["box"], atol=0.05)


def test_nobody_on_a_wall() -> None:
    assert detect(np.full((256, 320, 3), 128, np.uint8)) == []


def test_what_is_found_on_photos_is_well_formed() -> None:
    found = detect(photos.astronaut(), working_size=512)
    assert found, "OpenCV finds windows on this photo"
    scores = [d["score"] for d in found]
    assert scores == sorted(scores, reverse=True) and all(0.5 <= score < 1 for score in scores)
    for d in found:
        xmin, ymin, xmax, ymax = d["box"]
        assert 0 <= xmin < xmax <= 1 and 0 <= ymin < ymax <= 1
    assert [d["score"] for d in detect(photos.astronaut(), working_size=512, min_score=0.6)] == [
        s for s in scores if s >= 0.6
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (127, 64), (128, 63), (20, 30), (4000, 5000)])
def test_extreme_sizes(shape: tuple[int, int]) -> None:
    assert detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_batches_repetition_and_threads_do_not_matter() -> None:
    images = [photos.astronaut(), walker(320, 256, 100, 40, 180), photos.coffee()]
    specialist = HogPeople()
    specialist.setup("cpu")
    together = specialist([Item(str(i), image, None) for i, image in enumerate(images)])
    threads = cv2.getNumThreads()
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            assert [detect(image) for image in images] == together
    finally:
        cv2.setNumThreads(threads)


def test_suppression_keeps_the_best_of_each_heap_in_any_order() -> None:
    boxes = np.array([[0, 0, 0.5, 1], [0.01, 0, 0.51, 1], [0.6, 0, 1, 1], [0.6, 0.05, 1, 1], [0.3, 0.3, 0.3, 0.9]])
    scores = np.array([0.7, 0.8, 0.6, 0.6, 0.99])
    expected = [([0.01, 0.0, 0.51, 1.0], 0.8), ([0.6, 0.0, 1.0, 1.0], 0.6)]
    rng = np.random.default_rng(0)
    for order in (np.arange(5), *(rng.permutation(5) for _ in range(5))):
        found = _detections(boxes[order], scores[order], max_overlap=0.45)
        assert [(d["box"], d["score"]) for d in found] == expected
    assert len(_detections(boxes, scores, max_overlap=1.0)) == 4


@pytest.mark.parametrize(
    "options", [{"working_size": 100}, {"min_score": 0}, {"min_score": 1}, {"padding": 5}, {"size": 1}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HogPeople(**options)
