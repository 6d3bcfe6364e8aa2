"""Judges of boxes, of instance masks, and of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ....tokenize import masks
from ....tokenize.text import smpl
from ....tokenize.text.instance_sentences import GRID
from ...measures.detections import Found, average_precision
from ...measures.joints import mpjpe, pa_mpjpe
from ...measures.resample import Statistic
from . import truth
from .judges import summed
from .settings import Truth
from .truth import Frame

_SCALE = 1000.0  # of boxes, which pycocotools expects in pixels
_SAME = 0.5  # overlap from which two boxes of an ensemble are one


class _Found:
    """What boxes and masks have in common: both are measured as COCO measures them."""

    measures = ("ap", "ap50", "ap75")
    kind: Literal["bbox", "segm"]

    def __init__(self, given: Truth | None) -> None:
        self.given = given

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        known = [a is not None and b is not None for a, b in zip(answers, references, strict=True)]
        if not any(known):
            return None
        pairs = zip(answers, references, known, strict=True)
        said, there = zip(*((a, b) if both else ([], []) for a, b, both in pairs), strict=True)
        return average_precision(said, there, self.kind)


class Boxes(_Found):
    """Boxes with classes. A reference, and an answer, is a list of `Found`."""

    kind = "bbox"

    def of_truth(self, data: bytes, frame: Frame) -> list[Found]:
        assert self.given is not None
        return self.of_label(truth.boxes(truth.record(data, self.given.member), frame))

    def of_label(self, value: Any) -> list[Found]:
        # Scores are of generated sentences; boxes without them are all as sure.
        return [
            Found(one["label"], tuple(_SCALE * edge for edge in one["box"]), one.get("score", 1.0)) for one in value
        ]

    def as_label(self, reference: Sequence[Found]) -> Any:
        return [
            {"box": [edge / _SCALE for edge in one.where], "label": one.name, "score": one.score} for one in reference
        ]

    def constant(self, references: Iterable[Sequence[Found]]) -> list[Found]:
        """The most frequent set of classes, each box the mean of those of the samples that have this set."""
        rows = [sorted(found, key=lambda one: (one.name, one.where)) for found in references]
        most = Counter(tuple(one.name for one in row) for row in rows).most_common(1)[0][0]
        same = [row for row in rows if tuple(one.name for one in row) == most]
        means = np.array([[one.where for one in row] for row in same]).reshape(len(same), -1, 4).mean(0)
        return [Found(name, tuple(map(float, box))) for name, box in zip(most, means, strict=True)]

    def together(self, answers: Sequence[Sequence[Found]]) -> list[Found]:
        """Boxes of one class that overlap are one, their mean; its score is their mean, 0 in answers without it."""
        groups: list[list[Found]] = []
        for answer in answers:
            free = list(groups)
            for one in answer:
                overlaps = [_box_overlap(group, one) for group in free]
                if overlaps and max(overlaps) >= _SAME:
                    free.pop(int(np.argmax(overlaps))).append(one)
                else:
                    groups.append([one])
        means = [tuple(map(float, np.mean([one.where for one in group], 0))) for group in groups]
        scores = [sum(one.score for one in group) / len(answers) for group in groups]
        return [Found(g[0].name, box, score) for g, box, score in zip(groups, means, scores, strict=True)]


def _box_overlap(group: Sequence[Found], one: Found) -> float:
    """Of a box and the mean of a group; 0 for another class."""
    if group[0].name != one.name:
        return 0.0
    return box_iou(np.mean([other.where for other in group], 0), np.array(one.where))


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes xmin, ymin, xmax, ymax."""
    inner = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner
    return float(inner / union) if union else 0.0


class Instances(_Found):
    """Masks of things whose boxes are given, as 4M-21 is measured. A reference, and an answer, is a list of `Found`."""

    kind = "segm"

    def of_truth(self, data: bytes, frame: Frame) -> list[Found]:
        assert self.given is not None
        name = self.given.member
        if name.lower().endswith(".json"):
            return [Found("thing", mask) for mask in truth.masks(truth.record(data, name), GRID, frame)]
        return [Found("thing", mask) for mask in truth.instances(truth.shown(truth.array(data, name), frame), GRID)]

    def of_label(self, value: Any) -> list[Found]:
        return [Found("thing", masks.decode(one["mask"]) > 0) for one in value]

    def as_label(self, reference: Sequence[Found]) -> Any:
        return None  # masks are encoded box by box, see instances.py

    def of_frame(self, value: Any) -> list[Found]:
        """An answer of a label in the frame of the image: all of its masks, of which a sentence says some."""
        cropped = [truth.crop(masks.decode(one["mask"]), GRID) > 0 for one in value]
        return [Found("thing", mask) for mask in cropped if mask.any()]

    def constant(self, references: Iterable[Sequence[Found]]) -> np.ndarray:
        """The mean mask within a box, float64 (64, 64)."""
        total, count = np.zeros((64, 64)), 0
        for found in references:
            for one, (xmin, ymin, xmax, ymax) in zip(found, boxes_of(found), strict=True):
                inside = one.where[ymin:ymax, xmin:xmax]
                rows, columns = (((2 * np.arange(64) + 1) * side // 128) for side in inside.shape)
                total, count = total + inside[rows[:, None], columns], count + 1
        return total / max(count, 1)

    def together(self, answers: Sequence[Sequence[Found]]) -> list[Found]:
        """Of each box the pixels that more than half of the answers have."""
        return [
            Found("thing", 2 * np.sum([one.where for one in same], 0) > len(same))
            for same in zip(*answers, strict=True)
        ]


def boxes_of(found: Sequence[Found]) -> list[tuple[int, int, int, int]]:
    """The boxes of masks that are not empty, xmin, ymin, xmax, ymax; the last two are exclusive."""
    boxes = []
    for one in found:
        rows, columns = np.flatnonzero(one.where.any(1)), np.flatnonzero(one.where.any(0))
        boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return boxes


class People:
    """Joints of people in metres. A reference, and an answer, is a list of (box, joints (24, 3))."""

    measures = ("mpjpe_mm", "pa_mpjpe_mm", "found")

    def __init__(self, given: Truth | None) -> None:
        self.given = given

    def of_truth(self, data: bytes, frame: Frame) -> list[tuple[np.ndarray, np.ndarray]]:
        assert self.given is not None
        value = truth.record(data, self.given.member)
        try:
            joints = [np.array(one["joints"], np.float64).reshape(len(smpl.JOINTS), 3) for one in value]
            labelled = [{"box": one["box"], "label": str(number)} for number, one in enumerate(value)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.given.member}: {error}; expected a list of people, each with box and joints (24 x 3, metres)"
            ) from None
        return [(np.array(one["box"]), joints[int(one["label"])]) for one in truth.boxes(labelled, frame)]

    def of_label(self, value: Sequence[Mapping[str, Any]]) -> list[tuple[np.ndarray, np.ndarray]]:
        posed = [one for one in value if {"global_orient", "body_pose"} <= one.keys()]
        return [(np.array(one["box"]), smpl.posed(one)[0]) for one in posed]

    def as_label(self, reference: Any) -> Any:
        return None  # rotations do not follow from joints

    def constant(self, references: Iterable[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Any:
        """The mean of all joints, with the pelvis at the origin; for those that are there."""
        joints = [one - one[:1] for people in references for _, one in people]
        return [(None, np.mean(joints, 0))] if joints else []

    def together(self, answers: Sequence[Any]) -> Any:
        return None  # people of several answers are not matched

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        parts = []
        for answer, reference in zip(answers, references, strict=True):
            parts.append(None if answer is None or reference is None else _pose_errors(answer, reference))
        return summed(parts, _pose_measures)


def _pose_errors(answer: Sequence[Any], reference: Sequence[Any]) -> dict[str, np.ndarray]:
    """Each person that is there is compared with the one whose box overlaps most; without any overlap with nobody."""
    matched = []
    for box, joints in reference:
        overlaps = [1.0 if other is None else box_iou(other, box) for other, _ in answer]
        if overlaps and max(overlaps) > 0:
            matched.append((answer[int(np.argmax(overlaps))][1], joints))
    return {
        "mpjpe": np.array(sum(mpjpe(*pair) for pair in matched)),
        "pa": np.array(sum(pa_mpjpe(*pair) for pair in matched)),
        "matched": np.array(float(len(matched))),
        "people": np.array(float(len(reference))),
    }


def _pose_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mpjpe_mm": 1000 * total["mpjpe"] / total["matched"],
            "pa_mpjpe_mm": 1000 * total["pa"] / total["matched"],
            "found": total["matched"] / total["people"],
        }
