"""recipes/train: each file says what its paper's table says, and gives a model of the published size.

Expected numbers are those of 4M (appendix, training settings) and 4M-21 (table 6), and of the released configurations.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fourmill_tests import training

from fourmill import recipe as recipes
from fourmill.modalities import MODALITIES
from fourmill.model.fourm import FourM
from fourmill.recipe import Recipe
from fourmill.train.masking.spans import Keep
from fourmill.train.pretrain.job import TrainJob, masking_config, model_config

FOLDER = Path(recipes.__file__).parent / "recipes" / "train"
SEVEN = {"rgb", "caption", "det", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip"}
TWENTY_ONE = SEVEN | {
    "t5_caption", "metadata", "human_poses", "tok_dinov2", "tok_dinov2_global", "tok_imagebind", "tok_imagebind_global",
    "tok_sam_edge", "tok_canny_edge", "color_palette", "sam_instance",
}  # fmt: skip
# name: inputs, targets, batch, billions of tokens, of warm-up, base lr, clip, steps, parameters without embeddings
# (gradients that are not finite stop B, which apple/ml-4m trains with DDP, and are skipped by the others, with FSDP)
TABLE: dict[str, tuple[Any, ...]] = {
    "4m7_b": (128, 128, 8192, 500, 10, 1e-4, None, 238_419, 198e6),
    "4m7_l": (128, 128, 8192, 500, 10, 1e-4, None, 238_419, 705e6),
    "4m7_xl": (128, 128, 8192, 500, 10, 2e-5, 3.0, 238_419, 2.8e9),
    "4m21_b": (256, 256, 4096, 500, 10, 1e-4, None, 238_419, 198e6),
    "4m21_l": (256, 256, 4096, 500, 10, 1e-4, None, 238_419, 705e6),
    "4m21_xl": (256, 256, 4096, 500, 10, 2e-5, 3.0, 238_419, 2.8e9),
    "4m7_t2i": ((64, 256), 256, 8192, 100, 10, 1e-4, None, 23_842, 705e6),
    "4m7_t2i_b": ((64, 256), 256, 4096, 100, 10, 1e-4, None, 47_684, 198e6),
    "4m7_t2i_xl": ((64, 256), 256, 4096, 100, 5, 2e-5, 3.0, 47_684, 2.8e9),
    "4m7_sr": ((64, 1024), 1024, 4096, 100, 5, 1e-4, 3.0, 11_921, 705e6),
}


def load(name: str, folder: Path) -> Recipe:
    """A recipe of one's own that includes it, as a user has it: by a path below the package."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"include": [f"recipes/train/{name}.yaml"], "root": "out", "samples": "a.tar"}))
    return recipes.load(path)


def job(recipe: Recipe) -> TrainJob:
    return training.job_of(recipe, tuple(recipe.specs()))


def test_every_file_has_a_row() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_it_says_what_the_table_says(name: str, tmp_path: Path) -> None:
    recipe = load(name, tmp_path)
    train = recipe.train
    inputs, targets, batch, total, warmup, lr, clip, steps, parameters = TABLE[name]
    assert (train.input_tokens, train.target_tokens, train.batch_size) == (inputs, targets, batch)
    assert (train.total_tokens, train.warmup_tokens) == (total * 1e9, warmup * 1e9)
    assert (train.base_lr, train.min_lr, train.clip_norm, train.steps) == (lr, 0.0, clip, steps)
    assert (train.betas, train.weight_decay, train.loss, train.repeat) == ((0.9, 0.95), 0.05, "modality", 4)
    assert train.precision == "auto" and train.name == name.replace("_", "-")
    assert (train.nonfinite, train.parallel) == (("stop", "ddp") if name.endswith("_b") else ("skip", "fsdp"))
    wide = train.model.dim == 2048 or name in ("4m21_l", "4m7_sr")
    assert train.activation_checkpointing == ("selective" if wide else False)
    config = model_config(job(recipe))
    with torch.device("meta"):
        model = FourM(config)
    tables = ("encoder_embeddings.", "decoder_embeddings.", "modality_table", "projections.")
    body = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(tables))
    assert body == pytest.approx(parameters, rel=0.012)
    masking_config(job(recipe)).check(config.modalities)


def mixtures(name: str, folder: Path) -> list[Any]:
    return list(masking_config(job(load(name, folder))).mixtures)


@pytest.mark.parametrize("name", ["4m7_b", "4m7_l", "4m7_xl"])
def test_4m7_goes_from_rgb_and_from_all_to_all(name: str, tmp_path: Path) -> None:
    assert set(load(name, tmp_path).modalities) == SEVEN
    rgb, all_to_all = mixtures(name, tmp_path)
    assert {n: a for n, a in rgb.input_alphas.items() if a} == {"rgb": 1000.0}
    assert set(all_to_all.input_alphas.values()) == {0.5} and set(all_to_all.input_alphas) == SEVEN
    for one in (rgb, all_to_all):
        assert one.target_alphas == dict.fromkeys(SEVEN - {"rgb"}, 0.5)
        assert one.weight == 1.0 and set(one.keep.values()) == {Keep.RANDOM}


@pytest.mark.parametrize("name", ["4m21_b", "4m21_l", "4m21_xl"])
def test_4m21_has_seven_mixtures(name: str, tmp_path: Path) -> None:
    assert set(load(name, tmp_path).modalities) == TWENTY_ONE
    resolved = mixtures(name, tmp_path)
    targets = {n for n in TWENTY_ONE if MODALITIES[n].is_target}
    assert [one.weight for one in resolved] == [1, 1, 1, 1, 1, 0.5, 0.5]
    for one, alpha in zip(resolved, (0.01, 0.1, 1.0, 10.0), strict=False):
        assert one.input_alphas == dict.fromkeys(TWENTY_ONE, alpha)
        assert one.target_alphas == dict.fromkeys(targets, alpha)
    rgb, caption, t5 = resolved[4:]
    assert {n: a for n, a in rgb.input_alphas.items() if a} == {"rgb": 1000.0}
    assert rgb.target_alphas == dict.fromkeys(targets, 0.5)
    biased = dict.fromkeys(TWENTY_ONE, 0.05)
    assert caption.input_alphas == biased | {"caption": 5.0, "t5_caption": 0.0}
    assert caption.target_alphas == dict.fromkeys(targets, 0.5) | {"caption": 0.0}
    assert t5.input_alphas == biased | {"caption": 0.0, "t5_caption": 5.0}
    assert t5.target_alphas == dict.fromkeys(targets, 0.5)
    for one in resolved:
        kept = {n: rule for n, rule in one.keep.items() if rule is not Keep.RANDOM}
        expected = {"color_palette": Keep.BINARY}
        expected |= {"caption": Keep.ALL} if one is caption else {"t5_caption": Keep.ALL} if one is t5 else {}
        assert kept == expected


@pytest.mark.parametrize("name", ["4m7_t2i", "4m7_t2i_b", "4m7_t2i_xl"])
def test_text_to_image_is_a_third_captions(name: str, tmp_path: Path) -> None:
    assert set(load(name, tmp_path).modalities) == SEVEN
    biased, *others = mixtures(name, tmp_path)
    assert biased.input_alphas == dict.fromkeys(SEVEN, 0.05) | {"caption": 5.0}
    assert [set(one.input_alphas.values()) for one in others] == [{0.2}, {1.0}]
    for one in (biased, *others):
        assert one.weight == 1.0 and one.target_alphas == dict.fromkeys(SEVEN - {"rgb"}, 1.0)
    assert biased.keep["caption"] is Keep.ALL and others[0].keep["caption"] is Keep.RANDOM


def test_super_resolution_predicts_448_px_alone(tmp_path: Path) -> None:
    recipe = load("4m7_sr", tmp_path)
    high = {f"{n}@448" for n in SEVEN - {"caption", "det"}}
    assert set(recipe.modalities) == SEVEN | high
    specs = {spec.name: spec for spec in recipe.specs()}
    assert specs["tok_rgb@448"] == replace(specs["tok_rgb"], name="tok_rgb@448", max_tokens=784)
    assert specs["rgb@448"].max_tokens == 784
    assert set(recipe.tokenizers_needed) == {n for n in SEVEN if n.startswith("tok_")}
    resolved = mixtures("4m7_sr", tmp_path)
    everything = dict.fromkeys(SEVEN | high, 0.05)
    assert resolved[0].input_alphas == everything | {"tok_rgb": 5.0, "tok_rgb@448": 5.0}
    assert resolved[1].input_alphas == everything | {"caption": 5.0}
    assert [set(one.input_alphas.values()) for one in resolved[2:]] == [{0.2}, {1.0}]
    shown = high - {"rgb@448"}
    targets = [{n: a for n, a in one.target_alphas.items() if a} for one in resolved]
    assert targets[0] == dict.fromkeys(shown, 0.05) | {"tok_rgb@448": 5.0}
    assert targets[1:] == [dict.fromkeys(shown, 1.0)] * 3
    assert [one.keep["caption"] for one in resolved] == [Keep.RANDOM, Keep.ALL, Keep.RANDOM, Keep.RANDOM]
