"""The quantizer of a tokenizer in a recipe: sizes that follow from it, older fingerprints, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourmill import recipe as recipes
from fourmill.infra.fingerprint import hashed
from fourmill.modalities import BODY_POSE, SAM_MASK
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize.inputs import to_input
from fourmill.tokenize.settings import merge
from fourmill.train.tokenizers import build
from fourmill.train.tokenizers.quality import quality
from fourmill.train.tokenizers.vq import VQTrainer

SMALL = {
    "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "decoder": "vit", "precision": "fp32",
    "batch_size": 4, "steps": 40, "warmup_steps": 0, "base_lr": 1.0, "out_conv": False,
}  # fmt: skip


def recipe(modalities: list[str], common: dict[str, Any], **each: Any) -> Recipe:
    return recipes.parse({
        "root": "out", "samples": "a.tar", "modalities": modalities, "images": {"size": 32, "patch_size": 16},
        "tokenizers": {"common": common, "each": each},
    })  # fmt: skip


def test_the_vocabulary_follows_from_the_levels() -> None:
    common = {"quantizer": "fsq", "codebook_size": 64, "latent_dim": 8}
    whole = recipe(
        ["tok_rgb", "tok_depth", "tok_normal", "tok_dinov2_global", "sam_instance", "human_poses"], common,
        tok_depth={"levels": [7, 5, 5, 5, 5]}, tok_normal={"quantizer": "lfq", "codebook_size": 1024},
    )  # fmt: skip
    sizes = {spec.name: spec.vocab_size for spec in whole.specs()}
    assert (sizes["tok_rgb"], sizes["tok_depth"], sizes["tok_normal"]) == (15_360, 4_375, 1_024)
    assert {name: whole.tokenizer(name).latent_dim for name in ("tok_rgb", "tok_normal")} == {
        "tok_rgb": 5,
        "tok_normal": 10,
    }
    # 16 tokens of a vector are 16 codes; the words of sentences hold few ids, so that `common` does not change them.
    assert (sizes["tok_dinov2_global"], whole.tokenizer("tok_dinov2_global").latent_dim) == (15_360, 80)
    for name in (SAM_MASK, BODY_POSE):
        assert whole.tokenizer(name).quantizer is None and whole.tokenizer(name).codebook_size == 64


def test_the_usual_quantizer_is_the_default() -> None:
    """Said or not: the same settings, and as many bytes are hashed as before there was a choice."""
    for name, usual in (("tok_rgb", "vq"), ("tok_dinov2_global", "memcodes"), (BODY_POSE, "memcodes")):
        settings = merge(name, {}, {})
        assert merge(name, {}, {"quantizer": usual}) == settings
        assert not hashed(settings).keys() & {"quantizer", "levels", "entropy_weight"}
        assert merge(name, {"levels": [4, 3], "entropy_weight": 1.0}, {}) == settings  # of others' use
        assert hashed(merge(name, {}, {"quantizer": "ifsq"})).keys() >= {"quantizer", "levels"}


@pytest.mark.parametrize("settings", [
    {"quantizer": "fsq", "levels": [4, 3, 2]}, {"quantizer": "ifsq", "levels": [5, 5]}, {"quantizer": "memcodes"},
    {"quantizer": "lfq", "codebook_size": 16, "entropy_weight": 0.5},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["tok_depth", "tok_dinov2_global"])
def test_all_quantizers_are_fitted_and_measured(name: str, settings: dict[str, Any]) -> None:
    whole = recipe([name], SMALL | {"codebook_size": 16}, **{name: settings})
    chosen, codes = whole.tokenizer(name), whole.specs()[0].vocab_size
    rng = np.random.default_rng(0)
    shape = (4, 32, 32) if name == "tok_depth" else (4, 768)
    rows = rng.normal(size=shape).astype(np.float16)
    model = build.model(name, chosen, 32, rows.shape[1:])
    x = to_input(name, rows)
    ids = model.encode(x)
    assert tuple(ids.shape) == ((4, 2, 2) if name == "tok_depth" else (4, 16)) and int(ids.max()) < codes
    trainer = VQTrainer(model, chosen)
    losses = [float(trainer.step(x)["loss"]) for _ in range(chosen.steps)]
    assert losses[-1] < losses[0]
    resumed = VQTrainer(build.model(name, chosen, 32, rows.shape[1:], seed=1), chosen)
    resumed.load_state_dict(trainer.state_dict())
    assert torch.equal(resumed.model.encode(x), trainer.model.encode(x))
    measured = quality(name, trainer.result(), [rows], 2)
    assert 0 < measured["codes_used"] <= 1 and 1 <= measured["perplexity"] <= codes


@pytest.mark.parametrize(
    ("name", "settings", "error"),
    [
        ("tok_rgb", {"quantizer": "fsq", "levels": [8, 1]}, "levels"),
        ("tok_rgb", {"quantizer": "fsq", "codebook_size": 100}, "codebook_size: got 100, and levels .* has 15360"),
        ("tok_rgb", {"quantizer": "fsq", "latent_dim": 32}, "latent_dim: got 32, and levels .* has 5"),
        ("tok_rgb", {"quantizer": "fsq", "levels": [256, 257]}, "65792 codes; there may be 65536 at most"),
        ("tok_rgb", {"quantizer": "lfq", "codebook_size": 1000}, "lfq has a power of two, as 1024"),
        ("tok_rgb", {"levels": [8, 8]}, "levels is a setting of fsq and ifsq, and the quantizer is vq"),
        ("tok_rgb", {"quantizer": "fsq", "ema_decay": 0.9}, "ema_decay is a setting of vq"),
        ("tok_rgb", {"quantizer": "fsq", "entropy_weight": 0.1}, "entropy_weight is a setting of lfq"),
        ("tok_dinov2_global", {"quantizer": "vq"}, "vq gives one code of a latent, a vector has 16"),
        ("tok_rgb", {"quantizer": "fqs"}, "quantizer"),
    ],
)  # fmt: skip
def test_impossible_quantizers_are_refused(name: str, settings: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        recipe([name], {}, **{name: settings})
