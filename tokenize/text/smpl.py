"""SMPL bodies as HMR2 gives them (4D-Humans): joints, the camera of a person's square, mirror images.

A body is 24 rotations, each relative to its parent joint, in the frame x right, y down, z away from the viewer (the
rotation of the pelvis, `global_orient`, turns SMPL's upright body into it). The camera [s, tx, ty] is weak-perspective:
a point (X, Y, Z) in metres from SMPL's origin is seen at s (X + tx), s (Y + ty), in [-1, 1] over the person's square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

JOINTS: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS: tuple[int, ...] = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
BODY_JOINTS = len(JOINTS) - 1
SIZES = {"global_orient": 9, "body_pose": 9 * BODY_JOINTS, "betas": 10, "camera": 3}  # numbers of a human

_SIDES = {"left": "right", "right": "left"}
_MIRRORED = [
    JOINTS.index("_".join([_SIDES.get(name.split("_")[0], name.split("_")[0]), *name.split("_")[1:]]))
    for name in JOINTS
]
# Mirroring the x axis, M R M with M = diag(-1, 1, 1), changes the sign of what mixes x with y or z.
_SIGNS = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float64)

_ASPECT = 256 / 192  # height to width of what HMR2's backbone sees


def person_square(box: Sequence[float]) -> tuple[float, float, float]:
    """Centre (x, y) and side of the square that HMR2 looks at: around the box, grown to an aspect of 192 : 256.

    Args:
        box: xmin, ymin, xmax, ymax in pixels.
    """
    xmin, ymin, xmax, ymax = box
    return (xmin + xmax) / 2, (ymin + ymax) / 2, max((xmax - xmin) * _ASPECT, ymax - ymin)


def move_camera(
    camera: Sequence[float], square: tuple[float, float, float], other: tuple[float, float, float]
) -> list[float]:
    """The camera of one square that sees every point in the same pixel as `camera` does in another."""
    scale, tx, ty = (float(c) for c in camera)
    pixels = scale * square[2] / 2  # of a metre
    if pixels == 0 or other[2] == 0:  # sees everything in one pixel, or nothing
        return [scale, tx, ty]
    shift = ((square[axis] - other[axis]) / pixels for axis in (0, 1))
    return [scale * square[2] / other[2], tx + next(shift), ty + next(shift)]


def rotations(human: Mapping[str, Any]) -> np.ndarray:
    """Rotations of a human's 24 joints, each relative to its parent, float64 (24, 3, 3)."""
    return np.concatenate([human["global_orient"], human["body_pose"]]).astype(np.float64).reshape(-1, 3, 3)


def nearest(matrices: np.ndarray) -> np.ndarray:
    """The rotations nearest to matrices (n, 3, 3), such as a tokenizer gives back."""
    u, _, v = np.linalg.svd(matrices)
    u[..., 2] *= np.linalg.det(u @ v)[:, None]
    return u @ v


def mirror(human: Mapping[str, Any]) -> dict[str, Any]:
    """The human that a mirrored image shows: box, camera and rotations mirrored, left and right joints exchanged."""
    turned = (rotations(human) * _SIGNS)[_MIRRORED].reshape(-1)
    xmin, ymin, xmax, ymax = human["box"]
    scale, tx, ty = human["camera"]
    return {
        **human,
        "box": [1 - xmax, ymin, 1 - xmin, ymax],
        "global_orient": turned[:9].tolist(),
        "body_pose": turned[9:].tolist(),
        "camera": [scale, -tx, ty],
    }


# Joints of a person of 1.7 m in a T-pose, metres from the pelvis: x to the person's left, y up, z to the front. The
# right side mirrors the left. SMPL's origin is not the pelvis but some 0.2 m from it, in the chest of the rest pose.
_PELVIS = np.array([0.0, -0.22, 0.03])
_CENTRE = {
    "pelvis": (0.0, 0.0, 0.0), "spine1": (0.0, 0.11, -0.02), "spine2": (0.0, 0.25, -0.01), "spine3": (0.0, 0.31, 0.0),
    "neck": (0.0, 0.52, -0.03), "head": (0.0, 0.6, 0.01),
}  # fmt: skip
_LEFT = {
    "hip": (0.08, -0.09, 0.0), "knee": (0.1, -0.47, 0.0), "ankle": (0.09, -0.87, -0.04), "foot": (0.12, -0.93, 0.09),
    "collar": (0.07, 0.43, -0.02), "shoulder": (0.18, 0.45, -0.03), "elbow": (0.43, 0.44, -0.05),
    "wrist": (0.69, 0.44, -0.05), "hand": (0.77, 0.43, -0.06),
}  # fmt: skip


def _rest(joint: str) -> tuple[float, float, float]:
    side, _, part = joint.partition("_")
    if side not in ("left", "right"):
        return _CENTRE[joint]
    x, y, z = _LEFT[part]
    return (x if side == "left" else -x, y, z)


REST = np.array([_rest(joint) for joint in JOINTS])


def posed(human: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Joints of a human, float64 (24, 3) in metres, and their rotations, (24, 3, 3), in the camera's frame: x right,
    y down, z away.

    Of the rest skeleton above, posed by the label's rotations: angles are the label's, lengths of bones are not, and
    shapes (betas) do not count. Rotations that a tokenizer gave back are brought to the nearest ones first.
    """
    local = nearest(rotations(human))
    turned, joints = [local[0]], [_PELVIS]
    for joint in range(1, len(REST)):
        parent = PARENTS[joint]
        joints.append(joints[parent] + turned[parent] @ (REST[joint] - REST[parent]))
        turned.append(turned[parent] @ local[joint])
    return np.array(joints), np.array(turned)
