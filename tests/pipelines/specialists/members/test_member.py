"""Labels that come with the data: what a file may hold for each form, and what becomes of everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fourmill.modalities import COCO_PANOPTIC_CLASSES, NO_CLASS
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.settings import Labels
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import ImageItem
from fourmill.pipelines.specialists.instances.sam_edges import instance_map
from fourmill.recipe import RecipeError

NAN, INF = np.nan, np.inf
SKY = COCO_PANOPTIC_CLASSES.index("sky-other-merged")


def read(label: str, value: Any, name: str = "x.npy", size: tuple[int, int] | None = None, **options: Any) -> Any:
    """The label that `member` makes of a member with this value."""
    settings = Labels(keep=[label], specialists={label: {"specialist": "member", "name": name, **options}})
    specialist = registry.build([], settings)[label]
    size = size or (value.shape[:2] if isinstance(value, np.ndarray) else (3, 4))
    (made,) = specialist([ImageItem("k", np.zeros((*size, 3), np.uint8), None, members={name: value})])
    return made


def reason(label: str, value: Any, **options: Any) -> str:
    made = read(label, value, **options)
    assert isinstance(made, Reject)
    return made.reason


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([[1.0, 3.0], [5.0, 2.0]], {}, [[0, 0.5], [1, 0.25]]),
        ([[1, 3], [5, 2]], {}, [[0, 0.5], [1, 0.25]]),
        ([[1.0, 3.0], [5.0, 2.0]], {"holds": "inverse_depth"}, [[1, 0.5], [0, 0.75]]),
        ([[0.25, 0.0], [0.5, 1.0]], {"holds": "relative"}, [[0.25, 0], [0.5, 1]]),
        (np.array([[0, 255], [51, 102]], np.uint8), {"holds": "relative"}, [[0, 1], [0.2, 0.4]]),
        ([[0.0, 20.0], [40.0, 100.0]], {"holds": "relative", "scale": 0.01}, [[0, 0.2], [0.4, 1]]),
        # without a value: 0, below 0, NaN, infinite
        ([[1.0, 3.0, NAN, INF], [5.0, 0.0, -1.0, -INF]], {}, [[0, 0.5, 1, 1], [1, 1, 1, 1]]),
        ([[1.0, 3.0, NAN], [5.0, 4.0, 0.0]], {"invalid": "fill"}, [[0, 0.5, 0.5], [1, 0.75, 0.75]]),
        ([[1.0, 3.0], [5.0, 0.0]], {"holds": "inverse_depth"}, [[1, 0.5], [0, 1]]),
        ([[1000, 3000], [90000, 5000]], {"scale": 0.001, "far": 5}, [[0, 0.5], [1, 1]]),
    ],
)
def test_depth_is_relative_and_0_is_nearest(values: Any, options: dict[str, Any], expected: list[list[float]]) -> None:
    made = read("depth", np.array(values), **options)
    assert made.dtype == np.float16
    np.testing.assert_allclose(made, expected, atol=1e-3)


FLOATS = arrays.arrays(np.float32, (4, 5), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@given(FLOATS, st.sampled_from(["depth", "inverse_depth"]), st.sampled_from(["set", "fill"]))
def test_any_depth_is_a_reject_or_within_0_and_1(values: np.ndarray, holds: str, invalid: str) -> None:
    made = read("depth", values, holds=holds, invalid=invalid)
    if isinstance(made, Reject):
        known = values[np.isfinite(values) & (values > 0)]
        assert not known.size or np.ptp(known) <= 1e-5 * known.max() or not np.isfinite(np.ptp(known))
    else:
        assert made.shape == (4, 5) and made.min() == 0 and made.max() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16])
def test_normals_are_unit_vectors_whatever_the_type(dtype: type) -> None:
    vectors = np.array([[[0, 0, 1], [0.6, 0, 0.8]], [[0, -0.6, 0.8], [1, 0, 0]]])
    stored = vectors
    if np.issubdtype(dtype, np.integer):
        largest = np.iinfo(dtype).max
        stored = vectors * largest if np.iinfo(dtype).min else (vectors + 1) / 2 * largest
        stored = np.rint(stored)
    made = read("normal", stored.astype(dtype))
    assert made.dtype == np.float16
    np.testing.assert_allclose(made, vectors, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(made.astype(np.float32), axis=2), 1, atol=2e-3)
    np.testing.assert_allclose(read("normal", stored.astype(dtype), flip="yz"), vectors * [1, -1, -1], atol=0.01)


def test_normals_without_a_direction_face_the_viewer() -> None:
    side = [1, 0, 0]
    for value in (
        np.array([[side, [NAN, 0, 0], [0, 0, 0]]], np.float32),
        np.array([[[255, 128, 128], [0, 0, 0], [128, 128, 128]]], np.uint8),
    ):
        np.testing.assert_allclose(read("normal", value), [[side, [0, 0, 1], [0, 0, 1]]], atol=0.01)
        np.testing.assert_allclose(read("normal", value, invalid="fill"), [[side, side, side]], atol=0.01)
        assert reason("normal", value, invalid="reject") == "normal: x.npy: 2 pixels without a value; see invalid"


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (np.array([[0, 132], [255, 7]], np.uint8), {}, [[0, 132], [255, 7]]),
        (np.array([[0, 132], [65535, 255]], np.uint16), {}, [[0, 132], [255, 255]]),
        (np.array([[0, 1], [2, 1]], np.int64), {"classes": ["sky-other-merged", None, "cat"]}, [[SKY, 255], [15, 255]]),
        (np.array([[300, 4]], np.uint16), {"classes": {300: "person", 4: 9, 5: "dog"}}, [[0, 9]]),
        (np.array([[0, 255]], np.uint8), {"classes": {0: "cat", 255: None}}, [[15, 255]]),
        (np.array([[[3], [4]]], np.uint8), {}, [[3, 4]]),  # one channel
    ],
)
def test_class_maps_have_the_ids_of_the_label(values: np.ndarray, options: dict[str, Any], expected: Any) -> None:
    made = read("semseg", values, **options)
    assert made.dtype == np.uint8 and made.tolist() == expected


def test_maps_of_another_size_are_resized_if_it_is_said() -> None:
    small = np.array([[1, 2], [3, 4]], np.uint8)
    large = read("semseg", small, size=(4, 4), resize=True)
    assert large.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert read("semseg", large, size=(2, 2), resize=True).tolist() == small.tolist()
    assert reason("semseg", small, size=(4, 9), resize=True).endswith("(2, 2), expected the image's frame, (4, 9)")


def test_a_map_of_ids_is_instances() -> None:
    ids = np.zeros((20, 30), np.uint16)
    ids[2:12, 5:25], ids[15:18, 1:4] = 700, 9
    large, small = read("sam_instance", ids)
    assert large["box"] == pytest.approx([5 / 30, 2 / 20, 25 / 30, 12 / 20])
    assert (large["area"], small["area"]) == (200 / 600, 9 / 600)
    for one in (large, small):
        x, y = int(one["point"][0] * 30), int(one["point"][1] * 20)
        assert ids[y, x] and all(one["box"][i] <= one["point"][i] <= one["box"][i + 2] for i in (0, 1))
    np.testing.assert_array_equal(instance_map([large, small], 20, 30), np.where(ids == 700, 1, np.where(ids, 2, 0)))
    assert read("sam_instance", np.zeros((3, 4), np.uint8)) == []


def test_boxes_are_of_the_classes_of_the_label() -> None:
    given = [
        {"box": [0, 0.25, 0.5, 1], "label": "automobile", "occluded": True},
        {"box": [0.1, 0.1, 0.2, 0.2], "label": "cat", "score": 0.5},
        {"box": [0.1, 0.1, 0.2, 0.2], "label": "lamp"},
    ]
    assert read("det", given, name="boxes.json", classes={"automobile": "car", "lamp": None}) == [
        {"box": [0.0, 0.25, 0.5, 1.0], "label": "car", "score": 1.0},
        {"box": [0.1, 0.1, 0.2, 0.2], "label": "cat", "score": 0.5},
    ]
    assert read("det", [], name="boxes.json") == []


def test_other_labels_are_as_they_are() -> None:
    assert read("caption", " a cat\n", name="story.txt") == " a cat\n"
    assert read("metadata", {"brightness": 5}, name="stats.json") == {"brightness": 5}
    assert read("color_palette", [[[1, 2, 3]]], name="palette.json") == [[[1, 2, 3]]]
    assert read("canny_edge", np.array([[0, 1]], np.uint8)).tolist() == [[0, 255]]
    features = np.ones((2, 3, 8), np.float64)
    assert read("clip", features).dtype == np.float16 and read("dinov2_global", np.ones(8)).shape == (8,)


SQUARE = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("label", "value", "options", "expected"),
    [
        ("depth", SQUARE, {"size": (4, 5)}, "(4, 4), expected the image's frame, (4, 5) (see resize)"),
        ("depth", np.ones((4, 5)), {"size": (5, 4)}, "(4, 5), expected the image's frame, (5, 4) (a quarter turn: "),
        ("depth", SQUARE, {}, "no pixel has a value"),
        ("depth", SQUARE + 3, {}, "the same everywhere (3)"),
        ("depth", SQUARE - 3, {"holds": "relative"}, "values of -3 to -3, expected 0 to 1, a relative depth; see"),
        ("depth", np.array([[1.0, NAN, 2.0]]), {"invalid": "reject"}, "1 pixels without a value; see invalid"),
        ("depth", np.ones((4, 4, 3)), {}, "float64 (4, 4, 3), expected integers or floats with 2 axes"),
        ("depth", np.ones(4), {"size": (4, 4)}, "(4,), expected (H, W) or (H, W, C)"),
        ("depth", [[1.0]], {"name": "depth.json"}, "list, expected an array: .npy, .png, ..."),
        ("normal", SQUARE, {}, "float32 (4, 4), expected integers or floats with 3 axes"),
        ("normal", np.ones((4, 4, 4)), {}, "(4, 4, 4), expected (H, W, 3)"),
        ("normal", np.full((4, 4, 3), 200.0), {}, "values of 200 to 200, expected -1 to 1, components of unit vectors"),
        ("normal", np.zeros((4, 4, 3)), {}, "no pixel has a direction"),
        ("semseg", SQUARE, {}, "float32 (4, 4), expected integers with 2 axes"),
        ("semseg", np.full((2, 2), 133), {}, "the ids 133, expected 0 to 132, or 255 for none; see classes"),
        ("semseg", np.full((2, 2), -1), {}, "ids of -1 to -1, expected 0 to 65535"),
        ("semseg", np.arange(9)[None], {"classes": ["cat"]}, "the ids 1, 2, 3, 4, 5..., expected those of classes"),
        ("sam_instance", SQUARE, {}, "float32 (4, 4), expected integers (H, W), 0 for no instance"),
        ("canny_edge", np.full((2, 2), 9), {}, "values of 9 to 9, expected 0, and 1 or 255"),
        ("det", {"box": 1}, {"name": "b.json"}, "expected a list of boxes, each with box, label and perhaps score"),
        ("det", [{"box": [0, 0, 5, 5], "label": "cat"}], {"name": "b.json"}, "a box of [0, 0, 5, 5], expected [xmin"),
        ("det", [{"box": [0.5, 0, 0.5, 1], "label": "cat"}], {"name": "b.json"}, "a box of [0.5, 0, 0.5, 1], which is"),
        ("det", [{"box": [0, 0, 1, 1], "label": 3}], {"name": "b.json"}, "a label of 3, expected the name of a class"),
        ("det", [{"box": [0, 0, 1, 1], "label": "gnu"}], {"name": "b.json"}, "a box of 'gnu', which is none of the"),
        ("det", [{"box": [0, 0, 1, 1], "label": "cat", "score": NAN}], {"name": "b.json"}, "a score of nan, expected"),
        ("caption", " \n", {"name": "a.txt"}, "there is no text in it"),
        ("caption", ["a"], {"name": "a.json"}, "list, expected text"),
        ("metadata", {"brightness": "high"}, {"name": "m.json"}, "'brightness' is 'high', expected a number"),
        ("metadata", [1], {"name": "m.json"}, "list, expected a mapping from names to numbers"),
        ("color_palette", SQUARE, {}, "an array, expected JSON, text or a class"),
        ("clip", np.full((2, 2, 8), 1e9), {}, "NaN, or values beyond 65504, the largest of float16"),
        ("dinov2_global", np.ones((2, 8)), {}, "float64 (2, 8), expected floats with 1 axes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_reject(label: str, value: Any, options: dict[str, Any], expected: str) -> None:
    given = reason(label, value, **options)
    assert given.startswith(f"{label}: {options.get('name', 'x.npy')}: {expected}")


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        ("depth", {}, "name: this field is needed"),
        ("depth", {"nam": "depth.npy"}, "nam: no such field; did you mean 'name'?"),
        ("depth", {"name": "depth.tif"}, "name: nothing reads .tif as a label; there are cls, jpeg, jpg, json, npy"),
        ("depth", {"name": "depth.npy", "holds": "meters"}, "holds: Input should be 'depth', 'inverse_depth'"),
        ("depth", {"name": "depth.npy", "flip": "y"}, "flip: it has no meaning for depth; leave it out"),
        ("depth", {"name": "depth.npy", "far": 9, "holds": "relative"}, "far: it is of distances; leave it out, or"),
        ("det", {"name": "b.json", "resize": True}, "resize: it has no meaning for det; leave it out"),
        ("det", {"name": "b.json", "classes": {"a": "kat"}}, "classes: there is no 'kat'; did you mean 'cat'?"),
        ("det", {"name": "b.json", "classes": ["cat"]}, "classes: got a list, expected a mapping from the file"),
        ("semseg", {"name": "s.png", "classes": {0: "lake"}}, "classes: there is no 'lake'; did you mean 'cake'?"),
        ("semseg", {"name": "s.png", "classes": {0: 140}}, "classes: got 140, expected 0 to 132, or 255 for none"),
        ("semseg", {"name": "s.png", "classes": {"sky": 1}}, "classes: got 'sky', expected an id of the file, 0 to"),
        ("depth", {"name": "depth.npy", "label": "det"}, "label: no such field; the label is depth by its place"),
    ],
)  # fmt: skip
def test_wrong_options_are_found_before_any_work(label: str, options: dict[str, Any], expected: str) -> None:
    settings = Labels(keep=[label], specialists={label: {"specialist": "member", **options}})
    with pytest.raises(RecipeError) as caught:
        registry.build([], settings)
    assert f".{label}: {expected}" in str(caught.value) or f".{label}.{expected}" in str(caught.value)


def _identity(label: str, **options: Any) -> dict[str, Any]:
    settings = Labels(keep=[label], specialists={label: {"specialist": "member", "name": "x.npy", **options}})
    return registry.build([], settings)[label].fingerprint_parts()


def test_only_options_with_a_meaning_are_in_the_fingerprint() -> None:
    assert _identity("clip")["options"] == {"member": "x.npy"}
    assert _identity("semseg")["options"] == {"member": "x.npy", "classes": None, "resize": False}
    assert _identity("depth") != _identity("depth", holds="inverse_depth")
    assert _identity("depth") == _identity("depth", holds="depth") != _identity("normal")


def test_classes_that_are_no_class_stay_none() -> None:
    assert read("semseg", np.full((2, 2), NO_CLASS, np.uint8)).tolist() == [[255, 255], [255, 255]]
