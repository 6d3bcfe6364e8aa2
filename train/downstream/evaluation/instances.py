"""Masks of things whose boxes are given, as 4M-21 measures them: the sentence of an instance begins with its true box,
and the model goes on with the ids of its mask.

A sentence of instances says a point and what holds it; the point that is given is the middle of the box, since a point
inside of the true mask would say something of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ....tokenize.text.instance_sentences import GRID, MASK_SIZE, MASK_TOKENS, paste_masks, text_to_instances
from ....tokenize.text_codecs import Instances as Codec
from ...measures.detections import Found
from .records import box_iou, boxes_of

Box = tuple[int, int, int, int]


class GivenBoxes:
    """The true boxes of some samples, on the grid of sentences, and answers that fill them.

    Args:
        references: of the judge `Instances`; None where there is no truth.
    """

    def __init__(self, codec: Codec, references: Sequence[Sequence[Found] | None]) -> None:
        self.codec, self.references = codec, references
        self.boxes = [boxes_of(found or ()) for found in references]

    @property
    def begun(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The ids that the sentence of each instance begins with."""
        return tuple(tuple(tuple(self._encode(_begin(box))) for box in boxes) for boxes in self.boxes)

    def answers(self, tokens: Sequence[np.ndarray]) -> list[list[Found] | None]:
        """Masks of the ids that the model went on with, one for each box of each sample in turn."""
        flat = [box for boxes in self.boxes for box in boxes]
        parsed = [self._parsed(box, ids) for box, ids in zip(flat, tokens, strict=True)]
        there = [i for i, ids in enumerate(parsed) if ids is not None]
        decoded = self._decode([parsed[i] for i in there]) if there else np.zeros((0, MASK_SIZE, MASK_SIZE))
        masks = [np.zeros((GRID, GRID), bool) for _ in flat]  # nothing, where the sentence is broken
        for i, mask in zip(there, decoded, strict=True):
            masks[i] = _paste(flat[i], mask)
        return self._by_sample(masks)

    def filled(self, mask: np.ndarray) -> list[list[Found] | None]:
        """Every box filled with the same mask, shares (n, n) of a box."""
        return self._by_sample([_paste(box, mask) for boxes in self.boxes for box in boxes])

    def matched(self, answers: Sequence[Sequence[Found] | None]) -> list[list[Found] | None]:
        """Of masks that were found without boxes the one whose box fits each true box best; nothing if none does."""
        masks = []
        for boxes, found in zip(self.boxes, answers, strict=True):
            others = [one for one in found or () if one.where.any()]
            places = [np.array(box) for box in boxes_of(others)]
            for box in boxes:
                overlaps = [box_iou(np.array(box), place) for place in places]
                good = bool(overlaps) and max(overlaps) > 0
                masks.append(others[int(np.argmax(overlaps))].where if good else np.zeros((GRID, GRID), bool))
        return self._by_sample(masks)

    def coded(self) -> list[list[Found] | None]:
        """The true masks, encoded and decoded."""
        inside = []
        for found, boxes in zip(self.references, self.boxes, strict=True):
            for one, (xmin, ymin, xmax, ymax) in zip(found or (), boxes, strict=True):
                mask = one.where[ymin:ymax, xmin:xmax].astype(np.float32)
                inside.append(cv2.resize(mask, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_LINEAR) >= 0.5)
        if not inside:
            return self._by_sample([])
        decoded = self._decode(list(self.codec.tokenizer.encode(np.stack(inside).astype(np.uint8))))
        flat = [box for boxes in self.boxes for box in boxes]
        return self._by_sample([_paste(box, mask) for box, mask in zip(flat, decoded, strict=True)])

    def _by_sample(self, masks: Sequence[np.ndarray]) -> list[list[Found] | None]:
        rest = iter(masks)
        return [
            None if found is None else [Found("thing", next(rest)) for _ in boxes]
            for found, boxes in zip(self.references, self.boxes, strict=True)
        ]

    def _encode(self, text: str) -> list[int]:
        return [int(one) for one in self.codec.wordpiece.encode(text, self.codec.spec.max_tokens)[:-1]]

    def _parsed(self, box: Box, ids: np.ndarray) -> np.ndarray | None:
        """The ids of a mask; None if they are not as many as a mask has."""
        text = f"{_begin(box)} {self.codec.wordpiece.decode(ids)}"
        found = text_to_instances(text, self.codec.tokenizer.model.config.codebook_size)
        return np.array(found[0]["tokens"]) if found else None

    def _decode(self, ids: Sequence[Any]) -> np.ndarray:
        return self.codec.tokenizer.decode(np.stack(ids), side=round(MASK_TOKENS**0.5))


def _begin(box: Box) -> str:
    xmin, ymin, xmax, ymax = box
    x, y = (xmin + xmax) // 2, (ymin + ymax) // 2
    return f"point v0={y} v1={x} polygon v0={xmin} v1={ymin} v2={xmax} v3={ymax}"


def _paste(box: Box, mask: np.ndarray) -> np.ndarray:
    """A mask within its box, bool (224, 224)."""
    from ....tokenize import masks

    (pasted,) = paste_masks([{"box": [edge / GRID for edge in box], "point": None}], mask[None])
    return masks.decode(pasted["mask"]) > 0
