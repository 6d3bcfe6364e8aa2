"""TerraMind's tokenizers: parity with terratorch's own classes on recorded numbers, and what a .pt does not say."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.earth import terramind as tiny

import fourmill
from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.sensors import declared
from fourmill.tokenize import codec, tokenizer
from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.unet import PRESETS
from fourmill.tokenize.networks.vqvae import VQVAE
from fourmill.tokenize.published import terramind
from fourmill.train.tokenizers import adopt

HEADS = {"heads": 2}  # of the recorded ViTs, which are too small to show it


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return tiny.expected()


def test_a_diffusion_tokenizer_is_terratorchs(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    model = fourmill.load_tokenizer(tiny.save("diffusion", tmp_path, HEADS))
    assert isinstance(model, DiVAE) and model.config.levels == (8, 8, 8, 6, 5) and model.config.codebook_size == 15_360
    x = torch.from_numpy(tiny.normal("diffusion/input", (3, 4, 32, 48)))
    ids = model.encode(x)
    assert np.array_equal(ids.numpy(), expected["diffusion/ids"])
    noise = torch.from_numpy(tiny.normal("diffusion/noise", (1, 4, 32, 48)))
    decoded = model.decode(ids[:1], timesteps=5, noise=noise)
    np.testing.assert_allclose(decoded.numpy(), expected["diffusion/decoded"], atol=1e-4, rtol=0)


def test_a_tokenizer_of_classes_is_terratorchs(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """As it is published, on channels; and on class ids, with a class for no class or without."""
    path = tiny.save("classes", tmp_path, HEADS)
    model = fourmill.load_tokenizer(tmp_path)  # a folder that holds one .pt is that file
    assert isinstance(model, VQVAE) and model.config.levels == (7, 5, 5, 5, 5) and model.config.codebook_size == 4_375
    ids = model.encode(torch.from_numpy(tiny.normal("classes/input", (3, 5, 32, 32))))
    assert np.array_equal(ids.numpy(), expected["classes/ids"])
    np.testing.assert_allclose(model.decode(ids[:1]).numpy(), expected["classes/decoded"], atol=1e-4, rtol=0)
    for n_labels in (5, 6):
        of_ids = tokenizer.load(path, said={"n_labels": n_labels})
        first = n_labels - 5  # of the file's channels; before it is none
        ids = of_ids.encode(torch.from_numpy(tiny.class_map() + first))
        assert np.array_equal(ids.numpy(), expected["classes/ids of a map"])
        logits = of_ids.decode(ids)
        assert np.array_equal(logits.argmax(1).numpy() - first, expected["classes/decoded map"])
    with pytest.raises(ValueError, match=r"has 5 classes, the recipe 8 \(and none\)"):
        tokenizer.load(path, said={"n_labels": 9})


def test_a_recipe_takes_one_as_it_is(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """Its sizes become the recipe's, and what is put into the root codes as it does."""
    path = tiny.save("classes", tmp_path / "weights")
    recipe = recipes.parse({
        "root": str(tmp_path / "out"), "samples": "a.tar", "modalities": ["tok_semseg"],
        "classes": {"semseg": ["water", "trees", "grass", "crops"]}, "images": {"size": 32, "patch_size": 16},
        "tokenizers": {"common": {"levels": [4, 4]}, "each": {"tok_semseg": {"weights": str(path), "heads": 2}}},
        "labels": {"specialists": {"semseg": {"specialist": "member", "name": "lulc.png"}}},
    })  # fmt: skip
    whole = Project(recipe).recipe
    (spec,) = whole.specs()
    assert (spec.vocab_size, spec.max_tokens) == (4_375, 4)
    settings = whole.tokenizer("tok_semseg")
    facts = adopt.bring("tok_semseg", settings, 32, str(tmp_path / "kept"), whole.class_lists)
    assert facts["vocab_size"] == 4_375
    kept = fourmill.load_tokenizer(tmp_path / "kept")
    ids = kept.encode(torch.from_numpy(tiny.class_map()))
    assert np.array_equal(ids.numpy(), expected["classes/ids of a map"])
    assert adopt.contents("tok_semseg", settings, 32, whole.class_lists) == facts["sha256"]
    print_ = adopt.identity(settings)
    (tmp_path / "weights" / "classes.pt").write_bytes(path.read_bytes() + b" ")
    assert adopt.identity(settings) != print_
    with pytest.raises(RecipeError, match=r"tok_depth: weights .*classes.pt: its n_channels is 5, tok_depth needs 1"):
        Project(
            recipes.parse({
                "root": str(tmp_path / "two"), "samples": "a.tar", "modalities": ["tok_depth"],
                "images": {"size": 32, "patch_size": 16},
                "tokenizers": {"each": {"tok_depth": {"weights": str(tiny.save("classes", tmp_path)), "heads": 2}}},
            })
        )  # fmt: skip


@pytest.fixture
def radar() -> Iterator[dict[str, Any]]:
    """A recipe of a sensor of 4 bands."""
    yield {
        "samples": "a.tar", "modalities": ["tok_radar"], "images": {"size": 32, "patch_size": 16},
        "sensors": {"radar": {"member": "npy", "bands": ["a", "b", "c", "d"], "unit": "dB"}},
    }  # fmt: skip
    declared.forget("radar")


def test_bands_are_standardized_as_it_has_learned_them(tmp_path: Path, radar: dict[str, Any]) -> None:
    """In the unit of the sensor; what has no value is 0 for it."""
    path = tiny.save("diffusion", tmp_path / "weights")
    settings = {"weights": str(path), "heads": 2, "mean": [-11.0, -17.0, 3.0, 0.5], "std": [4.0, 4.5, 2.0, 0.25]}
    data = {"root": str(tmp_path / "out"), **radar, "tokenizers": {"each": {"tok_radar": settings}}}
    recipe = Project(recipes.parse(data)).recipe
    (spec,) = recipe.specs()
    assert spec.vocab_size == 15_360
    adopt.bring("tok_radar", recipe.tokenizer("tok_radar"), 32, str(tmp_path / "kept"), recipe.class_lists)
    fitted = codec.FittedTokenizer("tok_radar", str(tmp_path / "kept"), "cpu")
    x = tiny.normal("radar", (2, 4, 32, 32))
    x[0, :, :9] = 0
    rows = np.moveaxis(x, 1, -1) * np.float32(settings["std"]) + np.float32(settings["mean"])
    rows[0, :9] = np.nan
    model = tokenizer.load(path, said=HEADS)
    assert np.array_equal(fitted.encode(rows), model.encode(torch.from_numpy(x)).flatten(1).numpy())
    for wrong, error in (
        ({"mean": None, "std": None}, "does not say by which mean and deviation its bands were standardized"),
        ({"std": [1.0]}, "got 4 and 1; say both of each band"),
        ({"mean": [0.0], "std": [1.0]}, "mean and std are of 1 bands, it reads 4"),
        ({"weights": None}, "a fit measures them"),
    ):
        data["tokenizers"] = {"each": {"tok_radar": settings | wrong}}
        with pytest.raises(RecipeError, match=error):
            Project(recipes.parse(data))


def test_published_sizes_show_in_the_tensors() -> None:
    """By names and shapes of weights at full size, which are not made."""
    published: dict[str, Any] = {
        "image_size": 256, "n_channels": 12, "enc_type": "vit_b_enc", "dec_type": "unet_patched", "post_mlp": True,
        "quant_type": "fsq", "codebook_size": "8-8-8-6-5", "latent_dim": 5, "prediction_type": "sample",
        "beta_schedule": "linear", "clip_sample": True,
    }  # fmt: skip
    with torch.device("meta"):
        model = DiVAE(DiVAEConfig.model_validate(published))
    config = tokenizer.parse(terramind.settings(model.state_dict(), {}))
    assert isinstance(config, DiVAEConfig) and config.decoder_size() == PRESETS["unet_patched"]
    for name in ("enc_type", "n_channels", "levels", "codebook_size", "patch_size", "prediction_type", "beta_schedule"):
        assert getattr(config, name) == getattr(model.config, name), name
    assert config.grid("enc") == (16, 16) and config.thresholding and config.zero_terminal_snr and config.clip_sample


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({}, "no tensor shows how many attention heads it has; say it as heads"),
        ({**HEADS, "levels": [8, 8]}, r"its codes have 5 values, and the levels \[8, 8\] are of 2"),
        ({"heads": 3}, "how many attention heads"),
        ({**HEADS, "codebook_size": "8-8-x-6-5"}, "as in '8-8-8-6-5'"),
    ],
)  # fmt: skip
def test_what_a_file_does_not_say_is_asked_for(tmp_path: Path, said: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        fourmill.load_tokenizer(tiny.save("classes", tmp_path, said))


def test_what_is_said_beside_it_counts(tmp_path: Path) -> None:
    """The arguments of terratorch's classes, and sizes of networks."""
    size = {"dim_tokens": 16, "num_heads": 2}
    config = {
        "enc_type": "vit_tiny_enc", "dec_type": "vit_tiny_dec", "codebook_size": "4-4-4-4-4", "patch_size_dec": None,
        "sizes": {"vit_tiny_enc": {**size, "depth": 2}, "vit_tiny_dec": {**size, "depth": 1}},
    }  # fmt: skip
    model = fourmill.load_tokenizer(tiny.save("classes", tmp_path, config))
    assert model.config.codebook_size == 1024 and model.config.size("enc").num_heads == 2
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "sizes"}))
    (tmp_path / "arch.json").write_text(json.dumps(config["sizes"]))
    assert fourmill.load_tokenizer(tmp_path).config == model.config


class Evil:
    def __reduce__(self) -> Any:
        return subprocess.getoutput, ("touch it_ran",)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"weight": torch.zeros(1)}, r"those of no FSQ tokenizer \(weight, ...\)"),
        ({"quant_proj.weight": torch.zeros(1), "quantize.codes": torch.zeros(1)}, "those of no FSQ tokenizer"),
        ({"args": argparse.Namespace()}, r"\(none, ...\)"),
        ({"evil": Evil()}, "to load that would run code"),
    ],
)  # fmt: skip
def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=error):
        fourmill.load_tokenizer(tmp_path / "a.pt")
    assert not (tmp_path / "it_ran").exists()
