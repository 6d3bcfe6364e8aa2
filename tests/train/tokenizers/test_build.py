"""From settings to models: every row of the paper builds at small sizes, encodes its input, and trains for a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourmill import recipe as recipes
from fourmill.modalities import BODY_POSE, MODALITIES, SAM_MASK, TOKENIZERS, Form
from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.networks.divae import DiVAE
from fourmill.train.tokenizers import build
from fourmill.train.tokenizers.quality import quality
from fourmill.train.tokenizers.vq import VQTrainer

COMMON: dict[str, Any] = {
    "codebook_size": 16, "latent_dim": 8, "class_dim": 4, "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2,
    "unet_channels": 32, "unet_multipliers": [1, 2], "unet_blocks": 1, "unet_attention": [2], "uvit_channels": [32],
    "precision": "fp32", "batch_size": 4, "steps": 4, "validation_steps": 2, "base_lr": 1e-2,
}  # fmt: skip
EACH = {name: {"latent_dim": 32} for name in ("tok_dinov2_global", "tok_imagebind_global", BODY_POSE)}


def recipe(**common: Any) -> recipes.Recipe:
    return recipes.parse({
        "root": "out", "samples": "a.tar", "modalities": list(MODALITIES), "images": {"size": 112, "patch_size": 16},
        "tokenizers": {"common": COMMON | common, "each": EACH},
    })  # fmt: skip


def rows(name: str, count: int = 4) -> np.ndarray:
    """Random examples of a tokenizer at 112 px."""
    rng, entry = np.random.default_rng(0), TOKENIZERS[name]
    settings = recipe().tokenizer(name)
    side = entry.image_size or (112 // (settings.patch_size or 1) if entry.form is Form.FEATURES else 112)
    shape = {Form.COLORS: (side, side, 3), Form.NORMALS: (side, side, 3), Form.FEATURES: (side, side, entry.channels),
             Form.VECTOR: (entry.channels,)}.get(entry.form, (side, side))  # fmt: skip
    if entry.form in (Form.COLORS, Form.EDGES):
        return rng.integers(0, 256, (count, *shape), np.uint8)
    if entry.form is Form.CLASSES:
        return rng.integers(0, 2 if name == SAM_MASK else 133, (count, *shape), np.uint8)
    return rng.normal(size=(count, *shape)).astype(np.float16)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_row_trains_codes_and_is_measured(name: str) -> None:
    settings, entry, examples = recipe().tokenizer(name), TOKENIZERS[name], rows(name)
    model = build.model(name, settings, 112, examples.shape[1:])
    x = to_input(name, examples)
    ids = model.encode(x)
    side = 112 // (settings.patch_size or 1)
    expected = {SAM_MASK: (4, 4), BODY_POSE: (8,), "tok_dinov2_global": (16,), "tok_imagebind_global": (16,)}
    assert tuple(ids.shape[1:]) == expected.get(name, (side, side))
    assert int(ids.max()) < 16
    trainer = VQTrainer(model, settings)
    assert all(np.isfinite(list(trainer.step(x).values())))
    measured = quality(name, trainer.result(), [examples], settings.validation_steps)
    assert all(np.isfinite(list(measured.values()))) and measured["samples"] == 4
    assert isinstance(model, DiVAE) == (entry.form in (Form.COLORS, Form.EDGES, Form.DEPTH, Form.NORMALS))


@pytest.mark.parametrize("decoder", ["vit", "uvit"])
def test_other_decoders_of_pictures(decoder: str) -> None:
    settings, examples = recipe(decoder=decoder).tokenizer("tok_depth"), rows("tok_depth")
    model = build.model("tok_depth", settings, 112, examples.shape[1:])
    trainer = VQTrainer(model, settings)
    assert np.isfinite(trainer.step(to_input("tok_depth", examples))["loss"])
    assert model.config.dec_type.startswith(decoder)


def test_the_papers_decoder_is_the_published_one() -> None:
    """In names and shapes of its weights, at full size and without making them."""
    whole = recipes.parse({"root": "out", "samples": "a.tar", "modalities": ["tok_rgb"]})
    with torch.device("meta"):
        ours = build.model("tok_rgb", whole.tokenizer("tok_rgb"), 224, (224, 224, 3))
        config = ours.config.model_copy(update={"enc_type": "vit_b_enc", "dec_type": "unet_patched", "sizes": {}})
        published = type(ours)(config)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (ours, published)]
    assert shapes[0] == shapes[1]
    assert (config.prediction_type, config.beta_schedule, config.latent_dim) == ("sample", "linear", 32)
