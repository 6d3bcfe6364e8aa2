"""Samples of a token store as a map-style PyTorch dataset. The trainer has its own loader (train/data), which masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..modalities import Kind
from .sensors.pixels import pixels
from .store import Column, ColumnReader, ColumnSpec

Reader = Callable[[str, str], ColumnReader]  # of a modality and a shard

KEPT_GROUPS = 16  # row groups of each modality; 16,384 grids of 196 tokens take 6 MiB


class StoreDataset(Dataset[dict[str, Any]]):
    """See `Store.dataset`, which makes it. `url` is what errors name."""

    def __init__(
        self, url: str, reader: Reader, modalities: tuple[str, ...], shards: tuple[str, ...], crop: int
    ) -> None:
        if not modalities or not shards:
            raise ValueError(f"{url}: no shard has all of {', '.join(modalities) or 'no modality'}")
        self.url, self.reader, self.modalities, self.shards, self.crop = url, reader, modalities, shards, crop
        self.specs = {name: self._common_spec(name) for name in modalities}
        crops = {name: spec.crops for name, spec in self.specs.items() if spec.crops > 1}
        if not 0 <= crop < min(crops.values(), default=1):
            raise ValueError(f"{url}: there is no crop {crop}; there are {crops or 'single crops only'}")
        sizes = [reader(modalities[0], shard).row_group_sizes() for shard in shards]
        self._groups = [(shard, group) for shard, of in zip(shards, sizes, strict=True) for group in range(len(of))]
        self._ends = np.cumsum([size for of in sizes for size in of])
        self._column = self._cache()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at an index, from the end if it is negative; IndexError if there is none."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"{index} of {len(self)} samples")
        group = int(np.searchsorted(self._ends, place, side="right"))
        shard, number = self._groups[group]
        row = place - (int(self._ends[group - 1]) if group else 0)
        columns = {name: self._column(name, shard, number) for name in self.modalities}
        keys = {name: column.keys[row].as_py() for name, column in columns.items()}
        if len(set(keys.values())) > 1:
            raise ValueError(f"{self.url}: row {row} of shard {shard} has the keys {keys}; tokenize it again")
        item: dict[str, Any] = {"key": keys[self.modalities[0]], "shard": shard}
        item |= {name: self._value(name, column, row) for name, column in columns.items()}
        return item | {"valid": {name: bool(column.valid[row]) for name, column in columns.items()}}

    def _value(self, name: str, column: Column, row: int) -> Tensor:
        spec = self.specs[name]
        value = column.crop(row, min(self.crop, spec.crops - 1))
        if spec.kind is Kind.PIXELS and spec.dim:
            return torch.from_numpy(pixels(value, spec.picture, spec.dim).transpose(2, 0, 1).copy())
        if spec.kind is Kind.PIXELS:
            return _picture(value, spec.length, f"{name} of {column.keys[row]}")
        if spec.kind is Kind.EMBEDDING:
            padded: np.ndarray = np.zeros((spec.length, spec.dim), np.float16)
        else:
            padded = np.full(spec.length, -1, np.int64)
        padded[: len(value)] = value
        return torch.from_numpy(padded)

    def _common_spec(self, modality: str) -> ColumnSpec:
        """The spec that the columns of all shards share. ValueError if one has another."""
        with ThreadPoolExecutor(16) as pool:
            specs = list(pool.map(lambda shard: self.reader(modality, shard).spec, self.shards))
        for shard, spec in zip(self.shards, specs, strict=True):
            if spec != specs[0]:
                raise ValueError(
                    f"{self.url}: {modality} of shard {shard} is {spec}, that of {self.shards[0]} is {specs[0]}; "
                    "tokenize both with one recipe, or name shards of one kind"
                )
        return specs[0]

    def _read(self, modality: str, shard: str, group: int) -> Column:
        return self.reader(modality, shard).read([group])

    def _cache(self) -> Any:
        return lru_cache(maxsize=KEPT_GROUPS * len(self.modalities))(self._read)

    def __getstate__(self) -> dict[str, Any]:
        """Workers of a DataLoader begin with nothing read."""
        return {name: value for name, value in self.__dict__.items() if name != "_column"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._column = self._cache()


def _picture(data: np.ndarray, side: int, where: str) -> Tensor:
    """A JPEG or PNG file as uint8 (3, side, side), RGB; zeros if it has no bytes."""
    import cv2

    if not len(data):
        return torch.zeros(3, side, side, dtype=torch.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape != (side, side, 3):
        raise ValueError(f"{where}: expected a picture of {side} x {side} px, got {len(data)} bytes of something else")
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).contiguous()
