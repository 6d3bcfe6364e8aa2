"""Errors of reconstructions with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fourmill.modalities import LABELS
from fourmill.report.errors import error_of
from fourmill.tokenize import masks

RNG = np.random.default_rng(0)


def test_pictures() -> None:
    image = RNG.integers(0, 200, (8, 8, 3)).astype(np.uint8)
    assert error_of("rgb", image, image + 10) == ("PSNR, dB", pytest.approx(28.13, abs=0.01))
    assert error_of("rgb", image, image) == ("PSNR, dB", 100.0)
    edges = np.zeros((8, 8), np.uint8)
    edges[:, 3] = 255
    assert error_of("canny_edge", edges, np.roll(edges, 1, axis=1)) == ("IoU", 0.0)
    two = edges.copy()
    two[:, 4] = 200
    assert error_of("sam_edge", edges, two) == ("IoU", 0.5)
    assert error_of("sam_edge", edges * 0, edges * 0) == ("IoU", 1.0)


def test_classes_count_alike_and_unknown_pixels_do_not() -> None:
    truth = np.array([[0, 0, 0, 1], [0, 0, 0, 255]], np.uint8)
    found = np.array([[0, 0, 0, 0], [0, 0, 0, 2]], np.uint8)
    assert error_of("semseg", truth, found) == ("mIoU", pytest.approx((6 / 7 + 0) / 2))
    assert error_of("semseg", truth, truth) == ("mIoU", 1.0)
    assert error_of("semseg", np.full((2, 2), 255, np.uint8), found[:, :2]) is None


def test_depth_is_compared_after_scale_and_shift() -> None:
    depth = RNG.random((16, 16)).astype(np.float32)
    assert error_of("depth", depth, depth * 0.3 + 0.5) == ("relative error", pytest.approx(0, abs=1e-6))
    constant = error_of("depth", depth, np.ones((16, 16)))
    assert constant is not None and constant[1] == pytest.approx(0.25, abs=0.03)


def test_directions_and_vectors() -> None:
    normals = np.tile(np.array([0, 0, 1], np.float16), (4, 4, 1))
    tilted = np.tile(np.array([0, 0.5, np.sqrt(0.75)], np.float32), (4, 4, 1))
    assert error_of("normal", normals, tilted) == ("degrees", pytest.approx(30, abs=1e-3))
    assert error_of("normal", normals, normals) == ("degrees", 0.0)
    features = RNG.standard_normal((3, 4, 8)).astype(np.float16)
    assert error_of("clip", features, features * 2) == ("cosine", pytest.approx(1))
    assert error_of("dinov2_global", features[0, 0], -features[0, 0]) == ("cosine", pytest.approx(-1))
    assert error_of("dinov2", features, features[:2]) is None


def instance(columns: slice) -> dict[str, Any]:
    mask = np.zeros((10, 10), np.uint8)
    mask[:, columns] = 1
    return {"box": [0, 0, 1, 1], "mask": masks.encode(mask)}


def test_each_true_instance_is_compared_with_the_best() -> None:
    truth = [instance(slice(0, 4)), instance(slice(6, 10))]
    found = [instance(slice(6, 10)), instance(slice(0, 2))]
    assert error_of("sam_instance", truth, found) == ("IoU", 0.75)
    assert error_of("sam_instance", truth, []) is None
    other = {"box": [0, 0, 1, 1], "mask": masks.encode(np.ones((5, 5)))}
    assert error_of("sam_instance", truth, [other]) is None


def test_poses_by_their_joints() -> None:
    turn = Rotation.from_euler("y", 20, degrees=True).as_matrix()
    turns = Rotation.random(24, rng=RNG).as_matrix()
    truth, found = (
        {"global_orient": r[0].reshape(-1).tolist(), "body_pose": r[1:].reshape(-1).tolist()}
        for r in (turns, turns @ turn)
    )
    assert error_of("human_poses", [truth], [found]) == ("degrees", pytest.approx(20))
    assert error_of("human_poses", [truth], [{"box": [0, 0, 1, 1]}]) is None


@pytest.mark.parametrize("label", sorted(LABELS))
@pytest.mark.parametrize("pair", [(None, None), ([], []), ({}, {}), ("", ""), (np.zeros((0, 3)), None)])
def test_where_there_is_nothing_to_measure_there_is_no_error(label: str, pair: tuple[Any, Any]) -> None:
    if LABELS[label].form != "record" or not isinstance(pair[0], np.ndarray):
        assert error_of(label, *pair) is None
