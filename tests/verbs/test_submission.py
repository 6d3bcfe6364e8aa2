"""What a job is made of: a recipe that means the same on another machine, and what goes with it; if it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data
from fourmill_tests.s3 import S3

from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.verbs import submission

LABELS: dict[str, Any] = {"modalities": ["rgb"], "labels__keep": ["caption"], "generate__chains": []}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with shards and a recipe that includes another file, by relative paths."""
    monkeypatch.chdir(tmp_path)
    data.good_shards(tmp_path / "s", 2, 2)
    settings = data.settings("out", "s/train-{00000..00001}.tar", engine__address="elsewhere:6379", **LABELS)
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump({"labels": settings.pop("labels")}))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"include": ["labels.yaml"]} | settings))
    return tmp_path


def test_a_recipe_is_sent_as_one_file_with_absolute_places(folder: Path) -> None:
    sent = yaml.safe_load(submission.prepare("recipe.yaml", ["train.steps=5"], "label").text)
    assert sent["root"] == str(folder / "out") and "include" not in sent
    assert sent["samples"]["train"] == f"{folder}/s/train-{{00000..00001}}.tar"
    assert sent["labels"]["keep"] == ["caption"] and sent["train"]["steps"] == 5
    assert sent["engine"]["address"] == "auto" and sent["engine"]["batch_size"] == 4
    # It asks for what the recipe asks for: nothing is made again on the cluster.
    here, there = (Project(one) for one in (recipes.load("recipe.yaml"), recipes.parse(sent)))
    outputs = [{name: one.fingerprint for name, one in project.label_outputs.items()} for project in (here, there)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("place", ["s3://b/out", "/abs/out", "~/out", "file:///abs/out"])
def test_other_places_stay_as_they_are(folder: Path, place: str) -> None:
    prepared = submission.prepare("recipe.yaml", [f"root={place}", "samples.train=[s3://b/a.tar]"], "run")
    sent = yaml.safe_load(prepared.text)
    assert sent["root"] == place and sent["samples"]["train"] == ["s3://b/a.tar"]


def test_a_file_of_this_folder_is_said_unless_it_is_sent(folder: Path) -> None:
    (folder / "names").mkdir()
    (folder / "names" / "classes.txt").write_text("a\n")
    asked = ["labels.specialists.caption.note=names/classes.txt"]
    data_ = recipes.read("recipe.yaml", asked)
    said = list(submission._local_files(data_, {}))
    assert [one for one in said if "names/classes.txt" in one] == [
        "labels.specialists.caption.note: names/classes.txt is in this folder, and not on the nodes: --with "
        "names/classes.txt sends it, if it is read there"
    ]
    sent = dict(submission._others(["names"]))
    assert sent == {"names": folder / "names"}
    assert not [one for one in submission._local_files(data_, sent) if "names/" in one]


def test_only_names_of_variables_go_with_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "hunter2")
    prepared = submission.prepare("recipe.yaml", ["root=s3://b/out", "train.trackers=[wandb]"], "run")
    assert {"AWS_ACCESS_KEY_ID", "HF_TOKEN", "WANDB_API_KEY"} <= set(prepared.variables)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in prepared.variables  # nothing is on Google's storage
    assert "hunter2" not in repr(prepared)


def test_jobs_have_names_of_their_own(folder: Path) -> None:
    prepared = submission.prepare("recipe.yaml", ["root=s3://b/My run_1/"], "label")
    assert prepared.job.startswith("label-My-run-1-20") and prepared.job != prepared.job


def test_a_stage_with_nothing_to_do_is_known(folder: Path) -> None:
    recipe = recipes.load("recipe.yaml")
    assert not submission.nothing_to_do("label", Project(recipe))
    data.make(recipe, data.outputs(recipe))
    for stage, nothing in (("label", True), ("tokenize", True), ("fit", True), ("train", False), ("run", False)):
        assert submission.nothing_to_do(stage, Project(recipe)) is nothing, stage


def test_shards_of_the_cluster_need_not_be_here(folder: Path, s3: S3) -> None:
    recipe = recipes.load("recipe.yaml", ["samples.train=/cluster/only/*.tar"])
    project, why = submission.seen_from_here(recipe, update=False)
    assert project is None and "nothing found" in why
    bucket = s3.bucket("empty-of-shards")
    recipe = recipes.load("recipe.yaml", [f"samples.train={bucket}/*.tar", f"root={bucket}/out"])
    with pytest.raises(RecipeError, match="nothing found"):
        submission.seen_from_here(recipe, update=False)


def test_a_download_is_submitted_before_there_are_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(
        "{root: out, samples: shards, download: {table: [a.tsv, 's3://b/c.tsv'], out: shards}}"
    )
    prepared = submission.prepare("recipe.yaml", [], "download")
    sent = yaml.safe_load(prepared.text)["download"]
    assert sent == {"table": [str(tmp_path / "a.tsv"), "s3://b/c.tsv"], "out": str(tmp_path / "shards")}
    project, why = submission.seen_from_here(prepared.recipe, update=False)
    assert project is None and "`fourmill download` makes them" in why
