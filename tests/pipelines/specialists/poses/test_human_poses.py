"""Human poses: which people are looked at, what of the image is seen of them, and how the checkpoint is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fourmill_tests.tiny import hmr2 as tiny_hmr2
from skimage import data as photos

from fourmill.infra.versions import outdated
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.poses.human_poses import (
    _MEAN,
    _STD,
    Hmr2,
    Sampling,
    checkpoint_tensors,
    person_crop,
)
from fourmill.tokenize.text import smpl

GOLDEN = Path(__file__).parents[3] / "golden" / "hmr2" / "expected.npz"
HEADS = {"backbone_heads": tiny_hmr2.HEADS, "decoder_heads": tiny_hmr2.DECODER_HEADS}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_hmr2.safetensors(tmp_path_factory.mktemp("hmr2") / "hmr2.safetensors"))


def ready(path: str | Path, **options: Any) -> Hmr2:
    torch.set_num_threads(1)
    specialist = Hmr2(weights=str(path), **HEADS, **options)
    specialist.setup("cpu")
    return specialist


def person(*box: float, score: float = 0.9, label: str = "person") -> dict[str, Any]:
    return {"box": list(box), "label": label, "score": score}


def item(image: np.ndarray, *boxes: dict[str, Any]) -> Item:
    return Item("k", image, None, labels={"det": list(boxes)})


def people(specialist: Hmr2, image: np.ndarray, *boxes: dict[str, Any]) -> list[dict[str, Any]]:
    (label,) = specialist([item(image, *boxes)])
    assert isinstance(label, list)
    return label


def seen(image: np.ndarray, box: Sequence[float], sampling: Sampling = "published") -> np.ndarray:
    """The crop in 0..255, (256, 192, 3)."""
    return (person_crop(image, box, 256, 192, sampling).transpose(1, 2, 0) * _STD + _MEAN) * 255


def test_people_have_bodies(weights: str) -> None:
    boxes = [person(0.1, 0.2, 0.4, 0.9, score=0.6), person(0.5, 0.1, 0.9, 1.0, score=0.95)]
    found = people(ready(weights), photos.astronaut(), *boxes)
    assert [human["box"] for human in found] == [boxes[1]["box"], boxes[0]["box"]]  # the best first
    assert [human["score"] for human in found] == [0.95, 0.6]
    for human in found:
        assert {name: len(human[name]) for name in smpl.SIZES} == smpl.SIZES
        turns = smpl.rotations(human)
        np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3)), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-5)
    assert found[0]["betas"] != found[1]["betas"]
    assert json.loads(json.dumps(found)) == found


def test_whom_it_looks_at(weights: str) -> None:
    boxes = [
        person(0.1, 0.1, 0.3, 0.5, score=0.9, label="dog"),
        person(0.1, 0.1, 0.3, 0.5, score=0.49),
        person(0.2, 0.2, 0.2, 0.5, score=0.99),  # of no width
        person(0.3, 0.1, 0.5, 0.5, score=0.7),
        person(0.4, 0.1, 0.6, 0.5, score=0.8),
        person(0.5, 0.1, 0.7, 0.5, score=0.7),
    ]
    image = photos.astronaut()
    assert [h["box"][0] for h in people(ready(weights), image, *boxes)] == [0.4, 0.3, 0.5]
    assert [h["box"][0] for h in people(ready(weights, max_people=2), image, *boxes)] == [0.4, 0.3]
    assert [h["score"] for h in people(ready(weights, min_score=0.4), image, *boxes)] == [0.8, 0.7, 0.7, 0.49]


def test_nobody_is_a_label_and_no_boxes_are_a_reject(weights: str) -> None:
    specialist = ready(weights)
    image = photos.astronaut()
    nobody, unasked = specialist([item(image), Item("k", image, None)])
    assert nobody == []
    assert isinstance(unasked, Reject) and "no boxes" in unasked.reason
    assert specialist([]) == []


def test_batches_and_repetition_do_not_matter(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    specialist = ready(weights)
    images = [photos.astronaut(), photos.coffee(), photos.chelsea()]
    boxes = [[person(0.1 * i, 0.1, 0.1 * i + 0.3, 0.8, score=0.9 - 0.1 * i) for i in range(n)] for n in (3, 0, 2)]
    batch = [item(image, *some) for image, some in zip(images, boxes, strict=True)]
    together = specialist(batch)
    assert [len(label) for label in together if isinstance(label, list)] == [3, 0, 2]
    monkeypatch.setattr("fourmill.pipelines.specialists.poses.human_poses._PEOPLE", 2)
    for label, alone in zip(together, (specialist([one])[0] for one in batch), strict=True):
        assert isinstance(label, list) and isinstance(alone, list)
        for human, other in zip(label, alone, strict=True):
            assert human["box"] == other["box"]
            for name in smpl.SIZES:
                np.testing.assert_allclose(human[name], other[name], atol=1e-4)


def test_a_crop_shows_the_square_around_the_box() -> None:
    """A bright square in the middle of the box, at the same place of the crop for every size and place of the box."""
    for width, height, side in ((800, 600, 64), (640, 960, 256), (3000, 2000, 1024)):
        beside = 0.5 * max(256 / side - 1, 0)  # 4D-Humans samples at corners
        image = np.zeros((height, width, 3), np.uint8)
        x, y = width // 2 + 10, height // 2 - 20
        image[y - side // 8 : y + side // 8, x - side // 16 : x + side // 16] = 255
        box = [(x - side / 4) / width, (y - side / 2) / height, (x + side / 4) / width, (y + side / 2) / height]
        crop = seen(image, box)[..., 0]
        rows, columns = np.flatnonzero(crop.max(1) > 127), np.flatnonzero(crop.max(0) > 127)
        assert (rows[0], rows[-1] + 1) == pytest.approx((96, 160), abs=1 + beside)
        assert (columns[0], columns[-1] + 1) == pytest.approx((80, 112), abs=1 + beside)


def test_a_box_wider_than_the_network_sees_decides_the_square() -> None:
    image = np.zeros((300, 600, 3), np.uint8)
    image[:, 200:400] = 255
    crop = seen(image, [200 / 600, 100 / 300, 400 / 600, 200 / 300])[..., 0]
    assert crop[128].min() > 250  # 200 pixels are the 192 columns
    wider = seen(image, [180 / 600, 100 / 300, 420 / 600, 200 / 300])[128, :, 0]
    assert (wider > 127).sum() == pytest.approx(192 * 200 / 240, abs=1)


def test_what_lies_outside_of_the_image_is_black() -> None:
    crop = seen(np.full((100, 100, 3), 200, np.uint8), [0, 0, 0.1, 0.4])[..., 0]
    np.testing.assert_allclose(crop[:, :50], 0, atol=1e-3)
    np.testing.assert_allclose(crop[10:246, 100:186], 200, atol=1e-3)


@pytest.mark.parametrize("shape", [(301, 200), (1001, 1501), (40, 33)])
def test_a_mirrored_image_gives_mirrored_crops(shape: tuple[int, int]) -> None:
    image = cv2.resize(photos.astronaut(), shape[::-1], interpolation=cv2.INTER_AREA)
    xmin, ymin, xmax, ymax = box = [0.21, 0.13, 0.55, 0.93]
    assert box
    crop = seen(image, box, "centres")
    mirrored = seen(np.ascontiguousarray(image[:, ::-1]), [1 - xmax, ymin, 1 - xmin, ymax], "centres")
    # OpenCV samples at multiples of 1/32 pixel, rounded in one direction.
    assert np.abs(crop[:, ::-1] - mirrored).mean() < 1


# Height and width of an image, and a box in it: squares of 53 to 846 px, two of them blurred, two across the border.
CROPS = [
    ((61, 47), (0.2, 0.1, 0.7, 0.9)),
    ((200, 150), (0.41, 0.3, 0.63, 0.55)),
    ((333, 501), (0.03, 0.2, 0.55, 0.97)),
    ((900, 700), (0.1, 0.05, 0.9, 0.99)),
    ((40, 200), (0.5, 0.1, 0.9, 0.8)),
]


@pytest.mark.parametrize("number", range(len(CROPS)))
def test_crops_are_those_of_4d_humans(number: int) -> None:
    """Recorded from its ViTDetDataset (6ec7965): small boxes and large ones, to the rounding of float32."""
    (height, width), box = CROPS[number]
    blocks = np.random.default_rng(height * width).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    image = np.ascontiguousarray(np.kron(blocks, np.ones((6, 6, 1), np.uint8))[:height, :width])
    expected = np.load(GOLDEN)[f"crop_{number}"]
    np.testing.assert_allclose(person_crop(image, box, 256, 192)[:, 3::32, 5::24], expected, atol=2e-5)
    beside = person_crop(image, box, 256, 192, "centres")[:, 3::32, 5::24]
    assert np.abs(beside - expected).mean() > 0.01


def test_labels_of_other_crops_are_recognized_and_out_of_date(weights: str) -> None:
    now, before = Hmr2(weights=weights), Hmr2(weights=weights, sampling="centres")
    assert "sampling" not in now.fingerprint_parts()["options"] and now.fingerprint_parts()["version"] == 1
    assert before.fingerprint_parts() != now.fingerprint_parts()
    (why,) = outdated([now.part()], {}, {})
    assert "4D-Humans samples them" in why


def test_large_people_do_not_alias() -> None:
    """Lines of one pixel, 16 of them to a pixel of the crop, are grey."""
    image = np.zeros((4096, 4096, 3), np.uint8)
    image[:, ::2] = 255
    crop = seen(image, [0.1, 0, 0.9, 1])[64:-64, 48:-48]
    assert np.abs(crop - 127.5).max() < 2


def test_the_published_checkpoint_is_read_without_its_code(weights: str, tmp_path: Path) -> None:
    path = tiny_hmr2.lightning(tmp_path / "epoch=35-step=1000000.ckpt")
    with pytest.raises(ValueError, match="allow_pickle: true"):
        ready(path)
    box = person(0.2, 0.1, 0.6, 0.9)
    (expected,) = people(ready(weights), photos.astronaut(), box)
    for source in (path, tmp_path):  # or the folder that holds it
        (found,) = people(ready(source, allow_pickle=True), photos.astronaut(), box)
        for name in smpl.SIZES:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


class Evil:
    """Copies a file when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: str) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def test_nothing_that_a_checkpoint_names_is_run(weights: str, tmp_path: Path) -> None:
    mark = tmp_path / "run"
    path = tiny_hmr2.lightning(tmp_path / "evil.ckpt", settings=Evil(shutil.copyfile, weights, str(mark)))
    assert "backbone.pos_embed" in checkpoint_tensors(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # it would have run
    tiny_hmr2.lightning(path, settings=Evil(os.system, "true"))
    with pytest.raises(ValueError, match="cannot be read as weights alone"):  # what torch refuses even to name
        checkpoint_tensors(path)


def test_a_checkpoint_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tiny_hmr2.lightning(tmp_path / "cut.ckpt")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        checkpoint_tensors(path)


def test_other_weights_are_refused(weights: str, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.safetensors"
    tiny_hmr2.save_file({"a": torch.zeros(2)}, stranger)
    with pytest.raises(ValueError, match=r"human_poses: .*stranger.* not the weights of HMR2"):
        ready(stranger)
    with pytest.raises(ValueError, match="backbone_heads"):
        Hmr2(weights=weights, backbone_heads=3).setup("cpu")


def test_what_is_not_finite_is_a_reject(tmp_path: Path) -> None:
    state = tiny_hmr2.tensors()
    state["smpl_head.deccam.bias"][0] = torch.inf
    tiny_hmr2.save_file(state, tmp_path / "broken.safetensors")
    specialist = ready(tmp_path / "broken.safetensors")
    broken, nobody = specialist([item(photos.astronaut(), person(0, 0, 1, 1)), item(photos.astronaut())])
    assert isinstance(broken, Reject) and "not finite" in broken.reason
    assert nobody == []


def test_lower_precision_is_near(weights: str) -> None:
    box = person(0.2, 0.1, 0.6, 0.9)
    (exact,), (rough,) = (people(ready(weights, precision=p), photos.astronaut(), box) for p in ("fp32", "bf16"))
    assert exact["camera"] != rough["camera"]
    np.testing.assert_allclose(exact["body_pose"], rough["body_pose"], atol=0.05)
    turns = smpl.rotations(rough)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3)), atol=1e-5)
