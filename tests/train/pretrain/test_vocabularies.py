"""Words and codes are part of a model: one that has learned the ids of other tokenizers is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fourmill_tests import data, training

from fourmill.infra import storage
from fourmill.model import checkpoint as model_files
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.pretrain import initial, vocabularies
from fourmill.train.pretrain.job import configured
from fourmill.train.pretrain.load import load_model
from fourmill.train.settings import Init

NAMES = ["rgb", "caption"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two vocabularies of one size."""
    folder = tmp_path_factory.mktemp("words")
    ours = WordPiece.fit(["a dog on a sofa"] * 2, vocab_size=5_000)
    ours.save(folder / "ours")
    content = json.loads((folder / "ours" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["dog"], vocabulary["sofa"] = vocabulary["sofa"], vocabulary["dog"]
    (folder / "theirs.json").write_text(json.dumps(content))
    WordPiece.load(folder / "theirs.json").save(folder / "theirs")
    return {name: folder / name for name in ("ours", "theirs")}


def recipe(root: Path, **changes: Any) -> Any:
    if not (root / "shards").exists():
        data.good_shards(root / "shards", 1, 2)
    settings = {"modalities": NAMES, "labels__keep": [], "generate__chains": []} | changes
    return data.recipe(root / "out", [str(next((root / "shards").iterdir()))], **settings)


def model(folder: Path, words: Path, *, said: bool = True, published: bool = False, **sizes: Any) -> str:
    """A model of the recipe's sizes that has learned a vocabulary."""
    asked, vocabulary = recipe(folder.parent, **sizes), WordPiece.load(words)
    made = FourM(configured(asked.specs(vocabulary.vocab_size), asked.train.model))
    made.tokenizers = {"text": vocabulary.fingerprint()} if said else {}
    (ml4m if published else model_files).save(made, folder)
    return str(folder)


def check(root: Path, init: Any, words: Path | None, **changes: Any) -> list[str]:
    named = {"tokenizers__text": {"weights": str(words)}} if words else {}
    return Project(recipe(root, train__init=init, **named, **changes)).check_training()


@pytest.mark.parametrize("published", [False, True])
def test_another_vocabulary_of_equal_size_is_refused(tmp_path: Path, words: dict[str, Path], published: bool) -> None:
    place = model(tmp_path / "model", words["ours"], published=published)
    assert check(tmp_path, place, words["ours"]) == []
    for other, problem in (
        (words["theirs"], "has learned another tokenizer text"),
        (None, "the recipe fits text itse"),
    ):
        with pytest.raises(RecipeError, match=rf"^train.init: .*{problem}.*tokenizers.text.weights to its root's"):
            check(tmp_path, place, other)
        fresh = {"weights": place, "embeddings": {"caption": "fresh"}}
        assert check(tmp_path, fresh, other) == ["train.init: the tokens of caption are learned from the start"]


def test_a_published_model_that_cannot_say_needs_names(tmp_path: Path, words: dict[str, Path]) -> None:
    place = model(tmp_path / "model", words["ours"], said=False, published=True)
    with pytest.raises(RecipeError, match=r"does not say which tokenizers.*published ones \(tokenizers.text.weights;"):
        check(tmp_path, place, None)
    (note,) = check(tmp_path, place, words["theirs"])
    assert note.endswith("does not say which tokenizers it has learned; text are taken to be the recipe's")
    assert len(check(tmp_path, {"weights": place, "embeddings": "fresh"}, None)) == 1
    own = model(tmp_path / "own", words["ours"], said=False)
    assert len(check(tmp_path, own, None)) == 1, "of an older release: said, and not refused"


@pytest.mark.parametrize(
    ("built", "problem"),
    [
        (
            {"train__model": {"dim": 48, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}},
            "dim is 32 here, and 48 in",
        ),
        ({"images__size": 96}, "rgb is of crops of 64 px here, and of 96 px in"),
        ({"modalities": ["det"]}, "knows none of the modalities rgb, caption; it knows det"),
    ],
)
def test_a_published_model_of_other_sizes_is_refused(
    tmp_path: Path, words: dict[str, Path], built: dict[str, Any], problem: str
) -> None:
    place = model(tmp_path / "model", words["ours"], published=True, **built)
    with pytest.raises(RecipeError, match=f"^train.init: .*{problem}"):
        check(tmp_path, place, words["ours"])


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path, words: dict[str, Path]) -> None:
    WordPiece.fit(["a dog on a sofa, far away"] * 2, vocab_size=5_000).save(tmp_path / "larger")
    place = model(tmp_path / "model", tmp_path / "larger", said=False, published=True)
    with pytest.raises(RecipeError, match=r"^train.init: caption has a vocabulary of \d+ here, and \d+ in"):
        check(tmp_path, place, words["ours"])


def test_fresh_tables_and_all_else_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    specs = training.SPECS
    trained = training.trainer(training.job(tmp_path)).model
    trained.tokenizers, place = {"text": "theirs"}, str(tmp_path / "model")
    model_files.save(trained, place)
    target = FourM(trained.config)
    target.tokenizers = {"text": "ours"}
    with pytest.raises(ValueError, match=r"has learned another tokenizer text \(contents theirs\)"):
        initial.fill(target, place)
    before = target.decoder_embeddings.token_table("caption").clone()
    initial.fill(target, Init(weights=place, embeddings={"caption": "fresh"}))
    for side in ("encoder_embeddings", "decoder_embeddings"):
        tables = [{s.name: getattr(m, side).token_table(s.name) for s in specs[1:]} for m in (target, trained)]
        assert torch.equal(tables[0]["tok_rgb"], tables[1]["tok_rgb"])
        assert not torch.equal(tables[0]["caption"], tables[1]["caption"])
    assert torch.equal(target.decoder_embeddings.token_table("caption"), before)
    assert torch.equal(target.modality_table, trained.modality_table)
    assert torch.equal(target.encoder[0].attn.qkv.weight, trained.encoder[0].attn.qkv.weight)


def test_runs_checkpoints_and_exports_say_what_they_learned(tmp_path: Path) -> None:
    from dataclasses import replace

    learned = {"text": "0123456789abcdef", "tok_rgb": "fedcba9876543210"}
    job = replace(training.job(tmp_path, steps=2, warmup_steps=0), tokenizers=learned)
    training.train(job)
    (saved, *_) = sorted(Path(job.checkpoints).iterdir())
    for place in (Path(job.folder, "model"), saved):
        assert vocabularies.learned(str(place)) == learned == initial.load(str(place)).tokenizers
    ml4m.save(load_model(job.folder), tmp_path / "exported")
    assert vocabularies.learned(str(tmp_path / "exported")) == ml4m.load(tmp_path / "exported").tokenizers == learned
    # Releases before wrote it into the folder of the run alone, and those before them nowhere.
    storage.delete(str(Path(job.folder, "model", "tokenizers.json")))
    assert vocabularies.learned(str(Path(job.folder, "model"))) == learned
    storage.delete(str(Path(job.folder, "tokenizers.json")))
    assert vocabularies.learned(str(Path(job.folder, "model"))) == {}


def test_words_that_are_not_4ms_are_refused_for_its_models(tmp_path: Path) -> None:
    """Published models do not say it, but everybody knows their words."""
    init = Init(weights="EPFL-VILAB/4M-21_B")

    def asked(size: int, words: str) -> list[str]:
        here = vocabularies.Here(["text"], {}, lambda name, expected: None, lambda: (size, words))
        return vocabularies.check(init, ["caption"], {}, True, here)

    assert asked(30_000, vocabularies.PUBLISHED_WORDS) and asked(5_000, "0")  # another size is said by its table
    with pytest.raises(ValueError, match=r"is another one of the same size; take text_tokenizer_4m_wordpiece_30k.json"):
        asked(30_000, "0")
