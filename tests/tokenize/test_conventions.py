"""`convention: ml4m`: what published models expect, from photos to the first step; labels keep their declared frame."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data, runs

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.modalities import BODY_POSE, SAM_MASK, TEXT, TOKENIZERS
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.pipelines.specialists.classical import metadata
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize import codecs, frames, tokenizer
from fourmill.tokenize.conventions import PUBLISHED, applied
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.pretrain import initial
from fourmill.train.pretrain.trainer import Trainer


def test_every_tokenizer_is_named_and_the_recipe_counts() -> None:
    bare = {"root": "out", "samples": "a.tar", "convention": "ml4m"}
    recipe = recipes.parse(bare)
    assert {name: recipe.tokenizer(name).weights for name in TOKENIZERS if "@" not in name} == PUBLISHED
    assert PUBLISHED.keys() >= {SAM_MASK, BODY_POSE} and recipe.tokenizers.text.weights == "spaces/EPFL-VILAB/4M"
    assert recipe.tokenizer("tok_normal").frame == frames.OMNIDATA and recipe.tokenizer("tok_rgb").frame is None
    own = {"tok_rgb": {"weights": "models/rgb"}, "tok_depth": {"weights": None, "steps": 9, "warmup_steps": 0}}
    asked = recipes.parse(bare | {"tokenizers": {"each": own, "text": {"weights": "words.json"}}})
    assert [asked.tokenizer(name).weights for name in ("tok_rgb", "tok_depth")] == ["models/rgb", None]
    assert asked.tokenizers.text.weights == "words.json"
    theirs = {"labels": {"specialists": {"metadata": {"specialist": "mine:Metadata"}}}}
    chosen = applied(bare | theirs)["labels"]["specialists"]
    assert chosen["metadata"] == {"specialist": "mine:Metadata"}, "its options are its own"
    assert chosen["clip"] == {"normalization": "imagenet"} and chosen["depth"] == {"linear_in": "depth"}
    assert recipes.parse(recipe.model_dump(mode="json")) == recipe, "the resolved recipe says the same"


def test_without_it_nothing_is_named() -> None:
    recipe = recipes.parse({"root": "out", "samples": "a.tar"})
    assert recipe.tokenizers.text.weights is None and not recipe.tokenizers.each and not recipe.labels.specialists
    with pytest.raises(RecipeError, match="convention: Input should be 'ml4m', got 'ml4'"):
        recipes.parse({"root": "out", "samples": "a.tar", "convention": "ml4"})


@pytest.mark.parametrize("name", ["continue-4m7", "continue-4m21"])
def test_the_recipes_need_nothing_but_paths(name: str) -> None:
    recipe = recipes.load(f"{Path(recipes.__file__).parent}/recipes/{name}.yaml", ["root=out", "samples.train=a.tar"])
    assert recipe.convention == "ml4m" and recipe.train.init and not recipe.train.model.model_fields_set
    assert all(recipe.tokenizer(one).weights for one in recipe.tokenizers_needed)


# Normals: the label in the declared frame, the tokenizer in its own.


def normals(folder: Path, frame: str | None = None) -> Path:
    config = {"image_size": 64, "patch_size": 16, "codebook_size": 64, "latent_dim": 8, "n_channels": 3, "frame": frame}
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **config)), folder, {})
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("conventions"), 1, 4)


def test_normals_are_turned_at_the_edge_of_the_tokenizer(tmp_path: Path, shards: list[str]) -> None:
    each = {"tok_normal": {"weights": str(normals(tmp_path / "published"))}}
    settings = {"modalities": ["tok_normal"], "labels__keep": [], "generate__chains": [], "tokenizers__each": each}
    prints = set()
    for convention in ("ml4m", None):
        recipe = data.recipe(tmp_path / str(convention), shards, convention=convention, **settings)
        data.fit(recipe)
        prints.add(Project(recipe).fitted["tok_normal"].fingerprint)
    assert len(prints) == 2
    turning, plain = (codecs.load_fitted(str(tmp_path / one), "tok_normal") for one in ("ml4m", "None"))
    rows = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    turned = rows * np.array([1, -1, -1], np.float32)  # x right, y down, z away: ml-4m's notebooks, shared facts
    ids = turning.encode(rows)
    assert np.array_equal(ids, plain.encode(turned)) and not np.array_equal(ids, plain.encode(rows))
    expected = plain.decode(ids, side=4) * np.array([1, -1, -1], np.float32)
    np.testing.assert_array_equal(turning.decode(ids, side=4), expected)


def test_a_frame_is_of_normals_and_is_one(tmp_path: Path, shards: list[str]) -> None:
    def given(name: str, frame: str) -> Recipe:
        return data.recipe(
            tmp_path, shards, modalities=[name], generate__chains=[], tokenizers__each={name: {"frame": frame}}
        )

    with pytest.raises(RecipeError, match="tok_rgb: frame has no meaning for colors; leave it out"):
        given("tok_rgb", frames.OMNIDATA)
    with pytest.raises(RecipeError, match="'x' is no axis of a frame"):
        given("tok_normal", "x, y, z")
    assert given("tok_normal", frames.DECLARED).tokenizer("tok_normal").frame is None, "the declared one is no other"
    assert given("tok_normal", "x right, y down, z away").tokenizer("tok_normal").frame == frames.OMNIDATA


def test_a_fit_in_another_frame_says_it(tmp_path: Path) -> None:
    """The tokenizer of a folder of ours carries its frame, so that who brings it turns as well."""
    place = normals(tmp_path / "ours", frames.OMNIDATA)
    assert tokenizer.read_settings(place)["frame"] == frames.OMNIDATA
    assert "frame" not in tokenizer.read_settings(normals(tmp_path / "plain"))


# Metadata.


def test_formulas_of_metadata() -> None:
    """Of a picture whose numbers are known by hand: two halves, (200, 0, 0) and (0, 0, 200)."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 0], picture[:, 4:, 2] = 200, 200
    # Of all values a third is green 0; a sixth each is red 0, red 200, blue 0, blue 200.
    assert metadata.entropy(picture) == pytest.approx(np.log2(3) / 3 + 4 * np.log2(6) / 6)
    # rg is 200 and 0, yb 100 and -200; absolute ones 100 and 200.
    std, mean = np.hypot(100, 150), np.hypot(100, -50)
    assert metadata.colorfulness(picture) == pytest.approx(std + 0.3 * mean)
    assert metadata.colorfulness(picture, absolute=True) == pytest.approx(np.hypot(100, 50) + 0.3 * np.hypot(100, 150))


def test_the_convention_chooses_the_formulas(tmp_path: Path, shards: list[str]) -> None:
    settings = {"modalities": ["metadata"], "labels__keep": ["metadata"], "generate__chains": []}
    found, prints = {}, set()
    for convention in ("ml4m", None):
        text = {"weights": str(words(tmp_path / f"words-{convention}"))} if convention else {"vocab_size": 4_500}
        recipe = data.recipe(
            tmp_path / str(convention), shards, convention=convention, tokenizers__text=text, **settings
        )
        project = Project(recipe)
        prints.add(project.label_prints.current["metadata"])
        found[convention] = project.specialists["metadata"]([data_item()])[0]
    assert len(prints) == 2
    differ = {name for name in found[None] if found[None][name] != found["ml4m"][name]}
    assert differ == {"colorfulness", "entropy"} and found["ml4m"]["entropy"] > found[None]["entropy"]


def data_item() -> Any:
    from fourmill.pipelines.specialists.base import Item

    return Item("key", data.picture(3), None, {}, {})


def words(folder: Path) -> Path:
    """A vocabulary as one file, in the layout of 4M's."""
    WordPiece.fit(["a dog on a sofa"] * 2, vocab_size=4_600).save(folder)
    return Path(shutil.copy(folder / "tokenizer.json", folder.parent / f"{folder.name}.json"))


# From photos to a training step.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins in the published layouts: a model, its tokenizer of RGB, its vocabulary."""
    folder = tmp_path_factory.mktemp("published")
    sizes = {"image_size": 64, "patch_size": 16, "codebook_size": 64, "latent_dim": 8, "n_channels": 3}
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **sizes)), folder / "rgb", {})
    words(folder / "words")
    other = WordPiece.fit(["two cats, and a bird in it"] * 2, vocab_size=4_700)
    other.save(folder / "other")
    asked = recipe_of(folder, folder / "nowhere", ["a.tar"])
    size = WordPiece.load(folder / "words.json").vocab_size
    torch.manual_seed(0)
    config = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "share_modality_embeddings": False}
    ml4m.save(FourM(FourMConfig(tuple(asked.specs(size)), **config, tied_heads=False)), folder / "model")
    return folder


def recipe_of(place: Path, root: Path, shards: list[str], vocabulary: str = "words.json") -> Recipe:
    settings = data.settings(
        root, shards, modalities=["rgb", "tok_rgb", "caption", "color_palette", "metadata"], labels__keep=["metadata"],
        labels__specialists={}, generate__chains=[], convention="ml4m", train__init=str(place / "model"),
        tokenizers__each={"tok_rgb": {"weights": str(place / "rgb"), "codebook_size": 64}},
        tokenizers__text={"weights": str(place / vocabulary)},
    )  # fmt: skip
    del settings["train"]["model"]
    return recipes.parse(settings)


def test_photos_to_a_training_step(tmp_path: Path, place: Path, shards: list[str]) -> None:
    recipe = recipe_of(place, tmp_path / "out", shards)
    assert Project(recipe).check_training()[-1].endswith("tok_rgb and text are taken to be the recipe's")
    data.fit(recipe)
    assert (ledger.read(recipe.root, "tokenizers", TEXT) or ledger.Record).rows == 0
    data.make(recipe, data.outputs(recipe))
    job = data.train_job(recipe)
    assert (job.settings.model.dim, job.settings.model.share_modality_embeddings) == (16, False)
    trainer = Trainer(job, FourM(initial.config_of(job)))
    published = ml4m.load(place / "model")
    _, batch = next(trainer.loader.batches(0, job.settings.batch_size, 0, 1))
    theirs = replace(batch, values={"rgb@64": batch.values["rgb"]})  # 64 px have that name there
    with torch.no_grad():
        losses = [one.eval()(given).loss for one, given in ((trainer.model, batch), (published, theirs))]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    assert losses[0] > 1


def test_a_wrong_vocabulary_stops_before_any_work(tmp_path: Path, place: Path, shards: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = recipe_of(place, tmp_path / "out", shards)
    path.write_text(json.dumps(recipe.model_dump(mode="json", exclude={"train": {"model"}})))
    for verb in ("plan", "run"):
        status, _, err = runs.command(verb, str(path), "--set", f"tokenizers.text.weights={place}/other")
        assert status == 2 and "train.init: caption has a vocabulary of" in err, err
    assert not (tmp_path / "out").exists()
