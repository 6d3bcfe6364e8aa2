"""Boxes of words: those of the publishers' own classes and processors, at the frame of the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import beyond
from fourmill_tests.tiny.once import once

from fourmill.pipelines.specialists.detection.open_vocabulary import OpenBoxes

QUERIES = ("Cat", "red car", "traffic sign")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "owlv2": beyond.owl,
    "owlvit": lambda folder: beyond.owl(folder, "owlvit"),
    "grounding_dino": beyond.grounding_dino,
}
PUT = {"owlv2": "a photo of a {}", "owlvit": "a photo of a {}", "grounding_dino": "{}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return once(tmp_path_factory.mktemp("open"), MAKERS)


def published(path: str, name: str, image: np.ndarray, least: float) -> Any:
    """What the publishers' model and processor say of one image, as their pages run them."""
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(path).eval()
    processor = transformers.AutoProcessor.from_pretrained(path)
    text = [[PUT[name].format(query) for query in QUERIES]]
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        outputs, threshold=least, target_sizes=[image.shape[:2]], text_labels=text
    )
    return found


@pytest.mark.parametrize(("name", "size"), [(name, (61, 103)) for name in MAKERS] + [("owlv2", (131, 47))])
def test_boxes_are_those_of_the_models_own_processor(
    folder: Callable[[str], str], name: str, size: tuple[int, int]
) -> None:
    image, least = noise(*size, seed=7), 0.05
    height, width = size
    raw = published(folder(name), name, image, least)
    (found,) = ready(OpenBoxes(weights=folder(name), queries=QUERIES, min_score=least, max_boxes=1000))(items(image))
    boxes = (raw["boxes"].numpy() / [width, height, width, height]).clip(0, 1)
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-raw["scores"].numpy()[there], kind="stable")
    assert len(found) == there.sum() >= 3
    np.testing.assert_allclose([box["box"] for box in found], boxes[there][order], atol=2e-5)
    np.testing.assert_allclose([box["score"] for box in found], raw["scores"].numpy()[there][order], atol=2e-5)
    if name != "grounding_dino":
        labels = raw["labels"].numpy()[there][order]
        assert [box["label"] for box in found] == [QUERIES[i] for i in labels]
        assert len({box["label"] for box in found}) > 1
        return
    # Its processor gives all words above a threshold: the query's must be among them, where there are any.
    phrases = [phrase for phrase, is_there in zip(raw["text_labels"], there, strict=True) if is_there]
    asked = {word for query in QUERIES for word in query.lower().split()}
    said = [asked & set(phrases[i].replace(".", " ").split()) for i in order]
    assert sum(map(bool, said)) >= 3
    for box, words in zip(found, said, strict=True):
        assert not words or words & set(box["label"].lower().split())


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_neighbours_do_not_matter(folder: Callable[[str], str], name: str) -> None:
    specialist = ready(OpenBoxes(weights=folder(name), queries=QUERIES, min_score=0.05))
    images = [noise(60, 100), noise(97, 41), noise(60, 100, seed=2)]
    for image, together in zip(images, specialist(items(*images)), strict=True):
        (alone,) = specialist(items(image))
        assert [box["label"] for box in alone] == [box["label"] for box in together]
        np.testing.assert_allclose([b["box"] for b in alone], [b["box"] for b in together], atol=1e-4)


def test_what_a_recipe_gets_wrong_is_said(folder: Callable[[str], str]) -> None:
    assert OpenBoxes().why_not({}).endswith("labels.specialists.open_det.queries: [traffic sign, red car]")
    for wrong, said in (
        ({"queries": ["cat", "CAT"]}, "'cat' is there twice"),
        ({"queries": ["cat", "  "]}, "a query has no words"),
        ({"queries": ["cat"], "prompt": "a photo"}, "expected {} once"),
    ):
        with pytest.raises(ValueError, match=said):
            OpenBoxes(**wrong)
    with pytest.raises(ValueError, match=r"'abcdefghijklmnopqrstuvwxyz' has 37 tokens .*takes 32; say it"):
        ready(OpenBoxes(weights=folder("owlv2"), queries=["abcdefghijklmnopqrstuvwxyz"]))
    for queries, said in (
        (["st. bernard"], "no full stops"),
        (["cat"] + [f"red car {c}" for c in "abcdefghijklmnopqrst"], "name fewer"),
    ):
        with pytest.raises(ValueError, match=said):
            ready(OpenBoxes(weights=folder("grounding_dino"), queries=queries))
