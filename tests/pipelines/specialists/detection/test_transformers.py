"""Boxes by detectors of transformers: the numbers of the models' own pipelines, as labels at the frame of the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import detectors as tiny
from fourmill_tests.tiny import features as tiny_features
from fourmill_tests.tiny.once import once

from fourmill.modalities import COCO_CLASSES
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.detection.transformers import Boxes, label_names, records

MAKERS: dict[str, Callable[[Path], Path]] = {
    "dfine": tiny.dfine,
    "rtdetr_v2": tiny.rtdetr_v2,
    "rfdetr": tiny.rfdetr,
    "yolos": tiny.yolos,
    "detr": tiny.detr,
    "detr_padded": lambda folder: tiny.detr(folder, pad=128),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return once(tmp_path_factory.mktemp("detectors"), MAKERS)


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [box["label"] for box in found] == [box["label"] for box in expected]
    for key in ("box", "score"):
        np.testing.assert_allclose([box[key] for box in found], [box[key] for box in expected], atol=1e-4)


@pytest.mark.parametrize(("name", "size"), [*((name, (60, 100)) for name in MAKERS), ("dfine", (127, 33))])
def test_boxes_are_those_of_the_models_own_pipeline(
    folder: Callable[[str], str], name: str, size: tuple[int, int]
) -> None:
    path, image = folder(name), noise(*size)
    height, width = size
    model = transformers.AutoModelForObjectDetection.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    with torch.inference_mode():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (raw,) = processor.post_process_object_detection(outputs, threshold=0.02, target_sizes=[size])
    found = ready(Boxes(weights=path, min_score=0.02))(items(image))[0]
    assert len(found) >= 4
    boxes = (raw["boxes"].numpy() / [width, height, width, height]).clip(0, 1)
    expected = sorted(
        (
            {"box": box.tolist(), "label": COCO_CLASSES[i], "score": float(score)}
            for box, score, i in zip(boxes, raw["scores"], raw["labels"], strict=True)
            if box[2] > box[0] and box[3] > box[1]
        ),
        key=lambda box: -box["score"],
    )
    assert_alike(found, expected)
    assert json.loads(json.dumps(found)) == found, "plain numbers only"
    assert all(0 <= c <= 1 for box in found for c in box["box"])


@pytest.mark.parametrize("name", ["dfine", "yolos", "detr", "detr_padded"])
def test_neighbours_do_not_matter(folder: Callable[[str], str], name: str) -> None:
    specialist = ready(Boxes(weights=folder(name), min_score=0.02))
    images = [noise(*size, seed=i) for i, size in enumerate([(60, 100), (64, 64), (100, 60), (60, 100), (61, 99)])]
    for image, together in zip(images, specialist(items(*images)), strict=True):
        assert_alike(together, specialist(items(image))[0])
    again = ready(Boxes(weights=folder(name), min_score=0.02))
    assert again(items(*images)) == specialist(items(*images))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (2, 2), (1, 90), (90, 1)])
def test_extreme_sizes(folder: Callable[[str], str], size: tuple[int, int]) -> None:
    (found,) = ready(Boxes(weights=folder("dfine"), min_score=0.02))(items(noise(*size)))
    assert found
    # One that keeps the aspect may not be able to show a line to its network; the neighbour gets its boxes anyway.
    specialist = ready(Boxes(weights=folder("yolos"), min_score=0.02))
    thin, good = specialist(items(noise(3, 300), noise(60, 100)))
    assert isinstance(thin, Reject) and thin.reason.startswith("det: an image of 300 x 3 px cannot be prepared: ")
    assert_alike(good, specialist(items(noise(60, 100)))[0])


class Network:
    """A network that sees in each image one box: its left upper quarter, a little beyond the frame; and a NaN."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pixel_values: torch.Tensor) -> Any:
        self.calls += 1
        logits = torch.full((len(pixel_values), 2, 80), -9.0)
        logits[:, 0, 16] = 2.0
        logits[pixel_values.amax(dim=(1, 2, 3)) == 0, 1, 3] = float("nan")
        boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.1, 0.1]]).expand(len(pixel_values), 2, 4)
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


def test_a_known_box_in_any_frame_and_what_is_not_finite(folder: Callable[[str], str]) -> None:
    specialist = ready(Boxes(weights=folder("dfine")))
    specialist._model = Network()
    first, black, second = specialist(items(noise(40, 80), np.zeros((40, 80, 3), np.uint8), noise(300, 20)))
    for found in (first, second):
        (box,) = found
        assert box["label"] == "dog" and box["score"] == round(1 / (1 + np.exp(-2)), 5)
        assert box["box"] == pytest.approx([0, 0, 0.5, 0.5])
    assert isinstance(black, Reject) and black.reason.startswith("det: NaN or infinite outputs")
    assert specialist._model.calls == 1, "images of one processed size go together"


def test_records_are_cut_named_and_ordered() -> None:
    boxes = np.array([[0.2, 0.2, 0.4, 0.4], [-1, 0.5, 2, 0.6], [0.1, 0.1, 0.1, 0.5], [0.5, 0, 0.6, 1], [2, 2, 3, 3]])
    scores = np.array([0.5, 0.9, 0.99, 0.5, 0.99], np.float32)
    found = records(boxes, scores, np.array([0, 2, 0, 0, 0]), ["cat", None, "dog"], most=9)
    assert [box["box"] for box in found] == [[0, 0.5, 1, 0.6], [0.2, 0.2, 0.4, 0.4], [0.5, 0, 0.6, 1]]
    assert [box["label"] for box in found] == ["dog", "cat", "cat"]
    assert records(boxes, scores, np.array([1, 1, 1, 1, 7]), ["cat", None, "dog"], most=9) == []
    assert len(records(boxes, scores, np.array([0, 2, 0, 0, 0]), ["cat", None, "dog"], most=2)) == 2
    jitter = records(boxes + 1e-8, scores - np.float32(1e-7), np.array([0, 2, 0, 0, 0]), ["cat", None, "dog"], most=9)
    assert jitter == found, "what batches of another size differ by"
    assert records(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), ["cat"], most=9) == []


def test_names_of_classes() -> None:
    voc = ["aeroplane", "TVmonitor", "potted_plant", "N/A", "Traffic Light", "unicorn", "dining-table"]
    assert label_names(voc) == ["airplane", "tv", "potted plant", None, "traffic light", None, "dining table"]
    assert label_names([f"LABEL_{i}" for i in range(80)]) == list(COCO_CLASSES)
    by_id = label_names([f"LABEL_{i}" for i in range(91)])
    known = {1: "person", 11: "fire hydrant", 13: "stop sign", 27: "backpack", 62: "chair", 72: "tv", 90: "toothbrush"}
    assert {i: by_id[i] for i in known} == known
    assert [i for i, name in enumerate(by_id) if name is None] == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert [name for name in by_id if name] == list(COCO_CLASSES)
    for names, message in ((["LABEL_0", "LABEL_1"], "2 classes have no names"), (["unicorn"], "none of its 1 classes")):
        with pytest.raises(ValueError, match=message + ".*`my.option`"):
            label_names(names, "my.option")


def test_names_of_a_list_of_the_recipes_own() -> None:
    own = ["Sofa", "hard hat", "person"]
    assert label_names(["sofa", "Hard-Hat", "unicorn", "N/A"], wanted=own) == ["Sofa", "hard hat", None, None]
    assert label_names(["LABEL_0", "LABEL_1", "LABEL_2"], wanted=own) == own
    assert label_names([f"LABEL_{i}" for i in range(80)], wanted=own)[0] == "person"
    with pytest.raises(ValueError, match=r"none of its 1 classes .* is one of the 3 of classes\.det; .*`my\.option`"):
        label_names(["unicorn"], "my.option", own)


def test_classes_without_names_are_given_in_the_recipe(tmp_path: Path) -> None:
    path = str(tiny.rtdetr_v2(tmp_path, {i: f"LABEL_{i}" for i in range(3)}))
    with pytest.raises(ValueError, match=r"det: .* 3 classes have no names; .*`labels\.specialists\.det\.classes`"):
        Boxes(weights=path).setup("cpu")
    found = ready(Boxes(weights=path, classes=("zebra", "unicorn", "sofa"), min_score=0.02))(items(noise(60, 100)))[0]
    assert found and {box["label"] for box in found} <= {"zebra", "couch"}


def test_weights_of_another_task_are_refused(tmp_path: Path) -> None:
    tiny_features.dinov2(tmp_path / "dino")
    with pytest.raises(ValueError, match=r"det: .* is no model for object detection"):
        Boxes(weights=str(tmp_path / "dino")).setup("cpu")
    tiny.yolos(tmp_path / "yolos")
    (tmp_path / "yolos" / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(ValueError, match=r"det: .* ViTImageProcessor, does not read detections; copy"):
        Boxes(weights=str(tmp_path / "yolos")).setup("cpu")
    (tmp_path / "yolos" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="det: "):
        Boxes(weights=str(tmp_path / "yolos")).setup("cpu")
