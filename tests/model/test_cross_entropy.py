"""Cross-entropy of a head: PyTorch's value and gradients, without kept logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fourmill.model import cross_entropy
from fourmill.model.cross_entropy import head_cross_entropy


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few logits are many."""
    monkeypatch.setattr(cross_entropy, "KEPT", 0)


def _example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = (3 * torch.randn(23, 16)).to(dtype).requires_grad_()
    return hidden, torch.randn(37, 16, requires_grad=True), torch.randint(37, (23,))


def _gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(2.5 * loss, of)


@pytest.mark.parametrize("at_a_time", [1, 37 * 4, 37 * 23, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch, at_a_time: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS", at_a_time)
    hidden, head, targets = _example(dtype)
    expected = F.cross_entropy(F.linear(hidden, head.to(dtype)).float(), targets)
    found = head_cross_entropy(hidden, head, targets)
    assert found.dtype == torch.float32
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(_gradients(found, hidden, head), _gradients(expected, hidden, head), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=near, rtol=near)


def test_autocast_changes_nothing_of_it() -> None:
    hidden, head, targets = _example()
    plain = head_cross_entropy(hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        under = head_cross_entropy(hidden, head, targets)
    assert torch.equal(plain, under)
    assert all(map(torch.equal, _gradients(plain, hidden, head), _gradients(under, hidden, head)))


def test_only_what_needs_a_gradient_gets_one() -> None:
    hidden, head, targets = _example()
    (alone,) = torch.autograd.grad(head_cross_entropy(hidden.detach(), head, targets), head)
    both = torch.autograd.grad(head_cross_entropy(hidden, head, targets), (hidden, head))
    assert torch.equal(alone, both[1])
    assert torch.equal(torch.autograd.grad(head_cross_entropy(hidden, head.detach(), targets), hidden)[0], both[0])


def test_no_logits_are_kept() -> None:
    hidden, head, targets = _example()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        head_cross_entropy(hidden, head, targets)
    own = [x for x in saved if x.data_ptr() not in (hidden.data_ptr(), head.data_ptr(), targets.data_ptr())]
    assert [x.shape for x in own] == [(23,)]
