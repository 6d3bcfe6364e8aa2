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

_CROWN = np.array([0.0, 0.2, 0.03])  # top of the head, from its joint


_COLORS = {"left": (255, 140, 60), "right": (70, 150, 255)}  # of the person, not of the viewer
_MIDDLE = (240, 240, 240)


def pose(human: Mapping[str, Any]) -> np.ndarray:
    """Joints of a human and the top of the head, float64 (25, 3), see `smpl.posed`."""
    joints, turned = smpl.posed(human)
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
