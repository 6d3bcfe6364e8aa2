"""A trained model is evaluated on shards of a data set in its usual layout, as on those it was trained with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.tiny import truth
from PIL import Image

from fourmill.pipelines.datasets import shards
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
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


def test_another_shard_stands_for_the_training_samples(known_root: tuple[Path, Recipe], tmp_path: Path) -> None:
    """Of two validation shards one is evaluated; neighbours and the constant answer are of the other."""
    folder = tmp_path / "known"
    truth.copy(known_root, folder)
    (folder / "s/gallery.tar").write_bytes(truth.shard(6, first=2))
    settings = {"truth": {"classes": "cls", "depth": "depth.npy"}, "ensemble": 1, "draws": 0, "chain": ["tok_depth"]}
    samples = {"train": [f"{folder}/s/train.tar"], "val": [f"{folder}/s/val.tar", f"{folder}/s/gallery.tar"]}

    def recipe(**more: Any) -> Recipe:
        return truth.recipe(str(folder), samples=samples, evaluate={**settings, **more})

    of = recipe(training=["gall*"])
    data.make(of, data.outputs(of, tokens=False))
    data.make(of, data.outputs(of, labels=False))
    job = Project(of).evaluate_job
    assert [[one.name for one in job.generation.splits[name]] for name in ("train", "val")] == [["gallery"], ["val"]]
    table = Evaluation(job).table()
    assert table.samples == truth.COUNT
    by_label = {column.label: column for column in table.columns}
    # Half of the images are of each class: tokens of the others say more than the more frequent one.
    assert by_label["dinov2_global"].cells["bound"]["top1"].value > 0.75
    # The constant answer, by hand: the mean of the standardized maps of the other shard.
    maps = [truth.scene(number)["depth"][:, 4:44] for number in range(2, 8)]
    places = np.floor((np.arange(32) + 0.5) * 40 / 32).astype(int)
    known = [one[places][:, places].astype(np.float64) for one in maps]
    total, count = np.zeros((32, 32)), np.zeros((32, 32))
    for one in known:
        total[one > 0] += standard(one[one > 0])
        count += one > 0
    mean, errors = total / np.maximum(count, 1), []
    for number in range(truth.COUNT):
        there = truth.scene(number)["depth"][:, 4:44][places][:, places].astype(np.float64)
        errors.append(np.abs(standard(mean[there > 0]) - standard(there[there > 0])).mean())
    assert by_label["depth"].cells["constant"]["l1"].value == pytest.approx(np.mean(errors), rel=1e-5)
    for names, message in ((["gone*"], "no validation shard is named gone*; they are val"), (["*"], "all validation")):
        with pytest.raises(RecipeError, match=re.escape(message)):
            _ = Project(recipe(training=names)).evaluate_job


def standard(values: np.ndarray) -> np.ndarray:
    centred = values - np.median(values)
    return centred / np.abs(centred).mean()


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
