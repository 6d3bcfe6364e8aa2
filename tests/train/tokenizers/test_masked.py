"""Fits on values that are partly unknown: rows with NaN, weights, and series; from rows to a fitted tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.tiny import landscape

from fourmill import Form, Kind, Label, Modality, Storage, declare
from fourmill import recipe as recipes
from fourmill.modalities import LABELS, MODALITIES, TOKENIZERS, spec
from fourmill.recipe import Recipe, RecipeError
from fourmill.sensors.declared import Sensors
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.train.tokenizers import build
from fourmill.train.tokenizers.examples import Batch, batches, weights_of
from fourmill.train.tokenizers.quality import quality
from fourmill.train.tokenizers.vq import VQTrainer

SMALL = {
    "dim": 16, "encoder_depth": 2, "decoder_depth": 2, "heads": 2, "decoder": "vit", "precision": "fp32", "steps": 30,
    "batch_size": 16, "warmup_steps": 0, "base_lr": 0.1, "out_conv": False, "quantizer": "fsq", "levels": [8, 8, 8],
}  # fmt: skip


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """A modality of series of 32 samples of 2 values, in 8 tokens."""
    before = [(table, dict(table)) for table in (LABELS, MODALITIES, TOKENIZERS)]
    declare(
        Label("ndvi", Storage.ARRAY, Form.SERIES, "tests:Ndvi", "a series"),
        Modality("tok_ndvi", "ndvi", Kind.GRID, "vq", 512, 8, "tokens of a series", 4, 2, spatial=False),
    )
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def recipe(name: str, **settings: Any) -> Recipe:
    return recipes.parse({
        "root": "out", "samples": "a.tar", "modalities": [name], "images": {"size": 32, "patch_size": 16},
        "tokenizers": {"each": {name: settings}},
    })  # fmt: skip


def series(count: int) -> np.ndarray:
    """Waves, float32 (count, 32, 2); a quarter is unknown."""
    rng = np.random.default_rng(0)
    phase, time = rng.uniform(0, 2 * np.pi, (count, 1, 1)), np.arange(32)[:, None] / 32
    rows = np.sin(2 * np.pi * time * np.array([1, 2]) + phase).astype(np.float32)
    return np.where(rng.random(rows.shape) < 0.25, np.float32(np.nan), rows)


@pytest.mark.parametrize("network", ["vit", "convnext"])
def test_series_are_fitted_coded_and_measured(network: str) -> None:
    whole = recipe("tok_ndvi", **{key: value for key, value in SMALL.items() if key not in ("decoder", "out_conv")},
                   network=network)  # fmt: skip
    settings, rows = whole.tokenizer("tok_ndvi"), series(64)
    model = build.model("tok_ndvi", settings, 32, rows.shape[1:])
    before = quality("tok_ndvi", model.eval(), [rows])["rmse"]
    trainer = VQTrainer(model, settings)
    for batch in batches("tok_ndvi", settings, rows, 32, 0, 0, settings.batch_size, 0, "cpu"):
        x, weight = batch.to("tok_ndvi", "cpu")
        assert x.shape == (16, 2, 32) and weight is not None and not x[weight == 0].any()
        assert np.isfinite(float(trainer.step(x, weight)["loss"]))
    fitted = trainer.result()
    after = quality("tok_ndvi", fitted, [rows])
    assert after["rmse"] < 0.8 * before and after["codes_used"] > 0
    x = to_input("tok_ndvi", rows)
    ids = fitted.encode(x)
    (spec,) = whole.specs()
    assert (spec.max_tokens, spec.vocab_size, spec.learned_positions) == (8, 512, True)
    assert ids.shape == (64, 8) and int(ids.max()) < 512
    recon = fitted.decode(ids)
    assert recon.shape == x.shape
    assert torch.equal(fitted.encode(x[:1]), ids[:1])  # alone as in a batch
    torch.testing.assert_close(fitted.decode(ids[:1]), recon[:1], atol=1e-5, rtol=0)
    assert fitted.encode(x[..., :16]).shape == (64, 4)  # shorter than it was fitted on
    with pytest.raises(ValueError, match=r"series of 15 samples; expected .*multiple"):
        fitted.encode(x[..., :15])
    with pytest.raises(ValueError, match=r"expected floating point \(B, 2, L\)"):
        fitted.encode(x[:, :, None])
    assert VQVAEConfig.model_validate(fitted.config.model_dump(mode="json", exclude_none=True)) == fitted.config


def test_maps_with_unknown_values_are_fitted() -> None:
    """Normals stand for bands: what is unknown comes as 0, and teaches nothing."""
    settings = recipe("tok_normal", **SMALL).tokenizer("tok_normal")
    rows = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    rows[:, :16] = np.nan
    (batch,) = [next(batches("tok_normal", settings, rows, 32, 0, 0, 4, 0, "cpu"))]
    x, weight = batch.to("tok_normal", "cpu")
    assert weight is not None and weight.shape == x.shape
    assert not x[:, :, :16].any() and not weight[:, :, :16].any() and weight[:, :, 16:].all()
    trainers = [VQTrainer(build.model("tok_normal", settings, 32, (32, 32, 3)), settings) for _ in range(2)]
    losses = [
        float(trainer.step(x, one)["reconstruction"]) for trainer, one in zip(trainers, (weight, None), strict=True)
    ]
    recon = build.model("tok_normal", settings, 32, (32, 32, 3)).train()(x)[0].detach()
    assert losses[0] == pytest.approx(float((recon - x)[:, :, 16:].square().mean()), rel=1e-4)
    assert losses[1] == pytest.approx(float((recon - x).square().mean()), rel=1e-4)


def test_weights_go_with_their_rows() -> None:
    """Whatever the order, the size, and the part of a batch."""
    settings = recipe("tok_normal", **SMALL, resolutions={"sizes": [16], "steps": 2}).tokenizer("tok_normal")
    rows = np.zeros((4, 32, 32, 3), np.float32)
    rows[..., 2] = 1 + np.arange(4)[:, None, None]
    weights = np.broadcast_to(rows[..., 2:] * 10, rows.shape).copy()
    weights[0, 0, 0] = np.inf
    made = [
        batch.to("tok_normal", "cpu")
        for batch in batches("tok_normal", settings, rows, 32, 0, 0, 2, 29, "cpu", weights)
    ]
    assert [x.shape[-1] for x, _ in made] == [32, 16, 16]
    for x, weight in made:
        assert weight is not None and weight.shape == x.shape
        inside = weight[:, :, 1:, 1:]
        assert torch.equal(inside.amax((1, 2, 3)), inside.amin((1, 2, 3)))
    x, weight = made[0]
    assert weight is not None and torch.equal(weight[:, 2, 5, 5], 10 * x[:, 2, 5, 5])
    assert float(weight.max()) <= 40  # what is no number is no weight


def test_rows_without_unknown_values_have_no_weight() -> None:
    assert weights_of(np.zeros((2, 4, 4, 3), np.uint8)) is None and weights_of(np.zeros((2, 4), np.float16)) is None
    x, weight = Batch(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).to("tok_rgb", "cpu")
    assert weight is None and x.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"network": "convnext", "patch_size": 1}, "patch_size: got 1; .* power of two"),
        ({"network": "convnext", "patch_size": 32, "dim": 20, "heads": 1}, "have 4 stages; .* a multiple of 8"),
        ({"network": "convnext", "patch_size": 32, "encoder_depth": 2}, "and a block for each"),
        ({"decoder": "unet"}, "decoder has no meaning for series"),
    ],
)  # fmt: skip
def test_impossible_series_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        recipe("tok_ndvi", **settings)


def test_networks_of_series_fit_their_patches() -> None:
    sizes = {"convnext_a": {"widths": [8], "depths": [1], "strides": [4]}}
    names = {"enc_type": "convnext_a", "dec_type": "convnext_a", "sizes": sizes, "n_channels": 2}
    with pytest.raises(ValueError, match="tokens cover 4 samples, with length 32 and patch_size 8"):
        VQVAE(VQVAEConfig(**names, length=32, patch_size=8))
    with pytest.raises(ValueError, match="expected a series"):
        VQVAE(VQVAEConfig(**names, patch_size=4))


@pytest.mark.parametrize("network", ["vit", "convnext"])
def test_the_last_patch_of_a_series_may_reach_beyond_it(network: str) -> None:
    sizes = {"convnext_a": {"widths": [8], "depths": [1], "strides": [4]}}
    names = {"enc_type": "convnext_a", "dec_type": "convnext_a", "sizes": sizes, "post_mlp": False}
    options = {"length": 30, "patch_size": 4, "n_channels": 2, "codebook_size": 8}
    config = VQVAEConfig(**names, **options) if network == "convnext" else VQVAEConfig.small(16, 1, 2, **options)
    model, x = VQVAE(config), torch.randn(3, 2, 30, generator=torch.Generator().manual_seed(0))
    step = model.train().step(x)
    assert step.prediction.shape == step.target.shape == x.shape and step.ids.shape == (3, 8)
    ids = model.eval().encode(x)
    torch.testing.assert_close(ids, model.encode(torch.nn.functional.pad(x, (0, 2))))  # beyond it is the mean
    assert ids.shape == (3, 8) and model.decode(ids).shape == x.shape
    assert model.decode(ids[:, :4]).shape == (3, 2, 16)  # other lengths work


def test_a_prime_number_of_values_is_not_a_token_each() -> None:
    with landscape.forgotten():
        lengths = {"desi": 7781, "weekly": 52, "short": 23}
        sensors = {name: Sensor(member="f.npy", kind="series", length=one) for name, one in lengths.items()}
        Sensors(sensors).declare()
        sizes = {name: (TOKENIZERS[f"tok_{name}"].tokens, TOKENIZERS[f"tok_{name}"].patch_size) for name in lengths}
        assert sizes == {"desi": (487, 16), "weekly": (4, 13), "short": (23, 1)}
        assert spec("tok_desi", image_size=224, patch_size=32).max_tokens == 244
