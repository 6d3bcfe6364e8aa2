"""F.linear with faster products on a CPU in float32. A reader of the model may take it for F.linear."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 4
_HAS_MKL = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: x (..., I) @ weight (O, I).T + bias (O,). On other devices and in other precisions it is F.linear.

    Figures are of benchmarks/generation.py and train_step.py on an AMD EPYC with AVX-512.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not _fits_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    rows = x.shape[:-1].numel()
    if rows > FEW_ROWS:
        # F.linear is MKL's, which oneDNN beats by 10 to 20 % here.
        return _OneDnn.apply(x, weight, bias)
    if rows == 0 or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    # Text is written one row at a time. MKL streams the weights through one core for `x @ weight.T` of so few rows, but
    # through all cores for `weight @ x.T`, unless that is a vector: 2 to 3 times as fast on two cores.
    flat = x.reshape(rows, -1)
    columns = torch.cat([flat, flat]).T if rows == 1 else flat.T
    y = (weight @ columns).T[:rows].reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _fits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are dense float32 of fitting sizes: oneDNN checks little, and would read past an array."""
    # Subclasses (DTensor, FSDP's shards) do what they must in F.linear alone.
    dense = all(type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 for t in (x, weight))
    fitting = weight.ndim == 2 and x.ndim > 0 and x.shape[-1] == weight.shape[1]
    biased = bias is None or (bias.dtype == torch.float32 and bias.is_contiguous() and bias.shape == weight.shape[:1])
    backends = _HAS_MKL and _HAS_ONEDNN and bool(torch.backends.mkldnn.enabled)
    return backends and dense and fitting and biased and not torch.is_autocast_enabled("cpu")


class _OneDnn(torch.autograd.Function):
    """oneDNN's product with gradients, which PyTorch's operator does not have."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        for_x, for_weight, _ = ctx.needs_input_grad
        # The gradient of each needs the other; what is frozen must not keep activations in memory.
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        rows = grad.flatten(0, -2)
        return (
            None if weight is None else linear(grad, weight.t()),
            None if x is None else rows.t() @ x.reshape(len(rows), -1),  # MKL is as fast for this shape
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )
