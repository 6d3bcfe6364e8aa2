"""Palettes of images whose colours are known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data as photos

from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.palette import Palette

COLOURS = [[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [10, 250, 250], [250, 10, 250], [128, 128, 128]]


def palettes(image: np.ndarray) -> list[list[list[int]]]:
    (label,) = Palette()([Item("k", image, None)])
    assert isinstance(label, list)
    return label


def stripes(widths: list[int], colours: list[list[int]]) -> np.ndarray:
    """Vertical stripes, of which the palette's grid (48 columns) sees every column."""
    row = np.repeat(np.array(colours, np.uint8), widths, axis=0)
    assert len(row) <= 48
    return np.repeat(row[None], 20, axis=0)


def test_a_palette_has_as_many_colours_as_its_place_says() -> None:
    found = palettes(photos.astronaut())
    assert [len(palette) for palette in found] == [1, 2, 3, 4, 5, 6, 7]
    values = [value for palette in found for colour in palette for value in colour]
    assert all(type(value) is int and 0 <= value <= 255 for value in values)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_known_colours_come_back_most_frequent_first(count: int) -> None:
    widths = list(range(3, 3 + count))
    image = stripes(widths, COLOURS[:count])
    assert palettes(image)[count - 1] == COLOURS[:count][::-1]
    mean = image.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(palettes(image)[0][0], mean, atol=0.5 + 1e-6)


def test_noise_around_known_colours() -> None:
    image = stripes([24, 16, 8], COLOURS[:3]).astype(int)
    noisy = (image + np.random.default_rng(0).integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)
    np.testing.assert_allclose(palettes(noisy)[2], COLOURS[:3], atol=2)


def test_an_image_of_few_colours_repeats_them() -> None:
    found = palettes(stripes([10, 20], COLOURS[:2]))
    assert found[1] == [COLOURS[1], COLOURS[0]]
    assert found[4] == [COLOURS[1], COLOURS[0], COLOURS[1], COLOURS[0], COLOURS[1]]
    assert palettes(np.full((9, 9, 3), 77, np.uint8))[6] == [[77, 77, 77]] * 7


def test_equally_frequent_colours_are_ordered_by_value() -> None:
    assert palettes(stripes([8, 8], [[9, 1, 1], [2, 1, 1]]))[1] == [[2, 1, 1], [9, 1, 1]]
    assert palettes(stripes([8, 8], [[2, 1, 1], [9, 1, 1]]))[1] == [[2, 1, 1], [9, 1, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (1, 5000), (5000, 1), (49, 47), (2000, 5000)])
def test_extreme_sizes(shape: tuple[int, int]) -> None:
    image = np.broadcast_to(np.array([1, 2, 3], np.uint8), (*shape, 3))
    assert palettes(image)[2] == [[1, 2, 3]] * 3


def test_neighbours_threads_and_random_state_do_not_matter() -> None:
    images = [photos.astronaut(), photos.coffee(), photos.chelsea(), photos.astronaut()[::-1]]
    items = [Item(str(i), image, None) for i, image in enumerate(images)]
    together = Palette()(items)
    cv2.setRNGSeed(123)
    assert [palettes(image) for image in images] == together

    def run(i: int) -> Any:
        cv2.setRNGSeed(i)
        return palettes(images[i % len(images)])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(12))) == together * 3
