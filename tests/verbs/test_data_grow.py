"""Shards that come after fit and train: labelled and tokenized by what was fitted; the run stays the recipe's run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from fourmill_tests import data, runs, training
from fourmill_tests.small import SmallRoot, copied

from fourmill import recipe as recipes
from fourmill.pipelines.removal import seen
from fourmill.project import Project
from fourmill.report.likeness import likeness, some


@pytest.fixture
def recipe(small_root: SmallRoot, tmp_path: Path) -> Path:
    """A copy of the small root with a run that has begun, and a shard that came after it, with all of its columns."""
    path = copied(small_root, tmp_path, checkpoint_every=4)
    training.train_until(Project(recipes.load(path)).train_job, 5)
    add_shard(path, "extra", 12)
    return path


def add_shard(path: Path, name: str, samples: int) -> None:
    folder = path.parent / "small/s"
    data.good_shards(folder, 1, samples, first=200, name=name)
    settings = yaml.safe_load(path.read_text())
    settings["samples"]["train"].append(str(folder / f"{name}-00000.tar"))
    path.write_text(yaml.safe_dump(settings))
    grown = recipes.load(path)
    assert Project(grown).unfitted == []
    records = data.make(grown, data.outputs(grown, tokens=False)) + data.make(grown, data.outputs(grown, labels=False))
    assert {record.shard for record in records} == {f"{name}-00000"}, "what was there is not made again"


def began(path: Path) -> str:
    (run,) = (path.parent / "small/out/runs/4m").iterdir()
    return run.name


def test_the_run_goes_on_with_the_shards_that_it_began_with(recipe: Path) -> None:
    project = Project(recipes.load(recipe))
    assert project.train_job.fingerprint == began(recipe)
    assert "extra-00000" not in {shard.name for shard in project.train_job.shards}
    assert project.unseen_shards() == ["extra-00000"]
    trainer = training.train(project.train_job)
    assert trainer.step == 8, "it went on from step 4"


def test_status_says_what_a_run_has_not_seen(recipe: Path) -> None:
    _, out, _ = runs.command("status", str(recipe), "--json")
    unseen = json.loads(out)["unseen"]
    assert unseen["runs/4m"].startswith("has not seen 1 of 4 shards (12 of ")
    assert "`fourmill train --update` begins a run on all of them" in unseen["runs/4m"]
    assert unseen["tokens/tok_rgb"].endswith("what the run has seen", 0, unseen["tokens/tok_rgb"].index(" (distance"))
    _, out, _ = runs.command("status", str(recipe))
    assert "came after the run began" in out and "extra-00000" in out


def test_asked_for_a_run_begins_on_all_shards(recipe: Path) -> None:
    first = began(recipe)
    asked = Project(recipes.load(recipe), update=True)
    assert asked.train_job.fingerprint != first and asked.unseen_shards() == []
    training.train_until(asked.train_job, 5)
    later = Project(recipes.load(recipe))
    assert later.train_job.fingerprint == asked.train_job.fingerprint, "it has begun, and is the recipe's run"


def test_another_setting_begins_another_run(recipe: Path) -> None:
    """The same shards do not make it the same run."""
    other = Project(recipes.load(recipe, ["train.seed=9"]))
    assert other.train_job.fingerprint != began(recipe) and other.unseen_shards() == []


def test_of_two_runs_the_one_that_saw_more_goes_on(recipe: Path) -> None:
    training.train_until(Project(recipes.load(recipe), update=True).train_job, 5)
    add_shard(recipe, "later", 4)
    project = Project(recipes.load(recipe))
    assert project.unseen_shards() == ["later-00000"]


@pytest.mark.parametrize("content", [None, b'{"shards": ["train-00000"]', b"{}"])
def test_runs_that_do_not_say_what_they_saw_are_others(recipe: Path, content: bytes | None) -> None:
    """Of an older release, or damaged: as before, new shards are another run."""
    file = recipe.parent / "small/out/runs/4m" / began(recipe) / seen.FILE
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert Project(recipes.load(recipe)).train_job.fingerprint != began(recipe)


def test_tokens_of_another_kind_are_seen() -> None:
    rng = np.random.default_rng(0)

    def samples(count: int, weights: np.ndarray) -> np.ndarray:
        drawn = rng.multinomial(64, weights / weights.sum(), count)
        return (drawn / 64).astype(np.float32)

    flat, slanted = np.ones(50), np.linspace(1, 3, 50)
    alike = [likeness("a", samples(40, flat), samples(80, flat), seed) for seed in range(20)]
    assert sum(one.is_other for one in alike) <= 1
    assert all(abs(one.distance - one.expected) < 0.05 for one in alike)
    assert likeness("a", samples(40, slanted), samples(80, flat)).is_other
    # Samples, not tokens, are dealt out: few samples that each repeat one token are no evidence.
    lumps = np.eye(50, dtype=np.float32)[rng.integers(0, 50, 60)]
    assert not likeness("a", lumps[:20], lumps[20:]).is_other


def test_shards_that_are_looked_at_are_spread() -> None:
    assert some([str(i) for i in range(80)]) == [str(i) for i in range(0, 80, 10)]
    assert some(["a", "b"]) == ["a", "b"]
