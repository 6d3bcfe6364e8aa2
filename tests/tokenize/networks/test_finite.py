"""FSQ, iFSQ and LFQ: ids and codes say the same, gradients pass, and the entropy loss is that of its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fourmill.tokenize.networks.finite import SLOPE, FiniteScalar, LookupFree
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig

LEVELS = [[8, 8, 8, 6, 5], [7, 5, 5, 5, 5], [2], [3, 4], [16, 2, 9]]


def finite(kind: str, levels: list[int], heads: int = 1) -> FiniteScalar | LookupFree:
    if kind == "lfq":
        return LookupFree(len(levels), heads).eval()
    return FiniteScalar(levels, heads, *((SLOPE, -1.0) if kind == "ifsq" else ())).eval()


@pytest.mark.parametrize("kind", ["fsq", "ifsq", "lfq"])
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_id_is_its_code_and_back(kind: str, levels: list[int]) -> None:
    """All ids, at odd and even numbers of levels: latents that give a code give its id."""
    quantizer = finite(kind, levels)
    size = 2 ** len(levels) if kind == "lfq" else math.prod(levels)
    ids = torch.arange(size).view(1, 1, size)
    codes = quantizer.decode(ids)
    assert codes.shape == (1, len(levels), 1, size) and len(codes.flatten(2).unique(dim=2)[0, 0]) == size
    assert float(codes.min()) == quantizer.low and float(codes.max()) == 1
    # What the bound maps to the code; its ends are at infinity.
    latents = codes if kind == "lfq" else torch.logit((codes - quantizer.low) / (1 - quantizer.low)).clamp(-30, 30)
    latents = latents / (SLOPE if kind == "ifsq" else 1)
    assert torch.equal(quantizer.encode(latents), ids)
    quantized, loss, found = quantizer(latents)
    assert torch.equal(quantized, codes) and torch.equal(found, ids) and loss == 0


def test_the_order_of_digits() -> None:
    """FSQ's first digit counts least, as TerraMind's; LFQ's first bit counts most, as MAGVIT-v2's."""
    assert FiniteScalar([3, 4]).decode(torch.tensor([[[1, 3]]])).flatten(1).tolist() == [[0.5, 0.0, 0.0, 1 / 3]]
    assert LookupFree(2).decode(torch.tensor([[[1, 2]]])).flatten(1).tolist() == [[-1.0, 1.0, 1.0, -1.0]]


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(IndexError):
        FiniteScalar([3, 4]).decode(torch.tensor([[[12]]]))


@pytest.mark.parametrize("kind", ["fsq", "ifsq", "lfq"])
def test_books_code_their_parts_alone(kind: str) -> None:
    z = torch.randn(2, 6, 2, 3)
    both, first = finite(kind, [4, 3, 2], heads=2), finite(kind, [4, 3, 2])
    ids = both.encode(z)
    assert ids.shape == (2, 2, 2, 3)
    assert torch.equal(ids[:, 0], first.encode(z[:, :3])) and torch.equal(ids[:, 1], first.encode(z[:, 3:]))
    assert torch.equal(both.decode(ids)[:, 3:], first.decode(ids[:, 1]))


def test_gradients_are_those_of_the_bound() -> None:
    for slope, low in ((1.0, 0.0), (SLOPE, -1.0)):
        z = torch.randn(2, 2, 1, 4, requires_grad=True)
        quantized, _, _ = FiniteScalar([4, 3], 1, slope, low).train()(z)
        weights = torch.randn_like(quantized)
        (found,) = torch.autograd.grad((quantized * weights).sum(), z)
        (wanted,) = torch.autograd.grad(((low + (1 - low) * torch.sigmoid(slope * z)) * weights).sum(), z)
        torch.testing.assert_close(found, wanted)


def test_ifsq_is_two_sigmoids_less_one_and_uses_levels_evenly() -> None:
    z = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    ids = {kind: finite(kind, [5]).encode(z) for kind in ("fsq", "ifsq")}
    assert torch.equal(ids["ifsq"], ((2 * torch.sigmoid(1.6 * z) - 1) * 2).round().long()[:, 0] + 2)
    shares = {kind: torch.bincount(one.flatten(), minlength=5) / 10_000 for kind, one in ids.items()}
    # The outermost of equally spaced levels have half an interval.
    assert float(shares["ifsq"].min()) > 0.09 and float(shares["fsq"].min()) < 0.04


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_entropies_are_those_of_all_codes(bits: int) -> None:
    """By the definition: softmax over all codes of 100 x 2 z c, for each book."""
    quantizer = LookupFree(bits, heads=2)
    latents = 0.01 * torch.randn(3, 2, 4, bits)
    wanted = 0.0
    for book in range(2):
        p = (200 * latents[:, book].flatten(0, 1) @ quantizer.codes.t()).softmax(1)
        mean = p.mean(0)
        wanted += float(-(p * p.log()).sum(1).mean() + (mean * mean.log()).sum()) / 2
    assert float(quantizer.entropies(latents)) == pytest.approx(wanted, rel=1e-4)


def test_lfq_learns_to_use_its_codes() -> None:
    """Latents that all have one code spread over the 16 that there are."""
    torch.manual_seed(0)
    latents = torch.nn.Parameter(0.008 + 0.002 * torch.randn(64, 4, 1, 1))
    quantizer = LookupFree(4, entropy=1.0, commitment=0.1).train()
    assert len(quantizer.encode(latents).unique()) == 1
    optimizer = torch.optim.Adam([latents], 0.002)
    for _ in range(60):
        optimizer.zero_grad()
        quantizer(latents)[1].backward()
        optimizer.step()
    assert len(quantizer.encode(latents).unique()) > 12


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"quant_type": "fsq", "codebook_size": 100, "latent_dim": 2}, r"got levels \[\], codebook_size 100"),
        ({"quant_type": "fsq", "codebook_size": "8-8", "latent_dim": 32}, r"levels \[8, 8\].*latent_dim 32"),
        ({"quant_type": "fsq", "codebook_size": "8-x", "latent_dim": 2}, "as in '8-8-8-6-5'"),
        ({"quant_type": "fsq", "codebook_size": "8-1", "latent_dim": 2}, "levels of 2 and more"),
        ({"quant_type": "lfq", "codebook_size": 12, "latent_dim": 4}, "power of two"),
        ({"quant_type": "lfq", "codebook_size": 16, "latent_dim": 5}, "as many values of a latent"),
        ({"quant_type": "sfq"}, "quant_type"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_errors(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        VQVAEConfig.small(16, 1, 2, image_size=16, patch_size=8, **settings)


def test_a_config_of_vq_says_no_more_than_before() -> None:
    """Its bytes are in the fingerprints of roots that were made before."""
    written = VQVAEConfig.small(16, 1, 2).model_dump(mode="json", exclude_none=True)
    assert not written.keys() & {"levels", "entropy_weight"}


@pytest.mark.parametrize("kind", ["fsq", "ifsq"])
def test_terraminds_words_for_levels(kind: str) -> None:
    config = VQVAEConfig.small(
        16, 1, 2, image_size=16, patch_size=8, quant_type=kind, codebook_size="4-3", latent_dim=2
    )
    assert config.codebook_size == 12 and config.levels == (4, 3)
    assert VQVAEConfig.model_validate(config.model_dump(mode="json", exclude_none=True)) == config
    model = VQVAE(config).eval()
    assert not {name for name in model.state_dict() if name.startswith("quantize")}
    x = torch.rand(2, 3, 16, 8) * 2 - 1
    ids = model.encode(x)
    assert ids.shape == (2, 2, 1) and 0 <= int(ids.min()) <= int(ids.max()) < 12
    torch.testing.assert_close(model(x)[0], model.decode(ids))
