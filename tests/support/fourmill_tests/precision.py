"""Models of tests in float64, so that what is compared does not depend on the order in which a CPU adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def float64() -> Iterator[None]:
    """New weights and random tensors are float64: results of two CPUs differ by 1e-14 of their scale, not by 1e-5."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def recorded(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A recording as tensors, floating point ones in float64.

    It was computed in float32: what a model in float64 differs from it by is the recording's rounding, the same on
    every machine.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
