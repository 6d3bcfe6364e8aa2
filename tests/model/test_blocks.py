"""The short cuts of a CPU say what PyTorch's own kernels say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.model import blocks

PRODUCTS: dict[str, st.SearchStrategy[Any]] = dict(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    inside=st.integers(1, 40),
    outside=st.integers(1, 70),
    biased=st.booleans(),
    strided=st.booleans(),
)


@given(**PRODUCTS)
@settings(deadline=None)
def test_products_are_those_of_linear(shape: list[int], inside: int, outside: int, biased: bool, strided: bool) -> None:
    torch.manual_seed(len(shape) + inside)
    x = torch.randn(*shape, 2 * inside)[..., ::2] if strided else torch.randn(*shape, inside)
    weight, bias = torch.randn(outside, inside), torch.randn(outside) if biased else None
    with torch.inference_mode():
        found = blocks.product(x, weight, bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


@given(**PRODUCTS, frozen=st.sampled_from(["none", "input", "weight"]))
@settings(deadline=None)
def test_gradients_of_products_are_those_of_linear(
    shape: list[int], inside: int, outside: int, biased: bool, strided: bool, frozen: str
) -> None:
    torch.manual_seed(len(shape) + inside)
    base = torch.randn(*shape, inside, dtype=torch.float64)
    weight, bias = torch.randn(outside, inside, dtype=torch.float64), torch.randn(outside, dtype=torch.float64)
    towards = torch.randn(*shape, outside).expand(2, *shape, outside).mT.contiguous().mT.select(0, 1)

    def gradients(product: Any, dtype: torch.dtype) -> list[torch.Tensor | None]:
        x, w, b = (
            t.to(dtype).requires_grad_(name != frozen) for t, name in ((base, "input"), (weight, "weight"), (bias, ""))
        )
        wide = torch.stack([x, x], dim=-1)[..., 0] if strided else x
        product(wide, w, b if biased else None).backward(towards.to(dtype))
        return [x.grad, w.grad, b.grad]

    for found, expected in zip(
        gradients(blocks.product, torch.float32), gradients(F.linear, torch.float64), strict=True
    ):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)


def test_gradients_of_gradients_are_those_of_linear() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 5), torch.randn(6, 5), torch.randn(6)

    def norm_of_gradient(product: Any) -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        scores = product(product(leaves[0], *leaves[1:]).tanh(), leaves[1].T)
        (gradient,) = torch.autograd.grad(scores.sum(), leaves[0], create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), leaves))

    found, expected = norm_of_gradient(blocks.product), norm_of_gradient(F.linear)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    of_weight = torch.func.grad(lambda w, product: product(x, w, bias).square().sum())
    torch.testing.assert_close(of_weight(weight, blocks.product), of_weight(weight, F.linear), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_products_keep_what_their_gradients_need(frozen: str) -> None:
    x, layer, kept = torch.randn(7, 5), blocks.Linear(5, 6), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    x.requires_grad_(frozen != "input")
    layer.weight.requires_grad_(frozen != "weight")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert kept == [(7, 5) if frozen == "input" else (6, 5)]


def test_products_keep_the_precision_that_autocast_asks_for() -> None:
    x, layer = torch.randn(2, 1, 8), blocks.Linear(8, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer(x).dtype == torch.float32 and layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_that_of_pytorch(dtype: torch.dtype, queries: int, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8).to(dtype) for n in (queries, 11, 11))
    mask = torch.rand(3, 1, 1, 11) < 0.5 if masked else None
    with torch.inference_mode():
        found = blocks.attention(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_compiled_and_odd_products_are_left_to_pytorch() -> None:
    """Strides, dtypes and sizes that oneDNN would take for others; and compilers, which cannot take its product."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 5), torch.randn(6, 5), torch.randn(12)[::2]
    with torch.inference_mode():
        torch.testing.assert_close(blocks.product(x, weight, bias), F.linear(x, weight, bias))
        for rows in (1, 7):
            with pytest.raises(RuntimeError):
                blocks.product(x[:rows], weight.bfloat16())
            with pytest.raises(RuntimeError):
                blocks.product(x[:rows], weight[:, :4])
    layer, graphs = blocks.Linear(5, 6), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x))
    assert "mkldnn" not in str(graphs[0].graph)
