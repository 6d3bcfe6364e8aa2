"""Specialists and items of tests that care for shapes and not for what a picture shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fourmill.pipelines.specialists.base import Item


def ready(specialist: Any) -> Any:
    """A specialist that is set up on one thread of the CPU."""
    torch.set_num_threads(1)
    specialist.setup("cpu")
    return specialist


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def items(*images: np.ndarray) -> list[Item]:
    return [Item(str(i), image, None) for i, image in enumerate(images)]
