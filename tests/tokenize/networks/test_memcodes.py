"""Memcodes: choice of codes, and training by straight-through Gumbel draws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fourmill.tokenize.networks import quantize
from fourmill.tokenize.networks.memcodes import Memcodes


def book_and_latents(heads: int = 3) -> tuple[Memcodes, torch.Tensor]:
    torch.manual_seed(0)
    return Memcodes(20, 12, heads), torch.randn(4, 12, 2, 5)


def scores(book: Memcodes, z: torch.Tensor) -> torch.Tensor:
    """By the definition: (n, N, K) products of a latent's parts with the keys of codes."""
    parts = z.permute(0, 2, 3, 1).reshape(-1, book.heads, 12 // book.heads).transpose(0, 1) * book.scale
    keys = torch.einsum("hnd,hdc->hnc", book.codes, book.to_k.weight)
    return torch.einsum("hid,hjd->hij", parts, keys)


@pytest.mark.parametrize("heads", [1, 3])
def test_ids_have_the_largest_score(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    book, z = book_and_latents(heads)
    ids = book.encode(z)
    assert ids.shape == ((4, heads, 2, 5) if heads > 1 else (4, 2, 5))
    expected = scores(book, z).argmax(2).view(heads, 4, 2, 5).transpose(0, 1)
    assert torch.equal(ids.view(4, heads, 2, 5), expected)
    monkeypatch.setattr(quantize, "CPU_SCORES", 20 * 7)  # in chunks of 7 latents
    assert torch.equal(book.encode(z), ids)


@pytest.mark.parametrize("heads", [1, 3])
def test_values_are_those_of_the_ids(heads: int) -> None:
    book, z = book_and_latents(heads)
    quantized, commitment, ids = book.eval()(z)
    assert quantized.shape == z.shape and commitment == 0
    assert torch.equal(ids, book.encode(z)) and torch.equal(quantized, book.decode(ids))
    values = book.codes @ book.to_v.weight
    picked = torch.stack([values[h][ids.view(4, heads, 2, 5)[:, h]] for h in range(heads)], 1)
    torch.testing.assert_close(quantized, picked.permute(0, 1, 4, 2, 3).reshape(z.shape))


def test_training_is_the_straight_through_gumbel_softmax() -> None:
    """Values and gradients are those of torch's own, with the same draws."""
    book, z = book_and_latents()
    z.requires_grad_()
    torch.manual_seed(5)
    quantized, _, ids = book.train()(z)
    weights = torch.randn_like(quantized)
    names, parameters = zip(*book.named_parameters(), strict=True)
    ours = torch.autograd.grad((quantized * weights).sum(), (z, *parameters))
    torch.manual_seed(5)
    drawn = F.gumbel_softmax(scores(book, z), hard=True)
    values = torch.einsum("hij,hjd->hid", drawn, book.codes @ book.to_v.weight)
    expected = values.view(3, 4, 2, 5, 4).permute(1, 0, 4, 2, 3).reshape(z.shape)
    torch.testing.assert_close(quantized, expected)
    assert torch.equal(ids, drawn.argmax(2).view(3, 4, 2, 5).transpose(0, 1))
    reference = torch.autograd.grad((expected * weights).sum(), (z, *parameters))
    for name, a, b in zip(("z", *names), ours, reference, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
        assert a.abs().sum() > 0


def test_draws_come_from_the_given_generator() -> None:
    book, z = book_and_latents()
    draws = [book.train()(z, torch.Generator().manual_seed(seed))[2] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_books_share_a_latent_evenly() -> None:
    with pytest.raises(ValueError, match="latent_dim 12 and num_codebooks 5"):
        Memcodes(20, 12, 5)
