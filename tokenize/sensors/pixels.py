"""Pixels of a sensor as 4M's input: each crop's bands, standardized, as float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...modalities import RASTER, ModalitySpec, Size, height_width
from ..codec import Codec, FittedTokenizer, Labelled, Options
from ..store import ColumnSpec
from . import raster
from .statistics import Statistics

BYTES = np.dtype("<f2")


class RasterPatches(Codec):
    """Bands of each crop: mean 0 and deviation 1 by the statistics of the fit, 0 where there is no value. The loader
    cuts them into patches.

    A standardized band lies within some units of 0, where float16 keeps a thousandth of a deviation.
    """

    name = RASTER

    def __init__(self, spec: ModalitySpec, options: Options, tokenizer: FittedTokenizer) -> None:
        super().__init__(spec, options)
        self.tokenizer = tokenizer
        found = tokenizer.model.config.statistics
        if found is None:
            raise ValueError(f"{spec.name}: tokenizers/{tokenizer.name} holds no statistics; run `fourmill fit` again")
        self._statistics: Statistics = found

    def column_spec(self, tokenizers: Mapping[str, str]) -> ColumnSpec:
        prints = "+".join(tokenizers.values())
        bands = self.modality.channels
        height, width = height_width(self.image_size)
        return ColumnSpec(
            self.spec.name, self.spec.kind, self.crops, height, 0, bands, prints, 0 if height == width else width
        )

    def encode_one(self, sample: Labelled) -> list[bytes]:
        raster.check_upright(self.spec.name, sample.value, self.image_size)
        crops = [self.truth(sample, crop) for crop in range(self.crops)]
        for crop in crops:
            raster.check_some(self.spec.name, crop)
        return [self._standardized(crop).tobytes() for crop in crops]

    def _standardized(self, crop: np.ndarray) -> np.ndarray:
        import torch

        limit = float(np.finfo(BYTES).max)
        return self._statistics.standardized(torch.from_numpy(crop)).clamp(-limit, limit).numpy().astype(BYTES)

    def truth(self, sample: Labelled, crop: int) -> np.ndarray:
        return raster.window(sample.value, sample.crops[crop], self.image_size)

    def decode(self, tokens: Any) -> np.ndarray:
        """float32 (H, W, bands) in the sensor's unit; the mean where there was no value."""
        import torch

        values = pixels(tokens, self.image_size, self.modality.channels)
        return self._statistics.restored(torch.from_numpy(values.astype(np.float32))).numpy()


def pixels(data: Any, size: Size, bands: int) -> np.ndarray:
    """The bytes of a crop, or uint8 (bytes,), as float16 (H, W, bands). ValueError for another number of them."""
    height, width = height_width(size)
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
    if raw.nbytes != height * width * bands * BYTES.itemsize:
        raise ValueError(f"{raw.nbytes} bytes, expected float16 of {bands} bands and {height} x {width} px")
    return raw.view(BYTES).reshape(height, width, bands)
