"""Boxes by ultralytics' YOLO: its own pipeline's numbers, none of its side effects, and no code from its pickles."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fourmill_tests import pictures
from fourmill_tests.pictures import items, noise
from fourmill_tests.tiny import detectors as tiny
from PIL import Image
from pydantic import ValidationError

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.detection.yolo import YoloBoxes, ultralytics


@pytest.fixture(scope="module", params=["yolo26", "yolov8"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.yolo(tmp_path_factory.mktemp("yolo") / "tiny.pt", request.param))


def ready(path: str, **options: Any) -> Any:
    return pictures.ready(YoloBoxes(weights=path, allow_pickle=True, **{"size": 128, "min_score": 0.5, **options}))


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [box["label"] for box in found] == [box["label"] for box in expected]
    for key in ("box", "score"):
        np.testing.assert_allclose([box[key] for box in found], [box[key] for box in expected], atol=1e-4)


@pytest.mark.parametrize("size", [(60, 100), (200, 90), (128, 128)])
def test_boxes_are_those_of_its_own_pipeline(
    path: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(*size)
    found = ready(path)(items(image))[0]
    assert len(found) >= 3
    monkeypatch.chdir(tmp_path)  # it would write there
    model = ultralytics("models").YOLO(path)
    bgr = np.ascontiguousarray(image[..., ::-1])
    (result,) = model.predict(bgr, imgsz=128, conf=0.5, iou=0.7, max_det=100, verbose=False, device="cpu")
    expected = [
        {"box": box.tolist(), "label": tiny.NAMES[int(i)], "score": round(float(score), 5), "class": int(i)}
        for box, score, i in zip(result.boxes.xyxyn, result.boxes.conf, result.boxes.cls, strict=True)
        if box[2] > box[0] and box[3] > box[1]
    ]
    assert_alike(found, sorted(expected, key=lambda box: (-box["score"], box["class"], box["box"])))


def test_neighbours_do_not_matter(path: str) -> None:
    specialist = ready(path)
    images = [
        noise(*size, seed=i) for i, size in enumerate([(60, 100), (100, 60), (60, 100), (64, 64), (3, 200), (1, 1)])
    ]
    together = specialist(items(*images))
    for image, made in zip(images, together, strict=True):
        assert_alike(made, specialist(items(image))[0])
    assert ready(path)(items(*images)) == together


def test_outputs_that_are_not_finite_are_rejects(path: str) -> None:
    specialist = ready(path)
    for buffer in specialist._model.buffers():
        if buffer.is_floating_point():
            buffer.fill_(float("nan"))
    for parameter in specialist._model.parameters():
        parameter.data.fill_(float("nan"))
    (made,) = specialist(items(noise(60, 100)))
    assert isinstance(made, Reject) and made.reason.startswith("det: NaN or infinite outputs")


def test_trust_is_asked_for() -> None:
    with pytest.raises(ValidationError, match=r"keeps its weights in pickles.* allow_pickle: true"):
        YoloBoxes()
    assert YoloBoxes(allow_pickle=True).patterns() == ("yolo26x.pt",)


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_even_a_trusted_pickle_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "trace"), "ema": None}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="is no checkpoint of ultralytics"):
        ready(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "trace").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "state.pt")
    for name in ("text.pt", "state.pt"):
        with pytest.raises(ValueError, match=f"det: .*{name} is no checkpoint of ultralytics"):
            ready(str(tmp_path / name))
    classifier = ultralytics("nn.tasks").ClassificationModel("yolov8n-cls.yaml", nc=3, verbose=False)
    torch.save({"model": classifier, "ema": None}, tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="holds a ClassificationModel, expected a YOLO for object detection"):
        ready(str(tmp_path / "classifier.pt"))
    with pytest.raises(ValueError, match="none of its 2 classes"):
        ready(str(tiny.yolo(tmp_path / "unicorns.pt", names={0: "unicorn", 1: "griffin"})))


def test_a_folder_holds_the_named_checkpoint(path: str, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(Path(path).read_bytes())
    image = noise(60, 100)
    found = ready(str(tmp_path), checkpoint="b.pt")(items(image))
    assert found == ready(path)(items(image))


def test_importing_it_has_no_side_effects(path: str) -> None:
    threads = cv2.getNumThreads()
    utils = ultralytics("utils")
    assert cv2.getNumThreads() == threads
    assert not utils.ONLINE and not ultralytics("utils.events").events.enabled and not utils.AUTOINSTALL
    assert not Path(utils.SETTINGS_FILE).is_relative_to(Path.home())
    assert Image.open.__module__ == "PIL.Image" and torch.save.__module__ == "torch.serialization"


def test_without_ultralytics_the_error_says_what_to_do(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", None)
    with pytest.raises(ImportError, match=r"AGPL-3\.0.*pip install 'fourmill\[yolo\]'"):
        ready(path)
