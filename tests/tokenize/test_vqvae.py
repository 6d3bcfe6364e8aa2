"""VQ-VAE: parity with recorded reference models, folders, and conventions of pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fourmill.tokenize.pixels import postprocess, preprocess
from fourmill.tokenize.vit import PRESETS, ViTSize, sincos_positions
from fourmill.tokenize.vqvae import VQVAE, VQVAEConfig, fingerprint, load, read_quality, save

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = ("vqvae_rgb_vit", "vqvae_featuremap_vit", "vqvae_semseg_vit")
CASES = [(folder, "base") for folder in FOLDERS] + [("vqvae_rgb_vit", "other_resolution")]
SMALL = VQVAEConfig.small(dim=16, depth=1, heads=2, image_size=16, patch_size=8, codebook_size=32, latent_dim=8)


def recorded(name: str) -> tuple[VQVAE, dict[str, torch.Tensor]]:
    sizes = {k: ViTSize(**v) for k, v in json.loads((GOLDEN / name / "arch.json").read_text()).items()}
    expected = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / name / "expected.npz").items()}
    return load(GOLDEN / name, sizes), expected


@pytest.mark.parametrize(("name", "case"), CASES)
def test_tokens_and_reconstructions_are_the_references(name: str, case: str) -> None:
    model, expected = recorded(name)
    x = expected[f"{case}/input"]
    ids = model.encode(x)
    assert torch.equal(ids, expected[f"{case}/tokens"].long())
    torch.testing.assert_close(model.latents(x), expected[f"{case}/latent_pre_quant"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.quantize.decode(ids), expected[f"{case}/quant"], atol=0, rtol=0)
    torch.testing.assert_close(model.decode(ids), expected[f"{case}/recon"], atol=1e-4, rtol=0)
    recon, commitment, again = model(x)
    torch.testing.assert_close(recon, expected[f"{case}/recon"], atol=1e-4, rtol=0)
    assert torch.equal(again, ids) and commitment == 0


@pytest.mark.parametrize("name", FOLDERS)
def test_one_training_step_moves_the_codebook_as_the_reference_does(name: str) -> None:
    model, expected = recorded(name)
    _, commitment, _ = model.train()(expected["base/input"])
    book = model.quantize.codebook
    torch.testing.assert_close(commitment, expected["train/code_loss"][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(book.embed, expected["train/codebook_after"], atol=1e-6, rtol=0)
    torch.testing.assert_close(book.cluster_size, expected["train/cluster_size_after"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_saving_a_recorded_model_keeps_every_name_and_value(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, _ = recorded(name)
    save(model, tmp_path, {})
    before, after = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert load(tmp_path).config == model.config  # sizes travel in the config


def test_published_sizes() -> None:
    """4M's tokenizers are ViT-B both ways; 86 M parameters each is what the paper's encoder has."""
    config = VQVAEConfig()
    assert (config.size("enc"), config.size("dec")) == (PRESETS["vit_b"], PRESETS["vit_b"])
    assert config.grid("enc") == 14
    with torch.device("meta"):
        count = sum(p.numel() for p in VQVAE(VQVAEConfig(post_mlp=True)).encoder.parameters())
    assert 85e6 < count < 91e6


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


def test_folders_and_fingerprints(tmp_path: Path) -> None:
    model = VQVAE(SMALL).eval()
    save(model, tmp_path / "a", {"psnr": 21.5})
    assert read_quality(tmp_path / "a") == {"psnr": 21.5}
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(load(tmp_path / "a").encode(x), model.encode(x))
    save(model, tmp_path / "b", {})
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    save(VQVAE(SMALL, seed=1), tmp_path / "b", {})
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    save(VQVAE(SMALL.model_copy(update={"ema_decay": 0.5})), tmp_path / "b", {})
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no .*config\.json"):
        load(tmp_path)
    shutil.copy(GOLDEN / "vqvae_rgb_vit/model.safetensors", tmp_path)
    settings = json.loads((GOLDEN / "vqvae_rgb_vit/config.json").read_text())
    for key, kind in (("dec_type", "unet_patched"), ("quant_type", "memcodes"), ("norm_codes", False)):
        (tmp_path / "config.json").write_text(json.dumps(settings | {key: kind}))
        with pytest.raises(ValueError, match=f"{key}.*{kind}".lower()):
            load(tmp_path, {"vit_t_enc": ViTSize(16, 2, 4)})
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="do not fit"):
        load(tmp_path, {f"vit_t_{part}": ViTSize(16, 3, 4) for part in ("enc", "dec")})


def test_images_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="20 x 16"):
        VQVAE(SMALL).encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match="30 px"):
        VQVAE(VQVAEConfig(image_size=30, patch_size=16))


def test_gradients_pass_straight_through() -> None:
    model = VQVAE(SMALL).train()
    recon, commitment, _ = model(torch.rand(2, 3, 16, 16) * 2 - 1)
    recon.square().mean().backward()
    weight = model.encoder.proj.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert commitment > 0


def test_pixels_come_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    x = preprocess("tok_rgb", rgb)
    assert x.shape == (2, 3, 8, 8) and x.dtype == torch.float32 and x.is_contiguous()
    assert x.min() >= -1 and x.max() <= 1
    np.testing.assert_array_equal(postprocess(x), rgb)
    np.testing.assert_array_equal(preprocess("tok_rgb", rgb[0]), x[0])
    edges = np.where(rgb[..., 0] > 128, 255, 0).astype(np.uint8)
    y = preprocess("tok_canny_edge", edges)
    assert y.shape == (2, 1, 8, 8) and set(y.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(preprocess("tok_canny_edge", edges[..., None]), y)
    np.testing.assert_array_equal(postprocess(y), edges)
    assert postprocess(torch.tensor([[[-7.0, 9.0]]])).tolist() == [[0, 255]]


def test_other_modalities_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'tok_clip'.*tok_canny_edge"):
        preprocess("tok_clip", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        preprocess("tok_rgb", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        preprocess("tok_rgb", np.zeros((8, 8), np.uint8))
