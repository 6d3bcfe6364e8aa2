"""Metadata with known answers."""

from __future__ import annotations

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data as photos

from fourmill.modalities import COCO_PANOPTIC_CLASSES
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.metadata import (
    BACKGROUND,
    WALKABLE,
    Metadata,
    caption_statistics,
    class_statistics,
    colorfulness,
    geometric_complexity,
    occlusion,
    pixel_statistics,
)
from fourmill.tokenize.text.sentences import METADATA_TYPES


def describe(item: Item, **options: Any) -> dict[str, Any]:
    (label,) = Metadata(**options)([item])
    assert isinstance(label, dict)
    return label


def flat(*colour: int, shape: tuple[int, int] = (10, 20)) -> np.ndarray:
    return np.full((*shape, 3), colour, np.uint8)


def box(label: str, score: float) -> dict[str, Any]:
    return {"box": [0.1, 0.1, 0.5, 0.5], "label": label, "score": score}


def test_full_item_gives_types_in_order_of_ids() -> None:
    info = {"original_width": 800, "original_height": 600, "watermark_score": 0.25, "aesthetic_score_laion_v2": 5.5}
    boxes = [box("person", 0.9), box("dog", 0.7), box("dog", 0.6), box("cat", 0.59), box("person", 0.61)]
    item = Item("k", photos.astronaut(), "Two dogs. One cat!", info, {"det": boxes})
    found = describe(item)
    assert list(found) == [
        "original_width",
        "original_height",
        "caption_n_chars",
        "caption_n_words",
        "caption_n_sentences",
        "n_humans",
        "n_coco_instances",
        "coco_instance_diversity",
        "colorfulness",
        "brightness",
        "contrast",
        "saturation",
        "entropy",
        "watermark_score",
        "aesthetic_score",
    ]
    assert list(found.values())[:8] == [800, 600, 18, 4, 2, 2, 4, 2]
    assert (found["watermark_score"], found["aesthetic_score"]) == (0.25, 5.5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "plain numbers only"


def test_absent_sources_leave_their_types_out() -> None:
    assert set(describe(Item("k", None, "a b"))) == {"caption_n_chars", "caption_n_words", "caption_n_sentences"}
    assert "n_humans" not in describe(Item("k", flat(0, 0, 0), None))
    assert "n_humans" not in describe(
        Item("k", None, None, labels={"det": [box("person", 1)]}), humans_from_boxes=False
    )
    (label,) = Metadata()([Item("k", None, None)])
    assert isinstance(label, Reject)


def test_no_boxes_found_is_not_the_same_as_no_boxes_known() -> None:
    found = describe(Item("k", None, None, labels={"det": []}))
    assert found == {"n_humans": 0, "n_coco_instances": 0, "coco_instance_diversity": 0}


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"original_width": 640},
        {"original_width": 640, "original_height": None},
        {"original_width": "640", "original_height": "480"},
        {"original_width": math.nan, "original_height": 5},
        {"original_width": 0, "original_height": 0},
        {"original_width": True, "original_height": True},
    ],
)
def test_sizes_fall_back_to_the_image(info: dict[str, Any]) -> None:
    found = describe(Item("k", flat(1, 2, 3, shape=(10, 20)), None, info))
    assert (found["original_width"], found["original_height"]) == (20, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", True, [0.5]])
def test_scores_that_are_no_numbers_are_left_out(value: Any) -> None:
    assert "watermark_score" not in describe(Item("k", None, "x", {"watermark_score": value}))
    assert describe(Item("k", None, "x", {"watermark_score": value, "pwatermark": 0.1}))["watermark_score"] == 0.1


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a", (1, 1, 1)),
        ("a photo of a cat", (16, 5, 1)),
        ("One. Two! Three?", (16, 3, 3)),
        ("Wait... what?!", (14, 2, 2)),
        ("It is 3.5 m long", (16, 5, 1)),
        ('He said "no." Then left', (23, 5, 2)),
        ("...", (3, 1, 1)),
        ("\u732b\u3002\u72ac\u3002", (4, 1, 2)),
        ("two  spaces\nand a line", (22, 5, 1)),
    ],
)
def test_caption_statistics(caption: str, expected: tuple[int, int, int]) -> None:
    assert tuple(caption_statistics(caption).values()) == expected


def test_flat_images() -> None:
    assert pixel_statistics(flat(0, 0, 0)) == {
        "colorfulness": 0, "brightness": 0, "contrast": 0, "saturation": 0, "entropy": 0,
    }  # fmt: skip
    grey = pixel_statistics(flat(200, 200, 200))
    assert grey["brightness"] == 200 and grey["saturation"] == 0 and grey["colorfulness"] == 0
    red = pixel_statistics(flat(255, 0, 0))
    assert red["brightness"] == pytest.approx(255 * 0.299, abs=0.5)
    assert red["saturation"] == 255
    assert red["colorfulness"] == pytest.approx(0.3 * math.hypot(255, 127.5))


def test_half_black_half_white() -> None:
    image = flat(0, 0, 0)
    image[:5] = 255
    found = pixel_statistics(image)
    assert found["brightness"] == pytest.approx(127.5)
    assert found["contrast"] == pytest.approx(127.5)
    assert found["entropy"] == pytest.approx(1.0)


def test_the_largest_entropy() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert pixel_statistics(image)["entropy"] == pytest.approx(8.0)


@pytest.mark.parametrize(
    "image", [photos.astronaut(), photos.coffee(), np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)]
)
def test_colorfulness_is_the_papers_formula(image: np.ndarray) -> None:
    red, green, blue = (image[..., i].astype(float) for i in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    expected = math.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert colorfulness(image) == pytest.approx(expected)


def test_a_photo_against_plain_numpy() -> None:
    image = photos.coffee()
    found = pixel_statistics(image)
    grey = image @ np.array([0.299, 0.587, 0.114])
    assert found["brightness"] == pytest.approx(grey.mean(), abs=0.1)
    assert found["contrast"] == pytest.approx(grey.std(), abs=0.1)
    high, low = image.max(axis=2).astype(float), image.min(axis=2)
    assert found["saturation"] == pytest.approx((255 * (high - low) / np.maximum(high, 1)).mean(), abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3000, 5000)])
def test_extreme_sizes(shape: tuple[int, int]) -> None:
    found = pixel_statistics(flat(10, 200, 30, shape=shape))
    assert found["contrast"] == pytest.approx(0, abs=1e-6) and found["entropy"] == 0
    assert all(math.isfinite(value) for value in found.values())


def test_a_batch_is_the_same_as_one_by_one() -> None:
    items = [Item("a", photos.astronaut(), "x"), Item("b", None, "y"), Item("c", photos.coffee(), None)]
    assert Metadata()(items) == [describe(item) for item in items]


def test_brightness_follows_the_image() -> None:
    image = photos.astronaut()
    darker = cv2.convertScaleAbs(image, alpha=0.5)
    assert pixel_statistics(darker)["brightness"] == pytest.approx(pixel_statistics(image)["brightness"] / 2, abs=0.6)


# Types that need other labels

PRINTED = [*range(96, 104), *range(109, 114), *range(117, 120), *range(122, 127), 87, 90, 105, 106, 129, 131, 132]


def class_map(**shares: int) -> np.ndarray:
    """A map of 100 pixels: so many of each class, the rest 255."""
    ids = [COCO_PANOPTIC_CLASSES.index(name.replace("_", "-")) for name, count in shares.items() for _ in range(count)]
    return np.array(ids + [255] * (100 - len(ids)), np.uint8).reshape(5, 20)


def every_label() -> dict[str, Any]:
    return {
        "det": [box("person", 0.9), box("person", 0.8), box("dog", 0.7)],
        "semseg": class_map(person=30, road=50, car=10),
        "normal": np.dstack([np.zeros((4, 4)), np.zeros((4, 4)), np.ones((4, 4))]).astype(np.float16),
        "depth": np.zeros((8, 8), np.float16),
        "sam_instance": [{}] * 5,
        "human_poses": [{}],
    }


def test_all_21_types_in_the_order_of_4ms_ids() -> None:
    info = {"watermark_score": 0.2, "aesthetic_score": 5.0}
    found = describe(Item("k", photos.astronaut(), "A caption.", info, every_label()))
    assert list(found) == list(METADATA_TYPES)
    assert found["n_humans"] == 1, "poses know better than boxes"
    assert (found["n_sam_instances"], found["n_coco_instances"], found["semantic_diversity"]) == (5, 3, 3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "plain numbers only"


def test_types_without_their_source_are_left_out() -> None:
    labels = every_label()
    types = {
        "det": {"n_coco_instances", "coco_instance_diversity"},
        "semseg": {"walkability", "objectness", "semantic_diversity"},
        "normal": {"geometric_complexity"},
        "depth": {"occlusion_score"},
        "sam_instance": {"n_sam_instances"},
    }
    everything = set(describe(Item("k", None, "x", {}, labels)))
    for source, names in types.items():
        others = {name: value for name, value in labels.items() if name != source}
        assert everything - set(describe(Item("k", None, "x", {}, others))) == names
        wanted = [name for name in labels if name != source]
        assert everything - set(describe(Item("k", None, "x", {}, labels), sources=wanted)) == names
    assert describe(Item("k", None, "x", {}, labels), sources=["det"])["n_humans"] == 2
    assert "n_humans" not in describe(Item("k", None, "x", {}, labels), sources=["det"], humans_from_boxes=False)


def test_the_class_lists_are_those_that_the_paper_prints() -> None:
    assert sorted(map(COCO_PANOPTIC_CLASSES.index, BACKGROUND)) == sorted(PRINTED)
    printed = [87, 90, 97, 100, 102, 105, 106, 122, 123, 125, 126, 132]
    assert sorted(map(COCO_PANOPTIC_CLASSES.index, WALKABLE)) == printed


@pytest.mark.parametrize(
    ("shares", "walkable", "objects", "background", "diversity"),
    [
        ({"person": 100}, 0, 1, 0, 1),  # one face that fills the picture
        ({"road": 60, "sky_other_merged": 40}, 0.6, 0, 1, 2),  # an empty road
        ({"person": 20, "grass_merged": 30, "building_other_merged": 10}, 0.3, 0.2, 0.4, 3),  # 40 pixels of no class
        ({}, 0, 0, 0, 0),
    ],
)
def test_walkability_and_objectness(
    shares: dict[str, int], walkable: float, objects: float, background: float, diversity: int
) -> None:
    classes = class_map(**shares)
    expected = {"walkability": walkable, "objectness": objects, "semantic_diversity": diversity}
    assert class_statistics(classes) == pytest.approx(expected)
    assert class_statistics(classes, "background")["objectness"] == pytest.approx(background)
    as_printed = describe(Item("k", None, "x", {}, {"semseg": classes}), objectness="background")
    assert as_printed["objectness"] == pytest.approx(background)


def test_classes_of_the_recipes_own_count_by_name() -> None:
    classes = np.array([[0, 0, 1, 2], [1, 255, 3, 3]], np.uint8)
    names = ["Sky", "floor", "ball", "box"]
    expected = {"walkability": 2 / 8, "objectness": 3 / 8, "semantic_diversity": 4}
    assert class_statistics(classes, names=names) == pytest.approx(expected)
    assert class_statistics(classes, "background", names)["objectness"] == pytest.approx(4 / 8)
    assert "walkability" not in class_statistics(classes, names=["cell", "nucleus", "membrane", "other"])


def test_geometric_complexity_of_plane_corner_and_sphere() -> None:
    plane = np.tile(np.array([0.6, 0, 0.8], np.float16), (30, 40, 1))
    assert geometric_complexity(plane) == pytest.approx(0, abs=1e-3)
    corner = plane.copy()
    corner[:, :20] = [-0.8, 0, 0.6]  # at right angles to the other half
    assert geometric_complexity(corner) == pytest.approx(1 - math.sqrt(0.5), abs=1e-3)
    opposite = np.concatenate([plane, -plane])
    assert geometric_complexity(opposite) == pytest.approx(1)


def test_occlusion_counts_steps_at_any_resolution_and_no_slopes() -> None:
    slope = np.tile(np.linspace(0, 1, 448, dtype=np.float16), (448, 1))
    assert occlusion(slope) == 0
    step = np.zeros((448, 448), np.float16)
    step[:, 224:] = 0.5
    assert occlusion(step) == pytest.approx(2 / 224)  # Sobel sees a step in the pixels on both sides
    large, small = (cv2.resize(step.astype(np.float32), (side, side)) for side in (1792, 224))
    assert occlusion(large) == pytest.approx(2 / 224) == occlusion(small)
    assert occlusion(step * 0.1) == 0  # a twentieth of the range
    assert 0 <= occlusion(np.random.default_rng(0).random((1, 5000))) <= 1
