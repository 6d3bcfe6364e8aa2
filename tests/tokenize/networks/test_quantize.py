"""The cosine codebook: nearest codes, dead codes, and equal results on one and on several ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fourmill_tests import tokenizer_ranks

from fourmill.tokenize.networks import quantize
from fourmill.tokenize.networks.quantize import Codebook, EuclideanCodebook, VectorQuantizer, dead_code_threshold


def test_codes_are_the_nearest_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Codebook(50, 8, 0.99, 0.0, seed=0)
    book.embed.mul_(torch.rand(50, 1) + 0.1)  # lengths do not count
    latents = torch.randn(300, 8)
    cosine = F.cosine_similarity(latents[:, None], book.embed[None], dim=2)
    ids = book.assign(latents)
    assert torch.equal(ids, cosine.argmax(1))
    monkeypatch.setattr(quantize, "CPU_SCORES", 50 * 7)  # in chunks of 7 latents
    assert torch.equal(book.assign(latents), ids)
    assert torch.equal(book.assign(latents * 100), ids)


def test_decode_is_the_inverse_of_encode_on_codes() -> None:
    quantizer = VectorQuantizer(64, 16).eval()
    ids = torch.arange(64).view(1, 8, 8)
    z = quantizer.decode(ids)
    assert z.shape == (1, 16, 8, 8)
    assert torch.equal(quantizer.encode(z), ids)


def test_evaluation_leaves_the_codebook_alone() -> None:
    quantizer = VectorQuantizer(16, 4, threshold=1.0)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(2, 4, 3, 3))
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    quantizer.train()(torch.randn(2, 4, 3, 3))
    assert not torch.equal(quantizer.codebook.embed, before["_codebook.embed"])


def test_codes_move_to_their_latents() -> None:
    """Two tight clusters: after many steps each is hit by a code almost exactly."""
    generator = torch.Generator().manual_seed(0)
    quantizer = VectorQuantizer(8, 4, decay=0.9, threshold=0.1)
    centres = F.normalize(torch.randn(2, 4, generator=generator), dim=1)
    for _ in range(60):
        z = centres[torch.randint(2, (32,), generator=generator)] + 0.01 * torch.randn(32, 4, generator=generator)
        quantizer(z.t().reshape(1, 4, 8, 4))
    best = (F.normalize(quantizer.codebook.embed, dim=1) @ centres.t()).max(0).values
    assert (best > 0.999).all()


def test_dead_codes_are_replaced_by_latents_and_get_time() -> None:
    book = Codebook(8, 2, decay=0.99, threshold=0.5, seed=0)
    book.cluster_size.fill_(4.0)
    book.cluster_size[[2, 5]] = 0.1
    latents = F.normalize(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    assert book.update(latents, torch.zeros(64, dtype=torch.int64)) == 2
    for dead in (2, 5):
        assert (book.embed[dead] - latents).abs().sum(1).min() < 1e-6
        assert book.cluster_size[dead] == 64 / 8
    assert book.update(latents, torch.zeros(64, dtype=torch.int64)) == 0


def test_replacement_follows_the_seed() -> None:
    latents = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    books = [Codebook(8, 2, 0.99, 0.5, seed) for seed in (0, 0, 1)]
    for book in books:
        book.embed.copy_(books[0].embed)
        book.update(latents, book.assign(latents))
    assert torch.equal(books[0].embed, books[1].embed)
    assert not torch.equal(books[0].embed, books[2].embed)


def test_more_dead_codes_than_latents() -> None:
    book = Codebook(100, 4, 0.99, 0.5, seed=0)
    assert book.update(torch.randn(7, 4), torch.zeros(7, dtype=torch.int64)) == 100


def test_threshold_is_a_share_of_the_uniform_count() -> None:
    assert dead_code_threshold(256 * 196, 8192, 32) == pytest.approx(256 * 196 / 8192 / 32)
    assert dead_code_threshold(256 * 196, 8192, 0) == 0


@pytest.mark.slow  # two processes that import PyTorch
def test_two_ranks_learn_as_one_on_both_batches(two_ranks: Path) -> None:
    ranks = [np.load(two_ranks / f"rank{rank}.npz") for rank in range(2)]
    alone, _ = tokenizer_ranks.codebooks(slice(None))
    for rank in ranks:
        np.testing.assert_allclose(rank["embed"], alone.embed)
        np.testing.assert_allclose(rank["size"], alone.cluster_size)
        np.testing.assert_array_equal(rank["dying"], ranks[0]["dying"])  # replaced alike on both


def test_euclidean_codes_are_nearest_and_average() -> None:
    book = EuclideanCodebook(12, 4, 0.9, 0.0, seed=0)
    book.embed.mul_(torch.rand(12, 1) + 0.1)
    latents = torch.randn(200, 4)
    ids = book.assign(latents)
    assert torch.equal(ids, (latents[:, None] - book.embed).square().sum(2).argmin(1))
    counts = torch.bincount(ids, minlength=12).double()
    sums = torch.zeros(12, 4).index_add_(0, ids, latents)
    average, size = 0.9 * book.embed_avg + 0.1 * sums, 0.1 * counts
    assert book.update(latents, ids) == 0
    smoothed = (size + 1e-5) / (size.sum() + 12e-5) * size.sum()
    torch.testing.assert_close(book.cluster_size, size)
    torch.testing.assert_close(book.embed, average / smoothed[:, None])


def test_replaced_euclidean_codes_stay_where_they_were_put() -> None:
    book = EuclideanCodebook(4, 2, 0.99, 0.5, seed=0)
    book.cluster_size.copy_(torch.tensor([8.0, 8.0, 8.0, 0.1]))
    assert book.update(torch.randn(32, 2) + 5, torch.zeros(32, dtype=torch.int64)) == 1
    placed = book.embed[3].clone()
    assert placed.norm() > 2
    book.update(torch.randn(32, 2) + 5, torch.zeros(32, dtype=torch.int64))
    torch.testing.assert_close(book.embed[3], placed, rtol=1e-3, atol=1e-3)


def test_heads_share_one_codebook() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 6, heads=3).eval()
    z = torch.randn(2, 6, 4, 5)
    ids = quantizer.encode(z)
    assert ids.shape == (2, 3, 4, 5)
    parts = quantizer.project_in(z.permute(0, 2, 3, 1)).unflatten(3, (3, 6))
    expected = quantizer.codebook.assign(parts.reshape(-1, 6)).view(2, 4, 5, 3).permute(0, 3, 1, 2)
    assert torch.equal(ids, expected)
    merged = quantizer.project_out(quantizer.codebook.embed[ids.permute(0, 2, 3, 1)].flatten(3)).permute(0, 3, 1, 2)
    torch.testing.assert_close(quantizer.decode(ids), merged)
    torch.testing.assert_close(quantizer(z)[0], merged)
