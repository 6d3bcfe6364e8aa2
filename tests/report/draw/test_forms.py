"""Pictures of dense labels, features, instances and skeletons: what a person would see in them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fourmill.modalities import COCO_PANOPTIC_CLASSES
from fourmill.report.draw import labels as draw
from fourmill.report.draw import skeleton
from fourmill.tokenize import masks
from fourmill.tokenize.id_colors import id_colors
from fourmill.tokenize.text import smpl


def pixels(panel: draw.Panel) -> np.ndarray:
    assert isinstance(panel, draw.Picture)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",", 1)[1])))).astype(int)


def text_of(panel: draw.Panel) -> str:
    assert isinstance(panel, draw.Picture)
    return panel.alt


# Dense


def test_near_is_bright_in_depth_whatever_its_scale() -> None:
    depth = np.tile(np.linspace(0, 1, 64, dtype=np.float16), (64, 1))
    shown = pixels(draw.draw("depth", depth)).sum(-1)
    assert (np.diff(shown[32, ::8]) < 0).all()
    assert np.abs(pixels(draw.draw("depth", depth * 5 + 3)).sum(-1) - shown).mean() < 12
    assert isinstance(draw.draw("depth", np.full((4, 4), np.nan)), draw.TextPanel)


def test_normals_are_the_colours_of_the_field() -> None:
    for normal, color in (((0, 0, 1), (127, 127, 255)), ((1, 0, 0), (255, 127, 127)), ((0, 1, 0), (127, 255, 127))):
        flat = np.tile(np.array(normal, np.float16), (16, 16, 1))
        assert np.abs(pixels(draw.draw("normal", flat)) - color).max() < 8


def test_segments_have_one_colour_each_and_names_where_they_fit() -> None:
    sky, road, person = (COCO_PANOPTIC_CLASSES.index(name) for name in ("sky-other-merged", "road", "person"))
    classes = np.full((200, 320), sky, np.uint8)
    classes[100:] = road
    classes[10:14, 10:14] = person  # too small for a name
    classes[:, 310:] = 255
    shown = pixels(draw.draw("semseg", classes))
    for class_id, (y, x) in ((sky, (5, 150)), (road, (195, 20)), (person, (12, 12))):
        assert np.array_equal(shown[y, x], id_colors(np.array(class_id)))
    assert not shown[50, 315].any(), "no class, no image: black"
    plain = np.where(np.arange(200)[:, None, None] < 100, id_colors(np.array(sky)), id_colors(np.array(road)))
    written = np.abs(shown - plain).max(-1) > 30
    written[:20, :20] = False
    rows, columns = np.nonzero(written[:, :310])
    assert (rows < 100).any() and (rows > 100).any() and 100 < columns.mean() < 200, "both names in the middle"
    assert "3 classes: road 48%, sky 48%" in text_of(draw.draw("semseg", classes))


def test_segments_over_an_image_keep_it_visible() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, 160:] = 255
    classes = np.full((240, 320), 255, np.uint8)
    assert np.abs(pixels(draw.draw("semseg", classes, image)) - image).mean() < 1
    covered = pixels(draw.draw("semseg", np.zeros((30, 40), np.uint8), image))  # a map of another size
    assert (covered[:, 200:].mean() - covered[:, :120].mean()) > 80
    assert isinstance(draw.draw("semseg", np.zeros((4, 4))), draw.TextPanel), "floats are no classes"


def test_equal_features_have_equal_colours() -> None:
    rng = np.random.default_rng(0)
    grid = 0.01 * rng.standard_normal((14, 14, 32)).astype(np.float32)
    grid[:, :7] += rng.standard_normal(32)
    shown = pixels(draw.draw("clip", grid))
    assert np.abs(shown[:, :7, 0].mean() - shown[:, 7:, 0].mean()) > 150
    again = pixels(draw.draw("clip", grid[:, ::-1], like=grid))
    assert np.array_equal(again, shown[:, ::-1]), "the projection of the label"
    assert np.array_equal(pixels(draw.draw("clip", grid, like=grid)), shown)


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 1, 2), (3, 3, 1), (1, 5, 700)])
def test_features_of_few_cells_or_channels_can_be_drawn(shape: tuple[int, ...]) -> None:
    grid = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    assert pixels(draw.draw("dinov2", grid)).shape == (*shape[:2], 3)


def test_a_vector_is_a_strip_red_above_blue_below_zero() -> None:
    vector = np.concatenate([np.full(48, 2.0), np.full(48, -2.0), np.zeros(10)]).astype(np.float16)
    shown = pixels(draw.draw("dinov2_global", vector))
    assert shown.shape == (3, 48, 3)
    assert shown[0, 5, 0] > shown[0, 5, 2] and shown[1, 5, 0] < shown[1, 5, 2] and shown[2].min() > 240
    paler = pixels(draw.draw("dinov2_global", vector / 2, like=vector))
    assert paler[0, 5].sum() > shown[0, 5].sum() + 50
    assert pixels(draw.draw("imagebind_global", np.zeros(7, np.float16))).min() > 240


# Instances


def instance(left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    mask = np.zeros((160, 320), np.uint8)
    mask[top:bottom, left:right] = 1
    return {"box": [left / 320, top / 160, right / 320, bottom / 160], "mask": masks.encode(mask), "point": None}


def test_small_instances_lie_on_large_ones() -> None:
    image = np.full((160, 320, 3), 100, np.uint8)
    small, large = instance(80, 40, 100, 60), instance(10, 10, 310, 150)
    shown = pixels(draw.draw("sam_instance", [small, large], image))
    assert np.abs(shown[3, 3] - 100).max() < 10
    assert np.abs(shown[50, 90] - shown[50, 30]).max() > 20 < np.abs(shown[50, 30] - 100).max()
    alone = pixels(draw.draw("sam_instance", [large], image))
    assert np.abs(alone[50, 30] - shown[50, 30]).max() < 10
    assert "2 instances, 82% of the pixels" in text_of(draw.draw("sam_instance", [small, large], image))
    assert pixels(draw.draw("sam_instance", [small | {"point": [0.28, 0.3]}])).shape == (160, 320, 3)
    assert draw.draw("sam_instance", []) == draw.TextPanel("no instances", quiet=True)


def test_masks_of_another_size_than_the_image() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    shown = pixels(draw.draw("sam_instance", [instance(160, 0, 320, 160)], image))
    assert shown[:, :140].max() < 20 < shown[:, 180:].max()


# Skeletons


def standing() -> dict[str, Any]:
    """In a T-pose, facing the viewer, 1 m to each side of the origin in the person's square."""
    upright = Rotation.from_euler("x", 180, degrees=True).as_matrix().reshape(-1)
    return {
        "box": [0.25, 0.0, 0.75, 1.0], "score": 0.9, "global_orient": upright.tolist(), "betas": [0.0] * 10,
        "body_pose": np.tile(np.eye(3).reshape(-1), 23).tolist(), "camera": [0.9, 0.0, 0.3],
    }  # fmt: skip


def joint(points: np.ndarray, name: str) -> np.ndarray:
    return points[smpl.JOINTS.index(name)]


def test_a_person_that_stands_facing_us() -> None:
    points = skeleton.project(standing(), 200, 200)
    assert joint(points, "head")[1] < joint(points, "pelvis")[1] < joint(points, "left_ankle")[1]
    assert joint(points, "left_hand")[0] > 150 and joint(points, "right_hand")[0] < 50, "their left is our right"
    assert abs(joint(points, "left_hand")[1] - joint(points, "right_hand")[1]) < 1e-6
    assert np.allclose(joint(points, "pelvis")[0], 100)
    height = joint(points, "left_ankle")[1] - points[-1][1]
    assert height / (200 / 2 * 0.9) == pytest.approx(1.67, abs=0.05), "metres from crown to ankle"


def test_bones_keep_their_lengths_in_any_pose() -> None:
    human = standing()
    rng = np.random.default_rng(0)
    human["body_pose"] = Rotation.random(23, rng=rng).as_matrix().reshape(-1).tolist()
    for one in (human, smpl.mirror(human)):
        joints = skeleton.pose(one)
        for child, parent in enumerate(smpl.PARENTS[1:], 1):
            length = np.linalg.norm(joints[child] - joints[parent])
            assert length == pytest.approx(np.linalg.norm(smpl.REST[child] - smpl.REST[parent]))


def test_a_bent_elbow_moves_the_hand_and_no_other_limb() -> None:
    human, rest = standing(), skeleton.pose(standing())
    turns = np.tile(np.eye(3), (23, 1, 1))
    turns[smpl.JOINTS.index("left_elbow") - 1] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    bent = skeleton.pose(human | {"body_pose": turns.reshape(-1).tolist()})
    moved = {smpl.JOINTS[i] for i in range(24) if not np.allclose(bent[i], rest[i])}
    assert moved == {"left_wrist", "left_hand"}
    assert joint(bent, "left_hand")[1] < joint(rest, "left_hand")[1] - 0.2, "the hand points up (y is down)"


def test_a_mirrored_label_is_the_mirrored_skeleton() -> None:
    rng = np.random.default_rng(1)
    human = standing() | {"body_pose": Rotation.random(23, rng=rng).as_matrix().reshape(-1).tolist()}
    human["camera"] = [0.8, 0.1, 0.2]
    points, mirrored = (skeleton.project(one, 300, 200) for one in (human, smpl.mirror(human)))
    order = [smpl.JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
             for name in smpl.JOINTS]  # fmt: skip
    assert np.allclose(mirrored[:24][order] * [-1, 1] + [300, 0], points[:24])


def test_skeletons_have_sides_and_broken_people_are_boxes() -> None:
    image = np.full((320, 320, 3), 90, np.uint8)
    shown = pixels(draw.draw("human_poses", [standing()], image))
    orange, blue = shown[..., 0] > shown[..., 2] + 80, shown[..., 2] > shown[..., 0] + 80
    assert np.nonzero(orange)[1].mean() > 168 and np.nonzero(blue)[1].mean() < 152
    boxed = pixels(draw.draw("human_poses", [{"box": [0.1, 0.1, 0.9, 0.9]}], image))
    assert boxed.std() > 0 and np.abs(boxed[..., 0] - boxed[..., 2]).max() < 20
    assert draw.draw("human_poses", []) == draw.TextPanel("nobody", quiet=True)
    assert pixels(draw.draw("human_poses", [standing()])).any()
    far = standing() | {"camera": [1e6, 1e6, -1e6]}
    assert isinstance(draw.draw("human_poses", [far], image), draw.Picture)


def test_rotations_of_a_tokenizer_need_not_be_exact() -> None:
    human = standing()
    noisy = human | {"body_pose": (np.array(human["body_pose"]) * 0.7 + 0.01).tolist()}
    assert np.abs(skeleton.pose(noisy) - skeleton.pose(human)).max() < 0.1
    turned = smpl.nearest(np.random.default_rng(0).standard_normal((50, 3, 3)))
    assert np.allclose(np.linalg.det(turned), 1) and np.allclose(turned @ turned.swapaxes(1, 2), np.eye(3))
