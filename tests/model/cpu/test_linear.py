"""The products of a CPU say what F.linear says, and so do their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.model.blocks import Linear
from fourmill.model.cpu.linear import linear

PRODUCTS: dict[str, st.SearchStrategy[Any]] = dict(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    inside=st.integers(1, 40),
    outside=st.integers(1, 70),
    biased=st.booleans(),
    strided=st.booleans(),
)


def bound(scale: torch.Tensor, terms: int) -> torch.Tensor:
    """What float32 may be off in a sum of so many terms whose absolute values sum up to `scale`, in any order."""
    return (terms + 2) * torch.finfo(torch.float32).eps * scale + 1e-30


@given(**PRODUCTS)
@settings(deadline=None, max_examples=60)
def test_products_are_those_of_linear(shape: list[int], inside: int, outside: int, biased: bool, strided: bool) -> None:
    torch.manual_seed(len(shape) + inside)
    x = torch.randn(*shape, 2 * inside)[..., ::2] if strided else torch.randn(*shape, inside)
    weight, bias = torch.randn(outside, inside), torch.randn(outside) if biased else None
    with torch.inference_mode():
        found = linear(x, weight, bias)
    wide = [t if t is None else t.double() for t in (x, weight, bias)]
    expected, scale = F.linear(*wide), F.linear(*(t if t is None else t.abs() for t in wide))
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert ((found - expected).abs() <= bound(scale, inside)).all()


@given(**PRODUCTS, frozen=st.sampled_from(["none", "input", "weight"]))
@settings(deadline=None, max_examples=60)
def test_gradients_of_products_are_those_of_linear(
    shape: list[int], inside: int, outside: int, biased: bool, strided: bool, frozen: str
) -> None:
    torch.manual_seed(len(shape) + inside)
    leaves = torch.randn(*shape, inside), torch.randn(outside, inside), torch.randn(outside)
    towards = torch.randn(*shape, outside).expand(2, *shape, outside).mT.contiguous().mT.select(0, 1)

    def gradients(product: Any, values: Sequence[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor | None]:
        x, w, b = (
            t.clone().requires_grad_(name != frozen) for t, name in zip(values, ("input", "weight", ""), strict=True)
        )
        wide = torch.stack([x, x], dim=-1)[..., 0] if strided else x
        product(wide, w, b if biased else None).backward(grad)
        return [x.grad, w.grad, b.grad]

    expected = gradients(F.linear, [t.double() for t in leaves], towards.double())
    scales = gradients(F.linear, [t.double().abs() for t in leaves], towards.double().abs())
    terms = max(inside, outside, towards[..., 0].numel())
    for one, other, scale in zip(gradients(linear, leaves, towards), expected, scales, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert ((one - other).abs() <= bound(scale, terms)).all()


def test_gradients_of_gradients_are_those_of_linear() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 5), torch.randn(6, 5), torch.randn(6)

    def norm_of_gradient(product: Any) -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        scores = product(product(leaves[0], *leaves[1:]).tanh(), leaves[1].T)
        (gradient,) = torch.autograd.grad(scores.sum(), leaves[0], create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), leaves))

    of_weight = torch.func.grad(lambda w, product: product(x, w, bias).square().sum())
    found = [*norm_of_gradient(linear), of_weight(weight, linear)]
    expected = [*norm_of_gradient(F.linear), of_weight(weight, F.linear)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_products_keep_what_their_gradients_need(frozen: str) -> None:
    x, layer, kept = torch.randn(7, 5), Linear(5, 6), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    x.requires_grad_(frozen != "input")
    layer.weight.requires_grad_(frozen != "weight")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert kept == [(7, 5) if frozen == "input" else (6, 5)]


def test_products_keep_the_precision_that_autocast_asks_for() -> None:
    x, layer = torch.randn(2, 1, 8), Linear(8, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer(x).dtype == torch.float32 and layer.double()(x.double()).dtype == torch.float64


def test_compiled_and_odd_products_are_left_to_pytorch() -> None:
    """Strides, dtypes and sizes that oneDNN would take for others; and compilers, which cannot take its product."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 5), torch.randn(6, 5), torch.randn(12)[::2]
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
        for rows in (1, 7):
            with pytest.raises(RuntimeError):
                linear(x[:rows], weight.bfloat16())
            with pytest.raises(RuntimeError):
                linear(x[:rows], weight[:, :4])
    layer, graphs = Linear(5, 6), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x))
    assert "mkldnn" not in str(graphs[0].graph)
