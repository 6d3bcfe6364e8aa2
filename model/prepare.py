"""What happens to a packed batch on the host, so that a step on the device never waits for it.

Legend: B samples, N input budget, M target budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from .batch import PackedBatch
from .config import FourMConfig
from .positions import position_rows


@dataclass(frozen=True)
class TargetGroups:
    """The valid targets of a batch, grouped by modality.

    index: int64 (valid,), flat positions in (B, M), sorted by modality, in batch-major order within each.
    counts: how many belong to each modality of the config.
    """

    index: torch.Tensor
    counts: tuple[int, ...]

    def to(self, device: torch.device | str) -> TargetGroups:
        return TargetGroups(self.index.to(device, non_blocking=True), self.counts)

    def pinned(self) -> TargetGroups:
        return TargetGroups(self.index.pin_memory(), self.counts)


def group_targets(batch: PackedBatch, num_modalities: int) -> TargetGroups:
    """Group the valid targets; free for NumPy batches, one wait for the device for batches that are there already."""
    valid = np.flatnonzero(_host(batch.target_valid).reshape(-1))
    mod = _host(batch.target_mod).reshape(-1)[valid]
    # Heads run on slices of the targets, whose sizes the host must know: counted in NumPy they cost no wait for the
    # device.
    counts = np.bincount(mod, minlength=num_modalities)
    # Stable: within a modality targets stay in batch-major order, as `FourMOutput.logits` promises.
    index = valid[np.argsort(mod, kind="stable")]
    return TargetGroups(torch.from_numpy(index.astype(np.int64)), tuple(int(n) for n in counts))


def only_shown(config: FourMConfig, batch: PackedBatch) -> PackedBatch:
    """A NumPy batch of which `values` hold only what inputs show: an RGB image has 150 kB, T5's vectors 640.

    Returns:
        `values` as (R, D), rows of all samples one after the other, one row of zeros where nothing is shown; the ids of
        these inputs count them.
    """
    ids, values = np.asarray(batch.input_ids), {}
    for name, raw in batch.values.items():
        rows = np.asarray(raw)
        here = np.asarray(batch.input_valid) & (np.asarray(batch.input_mod) == config.index(name))
        samples = np.nonzero(here)[0]
        values[name] = rows[samples, ids[here]] if len(samples) else np.zeros((1, rows.shape[-1]), rows.dtype)
        ids = ids.copy()
        ids[here] = np.arange(len(samples))
    # Of modalities that the model has and the run does not: workers that exchange gradients wait for all of them.
    for spec in config.modalities:
        if spec.name in config.inputs and not spec.is_target and spec.name not in values:
            values[spec.name] = np.zeros((1, spec.input_dim), np.float32)
    return replace(batch, input_ids=ids, values=values)


def to_tensors(
    batch: PackedBatch, device: torch.device | str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The arrays of a batch as tensors on `device`, by field name, and its values by modality."""
    moved = batch.to(device)
    arrays = {name: torch.as_tensor(array) for name, array in moved.arrays().items()}
    return arrays, {name: torch.as_tensor(x) for name, x in moved.values.items()}


def check_batch(config: FourMConfig, batch: PackedBatch) -> None:
    """Refuse a NumPy batch that would read past a modality's own rows.

    The tables of all modalities are one, so that a wrong id reads its neighbour's row and raises nothing.

    Raises:
        ValueError: naming side, modality, sample and the number that is out of range.
    """
    specs = config.modalities
    vocabulary = np.array([s.vocab_size for s in specs])
    rows = np.array([batch.values[s.name].shape[-2] if s.name in batch.values else 0 for s in specs])
    positions = np.array([position_rows(s) for s in specs])
    inputs = (batch.input_ids, batch.input_mod, batch.input_pos, batch.input_valid)
    targets = (batch.target_ids, batch.target_mod, batch.target_pos, batch.target_valid)
    queries = (batch.query_ids, batch.target_mod, batch.target_pos, batch.target_valid)
    sides = (
        ("input", config.inputs, np.where(vocabulary > 0, vocabulary, rows), 0, inputs),
        ("target", config.outputs, vocabulary, 0, targets),
        ("query", config.outputs, vocabulary, -1, queries),
    )
    for side, names, sizes, lowest, (ids, mod, pos, valid) in sides:
        # Modalities first: the other checks index tables by them.
        known = np.array([s.name in names for s in specs])
        ids, mod, pos, valid = (_host(x) for x in (ids, mod, pos, valid))
        _refuse(side, "modality", mod, valid & ~((mod >= 0) & (mod < len(specs))), mod, config, batch)
        checks = (
            ("modality", mod, ~known[mod], "one of " + ", ".join(names)),
            ("id", ids, (ids < lowest) | (ids >= sizes[mod]), "an id below the vocabulary size (or the values given)"),
            ("position", pos, (pos < -1) | (pos >= positions[mod]), "a row of the position table, or -1"),
        )
        for what, numbers, bad, expected in checks:
            _refuse(side, what, numbers, valid & bad, mod, config, batch, expected)


def _refuse(
    side: str,
    what: str,
    numbers: np.ndarray,
    bad: np.ndarray,
    mod: np.ndarray,
    config: FourMConfig,
    batch: PackedBatch,
    expected: str = "a modality of the model",
) -> None:
    if not bad.any():
        return
    b, i = (int(x) for x in np.argwhere(bad)[0])
    m = int(mod[b, i])
    name = config.modalities[m].name if 0 <= m < len(config.modalities) else m
    sample = batch.keys[b] if b < len(batch.keys) else b
    raise ValueError(
        f"{side} token {i} of sample {sample!r}: {what} {int(numbers[b, i])} of modality {name!r}, "
        f"expected {expected}; check that tokenizers, recipe and model have the same sizes"
    )


def _host(x: np.ndarray | torch.Tensor) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()
