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


def test_a_finished_tokenizer_comes_with_its_sizes_and_makes_tokens(tmp_path: Path, shards: list[str]) -> None:
    folder = finished(tmp_path / "theirs")
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
    codebook = codecs.load_codebook(bare.root, "tok_canny_edge", expected=there["tok_canny_edge"].fingerprint)
    crop = np.zeros((1, 64, 64), np.uint8)
    theirs = codecs.Codebook("tok_canny_edge", str(folder), "cpu")
    assert np.array_equal(codebook.encode(crop), theirs.encode(crop))
    assert not list(Path(bare.root).glob("runs/fit-*"))


def test_other_contents_are_another_tokenizer_and_a_moved_folder_is_not(tmp_path: Path, shards: list[str]) -> None:
    folder = finished(tmp_path / "theirs")
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
def test_what_does_not_fit_is_said(
    tmp_path: Path, shards: list[str], settings: dict[str, Any], own: dict[str, Any], expected: str
) -> None:
    folder = finished(tmp_path / "theirs", **settings)
    with pytest.raises(ValueError, match=expected):
        data.fit(recipe(tmp_path / "out", shards, folder, **own))


def test_what_is_not_there_is_said_before_anything_starts(tmp_path: Path, shards: list[str]) -> None:
    with pytest.raises(RecipeError, match=r"tokenizers, tok_canny_edge: .* no such folder, and it is no hub id"):
        Project(recipe(tmp_path / "out", shards, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"found no .*model\.safetensors"):
        Project(recipe(tmp_path / "out", shards, tmp_path / "empty"))


def test_a_decoder_that_images_do_not_fit_and_the_standard_of_imagenet(tmp_path: Path, shards: list[str]) -> None:
    sizes = {"image_size": 64, "patch_size": 8, "codebook_size": 64, "latent_dim": 8}
    deep = DiVAEConfig.small(16, 1, 2, 32, channel_mult=(1,) * 6, n_channels=1, **sizes)
    tokenizer.save(DiVAE(deep), tmp_path / "deep", {})
    with pytest.raises(ValueError, match=r"^tok_canny_edge: weights .*deep: .*multiples of 128 px, got 64"):
        data.fit(recipe(tmp_path / "out", shards, tmp_path / "deep"))
    settings = TokenizerSettings(weights=str(finished(tmp_path / "rgb", n_channels=3, undo_std=True)),
                                 codebook_size=99, patch_size=8)  # fmt: skip
    adopt.bring("tok_rgb", settings, 64, str(tmp_path / "brought"))
    assert not tokenizer.load(tmp_path / "brought").config.undo_std  # what it will read are pictures in [-1, 1]


def test_a_label_of_another_width_is_a_sentence_with_both(tmp_path: Path) -> None:
    folder = finished(tmp_path / "theirs", n_channels=5, patch_proj=False)
    codebook = codecs.Codebook("tok_clip", str(folder), "cpu")
    with pytest.raises(ValueError, match=r"tok_clip of .*theirs: .*\(2, 7, 4, 4\); .*fitted on 5 channels"):
        codebook.encode(np.zeros((2, 4, 4, 7), np.float16))
