"""Run lengths and exact windows of masks."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from fourmill.tokenize import masks


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)))
def test_any_mask_comes_back_through_json(mask: np.ndarray) -> None:
    code = json.loads(json.dumps(masks.encode(mask)))
    assert np.array_equal(masks.decode(code), mask)
    by_coco = coco.decode({"size": code["size"], "counts": code["counts"].encode()})
    assert np.array_equal(by_coco, mask)


def test_long_runs_and_bools() -> None:
    disc = np.zeros((700, 900), np.uint8)
    cv2.circle(disc, (400, 300), 220, 1, -1)
    assert np.array_equal(masks.decode(masks.encode(disc.astype(bool))), disc)
    assert masks.decode(masks.encode(np.ones((700, 900)))).all()


GOOD = masks.encode(np.eye(6))


@pytest.mark.parametrize(
    "code",
    [
        {}, None, "text", {"size": [6, 6]}, {"size": [6], "counts": "0"}, {"size": [6, 6], "counts": b"0"},
        GOOD | {"size": [6, 7]}, GOOD | {"size": [-6, -6]}, GOOD | {"counts": GOOD["counts"][:-1]},
        GOOD | {"counts": ""}, GOOD | {"counts": "\u00ff"}, GOOD | {"counts": "zzzzzz"}, GOOD | {"counts": "PO"},
    ],
)  # fmt: skip
def test_damaged_codes_are_refused(code: Any) -> None:
    with pytest.raises(ValueError, match="mask: got"):
        masks.decode(code)


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_any_text_is_refused_or_a_mask(counts: str, height: int, width: int) -> None:
    try:
        mask = masks.decode({"size": [height, width], "counts": counts})
    except ValueError:
        return
    assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 1}


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 5\)"):
        masks.encode(np.zeros((0, 5)))


def test_a_window_is_the_exact_average() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (12, 18))
    whole = masks.resample(mask, (0, 0, 18, 12), 6)
    assert np.allclose(whole, mask.reshape(6, 2, 6, 3).mean(axis=(1, 3)), atol=1e-6)
    assert np.allclose(masks.resample(mask, (2, 1, 8, 7), 6), mask[1:7, 2:8])
    assert np.allclose(masks.resample(mask, (2, 1, 4, 3), 6), np.kron(mask[1:3, 2:4], np.ones((3, 3))), atol=1e-6)


def test_windows_that_are_not_whole_or_leave_the_mask() -> None:
    mask = np.ones((4, 4), np.uint8)
    assert np.allclose(masks.resample(mask, (-2, 0, 2, 4), 4), [[0, 0, 1, 1]] * 4)
    assert np.allclose(masks.resample(mask, (-0.5, 1, 0.5, 2), 2), [[0, 1], [0, 1]])
    half = np.array([[1, 0]])
    assert np.allclose(masks.resample(half, (0.5, 0, 1.5, 1), 1), 0.5)
