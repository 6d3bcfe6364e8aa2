"""The packed batch: what the loader makes and the transformer reads.

Only the chosen tokens of the chosen modalities, at static shapes (B, N) and (B, M). Dense tensors for each modality
never exist; the exception is `values`, the raw inputs of modalities that have no ids (pixels, embeddings).

Legend: B samples, N input budget, M target budget. Modality indices count the model's list of `ModalitySpec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch


@dataclass
class PackedBatch:
    """One masked batch, as NumPy arrays (loader) or tensors (model).

    Input side, each (B, N):
        input_ids: int32, token id within its modality; for pixels and embeddings the row of `values[modality]`.
        input_mod: int32, index of the modality; 0 where invalid.
        input_pos: int32, row of the modality's position table; -1 means the zero vector.
        input_valid: bool. Valid tokens come first.
    Target side, each (B, M), valid tokens first and sorted by modality in the order of the model's list
    (parity with apple/ml-4m may use another order; nothing in the model relies on which):
        target_ids: int32, what is to be predicted.
        query_ids: int32, what the decoder reads there: the token before (sequences, teacher forcing), or -1 for the
            mask token (grids).
        target_mod, target_pos: int32, as on the input side.
        target_end: int32, a query sees the keys j < target_end of its row, and of these only its own modality's.
            For a grid all its targets see each other; for text the rule is causal.
        target_valid: bool.
    values: modality name -> (B, L, D) array. Pixels: uint8 patches in row-major order, flattened as (ph pw c).
        Embeddings: float16. Or (R, D), the rows of all samples that inputs show, see `only_shown`.
    keys: the samples' keys, for error messages.
    outputs: names of the modalities that the mean over modalities is taken of; all outputs of the model if empty.
    """

    input_ids: np.ndarray | torch.Tensor
    input_mod: np.ndarray | torch.Tensor
    input_pos: np.ndarray | torch.Tensor
    input_valid: np.ndarray | torch.Tensor
    target_ids: np.ndarray | torch.Tensor
    query_ids: np.ndarray | torch.Tensor
    target_mod: np.ndarray | torch.Tensor
    target_pos: np.ndarray | torch.Tensor
    target_end: np.ndarray | torch.Tensor
    target_valid: np.ndarray | torch.Tensor
    values: dict[str, np.ndarray | torch.Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    outputs: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch as tensors on `device`; NumPy arrays are wrapped without a copy on the CPU."""

        def move(x: np.ndarray | torch.Tensor) -> torch.Tensor:
            tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
            return tensor.to(device, non_blocking=True)

        arrays: dict[str, Any] = {name: move(array) for name, array in self.arrays().items()}
        return replace(self, **arrays, values={k: move(v) for k, v in self.values.items()})

    def pinned(self) -> PackedBatch:
        """A copy as tensors in pinned memory, from which a GPU copies beside other work."""

        def pin(x: np.ndarray | torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(x).pin_memory()

        arrays: dict[str, Any] = {name: pin(array) for name, array in self.arrays().items()}
        return replace(self, **arrays, values={k: pin(v) for k, v in self.values.items()})

    def arrays(self) -> dict[str, Any]:
        """The fields of both sides, NumPy or tensors, by name: all but `values`, `keys` and `outputs`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("values", "keys", "outputs")}

    def rows(self, start: int, stop: int) -> PackedBatch:
        """Samples start..stop-1 as a batch of their own, nothing copied."""
        here = slice(start, stop)
        arrays: dict[str, Any] = {name: array[here] for name, array in self.arrays().items()}
        values = {name: value[here] for name, value in self.values.items()}
        return replace(self, **arrays, values=values, keys=self.keys[here])

    @property
    def num_samples(self) -> int:
        return self.input_ids.shape[0]
