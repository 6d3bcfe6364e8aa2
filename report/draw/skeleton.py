"""Skeletons of SMPL bodies over the image.

SMPL's model files may not be shipped, so a rest skeleton of our own, of common human proportions, is posed by the
label's rotations: angles are the label's, lengths of bones are not. Shapes (betas) are not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...tokenize.text import smpl
from .panels import Panel, TextPanel, backdrop, picture, scaled

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
_CROWN = np.array([0.0, 0.2, 0.03])  # top of the head, from its joint


def _rest(joint: str) -> tuple[float, float, float]:
    side, _, part = joint.partition("_")
    if side not in ("left", "right"):
        return _CENTRE[joint]
    x, y, z = _LEFT[part]
    return (x if side == "left" else -x, y, z)


REST = np.array([_rest(joint) for joint in smpl.JOINTS])
_COLORS = {"left": (255, 140, 60), "right": (70, 150, 255)}  # of the person, not of the viewer
_MIDDLE = (240, 240, 240)


def pose(human: Mapping[str, Any]) -> np.ndarray:
    """Joints of a human and the top of the head, float64 (25, 3), in the camera's frame: x right, y down, z away.

    Rotations that a tokenizer gave back are brought to the nearest ones first.
    """
    local = smpl.nearest(smpl.rotations(human))
    turned, joints = [local[0]], [_PELVIS]
    for joint in range(1, len(REST)):
        parent = smpl.PARENTS[joint]
        joints.append(joints[parent] + turned[parent] @ (REST[joint] - REST[parent]))
        turned.append(turned[parent] @ local[joint])
    head = smpl.JOINTS.index("head")
    return np.array([*joints, joints[head] + turned[head] @ _CROWN])


def project(human: Mapping[str, Any], width: int, height: int) -> np.ndarray:
    """`pose` in pixels of a picture, float64 (25, 2), by the weak-perspective camera of the person's square."""
    x, y, side = smpl.person_square([c * edge for c, edge in zip(human["box"], (width, height) * 2, strict=True)])
    scale, tx, ty = human["camera"]
    return np.array([x, y]) + side / 2 * scale * (pose(human)[:, :2] + np.array([tx, ty]))


def draw_skeletons(humans: Sequence[Mapping[str, Any]], image: np.ndarray | None, *, size: int = 320) -> Panel:
    """Skeletons of humans in the form of the label `human_poses`, over the image; the left side orange, the right blue.

    Of a human that misses its pose or camera (a broken sentence) the box is drawn alone.
    """
    if not humans:
        return TextPanel("nobody", quiet=True)
    height, width = scaled(image.shape[:2] if image is not None else (size, size), size)
    canvas = Image.fromarray(backdrop(image, height, width) // 2 + (32 if image is not None else 0))
    for human in reversed(humans):  # the surest on top
        _draw_human(ImageDraw.Draw(canvas), human, width, height)
    count = "1 person" if len(humans) == 1 else f"{len(humans)} people"
    return picture(np.asarray(canvas), f"{count}, as skeletons", size=size)


def _draw_human(draw: ImageDraw.ImageDraw, human: Mapping[str, Any], width: int, height: int) -> None:
    xmin, ymin, xmax, ymax = (c * (edge - 1) for c, edge in zip(human["box"], (width, height) * 2, strict=True))
    draw.rectangle((xmin, ymin, xmax, ymax), outline=(140, 140, 140))
    if not {"global_orient", "body_pose", "camera"} <= human.keys():
        return
    # A tokenizer may give back a camera that puts a person far outside: Pillow overflows on such numbers.
    points = np.clip(project(human, width, height), -4 * max(width, height), 5 * max(width, height))
    line = max(2, round((ymax - ymin) / 60))
    bones = [(joint, parent) for joint, parent in enumerate(smpl.PARENTS) if parent >= 0]
    for joint, parent in [*bones, (len(smpl.PARENTS), smpl.JOINTS.index("head"))]:
        side = smpl.JOINTS[joint].split("_")[0] if joint < len(smpl.JOINTS) else ""
        draw.line([*map(tuple, points[[parent, joint]].tolist())], fill=_COLORS.get(side, _MIDDLE), width=line)
    for x, y in points[:-1].tolist():
        draw.ellipse((x - line, y - line, x + line, y + line), fill=(20, 20, 20), outline=_MIDDLE)
