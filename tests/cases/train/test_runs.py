"""Runs: they go on from what is there, and can be looked at before their end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import runs, training
from fourmill_tests.cases import require
from fourmill_tests.processes.forked import Command
from fourmill_tests.small import SmallRoot, copied

from fourmill import recipe as recipes
from fourmill.infra.configuration import RecipeError
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train import checkpoint


@pytest.fixture
def copy(small_root: SmallRoot, tmp_path: Path) -> Path:
    """A recipe on a copy of the small root and its shards, which may be changed."""
    return copied(small_root, tmp_path, checkpoint_every=2)


def _shards(recipe: Recipe) -> list[Path]:
    return [Path(url) for url in recipe.samples.train]


def test_training_has_a_seed_of_its_own(copy: Path) -> None:
    """The mean over three seeds of a run (tabm#9): weights, order and masks change, the token store does not."""
    run, said = Project(recipes.load(copy)).train_job.fingerprint, ""
    try:
        other = Project(recipes.load(copy, ["train.seed=1"])).train_job.fingerprint
    except RecipeError as error:
        other, said = run, str(error)
    require(other != run, f"no field gives another run on the same tokens: {said}")


def test_training_needs_no_raw_shards(copy: Path) -> None:
    """All is tokenized; the tars are in cold storage (marin#627): a run on the columns, of the same fingerprint."""
    recipe = recipes.load(copy)
    run, said = Project(recipe).train_job.fingerprint, ""
    for shard in _shards(recipe):
        shard.unlink()
    again = ""
    try:
        again = Project(recipe).train_job.fingerprint
    except RecipeError as error:
        said = str(error)
    require(again == run, f"the columns are all there, and training is refused: {said}")


def test_a_shard_out_of_sight_begins_no_other_run(copy: Path) -> None:
    """One tar, long since tokenized, cannot be seen: the run goes on, or a sentence says why not (metaseq#602)."""
    recipe = recipes.load(copy)
    run, said = Project(recipe).train_job.fingerprint, ""
    lost = _shards(recipe)[1]
    lost.unlink()
    try:
        again = Project(recipe).train_job.fingerprint
    except RecipeError as error:
        again, said = "", str(error)
    require(again == run or lost.stem in said, "another run begins at step 0, and nothing says so")


def test_an_unfinished_run_can_generate(ray_cluster: str, copy: Path) -> None:
    """One looks at samples of a checkpoint to decide whether to go on (diffusers#1698)."""
    training.train_until(Project(recipes.load(copy)).train_job, 5)
    status, _, said = runs.command("generate", str(copy))
    require(status == 0, f"exit status {status} with a checkpoint of step 4: {said}")


@pytest.mark.timeout(600)
def test_ctrl_c_before_a_checkpoint_says_what_is_so(ray_cluster: str, copy: Path) -> None:
    """ "run the same command again to go on from here": there is something to go on from, or it is not said."""
    changes = ("train.steps=20000", "train.checkpoint_every=20000", "train.validate_every=20000", "train.log_every=1")
    arguments = ["train", str(copy), *(part for change in changes for part in ("--set", change))]
    process = Command(arguments, os.environ | {"RAY_ADDRESS": ray_cluster})
    run = copy.parent / "small/out/runs/4m"
    runs.until(process, "*/metrics.jsonl", run)  # a step is done
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    if process.returncode != 130:
        raise RuntimeError(f"exit status {process.returncode}: {said}")
    kept = any(run.glob("*/checkpoints/*/complete.json"))
    require(kept or "go on from here" not in said, f"it says {said.strip()[-80:]!r}, and nothing is kept")


def test_two_jobs_on_one_root_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was queued twice (sisyphus#201): between one job's look for the newest checkpoint and its reading the
    other goes on, and deletes that checkpoint as the oldest of those it keeps."""
    job = training.job(tmp_path, checkpoint_every=1, keep_checkpoints=1)
    training.train_until(job, 2)
    newest, called = checkpoint.newest, []

    def overtaken(*arguments: Any) -> Any:
        found = newest(*arguments)
        if not called:
            called.append(found)
            training.train_until(job, 4)
        return found

    monkeypatch.setattr(checkpoint, "newest", overtaken)
    said = ""
    try:
        training.train(job)
    except (OSError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
    if not called:
        raise RuntimeError("the newest checkpoint was not asked for")
    require(not said, f"the second job fails: {said}")
