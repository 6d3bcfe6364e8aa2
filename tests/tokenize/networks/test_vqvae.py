"""VQ-VAE: sizes, initial weights, shapes of every kind of input, gradients. Parity is in test_ml4m.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourmill.tokenize.networks.vit import PRESETS, sincos_positions
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig

SMALL = VQVAEConfig.small(dim=16, depth=1, heads=2, image_size=16, patch_size=8, codebook_size=32, latent_dim=8)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    """4M's tokenizers are ViT-B both ways; 86 M parameters each is what the paper's encoder has."""
    config = VQVAEConfig(post_mlp=True)
    assert (config.size("enc"), config.size("dec")) == (PRESETS["vit_b"], PRESETS["vit_b"])
    assert config.grid("enc") == (14, 14)
    with torch.device("meta"):
        assert 85e6 < count(VQVAE(config).encoder) < 91e6
        # SAM masks: 64 px, 16 tokens, latents as wide as 1024; two class embeddings.
        mask = VQVAEConfig(image_size=64, n_labels=2, n_channels=8, codebook_size=1024, latent_dim=1024, out_conv=True)
        assert VQVAE(mask).quantize.codebook.embed.shape == (1024, 1024) and mask.grid("enc") == (4, 4)
        # Global features: six blocks of 1024 around eight books.
        pose = VQVAEConfig.mlp(207, 1024, 6, num_codebooks=8, codebook_size=1024, latent_dim=1024)
        assert pose.enc_type == "BottleneckMLP/B_6-Wi_1024"
        assert count(VQVAE(pose).encoder) == 6 * (2 * 4 * 1024**2 + 7 * 1024) + 1024 * (208 + 1025)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = VQVAE(SMALL, seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = VQVAE(SMALL, seed=3).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["encoder.proj.weight"], VQVAE(SMALL, seed=4).state_dict()["encoder.proj.weight"])


def test_positions_tell_rows_from_columns() -> None:
    positions = sincos_positions(3, 5, 8)
    assert positions.shape == (1, 8, 3, 5)
    assert (positions[0, :4] == positions[0, :4, :, :1]).all()
    assert (positions[0, 4:] == positions[0, 4:, :1]).all()
    assert len(positions[0].flatten(1).unique(dim=1).T) == 15


@pytest.mark.parametrize("books", [1, 4])
def test_vectors_are_grids_of_one_place(books: int) -> None:
    config = VQVAEConfig.mlp(12, 16, 2, num_codebooks=books, codebook_size=32, latent_dim=16)
    model = VQVAE(config).eval()
    x = torch.randn(3, 12)
    ids = model.encode(x)
    assert ids.shape == (3, books)
    assert torch.equal(model.encode(x[:, :, None, None]).view(3, books), ids)
    recon = model.decode(ids)
    assert recon.shape == x.shape
    assert torch.equal(model(x)[0], recon) and torch.equal(model.step(x).ids, ids)
    for i in range(3):  # alone as in a batch
        assert torch.equal(model.encode(x[i : i + 1])[0], ids[i])
        torch.testing.assert_close(model.decode(ids[i : i + 1])[0], recon[i])


@pytest.mark.parametrize("settings", [{"norm_codes": False}, {"num_codebooks": 3}, {"quant_type": "memcodes"}], ids=str)
def test_other_quantizers_code_images(settings: dict[str, Any]) -> None:
    model = VQVAE(SMALL.model_copy(update={"num_codebooks": 2, **settings})).eval()
    books = model.config.num_codebooks
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    ids = model.encode(x)
    assert ids.shape == ((2, books, 2, 3) if books > 1 else (2, 2, 3))
    assert model.decode(ids).shape == x.shape
    torch.testing.assert_close(model(x)[0], model.decode(ids))
    recon, commitment, _ = model.train()(x)
    (recon.square().mean() + commitment).backward()
    gradient = model.encoder.proj.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_decoder_may_have_patches_of_another_size() -> None:
    model = VQVAE(SMALL.model_copy(update={"patch_size_dec": 4})).eval()
    assert model.decode(torch.zeros(1, 2, 2, dtype=torch.int64)).shape == (1, 3, 8, 8)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="20 x 16"):
        VQVAE(SMALL).encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match="30 px"):
        VQVAE(VQVAEConfig(image_size=30, patch_size=16))


def test_ids_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(B, h, w\)"):
        VQVAE(SMALL).decode(torch.zeros(2, 4, dtype=torch.int64))


def test_gradients_pass_straight_through() -> None:
    model = VQVAE(SMALL).train()
    recon, commitment, _ = model(torch.rand(2, 3, 16, 16) * 2 - 1)
    recon.square().mean().backward()
    weight = model.encoder.proj.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert commitment > 0
