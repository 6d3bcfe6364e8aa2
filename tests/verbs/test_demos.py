"""What the demo runs: its recipes are complete, and its folder holds all that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourmill import recipe
from fourmill.project import Project
from fourmill.verbs import demos
from fourmill.verbs.demos import HOUR, PHOTOS, SCENES, Demo


@pytest.mark.parametrize("demo", [SCENES, HOUR, PHOTOS], ids=["scenes", "hour", "photos"])
def test_recipes_are_complete(demo: Demo, tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(demo.recipe(tmp_path, 3))
    read = recipe.load(path)
    assert read.root == str(tmp_path) and read.seed == 3
    assert read.samples.train == [str(tmp_path / "samples" / "train-*.tar")]
    targets = {step.target for chain in read.generate.chains for step in chain.to}
    assert targets <= set(read.modalities)


def test_labels_are_of_models_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demos, "_VALIDATION", 1)
    small = demos._scenes(2, steps=200, decoder_depth=1, from_words=1)
    path = tmp_path / "demo.yaml"
    path.write_text(small.recipe(tmp_path, 5))
    summary = small.write(tmp_path / "samples", 5)
    assert summary.complete and summary.made == 2
    project = Project(recipe.load(path))
    assert len(project.shards.urls) == 2
    for label in demos.LABELLERS:
        assert (tmp_path / "models" / label / "model.safetensors").is_file()
        assert str(tmp_path / "models" / label) in str(project.recipe.labels.specialists[label])
    # A demo of another seed does not mix its scenes with these.
    with pytest.raises(ValueError, match="seed"):
        small.write(tmp_path / "samples", 6)


def test_truth_is_read_by_the_evaluation_alone(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(SCENES.recipe(tmp_path, 0))
    read = recipe.load(path)
    specialists = str(read.labels.specialists)
    assert {"depth", "normal", "semseg", "det", "caption"} == set(read.evaluate.truth)
    assert not any(one.member in specialists for one in read.evaluate.truth.values())


def test_names_that_are_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="of which patterns are made"):
        SCENES.recipe(Path("/tmp/demo[1]"), 0)
