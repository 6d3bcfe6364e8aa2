"""Depth in metres: the distances of the publishers' own classes and processors, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from fourmill_tests.pictures import items, ready
from fourmill_tests.tiny import dense as tiny

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.metric_depth import MetricDepth
from fourmill.pipelines.specialists.members.member import Member

MAKERS: dict[str, Callable[[Path], Path]] = {
    "zoedepth": tiny.zoedepth,
    "depth_anything": lambda folder: tiny.depth_anything(folder, "metric"),
}


@pytest.mark.parametrize(("name", "size"), [("zoedepth", (45, 77)), ("depth_anything", (97, 61))])
def test_metres_are_those_of_the_models_own_processor(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    path, image = str(MAKERS[name](tmp_path / name)), tiny.scene(*size, seed=3)
    model = transformers.AutoModelForDepthEstimation.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    with torch.inference_mode():
        outputs = model(**processor(images=image, return_tensors="pt"))
    sizes = {"source_sizes": [size]} if name == "zoedepth" else {}
    (expected,) = processor.post_process_depth_estimation(outputs, target_sizes=[size], **sizes)
    (found,) = ready(MetricDepth(weights=path))(items(image))
    assert found.dtype == np.float16 and found.shape == size
    metres = expected["predicted_depth"].reshape(size).numpy().clip(0)  # where bicubic resizing leaves what is possible
    np.testing.assert_allclose(found, metres, rtol=2e-3, atol=2e-3)
    (relative,) = ready(Depth(weights=path))(items(image))
    assert np.corrcoef(relative.reshape(-1), found.astype(np.float32).reshape(-1))[0, 1] > 0.99


def test_models_without_a_unit_are_refused(tmp_path: Path) -> None:
    relative = MetricDepth(weights="depth-anything/Depth-Anything-V2-Small-hf").why_not({})
    assert relative.startswith("metric_depth: ") and "predicts relative depth, whose unit nobody knows" in relative
    with pytest.raises(ValueError, match="predicts relative depth"):
        ready(MetricDepth(weights=str(tiny.depth_anything(tmp_path / "relative"))))
    unknown = MetricDepth(weights="someone/model")
    assert unknown.why_not({}).endswith("state labels.specialists.metric_depth.predicts: metres")
    stated = MetricDepth(weights="someone/model", predicts="metres")
    assert stated.why_not({}) == "" and stated.fingerprint_parts() == unknown.fingerprint_parts()
    for known in ("Intel/zoedepth-nyu-kitti", "google/tipsv2-b14-dpt", "apple/DepthPro-hf"):
        assert MetricDepth(weights=known).why_not({}) == ""
    tips = MetricDepth(weights="google/tipsv2-b14-dpt")
    assert tips.version == tips.first_version == 1 and tips.dtype("cuda") == torch.float32
    assert "does not hold in fp16" in MetricDepth(weights="google/tipsv2-b14-dpt", precision="fp16").why_not({})


def test_distances_that_come_with_the_data(tmp_path: Path) -> None:
    image, millimetres = np.zeros((2, 3, 3), np.uint8), np.array([[0, 500, 1500], [2000, 2500, 65535]], np.uint16)

    def read(**options: object) -> np.ndarray | Reject:
        member = Member(label="metric_depth", name="depth.png", **options)
        (found,) = member([Item("a", image, None, members={"depth.png": millimetres})])
        return found

    found = read(scale=0.001)
    assert isinstance(found, np.ndarray) and found.dtype == np.float16
    np.testing.assert_allclose(found, [[65.535, 0.5, 1.5], [2, 2.5, 65.535]], atol=0.04)
    assert np.asarray(read(scale=0.001, invalid="fill"))[0, 0] in (0.5, 2)  # of its neighbours
    assert "1 pixels without a value" in str(read(scale=0.001, invalid="reject"))
    assert "expected metres; see scale" in str(read(scale=1000))
    with pytest.raises(ValueError, match="holds: it has no meaning for metric_depth"):
        read(holds="inverse_depth")
