"""Tensors on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import shapes

if TYPE_CHECKING:
    import torch


class OnHost:
    """Copies of tensors on the host, which nobody waits for until they are read: of a GPU's tensors they are made
    behind what it computes, into pinned memory. On a CPU they are the tensors themselves.

    Made where the tensors are computed, and read (`tensors`) in another thread, after them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        import torch

        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._copied: Any = None
        if on_gpu := [tensor.device for tensor in tensors if tensor.is_cuda]:
            self._copied = torch.cuda.current_stream(on_gpu[0]).record_event()

    def tensors(self) -> list[torch.Tensor]:
        """The copies, in order; waits for them, once for all."""
        if self._copied is not None:
            self._copied.synchronize()
        return shapes.read(self._copies)


def sent(tensor: torch.Tensor, to: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """A tensor on a device, as `dtype` there; from the host it goes to a GPU by way of pinned memory, behind what the
    GPU computes, and nobody waits for it."""
    import torch

    if torch.device(to).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(to, non_blocking=True).to(dtype)
