"""Canny edges where a synthetic image has them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from skimage import data as photos

from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.canny import Canny


def edges(image: np.ndarray, **options: float) -> np.ndarray:
    (label,) = Canny(**options)([Item("k", image, None)])
    assert isinstance(label, np.ndarray)
    return label


def square() -> np.ndarray:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:60] = 255
    return image


def test_the_outline_of_a_square() -> None:
    found = edges(square())
    assert found.dtype == np.uint8 and found.shape == (60, 80)
    assert set(np.unique(found)) == {0, 255}
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((19.5, 39.5, 29.5, 59.5), abs=0.5)
    assert not found[22:38, 32:58].any(), "nothing inside"
    assert np.all(found[24:36, 29:31].any(axis=1)), "the left side has no gap"


def test_colour_edges_without_a_change_of_brightness_count() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :10, 0] = 200
    image[:, 10:, 2] = 200
    assert edges(image)[5:15].any(axis=1).all()


def test_a_weak_edge_needs_a_lower_threshold() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    image[:, 10:] += 20  # Sobel's gradient of a step of 20 is 80
    assert not edges(image).any()
    assert edges(image, low=40, high=70).any()


def test_blur_removes_single_pixels() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[20, 20] = 255
    assert edges(image).any()
    assert not edges(image, blur=3).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 5000), (5000, 3)])
def test_extreme_sizes(shape: tuple[int, int]) -> None:
    for options in ({}, {"blur": 2.0}):
        assert edges(np.full((*shape, 3), 7, np.uint8), **options).shape == shape


def test_a_batch_is_the_same_as_one_by_one() -> None:
    items = [Item(str(i), image, None) for i, image in enumerate([photos.astronaut(), square(), photos.coffee()])]
    specialist = Canny()
    specialist.setup("cpu")
    for item, together in zip(items, specialist(items), strict=True):
        assert item.image is not None
        np.testing.assert_array_equal(together, edges(item.image))


@pytest.mark.parametrize("options", [{"low": -1}, {"high": 5000}, {"low": 300, "high": 200}, {"blur": -1}, {"lwo": 1}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Canny(**options)
