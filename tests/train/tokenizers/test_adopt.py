"""Finished tokenizers instead of fits: the recipe takes their sizes, the root their files; misfits are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize import codecs, tokenizer
from fourmill.tokenize.networks.divae import DiVAE, DiVAEConfig
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.settings import TokenizerSettings
from fourmill.train.tokenizers import adopt


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("adopt"), 1, 4)


def finished(folder: Path, **settings: Any) -> Path:
    config = {"image_size": 64, "patch_size": 8, "codebook_size": 99, "latent_dim": 8, "n_channels": 1} | settings
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **config)), folder, {"f1": 0.5})
    return folder


def recipe(root: Path, shards: list[str], weights: Path | str, **own: Any) -> Recipe:
    each = {"tok_canny_edge": {"weights": str(weights), **own}}
    names = ["tok_canny_edge", "tok_sam_edge"]
    return data.recipe(
        root, shards, modalities=names, labels__keep=[], generate__chains=[], tokenizers__each=each
    )  # fmt: skip


def test_finished_tokenizer_brings_its_sizes(tmp_path: Path, shards: list[str]) -> None:
    folder = finished(tmp_path / "weights")
    bare = recipe(tmp_path / "out", shards, folder)
    specs = Project(bare).recipe.specs()
    assert {(spec.name, spec.vocab_size, spec.max_tokens) for spec in specs} == {
        ("tok_canny_edge", 99, 64), ("tok_sam_edge", 99, 64),
    }  # fmt: skip
    data.fit(bare)
    record = ledger.read(bare.root, "tokenizers", "tok_canny_edge")
    assert record is not None and record.rows == 0 and record.identity["quality"] == {"f1": 0.5}
    assert record.identity["measured_on"] == "elsewhere"
    there = Project(bare).fitted
    assert there["tok_canny_edge"].vocab_size == 99
    loaded = codecs.load_fitted(bare.root, "tok_canny_edge", expected=there["tok_canny_edge"].fingerprint)
    crop = np.zeros((1, 64, 64), np.uint8)
    direct = codecs.FittedTokenizer("tok_canny_edge", str(folder), "cpu")
    assert np.array_equal(loaded.encode(crop), direct.encode(crop))
    assert not list(Path(bare.root).glob("runs/fit-*"))


def test_fingerprint_follows_contents_not_the_path(tmp_path: Path, shards: list[str]) -> None:
    folder = finished(tmp_path / "weights")
    data.fit(recipe(tmp_path / "out", shards, folder))
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert set(Project(recipe(tmp_path / "out", shards, moved)).fitted) == {"tok_canny_edge"}
    tokenizer.save(tokenizer.build(tokenizer.read_settings(moved), seed=5), moved, {})
    assert Project(recipe(tmp_path / "out", shards, moved)).fitted == {}


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({}, {"codebook_size": 64}, "its codebook_size is 99, the recipe says 64; leave it out"),
        ({}, {"patch_size": 16}, "its patch_size is 8, the recipe says 16; leave it out"),
        ({"n_channels": 3}, {}, "its n_channels is 3, tok_canny_edge needs 1"),
        ({"n_labels": 5}, {}, "its n_labels is 5, tok_canny_edge needs None"),
    ],
)
def test_misfit_of_weights_and_recipe_is_refused(
    tmp_path: Path, shards: list[str], settings: dict[str, Any], own: dict[str, Any], expected: str
) -> None:
    folder = finished(tmp_path / "weights", **settings)
    with pytest.raises(ValueError, match=expected):
        data.fit(recipe(tmp_path / "out", shards, folder, **own))


def test_missing_weights_are_refused_before_the_fit(tmp_path: Path, shards: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"tokenizers, tok_canny_edge: .* no such folder, and it is no hub id"):
        Project(recipe(tmp_path / "out", shards, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"found no .*model\.safetensors"):
        Project(recipe(tmp_path / "out", shards, tmp_path / "empty"))


def test_decoder_size_mismatch_and_imagenet_scaling(tmp_path: Path, shards: list[str]) -> None:
    sizes = {"image_size": 64, "patch_size": 8, "codebook_size": 64, "latent_dim": 8}
    deep = DiVAEConfig.small(16, 1, 2, 32, channel_mult=(1,) * 6, n_channels=1, **sizes)
    tokenizer.save(DiVAE(deep), tmp_path / "deep", {})
    with pytest.raises(ValueError, match=r"tok_canny_edge: weights .*deep: .*multiples of 128 px, got 64"):
        data.fit(recipe(tmp_path / "out", shards, tmp_path / "deep"))
    settings = TokenizerSettings(weights=str(finished(tmp_path / "rgb", n_channels=3, undo_std=True)),
                                 codebook_size=99, patch_size=8)  # fmt: skip
    adopt.bring("tok_rgb", settings, 64, str(tmp_path / "brought"))
    assert not tokenizer.load(tmp_path / "brought").config.undo_std  # what it will read are pictures in [-1, 1]


def test_label_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "weights", n_channels=5, patch_proj=False)
    loaded = codecs.FittedTokenizer("tok_clip", str(folder), "cpu")
    with pytest.raises(ValueError, match=r"tok_clip of .*weights: .*\(2, 7, 4, 4\); .*fitted on 5 channels"):
        loaded.encode(np.zeros((2, 4, 4, 7), np.float16))
