"""Folders of tokenizers: what is saved, loaded, fingerprinted and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.uvit import UViTSize
from fourmill.tokenize.networks.vit import sincos_positions
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.tokenizer import build, fingerprint, load, read_quality, read_settings, save

GOLDEN = Path(__file__).parents[1] / "golden"
TINY: dict[str, Any] = {"image_size": 16, "patch_size": 8, "codebook_size": 32, "latent_dim": 8}
SMALL = VQVAEConfig.small(16, 1, 2, **TINY)
UVIT = UViTSize((8, 8), 2, 2, 16, downsample_before_mid=True, norm_num_groups=4, mid_hw_posemb=4)
WITH_UVIT = DiVAEConfig(enc_type="vit_16x1_enc", dec_type="uvit_t", sizes=SMALL.sizes | {"uvit_t": UVIT}, **TINY)


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
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors", "sums.json"]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (VQVAE(SMALL), (2, 3, 16, 16)),
        (VQVAE(VQVAEConfig.small(16, 1, 2, n_channels=5, patch_proj=False, **TINY)), (2, 5, 3, 4)),
        (VQVAE(VQVAEConfig.small(16, 1, 2, n_channels=4, n_labels=2, out_conv=True, **TINY)), (2, 16, 16)),
        (VQVAE(VQVAEConfig.mlp(12, 16, 2, num_codebooks=4, codebook_size=32, latent_dim=16)), (2, 12)),
        (DiVAE(DiVAEConfig.small(16, 1, 2, 32, **TINY)), (2, 3, 16, 16)),
        (DiVAE(WITH_UVIT), (2, 3, 16, 16)),
    ],
    ids=["images", "features", "masks", "vectors", "unet", "uvit"],
)
def test_every_kind_comes_back_from_its_folder(model: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    save(model, tmp_path, {})
    again = load(tmp_path)
    assert type(again) is type(model) and again.config == model.config and not again.training
    x = torch.randint(2, shape) if model.config.n_labels else torch.rand(shape) * 2 - 1
    ids = again.encode(x)
    assert torch.equal(ids, model.encode(x))
    steps = {"timesteps": 2} if isinstance(model, DiVAE) else {}
    assert torch.equal(again.decode(ids, **steps), model.eval().decode(ids, **steps))
    assert again.decode(ids, **steps).argmax(1).shape == shape if model.config.n_labels else True


def test_a_fingerprint_counts_the_sizes_of_arch_json(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "vqvae_rgb_vit", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    arch = json.loads((tmp_path / "b" / "arch.json").read_text())
    (tmp_path / "b" / "arch.json").write_text(json.dumps(arch | {"another": {"dim_tokens": 4}}))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    arch["vit_t_enc"]["num_heads"] = 2  # the weights are the same, the tokens are not
    (tmp_path / "b" / "arch.json").write_text(json.dumps(arch))
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_positions_for_another_resolution(tmp_path: Path) -> None:
    model = VQVAE(SMALL)
    save(model, tmp_path, {})
    larger = load(tmp_path, image_size=48)
    assert larger.config.image_size == 48
    torch.testing.assert_close(larger.encoder.pos_emb, sincos_positions(6, 6, 16))
    torch.testing.assert_close(larger.decoder.pos_emb, sincos_positions(6, 6, 16))
    torch.testing.assert_close(larger.quant_proj.weight, model.quant_proj.weight)


def test_old_tensor_names_load(tmp_path: Path) -> None:
    """A running sum that nothing reads, and the second name of UViT's middle convolutions, beside or for the first."""
    save(DiVAE(WITH_UVIT), tmp_path, {})
    weights = load_file(tmp_path / "model.safetensors")
    before = dict(weights)
    weights["quantize._codebook.embed_avg"] = torch.zeros(32, 8)
    weights["decoder.downsample_mid.Conv2d_0.weight"] = weights.pop("decoder.downsample_mid.conv.weight")
    weights["decoder.downsample_mid.Conv2d_0.bias"] = weights["decoder.downsample_mid.conv.bias"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "sums.json").unlink()  # published folders have none
    after = load(tmp_path).state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no .*model\.safetensors"):
        load(tmp_path)
    shutil.copy(GOLDEN / "vqvae_rgb_vit/model.safetensors", tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"found no .*config\.json.*header"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="got list"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        read_settings(tmp_path)
    (tmp_path / "config.json").write_text(SMALL.model_dump_json())
    with pytest.raises(ValueError, match="do not fit"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enc_type": "vit_x_enc"}, "enc_type 'vit_x_enc'.*vit_b_enc"),
        ({"dec_type": "resnet"}, "dec_type 'resnet'.*vit_b_dec"),
        ({"enc_type": "MLP/B_6-Wi_1024"}, "expected BottleneckMLP"),
        ({"quant_type": "rvq"}, "quant_type"),
        ({"quant_type": "memcodes", "num_codebooks": 5}, "latent_dim 32 and num_codebooks 5"),
        ({"sd_path": "runwayml/stable-diffusion-v1-5"}, "ControlNet"),
        ({"image_size": 30}, "30 px"),
        ({"dec_type": "unet_patched", "n_labels": 3}, "n_labels 3"),
        ({"dec_type": "unet_patched", "beta_schedule": "cubic"}, "'cubic'.*linear"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
    ],
)
def test_errors_say_what_was_got(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(settings)


def golden(folder: Path, name: str = "vqvae_rgb_vit", **settings: Any) -> Path:
    """A copy of a published folder with some settings changed."""
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_folder_with_missing_and_unread_tensors_loads(tmp_path: Path) -> None:
    folder = golden(tmp_path / "a")
    whole, weights = load(folder), load_file(folder / "model.safetensors")
    for name in ("quantize._codebook.initted", "quantize._codebook.cluster_size", "encoder.pos_emb", "decoder.pos_emb"):
        del weights[name]
    save_file(weights | {"loss.perceptual": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"nothing reads 1 of the tensors, loss\.perceptual"):
        again = load(folder)
    x = torch.rand(1, 3, 48, 48) * 2 - 1
    assert torch.equal(again.encode(x), whole.encode(x))
    # The recording's positions were computed in float32, ours in float64: by 4e-6 apart, on every machine.
    ids = whole.encode(x)
    torch.testing.assert_close(again.double().decode(ids), whole.double().decode(ids), atol=1e-5, rtol=0)
    del weights["quant_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        load(folder)


def test_null_is_a_default_and_no_decay_is_a_decay(tmp_path: Path) -> None:
    folder = golden(tmp_path / "a", sizes=None, num_codebooks=None, n_labels=None, ema_decay=1.0)
    assert load(folder).config.num_codebooks == 1


def test_standardized_pictures_are_brought_to_the_range(tmp_path: Path) -> None:
    plain, undoing = (
        load(folder).double() for folder in (GOLDEN / "vqvae_rgb_vit", golden(tmp_path / "a", undo_std=True))
    )
    mean, deviation = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    colors = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    standardized = (colors - mean) / deviation
    torch.testing.assert_close(undoing.latents(standardized), plain.latents(2 * colors - 1))
    torch.testing.assert_close(undoing.step(standardized).target, 2 * colors - 1)
    with pytest.raises(ValueError, match="undo_std with n_channels 1"):
        VQVAEConfig.small(16, 1, 2, n_channels=1, undo_std=True, **TINY)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("unet_patched_tiny", {"dropout": 0, "use_scale_shift_norm": False, "dims": 2}, ""),
        ("vit_t_enc", {"drop_rate": 0.0, "sincos_pos_emb": True}, ""),
        ("unet_patched_tiny", {"resblock_updown": True}, "got resblock_updown True; expected a UNetSize"),
        ("vit_t_enc", {"dept": 3}, "vit_t_enc: got dept 3; expected a ViTSize of dim_tokens, depth"),
        ("vit_t_enc", {"depth": "many"}, "vit_t_enc, depth: Input should be a valid integer"),
        ("vit_t_enc", {"num_heads": 3}, "vit_t_enc: ViT size: got dim_tokens 16 with 3 heads"),
    ],
)
def test_sizes_are_of_the_part_that_they_name(tmp_path: Path, part: str, fields: Any, message: str) -> None:
    folder = golden(tmp_path / "a", "divae_unet")
    arch = json.loads((folder / "arch.json").read_text())
    arch[part] |= fields
    (folder / "arch.json").write_text(json.dumps(arch))
    if not message:
        assert load(folder).config == load(GOLDEN / "divae_unet").config
        return
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_noise_from_noise_alone_is_refused(tmp_path: Path) -> None:
    model = load(golden(tmp_path / "a", "divae_unet", prediction_type="epsilon", num_train_timesteps=40))
    ids = model.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    with pytest.raises(ValueError, match="'epsilon' with zero terminal SNR"):
        model.decode(ids)


def test_any_float_is_encoded_but_not_nan() -> None:
    model = load(GOLDEN / "vqvae_rgb_vit")
    x = torch.rand(2, 3, 48, 48) * 2 - 1
    ids = model.encode(x)
    assert torch.equal(model.encode(x.double()), ids) and torch.equal(model.encode(x.numpy()), ids)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(model.encode(x.to(dtype)), model.encode(x.to(dtype).float()))
    assert model.encode(x[:0]).shape == (0, 6, 6)
    for wrong in (x.byte(), x[:, :2], x[0]):
        with pytest.raises(ValueError, match=r"expected floating point .*3 channels"):
            model.encode(wrong)
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.encode(x)
    with pytest.raises(ValueError, match="class ids 99 to 99"):
        load(GOLDEN / "vqvae_semseg_vit").encode(torch.full((1, 32, 32), 99))
