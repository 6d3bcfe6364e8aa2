"""What a reconstruction is compared by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

_GRADIENT_SCALES = 3


def reconstruction_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    loss: str,
    gradient_weight: float = 0.0,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """The error of a prediction: scalar, mean over elements.

    Args:
        prediction: (B, C, H, W), series (B, C, L) or vectors (B, D); with "cross_entropy" logits (B, n, H, W).
        target: likewise; with "cross_entropy" class ids (B, H, W). Finite also where the weight is 0.
        loss: mse, l1, smooth_l1, cosine (along C) or cross_entropy.
        gradient_weight: of the absolute error of finite differences, for pictures and series.
        weight: of each value, 0 or more: a mask of those that are known, or their inverse variance; of the target's
            shape, or one that broadcasts to it. The mean is then a weighted one; of nothing but zeros it is 0.
    """
    if loss == "cross_entropy":
        classes = target.long()
        if weight is None:
            return F.cross_entropy(prediction, classes)
        return _mean(F.cross_entropy(prediction, classes, reduction="none"), weight)
    if loss == "cosine":
        likeness = F.cosine_similarity(prediction, target, dim=1)
        # An angle is of all channels together, and so is its weight.
        return 1 - likeness.mean() if weight is None else _mean(1 - likeness, weight.to(likeness.dtype).mean(1))
    errors = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[loss]
    if weight is None:
        distance = errors(prediction, target)
    else:
        distance = _mean(errors(prediction, target, reduction="none"), weight)
    if not gradient_weight:
        return distance
    return distance + gradient_weight * _gradient_loss(prediction - target, weight)


def _mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype).expand_as(values)
    # Where nothing is known there is nothing to learn, and no number that is none.
    return (weight * values).sum() / weight.sum().clamp(min=torch.finfo(values.dtype).tiny)


def _gradient_loss(error: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Absolute differences of neighbouring errors (B, C, ...), mean over scales 1, 1/2, 1/4.

    A difference weighs as much as the less known of its two values.
    """
    axes, pool = range(2, error.ndim), F.avg_pool2d if error.ndim == 4 else F.avg_pool1d
    if weight is not None:
        weight = weight.to(error.dtype).expand_as(error)
    total = error.new_zeros(())
    # Coarse scales weigh edges that are blurred over several pixels.
    for scale in range(_GRADIENT_SCALES):
        if scale and weight is None:
            error = pool(error, 2)
        elif scale and weight is not None:
            known = pool(weight, 2)
            error, weight = pool(weight * error, 2) / known.clamp(min=torch.finfo(error.dtype).tiny), known
        for axis in axes:
            both = None
            if weight is not None:
                size = weight.shape[axis] - 1
                both = torch.minimum(weight.narrow(axis, 0, size), weight.narrow(axis, 1, size))
            total = total + _mean(error.diff(dim=axis).abs(), both)
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
