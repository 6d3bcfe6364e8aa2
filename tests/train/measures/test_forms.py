"""Measures of single samples and of their sums, with answers worked out by hand or by a library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fourmill.train.measures import forms

RNG = np.random.default_rng(0)


def measured(form: str, *samples: tuple[Any, ...]) -> dict[str, float]:
    total = forms.add([forms.sums(form, *sample) for sample in samples])
    return {name: float(value) for name, value in forms.summary(form, total).items()}


@pytest.mark.parametrize("peak", [1.0, 2.0, 255.0])
def test_psnr_follows_the_peak(peak: float) -> None:
    true = np.zeros((2, 4, 4))
    found = [forms.psnr(true + error * peak, true, peak) for error in (0.1, 0.01, 0.0)]
    assert found == pytest.approx([20, 40, forms.MAX_PSNR])


def test_psnr_is_a_mean_over_pictures() -> None:
    true = np.zeros((4, 4, 3), np.uint8)
    assert measured("colors", (true + 25.5, true), (true + 2.55, true))["psnr"] == pytest.approx(30)


def test_iou_of_masks() -> None:
    true = np.array([1, 1, 0, 0], bool)
    assert forms.iou(np.array([0, 1, 1, 0], bool), true) == pytest.approx(1 / 3)
    assert forms.iou(~true & true, true & ~true) == 1


def test_classes_are_added_up_before_they_are_divided() -> None:
    first = (np.array([[0, 0], [1, 3]], np.uint8), np.array([[0, 1], [1, 0]], np.uint8))
    second = (np.array([[3, 3], [255, 1]], np.uint8), np.array([[3, 255], [1, 1]], np.uint8))
    # Class 0: 1 of 3; class 1: 1 + 1 of 2 + 2; class 3: 1 of 1 + 1. The pixel of no class does not count.
    result = measured("classes", first, second)
    assert result["miou"] == pytest.approx((1 / 3 + 2 / 4 + 1 / 2) / 3) and result["accuracy"] == pytest.approx(4 / 7)
    nothing = np.full((2, 2), 255, np.uint8)
    assert math.isnan(measured("classes", (nothing, nothing))["miou"])


def test_miou_is_the_librarys() -> None:
    from sklearn.metrics import jaccard_score

    maps = RNG.integers(0, 7, (2, 5, 8, 8), dtype=np.uint8)
    expected = jaccard_score(maps[1].ravel(), maps[0].ravel(), average="macro")
    assert measured("classes", *zip(*maps, strict=True))["miou"] == pytest.approx(expected)


def test_depth_is_aligned_and_in_shares_of_its_range() -> None:
    true = np.linspace(2, 6, 50)
    np.testing.assert_allclose(forms.aligned_depth(true * -3 + 7, true), true)
    np.testing.assert_allclose(forms.aligned_depth(true * 0 + 1, true), 4)  # the mean is all that a constant says
    result = measured("distance", (true * 0 + 1, true))
    assert result["mae"] == pytest.approx(0.25, abs=0.01)
    assert result["abs_rel"] == pytest.approx(np.mean(np.abs(4 - true) / true))
    assert result["delta1"] == np.mean(np.maximum(4 / true, true / 4) < 1.25)


def test_standardized_depth_by_hand() -> None:
    true, found = np.array([1.0, 2, 3, 6]), np.array([0.0, 0, 10, 10])
    # Medians 2.5 and 5, mean absolute deviations (1.5 + 0.5 + 0.5 + 3.5) / 4 = 1.5 and 5.
    expected = (abs(-1 - -1) + abs(-1 - -1 / 3) + abs(1 - 1 / 3) + abs(1 - 7 / 3)) / 4
    assert measured("distance", (found, true))["l1"] == pytest.approx(expected)
    assert measured("depth", (5 * true - 2, true))["l1"] == pytest.approx(0, abs=1e-9)


def test_pixels_without_truth_do_not_count() -> None:
    true = RNG.uniform(1, 9, (6, 6))
    found, valid = true * 2 + 1, RNG.random((6, 6)) < 0.7
    true[~valid] = 0
    result = measured("distance", (found, true, valid))
    assert result["l1"] == pytest.approx(0, abs=1e-9) and result["abs_rel"] == pytest.approx(0, abs=1e-9)
    # A map without any valid pixel is no map of the mean.
    assert measured("distance", (found, true, valid), (found, true, valid & False)) == result
    classes = np.where(valid, 3, 5).astype(np.uint8)
    assert measured("classes", (np.full_like(classes, 3), classes, valid))["miou"] == 1


def test_degrees_between_vectors_and_rotations() -> None:
    true = np.array([[1.0, 0], [0, 2]])
    assert forms.degrees(true[:, ::-1], true).tolist() == pytest.approx([90, 90])
    assert forms.degrees(true * 3, true).tolist() == pytest.approx([0, 0], abs=1e-5)
    turns = Rotation.random(5, rng=RNG).as_matrix()
    turned = turns @ Rotation.from_euler("z", 35, degrees=True).as_matrix()
    # Scaled matrices are no rotations: the nearest ones are compared.
    assert forms.rotation_degrees(turned * 1.7, turns).tolist() == pytest.approx([35] * 5)


def test_normals_by_their_angles() -> None:
    angles = np.radians([[0, 10, 20], [25, 40, 90]])
    true = np.broadcast_to([0.0, 0, 1], (2, 3, 3))
    found = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1)
    result = measured("normals", (found, true))
    assert result["mean_degrees"] == pytest.approx(185 / 6) and result["median_degrees"] == pytest.approx(20, abs=0.1)
    assert [result[f"below_{limit:g}"] for limit in forms.SHARES] == pytest.approx([2 / 6, 3 / 6, 4 / 6])
    valid = np.array([[True, True, False], [False, False, False]])
    assert measured("normals", (found, true, valid))["mean_degrees"] == pytest.approx(5)


def test_sums_may_have_an_axis_of_draws() -> None:
    maps = RNG.integers(0, 4, (2, 6, 5, 5), dtype=np.uint8)
    parts = [forms.sums("classes", *pair) for pair in zip(*maps, strict=True)]
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    counts = np.array([[1] * 6, [2, 0, 0, 1, 3, 0]])
    together = forms.summary("classes", {name: np.tensordot(counts, one, 1) for name, one in stacked.items()})
    for row, draw in enumerate(counts):
        alone = forms.summary("classes", forms.add([parts[i] for i in np.repeat(np.arange(6), draw)]))
        assert together["miou"][row] == pytest.approx(float(alone["miou"]))
