"""What a reconstruction is compared by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

_GRADIENT_SCALES = 3


def reconstruction_loss(
    prediction: torch.Tensor, target: torch.Tensor, loss: str, gradient_weight: float = 0.0
) -> torch.Tensor:
    """The error of a prediction: scalar, mean over elements.

    Args:
        prediction: (B, C, H, W) or vectors (B, D); with "cross_entropy" logits (B, n, H, W).
        target: likewise; with "cross_entropy" class ids (B, H, W).
        loss: mse, l1, smooth_l1, cosine (along C) or cross_entropy.
        gradient_weight: of the absolute error of finite differences, for pictures.
    """
    if loss == "cross_entropy":
        return F.cross_entropy(prediction, target.long())
    if loss == "cosine":
        return 1 - F.cosine_similarity(prediction, target, dim=1).mean()
    distance = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[loss](prediction, target)
    return distance + gradient_weight * _gradient_loss(prediction, target) if gradient_weight else distance


def _gradient_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute error of horizontal and vertical differences, mean over scales 1, 1/2, 1/4."""
    error = prediction - target
    total = error.new_zeros(())
    # Coarse scales weigh edges that are blurred over several pixels.
    for scale in range(_GRADIENT_SCALES):
        if scale:
            error = F.avg_pool2d(error, 2)
        total = total + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return total / _GRADIENT_SCALES


def lpips(backbone: str, device: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """LPIPS (Zhang et al. 2018) on VGG-16, by torchmetrics: mean distance of two batches (B, 3, H, W) in [-1, 1].

    The weights of its linear layers come with torchmetrics, those of VGG-16 from a file; nothing is downloaded.

    Args:
        backbone: local file of torchvision's VGG-16 (ImageNet), .pth or .safetensors.

    Raises:
        ValueError: there is no such file, or its tensors are not VGG-16's.
    """
    # A private class: the public metric would download VGG-16. Imported here, since it takes seconds.
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(net="vgg", pnet_rand=True)
    weights = _read(backbone)
    inner = network.net.state_dict()
    # torchmetrics cuts the layers of torchvision into slices, and keeps their numbers.
    state = {name: weights.get(f"features.{name.split('.', 1)[1]}") for name in inner}
    wrong = [name for name, tensor in state.items() if tensor is None or tensor.shape != inner[name].shape]
    if wrong:
        raise ValueError(
            f"perceptual_backbone: {backbone} has no tensor for {wrong[0]}; expected torchvision's VGG-16 "
            "(vgg16-397923af.pth)"
        )
    network.net.load_state_dict(state)
    network = network.eval().to(device)

    # Pictures in training may leave [-1, 1]; VGG-16 has never seen that.
    def distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return network(prediction.clamp(-1, 1), target).mean()

    return distance


def _read(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise ValueError(
            f"perceptual_backbone: there is no file {path!r}; download torchvision's VGG-16 weights "
            "(https://download.pytorch.org/models/vgg16-397923af.pth) and give their path"
        )
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return dict(load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))
