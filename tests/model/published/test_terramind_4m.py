"""TerraMind's 4M models: logits and losses are those of terratorch's own class, and training may begin with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.earth import terramind as tiny
from huggingface_hub import constants

import fourmill
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import files, ml4m
from fourmill.tokenize import ml4m as published_tokenizers
from fourmill.train.pretrain import initial
from fourmill.train.settings import Init

CHANNELS = {"untok_sen2l2a@224": 6, "untok_dem@224": 1}
TARGETS = ("tok_sen2l2a@224", "tok_lulc@224", "coords")
HEADS = {"num_heads": 2}  # of the recorded model, which is too small to show it


@torch.no_grad()
def test_logits_and_loss_are_terratorchs(tmp_path: Path) -> None:
    expected = {name.removeprefix("4m/"): value for name, value in tiny.expected().items()}
    model = ml4m.load(tiny.save("4m", tmp_path, HEADS)).double()
    parts = ("input_mask", "target_mask", "decoder_attention_mask")
    mod_dict = {
        name: {part: expected[f"inputs/{name}/{part}"] for part in parts}
        | {"tensor": expected.get(f"inputs/{name}/tensor")}
        for name in (*CHANNELS, *TARGETS)
    }
    for name, channels in CHANNELS.items():
        mod_dict[name]["tensor"] = tiny.normal(name, (2, channels, 16, 16))
    output = model(ml4m.pack(model, mod_dict, 24, 20, decoder_order=TARGETS))
    for name in TARGETS:
        logits = output.logits(name).numpy()
        assert logits.shape == expected[f"logits/{name}"].shape and len(logits)
        np.testing.assert_allclose(logits, expected[f"logits/{name}"], atol=1e-4, rtol=0)
    assert output.loss.item() == pytest.approx(expected["loss"][0], rel=1e-5)


def test_a_model_of_tensors_is_described(tmp_path: Path) -> None:
    path = tiny.save("4m", tmp_path, HEADS)
    config, published = initial.describe(str(path)) or pytest.fail("it says nothing")
    assert published and (config.dim, config.num_heads, config.encoder_depth, config.decoder_depth) == (32, 2, 2, 2)
    assert config.gated_mlp and config.activation == "silu" and not config.qkv_bias and not config.norm_bias
    assert [spec.name for spec in config.modalities] == [*CHANNELS, *TARGETS] and config.outputs == TARGETS
    loaded = ml4m.load(tmp_path).config  # a folder that holds one .pt is that file
    assert replace(loaded, tied_heads=False) == config  # which is not looked at
    assert initial.located(str(tmp_path)) == str(tmp_path) and initial.identity(str(path)) == initial.identity(
        str(tmp_path)
    )
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"4m\.pt: .*how many heads it has"):
        ml4m.load(path)
    assert files.pickled(tmp_path / "other") is None


def test_training_begins_with_it_under_names_of_ones_own(tmp_path: Path) -> None:
    path = tiny.save("4m", tmp_path, HEADS)
    names = {"s2": "untok_sen2l2a@224", "tok_s2": "tok_sen2l2a@224"}
    init = Init(weights=str(path), names=names)
    specs = (
        ModalitySpec("s2", Kind.PIXELS, 0, 16, 96), ModalitySpec("tok_s2", Kind.GRID, 60, 16),
        ModalitySpec("tok_biomass", Kind.GRID, 9, 16),
    )  # fmt: skip
    source = ml4m.load(path)
    torch.manual_seed(0)
    model = FourM(replace(source.config, modalities=specs, inputs=(), outputs=()))
    notes = initial.fill(model, init)
    assert notes == [f"train.init: tok_biomass begin with fresh weights; {path} does not know them"]
    for side in ("encoder_embeddings", "decoder_embeddings"):
        there = getattr(source, side).token_table("tok_sen2l2a@224")
        assert torch.equal(getattr(model, side).token_table("tok_s2"), there)
    assert torch.equal(model.projections.layers["s2"].weight, source.projections.layers["untok_sen2l2a@224"].weight)
    assert torch.equal(model.encoder[0].attn.qkv.weight, source.encoder[0].attn.qkv.weight)
    for wrong, error in (
        ({"s2": "untok_s2"}, r"4m\.pt has no modality untok_s2; it has untok_sen2l2a@224,"),
        ({"s1": "untok_dem@224"}, "the recipe has no modality s1; it has s2, tok_s2"),
        ({"tok_s2": "tok_lulc@224"}, "tok_s2 has a vocabulary of 60 here, and 35 in"),
    ):
        with pytest.raises(ValueError, match=error):
            initial.fill(model, Init(weights=str(path), names=wrong))


def test_published_sizes_show_in_the_tensors() -> None:
    """Of TerraMind's base model: heads are of 64 channels."""
    from fourmill.model.published import of_tensors

    with torch.device("meta"):
        model = FourM(FourMConfig((ModalitySpec("tok_a", Kind.GRID, 20, 4),), encoder_depth=1, decoder_depth=1))
        tensors = ml4m.state_dict(model)
    tensors = {name: torch.zeros(value.shape) for name, value in tensors.items()}
    assert of_tensors.configuration(tensors, {})["num_heads"] == 12


def test_a_hub_id_may_hold_a_file_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, without a way out; what its config.json says is of another kind."""
    repository = tmp_path / "models--org--TerraMind"
    snapshot = repository / "snapshots" / ("0" * 40)
    tiny.save("4m", snapshot, HEADS)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ml4m.architecture("org/TerraMind")["num_heads"] == 2
    assert ml4m.load("org/TerraMind").config.dim == 32
    tiny.save("classes", snapshot, {"heads": 2})
    (snapshot / "4m.pt").unlink()
    assert fourmill.load_tokenizer("org/TerraMind").config.codebook_size == 4_375
    assert published_tokenizers.hub_settings("org/TerraMind")["n_channels"] == 5
