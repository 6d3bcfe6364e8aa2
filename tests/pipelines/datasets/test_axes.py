"""The axes of normals follow from depth, in whatever order and sign a file has them."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from fourmill_tests.tiny import datasets

from fourmill.pipelines.datasets import axes


def pairs(order: tuple[int, ...], signs: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Planes with vectors that have the component order[i] in place i, with a sign."""
    made = []
    for slope in datasets.SLOPES:
        vector = np.array(slope)[list(order)] * signs
        made.append((datasets.plane(slope), np.tile(vector, (datasets.HEIGHT, datasets.WIDTH, 1))))
    return made


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_order_and_sign_is_found(order: tuple[int, ...]) -> None:
    for signs in product((1, -1), repeat=3):
        given = pairs(order, signs)
        found = axes.find(given)
        for (_, vectors), slope in zip(given, datasets.SLOPES, strict=True):
            assert np.allclose(found.turned(vectors)[0, 0], slope)
        assert found.agreement > 0.99
    assert str(axes.find(pairs((0, 1, 2), (1, -1, -1)))) == "right, up, toward the viewer are x, -y, -z of the files"


def test_normals_of_depth_are_those_of_the_plane() -> None:
    flat = axes.of_depth(datasets.plane((0, 0, 1)))
    assert np.isnan(flat[0]).all() and np.allclose(flat[1:-1, 1:-1], (0, 0, 1))


def test_normals_of_something_else_are_refused() -> None:
    noise = np.random.default_rng(0).normal(size=(datasets.HEIGHT, datasets.WIDTH, 3))
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    with pytest.raises(ValueError, match="by no order of axes"):
        axes.find([(datasets.plane((0, 0, 1)), noise)])
    with pytest.raises(ValueError, match="no pixel has both"):
        axes.find([(datasets.plane((0, 0, 1)), np.zeros_like(noise))])
