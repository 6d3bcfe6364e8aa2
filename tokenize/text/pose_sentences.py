"""Sentences of human poses: SMPL bodies as text and back, in the form of 4M-21 as released.

Each human is `human v0=xmin v1=ymin v2=xmax v3=ymax` and four groups in random order: `pose` and the 8 ids of the body
pose's tokenizer, `global` and 9 numbers, `camera` and 3, `shape` and 10; 39 words. Nobody is `none`.

Decisions:
- Of a human that the crop cuts, the box is cut and the camera becomes that of the cut box's square, so that box and
  camera of a sentence always show the person where it is. (The released code cuts the box and keeps the camera of the
  whole one; they agree for people that the crop holds whole.)
- A mirrored crop shows mirrored people (the released code leaves them as they are).
- Numbers outside of their range count as its ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..crops import Crop, hashed_uniforms
from . import smpl
from .sentences import COORDINATE_BINS, NUMBER, box_in_crop, id_rows, split_id

MAX_HUMANS = 7
POSE_TOKENS = 8
CODES = 1024
NOBODY = "none"


@dataclass(frozen=True)
class _Group:
    """Numbers x of a human that are written as the words v0=round(scale x + offset)."""

    word: str
    field: str
    scale: float
    offset: float

    def write(self, values: Sequence[float]) -> str:
        # rint rounds halves to even, as the released code does.
        bins = np.clip(np.rint(self.scale * np.asarray(values, np.float64) + self.offset), 0, COORDINATE_BINS - 1)
        return " ".join([self.word, *(f"v0={value:.0f}" for value in bins)])

    def read(self, words: Sequence[tuple[str, str]]) -> list[float] | None:
        if any(axis != "0" for axis, _ in words):  # ids of a pose have v1 too, numbers never
            return None
        return [(int(number) - self.offset) / self.scale for _, number in words]


# Rotations lie in [-1, 1], cameras in [-1, 19], shapes in [-3, 3].
_GROUPS = (
    _Group("global", "global_orient", 499.5, 499.5),
    _Group("camera", "camera", 49.95, 49.95),
    _Group("shape", "betas", 166.5, 499.5),
)
_POSE = "pose"
_HUMAN = re.compile(r"(?<!\S)human(?!\S)")
_BOX = re.compile(rf"\s+v0={NUMBER}\s+v1={NUMBER}\s+v2={NUMBER}\s+v3={NUMBER}(?!\S)", re.ASCII)
_WORD = re.compile(rf"v([01])={NUMBER}", re.ASCII)


def humans_in_crop(
    humans: Sequence[Mapping[str, Any]], width: int, height: int, crop: Crop, max_humans: int = MAX_HUMANS
) -> list[dict[str, Any]]:
    """The first `max_humans` people of a label that a crop shows, in the frame of the crop, in the label's order.

    Args:
        humans: {"box": [xmin, ymin, xmax, ymax] relative to the source image, "global_orient": 9 numbers, "body_pose":
            207, "betas": 10, "camera": [s, tx, ty] of the box's square, "score"}; rotations are row-major.
        width, height: of the source image, in pixels.
        crop: the window of the source image.

    Raises:
        ValueError: a number is not finite, or there are too many or too few.
    """
    people: list[dict[str, Any]] = []
    for human in humans:
        _check(human)  # those out of sight too: a broken label is a reject, whichever crop is looked at
        # The camera is moved in the unmirrored image; person and camera are mirrored together afterwards.
        upright = box_in_crop(human["box"], width, height, replace(crop, flip=False), "human_poses")
        if upright is None or len(people) == max_humans:
            continue
        whole = [c * side for c, side in zip(human["box"], (width, height) * 2, strict=True)]
        seen = [c * side + start for c, side, start in zip(upright, (crop.width, crop.height) * 2,
                                                           (crop.left, crop.top) * 2, strict=True)]  # fmt: skip
        camera = smpl.move_camera(human["camera"], smpl.person_square(whole), smpl.person_square(seen))
        shown = {**human, "box": list(upright), "camera": camera}
        people.append(smpl.mirror(shown) if crop.flip else shown)
    return people


def _check(human: Mapping[str, Any]) -> None:
    for name, size in smpl.SIZES.items():
        values = np.asarray(human[name], np.float64)
        if values.shape != (size,) or not np.isfinite(values).all():
            raise ValueError(f"human_poses: got {name} of shape {values.shape}; expected {size} finite numbers")


def body_poses(humans: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What the tokenizer of body poses encodes: float32 (n, 207), 23 rotations of 3 x 3, row-major."""
    poses = [human["body_pose"] for human in humans]
    return np.array(poses, np.float32).reshape(len(poses), smpl.SIZES["body_pose"])


def poses_to_chunks(humans: Sequence[Mapping[str, Any]], ids: np.ndarray, seed: int, key: str, index: int) -> list[str]:
    """The sentence of `humans_in_crop`, a chunk for each human; `WordPiece.encode_chunks` then keeps humans whole.

    Args:
        ids: integers (n, 8), the body poses' tokens, below 1024.
        seed, key, index: of the dataset, the sample and the crop, on which the order of the groups depends.
    """
    tokens = id_rows("human_poses", ids, len(humans), POSE_TOKENS)
    chunks = []
    for i, (human, pose) in enumerate(zip(humans, tokens, strict=True)):
        corners = (f"v{axis}={round(c * (COORDINATE_BINS - 1))}" for axis, c in enumerate(human["box"]))
        groups = [" ".join([_POSE, *map(split_id, pose)]), *(group.write(human[group.field]) for group in _GROUPS)]
        # Groups are shuffled as in 4M; a hash and not a generator, so that a sentence never changes.
        draws = hashed_uniforms(len(groups), "poses", seed, key, index, i)
        chunks.append(" ".join(["human", *corners, *(groups[g] for g in np.argsort(draws))]))
    return chunks or [NOBODY]


def text_to_poses(text: str, codes: int = CODES) -> list[dict[str, Any]]:
    """The humans of a sentence, in the frame of the crop.

    Args:
        codes: size of the tokenizer's codebook; poses with a larger id are left out.

    Returns:
        For each human whose box is whole {"box": [xmin, ymin, xmax, ymax] in [0, 1]} and, of the groups that are whole,
        "tokens" (8 ids), "global_orient", "camera", "betas". Of a group that is said twice the first counts.
    """
    humans: list[dict[str, Any]] = []
    for part in _HUMAN.split(text)[1:]:
        match = _BOX.match(part)
        if match is None:
            continue
        # A person thinner than a bin has equal corners, and cannot be read back.
        box = [int(number) / (COORDINATE_BINS - 1) for number in match.groups()]
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        human: dict[str, Any] = {"box": box}
        words = part[match.end() :].split()
        if (pose := _after(words, _POSE, POSE_TOKENS)) is not None:
            ids = [512 * int(axis) + int(number) for axis, number in pose]
            human |= {"tokens": ids} if max(ids) < codes else {}
        for group in _GROUPS:
            numbers = _after(words, group.word, smpl.SIZES[group.field])
            values = None if numbers is None else group.read(numbers)
            human |= {} if values is None else {group.field: values}
        humans.append(human)
    return humans


def _after(words: Sequence[str], name: str, count: int) -> list[tuple[str, str]] | None:
    """(axis, number) of the `count` words after the first `name`; None if they are fewer or others."""
    if name not in words:
        return None
    start = words.index(name) + 1
    matches = [_WORD.fullmatch(word) for word in words[start : start + count]]
    numbers = [(match[1], match[2]) for match in matches if match is not None]
    return numbers if len(numbers) == count else None
