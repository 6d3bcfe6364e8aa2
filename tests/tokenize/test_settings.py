"""Settings of tokenizers: the paper's row of each, what `common` changes, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from fourmill import recipe as recipes
from fourmill.modalities import BODY_POSE, MODALITIES, SAM_MASK, TOKENIZERS, Form
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize.settings import PICTURES, ROWS, Tokenizers, TokenizerSettings, merge, never_warm, useless


def recipe(modalities: list[str], images: dict[str, int] | None = None, **tokenizers: Any) -> Recipe:
    data = {"root": "out", "samples": "a.tar", "modalities": modalities, "tokenizers": tokenizers}
    return recipes.parse({**data, **({"images": images} if images else {})})


# 4M-21, table 5: name -> (vocabulary, tokens, loss, epochs of 39,000 steps)
PAPER = {
    "tok_rgb": (16_384, 196, "mse", 50), "tok_depth": (8_192, 196, "smooth_l1", 20),
    "tok_normal": (8_192, 196, "mse", 20), "tok_canny_edge": (8_192, 196, "smooth_l1", 50),
    "tok_semseg": (4_096, 196, "cross_entropy", 20), "tok_clip": (8_192, 196, "smooth_l1", 20),
    "tok_dinov2": (8_192, 256, "smooth_l1", 20), "tok_imagebind": (8_192, 256, "smooth_l1", 20),
    "tok_dinov2_global": (8_192, 16, "cosine", 15), "tok_imagebind_global": (8_192, 16, "cosine", 15),
    SAM_MASK: (1_024, 16, "cross_entropy", 24), BODY_POSE: (1_024, 8, "smooth_l1", 15),
}  # fmt: skip


def test_every_row_is_the_papers() -> None:
    whole = recipe(list(MODALITIES))
    assert set(whole.tokenizers_needed) == set(TOKENIZERS) == set(ROWS) == set(PAPER)
    for name, (codes, tokens, loss, epochs) in PAPER.items():
        settings, entry = whole.tokenizer(name), TOKENIZERS[name]
        assert (settings.codebook_size, settings.loss, settings.steps) == (codes, loss, epochs * 39_000), name
        assert settings.decoder == ("unet" if entry.form in PICTURES else "vit"), name
        side = (entry.image_size or 224) // (settings.patch_size or 1)
        assert (entry.tokens if entry.form is Form.VECTOR else side**2) == tokens, name
        assert not useless(name) & ROWS[name].keys() - {"decoder", "loss", "heads", "out_conv"}, name
    assert whole.tokenizer("tok_canny_edge").base_lr == 5e-5
    assert whole.tokenizer(SAM_MASK).latent_dim == 1024
    assert {whole.tokenizer(name).average for name in PAPER if TOKENIZERS[name].form in PICTURES} == {0.9999}


def test_each_overrides_common_overrides_the_row() -> None:
    common = {"dim": 32, "heads": 2, "decoder": "vit", "loss": "l1", "patch_size": 8, "latent_dim": 8, "steps": 40}
    tiny = recipe(list(MODALITIES), common=common, each={"tok_rgb": {"loss": "mse", "steps": 7}})
    assert {tiny.tokenizer(name).dim for name in TOKENIZERS} == {32}
    assert tiny.tokenizer("tok_rgb").loss == "mse" and tiny.tokenizer("tok_depth").loss == "l1"
    assert tiny.tokenizer("tok_semseg").loss == "cross_entropy"  # class maps have no other
    assert tiny.tokenizer("tok_depth").patch_size == 8
    assert tiny.tokenizer("tok_dinov2").patch_size == 14  # of a feature map it says how large the map is
    assert tiny.tokenizer(SAM_MASK).patch_size == 16
    assert tiny.tokenizer(BODY_POSE).latent_dim == 1024
    assert tiny.tokenizer("tok_rgb").steps == 7 and tiny.tokenizer("tok_clip").steps == 40


def test_a_shorter_fit_warms_up_for_the_same_share() -> None:
    assert merge("tok_rgb", {"steps": 1000}, {}).warmup_steps == 100  # 5 of 50 epochs
    assert merge("tok_clip", {"steps": 1000}, {}).warmup_steps == 250  # 5 of 20
    assert merge("tok_clip", {"steps": 1000}, {"warmup_steps": 3}).warmup_steps == 3
    later = merge("tok_rgb", {"resolutions": {"steps": 100}}, {}).resolutions
    assert later is not None and later.warmup == 20 and later.sizes == (224, 256, 288, 320, 352, 384, 416, 448)


def test_sam_edges_share_the_tokenizer_of_canny_edges() -> None:
    tiny = recipe(["tok_sam_edge"], {"size": 64}, each={"tok_canny_edge": {"codebook_size": 99, "patch_size": 8}})
    assert tiny.tokenizers_needed == ["tok_canny_edge"]
    (spec,) = tiny.specs()
    assert (spec.vocab_size, spec.max_tokens) == (99, 64)


def test_sentences_need_tokenizers_embeddings_a_width() -> None:
    assert recipe(["human_poses", "sam_instance", "caption"]).tokenizers_needed == [BODY_POSE, SAM_MASK]
    (spec,) = recipe(["t5_caption"], embedding_dim=32).specs()
    assert spec.input_dim == 32


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("tok_semseg", {"loss": "l1"}, "loss has no meaning for classes"),
        ("tok_clip", {"decoder": "unet"}, "decoder has no meaning for features"),
        ("tok_clip", {"resolutions": {}}, "resolutions has no meaning for features"),
        ("tok_dinov2_global", {"patch_size": 14}, "patch_size has no meaning for vector"),
        ("tok_depth", {"color_jitter": 0.1}, "color_jitter has no meaning for depth"),
        ("tok_dinov2_global", {"latent_dim": 40}, "latent_dim 40 does not divide among the 16 tokens"),
        ("tok_rgb", {"loss": "cross_entropy"}, "cross_entropy is a loss of class maps"),
        ("tok_rgb", {"dim": 6, "heads": 2}, "dim 6 is no multiple of 4"),
        ("tok_rgb", {"decoder": "vit", "warm_start": True, "latent_dim": 1}, "warm_start needs a latent_dim of 2 to"),
        ("tok_rgb", {"resolutions": {"sizes": [224, 250]}}, "multiples of 32 px, got 250"),
        ("tok_rgb", {"decoder": "vit", "resolutions": {"sizes": [224, 250]}}, "multiples of 16 px, got 250"),
        ("tok_rgb", {"unet_multipliers": [1] * 5}, "its unet decoder needs images .* multiples of 64 px, got 224"),
        ("tok_rgb", {"noise_schedule": "cosine"}, "noise_schedule"),
        ("tok_rgb", {"prediction": "epsilon", "zero_terminal_snr": True}, "switch zero_terminal_snr off"),
        ("tok_rgb", {"prediction": "epsilon", "noise_schedule": "shifted_cosine:0.5"}, "take another noise_schedule"),
        ("tok_rgb", {"noise_schedule": "shifted_cosine:0.0"}, "expected a shift above 0"),
        ("tok_rgb", {"validation_steps": 1001}, "validation_steps"),
        ("tok_rgb", {"accumulate": 3}, "256 does not divide into 3 parts"),
        ("tok_rgb", {"perceptual_weight": 1.0}, "needs perceptual_backbone"),
        ("tok_rgb", {"resolutions": {"size": 3}}, "did you mean 'sizes'"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        recipe([name], each={name: settings})


def test_a_tokenizer_that_is_not_needed_may_be_set() -> None:
    assert recipe(["tok_rgb"], each={"tok_depth": {"steps": 3}}).tokenizers_needed == ["tok_rgb"]


def test_settings_round_trip() -> None:
    settings = merge("tok_rgb", {"resolutions": {}}, {})
    assert TokenizerSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_fit_that_never_reaches_its_rate_is_known() -> None:
    """Said by plan and fit, so that roots that were fitted so still open."""
    for steps, warmup in ((1, 1), (10, 100)):
        tokenizers = Tokenizers(common={"steps": steps, "warmup_steps": warmup})
        said = never_warm(tokenizers.of("tok_rgb"))
        assert said.startswith(f"warmup_steps: {warmup} of {steps} steps, in which the learning rate gets to"), said
    for fine in ({"steps": 10}, {"steps": 10, "warmup_steps": 10}, {"steps": 1, "warmup_steps": 0}):
        assert not never_warm(Tokenizers(common=fine).of("tok_rgb"))
