"""What a piece of torch code does, counted: operations by name, products, and the graphs that it is compiled to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result the host must know before it goes on: values read back, and shapes that depend on values.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "item", "equal",
    "is_nonzero", "bincount", "repeat_interleave",
}  # fmt: skip


NO_KERNELS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}


class Operations(TorchDispatchMode):
    """Counts of the operations within.

    seen, waits: by name, all and those that wait for the device, indexing by booleans among them.
    booleans: operations on masks.
    kernels: operations that compute something or copy, no views and no room that is not written.
    products, unaligned: FLOPs of matrix products, and of those of which a matrix has rows that are no multiples of 8
        numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.booleans = self.products = self.unaligned = self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen[name] += 1
        self.kernels += not (func.is_view or name in NO_KERNELS)
        self.booleans += any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args)
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
        boolean = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
        # One tensor to another device is a copy back to the host; there is no other device here to copy to.
        # Repeating by a number, not by a tensor of numbers, is a matter of shapes.
        by_number = name == "repeat_interleave" and isinstance(args[-1], int) and isinstance(args[1], int)
        if (name in WAITS and not by_number) or boolean:
            self.waits[name] += 1
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            flops = 2 * a.shape[0] * a.shape[1] * b.shape[1]
            self.products += flops
            self.unaligned += flops * any(stride % 8 for x in (a, b) for stride in x.stride() if stride > 1)
        return func(*args, **(kwargs or {}))


def counting(graphs: list[int]) -> Callable[[torch.fx.GraphModule, Any], Any]:
    """A backend of torch.compile that runs graphs as they are, and notes the size of each that is made."""

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph

    return backend
