"""What a fit sees at a step: rows of examples, cached in files, in an order that is a pure function of (seed, step)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from ...modalities import OF_NO_PLACE, TOKENIZERS, Form, Size
from ...tokenize import inputs
from ...tokenize.crops import Crop
from ...tokenize.sensors.statistics import Statistics
from ...tokenize.settings import TokenizerSettings
from ..data.prefetch import prefetch
from . import augment

ReportRows = Callable[[int], None]
Weighted = tuple[torch.Tensor, torch.Tensor | None]  # a tokenizer's input, and the weight of its values


class Board(Protocol):
    """Where a fit says how far it is; see board.Reporter."""

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None: ...


@dataclass(frozen=True)
class Rows:
    """The examples of one tokenizer, (n, ...), memory-mapped from a file without a name.

    val: what quality is measured on, by rank 0 alone: `measured_on` says whether it is of validation shards, or some
    of `train`, since there is nothing else.
    passed_over: shards that were not read, since they killed their readers. shards: those that were.
    weights: of the values of `train`, of its shape; None where all that is known counts alike.
    """

    train: np.ndarray
    val: np.ndarray
    measured_on: Literal["val", "train"]
    passed_over: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    weights: np.ndarray | None = None


def collect(examples: Iterable[tuple[str, np.ndarray]], count: int, report: ReportRows) -> dict[str, np.ndarray]:
    """Rows by tokenizer, at most `count` of each, in the order in which they come.

    Args:
        report: called after every 64 arrays with the number of rows of the tokenizer that has fewest.
    """
    arrays: dict[str, np.ndarray] = {}
    filled: dict[str, int] = {}
    for calls, (name, rows) in enumerate(examples, 1):
        if name not in arrays:
            with tempfile.TemporaryFile() as file:
                # On disk and not in memory: 100,000 crops of RGB at 448 px are 60 GB. The file is sparse, so that room
                # for rows that do not come costs nothing, and it has no name, so that a killed fit leaves nothing.
                arrays[name], filled[name] = np.memmap(file, rows.dtype, "w+", shape=(count, *rows.shape[1:])), 0
        start, stop = filled[name], filled[name] + len(rows)
        if rows.shape[1:] != arrays[name].shape[1:]:
            raise ValueError(
                f"fit {name}: got examples of shape {rows.shape[1:]} after {arrays[name].shape[1:]}; the label must "
                "come from one specialist"
            )
        arrays[name][start:stop], filled[name] = rows, stop
        if calls % 64 == 0:
            report(min(filled.values()))
    return {name: array[: filled[name]] for name, array in arrays.items()}


_WHOLE = (Form.FEATURES, *OF_NO_PLACE)  # which are never resampled


def side(name: str, settings: TokenizerSettings, image_size: int) -> Size:
    """The size of what is cached: the largest one that pictures are fitted at, cells of a feature map."""
    form = TOKENIZERS[name].form
    if form in OF_NO_PLACE:
        return 0
    if form is Form.FEATURES:
        assert settings.patch_size is not None
        return image_size // settings.patch_size
    later = settings.resolutions.sizes if settings.resolutions else ()
    return TOKENIZERS[name].image_size or max(image_size, *later, 0)


def size_at(settings: TokenizerSettings, image_size: int, seed: int, step: int) -> int:
    """The size of the pictures of a step: the crops', and afterwards a random one of the adaptation's."""
    if settings.resolutions is None or step < settings.steps:
        return image_size
    # The same size on all ranks, since the rank is no part of it.
    return int(np.random.default_rng((seed, step)).choice(settings.resolutions.sizes))


def resized(name: str, rows: np.ndarray, size: int) -> np.ndarray:
    """Rows of pictures at another size, resampled as their form wants it; others as they are."""
    entry = TOKENIZERS[name]
    if entry.form in _WHOLE or entry.image_size or rows.shape[1] == size:
        return rows
    whole = Crop(0, 0, rows.shape[2], rows.shape[1])
    frame = (rows.shape[2], rows.shape[1])
    return np.stack([inputs.window(entry.label, row, whole, size, frame) for row in rows])


def _nearest(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Weights (n, H, W, ...) at the size of other rows, each that of the nearest place."""
    for axis in (1, 2):
        if len(shape) > axis + 1 and weights.shape[axis] != shape[axis]:
            places = (np.arange(shape[axis]) + 0.5) * weights.shape[axis] / shape[axis]
            weights = weights.take(places.astype(np.int64), axis)
    return weights


def weights_of(rows: np.ndarray, given: np.ndarray | None = None) -> torch.Tensor | None:
    """The weight of each value of rows, of their shape; None if all count alike.

    Args:
        rows: values that are not known are NaN, and have no weight.
        given: weights of those that are; one that is no number counts as 0.
    """
    known = ~np.isnan(rows) if np.issubdtype(rows.dtype, np.floating) else None
    if given is None:
        return None if known is None or known.all() else torch.from_numpy(known)
    weight = np.nan_to_num(given.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    return torch.from_numpy(weight if known is None else weight * known)


def batch_indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which samples step `step` sees: epochs of fresh permutations, laid end to end. int64 (batch,)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    indices = np.empty(batch, np.int64)
    # A batch may span two epochs, or many if it is larger than the data.
    for epoch in np.unique(positions // count):
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        here = positions // count == epoch
        indices[here] = order[positions[here] % count]
    return indices


@dataclass(frozen=True)
class Batch:
    """What goes to the device for a step: rows as `inputs.stored` gives them, random colours of pictures, and weights
    of the rows' shape where some values count more than others, or nothing."""

    rows: torch.Tensor
    colors: augment.Jitter | None = None
    weight: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        return [self.rows, *(self.colors or ()), *(() if self.weight is None else (self.weight,))]

    def pinned(self) -> Batch:
        """In memory from which a copy to a GPU goes on beside other work."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def _moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        colors = augment.Jitter(*map(move, self.colors)) if self.colors else None
        return Batch(move(self.rows), colors, None if self.weight is None else move(self.weight))

    def to(self, name: str, device: str | torch.device, statistics: Statistics | None = None) -> Weighted:
        """The tokenizer's input there, 0 where a value is not known, and the weight of its values, None if all count
        alike."""
        there = self._moved(lambda tensor: tensor.to(device, non_blocking=True))
        x = inputs.from_stored(name, there.rows, statistics)
        if there.weight is not None:
            weighed = statistics.weighed(there.rows, there.weight) if statistics is not None else there.weight
            weight = inputs.channels_first(name, weighed)
            return (x.nan_to_num() if x.is_floating_point() else x), weight.to(torch.float32)
        return (augment.jittered(x, there.colors) if there.colors else x), None


def batches(
    name: str, settings: TokenizerSettings, rows: np.ndarray, image_size: int, seed: int, rank: int, batch: int,
    start: int, device: str, weights: np.ndarray | None = None,
) -> Generator[Batch]:  # fmt: skip
    """The batch of each step from `start` on, made one step ahead.

    Args:
        rows: of this rank, (n, ...). Values that are not known are NaN, and have no weight.
        batch: rows of a batch of this rank.
        weights: of the rows' values, of their shape; None where all that is known counts alike.
    """
    pinned = torch.device(device).type == "cuda"
    strength = settings.color_jitter if TOKENIZERS[name].form is Form.COLORS else 0.0
    # Rows in half precision have none: they were refused when they were made.
    may_lack = weights is not None or rows.dtype == np.float32

    def make(step: int) -> Batch:
        # Each rank has rows of its own shards, and an order of its own.
        indices = batch_indices(seed + rank, step, batch, len(rows))
        sized = resized(name, rows[indices], size_at(settings, image_size, seed, step))
        colors = augment.draw(batch, strength, seed + rank, step) if strength else None
        given = None if weights is None else _nearest(weights[indices], sized.shape)
        weight = weights_of(sized, given) if may_lack else None
        made = Batch(inputs.stored(name, sized, settings.frame), colors, weight)
        return made.pinned() if pinned else made

    return prefetch((make(step) for step in range(start, settings.total_steps)), 1)
