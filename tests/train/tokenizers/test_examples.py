"""What a fit sees at a step: rows by tokenizer, in the size of the step."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.modalities import SAM_MASK
from fourmill.tokenize.settings import merge
from fourmill.train.tokenizers.examples import collect, resized, side, size_at

ADAPTED = merge("tok_rgb", {"patch_size": 8, "steps": 10, "resolutions": {"sizes": [64, 96, 128], "steps": 50}}, {})


def nothing(done: int) -> None:
    pass


def test_rows_are_collected_by_tokenizer_in_their_order() -> None:
    one, two = np.arange(6, dtype=np.float16).reshape(3, 2), np.ones((1, 4, 4), np.uint8)
    collected = collect(iter([("a", one[:2]), ("b", two), ("a", one[2:])]), 5, nothing)
    assert np.array_equal(collected["a"], one) and collected["a"].dtype == np.float16
    assert collected["b"].shape == (1, 4, 4) and collected["b"].dtype == np.uint8
    assert collect(iter([]), 5, nothing) == {}
    with pytest.raises(ValueError, match=r"fit a: got examples of shape \(3,\) after \(2,\)"):
        collect(iter([("a", one), ("a", np.zeros((1, 3), np.float16))]), 5, nothing)


def test_the_cache_is_as_large_as_the_largest_size() -> None:
    assert side("tok_rgb", ADAPTED, 64) == 128
    assert side("tok_rgb", merge("tok_rgb", {}, {}), 64) == 64
    assert side(SAM_MASK, merge(SAM_MASK, {}, {}), 224) == 64
    clip = merge("tok_clip", {}, {"patch_size": 16})
    assert side("tok_clip", clip, 224) == 14 and side("tok_dinov2_global", merge("tok_dinov2_global", {}, {}), 224) == 0


def test_sizes_are_the_crops_first_and_random_afterwards() -> None:
    assert {size_at(ADAPTED, 64, 0, step) for step in range(10)} == {64}
    later = [size_at(ADAPTED, 64, 0, step) for step in range(10, 60)]
    assert set(later) == {64, 96, 128}
    assert later == [size_at(ADAPTED, 64, 0, step) for step in range(10, 60)]
    assert later != [size_at(ADAPTED, 64, 1, step) for step in range(10, 60)]


def test_rows_are_resampled_as_their_form_wants_it() -> None:
    classes = np.zeros((2, 32, 32), np.uint8)
    classes[:, :, 16:] = 7
    half = resized("tok_semseg", classes, 16)
    assert half.shape == (2, 16, 16) and set(np.unique(half)) == {0, 7}
    grey = np.zeros((1, 32, 32, 3), np.uint8)
    grey[:, ::2] = 200
    assert np.abs(resized("tok_rgb", grey, 16).astype(int) - 100).max() <= 1  # averaged
    edges = np.zeros((1, 32, 32), np.uint8)
    edges[:, 8] = 255
    assert set(np.unique(resized("tok_canny_edge", edges, 16))) == {0, 255}
    normals = np.zeros((1, 32, 32, 3), np.float16)
    normals[..., 0], normals[:, ::2, :, 0], normals[:, ::2, :, 2] = 1, 0, 1
    halved = resized("tok_normal", normals, 16)
    np.testing.assert_allclose(np.linalg.norm(halved, axis=-1), 1, atol=1e-5)
    features = np.zeros((1, 4, 4, 8), np.float16)
    assert resized("tok_clip", features, 16) is features and resized("tok_rgb", grey, 32) is grey
