"""All of 4M-21 with a tiny local model in the place of each of the hub's: shards to labels, tokenizers, columns, a
training step, and every modality generated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fourmill_tests import data, runs, training
from fourmill_tests.tiny import every
from fourmill_tests.tiny import models as tiny_models

from fourmill import recipe as recipes
from fourmill.infra import ledger, storage
from fourmill.modalities import LABELS, MODALITIES, Kind, Storage
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import store
from fourmill.tokenize.labels import decode_cell, read_labels
from fourmill.verbs.look import status
from fourmill.verbs.make import generate, plan
from fourmill.verbs.make import label as label_verb
from fourmill.verbs.make import train as train_verb
from fourmill.verbs.summary import Summary

# What samples are chosen by: scores that come with the data or with published weights, and duplicates of a whole set.
CURATION = {"size", "borders", "watermark", "aesthetic", "nsfw", "similarity", "clip_global", "signature", "duplicate"}
PUBLISHED = {name for name in MODALITIES if "@" not in name}


@dataclass(frozen=True)
class Run:
    folder: Path
    recipe: Recipe
    labelled: Summary
    trained: Summary
    generated: Summary

    @property
    def root(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("4m21")
    train = data.good_shards(folder / "s", 1, 8)
    val = data.good_shards(folder / "s", 1, 4, first=50, name="val")
    settings = tiny_models.recipe_4m21(folder, train, val)
    settings["labels"]["keep"] = [label for label in LABELS if label not in {"rgb", *CURATION}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    recipe = recipes.load(folder / "recipe.yaml")
    labelled = label_verb.make(Project(recipe))  # by actors, whose nodes fetch and check the weights
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False), stored=recipe.labels.keep)
    training.train(Project(recipe).train_job)  # Ray Train's part is tested with smaller recipes
    return Run(folder, recipe, labelled, train_verb.make(Project(recipe)), generate.make(Project(recipe)))


def test_the_recipe_names_every_modality_of_4m_21(run: Run) -> None:
    assert set(run.recipe.modalities) == PUBLISHED


def test_every_stage_is_complete(run: Run) -> None:
    for summary in (run.labelled, run.trained, run.generated):
        assert summary.complete, summary.missing
        assert not summary.rejects, summary.rejects
    assert status.describe(Project(run.recipe))["missing"] == {}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_column_is_whole(run: Run, name: str) -> None:
    record = ledger.read(str(run.root), f"tokens/{name}", "train-00000")
    assert record is not None and record.rejects == [] and record.rows == 8
    column = store.read(str(run.root / "tokens" / name / "train-00000.parquet"))
    assert column.valid.all()
    if MODALITIES[name].kind is Kind.GRID:
        assert column.values.max() < 64 and len(np.unique(column.values)) > 1


def test_records_with_something_in_them(run: Run) -> None:
    """The models of this test do find people, boxes and instances: sentences are more than `none`."""
    for label in ("det", "human_poses", "sam_instance", "open_det", "vlm_caption"):
        _, values = read_labels(str(run.root / "labels" / label / "train-00000.parquet"))
        assert all(values), label
    _, (first, *_) = read_labels(str(run.root / "labels" / "metadata" / "train-00000.parquet"))
    assert {"walkability", "geometric_complexity", "occlusion_score", "n_sam_instances", "n_humans"} <= set(first)


def test_labels_given_as_inputs_have_the_tokens_of_columns(run: Run) -> None:
    compared = every.compare_with_store(run.root, run.recipe, run.folder / "s" / "train-00000.tar")
    assert compared == dict.fromkeys(run.recipe.modalities, 8)


def test_inputs_of_ones_own_give_every_modality(run: Run, tmp_path: Path) -> None:
    """The trained run's folder is all that it takes."""
    (tmp_path / "photo.jpg").write_bytes(data.encode(data.picture(70, 150, 100)))
    (folder,) = run.root.glob("runs/4m21/*")
    targets = [name for name in run.recipe.modalities if MODALITIES[name].is_target]
    for place in (folder, run.folder / "recipe.yaml"):
        arguments = ["--input", f"rgb={tmp_path}/photo.jpg", "--to", ",".join(targets), "--out", str(tmp_path / "out")]
        status, out, err = runs.command("generate", str(place), *arguments)
        assert status == 0, err
        assert {path.stem for path in (tmp_path / "out" / "0000").iterdir()} == set(targets)
        assert "cannot be drawn" not in Path(out.splitlines()[-1]).read_text()
    assert json.loads((folder / "tokenizers.json").read_text()).keys() == {*run.recipe.tokenizers_needed, "text"}


def test_every_modality_that_can_be_is_generated(run: Run) -> None:
    (folder,) = run.root.glob("runs/4m21/*/generated/*")
    made: set[str] = set()
    for chain in sorted(folder.glob("chain-*")):
        summary = json.loads((chain / "samples.json").read_text())
        for step in summary["steps"]:
            name = step["target"]
            made.add(name)
            column = store.read(str(chain / f"{name}.parquet"))
            assert column.valid.all() and len(column) == 2
            if MODALITIES[name].kind is Kind.GRID:
                kind = LABELS[MODALITIES[name].label].storage
                suffix = "png" if kind is Storage.IMAGE else "npy"
                value: Any = decode_cell(kind, (chain / name / f"0000.{suffix}").read_bytes())
                assert value.size and np.isfinite(value.astype(np.float64)).all()
            else:
                assert all(name in sample for sample in summary["samples"])
    assert made == {name for name in PUBLISHED if MODALITIES[name].is_target}


def test_the_plan_tells_models_in_the_order_of_their_needs(run: Run) -> None:
    described = plan.describe(Project(run.recipe), measure=2)
    order = [row["label"] for row in described["labels"]]
    assert order.index("det") < order.index("human_poses") < order.index("metadata")
    assert order.index("sam_instance") < order.index("sam_edge")
    weights = {row["label"]: row["weights"] for row in described["labels"]}
    assert weights["depth"].endswith("depth") and not weights["canny_edge"]
    assert described["actors"]["at_once"] >= 1 and not any(described["missing"].values())
    assert set(described["measured"]["by_output"]) >= {f"tokens/{name}" for name in PUBLISHED}
    status, out, err = runs.command("plan", str(run.folder / "recipe.yaml"))
    assert status == 0, err
    assert all(name in out for name in ("human_poses", "tok_sam_edge", "an actor takes"))


def test_tokenizers_are_evaluated_into_a_table(run: Run) -> None:
    status, _, err = runs.command("evaluate", str(run.folder / "recipe.yaml"), "--tokenizers")
    assert status == 0, err
    rows = json.loads(storage.read_bytes(str(run.root / "reports" / "tokenizers.json")))
    table = (run.root / "reports" / "tokenizers.md").read_text()
    assert all(name in table for name in run.recipe.tokenizers_needed)
    assert len(rows) == 12 or len(rows["rows"]) == 12


def test_images_are_found_by_a_caption_and_by_samples(run: Run) -> None:
    recipe = str(run.folder / "recipe.yaml")
    status, out, err = runs.command("retrieve", recipe, "--query", "caption", "--text", "a cup", "--top", "3", "--json")
    assert status == 0, err
    (found,) = json.loads(out)["found"]
    assert found["query"] == "a cup" and len(found["places"]) == 3
    status, out, err = runs.command("retrieve", recipe, "--query", "tok_canny_edge", "--split", "train")
    assert status == 0 and "own image among the first 5" in out, err
    status, _, err = runs.command("retrieve", recipe, "--query", "tok_nothing")
    assert status == 2 and "expected one of the recipe's modalities" in err


def test_the_trained_encoder_is_tuned_to_classify(run: Run, tmp_path: Path) -> None:
    entries = []
    for i in range(8):
        entries += [(f"{i}.jpg", data.encode(data.picture(i), quality=90)), (f"{i}.cls", str(i % 2).encode())]
    (tmp_path / "pets.tar").write_bytes(data.tar(entries))
    (model,) = run.root.glob("runs/4m21/*/model")
    shards = ["--train", str(tmp_path / "pets.tar"), "--val", str(tmp_path / "pets.tar")]
    sizes = ["--epochs", "2", "--batch-size", "4", "--image-size", "112"]
    status, out, err = runs.command("transfer", str(model), *shards, "--out", str(tmp_path / "out"), *sizes)
    assert status == 0, err
    assert "top-1" in out and (tmp_path / "out" / "model.safetensors").exists()


def test_the_gallery_shows_every_label(run: Run) -> None:
    status, out, err = runs.command("view", str(run.folder / "recipe.yaml"), "--samples", "2")
    assert status == 0, err
    page = Path(out.strip().splitlines()[-1]).read_text()
    for title in ("Depth", "Surface normals", "Segmentation", "SAM instances", "Human poses", "CLIP", "ImageBind"):
        assert title in page
    for title in ("Depth in metres", "Boxes of words", "Caption by a model"):  # beyond 4M-21
        assert title in page
    assert "cannot be drawn" not in page


def test_another_model_makes_only_its_label_again(run: Run) -> None:
    """A third party's folder in the place of ours: by the recipe alone."""
    from fourmill_tests.tiny import dense as tiny_dense

    other = tiny_dense.dpt(run.folder / "models" / "dpt")
    swap = [f"labels.specialists.depth.weights={other}", "labels.specialists.depth.predicts=inverse_depth"]
    changed = recipes.load(run.folder / "recipe.yaml", swap)
    before, after = data.outputs(run.recipe, tokens=False), data.outputs(changed, tokens=False)
    assert {name for name in before if before[name].fingerprint != after[name].fingerprint} == {
        "labels/depth",
        "labels/metadata",
    }
    chosen = recipes.load(run.folder / "recipe.yaml", [*swap, "labels.keep=[depth]", f"root={run.folder / 'other'}"])
    (record,) = [r for r in data.make(chosen, data.outputs(chosen, tokens=False)) if r.shard == "val-00000"][-1:]
    assert record.output == "labels/depth" and record.nulls == 0
