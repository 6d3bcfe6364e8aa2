"""SMPL bodies, their mirror images and cameras, and the sentences of human poses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fourmill.tokenize.crops import Crop, crops
from fourmill.tokenize.text import smpl
from fourmill.tokenize.text.pose_sentences import (
    MAX_HUMANS,
    body_poses,
    humans_in_crop,
    poses_to_chunks,
    text_to_poses,
)
from fourmill.tokenize.text.wordpiece import WordPiece

WIDTH, HEIGHT = 400, 300
WHOLE = Crop(50, 0, 300, 300)


def human(seed: int, box: list[float] | None = None) -> dict[str, Any]:
    """A person in any pose."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(24, rng=rng).as_matrix().reshape(-1)
    corners = np.sort(rng.random((2, 2)), axis=0).reshape(-1).tolist()
    return {
        "box": box or corners, "score": 0.9, "global_orient": turns[:9].tolist(), "body_pose": turns[9:].tolist(),
        "betas": rng.uniform(-3, 3, 10).tolist(), "camera": [*rng.uniform(0.3, 1.2, 1), *rng.uniform(-0.3, 0.3, 2)],
    }  # fmt: skip


def seen(one: dict[str, Any], width: float, height: float, point: np.ndarray) -> np.ndarray:
    """Where a camera shows a point (X, Y), in pixels."""
    x, y, side = smpl.person_square([c * edge for c, edge in zip(one["box"], (width, height) * 2, strict=True)])
    scale, tx, ty = one["camera"]
    return np.array([x, y]) + side / 2 * scale * (point + np.array([tx, ty]))


# Bodies


def test_the_tree_of_joints() -> None:
    assert len(smpl.JOINTS) == len(smpl.PARENTS) == 24
    assert all(parent < joint for joint, parent in enumerate(smpl.PARENTS))
    for joint, parent in enumerate(smpl.PARENTS):
        sides = {smpl.JOINTS[j].split("_")[0] for j in (joint, parent) if j >= 0} & {"left", "right"}
        assert len(sides) <= 1, "no bone joins left and right"


@given(st.integers(0, 1000))
def test_mirrored_twice_is_the_same(seed: int) -> None:
    one = human(seed)
    back = smpl.mirror(smpl.mirror(one))
    assert back.keys() == one.keys()
    for name in ("box", "global_orient", "body_pose", "betas", "camera"):
        assert np.allclose(back[name], one[name], atol=1e-12)


def test_a_mirrored_body_is_one_whose_other_side_moves() -> None:
    one = human(0)
    turns = smpl.rotations(one)
    mirrored = smpl.rotations(smpl.mirror(one))
    assert np.allclose(np.linalg.det(mirrored), 1) and np.allclose(mirrored @ mirrored.swapaxes(1, 2), np.eye(3))
    flip = np.diag([-1.0, 1, 1])
    left, right = smpl.JOINTS.index("left_elbow"), smpl.JOINTS.index("right_elbow")
    assert np.allclose(mirrored[left], flip @ turns[right] @ flip)
    assert np.allclose(mirrored[0], flip @ turns[0] @ flip)
    raised = Rotation.from_euler("z", 60, degrees=True)
    assert np.allclose(flip @ raised.as_matrix() @ flip, raised.inv().as_matrix())


def test_the_square_of_a_person() -> None:
    assert smpl.person_square([10, 20, 40, 120]) == (25, 70, 100)  # tall: its height
    assert smpl.person_square([0, 0, 90, 60]) == (45, 30, 120)  # wide: 3 : 4 around its width


def test_a_moved_camera_sees_every_point_in_the_same_pixel() -> None:
    one, point = human(1, [0.2, 0.1, 0.6, 0.9]), np.array([0.3, -0.7])
    other = [30.0, 40.0, 100.0, 90.0]
    squares = [smpl.person_square(box) for box in ([80.0, 30.0, 240.0, 270.0], other)]
    moved = {"box": other, "camera": smpl.move_camera(one["camera"], *squares)}
    assert np.allclose(seen(moved, 1, 1, point), seen(one, WIDTH, HEIGHT, point))
    assert smpl.move_camera([0.0, 1.0, 2.0], *squares) == [0.0, 1.0, 2.0]


# Crops


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.booleans())
def test_cameras_and_boxes_show_the_same_pixels_in_any_crop(seed: int, flip: bool) -> None:
    one, point = human(seed), np.array([0.2, -0.5])
    window = crops(seed, "k", WIDTH, HEIGHT, 2)[1]
    crop = Crop(window.left, window.top, window.width, window.height, flip)
    for shown in humans_in_crop([one], WIDTH, HEIGHT, crop):
        x, y = seen(one, WIDTH, HEIGHT, point) - [crop.left, crop.top]
        mirrored = seen(shown, crop.width, crop.height, point * [-1, 1]) if flip else None
        expected = [crop.width - x, y] if flip else [x, y]
        pixel = seen(shown, crop.width, crop.height, point) if mirrored is None else mirrored
        assert np.allclose(pixel, expected)
        assert all(0 <= c <= 1 for c in shown["box"])


def test_people_that_a_crop_holds_whole_keep_their_numbers() -> None:
    one = human(3, [0.3, 0.2, 0.5, 0.9])
    (shown,) = humans_in_crop([one], WIDTH, HEIGHT, WHOLE)
    assert np.allclose(shown["box"], [(120 - 50) / 300, 0.2, (200 - 50) / 300, 0.9])
    for name in ("global_orient", "body_pose", "betas", "camera"):
        assert np.allclose(shown[name], one[name])
    (mirrored,) = humans_in_crop([one], WIDTH, HEIGHT, Crop(50, 0, 300, 300, True))
    assert np.allclose(mirrored["box"], [1 - 150 / 300, 0.2, 1 - 70 / 300, 0.9])
    assert np.allclose(mirrored["body_pose"], smpl.mirror(one)["body_pose"])


def test_people_out_of_sight_and_more_than_seven_are_left_out() -> None:
    outside, inside = human(0, [0, 0, 0.1, 1]), human(1, [0.4, 0.4, 0.6, 0.6])
    assert len(humans_in_crop([outside, inside], WIDTH, HEIGHT, WHOLE)) == 1
    many = humans_in_crop([outside, *(inside | {"score": i} for i in range(9))], WIDTH, HEIGHT, WHOLE)
    assert [one["score"] for one in many] == list(range(MAX_HUMANS))
    poses = body_poses(many)
    assert poses.shape == (7, 207) and poses.dtype == np.float32 and np.allclose(poses[0], inside["body_pose"])
    assert body_poses([]).shape == (0, 207)


@pytest.mark.parametrize(("name", "value"), [("betas", [0.0] * 9), ("camera", [1, 0, float("nan")]), ("box", [0, 1])])
def test_broken_people_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="human_poses: got"):
        humans_in_crop([human(0) | {name: value}], WIDTH, HEIGHT, WHOLE)


# Sentences


def test_the_released_form_by_hand() -> None:
    one = {
        "box": [0, 0.5, 1, 0.25], "global_orient": [1, 0, 0, 0, -1, 0, 0, 0, 0.5], "betas": [-3, 0, 3, 9, *[0.5] * 6],
        "camera": [-1, 19, 0.9],
    }  # fmt: skip
    (chunk,) = poses_to_chunks([one], np.array([[0, 511, 512, 1023, 1, 2, 3, 4]]), 0, "k", 0)
    groups = {words.split()[0]: words for words in re.findall(r"[a-z]{3,}(?: v\d=\d+)+", chunk)}
    assert groups == {
        "human": "human v0=0 v1=500 v2=999 v3=250",
        "pose": "pose v0=0 v0=511 v1=0 v1=511 v0=1 v0=2 v0=3 v0=4",
        "global": "global v0=999 v0=500 v0=500 v0=500 v0=0 v0=500 v0=500 v0=500 v0=749",
        "camera": "camera v0=0 v0=999 v0=95",
        "shape": "shape v0=0 v0=500 v0=999 v0=999 v0=583 v0=583 v0=583 v0=583 v0=583 v0=583",
    }
    assert chunk.startswith("human") and len(chunk.split()) == 39


def test_nobody_is_none() -> None:
    assert poses_to_chunks([], np.zeros((0, 8)), 0, "k", 0) == ["none"]
    assert text_to_poses("none") == text_to_poses("") == []


def test_groups_are_shuffled_by_seed_key_crop_and_human() -> None:
    def orders(count: int, *args: Any) -> list[str]:
        chunks = poses_to_chunks([human(0)] * count, np.zeros((count, 8), int), *args)
        return [" ".join(re.findall(r"[a-z]{3,}", chunk)) for chunk in chunks]

    assert orders(3, 0, "k", 0) == orders(3, 0, "k", 0)
    assert len(set(orders(500, 0, "k", 0))) == 24, "all orders occur"
    assert len({tuple(orders(6, *args)) for args in ((0, "k", 0), (1, "k", 0), (0, "l", 0), (0, "k", 1))}) == 4


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    return WordPiece.fit(["a photo of a dog"], vocab_size=6000)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 9), st.integers(1, 263))
def test_whole_humans_fit_the_length_and_come_back(
    wordpiece: WordPiece, seed: int, count: int, max_tokens: int
) -> None:
    humans = humans_in_crop([human(seed + i) for i in range(count)], WIDTH, HEIGHT, Crop(0, 0, 300, 300, True))
    ids = np.random.default_rng(seed).integers(0, 1024, (len(humans), 8))
    chunks = poses_to_chunks(humans, ids, seed, "k", 1)
    tokens = wordpiece.encode_chunks(chunks, max_tokens)
    assert len(tokens) <= max_tokens
    back = text_to_poses(" ".join(chunks))
    whole = [i for i, one in enumerate(humans) if round(999 * one["box"][0]) < round(999 * one["box"][2])]
    whole = [i for i in whole if round(999 * humans[i]["box"][1]) < round(999 * humans[i]["box"][3])]
    # Those thinner than a bin of 1/999 are written, but cannot be read back.
    assert [one["tokens"] for one in back] == ids[whole].tolist()
    fit = [i for i in whole if i < (max_tokens - 1) // 39]
    assert [one["tokens"] for one in text_to_poses(wordpiece.decode(tokens))] == ids[fit].tolist()
    for one, i in zip(back, whole, strict=True):
        assert np.abs(np.subtract(one["box"], humans[i]["box"])).max() < 0.51 / 999
        assert np.abs(np.subtract(one["global_orient"], humans[i]["global_orient"])).max() < 0.51 / 499.5
        assert np.abs(np.subtract(one["betas"], humans[i]["betas"])).max() < 0.51 / 166.5
        clipped = np.clip(humans[i]["camera"], -1, 19)
        assert np.abs(np.subtract(one["camera"], clipped)).max() < 0.51 / 49.95
    again = poses_to_chunks(back, ids[whole], seed, "k", 1)
    assert sorted(" ".join(again).split()) == sorted(" ".join(chunks[i] for i in whole).split() or ["none"])


def test_six_humans_fit_into_the_published_length(wordpiece: WordPiece) -> None:
    chunks = poses_to_chunks([human(i) for i in range(7)], np.zeros((7, 8), int), 0, "k", 0)
    tokens = wordpiece.encode_chunks(chunks, 263)
    assert len(tokens) == 6 * 39 + 1 and tokens[-1] == wordpiece.eos_id


def test_broken_sentences_keep_what_is_whole() -> None:
    box = "human v0=0 v1=0 v2=999 v3=999"
    camera, pose = "camera v0=0 v0=100 v0=50", "pose" + " v0=7" * 8
    said = (
        f"{pose} {box} {camera} shape v0=1 {pose} human v0=9 v1=0 v2=1 v3=9 {camera} {box} global"
        f" {'v1=5 ' * 9} pose {'v1=511 ' * 8} {box} human v0=1"
    )
    first, second, third = text_to_poses(said, codes=1023)
    assert first.keys() == {"box", "camera", "tokens"} and first["tokens"] == [7] * 8
    assert np.allclose(first["camera"], [-1, 1, 0], atol=0.01)
    assert second == third == {"box": [0, 0, 1, 1]}
    assert text_to_poses(said)[1]["tokens"] == [1023] * 8


WORDS = st.sampled_from(["human", "pose", "global", "camera", "shape", "none", "v0=1", "v1=2", "v2=7", "v3=9", "v0=x"])


@settings(deadline=None)
@given(st.lists(WORDS, max_size=60).map(" ".join) | st.text())
def test_the_reader_never_raises(said: str) -> None:
    for one in text_to_poses(said):
        assert all(0 <= c <= 1 for c in one["box"])


@pytest.mark.parametrize("ids", [np.full((1, 8), 1024), np.full((1, 8), -1), np.zeros((1, 7), int), np.zeros((2, 8))])
def test_bad_ids_are_refused(ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        poses_to_chunks([human(0)], ids, 0, "k", 0)
