"""Elementary measures with answers worked out by hand; `quality` and the report's errors are built of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fourmill.train.tokenizers import measures


@pytest.mark.parametrize("peak", [1.0, 2.0, 255.0])
def test_psnr_is_of_each_picture(peak: float) -> None:
    true = torch.zeros(3, 2, 4, 4)
    found = true + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None] * peak
    assert measures.psnr(found, true, peak).tolist() == pytest.approx([20, 40, measures.MAX_PSNR], rel=1e-5)


def test_overlap_is_of_each_mask() -> None:
    true = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert [part.tolist() for part in measures.overlap(found, true)] == [[1, 0], [3, 0]]


def test_mean_iou_is_over_classes_that_occur() -> None:
    hits, union = measures.class_overlap(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 1, 1, 0]), 5)
    assert (hits.tolist(), union.tolist()) == ([1, 1, 0, 0, 0], [3, 2, 0, 1, 0])
    assert measures.mean_iou(hits, union).item() == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert math.isnan(measures.mean_iou(hits * 0, union * 0).item())


def test_depth_is_aligned_and_in_shares_of_its_range() -> None:
    true = torch.linspace(2, 6, 50, dtype=torch.float64).repeat(2, 1)
    found = torch.stack([true[0] * -3 + 7, true[1] * 0 + 1])
    aligned = measures.aligned_depth(found, true)
    torch.testing.assert_close(aligned[0], true[0])
    torch.testing.assert_close(aligned[1], torch.full_like(true[1], 4.0))  # the mean is all that a constant says
    assert measures.depth_error(aligned, true).tolist() == pytest.approx([0, 0.25], abs=0.01)


def test_degrees_between_vectors_and_rotations() -> None:
    true = torch.tensor([[1.0, 0], [0, 2]], dtype=torch.float64)
    assert measures.degrees(true.flip(1), true, dim=1).tolist() == pytest.approx([90, 90])
    assert measures.degrees(true * 3, true, dim=1).tolist() == pytest.approx([0, 0], abs=1e-5)
    turns = Rotation.random(5, rng=np.random.default_rng(0)).as_matrix()
    turned = turns @ Rotation.from_euler("z", 35, degrees=True).as_matrix()
    # Scaled matrices are no rotations: the nearest ones are compared.
    assert measures.rotation_degrees(turned * 1.7, turns).tolist() == pytest.approx([35] * 5)
