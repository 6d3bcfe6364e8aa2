"""What fits on a GPU, and which setting to change where the recipe's batch does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data
from fourmill_tests.tiny import features

from fourmill.pipelines.engine.settings import Engine
from fourmill.pipelines.specialists.features.features import Clip, Dino
from fourmill.recipe import Recipe
from fourmill.report.doctor import doctor, fits
from fourmill.report.doctor.finding import Finding, State
from fourmill.report.doctor.machine import Has
from fourmill.tokenize import tokenizer
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.train.memory import ROOM

CHAINS = [{"inputs": ["rgb"], "to": ["tok_rgb", "caption"]}]


def recipe(folder: Path, **changes: Any) -> Recipe:
    plain = {
        "modalities": ["rgb", "tok_rgb", "caption"], "labels__keep": [], "generate__chains": CHAINS, "train__gpus": 1,
        "fit__gpus": 1, "train__batch_size": 64,
    }  # fmt: skip
    return data.recipe(folder / "out", "a.tar", **(plain | changes))


def test_without_a_gpu_nothing_is_counted(tmp_path: Path) -> None:
    assert fits.look(recipe(tmp_path), Has("here", 64.0), 1.0) == ([], [])


def test_every_stage_says_what_fits(tmp_path: Path) -> None:
    found, findings = fits.look(recipe(tmp_path), Has("l4x1", 64.0, 1, 24.0), 1.5)
    assert [fit.stage for fit in found] == ["label", "fit tok_rgb", "train", "generate"] and not findings
    assert found[0].as_json() == {"stage": "label", "samples": None, "gib": 1.5, "most": None}
    train = found[2]
    assert train.samples == 64 and train.most is not None and train.most > 1_000 and 0 < train.gib < 1


def test_labels_say_what_fits_or_why_not(tmp_path: Path) -> None:
    specialists = {"clip": Clip(weights=str(features.clip(tmp_path / "clip"))), "dinov2": Dino(weights="no/where")}

    def look(memory: float, **engine: Any) -> tuple[list[fits.Fit], list[Finding]]:
        return fits._of_labels(specialists, 1.5, Has("x", 64.0, 1, memory / ROOM), Engine(**engine), quick=True)

    (total, clip, dinov2), findings = look(24.0)
    assert not findings
    assert total.as_json() == {"stage": "label", "samples": None, "gib": 1.5, "most": None}
    assert (clip.stage, clip.samples) == ("label clip", 4 * 32) and clip.most is not None and clip.most > 1_000
    assert dinov2.most is None and dinov2.as_json()["why"] == "its weights are not on this machine"

    each = (clip.gib - look(24.0, window=2)[0][1].gib) / 64
    room = clip.gib - 49.5 * each
    _, (said,) = look(room)
    assert said.what == "label clip" and "which is 78" in said.why and said.do == "--set engine.window=2"
    assert not look(room, window=2)[1]
    _, (said,) = look(clip.gib - 120 * each)
    assert "labels.keep" in said.do


def test_what_is_advised_fits(tmp_path: Path) -> None:
    """A GPU on which the batch of every stage is too large, and the recipe with what is advised."""
    small = Has("tinyx1", 64.0, 1, 0.02)
    batch = {"batch_size": 2_048}
    _, findings = fits.look(recipe(tmp_path, tokenizers__each={"tok_rgb": batch}), small, 0.0)
    advice = {one.what: one.do for one in findings if one.state is State.WRONG}
    assert {"fit tok_rgb", "train"} <= set(advice)
    changes = {}
    for text in advice.values():
        field, _, value = text.removeprefix("--set ").partition(",")[0].partition("=")
        changes[field] = int(value)
    assert changes["train.accumulate"] > 1
    mended = {"train__accumulate": changes["train.accumulate"]}
    each = {"tok_rgb": batch | {"accumulate": changes["tokenizers.each.tok_rgb.accumulate"]}}
    size = changes.get("generate.batch_size", 16)
    better = recipe(tmp_path, tokenizers__each=each, generate__batch_size=size, **mended)
    assert not fits.look(better, small, 0.0)[1]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "train.activation_checkpointing=true"),
        ({"train__activation_checkpointing": True}, "train.parallel=fsdp"),
        ({"train__activation_checkpointing": True, "train__parallel": "fsdp"}, "more train.workers"),
    ],
)
def test_where_not_even_one_sample_fits(tmp_path: Path, changes: dict[str, Any], advice: str) -> None:
    assert advice in fits._advice(recipe(tmp_path, **changes), "train", 0)


def test_sizes_are_those_of_what_a_recipe_names(tmp_path: Path) -> None:
    """A finished tokenizer says how many codes the model has to learn."""
    taken = {}
    for codes in (99, 50_099):
        config = VQVAEConfig.small(16, 1, 2, image_size=64, patch_size=8, codebook_size=codes, latent_dim=8)
        tokenizer.save(VQVAE(config), tmp_path / f"{codes}", {})
        each = {"tok_rgb": {"weights": str(tmp_path / f"{codes}")}}
        own = recipe(tmp_path, tokenizers__each=each, train__model={"dim": 64, "heads": 2})
        found = {fit.stage: fit.gib for fit in doctor.examine(own, Has("l4x1", 64.0, 1, 24.0), True).fits}
        assert "fit tok_rgb" not in found
        taken[codes] = found["train"]
    # Two tables: values, gradients and moments, four bytes each.
    assert (taken[50_099] - taken[99]) * 2**30 > 2 * 50_000 * 64 * 16
