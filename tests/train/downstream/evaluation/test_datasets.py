"""A trained model is evaluated on shards of a data set in its usual layout, as on those it was trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.tiny import truth
from PIL import Image

from fourmill.pipelines.datasets import shards
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train.downstream.evaluation.evaluate import Evaluation


def as_diode(root: Path) -> None:
    """The scenes of the known root as DIODE has them, without normals."""
    place = root / "val/indoors/scene_00000/scan_00000"
    place.mkdir(parents=True)
    for number in range(truth.COUNT):
        maps, name = truth.scene(number), f"{number:05d}_00000_indoors_000_000"
        Image.fromarray(maps["rgb"]).save(place / f"{name}.png")
        np.save(place / f"{name}_depth.npy", np.where(maps["depth"] > 0, maps["depth"], 77)[..., None])
        np.save(place / f"{name}_depth_mask.npy", (maps["depth"] > 0).astype(np.float32))


def test_diode_gives_what_the_same_scenes_gave(known_root: tuple[Path, Recipe], tmp_path: Path) -> None:
    settings = {"truth": {"depth": "depth.npy"}, "ensemble": 1, "draws": 0, "training_samples": truth.COUNT,
                "chain": ["tok_depth"]}  # fmt: skip
    of = truth.copy(known_root, tmp_path / "known", evaluate=settings)
    before = Evaluation(Project(of).evaluate_job).table()
    as_diode(tmp_path / "diode")
    written = shards.write("diode", str(tmp_path / "diode"), str(tmp_path / "shards"))
    samples = {"train": of.samples.train, "val": written.shards}
    other = truth.recipe(str(tmp_path / "known"), evaluate={**settings, "truth": written.truth}, samples=samples)
    data.make(other, data.outputs(other, tokens=False))
    data.make(other, data.outputs(other, labels=False))
    after = Evaluation(Project(other).evaluate_job).table()
    (one,) = [column for column in before.columns if column.label == "depth"]
    (two,) = [column for column in after.columns if column.label == "depth"]
    assert two.truth and two.samples == truth.COUNT and after.run == before.run
    for row in ("constant", "step", "labels", "bound"):
        assert two.cells[row]["l1"].value == pytest.approx(one.cells[row]["l1"].value, rel=1e-4), row
