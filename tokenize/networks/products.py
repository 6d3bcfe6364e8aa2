"""In which digits a GPU multiplies float32 matrices: of all 23, or of 10 (TF32), which is up to eight times as fast."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

# PyTorch has one setting for all threads of a process.
_ONE = threading.RLock()


@contextmanager
def products(device: str | torch.device, tf32: bool) -> Iterator[None]:
    """Products of float32 matrices that are launched inside, on a GPU: with TF32, or exactly. Of threads that ask, one
    launches at a time; elsewhere nothing changes."""
    if torch.device(device).type != "cuda":
        yield
        return
    with _ONE:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def in_tf32(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    """A network's forward whose products of float32 are in TF32 on a GPU."""

    @wraps(forward)
    def faster(*args: Any, **kwargs: Any) -> Any:
        with products(device, tf32=True):
            return forward(*args, **kwargs)

    return faster
