"""Attention of one query on a CPU says what PyTorch's says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fourmill.model.cpu.attention import attention, in_reading_order


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_that_of_pytorch(dtype: torch.dtype, queries: int, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8).to(dtype) for n in (queries, 11, 11))
    mask = torch.rand(3, 1, 1, 11) < 0.5 if masked else None
    bias = None if mask is None else torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)
    with torch.inference_mode():
        found = attention(q, k, v, bias)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    assert found.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_reading_order_changes_no_value() -> None:
    keys, values = torch.randn(2, 3, 5, 8).transpose(1, 2), torch.randn(2, 3, 5, 8)
    read = in_reading_order(keys, values)
    assert torch.equal(read[0], keys) and torch.equal(read[1], values)
    assert read[0].is_contiguous() and read[1].mT.is_contiguous()
