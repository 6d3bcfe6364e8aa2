"""The encoder as a ViT: the same features as in the model, at any size; what is trained and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.downstream.heads import Classifier, ConvNeXtMap, LinearMap, PooledHead
from fourmill.model.downstream.transfer import Encoder, add_lora, drop_path, parameter_groups
from fourmill.model.fourm import FourM
from fourmill.model.generation.known import Known
from fourmill.model.published.inputs import patchify


def images(count: int = 2, height: int = 6, width: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width)).astype(np.uint8))


def grids(count: int = 2, side: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 30, (count, side, side)))


@pytest.mark.parametrize("registers", [0, 2])
@torch.no_grad()
def test_features_are_those_of_the_model(config: FourMConfig, registers: int) -> None:
    model = FourM(replace(config, num_register_tokens=registers)).eval().double()
    encoder = Encoder(model, ["rgb", "tok_rgb"]).eval()
    given = {"rgb": patchify(images().numpy(), 2), "tok_rgb": grids().flatten(1).numpy()}
    known = Known.of(model.config, given, torch.device("cpu"), 2)
    x, _ = model.embed_inputs(*known.inputs({}))
    expected = model.encode_embedded(x, torch.ones(2, 1, 1, x.shape[1], dtype=torch.bool))
    features = encoder({"rgb": images(), "tok_rgb": grids()})
    torch.testing.assert_close(features.tokens, expected, atol=1e-9, rtol=0)
    assert features.first == registers and features.grids["tok_rgb"][0] == slice(registers + 9, registers + 18)
    torch.testing.assert_close(features.map("rgb").flatten(2).transpose(1, 2), expected[:, registers : registers + 9])
    torch.testing.assert_close(features.mean(), expected[:, registers:].mean(1))


@torch.no_grad()
def test_other_sizes_resize_the_positions(model: FourM) -> None:
    encoder = Encoder(model).eval()
    features = encoder({"rgb": images(2, 8, 12)})
    assert features.grids == {"rgb": (slice(0, 24), 4, 6)} and features.map("rgb").shape == (2, 16, 4, 6)
    table = encoder.positions["rgb"].T.view(16, 3, 3)
    flat = torch.full_like(table, 0.5)
    encoder.positions["rgb"].data = flat.flatten(1).T
    torch.testing.assert_close(encoder._position("rgb", encoder.specs["rgb"], 5, 7), torch.full((35, 16), 0.5))


def test_only_what_is_given_is_read(model: FourM) -> None:
    encoder = Encoder(model, ["rgb", "tok_rgb"])
    assert encoder({"tok_rgb": grids()}).tokens.shape == (2, 9, 16)
    for given, got in (({}, "none"), ({"caption": grids()}, "caption")):
        with pytest.raises(ValueError, match=f"got inputs {got}, expected some of rgb, tok_rgb"):
            encoder(given)
    for given, message in (
        ({"rgb": images(1, 7, 6)}, "multiples of 2 px"),
        ({"rgb": images().permute(0, 2, 3, 1)}, r"got \(2, 6, 6, 3\), expected \(B, 3, H, W\)"),
        ({"rgb": images().long()}, "pixels: got torch.int64, expected uint8"),
        ({"tok_rgb": grids().flatten(1)[:, :5]}, r"tok_rgb: got \(2, 5\), expected ids \(B, rows, columns\)"),
        ({"rgb": images(), model.config.published[0]: images()}, "which are the same modality"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(given)
    with pytest.raises(KeyError, match="there is no tok_rgb; there are rgb"):
        encoder({"rgb": images()}).map("tok_rgb")
    with pytest.raises(ValueError, match="caption: the encoder cannot read it, expected one of rgb, tok_rgb"):
        Encoder(model, ["caption"])


def test_the_model_keeps_its_own_weights(model: FourM) -> None:
    encoder = Encoder(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for parameter in encoder.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_stochastic_depth_keeps_the_mean(model: FourM) -> None:
    torch.manual_seed(0)
    kept = drop_path(torch.ones(20_000, 2), 0.25)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    encoder = Encoder(model, drop_path=0.5)
    given = {"rgb": images().repeat(8, 1, 1, 1)}
    assert not torch.equal(encoder(given).tokens[0], encoder(given).tokens[2]), "samples are dropped on their own"
    encoder.eval()
    assert torch.equal(encoder(given).tokens[0], encoder(given).tokens[2])


def test_layers_learn_at_rates_that_decay(model: FourM) -> None:
    encoder, head = Encoder(model, class_token=True), PooledHead(16, 5)
    groups = parameter_groups(encoder, head, 1.0, 0.5, 0.05)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert rate[id(head.linear.weight)] == 1.0 and rate[id(encoder.norm.weight)] == 1.0
    assert [rate[id(block.mlp.fc1.weight)] for block in encoder.blocks] == [0.25, 0.5]
    assert rate[id(encoder.modality["rgb"])] == rate[id(encoder.class_token)] == 0.125
    assert decay[id(head.linear.weight)] == 0.05 and decay[id(head.linear.bias)] == 0.0
    trained = [p for m in (encoder, head) for p in m.parameters() if p.requires_grad]
    assert len(rate) == len(trained) and id(encoder.positions["rgb"]) not in rate


@pytest.mark.parametrize("head", [LinearMap, ConvNeXtMap])
def test_dense_heads_answer_for_each_pixel(model: FourM, head: Callable[..., nn.Module]) -> None:
    dense = head(16, 7)
    out = dense(Encoder(model)({"rgb": images(2, 8, 6)}), (8, 6))
    assert out.shape == (2, 7, 8, 6)
    out.sum().backward()
    assert all(p.grad is not None for p in dense.parameters())


def test_the_class_token_is_what_the_head_reads(model: FourM) -> None:
    classifier = Classifier(Encoder(model, class_token=True), 3)
    logits = classifier({"rgb": images()})
    features = classifier.encoder({"rgb": images()})
    assert features.first == 1
    torch.testing.assert_close(logits, classifier.head.linear(features.tokens[:, 0]))


def test_lora_starts_as_the_model_and_trains_little(model: FourM) -> None:
    pytest.importorskip("peft")
    encoder = Encoder(model)
    before = encoder({"rgb": images()}).tokens.detach()
    total = sum(p.numel() for p in encoder.parameters())
    add_lora(encoder, 2)
    torch.testing.assert_close(encoder({"rgb": images()}).tokens, before, atol=1e-5 * float(before.abs().max()), rtol=0)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".")[3] for name in trained} == {"qkv", "proj", "fc1", "fc2", "fc3"}
    assert sum(p.numel() for n, p in encoder.named_parameters() if n in trained) < total / 4 * 3
    groups = parameter_groups(encoder, PooledHead(16, 2), 1.0, 0.5, 0.0)
    assert {g["lr"] for g in groups} == {0.25, 0.5, 1.0}


def test_lora_without_peft_is_a_sentence(model: FourM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'fourmill\[transfer\]'"):
        add_lora(Encoder(model), 2)


def test_published_names_are_names() -> None:
    """A grid of 16 x 16 tokens of 14 pixels is `tok_dinov2@224` in apple/ml-4m."""
    spec = ModalitySpec("tok_dinov2", Kind.GRID, 20, 256)
    encoder = Encoder(FourM(FourMConfig((spec,), dim=8, num_heads=2, encoder_depth=1)).eval(), ("tok_dinov2@224",))
    ids = torch.zeros(1, 16, 16, dtype=torch.long)
    features, same = encoder({"tok_dinov2@224": ids}), encoder({"tok_dinov2": ids})
    assert torch.equal(features.map("tok_dinov2@224"), same.map("tok_dinov2"))
