"""What tokenizers are worth, against values worked out by hand, in the unit of each label."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fourmill.modalities import BODY_POSE, NO_CLASS, SAM_MASK
from fourmill.tokenize.inputs import to_input
from fourmill.train.tokenizers.quality import quality, structural_similarity

IDS = torch.tensor([[[0, 1], [2, 3]]])


class Fixed(torch.nn.Module):
    """A tokenizer whose ids and reconstruction are given."""

    def __init__(self, recon: torch.Tensor, ids: torch.Tensor = IDS, books: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(codebook_size=64, num_codebooks=books, statistics=None)
        self.recon, self.ids = recon, ids
        self.eval()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.ids

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        return self.recon


def measured(name: str, recon: torch.Tensor, rows: np.ndarray, **options: Any) -> dict[str, float]:
    model: Any = Fixed(recon, **options)
    return quality(name, model, [rows])


def test_pictures_in_decibels() -> None:
    rows = np.random.default_rng(0).integers(60, 200, (1, 16, 16, 3), np.uint8)
    result = measured("tok_rgb", to_input("tok_rgb", rows) + 0.2, rows)  # 0.2 of a range of 2: 20 dB
    assert result["psnr"] == pytest.approx(20, abs=1e-4)
    assert 0.9 < result["ssim"] < 1 and "lpips" not in result
    assert measured("tok_rgb", to_input("tok_rgb", rows), rows)["ssim"] == pytest.approx(1, abs=1e-5)
    assert result["codes_used"] == 4 / 64 and result["perplexity"] == pytest.approx(4)
    assert (result["tokens"], result["samples"]) == (4, 1)


def test_structural_similarity_is_the_librarys() -> None:
    from torchmetrics.functional.image.ssim import structural_similarity_index_measure

    a, b = torch.rand(2, 2, 3, 20, 24, generator=torch.Generator().manual_seed(0)).double()
    b = (a + b) / 2
    expected = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    torch.testing.assert_close(structural_similarity(a, b), expected)


def test_lpips_is_measured_where_its_backbone_is() -> None:
    rows = np.zeros((2, 16, 16, 3), np.uint8)
    model: Any = Fixed(to_input("tok_rgb", rows))
    assert quality("tok_rgb", model, [rows, rows], perceptual=lambda a, b: torch.tensor(0.25))["lpips"] == 0.25


def test_edges_by_pixels() -> None:
    rows = np.array([[[255, 255, 0, 0]]], np.uint8)
    recon = torch.tensor([[[[1.0, -1.0, 1.0, -1.0]]]])
    result = measured("tok_canny_edge", recon, rows)
    assert (result["precision"], result["recall"], result["f1"], result["mse"]) == (0.5, 0.5, 0.5, 0.5)
    assert result["iou"] == pytest.approx(1 / 3)


def test_depth_up_to_scale_and_shift() -> None:
    rows = np.linspace(0.2, 1, 64, dtype=np.float16).reshape(1, 8, 8)
    result = measured("tok_depth", 7 * torch.from_numpy(rows)[:, None].float() - 3, rows)
    assert result["mae"] == pytest.approx(0, abs=1e-6) and result["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert result["delta1"] == 1
    # Half of the map of a constant 0.5, the other half off by 0.1 up and down: no line explains that.
    rows = np.full((1, 2, 4), 0.5, np.float16)
    rows[0, 0], rows[0, 1] = 0.25, 0.75
    recon = torch.tensor([[[[0.0, 0.2, 0.0, 0.2], [1.0, 1.2, 1.0, 1.2]]]])
    x, y = recon.flatten().numpy(), rows.astype(np.float64).ravel()
    slope, shift = np.polyfit(x, y, 1)
    error = np.abs(slope * x + shift - y)
    result = measured("tok_depth", recon, rows)
    assert result["mae"] == pytest.approx(error.mean() / 0.5) and result["abs_rel"] == pytest.approx((error / y).mean())


def test_normals_in_degrees() -> None:
    rows = np.zeros((1, 2, 2, 3), np.float16)
    rows[..., 2] = 1
    turned = torch.zeros(1, 3, 2, 2)
    for i, degrees in enumerate((0, 10, 30, 90)):
        angle = math.radians(degrees)
        turned[0, :, i // 2, i % 2] = torch.tensor([math.sin(angle), 0, math.cos(angle)])
    result = measured("tok_normal", 3 * turned, rows)  # only directions count
    assert result["mean_degrees"] == pytest.approx(32.5, abs=0.05)
    assert result["median_degrees"] == pytest.approx(10, abs=0.2)
    assert "mean_degrees" not in measured("tok_normal", turned, np.zeros_like(rows))  # nothing to compare with


def test_classes_without_those_that_are_none() -> None:
    rows = np.array([[[3, 3, 7, NO_CLASS]]], np.uint8)
    logits = F.one_hot(torch.tensor([[[4, 4, 0, 9]]]), 134).permute(0, 3, 1, 2).float()
    result = measured("tok_semseg", logits, rows)
    assert result["accuracy"] == pytest.approx(2 / 3) and result["miou"] == pytest.approx((1 + 0) / 2)


def test_masks_by_their_pixels() -> None:
    rows = np.zeros((2, 4, 4), np.uint8)
    rows[0, :2], rows[1, :, :2] = 1, 1
    recon = torch.zeros(2, 4, 4, dtype=torch.long)
    recon[0, :1], recon[1, :, :2] = 1, 1
    result = measured(SAM_MASK, F.one_hot(recon, 2).permute(0, 3, 1, 2).float(), rows)
    assert result["iou"] == pytest.approx((0.5 + 1) / 2) and result["accuracy"] == pytest.approx((0.75 + 1) / 2)


@pytest.mark.parametrize("name", ["tok_clip", "tok_dinov2_global"])
def test_features_by_cosine(name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 2, 2, 4) if name == "tok_clip" else (1, 4)).astype(np.float16)
    x = to_input(name, rows)
    result = measured(name, -x, rows)
    assert result["cosine"] == pytest.approx(-1) and result["mse"] == pytest.approx(4 * x.square().mean().item())


def test_poses_in_degrees_of_joint_rotations() -> None:
    def around_z(degrees: float) -> torch.Tensor:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    rows = torch.eye(3).expand(1, 23, 3, 3).reshape(1, 207).half().numpy()
    recon = torch.stack([around_z(20.0)] * 22 + [around_z(180.0)]).reshape(1, 207)
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    result = measured(BODY_POSE, 1.7 * recon, rows, ids=ids, books=8)  # no rotations, but near these
    assert result["mean_degrees"] == pytest.approx((22 * 20 + 180) / 23, abs=0.05)
    assert result["median_degrees"] == pytest.approx(20, abs=0.2)
    # One code of 64 in each of eight books.
    assert result["codes_used"] == 1 / 64 and result["perplexity"] == pytest.approx(1) and result["tokens"] == 8


def test_without_a_batch_there_is_no_quality() -> None:
    model: Any = Fixed(torch.zeros(1))
    with pytest.raises(ValueError, match="tok_rgb: got no batch"):
        quality("tok_rgb", model, [])
