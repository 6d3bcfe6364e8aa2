"""How well an image pleases, by a head on CLIP's embedding: LAION's aesthetic predictors, and heads like them.

LAION's improved predictor (christophschuhmann/improved-aesthetic-predictor) is five linear layers on the embedding of
CLIP ViT-L/14, scaled to length 1: 768 to 1,024, 128, 64, 16 and 1 numbers, with dropout between them and nothing
else, stored as `layers.0.weight`, `layers.2.weight`, ... in a pickle of tensors. Its first one is a single layer,
`weight` and `bias`. Any chain of linear layers by such names is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from pydantic import PrivateAttr

from ...reject import Reject
from .. import weight_files
from ..base import Item
from ..pretrained import Pretrained

_FILES = ("*.safetensors", *weight_files.PICKLED)
_NAME = re.compile(r"(?:(?:layers|linear|mlp|model)\.)?(?:(\d+)\.)?(weight|bias)")

Layer = tuple[np.ndarray, np.ndarray]  # weights float32 (outputs, inputs) and biases (outputs,)


class AestheticHead(Pretrained):
    """A score for each image, about 1 to 10 of LAION's heads. `weights` is needed: a file, or a folder with one."""

    name: ClassVar[str] = "aesthetic_head"
    label: ClassVar[str] = "aesthetic"
    task: ClassVar[str] = "aesthetic scores of CLIP embeddings"
    licence: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("clip_global",)
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    gpus: ClassVar[float] = 0.0
    memory_gb: ClassVar[float] = 0.05
    batch_size: ClassVar[int] = 64

    _layers: list[Layer] = PrivateAttr(default_factory=list)

    def setup(self, device: str) -> None:
        """Read the layers; it computes on the CPU. ValueError if they make no score of an embedding."""
        path = self.file(*_FILES)
        self._verify(path)
        state = self.state_dict(*_FILES)
        try:
            self._layers = layers(
                {name: tensor.float().numpy() for name, tensor in state.items() if _NAME.fullmatch(name)}
            )
        except ValueError as error:
            raise ValueError(f"{self.label}: {path} is no head of linear layers: {error}") from error

    def __call__(self, items: Sequence[Item]) -> list[float | Reject]:
        """The score of each item."""
        return [self._score(item.labels["clip_global"]) for item in items]

    def _score(self, embedding: np.ndarray) -> float | Reject:
        takes = self._layers[0][0].shape[1]
        if embedding.shape != (takes,):
            return Reject(f"{self.label}: clip_global has {embedding.size} numbers, the head takes {takes}")
        vector = embedding.astype(np.float32)
        length = float(np.linalg.norm(vector))
        if not length:
            return Reject(f"{self.label}: clip_global is zero")
        vector /= length
        for weight, bias in self._layers:
            vector = weight @ vector + bias
        score = float(vector[0])
        return score if math.isfinite(score) else Reject(f"{self.label}: the head gives {score}")


def layers(tensors: Mapping[str, np.ndarray]) -> list[Layer]:
    """Linear layers by the numbers in their names, each taking what the one before it gives, the last one a single
    number. ValueError if they are none."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        assert match is not None, "others are left out before"
        parts.setdefault(int(match[1] or 0), {})[match[2]] = tensor
    found: list[Layer] = []
    for number, part in sorted(parts.items()):
        if part.keys() != {"weight", "bias"} or part["weight"].ndim != 2:
            raise ValueError(f"layer {number} has no weight and bias")
        weight, bias = part["weight"], part["bias"]
        if bias.shape != weight.shape[:1] or (found and weight.shape[1] != len(found[-1][1])):
            raise ValueError(f"layer {number} has weights {weight.shape} and biases {bias.shape}, which fit nothing")
        found.append((weight, bias))
    if not found or len(found[-1][1]) != 1:
        raise ValueError(f"got {len(found)} layers, expected some, of which the last one gives one number")
    return found
