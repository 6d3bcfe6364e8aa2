"""Fine-tuning a 4M encoder to classify images (4M-21, table 2 and appendix): one process, one device.

Settings are those of the paper's ImageNet-1K fine-tuning where it gives them, without its RandAugment and Mixup.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...model.config import FourMConfig
from ...model.downstream.heads import Classifier
from ...model.downstream.transfer import Encoder, add_lora, grid_spec
from ...model.fourm import FourM
from ...model.published.names import image_size, patch_size
from ...tokenize import crops
from ..data.prefetch import prefetch
from .kept import Keeper
from .tuning import Settings, Tuning, fill, read, rounds, schedule, write

__all__ = ["Settings", "accuracy", "build", "check", "finetune", "load", "resolved", "save", "schedule"]

THREADS = 8  # that decode images


class Images(Protocol):
    """Images with a class each, see pipelines/labelled.py."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray: ...


def resolved(settings: Settings, config: FourMConfig) -> Settings:
    """Settings with a size of images: that which a model was trained at, unless they say another."""
    if settings.image_size is not None:
        return settings
    return replace(settings, image_size=image_size(config.spec("rgb")))


def build(model: FourM, classes: int, settings: Settings) -> Classifier:
    """The untrained classifier on a model's RGB encoder."""
    torch.manual_seed(settings.seed)
    encoder = Encoder(model, ("rgb",), settings.drop_path, settings.pool == "class")
    if settings.lora_rank:
        add_lora(encoder, settings.lora_rank)
    return Classifier(encoder, classes)


def finetune(
    model: FourM,
    train: Images,
    val: Images,
    settings: Settings,
    device: str = "cpu",
    keeper: Keeper | None = None,
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a classifier.

    Args:
        keeper: goes on from the state that it has saved, and saves others.

    Returns:
        It, in evaluation mode, and for each epoch the mean training loss, and top-1 and top-5 accuracy on `val`.

    Raises:
        ValueError: there are less than two classes, or the images' size is no multiple of the model's patch.
        FloatingPointError: the loss is not finite; names the epoch.
        Stopped: the keeper has saved, since the command was asked to stop.
    """
    settings = resolved(settings, model.config)
    check(model, train, settings)
    classifier = build(model, len(train.classes), settings).to(device)
    return classifier, Tuning(classifier, _Classes(train, val, settings, device), settings, device).run(keeper)


def check(model: FourM, train: Images, settings: Settings) -> None:
    """ValueError if nothing can be learned of these images, or the model cannot read them at this size."""
    if len(train.classes) < 2:
        raise ValueError(
            f"transfer: there is one class alone, {train.classes[0]!r}; expected two or more to tell apart"
        )
    patch, size = patch_size(grid_spec(model, "rgb")), _side(resolved(settings, model.config))
    if size % patch:
        nearest = max(1, round(size / patch)) * patch
        raise ValueError(f"transfer: image_size is {size}, and the model reads patches of {patch} px; take {nearest}")


class _Classes:
    """Images to tell apart, as a task."""

    def __init__(self, train: Images, val: Images, settings: Settings, device: str) -> None:
        self.train, self.val, self.settings, self.device = train, val, settings, device
        self.rounds = rounds(len(train), settings)

    def batches(self, epoch: int, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return _training_batches(self.train, self.settings, epoch, self.device, done)

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_logits(network, inputs), targets, label_smoothing=self.settings.smoothing)

    def measure(self, network: nn.Module) -> dict[str, float]:
        return accuracy(network, self.val, self.settings, self.device)


def accuracy(classifier: nn.Module, images: Images, settings: Settings, device: str = "cpu") -> dict[str, float]:
    """Top-1 and top-5 accuracy on centre crops, at the size of `resolved` settings."""
    classifier.eval()
    hits, order = torch.zeros(2), np.arange(len(images))
    for batch, labels in _batches(images, order, settings, device, epoch=None):
        with torch.no_grad():
            ranked = _logits(classifier, batch).topk(min(5, len(images.classes)), dim=1).indices
        right = (ranked == labels[:, None]).cpu()
        hits += torch.stack([right[:, 0].sum(), right.any(dim=1).sum()])
    top1, top5 = (hits / max(len(images), 1)).tolist()
    return {"top1": top1, "top5": top5}


def save(
    classifier: Classifier,
    config: FourMConfig,
    classes: Sequence[str],
    settings: Settings,
    folder: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a classifier into a local folder.

    Args:
        about: what its configuration says besides: the call that made it, and what came of each epoch.
    """
    content = {"model": config.to_dict(), "classes": list(classes), "settings": asdict(resolved(settings, config))}
    write(classifier, content | dict(about or {}), folder)


def load(folder: str) -> tuple[Classifier, tuple[str, ...], Settings]:
    """A classifier that `save` wrote, in evaluation mode, its classes and settings. ValueError if it is none."""
    content, settings = read(folder, "a classifier that was written whole")
    classifier = build(FourM(FourMConfig.from_dict(content["model"])), len(content["classes"]), settings)
    fill(classifier, folder)
    return classifier, tuple(content["classes"]), settings


def _side(settings: Settings) -> int:
    if settings.image_size is None:
        raise ValueError("transfer: settings without image_size; take those of `resolved(settings, model.config)`")
    return settings.image_size


def _logits(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        logits: torch.Tensor = classifier({"rgb": images})
    return logits.float()


def _training_batches(
    images: Images, settings: Settings, epoch: int, device: str, done: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = np.random.default_rng((settings.seed, epoch)).permutation(len(images))
    whole = max(len(order) // settings.batch_size * settings.batch_size, min(len(order), settings.batch_size))
    return _batches(images, order[done * settings.batch_size : whole], settings, device, epoch)


def _batches(
    images: Images, order: np.ndarray, settings: Settings, device: str, epoch: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels uint8 (B, 3, size, size) and labels int64 (B,); the next batch is decoded while one is used.

    Args:
        settings: `resolved`.
    """
    side = _side(settings)

    def pixels(index: int) -> np.ndarray:
        image = images.image(index)
        size = image.shape[1], image.shape[0]
        # Crops follow from (seed, epoch, image), the order from (seed, epoch): the same call gives the same weights.
        key = f"{index}" if epoch is None else f"{epoch}/{index}"
        # The first crop of a key is the centre, which validation uses.
        windows = crops.crops(settings.seed, key, *size, 1 if epoch is None else 2, settings.crop_scale)
        return crops.apply(windows[-1], image, side)

    def batches() -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        with ThreadPoolExecutor(THREADS) as pool:
            for i in range(0, len(order), settings.batch_size):
                part = order[i : i + settings.batch_size]
                batch = torch.from_numpy(np.stack(list(pool.map(pixels, part.tolist()))))
                yield batch.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(images.labels[part])

    for batch, labels in prefetch(batches(), 1):
        yield batch.to(device), labels.to(device)
