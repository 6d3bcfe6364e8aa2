"""Losses of tokenizers against values worked out by hand, and LPIPS on weights from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fourmill.train.tokenizers.losses import lpips, reconstruction_loss


def test_losses() -> None:
    x, recon = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0)
    values = {name: reconstruction_loss(recon, x, name).item() for name in ("mse", "l1", "smooth_l1")}
    assert values == {"mse": 4.0, "l1": 2.0, "smooth_l1": 1.5}
    assert reconstruction_loss(recon, x, "mse", 1.0).item() == 4.0  # a constant error has no differences
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1.0
    # Squared error 0.5; horizontal differences of 1 at full scale, none when averaged over pairs.
    assert reconstruction_loss(stripes, x, "mse", 1.0).item() == pytest.approx(0.5 + 1 / 3)
    labels = torch.randint(5, (2, 8, 8))
    logits = F.one_hot(labels, 5).permute(0, 3, 1, 2) * 50.0
    assert reconstruction_loss(logits, labels, "cross_entropy").item() < 1e-6
    assert reconstruction_loss(-recon, recon, "cosine").item() == pytest.approx(2.0)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert reconstruction_loss(vectors, vectors.flip(1), "cosine").item() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layers of torchvision's VGG-16 that LPIPS uses, at random."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = vgg16(weights=None).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.mark.slow  # VGG-16's 138 M weights are drawn at random first
def test_lpips_is_0_for_equal_pictures_and_has_a_gradient(backbone: Path) -> None:
    distance = lpips(str(backbone), "cpu")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = F.avg_pool2d(x, 3, 1, 1).requires_grad_()
    value = distance(blurred, x)
    value.backward()
    assert distance(x, x).item() == pytest.approx(0, abs=1e-7) and value.item() > 1e-4
    assert blurred.grad is not None and blurred.grad.abs().sum() > 0
    assert lpips(str(backbone), "cpu")(blurred, x).item() == value.item()  # no layer is left at random


@pytest.mark.slow
def test_lpips_says_what_is_missing(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .* download torchvision's VGG-16"):
        lpips(str(tmp_path / "no.pth"), "cpu")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected torchvision's VGG-16"):
        lpips(str(tmp_path / "other.pth"), "cpu")


@pytest.mark.parametrize("loss", ["mse", "l1", "smooth_l1", "cosine"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 8)], ids=["maps", "series"])
def test_what_has_no_weight_counts_nothing(loss: str, shape: tuple[int, ...]) -> None:
    """Whatever is predicted there, and no gradient comes from it; an equal weight of all changes nothing."""
    random = torch.Generator().manual_seed(0)
    target, prediction = (torch.randn(shape, generator=random) for _ in range(2))
    known = torch.rand(shape[0], 1, *shape[2:], generator=random) < 0.6
    wild = torch.where(known, prediction, 1e6 * prediction).requires_grad_()
    values = [reconstruction_loss(one, target, loss, 0.5, known) for one in (prediction, wild)]
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(values[1], wild)
    assert (
        gradient.isfinite().all() and not gradient[~known.expand(shape)].any() and gradient[known.expand(shape)].any()
    )
    plain = reconstruction_loss(prediction, target, loss, 0.5)
    for weight in (torch.ones(shape), 7.0 * torch.ones(1, *shape[1:])):
        assert reconstruction_loss(prediction, target, loss, 0.5, weight).item() == pytest.approx(
            plain.item(), rel=1e-5
        )
    assert reconstruction_loss(prediction, target, loss, 0.5, torch.zeros(shape)).item() == 0


def test_weights_are_those_of_a_weighted_mean() -> None:
    """Inverse variances: the error of a value that is four times as sure counts four times."""
    prediction, target = torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2)
    weight = torch.tensor([[[4.0, 1.0]]])
    assert reconstruction_loss(prediction, target, "mse", weight=weight).item() == pytest.approx((4 * 1 + 9) / 5)
    logits, classes = torch.tensor([[[[5.0, 0.0]], [[0.0, 5.0]]]]), torch.zeros(1, 1, 2)
    right, wrong = -F.log_softmax(torch.tensor([5.0, 0.0]), 0)
    found = reconstruction_loss(logits, classes, "cross_entropy", weight=weight)
    assert found.item() == pytest.approx((4 * right.item() + wrong.item()) / 5)


def test_differences_need_both_neighbours() -> None:
    """A step between a known value and an unknown one is no edge."""
    error = torch.zeros(1, 1, 4, 4)
    error[..., 2:] = 9.0
    known = torch.zeros(1, 1, 4, 4)
    known[..., :2] = 1.0
    assert reconstruction_loss(error, torch.zeros_like(error), "mse", 1.0, known).item() == 0
