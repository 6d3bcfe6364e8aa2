"""SAM edges: every border of the instance map, and nothing else."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.instances.sam_edges import SamEdges, border_edges, instance_map
from fourmill.tokenize import masks


def box(shape: tuple[int, int], left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    mask = np.zeros(shape, np.uint8)
    mask[top:bottom, left:right] = 1
    return {"mask": masks.encode(mask), "area": float(mask.mean())}


def edges(shape: tuple[int, int], *instances: dict[str, Any]) -> np.ndarray:
    (label,) = SamEdges()([Item("k", np.zeros((*shape, 3), np.uint8), None, labels={"sam_instance": list(instances)})])
    assert isinstance(label, np.ndarray) and label.shape == shape and label.dtype == np.uint8
    assert set(np.unique(label)) <= {0, 255}
    return label


def test_without_instances_there_is_no_edge() -> None:
    assert not edges((30, 40)).any()


def test_a_border_is_a_thin_closed_line() -> None:
    label = edges((60, 80), box((60, 80), 20, 10, 60, 50))
    assert label[11:49, 21:59].sum() == 0 and label[:9].sum() == 0 and label[:, :19].sum() == 0
    inside = cv2.connectedComponents((label == 0).astype(np.uint8), connectivity=4)[0] - 1
    assert inside == 2  # what the line parts
    assert (label > 0).sum() == pytest.approx(2 * (40 + 40), abs=8)


def test_small_ones_are_drawn_over_large_ones() -> None:
    shape = (60, 80)
    large, small = box(shape, 5, 5, 75, 55), box(shape, 30, 20, 50, 40)
    drawn = instance_map([small, large], *shape)
    assert drawn[30, 40] == 2 and drawn[10, 10] == 1 and drawn[0, 0] == 0
    np.testing.assert_array_equal(edges(shape, large, small), edges(shape, small, large))
    assert edges(shape, large, small)[18:42, 28:52].any()


def test_neighbours_have_a_border_whatever_their_numbers() -> None:
    """Two halves of numbers a and b give the same line for all pairs."""
    left_half = np.arange(40) < 20
    expected = border_edges(np.where(left_half, 0, 1) * np.ones((30, 1), np.int32))
    assert (expected > 0).any(1).all()
    for first, second in ((1, 2), (127, 128), (3, 1023), (254, 255), (700, 699)):
        numbers = (np.where(left_half, first, second) * np.ones((30, 1), np.int32)).astype(np.int32)
        np.testing.assert_array_equal(border_edges(numbers), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 600))
def test_edges_do_not_depend_on_how_instances_are_numbered(seed: int, count: int) -> None:
    """Exactly where a map has two numbers; where three meet, Canny may choose another of the pixels."""
    rng = np.random.default_rng(seed)
    numbers = np.kron(rng.integers(0, count, (3, 4)), np.ones((16, 16), np.int64)).astype(np.int32)
    others = rng.permutation(count).astype(np.int32)[numbers]
    first, second = border_edges(numbers) > 0, border_edges(others) > 0
    assert (first ^ second).mean() < 0.02
    flat = cv2.erode((cv2.dilate(numbers.astype(np.float32), np.ones((5, 5))) == numbers).astype(np.uint8), None)
    steady = (flat > 0) & (cv2.erode(numbers.astype(np.float32), np.ones((5, 5))) == numbers)
    assert not first[steady].any()


def test_masks_of_another_image_are_a_reject() -> None:
    item = Item("k", np.zeros((30, 40, 3), np.uint8), None, labels={"sam_instance": [box((30, 41), 1, 1, 9, 9)]})
    missing = Item("k", np.zeros((30, 40, 3), np.uint8), None)
    wrong, none = SamEdges()([item, missing])
    assert isinstance(wrong, Reject) and "30 x 41" in wrong.reason
    assert isinstance(none, Reject)
