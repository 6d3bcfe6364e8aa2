"""The models that label the scenes of the demo: how they are trained, and what they learn from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fourmill.pipelines.scenes import draw, kinds

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # for the processes that render, too

import labellers
from labelling import measures as labeller_measures
from labelling import models as labeller_models
from labelling import scenes as labeller_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> labeller_scenes.Arrays:
    asked = labeller_scenes.Asked(seed=9, counts={"simple": 2, "medium": 4}, size=32)
    return {
        name: array[:] for name, array in labeller_scenes.scenes(asked, tmp_path_factory.mktemp("scenes"), 1).items()
    }


def test_they_learn_from_scenes_that_no_shard_holds() -> None:
    assert draw.LABELLERS not in draw.SPLITS
    drawn = [draw.generator(0, split, 0).random() for split in (*draw.SPLITS, draw.LABELLERS)]
    assert len(set(drawn)) == 3


def test_a_mirror_moves_truth_and_image_alike(scenes: labeller_scenes.Arrays) -> None:
    other = labellers.mirrored(scenes)
    again = labellers.mirrored(other)
    for name, array in scenes.items():
        np.testing.assert_allclose(again[name], array, atol=1e-6)
    for boxes, classes in zip(other["boxes"], other["semseg"], strict=True):
        sides = labeller_models._sides(boxes[boxes[:, 4] >= 0], classes)
        things = classes > kinds.WALL
        assert not np.isnan(sides[:, things]).any() and np.isnan(sides[:, ~things]).all()


def test_truth_as_labels_is_without_fault(scenes: labeller_scenes.Arrays) -> None:
    labels = {
        "depth": list(1 - labeller_models.inverse_depth(scenes["depth"])),
        "normal": list(scenes["normal"]),
        "semseg": list(scenes["semseg"]),
        "det": [
            [
                {"box": row[:4].tolist(), "label": labeller_scenes.SHAPES[int(row[4])], "score": 0.9}
                for row in boxes
                if row[4] >= 0 and row[5] >= labeller_models.LEAST_PIXELS
            ]
            for boxes in scenes["boxes"]
        ],
    }
    found = {label: labeller_measures.measures(label, made, scenes) for label, made in labels.items()}
    assert found["depth"]["l1"] < 1e-3 and found["depth"]["abs_rel"] < 1e-3
    assert found["normal"]["mean_degrees"] < 0.1
    assert found["semseg"]["miou"] == 1
    assert found["det"] == {"f1": 1, "ap50": 1}
    worse = [boxes[1:] for boxes in labels["det"]]
    assert labeller_measures.measures("det", worse, scenes)["f1"] < 1
