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
from fourmill.tokenize.text.wordpiece import WordPiece
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


@pytest.mark.parametrize(
    ("name", "config", "weights", "of"),
    [
        ("tok_normal", {"tokenizer": "tok_rgb"}, "models/colours", "tok_rgb"),
        ("tok_normal", {}, "EPFL-VILAB/4M_tokenizers_rgb_16k_224-448", "tok_rgb"),
        ("tok_dinov2", {"n_channels": 512}, "models/features", "tok_clip"),
        ("tok_dinov2", {"n_channels": 384}, "models/small", ""),
        ("tok_normal", {}, "models/normals", ""),
    ],
)
def test_a_tokenizer_of_another_label_is_refused(name: str, config: dict[str, Any], weights: str, of: str) -> None:
    """Of equal sizes: by the name that ours carry, by the hub's, by the width of 4M's features."""
    problem = adopt._another(name, weights, config)
    assert problem.startswith(f"it is the tokenizer {of}, and is named for {name}") if of else problem == ""


def test_a_fitted_tokenizer_carries_its_name(tmp_path: Path, shards: list[str]) -> None:
    data.fit(recipe(tmp_path / "out", shards, finished(tmp_path / "weights")))
    place = tmp_path / "out" / "tokenizers" / "tok_canny_edge"
    assert tokenizer.read_settings(place)["tokenizer"] == "tok_canny_edge"
    each = {"tok_depth": {"weights": str(place)}}
    other = data.recipe(
        tmp_path, shards, modalities=["tok_depth"], labels__keep=[], generate__chains=[], tokenizers__each=each
    )
    with pytest.raises(RecipeError, match="it is the tokenizer tok_canny_edge, and is named for tok_depth"):
        Project(other)


# The text tokenizer.


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words") / "text"
    WordPiece.fit(["a dog on a sofa"] * 2, vocab_size=4_600).save(folder)
    return folder


def texts(root: Path, shards: list[str], weights: Path | str, **changes: Any) -> Recipe:
    text = {"weights": str(weights)} | changes.pop("text", {})
    settings = {"modalities": ["caption", "det"], "labels__keep": [], "generate__chains": []} | changes
    return data.recipe(root, shards, tokenizers__text=text, **settings)


def test_a_finished_vocabulary_is_copied(tmp_path: Path, shards: list[str], words: Path) -> None:
    """As a folder of ours, and as the one file that 4M publishes, under any name."""
    published = shutil.copy(words / "tokenizer.json", tmp_path / "text_tokenizer_4m_wordpiece_30k.json")
    known = WordPiece.load(words)
    prints = set()
    for place in (words, published, tmp_path):
        bare = texts(tmp_path / "out", shards, place)
        project = Project(bare)
        assert {spec.vocab_size for spec in project.recipe.specs()} == {known.vocab_size}
        assert Path(str(project.recipe.tokenizers.text.weights)).is_absolute()
        prints.add(project.fit_fingerprints["text"])
    assert len(prints) == 2, "a file is identified by its content, and not by its folder"
    data.fit(bare)
    there = Project(bare).fitted["text"]
    assert (there.fingerprint, there.vocab_size) == (known.fingerprint(), known.vocab_size)
    assert codecs.load_text(bare.root).decode(known.encode("A dog!", 9)) == "a dog !"


@pytest.mark.parametrize(
    ("weights", "changes", "problem"),
    [
        ("nowhere/at/all", {}, "there is no such file or folder, and it is no hub id of the form org/name or spaces/"),
        ("words", {"text": {"vocab_size": 4_700}}, r"its vocab_size is \d+, the recipe says 4700; leave it out"),
        (
            "words",
            {"classes": {"det": ["ball"]}},
            "it has no word 'ball', which sentences of labels need; use 4M's voc",
        ),
        (
            "words",
            {"classes": {"det": ["dog", "cat"]}},
            "its classes of boxes are those of COCO, and not the recipe's;",
        ),
        ("empty", {}, "expected one text tokenizer in .*empty, a tokenizer.json, got none; name the file"),
        ("broken.json", {}, "is no Hugging Face tokenizer.json"),
        ("foreign.json", {}, r"missing \['\[PAD\]', '\[SOS\]', '\[EOS\]'\]; expected"),
    ],
)
def test_a_vocabulary_that_cannot_serve_is_refused(
    tmp_path: Path, shards: list[str], words: Path, weights: str, changes: dict[str, Any], problem: str
) -> None:
    from tokenizers import Tokenizer, models

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "foreign.json"))
    place = words if weights == "words" else tmp_path / weights if "/" not in weights else weights
    with pytest.raises(RecipeError, match=f"tokenizers.text: weights .*{problem}"):
        Project(texts(tmp_path / "out", shards, place, **changes))


def test_a_vocabulary_of_the_hub(
    tmp_path: Path, shards: list[str], words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hub(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, revision))
        return str(words)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    project = Project(texts(tmp_path / "out", shards, "spaces/EPFL-VILAB/4M", text={"revision": "57876e1"}))
    assert project.recipe.tokenizers.text.weights == "spaces/EPFL-VILAB/4M"
    assert asked == [("EPFL-VILAB/4M", "space", "57876e1")]
