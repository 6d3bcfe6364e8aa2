"""Depth: the convention, the frame, and every kind of model on tiny random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.tiny import dense as tiny_dense
from PIL import Image

from fourmill.pipelines.outputs import label_prints
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.settings import Images
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.dense.base import enlarged, usual_pixels
from fourmill.pipelines.specialists.dense.depth import Depth, relative_depth, scaled_depth

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "depth_anything": tiny_dense.depth_anything,
    "metric": lambda folder: tiny_dense.depth_anything(folder, "metric"),
    "dpt": tiny_dense.dpt,
    "dpt_dinov2": tiny_dense.dpt_dinov2,
    "zoedepth": tiny_dense.zoedepth,
    "tipsv2": tiny_dense.tipsv2,
}
FP16_STEP = 1e-3  # two neighbouring float16 below 1 differ by half of it


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("depth")
    return {name: build(root / name) for name, build in FAMILIES.items()}


def _ready(folder: Path, **options: Any) -> Depth:
    stated = {"predicts": "inverse_depth"} if folder.name == "dpt" else {}
    specialist = Depth(weights=str(folder), **(stated | options))
    specialist.setup("cpu")
    return specialist


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_frame_is_labelled_alone_as_in_a_batch(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family])
    sizes = ((29, 43), (15, 30), (29, 43)) if family == "dpt_dinov2" else tiny_dense.SIZES  # 256 channels are slow
    items = tiny_dense.items(*sizes)
    labels = specialist(items)
    for item, label in zip(items, labels, strict=True):
        assert isinstance(label, np.ndarray) and item.image is not None
        assert label.dtype == np.float16 and label.shape == item.image.shape[:2]
        assert label.min() == 0 and label.max() == 1
        alone = specialist([Item(item.key, item.image, None)])[0]
        np.testing.assert_allclose(np.float32(alone), np.float32(label), atol=FP16_STEP)
    again = specialist(tiny_dense.items(*sizes))
    assert all(np.array_equal(a, b) for a, b in zip(labels, again, strict=True))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "tipsv2"])
def test_a_prediction_lies_where_the_picture_has_it(folders: dict[str, Path], family: str) -> None:
    # A network that calls bright pixels far, whatever is done to pictures before it and to predictions after it.
    specialist = _ready(folders[family], predicts="depth")
    specialist._model = tiny_dense.Echo(specialist._model, lambda pixels: {"predicted_depth": pixels.mean(1)})
    items = tiny_dense.items()
    for item, label in zip(items, specialist(items), strict=True):
        assert isinstance(label, np.ndarray) and item.image is not None
        assert np.abs(np.float32(label) - item.image[..., 0] / 255).mean() < 0.03
        assert np.corrcoef(np.float32(label).ravel(), item.image[..., 0].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("size", [(97, 211), (64, 50)])
@pytest.mark.parametrize("family", ["depth_anything", "metric", "dpt", "tipsv2"])
def test_the_label_is_the_pipelines_own(folders: dict[str, Path], family: str, size: tuple[int, int]) -> None:
    """Turned around where the model predicts nearness."""
    from transformers import pipeline

    item = tiny_dense.items(size)[0]
    label = _ready(folders[family])([item])[0]
    made = pipeline("depth-estimation", model=str(folders[family]))(Image.fromarray(item.image))
    published = made["predicted_depth"].numpy()
    expected = (published - published.min()) / (published.max() - published.min())
    expected = expected if family in ("metric", "tipsv2") else 1 - expected
    np.testing.assert_allclose(np.float32(label), expected, atol=2 * FP16_STEP)


def test_inverse_depth_is_turned_around_and_depth_is_not() -> None:
    prediction = np.array([[2.0, 4.0], [6.0, 10.0]], np.float32)
    assert relative_depth(prediction, inverse=False).tolist() == [[0, 0.25], [0.5, 1]]  # type: ignore[union-attr]
    assert relative_depth(prediction, inverse=True).tolist() == [[1, 0.75], [0.5, 0]]  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [0.0, 1e-8, 3.0, -7e5])
def test_a_constant_prediction_has_no_depth(value: float) -> None:
    flat = np.full((4, 5), value, np.float32)
    assert relative_depth(flat, inverse=True) is None
    flat[0, 0] *= 1 + 1e-7
    assert relative_depth(flat, inverse=True) is None


@pytest.mark.parametrize(
    ("family", "predicted"),
    [("depth_anything", "inverse_depth"), ("metric", "depth"), ("dpt", ""), ("dpt_dinov2", "depth"),
     ("zoedepth", "depth"), ("tipsv2", "depth")],
)  # fmt: skip
def test_what_a_model_predicts_is_read_from_its_configuration(
    folders: dict[str, Path], family: str, predicted: str
) -> None:
    assert Depth(weights=str(folders[family])).predicted == predicted


def test_an_option_overrules_the_configuration(folders: dict[str, Path]) -> None:
    item = tiny_dense.items((60, 80))
    near, far = (_ready(folders["dpt"], predicts=what)(item)[0] for what in ("inverse_depth", "depth"))
    assert isinstance(near, np.ndarray) and isinstance(far, np.ndarray)
    np.testing.assert_allclose(np.float32(near), 1 - np.float32(far), atol=FP16_STEP)


def test_what_nothing_says_must_be_stated(folders: dict[str, Path], tmp_path: Path) -> None:
    """A DPT may be MiDaS's or Omnidata's, which is its opposite."""
    (tmp_path / "config.json").write_text('{"model_type": "chmv2"}')
    for folder, kind in ((folders["dpt"], "dpt"), (tmp_path, "chmv2")):
        unknown = Depth(weights=str(folder))
        assert re.search(rf"\({kind}\) predicts .*labels\.specialists\.depth\.predicts.*--probe", unknown.why_not({}))
    with pytest.raises(ValueError, match="nothing says whether"):
        Depth(weights=str(folders["dpt"])).setup("cpu")
    assert "predicts" in Depth(weights="someone/a-depth-model").why_not({})
    assert not Depth(weights="someone/a-depth-model", predicts="depth").why_not({})


def test_a_label_is_linear_in_what_is_asked_for() -> None:
    distance = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
    exact = {"depth": (distance - 1) / 7, "inverse_depth": 1 - (1 / distance - 1 / 8) / (1 - 1 / 8)}
    relative = 3 / distance + 5  # a scale and an offset that nobody knows
    for linear, expected in exact.items():
        for predicted, prediction, ratio in (("depth", distance, None), ("inverse_depth", relative, 8.0)):
            found = scaled_depth(prediction, predicted, linear, ratio)
            np.testing.assert_allclose(found, expected, atol=FP16_STEP)


def test_what_a_relative_depth_leaves_open_must_be_assumed(folders: dict[str, Path]) -> None:
    folder = str(folders["depth_anything"])
    assert "far_ratio" in Depth(weights=folder, linear_in="depth").why_not({})
    assert "leave it out" in Depth(weights=folder, far_ratio=8).why_not({})
    item = tiny_dense.items((60, 80))
    plain, stretched = (
        _ready(folders["depth_anything"], **more)(item)[0] for more in ({}, {"linear_in": "depth", "far_ratio": 8})
    )
    assert isinstance(plain, np.ndarray) and isinstance(stretched, np.ndarray)
    near = 1 - plain.astype(np.float64)
    np.testing.assert_allclose(stretched, (8 / (1 + 7 * near) - 1) / 7, atol=2e-3)


@pytest.mark.parametrize(
    ("family", "stated"), [("dpt", "inverse_depth"), ("depth_anything", "inverse_depth"), ("zoedepth", "depth")]
)
def test_stating_what_was_read_before_makes_no_label_again(folders: dict[str, Path], family: str, stated: Any) -> None:
    prints = [
        label_prints(Images(), {"depth": Depth(weights=str(folders[family]), **options)})
        for options in (
            {},
            {"predicts": stated},
            {"predicts": "depth" if stated == "inverse_depth" else "inverse_depth"},
        )
    ]
    silent, same, other = prints
    assert same.former["depth"] == silent.current["depth"] != same.current["depth"]
    assert other.former["depth"] == other.current["depth"] not in (same.current["depth"], silent.current["depth"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_says_nearly_the_same(folders: dict[str, Path], precision: Any) -> None:
    items = tiny_dense.items((97, 211), (64, 64))
    whole, half = (_ready(folders["depth_anything"], precision=p)(items) for p in ("fp32", precision))
    for a, b in zip(whole, half, strict=True):
        assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        assert np.abs(np.float32(a) - np.float32(b)).mean() < 0.02


def test_nan_rejects_its_own_image_only(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["dpt"], predicts="depth")

    def answer(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        depth = pixels.mean(1)
        depth[pixels.flatten(1).amax(1) == pixels.flatten(1).amin(1)] = torch.nan
        return {"predicted_depth": depth}

    specialist._model = tiny_dense.Echo(specialist._model, answer)
    good = tiny_dense.items((50, 50), (50, 50))
    flat = Item("flat", np.full((50, 50, 3), 7, np.uint8), None)
    labels = specialist([good[0], flat, good[1]])
    assert isinstance(labels[1], Reject) and labels[1].reason == "depth: NaN or infinite values"
    assert isinstance(labels[0], np.ndarray) and isinstance(labels[2], np.ndarray)


def test_a_constant_prediction_is_a_reject(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["dpt"])
    specialist._model = tiny_dense.Echo(specialist._model, lambda pixels: {"predicted_depth": pixels.mean(1) * 0 + 2})
    label = specialist(tiny_dense.items((40, 50)))[0]
    assert isinstance(label, Reject) and label.reason == "depth: the same everywhere (2)"


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (3, 50), (2, 2)])
def test_slivers_keep_their_frame(folders: dict[str, Path], size: tuple[int, int]) -> None:
    label = _ready(folders["dpt"])([Item("sliver", tiny_dense.scene(*size), None)])[0]
    assert isinstance(label, np.ndarray) and label.shape == size


@pytest.mark.parametrize("family", ["depth_anything", "zoedepth", "dpt_dinov2"])
@pytest.mark.parametrize("size", [(900, 9), (2, 500), (60, 1200)])
def test_thin_pictures_lie_in_their_frame(folders: dict[str, Path], family: str, size: tuple[int, int]) -> None:
    specialist = _ready(folders[family], predicts="depth")
    shapes: list[torch.Size] = []

    def answer(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        shapes.append(pixels.shape)
        return {"predicted_depth": pixels.mean(1)}

    specialist._model = tiny_dense.Echo(specialist._model, answer)
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    image = np.broadcast_to((ramp[:, None] if size[0] > size[1] else ramp)[..., None], (*size, 3)).copy()
    label = specialist([Item("thin", image, None)])[0]
    assert isinstance(label, np.ndarray) and label.shape == size
    assert np.abs(np.float32(label) - image[..., 0] / 255).mean() < 0.03
    assert min(shapes[0][2:]) >= 14


def test_the_network_sees_no_more_pixels_than_its_budget(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["depth_anything"], predicts="depth")
    shapes: list[tuple[int, ...]] = []

    def answer(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        shapes.append(tuple(pixels.shape))
        return {"predicted_depth": pixels.mean(1)}

    model = specialist._model
    specialist._model = tiny_dense.Echo(model, answer)
    specialist(tiny_dense.items((60, 240)))
    assert shapes.pop() == (1, 3, 56, 224), "the processor's own, four squares of 56 x 56"
    large = _ready(folders["depth_anything"], predicts="depth", max_pixels=56 * 112)
    large._model = specialist._model
    labels = large(tiny_dense.items(*[(60, 240)] * 9))
    assert all(isinstance(label, np.ndarray) and label.shape == (60, 240) for label in labels)
    assert [shape[1:] for shape in shapes] == [(3, 28, 154)] * 2, "in whole patches"
    shapes.clear()
    specialist(tiny_dense.items(*[(60, 240)] * 9))
    assert [shape[0] for shape in shapes] == [4, 4, 1], "8 usual images' pixels at a time, and as many again"
    with pytest.raises(ValueError, match=r"max_pixels is 3135, below the usual input .*, 3136 pixels; raise"):
        _ready(folders["depth_anything"], max_pixels=3135)
    assert large.identity() != specialist.identity()


def test_sizes_before_preprocessing() -> None:
    assert enlarged(480, 640, 16) == (480, 640)
    assert enlarged(900, 9, 16) == (900, 57) and enlarged(2, 500, 16) == (32, 500) and enlarged(1, 1, 4) == (32, 32)
    size = SimpleNamespace
    assert usual_pixels(size(size={"height": 518, "width": 518})) == 518**2
    assert usual_pixels(size(size={"shortest_edge": 800, "longest_edge": 1333})) == 800**2
    assert usual_pixels(size(size={"height": 384, "width": 384}, do_resize=False)) == usual_pixels(size())


def test_nothing_is_cropped_away(tmp_path: Path) -> None:
    folder = tiny_dense.dpt(tmp_path / "dpt", do_center_crop=True, crop_size={"height": 16, "width": 16})
    specialist = _ready(folder, predicts="depth")
    specialist._model = tiny_dense.Echo(specialist._model, lambda pixels: {"predicted_depth": pixels.mean(1)})
    item = tiny_dense.items((60, 90))[0]
    label = specialist([item])[0]
    assert isinstance(label, np.ndarray) and item.image is not None
    assert np.abs(np.float32(label) - item.image[..., 0] / 255).mean() < 0.03


def test_a_folder_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"depth: .* is no model for monocular depth estimation"):
        _ready(tiny_dense.segformer(tmp_path / "segformer"))


def test_a_processor_that_knows_no_depth_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from transformers import ViTImageProcessor

    folder = Path(shutil.copytree(folders["dpt"], tmp_path / "dpt"))
    ViTImageProcessor().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"ViTImageProcessor, has no post_process_depth_estimation; copy"):
        _ready(folder)


def test_no_items_no_labels(folders: dict[str, Path]) -> None:
    assert _ready(folders["dpt"])([]) == []
    assert _ready(folders["tipsv2"])([]) == []
