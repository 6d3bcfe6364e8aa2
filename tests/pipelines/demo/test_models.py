"""The small models that come with fourmill: ordinary specialists load them, and they label scenes nearly as they
are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourmill.pipelines.scenes import draw, kinds
from fourmill.pipelines.scenes.render import Rendered, render
from fourmill.pipelines.scenes.seen import seen
from fourmill.pipelines.scenes.world import Scene
from fourmill.pipelines.settings import Labels
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import ImageItem
from fourmill.train.measures import forms
from fourmill.train.measures.detections import Found, average_precision

MODELS = Path(__file__).parents[3] / "pipelines" / "demo" / "models"
MAKERS = {"depth": "depth", "normal": "normals", "semseg": "panoptic", "det": "detector"}
CLASSES = {"semseg": kinds.CLASSES, "det": tuple(kinds.SHAPES)}
SCENES = 12

Scenes = list[Rendered]


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw.draw(4321, "val", i) for i in range(SCENES)]


@pytest.fixture(scope="module")
def scenes(drawn: list[Scene]) -> Scenes:
    return [render(scene, 64) for scene in drawn]


@pytest.fixture(scope="module")
def labels(scenes: Scenes) -> dict[str, list[Any]]:
    """Of each scene, as a recipe's specialists make them."""
    stated = {"depth": {"predicts": "inverse_depth"}, "normal": {"frame": "x right, y up, z toward the viewer"}}
    options = {
        label: {"specialist": name, "weights": str(MODELS / label)} | stated.get(label, {})
        for label, name in MAKERS.items()
    }
    asked = Labels.model_validate({"keep": list(MAKERS), "specialists": options})
    made = {}
    for label, specialist in registry.build([], asked, classes=CLASSES).items():
        specialist.setup_on_node()
        specialist.setup("cpu")
        made[label] = specialist([ImageItem(str(i), one.rgb, None) for i, one in enumerate(scenes)])
    return made


def test_depth_is_nearest_first(labels: dict[str, list[Any]], scenes: Scenes) -> None:
    """Linear in inverse depth; the sky is farthest."""
    for label, picture in zip(labels["depth"], scenes, strict=True):
        near = np.nan_to_num(1 / picture.depth, nan=0)
        assert label.dtype == np.float16 and np.corrcoef(1 - label.ravel().astype(float), near.ravel())[0, 1] > 0.9


def test_normals_are_x_right_y_up_z_to_the_viewer(labels: dict[str, list[Any]], scenes: Scenes) -> None:
    pairs = zip(labels["normal"], scenes, strict=True)
    total = forms.add([forms.sums("normals", label, picture.normal) for label, picture in pairs])
    assert forms.summary("normals", total)["mean_degrees"] < 15


def test_classes_are_those_of_the_scenes(labels: dict[str, list[Any]], scenes: Scenes) -> None:
    pairs = zip(labels["semseg"], scenes, strict=True)
    total = forms.add([forms.sums("classes", label, picture.semseg) for label, picture in pairs])
    assert forms.summary("classes", total)["accuracy"] > 0.9


def test_boxes_are_around_the_things(labels: dict[str, list[Any]], drawn: list[Scene], scenes: Scenes) -> None:
    said = [[Found(one["label"], tuple(one["box"]), one["score"]) for one in found] for found in labels["det"]]
    there = [
        [Found(one.thing.shape, one.box, 1.0) for one in seen(scene, picture)]
        for scene, picture in zip(drawn, scenes, strict=True)
    ]
    assert average_precision(said, there, "bbox")(np.ones((1, SCENES), np.int64))["ap50"][0] > 0.4


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*.safetensors")) < 8e6
