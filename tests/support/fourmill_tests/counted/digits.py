"""In how many digits a piece of torch code multiplies, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Digits(TorchDispatchMode):
    """FLOPs of the products and attention within, by dtype; not of what is in torch.inference_mode, where layers come
    whole."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, count = kwargs or {}, flop_registry.get(func.overloadpacket)
        out = func(*args, **kwargs)
        if count is not None:
            dtype = next(x.dtype for x in args if isinstance(x, torch.Tensor))
            self.flops[dtype] += count(*args, **kwargs, out_val=out)
        return out

    @property
    def in_float32(self) -> float:
        """Share of all."""
        return self.flops[torch.float32] / self.flops.total()
