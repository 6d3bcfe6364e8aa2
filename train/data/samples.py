"""What the samples at some positions of the order hold: their tokens, and the raw inputs of those that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ...modalities import Kind, ModalitySpec
from ...model.patches import patch_side, picture_shape
from ...tokenize.sensors.pixels import BYTES, pixels
from ..masking.masking import ModalityTokens
from . import ragged
from .groups import GroupCache, RowGroup
from .order import Places


@dataclass(frozen=True)
class TokenRow:
    """One sample of a batch: a row of a row group, and which of the group's crops it shows."""

    group: RowGroup
    row: int
    crop: int

    @property
    def key(self) -> str:
        return self.group.keys[self.row].as_py()

    def raw(self, modality: str) -> np.ndarray:
        """File bytes or vectors; empty if it has none."""
        column = self.group.columns[modality]
        return column.crop(self.row, self.crop % column.spec.crops)


def fetch(
    specs: Sequence[ModalitySpec], places: Places, cache: GroupCache
) -> tuple[list[TokenRow], dict[str, ModalityTokens]]:
    """The samples at some places, and their tokens in each of `specs`."""
    # A batch reads from few row groups: NumPy calls are made for each group, not for each sample.
    visits, of = np.unique(np.stack([places.groups, places.epochs]), axis=1, return_inverse=True)
    groups = [cache.get((group, epoch)) for group, epoch in visits.T.tolist()]
    of = of.reshape(-1)
    members = [(group, np.flatnonzero(of == i)) for i, group in enumerate(groups)]
    rows, crops = places.rows, np.empty_like(of)
    if any(group.selected is not None for group in groups):
        rows = rows.copy()  # the order counts selected rows alone
    for group, here in members:
        crops[here] = group.crops[places.turns[here]]
        if group.selected is not None:
            rows[here] = group.selected[rows[here]]
    tokens = {spec.name: _tokens(spec, members, rows, crops) for spec in specs}
    chosen = zip(of.tolist(), rows.tolist(), crops.tolist(), strict=True)
    return [TokenRow(groups[i], row, crop) for i, row, crop in chosen], tokens


def _tokens(
    spec: ModalitySpec, members: Sequence[tuple[RowGroup, np.ndarray]], rows: np.ndarray, crops: np.ndarray
) -> ModalityTokens:
    """One modality of some samples; `members` are the row groups and which of the samples lie in each."""
    lengths, starts = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    grid = np.zeros((len(rows), spec.max_tokens), np.uint16) if spec.kind is Kind.GRID else None
    for group, here in members:
        column = group.columns[spec.name]
        picked = (rows[here], crops[here] % column.spec.crops)  # a column without crops has 1 for all
        # Pixels count patches, not bytes. A text may be longer than this run's position table: 4M cuts it.
        most = np.where(column.valid[picked[0]], spec.max_tokens, 0)
        lengths[here] = most if spec.kind is Kind.PIXELS else np.minimum(column.lengths[picked], most)
        if grid is not None:
            grid[here] = column.values[picked]
        elif spec.kind is Kind.SEQUENCE:
            starts[here] = column.starts[picked]
    if spec.kind is not Kind.SEQUENCE:
        return ModalityTokens(lengths, grid)
    # Texts of all samples end to end, in the samples' order, whatever row groups they come from.
    flat = np.empty(int(lengths.sum()), np.uint16)
    begin = ragged.exclusive_cumsum(lengths)
    for group, here in members:
        values = group.columns[spec.name].values
        flat[ragged.indices(begin[here], lengths[here])] = values[ragged.indices(starts[here], lengths[here])]
    return ModalityTokens(lengths, flat)


def raw_values(
    spec: ModalitySpec, samples: Sequence[TokenRow], used: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Raw inputs of the samples that show some of them, bool (samples,); zeros for the others.

    Returns:
        Pixels: uint8 (samples, max_tokens, D); of a sensor float16, standardized. Embeddings: float16
        (samples, max_tokens + 1, D), the last row zeros.
    """
    # Pictures that no input shows are not decoded: a JPEG of 224 px takes about 1 ms.
    shown = np.flatnonzero(used).tolist()
    if spec.kind is Kind.EMBEDDING:
        values = np.zeros((len(samples), spec.max_tokens + 1, spec.input_dim), np.float16)
        for i in shown:
            vectors = samples[i].raw(spec.name)[: spec.max_tokens]
            values[i, : len(vectors)] = vectors
        return values
    dtype = BYTES if spec.has_bands else np.dtype(np.uint8)
    values = np.zeros((len(samples), spec.max_tokens, spec.input_dim), dtype)

    def decode(i: int) -> None:
        sample = samples[i]
        try:
            values[i] = decode_patches(sample.raw(spec.name), spec)
        except ValueError as error:
            raise ValueError(f"shard {sample.group.shard}, sample {sample.key!r}, {spec.name}: {error}") from None

    list(pool.map(decode, shown))
    return values


def decode_patches(data: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """A JPEG or PNG crop, or the bands of a sensor's, as patches.

    Args:
        data: uint8 (bytes,), the file, or float16 of bands.

    Returns:
        uint8 (max_tokens, input_dim): RGB patches in row-major order, each flattened as (ph pw c), as in ml-4m; float16
        of bands.

    Raises:
        ValueError: no image, or not of the size of `spec`.
    """
    import cv2

    _, height, width = picture_shape(spec)
    if spec.has_bands:
        return _patches(pixels(data, (height, width), spec.channels), spec)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{len(data)} bytes are no image that can be decoded")
    if image.shape != (height, width, 3):
        raise ValueError(f"got an image of {image.shape[:2]}, expected {height} x {width} px")
    return _patches(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), spec)


def _patches(image: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """(H, W, C) as (max_tokens, input_dim)."""
    (rows, columns), patch = spec.grid, patch_side(spec)
    patches = image.reshape(rows, patch, columns, patch, spec.channels)
    return patches.transpose(0, 2, 1, 3, 4).reshape(rows * columns, spec.input_dim)
