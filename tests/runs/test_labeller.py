"""A trained model as a specialist: its labels are what it generates, in the frame of the image."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.tiny import every
from hypothesis import given
from hypothesis import strategies as st

from fourmill.modalities import Form
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.settings import Labels
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import ImageItem
from fourmill.project import Project
from fourmill.runs.labeller import Trained, _boxes, _map, squares
from fourmill.runs.run import Run
from fourmill.tokenize.crops import Crop

SQUARE = data.picture(1, every.SIZE, every.SIZE)


def trained(run: Path, label: str, **options: Any) -> Trained:
    return Trained.model_validate({"label": label, "weights": str(run), **options})


def ready(run: Path, label: str, **options: Any) -> Trained:
    made = trained(run, label, **options)
    made.setup("cpu")
    return made


@pytest.mark.parametrize(
    ("label", "target"),
    [("depth", "tok_depth"), ("normal", "tok_normal"), ("semseg", "tok_semseg"), ("canny_edge", "tok_canny_edge")],
)
def test_a_map_of_a_square_is_what_is_generated(every_run: Path, run: Run, label: str, target: str) -> None:
    (made,) = ready(every_run, label)([ImageItem("a", SQUARE, None)])
    (asked,) = run.generate({"rgb": SQUARE}, target, steps=1, temperature=0.0)
    assert made.shape == asked[target].shape
    np.testing.assert_allclose(made.astype(np.float32), asked[target].astype(np.float32), atol=2e-3)


def test_texts_and_vectors_are_of_the_centre_square(every_run: Path, run: Run) -> None:
    image = data.picture(2, 150, 120)
    for label, target in (("caption", "caption:max_tokens=6"), ("dinov2_global", "tok_dinov2_global")):
        chain = [{"target": "caption", "max_tokens": 6, "temperature": 0.0}] if label == "caption" else []
        (made,) = ready(every_run, label, chain=chain)([ImageItem("a", image, None)])
        options = {} if label == "caption" else {"steps": 1}
        (asked,) = run.generate({"rgb": image}, target, temperature=0.0, **options)
        expected = asked[target.partition(":")[0]]
        if isinstance(made, str):
            assert made == expected
        else:
            np.testing.assert_allclose(made, expected, atol=1e-2)


def test_neighbours_change_nothing(every_run: Path) -> None:
    """Random numbers follow from the key, also where images of other shapes stand beside it."""
    items = [
        ImageItem(f"k{i}", data.picture(i, *size), None) for i, size in enumerate([(150, 120), (64, 200), (90, 90)])
    ]
    chain = [{"target": "tok_canny_edge", "steps": 2}, {"target": "depth", "steps": 3, "temperature": 1.0}]
    labeller = ready(every_run, "depth", chain=chain, ensemble=2, seed=5)
    together = labeller(items)
    for item, label in zip(items, together, strict=True):
        (alone,) = labeller([item])
        np.testing.assert_array_equal(alone, label)
        assert label.shape == item.image.shape[:2] and label.dtype == np.float16
    (other,) = ready(every_run, "depth", chain=chain, ensemble=2, seed=6)(items[:1])
    assert (other != together[0]).any()


def test_labels_made_before_can_be_inputs(every_run: Path) -> None:
    labeller = ready(every_run, "normal", inputs=["rgb", "depth", "det"])
    assert labeller.needs == ("depth", "det")
    labels = every.labels()
    dragon = [{"box": [0, 0, 1, 1], "label": "dragon", "score": 1.0}]
    given = [{"depth": labels["depth"], "det": boxes} for boxes in (labels["det"], dragon)]
    made, refused = labeller(
        [ImageItem(key, labels["rgb"], None, labels=one) for key, one in zip("ab", given, strict=True)]
    )
    assert made.shape == (120, 150, 3) and isinstance(refused, Reject)
    np.testing.assert_allclose(np.linalg.norm(made.astype(np.float32), axis=-1), 1, atol=2e-3)
    assert refused.reason.startswith("normal: det: got the class 'dragon'")


def test_a_recipe_labels_shards_with_it(every_run: Path, tmp_path: Path) -> None:
    recipe = data.recipe(
        tmp_path / "out",
        data.good_shards(tmp_path / "s", 1, 4),
        modalities=["rgb"],
        labels__keep=["depth", "semseg"],
        labels__specialists={
            "depth": {"specialist": "fourmill", "weights": str(every_run)},
            "semseg": {"specialist": "fourmill", "weights": str(every_run), "inputs": ["rgb", "depth"]},
        },
        generate__chains=[],
    )
    records = data.make(recipe, Project(recipe).label_outputs)
    assert {record.output: (record.rows, record.nulls) for record in records} == {
        "labels/depth": (4, 0),
        "labels/semseg": (4, 0),
        "samples": (4, 0),
    }
    assert data.make(recipe, Project(recipe).label_outputs) == []


def test_the_label_depends_on_the_bytes_of_the_weights(every_run: Path, tmp_path: Path) -> None:
    before = trained(every_run, "depth").fingerprint_parts()
    moved = tmp_path / "elsewhere" / "out"
    shutil.copytree(every_run.parents[2], moved)
    run = moved / "runs" / "4m" / "print"
    assert trained(run, "depth", root=str(moved)).fingerprint_parts() == before
    assert trained(run / "model", "depth").fingerprint_parts() == before
    assert trained(run, "depth", ensemble=2).fingerprint_parts() != before
    weights = run / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (run / "model" / "sums.json").unlink()
    assert trained(run, "depth").fingerprint_parts() != before


@pytest.mark.parametrize(
    ("label", "options", "said"),
    [
        ("depth", {"weights": "nowhere/at/all"}, "there is no model at nowhere/at/all"),
        ("depth", {"chain": ["tok_normal"]}, "the chain ends with tok_normal, of normal; expected depth"),
        ("depth", {"inputs": ["rgb", "laplace"]}, "there is no modality 'laplace'"),
        ("color_palette", {}, "maps, boxes, texts and vectors can be made by a trained model, this label cannot"),
    ],
)
def test_what_cannot_be_is_known_before_any_work(
    every_run: Path, label: str, options: dict[str, Any], said: str
) -> None:
    assert said in Trained.model_validate({"label": label, "weights": str(every_run)} | options).why_not({})
    assert trained(every_run, "depth").why_not({}) == ""


def test_an_unfinished_run_is_refused(every_run: Path, tmp_path: Path) -> None:
    """Its newest checkpoint is another one tomorrow."""
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    said = trained(tmp_path / "run", "depth").why_not({})
    assert "is not finished; name one of the folders in its checkpoints/" in said


def test_a_label_cannot_be_its_own_input(every_run: Path) -> None:
    settings = Labels(specialists={"depth": {"specialist": "fourmill", "weights": str(every_run), "inputs": ["depth"]}})
    with pytest.raises(ValueError, match="depth needs depth: a circle"):
        registry.build(["tok_depth"], settings)


def test_other_classes_than_the_models_are_refused(every_run: Path) -> None:
    labeller = Trained.model_validate(
        {"label": "semseg", "weights": str(every_run)}, context={"classes": {"semseg": ("sky", "sea")}}
    )
    with pytest.raises(ValueError, match=r"the model has learned other classes .* than this recipe has \(sky and sea"):
        labeller.setup("cpu")


@given(st.integers(1, 400), st.integers(1, 400))
def test_squares_cover_an_image_and_overlap(width: int, height: int) -> None:
    found, side = squares(width, height), min(width, height)
    covered = np.zeros((height, width), int)
    for one in found:
        assert (one.width, one.height) == (side, side)
        covered[one.top : one.top + side, one.left : one.left + side] += 1
    assert covered.min() >= 1
    starts = [one.left + one.top for one in found]
    assert all(0 < b - a <= max(side / 2, 1) + 1 for a, b in itertools.pairwise(starts))
    assert len(found) == 1 if width == height else len(found) > 1


@given(st.integers(8, 60), st.integers(8, 60))
def test_maps_of_squares_become_the_map_of_the_image(width: int, height: int) -> None:
    """Squares that say the same of every pixel give that; classes are never mixed."""
    rng = np.random.default_rng(width * 100 + height)
    classes = rng.integers(0, 5, (height, width)).astype(np.uint8)
    depth = np.linspace(0, 1, width * height, dtype=np.float16).reshape(height, width)
    windows = squares(width, height)
    for form, whole in ((Form.CLASSES, classes), (Form.DEPTH, depth)):
        parts = [whole[one.top : one.top + one.height, one.left : one.left + one.width] for one in windows]
        made = _map(form, parts, windows, (height, width))
        assert made.dtype == whole.dtype
        np.testing.assert_allclose(made.astype(np.float32), whole.astype(np.float32), atol=1e-3)


def test_a_box_that_two_squares_see_is_kept_once() -> None:
    """A thing in the middle of a wide image, which both squares see, and one at its right end."""
    left, right = Crop(0, 0, 100, 100), Crop(50, 0, 100, 100)
    middle, end = {"label": "dog"}, {"label": "cat"}
    answers = [
        [{"box": [0.5, 0.2, 0.9, 0.6], **middle}],
        [{"box": [0.0, 0.2, 0.4, 0.6], **middle}, {"box": [0.8, 0, 1, 1], **end}],
    ]
    made = _boxes(answers, [left, right], (100, 150))
    assert [(one["label"], one["score"]) for one in made] == [("dog", 1.0), ("cat", 1.0)]
    np.testing.assert_allclose(made[0]["box"], [50 / 150, 0.2, 90 / 150, 0.6])
    np.testing.assert_allclose(made[1]["box"], [130 / 150, 0, 1, 1])
