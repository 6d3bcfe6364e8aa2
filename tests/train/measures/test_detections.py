"""Average precision by hand, and against pycocotools' own sums."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from fourmill.train.measures import detections
from fourmill.train.measures.detections import Found, average_precision

ONE = np.ones((1, 1), np.int64)


def value(statistic: Any, images: int, name: str = "ap") -> float:
    return float(statistic(np.ones((1, images), np.int64))[name][0])


def test_by_hand() -> None:
    there = [Found("cat", (0, 0, 10, 10)), Found("cat", (20, 20, 30, 30))]
    # The best guess is exact, the second is nothing, the third overlaps by 8 / 12.
    said = [
        Found("cat", (0, 0, 10, 10), 0.9),
        Found("cat", (50, 50, 60, 60), 0.8),
        Found("cat", (22, 20, 32, 30), 0.7),
    ]
    found = average_precision([said], [there], "bbox")
    # At overlap 0.5: precision 1 up to a recall of 0.5, then 2 / 3. 51 of 101 points are at most 0.5.
    assert value(found, 1, "ap50") == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert value(found, 1, "ap75") == pytest.approx(51 / 101)
    # 8 / 12 reaches the overlaps 0.5, 0.55, 0.6 and 0.65.
    assert value(found, 1) == pytest.approx((4 * value(found, 1, "ap50") + 6 * value(found, 1, "ap75")) / 10)


def test_a_class_that_is_not_there_does_not_count() -> None:
    there = [Found("cat", (0, 0, 10, 10))]
    found = average_precision([[*there, Found("dog", (0, 0, 5, 5))]], [there], "bbox")
    assert value(found, 1) == 1
    assert np.isnan(value(average_precision([there], [[]], "bbox"), 1))
    assert value(average_precision([[]], [there], "bbox"), 1) == 0


def test_masks_by_hand() -> None:
    true = np.zeros((8, 8), bool)
    true[:4] = True
    half = np.zeros((8, 8), bool)
    half[:5] = True  # 4 / 5 of its pixels
    found = average_precision([[Found("it", half)]], [[Found("it", true)]], "segm")
    assert (value(found, 1, "ap75"), value(found, 1)) == (1, pytest.approx(0.7))


def random(seed: int, images: int = 12) -> tuple[list[list[Found]], list[list[Found]]]:
    rng = np.random.default_rng(seed)

    def some(scored: bool) -> list[Found]:
        corners = rng.integers(0, 20, (rng.integers(0, 6), 2))
        sides = rng.integers(4, 12, corners.shape)
        return [
            Found(str(rng.choice(["a", "b", "c"])), (*map(int, corner), *map(int, corner + side)),
                  float(rng.integers(1, 5)) / 5 if scored else 1.0)
            for corner, side in zip(corners, sides, strict=True)
        ]  # fmt: skip

    return [some(True) for _ in range(images)], [some(False) for _ in range(images)]


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_pycocotools(seed: int) -> None:
    predicted, true = random(seed)
    names = sorted({one.name for found in (*predicted, *true) for one in found})
    evaluation = detections._evaluate(predicted, true, names, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # overlap, recall, class
    expected = precision[precision > -1].mean()
    assert value(average_precision(predicted, true, "bbox"), 12) == pytest.approx(expected, abs=1e-12)


def test_a_draw_is_as_if_the_images_were_there_as_often() -> None:
    predicted, true = random(7)
    draws = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, 6)
    values = average_precision(predicted, true, "bbox")(draws)["ap"]
    for draw, got in zip(draws, values, strict=True):
        rows = np.repeat(np.arange(12), draw)
        alone = average_precision([predicted[i] for i in rows], [true[i] for i in rows], "bbox")
        assert got == pytest.approx(value(alone, 12))
