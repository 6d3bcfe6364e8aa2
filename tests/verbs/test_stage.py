"""Stages without Ray: mistakes are found before anything starts, and what is missing has its reason."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.pipelines.engine import driver
from fourmill.pipelines.plan import ShardTask
from fourmill.pipelines.worker import stage as shard_stage
from fourmill.pipelines.worker.job import Job
from fourmill.pipelines.worker.reject_run import RejectRun
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.train import workers
from fourmill.verbs.look import status
from fourmill.verbs.make import fit, generate, label, plan, run, tokenize, train

PLAIN: dict[str, Any] = {"modalities": ["rgb"], "labels__keep": ["caption"], "generate__chains": []}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was started")

    for module in (driver, workers):
        monkeypatch.setattr(module, "cluster", refuse)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[ShardTask]:
    """The engine does its tasks here; returns the list that they are noted in."""
    done: list[ShardTask] = []

    def run_here(job: Job, tasks: list[ShardTask], stage: str) -> shard_stage.Outcome:
        worker = ShardWorker(job)
        worker.setup("cpu")
        outcome = shard_stage.Outcome()
        for task in tasks:
            done.append(task)
            try:
                outcome.records += map(ledger.entry, worker.run(task))
            except (OSError, ValueError) as error:
                outcome.failures[task.shard] = str(error)
        return outcome

    monkeypatch.setattr(shard_stage, "run", run_here)
    return done


@pytest.mark.parametrize("stage", [label.make, fit.make, tokenize.make, train.make, generate.make, run.make])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"modalities": ["rgb", "tok_depth"], "labels__specialists": {"depth": {"weights": "./nowhere"}}},
            "there is no file or folder './nowhere'",
        ),
        ({"labels__specialists": {"caption": {"x": 1}}}, "labels.specialists.caption: x"),
        ({"samples": {"train": "nowhere-*.tar"}}, "nothing found at 'nowhere-"),
    ],
)
def test_mistakes_are_found_before_ray_starts(
    no_ray: None, tmp_path: Path, stage: Any, changes: dict[str, Any], expected: str
) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 1)
    with pytest.raises(RecipeError, match=expected):
        stage(Project(data.recipe(tmp_path / "out", shards, **(PLAIN | changes))))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train__init", "/nowhere/model", "train.init: there is no model at /nowhere/model"),
        ("train__datasets", [{"root": "/nowhere"}], "train.datasets: /nowhere is no root"),
    ],
)
@pytest.mark.parametrize("stage", [run.make, plan.describe])
def test_what_training_lacks_is_found_before_labelling(
    no_ray: None, tmp_path: Path, stage: Any, field: str, value: Any, message: str
) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 1)
    with pytest.raises(RecipeError, match=message):
        stage(Project(data.recipe(tmp_path / "out", shards, **(PLAIN | {field: value}))))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", [label.make, fit.make, tokenize.make])
def test_an_unwritable_root_is_found_before_ray_starts(no_ray: None, tmp_path: Path, stage: Any) -> None:
    (tmp_path / "file").touch()
    recipe = data.recipe(tmp_path / "file" / "out", data.good_shards(tmp_path / "s", 1, 1), **PLAIN)
    if stage is fit.make:
        recipe = data.recipe(recipe.root, recipe.samples.train, modalities=["caption"], generate__chains=[])
    with pytest.raises(ValueError, match="root: cannot write below"):
        stage(Project(recipe))


def test_labels_are_made_once_beside_the_recipe(in_process: list[ShardTask], tmp_path: Path) -> None:
    recipe = data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 2, 3), **PLAIN)
    first = label.make(Project(recipe))
    assert (first.made, first.existed, first.complete) == (4, 0, True)
    resolved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert resolved["images"]["size"] == 64 and resolved["train"]["betas"] == [0.9, 0.95]
    second = label.make(Project(recipe))
    assert (second.made, second.existed, len(in_process)) == (0, 4, 2)


def test_one_bad_shard_does_not_stop_the_others(in_process: list[ShardTask], tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s", 2, 3)
    Path(shards[0]).write_bytes(b"")
    summary = label.make(Project(data.recipe(tmp_path / "out", [*shards, str(tmp_path / "gone.tar")], **PLAIN)))
    assert summary.made == 2 and not summary.complete
    assert set(summary.missing) == {"shard train-00000", "shard gone"}


@pytest.mark.parametrize("stops", [True, False])
def test_what_a_failed_stage_committed_is_not_remade(
    in_process: list[ShardTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """The job stops, or a shard fails, after the outputs of a shard are committed: no result names them."""
    run_here = shard_stage.run

    def failing(job: Job, tasks: list[ShardTask], stage: str) -> shard_stage.Outcome:
        run_here(job, tasks, stage)
        if stops:
            raise RejectRun("too many rejects")
        return shard_stage.Outcome(failures={"train-00000": "the disk was full"})

    project = Project(data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 2), **PLAIN))
    with monkeypatch.context() as patch:
        patch.setattr(shard_stage, "run", failing)
        with pytest.raises(RejectRun) if stops else contextlib.nullcontext():
            label.make(project)
    assert label.make(project).existed == 2
    assert len(in_process) == 1


def test_rejects_are_counted_by_reason_without_their_numbers(in_process: list[ShardTask], tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(data.tar(data.bad_entries()))
    summary = label.make(Project(data.recipe(tmp_path / "out", str(tmp_path / "bad.tar"), **PLAIN)))
    assert summary.rejects == {
        "samples: duplicate key: a second .jpg is ignored": 1,
        "samples: json: not valid JSON": 1,
        "samples: members: no specialist reads .md (N)": 1,
        "labels/caption: caption: there is none": 1,
        "labels/caption: caption: not UTF-8": 1,
    }
    again = label.make(Project(data.recipe(tmp_path / "out", str(tmp_path / "bad.tar"), **PLAIN)))
    assert again.rejects == summary.rejects  # they still stand when nothing is done


def test_a_changed_option_redoes_its_output_alone(in_process: list[ShardTask], tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 2)
    tokenize.make(Project(data.recipe(tmp_path / "out", shards, **PLAIN)))
    before = data.columns(tmp_path / "out")
    tokenize.make(Project(data.recipe(tmp_path / "out", shards, images__jpeg_quality=50, **PLAIN)))
    assert [task.outputs for task in in_process[1:]] == [("tokens/rgb",)]
    after = data.columns(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"tokens/rgb/train-00000.parquet"}


def test_relative_roots_are_made_absolute(
    in_process: list[ShardTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 1)
    monkeypatch.chdir(tmp_path)
    assert label.make(Project(data.recipe("out", shards, **PLAIN))).complete
    assert (tmp_path / "out" / "ledger" / "samples" / "train-00000.json").exists()


def test_status_writes_nothing(no_ray: None, tmp_path: Path) -> None:
    recipe = data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 2))
    state = status.describe(Project(recipe))
    assert {"tokenizers/text", "tokenizers/tok_rgb", "tokenizers/tok_canny_edge", "shard train-00000"} <= set(
        state["missing"]
    )
    assert {row["output"] for row in state["outputs"]} >= {"samples", "labels/det", "tokens/rgb"}
    assert not (tmp_path / "out").exists()


def test_a_broken_record_counts_as_missing(no_ray: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 1), **PLAIN)
    path = Path(ledger.record_url(str(tmp_path / "out"), "samples", "train-00000"))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert "lacks samples" in status.describe(Project(recipe))["missing"]["shard train-00000"]
    assert "samples/train-00000.json is no ledger record" in caplog.text


def test_none_of_the_training_shards_there_is_a_sentence(no_ray: None, tmp_path: Path) -> None:
    recipe = data.recipe(tmp_path / "out", str(tmp_path / "gone.tar"), modalities=["caption"], generate__chains=[])
    with pytest.raises(RecipeError, match="none of the training shards can be read: there is no shard at"):
        fit.make(Project(recipe))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_looked_at_is_told(no_ray: None, tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s", 1, 1)
    (tmp_path / "s").chmod(0)
    try:
        missing = status.describe(Project(data.recipe(tmp_path / "out", shards, **PLAIN)))["missing"]
    finally:
        (tmp_path / "s").chmod(0o755)
    assert "cannot look at" in missing["shard train-00000"]


def test_stage_that_lacks_an_earlier_one_ends_the_run(in_process: list[ShardTask], tmp_path: Path) -> None:
    recipe = data.recipe(tmp_path / "out", str(tmp_path / "gone.tar"), modalities=["caption"], generate__chains=[])
    labelled, fitted = run.make(Project(recipe))
    assert "there is no shard at" in labelled.missing["shard gone"]
    assert "none of the training shards can be read" in fitted.missing["fit"]
